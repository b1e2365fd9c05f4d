"""Solvers by scalar backups: value and policy iteration, backward induction, worst-case search."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jaxrl.core import Struct
from jaxrl.core.mdp import TabularMDP
from jaxrl.core.types import Array
from jaxrl.operators.bellman import BellmanOperator, describe
from jaxrl.operators.improvement import FixedPolicy, PerState
from jaxrl.planning.acceleration import Acceleration, FrozenSolve, FrozenSweeps
from jaxrl.planning.backups import backup, is_shared
from jaxrl.planning.fixed_point import DIRECT_STATES, solve, with_ends
from jaxrl.planning.linearised import worst_case_kernel
from jaxrl.planning.solution import (
    Solution,
    check_int,
    check_problem,
    check_shape,
    is_stalled,
    repeat,
    tell_of_rounding,
)

MOST_STATES = 20_000  # the matrix of as many states takes 3.2 GB


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
        acceleration: default `FrozenSweeps()`, modified policy iteration; `FrozenSweeps(0)`
            for none.

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
    operator = check_problem(mdp, operator, tolerance, max_iterations)
    if initial_values is not None:
        check_shape("initial_values", initial_values, (mdp.num_states,))
    acceleration = FrozenSweeps() if acceleration is None else acceleration
    solved = solve(mdp, operator, tolerance, max_iterations, initial_values, acceleration)
    tell_of_rounding(mdp, solved, is_stalled(solved, max_iterations), tolerance)
    return with_ends(mdp, operator, solved, tolerance, max_iterations)


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
            f"numbers; the limit is {MOST_STATES} states. Use value_iteration."
        )
    return value_iteration(
        mdp,
        operator,
        tolerance=tolerance,
        max_iterations=max_iterations,
        initial_values=initial_values,
        acceleration=FrozenSolve(),
    )


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
    policy, shape = jnp.asarray(policy), mdp.legal.shape
    if policy.ndim == 1 and jnp.issubdtype(policy.dtype, jnp.integer):
        policy = jax.nn.one_hot(policy, mdp.num_actions, dtype=mdp.prob.dtype)
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


class FiniteHorizonSolution(Struct):
    """Values and policy at each time: row t is for the steps t, t + 1, ..., H - 1."""

    values: Array  # [H + 1, S] [return], of what follows from time t; row H is `terminal_values`
    q_values: Array  # [H, S, A] [return]; -inf where illegal
    policy: Array  # [H, S, A], probabilities


def finite_horizon(
    mdp: TabularMDP,
    operator: BellmanOperator | None = None,
    *,
    horizon: int,
    terminal_values: Array | None = None,
) -> FiniteHorizonSolution:
    """The best time-dependent policy over `horizon` steps, by backward induction.

        V_H = terminal_values,  V_t = T V_{t+1},  t = H - 1, ..., 0

    with T the operator: any functional (robust and risk-averse ones are then *nested*, chosen anew
    at every step), improvement and composition. Values at time t are counted from time t on:
    `mdp.discount` acts once a step, and 1 gives the plain sum. As H grows, row 0 tends to the
    discounted fixed point when the operator contracts.

    Args:
        mdp: the model. What ends the episode is worth its reward and no terminal value.
        operator: with a scalar head; default the risk-neutral optimum.
        horizon: H, steps, at least 1.
        terminal_values: `[S]`, worth of the state at time H [return]; default zero.

    Returns:
        `FiniteHorizonSolution`. For a functional whose budget is shared by the actions of a state,
        q-values are those of each action alone with the whole budget.

    Raises:
        ValueError: the horizon or a shape is wrong, or the operator needs the law of returns.

    Numerics:
        H sweeps; exact but for the rounding of each, which the later ones discount. Compiled once
        for each horizon.

    Example:
        >>> from jaxrl import tabular_mdp
        >>> mdp = tabular_mdp([[[1.0], [1.0]]], [[1.0, 3.0]], discount=1.0)
        >>> finite_horizon(mdp, horizon=2).values[:, 0].tolist()
        [6.0, 3.0, 0.0]

    Sources:
        Bellman (1957), Dynamic Programming, chapter III; Puterman (1994), Markov Decision
        Processes, section 4.5; Iyengar (2005), Robust dynamic programming, section 2 (robust).
    """
    operator = check_problem(mdp, operator)
    check_int("horizon", horizon)
    if terminal_values is None:
        terminal_values = jnp.zeros_like(mdp.initial)
    terminal_values = jnp.asarray(terminal_values, mdp.prob.dtype)
    check_shape("terminal_values", terminal_values, (mdp.num_states,))
    return _finite_horizon(mdp, operator, terminal_values, horizon)


@partial(jax.jit, static_argnames="horizon")
def _finite_horizon(
    mdp: TabularMDP, operator: BellmanOperator, terminal_values: Array, horizon: int
) -> FiniteHorizonSolution:
    def back(later: Array, _: None):
        values, q_values, policy = backup(mdp, operator, later)
        return values, (values, jnp.where(mdp.legal, q_values, -jnp.inf), policy)

    _, rows = jax.lax.scan(back, terminal_values, None, length=horizon, reverse=True)
    values = jnp.concatenate([rows[0], terminal_values[None]])
    return FiniteHorizonSolution(values, *rows[1:])


class WorstCaseSearch(Struct):
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
