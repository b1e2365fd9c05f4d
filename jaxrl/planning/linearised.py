"""The derivative of a backup: a sparse matrix over states, and nature's law behind it."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrl.core import Struct
from jaxrl.core.mdp import TabularMDP
from jaxrl.core.types import Array, PyTree
from jaxrl.functionals.per_pair import PerPair, over_pairs
from jaxrl.operators.bellman import BellmanOperator
from jaxrl.operators.improvement import PerState
from jaxrl.planning.backups import (
    Prepared,
    discounts,
    is_large,
    is_shared,
    look_up,
    outcome_values,
    state_values,
    successor_values,
    worst_laws,
)


class StateMatrix(Struct):
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

    def matrix(self) -> Array:
        """W, `[S, S]`."""
        if self.next_state is None:
            return self.weights
        num_states = self.weights.shape[0]
        rows = jnp.arange(num_states)[:, None]
        blank = jnp.zeros((num_states, num_states), self.weights.dtype)
        return blank.at[rows, self.next_state].add(self.weights)


def linearise(prepared: Prepared, values: Array, q_values: Array, policy: Array) -> StateMatrix:
    """The derivative of a backup at `values`: the policy and nature's law, both frozen.

    W = sum_a dV/dq_a dq_a/dv, by the envelope theorem the policy's average of the worst-case
    kernels times the discounts. One row of K outcomes per state when the improvement is
    deterministic: applying W is then A times cheaper than a backup.

    Args:
        prepared: the model, and the operator with a scalar head.
        values: `[S]` [return], where to take the derivative.
        q_values: `[S, A]` [return], of a backup there.
        policy: `[S, A]`, of the same backup.
    """
    mdp, operator = prepared.mdp, prepared.operator
    shared = is_shared(operator)
    if operator.improvement.facts.deterministic and not shared:
        take = lambda leaf: _pick(leaf, jnp.argmax(policy, axis=1))  # noqa: E731
        mdp, operator = restrict(mdp, operator, take)
        if prepared.reward is not None:
            weights = prepared.weights
            weights = mdp.discount * mdp.prob if weights is None else take(weights)
            return _over_actions(mdp, weights)
        slopes = jnp.ones(mdp.prob.shape[:2], values.dtype)
    elif not shared:
        slopes = jax.grad(lambda q: jnp.sum(state_values(mdp, operator, q)[0]))(q_values)
    functional: PyTree = operator.successor_functional
    if is_large(mdp) and operator.composition.facts.linear and not shared:
        weights = slopes[..., None] * worst_laws(mdp, operator, values) * discounts(mdp)
        return _over_actions(mdp, weights)

    def worth(z: Array) -> Array:
        outcomes = operator.composition(mdp.reward, discounts(mdp), z)
        if shared:
            return jnp.sum(jax.vmap(functional.for_policy)(policy, mdp.prob, outcomes))
        return jnp.sum(slopes * over_pairs(functional, mdp.prob, outcomes))

    successors = jnp.broadcast_to(successor_values(mdp, values), mdp.prob.shape)
    return _over_actions(mdp, jax.grad(worth)(successors))


def _over_actions(mdp: TabularMDP, weights: Array) -> StateMatrix:
    """From weights `[S, A, K]`, summed over actions."""
    if mdp.is_dense:
        return StateMatrix(jnp.sum(weights, axis=1), None)
    num_states = weights.shape[0]
    return StateMatrix(weights.reshape(num_states, -1), mdp.next_state.reshape(num_states, -1))


def _pick(leaf: Array, actions: Array) -> Array:
    """`leaf[s, actions[s]]`: `[S, A, ...]` -> `[S, 1, ...]`."""
    num_states, num_actions = leaf.shape[:2]
    rows = jnp.reshape(leaf, (num_states * num_actions, *leaf.shape[2:]))
    return look_up(rows, jnp.arange(num_states) * num_actions + actions)[:, None]


def restrict(
    mdp: TabularMDP, operator: BellmanOperator, take: Callable[[Array], Array]
) -> tuple[TabularMDP, BellmanOperator]:
    """A model and an operator of some states or pairs, whose successors may be any state.

    Args:
        mdp: the model.
        operator: the operator.
        take: what is left of a leaf with leading axes `[S, A]`, or `[S]`.
    """
    names = ("prob", "next_state", "reward", "terminal", "legal")
    rows = {name: take(getattr(mdp, name)) for name in names}
    own = {
        name: jax.tree.map(lambda leaf: take(jnp.asarray(leaf)), part)
        for name, part in vars(operator).items()
        if isinstance(part, (PerPair, PerState))
    }
    return mdp.replace(**rows), operator.replace(**own)


@jax.jit
def worst_case_kernel(
    mdp: TabularMDP, operator: BellmanOperator, values: Array, policy: Array
) -> Array:
    """The law of outcomes that nature chooses for every pair: the functional's slope.

        w(s, a, k) = dF(p(s, a), x) / dx_k,   x = what the outcomes are worth at `values`

    For a worst case over a set of laws, w is the worst one, and `mdp.replace(prob=w)` the model
    against which a plan is as good as the operator says. Where the functional is not monotone or
    not translation equivariant the slope is no law, and the nominal one stands. A budget shared by
    the actions of a state is spent against `policy`; actions that it never takes keep their nominal
    law.

    Args:
        mdp: the model.
        operator: with a scalar head.
        values: `[S]` of the successors [return].
        policy: `[S, A]` probabilities; matters for a shared budget alone.

    Returns:
        `[S, A, K]`, on the outcomes of the model.

    Example:
        >>> from jaxrl import outcome_mdp
        >>> from jaxrl.functionals import CVaR
        >>> mdp = outcome_mdp([[[0.25, 0.75]]], [[[0, 0]]], [[[0.0, 8.0]]], discount=0.5)
        >>> operator = BellmanOperator(successor_functional=CVaR(0.5))
        >>> worst_case_kernel(mdp, operator, jnp.zeros(1), jnp.ones((1, 1))).tolist()
        [[[0.5, 0.5]]]

    Sources:
        Iyengar (2005), Robust dynamic programming, section 2 (the worst law of each pair); the
        slope is the envelope theorem.
    """
    functional: PyTree = operator.successor_functional
    if not (functional.facts.monotone and functional.facts.translation_equivariant):
        return mdp.prob
    if not is_shared(operator):
        return worst_laws(mdp, operator, values)

    def worth(outcomes: Array) -> Array:
        return jnp.sum(jax.vmap(functional.for_policy)(policy, mdp.prob, outcomes))

    outcomes = jnp.broadcast_to(outcome_values(mdp, operator, values), mdp.prob.shape)
    slopes, taken = jax.grad(worth)(outcomes), policy[..., None]
    return jnp.where(taken > 0, slopes / jnp.where(taken > 0, taken, 1.0), mdp.prob)
