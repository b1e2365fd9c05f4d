"""The loop that every solver shares, and derivatives through its fixed point."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from jaxrl.core.mdp import TabularMDP
from jaxrl.core.types import Array
from jaxrl.operators.bellman import BellmanOperator
from jaxrl.planning.acceleration import Acceleration, Swept
from jaxrl.planning.backups import backup, prepare
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
    tolerance: Array,
    acceleration: Acceleration,
    max_iterations: Array,
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
    enough = 100 * jnp.finfo(right.dtype).eps
    x, _ = jax.scipy.sparse.linalg.gmres(
        system, right, tol=enough, restart=30, maxiter=20, solve_method="batched"
    )
    scale = jnp.maximum(jnp.linalg.norm(right), jnp.finfo(right.dtype).tiny)

    def refine(state: tuple) -> tuple:
        x = state[0] + state[1]
        return x, right - system(x)

    unfinished = lambda state: jnp.linalg.norm(state[1]) > 1e3 * enough * scale  # noqa: E731
    return repeat(refine, unfinished, (x, right - system(x)), 10_000)[1][0]
