"""A gradient step of the critics of (state, action) pairs, from looking ahead to the optimiser."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.agents.action_critics import critic_loss
from jaxrl.agents.successors import Backup, Outcomes
from jaxrl.agents.value_network import clipped_fraction, has_bounds
from jaxrl.core import struct
from jaxrl.core.law import Law
from jaxrl.core.types import Array, Key, PyTree, Transition
from jaxrl.replay import Batch


@struct.dataclass
class CriticStep:
    """What a gradient step of the critics leaves."""

    params: PyTree
    optimiser: PyTree
    mean_scale: PyTree  # [num_critics] [return], () without a variance adjustment
    learned: PyTree  # of the source of successors
    metrics: dict[str, Array]  # [] each


def critic_metrics(agent: Any) -> tuple[str, ...]:
    """The names in `CriticStep.metrics`: those of the clipped targets where the grid has ends."""
    return ("critic_loss", "q_value") + ("clipped_fraction",) * has_bounds(agent.operator.head)


def normalised_weights(batch: Batch) -> Array:
    """The weights of a batch `[B]`, summing to one; all 0 where it holds nothing."""
    return batch.weights / jnp.maximum(jnp.sum(batch.weights), 1.0)


def look_ahead(agent: Any, key: Key, state: Any, data: Transition) -> tuple[Key, Outcomes, PyTree]:
    """What may follow the transitions `data[B, ...]`.

    Args:
        agent: its successors and discount.
        key: spent here.
        state: the agent's, with `source`.
        data: from replay.

    Returns:
        A key for the next actions, outcomes `[B, N]`, and their observations in one batch
        `[B N, ...]`.
    """
    next_key, outcome_key = jax.random.split(key) if agent.successors.is_random else (key, key)
    outcomes = agent.successors.outcomes(outcome_key, state.source, data, agent.discount)
    size = outcomes.probs.size
    flat = jax.tree.map(lambda leaf: leaf.reshape(size, *leaf.shape[2:]), outcomes.observation)
    return next_key, outcomes, flat


def critic_step(agent: Any, state: Any, batch: Batch, target: Law, lagged: PyTree) -> CriticStep:
    """Move all critics towards `target`, after what the source of successors learns from it.

    Args:
        agent: settings; see `jaxrl.agents.action_critics.CriticAgent`.
        state: the agent's, with `learner`, `source`, `critic`, `box` and `progress`.
        batch: the transitions `[B, ...]`.
        target: law `[B, ...]` [return], see `jaxrl.agents.action_critics.backup`.
        lagged: parameters of the lagged critics.
    """
    learner, critic, data = state.learner, state.critic, batch.transition
    weights, taken = normalised_weights(batch), state.box.to_unit(data.action)
    learned = state.source.learned
    if agent.successors.learns:
        before = critic.apply(lagged, data.observation, taken)
        law = jax.vmap(agent.pessimism.law, (None, 1))(agent.operator.head, before)
        seen = Backup(data, batch.weights, target, law.mean())
        source, operator, progress = state.source, agent.operator, state.progress
        learned, target = agent.successors.learn(source, operator, seen, progress)
        target = jax.lax.stop_gradient(target)

    def loss(params: PyTree) -> tuple[Array, tuple[Array, PyTree]]:
        outputs = critic.apply(params, data.observation, taken)
        return critic_loss(agent, outputs, target, weights, learner.mean_scale, state.progress)

    found, grads = jax.value_and_grad(loss, has_aux=True)(learner.params.critic)
    cost, (q_value, mean_scale) = found
    params, optimiser = agent.optimiser.step(
        grads, learner.optimiser.critic, learner.params.critic, state.progress
    )
    metrics = {"critic_loss": cost, "q_value": q_value}
    if has_bounds(agent.operator.head):
        metrics["clipped_fraction"] = clipped_fraction(agent.operator.head, target, batch.weights)
    return CriticStep(params, optimiser, mean_scale, learned, metrics)
