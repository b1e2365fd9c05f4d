"""What a user's environment gets wrong, in words."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxrl.core.spaces as spaces
from jaxrl.core import Box, Environment, Key, PyTree, TimeStep
from jaxrl.core.arguments import check_parts
from jaxrl.core.protocols import draw_action, has_legal, legal_actions
from jaxrl.core.types import select

_EXAMPLE = 'jaxrl.envs.make("CartPole")'


def check(env: Environment, key: Key | None = None, num_steps: int = 100) -> None:
    """Play `num_steps` random steps of an environment and look for what breaks training.

    Looked at are the spaces; that `reset` and `step` return what the protocol says, with types and
    shapes that a loop can carry; that observations lie in their space and rewards are finite; that
    an episode ends in one way at a time; and that `step` does not reset. An environment that makes
    no use of its keys is warned of.

    Args:
        env: of the protocol `jaxrl.core.protocols.Environment`.
        key: of the steps; by default that of 0.
        num_steps: played by uniform actions, from a new episode wherever one ended.

    Raises:
        ValueError: a list of what is wrong, a sentence for each.

    Example:
        >>> from jaxrl.envs import make
        >>> check(make("Pendulum"), num_steps=20)
    """
    check_parts("env", env, ("reset", "step"), _EXAMPLE)
    key = jax.random.key(0) if key is None else key
    if wrong := _spaces(env) or structure(env) or _play(env, key, num_steps):
        name = type(env).__name__
        raise ValueError(f"{name} cannot be trained in:\n" + "\n".join(f"  - {w}" for w in wrong))


@contextlib.contextmanager
def explained(env: Environment) -> Iterator[None]:
    """Where tracing a loop fails, and the environment's types are why, say so instead."""
    try:
        yield
    except (TypeError, ValueError, AttributeError) as error:
        if wrong := structure(env):
            name = type(env).__name__
            raise ValueError(f"{name} cannot be trained in: {wrong[0]}") from error
        raise


