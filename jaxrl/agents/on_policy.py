"""What learners from fresh rollouts take of an operator: its lookahead, and its head's losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.agents import checks, experience
from jaxrl.agents.action_values import clipped_fraction
from jaxrl.agents.successors import SourceState
from jaxrl.core import Struct
from jaxrl.core.law import Law
from jaxrl.core.protocols import Environment, Head
from jaxrl.core.types import Array, Key, Progress, PyTree, Transition, typed_like
from jaxrl.operators import BellmanOperator
from jaxrl.operators.bellman import describe
from jaxrl.replay import Batch

SOURCE = 1  # random stream of drawn successors


class Ahead(Struct):
    """What one step of an operator says of each step of a rollout `[T, B]`."""

    reward: Array  # [T, B] [return]: its value less the discounted value of the successor seen
    law: Law  # [T, B, K] of the return


def at_present(agent: Any, progress: Progress) -> Any:
    """An agent with the present values of the schedules in its operator and its successors."""
    return experience.at_present(agent, progress, ("operator", "successors"))


def one_step_ahead(
    key: Key,
    agent: Any,
    state: Any,
    trajectory: Transition,
    next_values: Array,
    params_of: Callable[[PyTree], Array],
    masked: bool = False,
) -> Ahead:
    """Backups of an agent's operator over the outcomes that its `successors` give.

    With y_t = F(probs, r_n + d_n V(s_n)), `reward` is y_t - d_t V(s_t'): in the place of the reward
    seen it makes the error of every step y_t - V(s_t). Where V is the value under the operator, all
    errors have mean zero, so that lambda-returns have that fixed point at any lambda. States are
    those of the environment, not of nature's worst law.

    Args:
        key: of the agent's update.
        agent: with `operator`, `successors` and `discount`.
        state: its state, with `source` and `progress`.
        trajectory: `[T, B, ...]`.
        next_values: `[T, B]`, of the successors seen [return].
        params_of: observations `[M, N, ...]` -> the head's parameters `[M, N, A, *head.shape]`.
        masked: whether these A actions are the environment's, of which only the legal count.

    Sources:
        Ruszczynski (2010), Risk-averse dynamic programming for Markov decision processes, section 4
        (the value of a policy under nested risk); Iyengar (2005), Robust dynamic programming.
    """
    agent, key = at_present(agent, state.progress), jax.random.fold_in(key, SOURCE)
    lead = trajectory.reward.shape
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), trajectory)
    outcomes = agent.successors.outcomes(key, state.source, flat, agent.discount)
    if not masked:
        outcomes = outcomes.replace(mask=())
    lookahead = outcomes.lookahead(params_of(outcomes.observation))
    laws = jax.vmap(agent.successors.operator(agent.operator).backup)(lookahead)
    laws = jax.tree.map(lambda leaf: leaf.reshape(*lead, -1), laws)
    return Ahead(laws.mean() - trajectory.discount * next_values, laws)


def learned_source(agent: Any, state: Any, trajectory: Transition, laws: Law) -> SourceState:
    """The source of successors after its steps on a rollout, one for each of its minibatches; as it
    is, where it learns nothing.

    Args:
        agent: with `operator`, `successors` and `num_minibatches`.
        state: its state, with `source` and `progress`.
        trajectory: `[T, B, ...]`, what was seen.
        laws: `[T, B, K]`, the backups of its steps.
    """
    if not jax.tree.leaves(state.source.learned):
        return state.source
    agent = at_present(agent, state.progress)
    data, laws = jax.tree.map(
        lambda leaf: leaf.reshape(agent.num_minibatches, -1, *leaf.shape[2:]), (trajectory, laws)
    )
    places = jnp.arange(trajectory.reward.size // agent.num_minibatches, dtype=jnp.int32)

    def step(source: SourceState, rows: tuple[Transition, Law]) -> tuple[SourceState, None]:
        data, law = rows
        batch, lagged = Batch(data, jnp.ones(places.size), places), law.mean()
        found, _ = agent.successors.learn(
            source, agent.operator, batch, law, lagged, state.progress
        )
        return typed_like(source, source.replace(learned=found)), None

    return jax.lax.scan(step, state.source, (data, laws))[0]


def head_loss(head: Head, params: Array, returns: Array, laws: Array | None) -> Array:
    """The head's loss `[...]` of each row.

    Args:
        head: of the operator.
        params: `[..., *head.shape]`.
        returns: `[...]` [return], what a head that stores a mean is fitted to.
        laws: `[..., *head.shape]`, what one that stores a law is fitted to.

    Raises:
        ValueError: a head that stores a law, and none to fit it to.
    """
    if not head.facts.stores_law:
        return _of_rows(lambda row, mean: head.loss(row, Law.of_samples(mean[None])), returns)(
            params, returns
        )
    if laws is None:
        raise ValueError(
            f"{describe(head)} stores laws of returns, and this rule gives it none to be fitted "
            "to: let its targets come from jaxrl.rules.advantage_targets, or use a head that "
            "stores a mean, such as HLGauss."
        )
    return _of_rows(lambda row, law: head.loss(row, head.law(law)), returns)(params, laws)


def _of_rows(function: Callable[..., Array], like: Array) -> Callable[..., Array]:
    for _ in range(like.ndim):
        function = jax.vmap(function)
    return function


def narrowness(head: Head, returns: Array) -> dict[str, Array]:
    """The metric `clipped_fraction` of a head with ends: the share of `returns` beyond them."""
    if not head.facts.bounded:
        return {}
    law = Law.of_samples(returns.reshape(-1, 1))
    return {"clipped_fraction": clipped_fraction(head, law, jnp.ones(returns.size))}


def check_operator(agent: Any, operator: BellmanOperator, env: Environment) -> None:
    """Raise `ValueError` for what no learner from fresh rollouts can do with an operator.

    Args:
        agent: with `network` and `successors`.
        operator: of the agent.
        env: to be learned in.
    """
    checks.check_without_table(operator)
    agent.successors.check(operator, env)
    if agent.successors.facts.replay:
        raise ValueError(
            f"successors={type(agent.successors).__name__} learn from the batches of a replay, "
            "which this agent has not: use Generative(num_samples=16), or Ensemble(), or an agent "
            "with a replay."
        )
    if agent.successors.is_random and agent.network.recurrent_size:
        raise ValueError(
            "A recurrent network has no memory for successors that were not seen: set "
            "recurrent_size to 0, or use successors=Sampled()."
        )
    if operator.head.facts.at_levels:
        raise ValueError(f"{describe(operator.head)} draws levels for a replay: use Quantile.")
    if not operator.composition.facts.linear:
        raise ValueError(
            f"Lambda-returns are of sums of rewards, not of {describe(operator.composition)}: use "
            "DiscountedSum()."
        )
