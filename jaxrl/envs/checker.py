"""What a user's environment gets wrong, in words."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core import Box, Discrete, Environment, Key, PyTree, TimeStep
from jaxrl.core.arguments import check_parts
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
    wrong = _spaces(env)
    if not wrong:
        wrong = structure(env)
    if not wrong:
        wrong = _play(env, jax.random.key(0) if key is None else key, num_steps)
    if wrong:
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
    key = jax.random.key(0)
    try:
        reset = jax.eval_shape(env.reset, key)
    except (TypeError, ValueError) as error:
        return [f"reset(key) cannot be traced: {_first_line(error)}"]
    if not (isinstance(reset, tuple) and len(reset) == 2):
        return [f"reset(key) must return (state, observation), not a {type(reset).__name__}."]
    state, observation = reset
    action = jax.eval_shape(env.action_space.sample, key)
    try:
        stepped = jax.eval_shape(env.step, key, state, action)
    except (TypeError, ValueError) as error:
        return [f"step(key, state, action) cannot be traced: {_first_line(error)}"]
    if not (isinstance(stepped, tuple) and len(stepped) == 2 and isinstance(stepped[1], TimeStep)):
        what = f"{len(stepped)} values" if isinstance(stepped, tuple) else type(stepped).__name__
        return [
            f"step returns {what}: return (state, jaxrl.core.types.TimeStep(observation, reward, "
            "terminated, truncated, cost, info)), which step(...) of other libraries does not."
        ]
    after, seen = stepped
    wrong = [*_differences("state", state, after)]
    wrong += _differences("observation", observation, seen.observation)
    value, space = seen.observation, env.observation_space
    shape, dtype = jnp.shape(value), jnp.result_type(value)
    if shape != space.shape or dtype != space.dtype:
        says = f"{space.dtype}{list(space.shape)}"
        wrong.append(f"observation is {dtype}{list(shape)}, but its space says {says}.")
    for name in ("terminated", "truncated"):
        if jnp.shape(getattr(seen, name)) != ():
            wrong.append(f"{name} has shape {list(jnp.shape(getattr(seen, name)))}: give a scalar.")
    if not jnp.issubdtype(jnp.result_type(seen.reward), jnp.floating):
        wrong.append(f"reward is {jnp.result_type(seen.reward)}: give a float32.")
    if jnp.result_type(seen.truncated) != jnp.bool_:
        wrong.append(f"truncated is {jnp.result_type(seen.truncated)}: give a bool.")
    return wrong


def _spaces(env: Environment) -> list[str]:
    wrong = []
    for name in ("observation_space", "action_space"):
        space = getattr(env, name, None)
        if not isinstance(space, (Discrete, Box)):
            wrong.append(f"{name} is {space!r}: give a jaxrl.core.spaces.Discrete or Box.")
        elif isinstance(space, Discrete) and space.num_values < 1:
            wrong.append(f"{name} has {space.num_values} values: give at least one.")
        elif isinstance(space, Box) and np.any(np.asarray(space.low) > np.asarray(space.high)):
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
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            wrong.append(
                f"{name} is {a.dtype}{list(a.shape)} after reset, {b.dtype}{list(b.shape)} after "
                "step: give both the same."
            )
        elif getattr(a, "weak_type", False) != getattr(b, "weak_type", False):
            wrong.append(
                f"{name} is a Python number in one of reset and step: make it an array of "
                f"{a.dtype} in both, as jnp.asarray(x, jnp.{a.dtype}) does."
            )
    return wrong


def _play(env: Environment, key: Key, num_steps: int) -> list[str]:
    """What random steps show."""

    def one(carry: tuple, key: Key) -> tuple[tuple, dict[str, Any]]:
        state, _ = carry
        act_key, step_key, other_key, reset_key = jax.random.split(key, 4)
        action = env.action_space.sample(act_key)
        after, seen = env.step(step_key, state, action)
        start = env.reset(reset_key)
        ended = (seen.terminated >= 1) | seen.truncated
        found = {
            "inside": env.observation_space.contains(seen.observation),
            "finite": jnp.all(jnp.isfinite(seen.reward)),
            "chance": (seen.terminated >= 0) & (seen.terminated <= 1),
            "both": (seen.terminated >= 1) & seen.truncated,
            "ended": ended,
            "start": _numbers(start[0]),
            "after": _numbers(after),
            "again": _numbers(env.step(other_key, state, action)[0]),
        }
        return select(ended, start, (after, seen.observation)), found

    keys = jax.random.split(key, num_steps + 1)
    first = jax.jit(env.reset)(keys[0])
    found = jax.device_get(jax.jit(lambda: jax.lax.scan(one, first, keys[1:])[1])())
    inside = np.all(found["inside"]) and bool(env.observation_space.contains(first[1]))
    pairs = zip(found["after"], found["again"], strict=True)
    same = all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)
    if same and not any(np.any(x != x[:1]) for x in found["start"]):
        warnings.warn(
            f"neither reset nor step of {type(env).__name__} makes use of its key: the same "
            "actions give the same episode. Where that is not meant, draw with the key.",
            stacklevel=3,
        )
    rules = [
        (inside, "an observation lies outside its space."),
        (np.all(found["finite"]), "a reward is not finite."),
        (np.all(found["chance"]), "terminated lies outside [0, 1]."),
        (not np.any(found["both"]), "terminated and truncated are true at once: the end wins."),
        (
            not _resets(found),
            "step begins a new episode where one ended: leave the reset to the loop, which needs "
            "the true successor.",
        ),
    ]
    return [text for holds, text in rules if not holds]


def _resets(found: dict[str, Any]) -> bool:
    """Whether what all first states share, and steps change, is back wherever an episode ended."""
    ended = found["ended"]
    back = []
    for start, after in zip(found["start"], found["after"], strict=True):
        differs = np.any((after != start[:1]).reshape(len(after), -1), axis=1)
        if not np.any(start != start[:1]) and np.any(differs[~ended]):
            back.append(not np.any(differs[ended]))
    return bool(np.any(ended)) and bool(back) and all(back)


def _numbers(state: PyTree) -> list[Any]:
    """The leaves of a state that can be compared."""
    return [x for x in jax.tree.leaves(state) if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
