"""How agents that learn from replay store rollouts, draw from them, and keep lagged copies."""

# Bodies of protocols are their docstrings.
# pyright: reportReturnType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxrl.agents.checks import check_signals, differs
from jaxrl.core import Struct
from jaxrl.core.protocols import Environment, legal_of_each
from jaxrl.core.schedules import values_at
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Key, Progress, PyTree, Transition
from jaxrl.replay import Batch


class LaggedCopies(Protocol):
    """What a learner's targets are made by, as a setting of an agent: copies that lag behind.

    One network that learns, with one copy, is the usual case. A chain of K networks, each of which
    learns from a copy of the one before it, has a leading axis `[K, ...]` in all that learning
    changes but replay and counters.
    """

    @property
    def whole(self) -> bool:
        """Whether a copy that moves takes all of the parameters."""

    def is_due(self, num_updates: Array) -> Array:
        """Whether the copies move after update number `num_updates` (from 1), `[]` bool."""

    def start(self, build: Callable[[Key], PyTree], key: Key) -> PyTree:
        """What learns, at first: `build(key)` is all that belongs to one network."""

    def init(self, params: PyTree) -> PyTree:
        """-> the copies of `params` at first."""

    def each(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """A function of what belongs to one network, of all that learn."""

    def move(self, target: PyTree, params: PyTree, num_updates: Array) -> PyTree:
        """The copies after update number `num_updates` (from 1), to which `params` belong."""

    def shift(self, params: PyTree, num_updates: Array) -> PyTree:
        """The networks that learn, after the copies have moved."""

    def mean(self, found: PyTree) -> PyTree:
        """Of what `each` gives: the mean over networks."""

    def drawn(self, key: Key, scores: Array) -> Array:
        """Of the scores `[B, A]` that `each` gives: those of one network for each row."""


def step_each(
    target: LaggedCopies, step: Callable[[Any], tuple], state: Any
) -> tuple[Any, PyTree, PyTree]:
    """One gradient step of every network that learns, each of its own; then the copies move.

    Args:
        target: the copies.
        step: the state of one network -> that after its step, priorities `[B]` and numbers to
            report.
        state: with `params`, `target_params`, `optimiser`, `source`, `parts`, of each network, and
            `num_updates`, which the caller counts.

    Returns:
        The state after the step, and the means over networks of priorities and numbers.
    """
    names = ("params", "target_params", "optimiser", "source", "parts")

    def one(own: dict[str, PyTree]) -> tuple[dict[str, PyTree], tuple]:
        learner, *told = step(state.replace(**own))
        return {name: getattr(learner, name) for name in names}, tuple(told)

    moved, told = target.each(one)({name: getattr(state, name) for name in names})
    priority, logs = target.mean(told)
    params, count = moved.pop("params"), state.num_updates + 1
    learner = state.replace(**moved, params=target.shift(params, count))
    lagged = target.move(state.target_params, params, count)
    return learner.replace(target_params=lagged), priority, logs


class TargetUpdate(Struct):
    """Every `period` updates the copy moves a share `step_size` of the way to the parameters.

    `step_size = 1` copies (Mnih et al. 2015); `period = 1` with a small step is Polyak averaging
    (Lillicrap et al. 2016).

    Example:
        >>> float(TargetUpdate(step_size=0.25).move(jnp.array(0.0), jnp.array(8.0), 1))
        2.0
    """

    period: int = setting(1, "gradient steps between two moves", unit="updates", low=1)
    step_size: float = setting(0.005, "share of the way moved", low=0.0, high=1.0, low_open=True)

    @property
    def whole(self) -> bool:
        """Whether it copies."""
        return not differs(self.step_size, 1.0)

    def is_due(self, num_updates: Array) -> Array:
        """At every `period`."""
        return num_updates % self.period == 0

    def start(self, build: Callable[[Key], PyTree], key: Key) -> PyTree:
        """One network."""
        return build(key)

    def init(self, params: PyTree) -> PyTree:
        """A copy."""
        return jax.tree.map(jnp.copy, params)

    def each(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The function itself."""
        return function

    def shift(self, params: PyTree, num_updates: Array) -> PyTree:
        """As they are."""
        return params

    def mean(self, found: PyTree) -> PyTree:
        """Those of the one network."""
        return found

    def drawn(self, key: Key, scores: Array) -> Array:
        """Those of the one network."""
        return scores

    def move(self, target: PyTree, params: PyTree, num_updates: Array) -> PyTree:
        """The copy after update number `num_updates` (from 1)."""
        step = jnp.where(self.is_due(num_updates), self.step_size, 0.0)
        # `select` rather than arithmetic alone, so that a full step copies to the last bit.
        full = step >= 1.0
        return jax.tree.map(lambda t, p: jnp.where(full, p, t + step * (p - t)), target, params)


# Of agents that learn from replay: their replay at their number of environments, whether rollouts
# record the environment's states, and the memory of those that carry nothing between steps.
own_replay = property(lambda agent: agent.replay.replace(num_envs=agent.num_envs))
keep_env_state = property(lambda agent: agent.successors.keeps_env_state)


def no_memory(agent: Any, num_envs: int) -> tuple:
    """Nothing is carried between steps."""
    return ()


def empty_replay(
    agent: Any, env: Environment, env_state: PyTree, observation: PyTree, action: Array
) -> PyTree:
    """A replay for what `agent` will see in `env`, by the shapes and types of one traced step.

    Args:
        agent: its replay, discount, and whether it keeps the environment's states.
        env: one environment.
        env_state: `[B, ...]`, of freshly reset environments.
        observation: `[B, ...]`.
        action: `[B, ...]`, of the type that the agent's actions have.
    """

    def step(env_state: PyTree, observation: PyTree, action: Array) -> Transition:
        keys = jax.random.split(jax.random.key(0), action.shape[0])
        after, seen = jax.vmap(env.step)(keys, env_state, action)
        return Transition(
            observation=observation,
            action=action,
            reward=seen.reward,
            discount=agent.discount * (1.0 - seen.terminated),
            next_observation=seen.observation,
            terminated=seen.terminated,
            truncated=seen.truncated,
            extras={},
            env_state=env_state if agent.keep_env_state else (),
            mask=legal_of_each(env, env_state, action.shape[0]),
            next_mask=legal_of_each(env, after, action.shape[0]),
        )

    return agent.memory.init(jax.eval_shape(step, env_state, observation, action))


def store(agent: Any, state: Any, trajectory: Transition) -> tuple[Any, Array]:
    """Append a rollout to the replay in an agent's state.

    Args:
        agent: its replay and its warm-up.
        state: a struct with `replay` and `progress`.
        trajectory: `[T, B, ...]`; its extras and costs are not kept.

    Returns:
        `state` after those steps, and whether learning may begin, `[]` bool.
    """
    check_signals(trajectory)
    replay = agent.memory
    state = state.replace(
        replay=replay.add(state.replay, trajectory.replace(extras={}, cost=())),
        progress=state.progress.advance(trajectory.reward.size),
    )
    ready = replay.can_sample(state.replay, agent.batch_size)
    return state, ready & (state.progress.step >= agent.warmup)


def counted_share(batch: Batch, ready: Array) -> Array:
    """The share `[]` of windows drawn that may be learned from; 0 before the warm-up is over.

    A replay that does not store successors has none for what begins at a truncated step.
    """
    return jnp.where(ready, jnp.mean(batch.weights > 0, dtype=jnp.float32), 0.0)


def normalised_weights(batch: Batch) -> Array:
    """The weights of a batch `[B]`, summing to one; all 0 where it holds nothing."""
    return batch.weights / jnp.maximum(jnp.sum(batch.weights), 1.0)


_TIMED = ("operator", "successors", "parts")


def at_present(agent: Any, progress: Progress, fields: tuple[str, ...] = _TIMED) -> Any:
    """An agent with the present values of the schedules in some of its fields."""
    return agent.replace(**{name: values_at(getattr(agent, name), progress) for name in fields})
