"""One sweep of a Bellman operator over the states of a known model, and its linearisation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.mdp import TabularMDP
from jaxrl.core.types import Array
from jaxrl.functionals.expectation import Mean
from jaxrl.functionals.per_pair import PerPair, over_pairs
from jaxrl.operators.bellman import BellmanOperator
from jaxrl.operators.improvement import FixedPolicy
from jaxrl.operators.per_state import PerState, over_states


def discounts(mdp: TabularMDP) -> Array:
    """gamma (1 - terminal) of every outcome, `[S, A, K]`, or `[1, 1, 1]` when nothing ends."""
    if mdp.is_endless:
        return jnp.reshape(mdp.discount, (1, 1, 1))
    return mdp.discount * (1.0 - jnp.asarray(mdp.terminal, mdp.prob.dtype))


def successor_values(mdp: TabularMDP, values: Array) -> Array:
    """`values[S]` at the successor of every outcome, `[S, A, K]`; `[1, 1, S]` in a dense model."""
    return values[None, None, :] if mdp.is_dense else values[mdp.next_state]


def outcome_values(mdp: TabularMDP, operator: BellmanOperator, values: Array) -> Array:
    """What each outcome is worth: `values[S]` [return] -> `[S, A, K]` [return]."""
    return operator.composition(mdp.reward, discounts(mdp), successor_values(mdp, values))


def action_values(mdp: TabularMDP, operator: BellmanOperator, values: Array) -> Array:
    """What each action is worth: `values[S]` [return] -> `q[S, A]` [return]."""
    outcomes = outcome_values(mdp, operator, values)
    return over_pairs(operator.successor_functional, mdp.prob, outcomes)


def state_values(
    mdp: TabularMDP, operator: BellmanOperator, q_values: Array
) -> tuple[Array, Array]:
    """What each state is worth, and the policy: `q[S, A]` -> `values[S]`, `policy[S, A]`."""
    policy, bonus = over_states(operator.improvement, q_values, mdp.legal)
    counts = (policy > 0) | jnp.isfinite(q_values)
    return jnp.sum(policy * (jnp.where(counts, q_values, 0.0) + bonus), axis=1), policy


def is_shared(operator: BellmanOperator) -> bool:
    """Whether nature's budget is shared by the actions of a state (s-rectangular)."""
    return getattr(operator.successor_functional, "shared_over_actions", False)


def is_linear(operator: BellmanOperator) -> bool:
    """Whether action values are linear in the values of the successors."""
    return isinstance(operator.successor_functional, Mean) and operator.composition.linear


def has_fixed_policy(operator: BellmanOperator) -> bool:
    """Whether the operator evaluates a given policy."""
    improvement = operator.improvement
    inner = improvement.improvement if isinstance(improvement, PerState) else improvement
    return isinstance(inner, FixedPolicy)


def sweep(mdp: TabularMDP, operator: BellmanOperator, values: Array) -> tuple[Array, Array, Array]:
    """One application of the operator.

    Args:
        mdp: the model.
        operator: with a scalar head.
        values: `[S]` [return].

    Returns:
        `values[S]`, `q[S, A]` [return] and `policy[S, A]`. A functional with a budget shared over
        actions plays against the operator's `FixedPolicy`, and otherwise against the best policy,
        which it returns; its q are those of each action alone with the whole budget.
    """
    functional = operator.successor_functional
    if is_shared(operator):
        outcomes = outcome_values(mdp, operator, values)
        q_values = over_pairs(functional, mdp.prob, outcomes)
        if has_fixed_policy(operator):
            policy, _ = over_states(operator.improvement, q_values, mdp.legal)
            value = jax.vmap(functional.for_policy)(policy, mdp.prob, outcomes)
        else:
            value, policy = jax.vmap(functional.over_actions)(mdp.prob, outcomes, mdp.legal)
        return value, q_values, policy
    q_values = action_values(mdp, operator, values)
    value, policy = state_values(mdp, operator, q_values)
    return value, q_values, policy


@struct.dataclass
class Prepared:
    """A model and an operator made ready for many sweeps: what they share is computed once."""

    mdp: TabularMDP
    operator: BellmanOperator
    reward: Array | None  # [S, A] [return], expected, where action values are linear
    weights: Array | None  # [S, A, K], probability times discount, where also something ends

    def sweep(self, values: Array) -> tuple[Array, Array, Array]:
        """As `sweep`, for the model and the operator."""
        if self.reward is None:
            return sweep(self.mdp, self.operator, values)
        mdp = self.mdp
        weights = mdp.prob if self.weights is None else self.weights
        if mdp.is_dense:
            rest = jnp.reshape(weights, (-1, weights.shape[-1])) @ values
            rest = jnp.reshape(rest, self.reward.shape)
        else:
            rest = jnp.sum(weights * values[mdp.next_state], axis=-1)
        q_values = self.reward + (mdp.discount * rest if self.weights is None else rest)
        value, policy = state_values(mdp, self.operator, q_values)
        return value, q_values, policy


