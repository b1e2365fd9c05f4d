"""The values of a given policy, under any Bellman operator of a scalar head."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core.mdp import TabularMDP
from jaxrl.core.types import Array
from jaxrl.operators.bellman import BellmanOperator
from jaxrl.operators.improvement import FixedPolicy
from jaxrl.operators.per_state import PerState
from jaxrl.planning.acceleration import Acceleration, FrozenSolve, FrozenSweeps
from jaxrl.planning.fixed_point import DIRECT_STATES
from jaxrl.planning.solution import Solution
from jaxrl.planning.value_iteration import value_iteration


def policy_evaluation(
    mdp: TabularMDP,
    policy: Array,
    operator: BellmanOperator | None = None,
    *,
    tolerance: float | Array = 1e-6,
    max_iterations: int | Array = 10_000,
    initial_values: Array | None = None,
    acceleration: Acceleration | None = None,
) -> Solution:
    """The values of a policy: the fixed point with `FixedPolicy` in place of the improvement.

    v(s) = sum_a policy(a | s) F(p_sa, r_sa + d_sa v)

    F is the operator's successor functional: with an ambiguity set the worst case against this
    policy, with a risk measure its nested risk. A functional with a budget shared over the actions
    of a state spends it against the policy as a whole. For a linear operator one linear solve, and
    one sweep that certifies it, are all.

    Args:
        mdp: the model.
        policy: `[S, A]`, probabilities, or `[S]`, integers: one action for each state. Probability
            given to illegal actions is shared among the legal.
        operator: whose functional and composition count; its improvement does not.
        tolerance: of the values, > 0 [return].
        max_iterations: sweeps of the operator at most.
        initial_values: `[S]`, where to start [return]; default as in `value_iteration`.
        acceleration: default `FrozenSolve()`, linear equations, for up to 512 states, and
            `FrozenSweeps()`, iteration, for more.

    Returns:
        `Solution`, whose `policy` is the given one. Differentiable in the policy too.

    Raises:
        ValueError: the policy has another shape or is no policy; and as `value_iteration`.

    Example:
        >>> import jaxrl
        >>> mdp = jaxrl.tabular_mdp([[[1.0], [1.0]]], [[2.0, 0.0]], discount=0.5)
        >>> solution = policy_evaluation(mdp, jnp.array([[0.5, 0.5]]), tolerance=1e-5)
        >>> f"{float(solution.values[0]):.3f}"
        '2.000'

    Sources:
        Bellman (1957), Dynamic Programming; Iyengar (2005), Robust dynamic programming, section 3.
    """
    operator = BellmanOperator() if operator is None else operator
    policy = jnp.asarray(policy)
    if policy.ndim == 1 and jnp.issubdtype(policy.dtype, jnp.integer):
        policy = jax.nn.one_hot(policy, mdp.num_actions, dtype=mdp.prob.dtype)
    shape = mdp.legal.shape
    if policy.shape != shape:
        raise ValueError(
            f"policy must have shape {list(shape)} (probabilities) or {list(shape[:1])} (integer "
            f"actions); got {list(policy.shape)} of {policy.dtype}."
        )
    if acceleration is None:
        few = mdp.num_states <= DIRECT_STATES
        acceleration = FrozenSolve() if few else FrozenSweeps(200)
    improvement = PerState(FixedPolicy(policy.astype(mdp.prob.dtype)))
    return value_iteration(
        mdp,
        operator.replace(improvement=improvement),
        tolerance=tolerance,
        max_iterations=max_iterations,
        initial_values=initial_values,
        acceleration=acceleration,
    )
