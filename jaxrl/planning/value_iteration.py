"""Value iteration with a certificate, for any Bellman operator of a scalar head."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core.mdp import TabularMDP
from jaxrl.core.schedules import has_schedule
from jaxrl.core.types import Array
from jaxrl.operators.bellman import BellmanOperator, describe
from jaxrl.operators.improvement import Greedy
from jaxrl.planning.acceleration import Acceleration, FrozenSweeps
from jaxrl.planning.ends import with_ends
from jaxrl.planning.fixed_point import solve
from jaxrl.planning.solution import Solution
from jaxrl.planning.sweeps import has_fixed_policy, is_shared


def value_iteration(
    mdp: TabularMDP,
    operator: BellmanOperator | None = None,
    *,
    tolerance: float | Array = 1e-6,
    max_iterations: int | Array = 10_000,
    initial_values: Array | None = None,
    acceleration: Acceleration | None = None,
) -> Solution:
    """The fixed point v = T v of a Bellman operator, within `tolerance`.

    With the plain operator, v(s) = max_a sum_k p_k (r_k + d_k v(s_k)). Robust, risk-averse (nested
    risk), regularised and evaluation operators are the same call.

    It stops when the error bound is within the tolerance, when rounding stops it from falling
    (float32 cannot reach 1e-6 at values of 100: `converged` is then false and `error_bound` says
    what was reached), when a number is not finite, or after `max_iterations`. An operator without
    a certificate (see `certificates.py`) stops at a *residual* within the tolerance. The same goes
    for discount 1 where some policy, good or bad, never ends. A greedy policy then takes, among
    actions of equal value, one that comes to an end; one that does not earn its values is not
    called converged.

    It may be called inside `jit`, `vmap` (over models of equal shape, operators and tolerances)
    and `grad`. For thousands of small models at once, `jax.lax.map(solver, mdps, batch_size=32)`
    keeps each batch in the cache.

    Args:
        mdp: the model. Values have the dtype of its probabilities. Rewards that do not depend on
            the outcome may be kept once for each pair, `mdp.replace(reward=reward[:, :, None])`:
            large models are then read in half the time.
        operator: default `BellmanOperator()`: expectation, greedy.
        tolerance: of the values, > 0 [return].
        max_iterations: sweeps of the operator at most.
        initial_values: `[S]`, where to start [return]; default 0.
        acceleration: default `FrozenSweeps()`, modified policy iteration; `Plain()` for none.

    Returns:
        `Solution`. The policy is that of the last sweep, and `q_values` are as near to the exact
        ones as the values. Derivatives flow through values, q_values and policy.

    Raises:
        ValueError: a concrete argument is out of range, or the operator cannot be planned with.

    Example:
        >>> import jaxrl
        >>> mdp = jaxrl.tabular_mdp([[[0.5, 0.5]], [[0.0, 1.0]]], [[2.0], [0.0]], discount=0.5)
        >>> solution = value_iteration(mdp, tolerance=1e-5)
        >>> [f"{v:.3f}" for v in solution.values.tolist()], bool(solution.converged)
        (['2.667', '0.000'], True)

    Sources:
        Bellman (1957), Dynamic Programming; MacQueen (1966), A modified dynamic programming method
        for Markovian decision problems, and Porteus (1971), Some bounds for discounted sequential
        decision processes (the bounds); Iyengar (2005), Robust dynamic programming.
    """
    operator = BellmanOperator() if operator is None else operator
    acceleration = FrozenSweeps() if acceleration is None else acceleration
    check_problem(mdp, operator, tolerance, max_iterations, initial_values)
    solved = _solve(mdp, operator, tolerance, max_iterations, initial_values, acceleration)
    is_stalled = (solved.num_iterations < max_iterations) & jnp.isfinite(solved.residual)
    tell_of_rounding(mdp, solved, is_stalled, tolerance)
    return with_ends(mdp, operator, solved, tolerance, max_iterations)


_solve = jax.jit(solve)


def tell_of_rounding(
    mdp: TabularMDP, solution: Any, is_stalled: bool | Array, tolerance: Any
) -> None:
    """Warn where float32 is what stopped an iteration before the tolerance.

    Args:
        mdp: the model.
        solution: with `values` and `converged`.
        is_stalled: whether rounding alone can have stopped it, if it did not converge.
        tolerance: asked for [return].
    """
    numbers = (solution, is_stalled, tolerance)
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(numbers))
    if traced or mdp.prob.dtype != np.float32:
        return
    finite = np.all(np.isfinite(solution.values), axis=-1)
    if np.any(finite & np.asarray(is_stalled) & ~np.asarray(solution.converged)):
        # The same words for the same tolerance, which Python repeats once for each place.
        warnings.warn(
            f"Rounding of float32 stops the iteration before tolerance={np.max(tolerance):.2g}; "
            "error_bound says how near it came. Ask for less, or make the model and plan inside "
            "`with jax.enable_x64(True):`.",
            stacklevel=3,
        )


def check_problem(
    mdp: TabularMDP,
    operator: BellmanOperator,
    tolerance: Any,
    max_iterations: Any,
    initial_values: Any,
) -> None:
    """Refuse concrete arguments that are out of range, and operators that tables cannot hold."""
    if mdp.prob.ndim != 3:
        raise ValueError(
            f"mdp.prob must have shape [S, A, K]; got {list(mdp.prob.shape)}. Map the solver over "
            "a batch of models: jax.vmap(value_iteration)(mdps)."
        )
    if mdp.prob.dtype == np.float64 != jnp.result_type(float):
        raise ValueError(
            f"mdp holds {mdp.prob.dtype} numbers, but 64-bit numbers are off here: plan inside "
            "`with jax.enable_x64(True):`, where the model was made."
        )
    if operator.head.shape != ():
        raise ValueError(
            f"{describe(operator.head)} stores more than a value. Use BellmanOperator(head="
            "Scalar(), ...) here, or distributional_value_iteration for laws of returns."
        )
    operator.require_successors(mdp.num_outcomes, exact=True)
    if has_schedule(operator):
        raise ValueError(
            "A number of the operator is a schedule, which only training has a use for: give a "
            "plan the number itself."
        )
    fits = has_fixed_policy(operator) or isinstance(operator.improvement, Greedy)
    if is_shared(operator) and not fits:
        raise ValueError(
            f"{describe(operator.successor_functional)} finds the policy of a state itself: use "
            f"Greedy() or FixedPolicy, not {describe(operator.improvement)}."
        )
    if not isinstance(tolerance, jax.core.Tracer) and not np.all(np.asarray(tolerance) > 0):
        raise ValueError(f"tolerance={tolerance} is out of range: give a value in (0, inf).")
    if not isinstance(max_iterations, jax.core.Tracer) and not np.all(
        np.asarray(max_iterations) >= 1
    ):
        raise ValueError(f"max_iterations={max_iterations} is out of range: give at least 1.")
    shape = (mdp.num_states,)
    if initial_values is not None and jnp.shape(initial_values) != shape:
        raise ValueError(
            f"initial_values must have shape {list(shape)}; got {list(jnp.shape(initial_values))}."
        )
