"""The derivative of a sweep: a sparse matrix over states."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.mdp import TabularMDP
from jaxrl.core.types import Array
from jaxrl.functionals.per_pair import PerPair, over_pairs
from jaxrl.operators.bellman import BellmanOperator
from jaxrl.operators.per_state import PerState
from jaxrl.planning.sweeps import (
    Prepared,
    discounts,
    is_large,
    is_shared,
    look_up,
    pair_by_pair,
    state_values,
    successor_values,
)


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
        return jnp.sum(self.weights * look_up(x, self.next_state), axis=-1)

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
    if not shared:
        return _rows(mdp, _weights(mdp, operator, values, slopes))
    functional = operator.successor_functional

    def worth(z: Array) -> Array:
        outcomes = operator.composition(mdp.reward, discounts(mdp), z)
        return jnp.sum(jax.vmap(functional.for_policy)(policy, mdp.prob, outcomes))

    successors = jnp.broadcast_to(successor_values(mdp, values), mdp.prob.shape)
    return _rows(mdp, jax.grad(worth)(successors))


def linearise_prepared(prepared: Prepared, values: Array, q_values: Array, policy: Array) -> Rows:
    """As `linearise`, cheaper where the operator is linear."""
    mdp, operator = prepared.mdp, prepared.operator
    if prepared.reward is None or not operator.improvement.deterministic:
        return linearise(mdp, operator, values, q_values, policy)
    actions = jnp.argmax(policy, axis=1)
    if prepared.weights is None:
        weights = mdp.discount * _pick(mdp.prob, actions)[:, 0]
    else:
        weights = _pick(prepared.weights, actions)[:, 0]
    if mdp.is_dense:
        return Rows(weights, None)
    return Rows(weights, _pick(mdp.next_state, actions)[:, 0])


def _weights(mdp: TabularMDP, operator: BellmanOperator, values: Array, slopes: Array) -> Array:
    """Derivative of sum_sa slopes_sa q_sa in the value after each outcome, `[S, A, K]`."""
    functional = operator.successor_functional
    successors = jnp.broadcast_to(successor_values(mdp, values), mdp.prob.shape)
    if is_large(mdp) and operator.composition.linear:
        laws = pair_by_pair(mdp, operator, values, lambda f, p, x: jax.grad(f, argnums=1)(p, x))
        return slopes[..., None] * laws * discounts(mdp)

    def worth(z: Array) -> Array:
        outcomes = operator.composition(mdp.reward, discounts(mdp), z)
        return jnp.sum(slopes * over_pairs(functional, mdp.prob, outcomes))

    return jax.grad(worth)(successors)


def _rows(mdp: TabularMDP, weights: Array) -> Rows:
    """From weights `[S, A, K]`, summed over actions."""
    if mdp.is_dense:
        return Rows(jnp.sum(weights, axis=1), None)
    num_states = weights.shape[0]
    return Rows(weights.reshape(num_states, -1), mdp.next_state.reshape(num_states, -1))


def pick_actions(
    mdp: TabularMDP, operator: BellmanOperator, actions: Array
) -> tuple[TabularMDP, BellmanOperator]:
    """The model and the operator with one action only in each state, `actions[S]`."""

    names = ("prob", "next_state", "reward", "legal")
    picked = {name: _pick(getattr(mdp, name), actions) for name in names}
    terminal = mdp.terminal if mdp.is_endless else _pick(mdp.terminal, actions)
    functional = operator.successor_functional
    if isinstance(functional, PerPair):
        functional = jax.tree.map(lambda x: _pick(jnp.asarray(x), actions), functional)
    small = mdp.replace(terminal=terminal, **picked)
    return small, operator.replace(successor_functional=functional)


def _pick(leaf: Array, actions: Array) -> Array:
    """`leaf[s, actions[s]]`: `[S, A, ...]` -> `[S, 1, ...]`."""
    num_states, num_actions = leaf.shape[:2]
    rows = jnp.reshape(leaf, (num_states * num_actions, *leaf.shape[2:]))
    return look_up(rows, jnp.arange(num_states) * num_actions + actions)[:, None]


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
