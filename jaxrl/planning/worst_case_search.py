"""Robust MDPs as a sequence of static ones: incremental worst-case search."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.mdp import TabularMDP
from jaxrl.core.types import Array
from jaxrl.operators.bellman import BellmanOperator, describe
from jaxrl.planning.backups import is_shared
from jaxrl.planning.iteration import policy_evaluation, value_iteration
from jaxrl.planning.linearised import worst_case_kernel
from jaxrl.planning.solution import check_int, check_problem, repeat, tell_of_rounding


@struct.dataclass
class WorstCaseSearch:
    """The models found, the candidate policy, and bounds on the robust value from both sides."""

    values: Array  # [S] [return], max_a q_values: an upper bound on the robust value
    q_values: Array  # [S, A] [return], least optimum over the models found; -inf where illegal
    policy: Array  # [S, A], greedy in `q_values`
    policy_values: Array  # [S] [return], the policy's own worst case: a lower bound
    error_bound: Array  # [] [return], greatest distance of the bounds, errors of solution included
    kernels: Array  # [N, S, A, K], the models found; row 0 is the nominal one, unused rows are zero
    upper_values: Array  # [N, S] [return], `values` after each model; unused rows repeat the last
    lower_values: Array  # [N, S] [return], `policy_values` after each model
    num_models: Array  # [] int32, static problems solved
    converged: Array  # [] bool, the error bound is within the tolerance


def iwocs(
    mdp: TabularMDP,
    operator: BellmanOperator,
    *,
    tolerance: float | Array = 1e-6,
    max_models: int = 16,
) -> WorstCaseSearch:
    """IWOCS: solve a static model, add the worst model of the candidate policy, repeat.

        q_i  = min over j <= i of the optimum of model T_j,   T_0 nominal
        pi_i = greedy in q_i,   T_{i+1} = the worst model of pi_i

    until no model is worse for the candidate than q_i says. For (s,a)-rectangular sets a stationary
    policy's worst case is the same whether nature moves at every step or picks one model for good
    (static = dynamic), so that its worst model is nature's law at the policy's own robust values.
    Each static problem is an ordinary MDP. The optimum of any one model is an upper bound on the
    robust value, and their running minimum falls towards it.

    Args:
        mdp: the nominal model, discount < 1.
        operator: its successor functional is the ambiguity set, coherent and (s,a)-rectangular;
            with `Greedy` and a scalar head.
        tolerance: distance of the bounds to stop at, > 0 [return].
        max_models: N, models at most; static.

    Returns:
        `WorstCaseSearch`. The robust value lies between `policy_values` and `values` whether or not
        `converged`, up to `tolerance` / 8.

    Numerics:
        The published search can stand still before the bounds meet: a minimum over optima, each for
        its own model, need not tell what one policy gets from all of them, and then the same policy
        and model come again. Here nature's law at `values` is added in that case. Its optimum lies
        below one sweep of robust value iteration from `values`, so that the bound falls at least
        that fast.

    Raises:
        ValueError: the functional is no worst case over laws, shares its budget between actions,
            or a number is out of range.

    Example:
        >>> from jaxrl import outcome_mdp
        >>> from jaxrl.functionals import CVaR
        >>> mdp = outcome_mdp([[[0.5, 0.5]]], [[[0, 0]]], [[[0.0, 1.0]]], discount=0.5)
        >>> found = iwocs(mdp, BellmanOperator(successor_functional=CVaR(0.5)), tolerance=1e-4)
        >>> int(found.num_models), abs(float(found.values[0])) < 1e-4  # from 1 to 0 in two
        (2, True)

    Sources:
        Zouitine, Geist & Rachelson (2024), Solving robust MDPs as a sequence of static RL problems,
        algorithm 1; Iyengar (2005), Robust dynamic programming, section 2 (static = dynamic).
    """
    check_problem(mdp, operator, tolerance)
    check_int("max_models", max_models)
    if is_shared(operator) or not operator.successor_functional.facts.coherent:
        raise ValueError(
            f"{describe(operator.successor_functional)} is not the worst case over a set of laws "
            "for each state and action, which iwocs needs: use value_iteration."
        )
    if not (operator.improvement.facts.deterministic and operator.composition.facts.linear):
        raise ValueError("iwocs needs Greedy() and DiscountedSum(): use value_iteration.")
    found = _search(mdp, operator, tolerance, max_models)
    # What the bounds do not differ by are errors of solution.
    error = found.error_bound - jnp.maximum(jnp.max(found.values - found.policy_values), 0.0)
    tell_of_rounding(mdp, found, jnp.isfinite(error) & (error > tolerance), tolerance)
    return found


@partial(jax.jit, static_argnames="max_models")
def _search(
    mdp: TabularMDP, operator: BellmanOperator, tolerance: Array, max_models: int
) -> WorstCaseSearch:
    dtype, shape = mdp.prob.dtype, mdp.legal.shape
    accuracy = jnp.asarray(tolerance, dtype) / 8

    def add_model(state: tuple) -> tuple:
        found, kernel, inexact = state
        static = value_iteration(mdp.replace(prob=kernel), tolerance=accuracy)
        q_values = jnp.minimum(found.q_values, static.q_values)
        values = jnp.max(q_values, axis=1)
        policy = jax.nn.one_hot(jnp.argmax(q_values, axis=1), shape[1], dtype=dtype)
        own = policy_evaluation(mdp, policy, operator, tolerance=accuracy)
        inexact = jnp.maximum(inexact, static.error_bound)
        apart = jnp.maximum(jnp.max(values - own.values), 0.0)
        error = apart + inexact + own.error_bound
        row = found.num_models
        later = jnp.arange(max_models)[:, None] >= row
        found = WorstCaseSearch(
            values=values,
            q_values=q_values,
            policy=policy,
            policy_values=own.values,
            error_bound=error,
            kernels=found.kernels.at[row].set(kernel),
            upper_values=jnp.where(later, values, found.upper_values),
            lower_values=jnp.where(later, own.values, found.lower_values),
            num_models=row + 1,
            converged=error <= tolerance,
        )
        # The same bounds would give the same policy, and that the same model for ever.
        fell = jnp.where(mdp.legal, state[0].q_values - q_values, 0.0)
        is_still = jnp.max(fell) <= accuracy
        attacked = jnp.where(is_still, values, own.values)
        return found, worst_case_kernel(mdp, operator, attacked, policy), inexact

    empty = jnp.zeros((max_models, shape[0]), dtype)
    nothing = WorstCaseSearch(
        values=empty[0],
        q_values=jnp.where(mdp.legal, jnp.inf, -jnp.inf).astype(dtype),
        policy=jnp.zeros(shape, dtype),
        policy_values=empty[0],
        error_bound=jnp.full((), jnp.inf, dtype),
        kernels=jnp.zeros((max_models, *mdp.prob.shape), dtype),
        upper_values=empty,
        lower_values=empty,
        num_models=jnp.zeros((), jnp.int32),
        converged=jnp.zeros((), bool),
    )
    start = nothing, mdp.prob, jnp.zeros((), dtype)
    return repeat(add_model, lambda state: ~state[0].converged, start, max_models)[1][0]
