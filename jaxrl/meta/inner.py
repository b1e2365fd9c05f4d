"""One iteration of a life that an outer gradient can pass through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.agents.readers import HasPolicy, along
from jaxrl.core.protocols import Agent, Environment
from jaxrl.core.types import Array, Key, Transition
from jaxrl.meta.lives import Life
from jaxrl.training.loop import Tally, TrainState, collect, tally_of
from jaxrl.training.rollouts import EpisodeSums


def look_ahead(
    agent: Agent, env: Environment, state: TrainState, auto_reset: bool = True
) -> tuple[TrainState, Transition, EpisodeSums, Key]:
    """As `collect`, of data that are not learned from: what comes next spends other keys."""
    after, data, episodes, learn_key = jax.lax.stop_gradient(collect(agent, env, state, auto_reset))
    state = state.replace(rollout=after.rollout, key=jax.random.fold_in(state.key, 1))
    return state, data, episodes, learn_key


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
    log_prob = along(agent.policy, state.agent, trajectory).log_prob(trajectory.trace)
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
    after, trajectory, episodes, update_key = jax.lax.stop_gradient(
        collect(agent, env, state, auto_reset)
    )

    @jax.checkpoint
    def learn(agent: Any, state: TrainState, trajectory: Transition) -> tuple:
        return agent.update(update_key, state.agent, relive(agent, state, trajectory))

    agent_state, metrics = learn(agent, state, trajectory)
    return after.replace(agent=agent_state), trajectory, tally_of(episodes, metrics)


def repeat(step: Callable, train: TrainState, num_times: int) -> tuple[TrainState, tuple]:
    """`step(train) -> (train, *seen)` again and again -> train, seen `[num_times, ...]`."""

    def one(train: TrainState, _: None) -> tuple[TrainState, tuple]:
        train, *seen = step(train)
        return train, tuple(seen)

    return jax.lax.scan(one, train, None, num_times)


def losing(
    step: Callable, loss_of: Callable | None, train: TrainState, num_times: int, keep_every: int = 1
) -> tuple[tuple[TrainState, Array], tuple]:
    """As `repeat`, with losses on the way -> (train, their sum `[]`), seen `[num_times, ...]`.

    Args:
        step: one iteration, `train -> (train, trajectory, row)`.
        loss_of: `(train, trajectory) -> []` of the state that collected the trajectory; None where
            no loss counts. The first state is none of this window's making and does not count.
        train: where it begins.
        num_times: iterations.
        keep_every: of so many carries a gradient keeps one; the others are computed again from it.
    """

    def body(carry: tuple, first: Array) -> tuple[tuple, tuple]:
        train, loss = carry
        after, *seen = step(train)
        if loss_of is not None:
            loss = loss + jnp.where(first, 0.0, loss_of(train, seen[0]))
        return (after, loss), tuple(seen)

    def part(carry: tuple, rows: Array) -> tuple[tuple, tuple]:
        return jax.lax.scan(body, carry, rows)

    carry, rows = (train, jnp.zeros(())), jnp.arange(num_times) == 0
    if keep_every == 1:
        return part(carry, rows)
    carry, out = jax.lax.scan(jax.checkpoint(part), carry, rows.reshape(-1, keep_every))
    return carry, jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), out)


def lived(
    life: Life, train: TrainState, learned_from: tuple[Transition, Tally], looked_at: tuple
) -> tuple[Life, Tally, Transition]:
    """The life after a window, the tally of its episodes, and its trajectories `[K + N, T, B]`.

    Args:
        life: before.
        train: after.
        learned_from: trajectories and tallies of its updates `[K, ...]`.
        looked_at: trajectories and `EpisodeSums` of those that were only looked at, `[N, ...]`.
    """
    trajectories, tallies = learned_from
    more, episodes = looked_at
    tally, episodes = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), (tallies, episodes))
    tally = tally.replace(episodes=jax.tree.map(jnp.add, tally.episodes, episodes))
    trajectories = jax.tree.map(lambda *rows: jnp.concatenate(rows), trajectories, more)
    return life.replace(train=train), tally, trajectories
