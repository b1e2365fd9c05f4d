"""Nature's answer to a plan: the law of outcomes that a risk or an ambiguity set stands for."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core.mdp import TabularMDP
from jaxrl.core.types import Array
from jaxrl.operators.bellman import BellmanOperator
from jaxrl.planning.sweeps import is_shared, outcome_values, pair_by_pair


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
    functional = operator.successor_functional
    if not (functional.facts.monotone and functional.facts.translation_equivariant):
        return mdp.prob
    if not is_shared(operator):
        return pair_by_pair(mdp, operator, values, lambda f, p, x: jax.grad(f, argnums=1)(p, x))

    def worth(outcomes: Array) -> Array:
        return jnp.sum(jax.vmap(functional.for_policy)(policy, mdp.prob, outcomes))

    outcomes = jnp.broadcast_to(outcome_values(mdp, operator, values), mdp.prob.shape)
    slopes, taken = jax.grad(worth)(outcomes), policy[..., None]
    return jnp.where(taken > 0, slopes / jnp.where(taken > 0, taken, 1.0), mdp.prob)
