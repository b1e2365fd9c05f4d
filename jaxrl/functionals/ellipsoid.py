"""Worst cases over laws within a Euclidean ball or an ellipsoid about the nominal one."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.protocols import COHERENT, FunctionalFacts
from jaxrl.core.settings import checked_struct, setting
from jaxrl.core.types import Array
from jaxrl.functionals.ordering import finite_part
from jaxrl.functionals.worst_law import (
    SUPPORTS,
    as_floats,
    envelope,
    expectation,
    reachable_atoms,
    unit_gaps,
)


@checked_struct
class L2Ball:
    """Worst case over laws within a Euclidean distance of the nominal one.

    F(p, v) = min { q.v : sum_i (q_i - p_i)^2 <= radius^2, q a law }

    While no probability is driven to zero it is the mean minus radius * |v - mean of v|, the mean
    here being over atoms, not under p. `radius = 0` is the mean; sqrt(2) and beyond, the least
    value. It is (s,a)-rectangular and nested.

    Attributes:
        radius: greatest Euclidean distance of the laws.
        support: `"nominal"`: atoms with p = 0 keep none; `"full"`: any atom may get mass.

    Numerics:
        Solved in closed form on the atoms that keep mass. Those that the solution makes negative
        have none in the worst law, and are dropped until none is left: about three rounds, at
        most N. First derivatives hold in `values`, `probs` and `radius`.

    Example:
        >>> import jax.numpy as jnp
        >>> half = jnp.array([0.5, 0.5])
        >>> f"{float(L2Ball(0.1)(half, jnp.array([0.0, 1.0]))):.4f}"  # 0.5 - 0.1 / sqrt(2)
        '0.4293'

    Sources:
        Derman, Geist & Mannor (2021), Twice regularized MDPs, section 4 (without the sign
        constraint); Michelot (1986), A finite algorithm for finding the projection of a point
        onto the canonical simplex (the dropping).
    """

    radius: float = setting(0.1, "greatest Euclidean distance", low=0.0)
    support: str = setting("nominal", "atoms that nature may use", choices=SUPPORTS)

    facts = COHERENT

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        parameters = as_floats(probs, values, self.radius)
        probs, values, radius = jax.lax.stop_gradient(parameters)
        reachable = reachable_atoms(probs, self.support)
        gaps, spread = unit_gaps(values, reachable)
        probs = jnp.where(probs > 0, probs, 0.0)
        noise = 4 * jnp.finfo(values.dtype).eps

        def on_kept(kept: Array) -> tuple[Array, Array, Array, Array]:
            """Law, mean gap, its deviation and the step towards it, with these atoms kept."""
            count = jnp.maximum(jnp.sum(kept), 1).astype(values.dtype)
            lost = jnp.where(kept, 0.0, probs)
            raised = jnp.sum(lost) / count
            mean = jnp.sum(jnp.where(kept, gaps, 0.0)) / count
            apart = jnp.where(kept, gaps - mean, 0.0)
            deviation = jnp.sqrt(jnp.sum(apart**2))
            deviation = jnp.where(deviation > noise * mean * jnp.sqrt(count), deviation, 0.0)
            left = radius**2 - jnp.sum(lost**2) - raised**2 * count
            safe = jnp.where(deviation > 0, deviation, 1.0)
            step = jnp.where(deviation > 0, jnp.sqrt(jnp.maximum(left, 0.0)) / safe, 0.0)
            law = jnp.where(kept, probs + raised - step * apart, 0.0)
            return law, mean, deviation, step

        def drop(state: tuple[Array, Array]) -> tuple[Array, Array]:
            kept, _ = state
            law, mean, deviation, _ = on_kept(kept)
            spent = (law < 0) | ((law == 0) & (gaps > mean) & (deviation > 0))
            return kept & ~spent, jnp.any(kept & spent)

        start = (reachable, jnp.ones((), bool))
        kept, _ = jax.lax.while_loop(lambda state: state[1], drop, start)
        law, mean, deviation, step = on_kept(kept)
        law = jnp.maximum(law, 0.0)
        value = expectation(law, values, reachable)

        slope = jnp.where(step > 0, 1.0 / jnp.where(step > 0, step, 1.0), 0.0)
        raised = jnp.sum(jnp.where(kept, 0.0, probs)) / jnp.maximum(jnp.sum(kept), 1)
        surplus = jnp.maximum(gaps - mean - (probs + raised) * slope, 0.0)  # multiplier of q >= 0
        surplus = jnp.where(kept, 0.0, surplus)
        by_probs = jnp.where(reachable, finite_part(values) - spread * surplus, 0.0)
        by_radius = -spread * jnp.where(step > 0, radius * slope, deviation)
        return envelope(value, parameters, (by_probs, law, by_radius))


@checked_struct
class Ellipsoid:
    """Worst case over laws within an ellipsoid about the nominal one.

    F(p, v) = min { q.v : (q - p)' covariance^-1 (q - p) <= radius^2, q a law }

    While no probability is driven to zero it is the mean minus radius * sqrt(v' C v), with C the
    covariance conditioned on the sum of the law. `radius = 0` is the mean; the unit matrix gives
    `L2Ball`. A singular covariance, such as a multinomial one (diag(p) - p p') / n, bounds q - p
    to its range. It is (s,a)-rectangular and nested.

    Attributes:
        radius: greatest Mahalanobis distance of the laws.
        covariance: `[N, N]`, symmetric, positive semidefinite; the unit matrix when absent.
        support: `"nominal"`: atoms with p = 0 keep none; `"full"`: any atom may get mass.

    Numerics:
        The critical-line method: as nature's step grows, its law moves along a broken line; each
        corner, at which an atom runs out of mass or regains it, is one principal pivot (N^2), about
        N of them in all, at most 4 N + 8. Rounding grows with the condition of the covariance.
        First derivatives hold in `values`, `probs`, `radius` and `covariance`.

    Example:
        >>> import jax.numpy as jnp
        >>> functional = Ellipsoid(0.1, jnp.array([[2.0, 0.0], [0.0, 2.0]]))
        >>> f"{float(functional(jnp.array([0.5, 0.5]), jnp.array([0.0, 1.0]))):.4f}"  # 0.5 - 0.1
        '0.4000'

    Sources:
        Nilim & El Ghaoui (2005), Robust control of Markov decision processes with uncertain
        transition matrices, section 3 (the set); Markowitz (1956), The optimization of a quadratic
        function subject to linear constraints (the method).
    """

    radius: float = setting(0.1, "greatest Mahalanobis distance", low=0.0)
    covariance: Array | None = None  # [N, N]
    support: str = setting("nominal", "atoms that nature may use", choices=SUPPORTS)

    facts = FunctionalFacts(coherent=True, per_outcome="covariance")

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        covariance = jnp.eye(values.shape[0]) if self.covariance is None else self.covariance
        parameters = as_floats(probs, values, self.radius, covariance)
        probs, values, radius, covariance = jax.lax.stop_gradient(parameters)
        reachable = reachable_atoms(probs, self.support)
        gaps, spread = unit_gaps(values, reachable)
        start = jnp.where(probs > 0, probs, 0.0)
        unit = jnp.max(jnp.diagonal(covariance))
        unit = jnp.where(unit > 0, unit, 1.0)
        shape = (covariance + covariance.T) / (2.0 * unit)
        reach = radius * jnp.sqrt(unit)

        line = _critical_line(start, gaps, shape, reach, reachable)
        law = jnp.maximum(jnp.where(line.is_bound, 0.0, line.origin + line.step * line.slope), 0.0)
        law = jnp.where(reachable, law, 0.0)
        law = law * (jnp.sum(start) / jnp.sum(law))
        value = expectation(law, values, reachable)

        is_inner = line.step > 0
        pull = jnp.where(is_inner, 1.0 / jnp.where(is_inner, line.step, 1.0), 0.0)
        surplus = jnp.where(line.is_bound, line.slope + pull * line.origin, 0.0)  # of q >= 0
        by_probs = jnp.where(reachable, finite_part(values) - spread * surplus, 0.0)
        by_reach = jnp.where(is_inner, reach * pull, jnp.sqrt(line.variance))
        by_radius = -spread * jnp.sqrt(unit) * by_reach
        tilt = gaps - surplus
        column = jnp.sum(shape, 0)
        mass = jnp.sum(column)
        tilt = tilt - jnp.where(mass > 0, column @ tilt / jnp.where(mass > 0, mass, 1.0), 0.0)
        by_covariance = -0.5 * (line.step / unit) * spread * tilt[:, None] * tilt[None, :]
        return envelope(value, parameters, (by_probs, law, by_radius, by_covariance))


@struct.dataclass
class _Line:
    """The piece of nature's path on which the worst law lies.

    An atom that keeps mass has q_i = origin_i + step * slope_i; one that has none, the multiplier
    of q_i >= 0, times the step, of the same form.
    """

    origin: Array  # [N]
    slope: Array  # [N]
    is_bound: Array  # [N] the atoms without mass
    variance: Array  # [] squared distance per squared step
    step: Array  # []


def _critical_line(start: Array, gaps: Array, shape: Array, reach: Array, usable: Array) -> _Line:
    """Follow q(step) = argmin { step * gaps.q + |q - start|^2 / 2 : q a law } out to `reach`.

    The norm is that of the inverse of `shape`. Its optimality conditions, q = start - step C gaps
    + C m with 0 <= q, 0 <= m, q.m = 0, are a linear complementarity problem with one parameter.
    """
    size = gaps.shape[0]
    column = jnp.sum(shape, 1)
    mass = jnp.sum(column)
    noise = 64 * jnp.finfo(gaps.dtype).eps
    has_mass = mass > noise * jnp.sum(jnp.abs(shape))
    centred = shape - jnp.where(has_mass, jnp.outer(column, column) / mass, 0.0)
    table = jnp.concatenate([centred, start[:, None], -(centred @ gaps)[:, None]], 1)  # [N, N + 2]
    scale = jnp.sum(jnp.abs(centred), 1)
    index = jnp.arange(size)

    def measure(table: Array, is_bound: Array) -> tuple[Array, Array]:
        """Squared distance: at step 0 along this piece, and per squared step."""
        fixed = -jnp.sum(jnp.where(is_bound, table[:, -2] * start, 0.0))
        return fixed, jnp.maximum(-jnp.sum(jnp.where(is_bound, 0.0, table[:, -1] * gaps)), 0.0)

    def pivot(table: Array, k: Array) -> Array:
        divisor = table[k, k]
        row = (table[k] / -divisor).at[k].set(1.0 / divisor)
        others = table.at[:, k].set(0.0) + table[:, k, None] * row[None, :]
        return jnp.where((index == k)[:, None], row[None, :], others)

    def unfinished(state: tuple) -> Array:
        return (state[0] < 4 * size + 8) & ~state[1]

    def advance(state: tuple) -> tuple:
        trials, _, table, is_bound, step = state
        diagonal, origin, slope = jnp.diagonal(table), table[:, -2], table[:, -1]
        barred = ~usable & ~is_bound & (diagonal > noise * jnp.diagonal(shape))
        falls = usable & (slope < -noise * jnp.where(is_bound, 1.0, scale)) & (diagonal > 0)
        events = jnp.where(falls, -origin / jnp.where(falls, slope, 1.0), jnp.inf)
        events = jnp.where(barred, -jnp.inf, jnp.maximum(events, step))
        k = jnp.argmin(events)
        fixed, variance = measure(table, is_bound)
        next_step = jnp.maximum(events[k], 0.0)
        within = jnp.isfinite(next_step) & (fixed + next_step**2 * variance < reach**2)
        goes_on = barred[k] | within
        table = jnp.where(goes_on, pivot(table, k), table)
        is_bound = jnp.where(goes_on & (index == k), ~is_bound, is_bound)
        return trials + 1, ~goes_on, table, is_bound, jnp.where(goes_on, next_step, step)

    none = jnp.zeros(size, bool)
    begin = (jnp.zeros((), jnp.int32), jnp.zeros((), bool), table, none, jnp.zeros_like(reach))
    _, _, table, is_bound, _ = jax.lax.while_loop(unfinished, advance, begin)
    fixed, variance = measure(table, is_bound)
    is_steep = variance > noise**2 * jnp.max(jnp.abs(jnp.diagonal(shape)))
    variance = jnp.where(is_steep, variance, 0.0)
    left = jnp.maximum(reach**2 - fixed, 0.0)
    step = jnp.where(is_steep, jnp.sqrt(left / jnp.where(is_steep, variance, 1.0)), 0.0)
    return _Line(
        origin=table[:, -2], slope=table[:, -1], is_bound=is_bound, variance=variance, step=step
    )