def prepare(mdp: TabularMDP, operator: BellmanOperator) -> Prepared:
    """Compute what all sweeps share."""
    if not is_linear(operator):
        return Prepared(mdp, operator, None, None)
    reward = jnp.sum(mdp.prob * mdp.reward, axis=-1)
    return Prepared(mdp, operator, reward, None if mdp.is_endless else mdp.prob * discounts(mdp))


@struct.dataclass
class Rows:
    """A linear map of state values with few entries in each row: (W x)_s = sum_m W_sm x[next_sm].

    Dense when `next_state` is None: entry m is state m.
    """

    weights: Array  # [S, M]
    next_state: Array | None  # [S, M] int32

    def apply(self, x: Array) -> Array:
        """W x, `[S]` -> `[S]`."""
        if self.next_state is None:
            return self.weights @ x
        return jnp.sum(self.weights * x[self.next_state], axis=-1)

    def apply_transposed(self, y: Array) -> Array:
        """W^T y, `[S]` -> `[S]`."""
        if self.next_state is None:
            return y @ self.weights
        return jnp.zeros_like(y).at[self.next_state].add(self.weights * y[:, None])

    def matrix(self) -> Array:
        """W, `[S, S]`."""
        if self.next_state is None:
            return self.weights
        num_states = self.weights.shape[0]
        rows = jnp.arange(num_states)[:, None]
        blank = jnp.zeros((num_states, num_states), self.weights.dtype)
        return blank.at[rows, self.next_state].add(self.weights)


def linearise(
    mdp: TabularMDP, operator: BellmanOperator, values: Array, q_values: Array, policy: Array
) -> Rows:
    """The derivative of a sweep at `values`: the policy and nature's law, both frozen.

    W = sum_a dV/dq_a dq_a/dv, by the envelope theorem the policy's average of the worst-case
    kernels times the discounts. One row of K outcomes per state when the improvement is
    deterministic: a sweep of W is then A times cheaper than one of the operator.

    Args:
        mdp: the model.
        operator: with a scalar head.
        values: `[S]` [return], where to take the derivative.
        q_values: `[S, A]` [return], of a sweep there.
        policy: `[S, A]`, of the same sweep.
    """
    shared = is_shared(operator)
    if operator.improvement.deterministic and not shared:
        mdp, operator = pick_actions(mdp, operator, jnp.argmax(policy, axis=1))
        slopes = jnp.ones(mdp.prob.shape[:2], values.dtype)
    elif not shared:
        slopes = jax.grad(lambda q: jnp.sum(state_values(mdp, operator, q)[0]))(q_values)
    functional = operator.successor_functional
    successors = jnp.broadcast_to(successor_values(mdp, values), mdp.prob.shape)

    def worth(z: Array) -> Array:
        outcomes = operator.composition(mdp.reward, discounts(mdp), z)
        if shared:
            return jnp.sum(jax.vmap(functional.for_policy)(policy, mdp.prob, outcomes))
        return jnp.sum(slopes * over_pairs(functional, mdp.prob, outcomes))

    weights = jax.grad(worth)(successors)
    if mdp.is_dense:
        return Rows(jnp.sum(weights, axis=1), None)
    num_states = weights.shape[0]
    return Rows(weights.reshape(num_states, -1), mdp.next_state.reshape(num_states, -1))


def pick_actions(
    mdp: TabularMDP, operator: BellmanOperator, actions: Array
) -> tuple[TabularMDP, BellmanOperator]:
    """The model and the operator with one action only in each state, `actions[S]`."""

    def pick(leaf: Array) -> Array:
        places = jnp.reshape(actions, (-1, *(1,) * (leaf.ndim - 1)))
        return jnp.take_along_axis(leaf, places, axis=1)

    picked = {name: pick(getattr(mdp, name)) for name in ("prob", "next_state", "reward", "legal")}
    terminal = mdp.terminal if mdp.is_endless else pick(mdp.terminal)
    functional = operator.successor_functional
    if isinstance(functional, PerPair):
        functional = jax.tree.map(lambda leaf: pick(jnp.asarray(leaf)), functional)
    small = mdp.replace(terminal=terminal, **picked)
    return small, operator.replace(successor_functional=functional)


def slice_states(
    mdp: TabularMDP, operator: BellmanOperator, start: Array, size: int
) -> tuple[TabularMDP, BellmanOperator]:
    """`size` neighbouring states of a model, whose successors may be any state."""

    def part(owner: Any) -> Any:
        return jax.tree.map(
            lambda leaf: jax.lax.dynamic_slice_in_dim(jnp.asarray(leaf), start, size), owner
        )

    names = ("prob", "next_state", "reward", "terminal", "legal")
    rows = {name: part(getattr(mdp, name)) for name in names}
    functional, improvement = operator.successor_functional, operator.improvement
    if isinstance(functional, PerPair):
        operator = operator.replace(successor_functional=part(functional))
    if isinstance(improvement, PerState):
        operator = operator.replace(improvement=part(improvement))
    return mdp.replace(**rows), operator