def structure(env: Environment) -> list[str]:
    """What is wrong with the types and shapes that `reset` and `step` give, nothing computed."""
    key, call = jax.random.key(0), "reset(key)"
    try:
        reset = jax.eval_shape(env.reset, key)
        if not (isinstance(reset, tuple) and len(reset) == 2):
            return [f"{call} must return (state, observation), not a {type(reset).__name__}."]
        (state, observation), call = reset, "step(key, state, action)"
        action = jax.eval_shape(lambda key: spaces.sample(key, env.action_space), key)
        stepped = jax.eval_shape(env.step, key, state, action)
        mask, call = jax.eval_shape(lambda state: legal_actions(env, state), state), "legal(state)"
        tree = jax.tree.structure(env.action_space, is_leaf=spaces.is_leaf)
        masks = tree.flatten_up_to(mask) if has_legal(env) else ()
    except (TypeError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        return [f"{call} cannot be traced: {first}"]
    if not (isinstance(stepped, tuple) and len(stepped) == 2 and isinstance(stepped[1], TimeStep)):
        what = f"{len(stepped)} values" if isinstance(stepped, tuple) else type(stepped).__name__
        return [
            f"step returns {what}: return (state, jaxrl.core.types.TimeStep(observation, reward, "
            "terminated, truncated, cost, info)), which step(...) of other libraries does not."
        ]
    (after, seen), space = stepped, env.observation_space
    wrong = _differences("state", state, after)
    wrong += _differences("observation", observation, seen.observation)
    found = jax.tree_util.tree_leaves_with_path(seen.observation)
    if jax.tree.structure(space, is_leaf=spaces.is_leaf) != jax.tree.structure(seen.observation):
        wrong.append(
            f"observation is {_built(seen.observation)}, but its space is {_built(space)}: give "
            "both the same keys."
        )
    else:
        for (path, array), leaf in zip(found, spaces.leaves(space), strict=True):
            if _kind(array) != _kind(leaf):
                name = f"observation{jax.tree_util.keystr(path)}"
                wrong.append(f"{name} is {_kind(array)}, but its space says {_kind(leaf)}.")
    for leaf, part in zip(spaces.leaves(env.action_space), masks, strict=False):
        size = [spaces.flat_size(leaf)]
        if isinstance(leaf, Box) and spaces.is_masked(part):
            wrong.append(f"legal is of Discrete or MultiDiscrete actions, and these are {leaf}.")
        elif spaces.is_masked(part) and _kind(part) != f"bool{size}":
            wrong.append(f"legal gives {_kind(part)}: give bool{size}, true where legal.")
    for name, flag in (("terminated", seen.terminated), ("truncated", seen.truncated)):
        if flag.shape != ():
            wrong.append(f"{name} has shape {list(flag.shape)}: give a scalar.")
    if not jnp.issubdtype(seen.reward.dtype, jnp.floating):
        wrong.append(f"reward is {seen.reward.dtype}: give a float32.")
    if seen.truncated.dtype != jnp.bool_:
        wrong.append(f"truncated is {seen.truncated.dtype}: give a bool.")
    if len(seen.cost.shape) != 1 or not jnp.issubdtype(seen.cost.dtype, jnp.floating):
        wrong.append(f"cost is {_kind(seen.cost)}: give a float32[num_costs], [0] for none.")
    if len(seen.reward.shape) > 1:
        wrong.append(f"reward has shape {list(seen.reward.shape)}: give a scalar, or channels [C].")
    return wrong


def _built(tree: PyTree) -> str:
    """How a tree is built: `['image'], ['speed']`, or what a single array is."""
    found = jax.tree_util.tree_leaves_with_path(tree, is_leaf=spaces.is_leaf)
    return ", ".join(jax.tree_util.keystr(path) or _kind(leaf) for path, leaf in found)


def _kind(value: Any) -> str:
    """Type and shape of what has both: `float32[4]`."""
    return f"{value.dtype}{list(value.shape)}"


def _spaces(env: Environment) -> list[str]:
    wrong = []
    for name in ("observation_space", "action_space"):
        try:
            found = spaces.leaves(getattr(env, name, None))
        except ValueError as error:
            wrong.append(f"{name}: {error}")
            continue
        boxes = [leaf for leaf in found if isinstance(leaf, Box)]
        if any(np.any(np.asarray(box.low) > np.asarray(box.high)) for box in boxes):
            wrong.append(f"{name} has a lower bound above the upper one.")
    return wrong


def _differences(what: str, first: PyTree, then: PyTree) -> list[str]:
    """Where `step` gives another structure, shape or type than `reset`."""
    if jax.tree.structure(first) != jax.tree.structure(then):
        return [
            f"{what} has another structure after step than after reset: a loop cannot carry it."
        ]
    wrong = []
    pairs = zip(jax.tree_util.tree_leaves_with_path(first), jax.tree.leaves(then), strict=True)
    for (path, a), b in pairs:
        name = what + jax.tree_util.keystr(path)
        if _kind(a) != _kind(b):
            wrong.append(
                f"{name} is {_kind(a)} after reset, {_kind(b)} after step: give both the same."
            )
        elif a.weak_type != b.weak_type:
            wrong.append(
                f"{name} is a Python number in one of reset and step: make it an array of "
                f"{a.dtype} in both, as jnp.asarray(x, jnp.{a.dtype}) does."
            )
    return wrong


def _play(env: Environment, key: Key, num_steps: int) -> list[str]:
    """What random steps show."""

    def one(carry: tuple, key: Key) -> tuple[tuple, tuple]:
        act_key, step_key, other_key, reset_key = jax.random.split(key, 4)
        action, mask = draw_action(act_key, env, carry[0]), legal_actions(env, carry[0])
        after, seen = env.step(step_key, carry[0], action)
        again, _ = env.step(other_key, carry[0], action)
        start, ended = env.reset(reset_key), (seen.terminated >= 1) | seen.truncated
        inside = functools.partial(spaces.contains, env.observation_space)
        rules = {
            "an observation lies outside its space.": inside(seen.observation) & inside(start[1]),
            "a reward is not finite.": jnp.all(jnp.isfinite(seen.reward)),
            "a cost is not finite.": jnp.all(jnp.isfinite(seen.cost)),
            "terminated lies outside [0, 1].": (seen.terminated >= 0) & (seen.terminated <= 1),
            "terminated and truncated are true at once: the end wins.": ~(
                (seen.terminated >= 1) & seen.truncated
            ),
            "no action is legal in a state that goes on.": jnp.all(
                jnp.array([jnp.any(part) for part in jax.tree.leaves(mask)], bool)
            ),
        }
        found = rules, ended, _numbers(start[0]), _numbers(after), _numbers(again)
        return select(ended, start, (after, seen.observation)), found

    keys = jax.random.split(key, num_steps + 1)
    steps = jax.jit(lambda: jax.lax.scan(one, env.reset(keys[0]), keys[1:])[1])
    rules, ended, starts, afters, agains = jax.device_get(steps())
    pairs = zip(afters, agains, strict=True)
    same = all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)
    if same and not any(np.any(x != x[:1]) for x in starts):
        warnings.warn(
            f"neither reset nor step of {type(env).__name__} makes use of its key: the same "
            "actions give the same episode. Where that is not meant, draw with the key.",
            stacklevel=3,
        )
    wrong = [text for text, holds in rules.items() if not np.all(holds)]
    if _resets(ended, starts, afters):
        wrong.append(
            "step begins a new episode where one ended: leave the reset to the loop, which needs "
            "the true successor."
        )
    return wrong


def _resets(ended: np.ndarray, starts: list[np.ndarray], afters: list[np.ndarray]) -> bool:
    """Whether what all first states share, and steps change, is back wherever an episode ended."""
    back = []
    for start, after in zip(starts, afters, strict=True):
        differs = np.any((after != start[:1]).reshape(len(after), -1), axis=1)
        if not np.any(start != start[:1]) and np.any(differs[~ended]):
            back.append(not np.any(differs[ended]))
    return bool(np.any(ended)) and bool(back) and all(back)


def _numbers(state: PyTree) -> list[Any]:
    """The leaves of a state that can be compared."""
    return [x for x in jax.tree.leaves(state) if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)]
