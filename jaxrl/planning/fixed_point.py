"""The fixed point of a scalar operator: its loop, its derivatives, and ties of its policy.

At discount 1 a greedy policy may be one that never comes to an end: `with_ends` looks for another.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core.mdp import TabularMDP
from jaxrl.core.types import Array, Number, is_traced
from jaxrl.operators.bellman import BellmanOperator
from jaxrl.operators.improvement import FixedPolicy, PerState
from jaxrl.planning.acceleration import Acceleration, Swept
from jaxrl.planning.backups import backup, is_shared, look_up, prepare
from jaxrl.planning.certificates import Bounds, bound, candidates, certify
from jaxrl.planning.linearised import StateMatrix, linearise
from jaxrl.planning.solution import Solution, repeat

DIRECT_STATES = 512  # up to so many states linear equations are solved by factorisation
STALL = 0.25  # of the bound that rounding alone would leave: no sweep can better it by much


@jax.jit
def solve(
    mdp: TabularMDP,
    operator: BellmanOperator,
    tolerance: Array | float,
    max_iterations: Array | int,
    initial_values: Array | None,
    acceleration: Acceleration,
) -> Solution:
    """Sweep until certified, stalled at rounding, not finite, or out of iterations.

    Values, q and policy are differentiable in every number of the model and the operator, by the
    implicit function theorem; the loop itself is not differentiated, and the initial values and
    the tolerance have no derivative.
    """
    fixed = jax.lax.stop_gradient((mdp, operator, initial_values, tolerance, acceleration))
    solution = _iterate(*fixed, max_iterations)
    parts = (solution.values, solution.q_values, solution.policy)
    values, q_values, policy = implicit(mdp, operator, *parts)
    q_values = jnp.where(mdp.legal, q_values, -jnp.inf)
    return solution.replace(values=values, q_values=q_values, policy=policy)


def _iterate(
    mdp: TabularMDP,
    operator: BellmanOperator,
    initial_values: Array | None,
    tolerance: Number,
    acceleration: Acceleration,
    max_iterations: Array | int,
) -> Solution:
    dtype = mdp.prob.dtype
    tolerance = jnp.asarray(tolerance, dtype)
    prepared = prepare(mdp, operator)
    certificate = certify(prepared)

    def swept_at(point: Array, parts: tuple[Array, Array, Array]) -> Swept:
        values, q_values, policy = (part.astype(dtype) for part in parts)
        return Swept(point, values, q_values, policy, bound(certificate, point, values))

    def is_done(bounds: Bounds) -> Array:
        return jnp.where(certificate.exists, bounds.error_bound, bounds.residual) <= tolerance

    def unfinished(state: tuple) -> Array:
        best, _, _, was_refused = state
        bounds = best.bounds
        # The spread to which rounding alone amounts.
        floor = bounds.rounding * jnp.maximum(factor, 1.0)
        goes_on = (jnp.isfinite(bounds.spread) | was_refused) & ~is_done(bounds)
        return goes_on & ~(bounds.spread <= STALL * floor)

    def improve(state: tuple) -> tuple:
        best, memory, known, was_refused = state
        goal = tolerance / jnp.maximum(factor, 1.0)
        proposal, memory = jax.lax.cond(
            was_refused,
            lambda: (best.plain, memory),
            lambda: acceleration.propose(prepared, best, goal, memory),
        )
        point = proposal.astype(dtype)
        if known is None:
            parts = prepared.backup(point)
        else:
            parts, known = known.backup(prepared, certificate, point)
        swept = swept_at(point, parts)
        # What a plain sweep would have left of the distance.
        share = jnp.minimum(jnp.where(certificate.exists, certificate.discount, 1.0), 1.0)
        accepted = (swept.bounds.spread <= share * best.bounds.spread) | was_refused
        kept = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), swept, best)
        return kept, memory, known, ~accepted

    factor = jnp.where(certificate.exists, certificate.high, 0.0)
    # Behind the barrier, or the compiler works out what follows from zeros, for seconds.
    zero = jax.lax.optimization_barrier(jnp.zeros((mdp.num_states,), dtype))
    first = zero if initial_values is None else initial_values.astype(dtype)
    is_known = initial_values is None and prepared.knows_zero
    best = swept_at(first, prepared.backup_of_zero()) if is_known else _nowhere(mdp, first)
    if is_known and prepared.reward is None:
        # A law of mass 1 + 1e-6 may be worth other than it says.
        far = jnp.full_like(best.bounds.error_bound, jnp.inf)
        best = best.replace(bounds=best.bounds.replace(error_bound=far, residual=far))
    memory, known = acceleration.init(prepared, first), candidates(prepared, first)
    begin = best, memory, known, jnp.full((), not is_known)
    count, (best, _, known, _) = repeat(improve, unfinished, begin, max_iterations - is_known)
    q_values = best.q_values if known is None else known.complete(prepared, best.point)
    return Solution(
        values=best.plain,
        q_values=q_values + best.bounds.shift,
        policy=best.policy,
        residual=best.bounds.residual,
        error_bound=best.bounds.error_bound,
        num_iterations=count + is_known,
        converged=is_done(best.bounds),
    )


def _nowhere(mdp: TabularMDP, first: Array) -> Swept:
    """Before the first sweep, which is made at `first` as if a proposal had just been refused."""
    zero, table = jnp.zeros((), first.dtype), jnp.zeros(mdp.legal.shape, first.dtype)
    far = zero + jnp.inf
    return Swept(first, first, table, table, Bounds(zero, far, far, far, zero, zero))


@jax.custom_jvp
def implicit(
    mdp: TabularMDP, operator: BellmanOperator, values: Array, q_values: Array, policy: Array
) -> tuple[Array, Array, Array]:
    """A fixed point as it stands, with the derivatives of the implicit function theorem.

    From v = T(v, x): dv = (1 - W)^-1 dT/dx dx, with W the derivative of T in v. At a kink (two
    best actions, two worst laws) it is the derivative on one side. First derivatives only.

    Args:
        mdp: the model, part of x.
        operator: part of x.
        values: `[S]`, v [return].
        q_values: `[S, A]` [return].
        policy: `[S, A]`.
    """
    return values, q_values, policy


@implicit.defjvp
def _implicit_jvp(primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    mdp, operator, values, q_values, policy = primals
    _, (change, _, _) = jax.jvp(lambda m, o: backup(m, o, values), (mdp, operator), tangents[:2])
    change = change.astype(values.dtype)
    prepared = prepare(*jax.lax.stop_gradient((mdp, operator)))
    rows = jax.lax.stop_gradient(linearise(prepared, values, q_values, policy))
    moved = jax.lax.custom_linear_solve(
        lambda x: x - rows.apply(x),
        change,
        solve=partial(_solve_rows, rows, False),
        transpose_solve=partial(_solve_rows, rows, True),
    )
    whole = (*tangents[:2], moved)
    _, dq, dpolicy = jax.jvp(backup, (mdp, operator, values), whole)[1]
    out = (moved, dq.astype(q_values.dtype), dpolicy.astype(policy.dtype))
    return (values, q_values, policy), out


def _solve_rows(
    rows: StateMatrix, transposed: bool, system: Callable[[Array], Array], right: Array
) -> Array:
    """x with x - W x = `right`, or with the transpose of W; the left side is `system(x)`."""
    num_states = right.shape[0]
    if num_states <= DIRECT_STATES:
        matrix = jnp.eye(num_states, dtype=right.dtype) - rows.matrix()
        return jnp.linalg.solve(matrix.T if transposed else matrix, right)
    # Krylov steps do most of the work; sweeps, which contract, make sure of the rest.
    enough: Any = 100 * jnp.finfo(right.dtype).eps
    x, _ = jax.scipy.sparse.linalg.gmres(
        system, right, tol=enough, restart=30, maxiter=20, solve_method="batched"
    )
    scale = jnp.maximum(jnp.linalg.norm(right), jnp.finfo(right.dtype).tiny)

    def refine(state: tuple) -> tuple:
        x = state[0] + state[1]
        return x, right - system(x)

    unfinished = lambda state: jnp.linalg.norm(state[1]) > 1e3 * enough * scale  # noqa: E731
    return repeat(refine, unfinished, (x, right - system(x)), 10_000)[1][0]


def with_ends(
    mdp: TabularMDP,
    operator: BellmanOperator,
    solution: Solution,
    tolerance: float | Array,
    max_iterations: int | Array,
) -> Solution:
    """A solution whose greedy policy earns its values, or is not called converged.

    At discount 1 an action that leads round in a circle, for a reward of 0, is worth as much as
    the best one. A policy of such actions never gets what it promises. Among actions whose values
    differ by no more than the sweep's own error, states whose greedy action leads to no end take
    the first that does (a search backwards from the ends, then from states of value 0). States
    that still reach no end are evaluated under the policy: where that is not their value,
    `converged` is false.

    Args:
        mdp: the model; below discount 1 every policy earns its values, and nothing is done.
        operator: nothing is done either unless its improvement is greedy, or where nature's
            budget is shared over actions, against which the best policy may be a mixture.
        solution: of a solver.
        tolerance: of the values [return].
        max_iterations: sweeps of the evaluation at most.
    """
    if not may_circle(mdp, operator):
        return solution
    fixed = jax.lax.stop_gradient((mdp, operator, solution, tolerance))
    policy, earned = _settle(*fixed, max_iterations)
    return solution.replace(policy=policy, converged=solution.converged & earned)


def may_circle(mdp: TabularMDP, operator: BellmanOperator) -> bool:
    """Whether a solver's policy could be greedy for a way that leads to no end."""
    chooses = operator.improvement.facts.deterministic and not is_shared(operator)
    return chooses and (is_traced(mdp.discount) or not np.all(mdp.discount < 1))


