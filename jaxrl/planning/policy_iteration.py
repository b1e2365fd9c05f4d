"""Policy iteration, exact and modified, for any Bellman operator of a scalar head."""

from __future__ import annotations

from jaxrl.core.mdp import TabularMDP
from jaxrl.core.types import Array
from jaxrl.operators.bellman import BellmanOperator
from jaxrl.planning.acceleration import FrozenSolve, FrozenSweeps
from jaxrl.planning.solution import Solution
from jaxrl.planning.value_iteration import value_iteration

MOST_STATES = 20_000  # the matrix of as many states takes 3.2 GB


def policy_iteration(
    mdp: TabularMDP,
    operator: BellmanOperator | None = None,
    *,
    tolerance: float | Array = 1e-6,
    max_iterations: int | Array = 1_000,
    initial_values: Array | None = None,
) -> Solution:
    """`value_iteration` that evaluates each policy by solving its linear equations.

    With the plain operator it is Howard's policy iteration. With a robust, risk-averse or
    regularised one it is Newton's method: nature's law and the policy are held fixed together,
    which need not approach the solution; a proposal that does not is replaced by a plain sweep.
    Each iteration factorises a matrix `[S, S]`: a few iterations are enough.

    Args:
        mdp: the model, of at most 20,000 states.
        operator: default `BellmanOperator()`: expectation, greedy.
        tolerance: of the values, > 0 [return].
        max_iterations: sweeps of the operator at most.
        initial_values: `[S]`, where to start [return]; default as there.

    Returns:
        `Solution`; see `value_iteration`.

    Raises:
        ValueError: as `value_iteration`, or too many states.

    Example:
        >>> import jaxrl
        >>> mdp = jaxrl.tabular_mdp([[[0.5, 0.5]], [[0.0, 1.0]]], [[2.0], [0.0]], discount=0.5)
        >>> [f"{v:.3f}" for v in policy_iteration(mdp, tolerance=1e-5).values.tolist()]
        ['2.667', '0.000']

    Sources:
        Howard (1960), Dynamic programming and Markov processes; Puterman & Brumelle (1979), On the
        convergence of policy iteration in stationary dynamic programming.
    """
    if mdp.num_states > MOST_STATES:
        raise ValueError(
            f"policy_iteration would factorise a matrix of {mdp.num_states} x {mdp.num_states} "
            f"numbers; the limit is {MOST_STATES} states. Use modified_policy_iteration."
        )
    return value_iteration(
        mdp,
        operator,
        tolerance=tolerance,
        max_iterations=max_iterations,
        initial_values=initial_values,
        acceleration=FrozenSolve(),
    )


def modified_policy_iteration(
    mdp: TabularMDP,
    operator: BellmanOperator | None = None,
    *,
    num_inner: int = 20,
    tolerance: float | Array = 1e-6,
    max_iterations: int | Array = 10_000,
    initial_values: Array | None = None,
) -> Solution:
    """`value_iteration` that evaluates each policy by `num_inner` sweeps of it alone.

    `num_inner = 0` is value iteration, without end it is policy iteration. With a robust or
    risk-averse operator nature's law is held fixed too, so that the inner sweeps are linear; a
    proposal that brings the values no nearer is replaced by a plain sweep.

    Args:
        mdp: the model.
        operator: default `BellmanOperator()`: expectation, greedy.
        num_inner: sweeps of the policy between two of the operator, >= 0; static.
        tolerance: of the values, > 0 [return].
        max_iterations: sweeps of the operator at most; inner ones are not counted.
        initial_values: `[S]`, where to start [return]; default as in `value_iteration`.

    Returns:
        `Solution`; see `value_iteration`.

    Raises:
        ValueError: as `value_iteration`, or `num_inner` is negative.

    Example:
        >>> import jaxrl
        >>> mdp = jaxrl.tabular_mdp([[[0.5, 0.5]], [[0.0, 1.0]]], [[2.0], [0.0]], discount=0.5)
        >>> [f"{v:.3f}" for v in modified_policy_iteration(mdp, tolerance=1e-5).values.tolist()]
        ['2.667', '0.000']

    Sources:
        Puterman & Shin (1978), Modified policy iteration algorithms for discounted Markov decision
        problems; Kaufman & Schaefer (2013), Robust modified policy iteration.
    """
    if num_inner < 0:
        raise ValueError(f"num_inner={num_inner} is out of range: give at least 0.")
    return value_iteration(
        mdp,
        operator,
        tolerance=tolerance,
        max_iterations=max_iterations,
        initial_values=initial_values,
        acceleration=FrozenSweeps(num_inner, 0.0),
    )
