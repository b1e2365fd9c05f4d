"""One iteration of a life that an outer gradient can pass through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.agents.readers import HasPolicy, along
from jaxrl.core.protocols import Agent, Environment
from jaxrl.core.types import Array, PyTree, Transition
from jaxrl.training.loop import Tally, TrainState
from jaxrl.training.rollout import rollout


def collect(
    agent: Agent, env: Environment, state: TrainState, auto_reset: bool = True
) -> tuple[Any, Transition, Any, Array]:
    """The data of the next iteration, as constants to every gradient.

    The keys are those of `jaxrl.training.train_iteration`, which gives the same numbers.

    Returns:
        `RolloutState`, trajectory `[T, B]`, `EpisodeSums`, and the key of the update.
    """
    rollout_key, update_key = jax.random.split(jax.random.fold_in(state.key, state.iteration))
    data = rollout(rollout_key, agent, env, state.agent, state.rollout, auto_reset=auto_reset)
    return *jax.lax.stop_gradient(data), update_key


def check_policy(agent: Any) -> None:
    """Raise `ValueError` for agents without a law that an outer gradient can pass through."""
    if not isinstance(agent, HasPolicy):
        raise ValueError(
            f"{type(agent).__name__} has no policy(state, observation, memory), which the outer "
            "objective needs: use an ActorCriticAgent or ParallelQAgent, or search with Evolution."
        )


def relive(agent: Any, state: TrainState, trajectory: Transition) -> Transition:
    """A trajectory of constants with what depends on the agent's numbers put back.

    That is the discount, and the log-probability of what was done. Their values do not change.
    """
    raw = trajectory.extras.get("raw_action", trajectory.action)
    log_prob = along(agent.policy, state.agent, trajectory).log_prob(raw)
    return trajectory.replace(
        discount=agent.discount * (1.0 - trajectory.terminated),
        extras={**trajectory.extras, "log_prob": log_prob},
    )


def differentiable_iteration(
    agent: Any, env: Environment, state: TrainState, auto_reset: bool = True
) -> tuple[TrainState, Transition, Tally]:
    """`train_iteration`, rematerialised, with gradients from the new state to the agent's numbers.

    What happened in the environment is data: gradients pass through the update alone, and the
    update's intermediate results are computed again rather than kept.

    Returns:
        the next state, the trajectory `[T, B]` learned from, and the tally.
    """
    rollout_state, trajectory, episodes, update_key = collect(agent, env, state, auto_reset)

    @jax.checkpoint
    def learn(agent: Any, state: TrainState, trajectory: Transition) -> tuple:
        return agent.update(update_key, state.agent, relive(agent, state, trajectory))

    agent_state, metrics = learn(agent, state, trajectory)
    after = TrainState(agent_state, rollout_state, state.key, state.iteration + 1)
    return (
        after,
        trajectory,
        Tally(episodes, metrics, jnp.ones((), jnp.float32), jnp.ones((), jnp.float32)),
    )


def scan_keeping(
    keep_every: int, step: Callable, carry: PyTree, rows: Array
) -> tuple[PyTree, PyTree]:
    """`lax.scan` of `step` over `rows[K]`, of whose carries a gradient keeps one in `keep_every`.

    The others are computed again from the one before.
    """
    if keep_every == 1:
        return jax.lax.scan(step, carry, rows)

    @jax.checkpoint
    def part(carry: PyTree, rows: Array) -> tuple[PyTree, PyTree]:
        return jax.lax.scan(step, carry, rows)

    carry, out = jax.lax.scan(part, carry, rows.reshape(-1, keep_every))
    return carry, jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), out)