@jax.jit
def _settle(
    mdp: TabularMDP,
    operator: BellmanOperator,
    solution: Solution,
    tolerance: Any,
    max_iterations: Any,
) -> tuple[Array, Array]:
    """The policy `[S, A]`, and whether it earns the values, `[]` bool."""
    values, needed = solution.values, mdp.discount >= 1
    policy, ended, width = ending_policy(mdp, solution, solution.q_values)
    under = operator.replace(improvement=PerState(FixedPolicy(policy)))

    def evaluate(state: tuple) -> tuple:
        worth, _ = state
        after = jnp.where(ended, values, backup(mdp, under, worth)[0].astype(values.dtype))
        return after, jnp.max(jnp.abs(after - worth))

    asked = needed & ~jnp.all(ended)
    first = jnp.where(asked, jnp.inf, 0.0).astype(values.dtype)
    start = jnp.where(ended, values, 0.0), first
    goes_on = lambda state: state[1] > 1e-3 * tolerance  # noqa: E731
    _, (worth, _) = repeat(evaluate, goes_on, start, max_iterations)
    return policy, ~asked | jnp.all(jnp.abs(worth - values) <= tolerance + width)


@jax.jit
def ending_policy(mdp: TabularMDP, solution: Solution, scores: Array) -> tuple[Array, Array, Array]:
    """The policy `[S, A]` that comes to an end where a tie allows it.

    Args:
        mdp: the model.
        solution: of a solver.
        scores: `[S, A]`, by which actions are chosen [return]. Tied are those of the best score
            that are worth, in `solution.q_values`, what the greedy one is.

    Returns:
        The policy; `[S]` bool, the states from which it may end; and `[]` [return], by how much
        tied actions may differ.
    """
    values, needed = solution.values, mdp.discount >= 1
    finite = jnp.where(mdp.legal, jnp.abs(solution.q_values), 0.0)
    width = 2.0 * solution.residual + 8.0 * jnp.finfo(values.dtype).eps * jnp.max(finite)
    tied = mdp.legal & (scores >= jnp.max(scores, axis=1, keepdims=True) - width)
    taken = jnp.argmax(solution.policy, axis=1)
    worth = jnp.take_along_axis(solution.q_values, taken[:, None], axis=1)
    tied &= jnp.abs(solution.q_values - worth) <= width
    possible = mdp.prob > 0
    ends = jnp.any(possible & (jnp.asarray(mdp.terminal, mdp.prob.dtype) > 0), axis=2)
    greedy = solution.policy > 0

    def grow(state: tuple, allowed: Array) -> tuple:
        """States from which an allowed action leads to one that is reached, one step at a time."""

        def step(state: tuple) -> tuple:
            reached, chosen, _ = state
            leads = ends | jnp.any(possible & look_up(reached, mdp.next_state), axis=2)
            usable = allowed & leads
            joins = ~reached & jnp.any(usable, axis=1)
            chosen = jnp.where(joins, jnp.argmax(usable, axis=1), chosen)
            return reached | joins, chosen, jnp.any(joins)

        return jax.lax.while_loop(lambda s: s[2], step, (*state, needed))[:2]

    def stage(number: Array, state: tuple) -> tuple:
        reached, chosen, ended = state
        reached = reached | ((number == 2) & (jnp.abs(values) <= width))
        reached, chosen = grow((reached, chosen), jnp.where(number % 2 == 0, greedy, tied))
        return reached, chosen, jnp.where(number == 1, reached, ended)

    nowhere = jnp.zeros(mdp.num_states, bool)
    start = nowhere, taken, nowhere
    _, chosen, ended = jax.lax.fori_loop(0, 4, stage, start)
    policy = jax.nn.one_hot(chosen, mdp.num_actions, dtype=solution.policy.dtype)
    return jnp.where(needed, policy, solution.policy), ended, width
