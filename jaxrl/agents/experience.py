"""How agents that learn from replay store their rollouts and draw from them."""

from __future__ import annotations

from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxrl.core.protocols import Environment
from jaxrl.core.schedules import values_at
from jaxrl.core.types import Array, Key, Progress, PyTree, Transition
from jaxrl.replay import Batch, Replay


class ReplayAgent(Protocol):
    """The settings of an agent that learns from replay."""

    @property
    def memory(self) -> Replay:
        """The replay at this agent's number of environments."""
        ...

    @property
    def discount(self) -> float:
        """Gamma [per step]."""
        ...

    @property
    def keep_env_state(self) -> bool:
        """Whether rollouts record the environment's states."""
        ...

    @property
    def num_updates(self) -> int:
        """Gradient steps after each rollout."""
        ...

    @property
    def batch_size(self) -> int:
        """Windows in each gradient step."""
        ...

    @property
    def warmup(self) -> int:
        """Steps before the first gradient step [steps]."""
        ...


def empty_replay(
    agent: ReplayAgent, env: Environment, env_state: PyTree, observation: PyTree, action: Array
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
        _, seen = jax.vmap(env.step)(keys, env_state, action)
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
        )

    return agent.memory.init(jax.eval_shape(step, env_state, observation, action))


def store(agent: ReplayAgent, state: Any, trajectory: Transition) -> tuple[Any, Array]:
    """Append a rollout to the replay in an agent's state.

    Args:
        agent: its replay and its warm-up.
        state: a struct with `replay` and `progress`.
        trajectory: `[T, B, ...]`; its extras are not kept.

    Returns:
        `state` after those steps, and whether learning may begin, `[]` bool.
    """
    replay = agent.memory
    state = state.replace(
        replay=replay.add(state.replay, trajectory.replace(extras={})),
        progress=state.progress.advance(trajectory.reward.size),
    )
    ready = replay.can_sample(state.replay, agent.batch_size)
    return state, ready & (state.progress.step >= agent.warmup)


def draw_rounds(key: Key, agent: ReplayAgent, replay_state: PyTree) -> Batch:
    """The batches `[num_updates, batch_size, ...]` of all gradient steps after a rollout.

    One draw serves them all: none of the steps changes the replay, which so stays out of the
    conditional that would copy it.
    """
    shape = (agent.num_updates, agent.batch_size)
    draw = agent.memory.sample(key, replay_state, agent.num_updates * agent.batch_size)
    return jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), draw)


def counted_share(batch: Batch, ready: Array) -> Array:
    """The share `[]` of windows drawn that may be learned from; 0 before the warm-up is over.

    A replay that does not store successors has none for what begins at a truncated step.
    """
    return jnp.where(ready, jnp.mean(batch.weights > 0, dtype=jnp.float32), 0.0)


def normalised_weights(batch: Batch) -> Array:
    """The weights of a batch `[B]`, summing to one; all 0 where it holds nothing."""
    return batch.weights / jnp.maximum(jnp.sum(batch.weights), 1.0)


def at_present(agent: Any, progress: Progress) -> Any:
    """An agent with the present values of the schedules in its operator and its successors."""
    return agent.replace(
        operator=values_at(agent.operator, progress),
        successors=values_at(agent.successors, progress),
    )
