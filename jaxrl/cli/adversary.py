"""Nature's kernel against a plan, and why an operator may not contract."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core.mdp import TabularMDP
from jaxrl.core.types import Array
from jaxrl.functionals import Mean
from jaxrl.operators import BellmanOperator
from jaxrl.operators.bellman import describe
from jaxrl.planning.sweeps import is_shared, outcome_values, pair_by_pair


@jax.jit
def worst_case_kernel(
    mdp: TabularMDP, operator: BellmanOperator, values: Array, policy: Array
) -> Array:
    """The law of outcomes that nature chooses for every pair: the functional's slope.

    w(s, a, k) = dF(p(s, a), x) / dx_k,   x = what the outcomes are worth at `values`

    Where the functional is not monotone or not translation equivariant the slope is no law, and
    the nominal one stands. A budget shared by the actions of a state is spent against `policy`;
    actions that it never takes keep their nominal law.

    Args:
        mdp: the model.
        operator: with a scalar head.
        values: `[S]` of the successors [return].
        policy: `[S, A]` probabilities.

    Returns:
        `[S, A, K]`, on the outcomes of the model.
    """
    functional = operator.successor_functional
    if not (functional.monotone and functional.translation_equivariant):
        return mdp.prob
    if not is_shared(operator):
        return pair_by_pair(mdp, operator, values, lambda f, p, x: jax.grad(f, argnums=1)(p, x))

    def worth(outcomes: Array) -> Array:
        return jnp.sum(jax.vmap(functional.for_policy)(policy, mdp.prob, outcomes))

    outcomes = jnp.broadcast_to(outcome_values(mdp, operator, values), mdp.prob.shape)
    slopes, taken = jax.grad(worth)(outcomes), policy[..., None]
    return jnp.where(taken > 0, slopes / jnp.where(taken > 0, taken, 1.0), mdp.prob)


def why_no_contraction(operator: BellmanOperator) -> str:
    """One line on why an operator has no certificate of contraction; empty when it has."""
    if operator.contracts:
        return ""
    functional, reasons = operator.successor_functional, []
    if not functional.monotone:
        reasons.append(f"{describe(functional)} is not monotone")
    if not functional.translation_equivariant:
        reasons.append(f"{describe(functional)} does not move with a sure amount")
    if not operator.improvement.nonexpansive:
        reasons.append(f"{describe(operator.improvement)} can spread values apart")
    if not operator.composition.contracts:
        reasons.append(f"{describe(operator.composition)} does not shrink by the discount")
    if not isinstance(operator.return_functional, Mean):
        reasons.append(f"{describe(operator.return_functional)} of a return law chooses actions")
    return (
        f"this operator has no certificate of contraction ({'; '.join(reasons)}): a fixed point "
        "may not exist, may not be the only one, and may not be approached."
    )
