"""Worst cases over ellipsoids about the nominal law: in chi-square, Euclidean or any other norm.

Without q >= 0 each has a closed form. Where the norm has an axis for each atom, those that the
closed form makes negative are dropped until none is left; else nature's path is followed.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrl.core import Struct
from jaxrl.core.protocols import COHERENT, MONETARY, FunctionalFacts
from jaxrl.core.settings import CheckedStruct, setting
from jaxrl.core.types import Array, Number
from jaxrl.functionals import worst_law
from jaxrl.functionals.duals import DivergenceDual, SampleDual, UtilityDual
from jaxrl.functionals.ordering import finite_part
from jaxrl.functionals.utility import QuadraticUtility
from jaxrl.functionals.worst_law import Optimum, ScaledLaw


class ChiSquareBall(CheckedStruct):
    """Worst case over the laws within `radius` of the nominal one in chi-square divergence.

    F(p, v) = min { sum_i q_i v_i : sum_i (q_i - p_i)^2 / p_i <= radius, q >= 0 }
            = max_a E[min(V, a)] - sqrt(radius Var[min(V, a)])

    While no atom loses all its mass this is mean - sqrt(radius) standard deviations. radius = 0 is
    the mean; from 1 / P(V = min V) - 1 on, the least value of positive probability. Only atoms of
    positive probability count (any other would be infinitely far).

    Attributes:
        radius: of the set, at least 0.

    Numerics:
        Exact: atoms that would get negative mass are dropped until none would, at most N - 1
        times and mostly two or three. First derivatives hold in `values`, `probs` and `radius`. At
        radius 0 the slope in the radius is minus infinity; the finite slope at a radius of the
        order of the rounding is returned.

    Example:
        >>> import jax.numpy as jnp
        >>> half = jnp.array([0.5, 0.5])
        >>> f"{float(ChiSquareBall(0.16)(half, jnp.array([0.0, 1.0]))):.4f}"  # 0.5 - 0.4 * 0.5
        '0.3000'

    Sources:
        Iyengar (2005), Robust dynamic programming, section 4; Shi, Li, Wei, Chen, Geist & Chi
        (2023), The curious price of distributional robustness, lemma 2 (the maximum over a).
    """

    radius: Number = setting(0.1, "radius of the set of laws", low=0.0)

    facts = COHERENT

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        return worst_law.worst_value(_chi_square_ball, probs, values, self.radius)

    def dual(self, least: float) -> SampleDual:
        """Of one sampled value."""
        return DivergenceDual(self.radius, least, _chi_square_conjugate, offset=2.0)


class ChiSquarePenalty(CheckedStruct):
    """Worst case at a price of `weight` per unit of chi-square divergence.

    F(p, v) = min_q { sum_i q_i v_i + weight sum_i (q_i - p_i)^2 / p_i }
            = max_a E[min(V, a)] - Var[min(V, a)] / (4 weight)

    While no atom loses all its mass this is mean - variance / (4 weight). weight -> inf is the
    mean, weight = 0 the least value of positive probability.

    Attributes:
        weight: price of a unit of divergence, at least 0; infinite for the mean [return].

    Numerics:
        Exact: atoms that would get negative mass are dropped until none would. First derivatives
        hold in `values`, `probs` and `weight`.

    Example:
        >>> import jax.numpy as jnp
        >>> half = jnp.array([0.5, 0.5])
        >>> float(ChiSquarePenalty(1.0)(half, jnp.array([0.0, 1.0])))  # 1/2 - 1/16
        0.4375

    Sources:
        Tang, Liu & Xu (2024), Robust offline reinforcement learning with linearly structured
        f-divergence regularization.
    """

    weight: Number = setting(
        1.0, "price of a unit of divergence", unit="return", low=0.0, infinite=True
    )

    facts = MONETARY

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        return worst_law.worst_value(_chi_square_penalty, probs, values, self.weight)

    def dual(self, least: float) -> SampleDual:
        """Of one sampled value."""
        return UtilityDual(QuadraticUtility(0.5 / self.weight))


class _Clipped(Struct):
    """The law q = p + w (raised - step (x - mean)) on the atoms where that is positive, else 0."""

    kept: Array  # [N] bool
    change: Array  # [N], w (raised - step (x - mean))
    centred: Array  # [N], the gaps x above their mean
    mean: Array  # [], of the gaps under w on the kept atoms
    variance: Array  # [], sum of w (x - mean)^2 over them
    raised: Array  # [], what the others lost, over the sum of w
    spent: Array  # [], sum of (q - p)^2 / w at step 0
    step: Array  # []


def _clipped(
    probs: Array,
    widths: Array,
    gaps: Array,
    atoms: Array,
    length: Callable[[Array, Array], Array],
    lost: Array | float = 0.0,
) -> _Clipped:
    """Nature's step against the gaps, in the norm sum (q - p)^2 / w.

    Starting from all atoms, none that belongs to the optimum is ever dropped (it only rises when
    others go), so that dropping until nothing changes is exact.

    Args:
        probs: `[N]`, p.
        widths: `[N]`, w, positive on the atoms.
        gaps: `[N]` in [0, 1].
        atoms: `[N]` bool, those that may keep mass.
        length: of the step, from what is spent without it and the variance.
        lost: `[]`, mass of further atoms, of w = p, which keep none.
    """

    def condition(kept: Array) -> _Clipped:
        shares, dropped = jnp.where(kept, widths, 0.0), jnp.where(kept, 0.0, probs)
        room = jnp.sum(shares)
        room = jnp.where(room > 0, room, 1.0)
        raised, mean = (lost + jnp.sum(dropped)) / room, jnp.sum(shares * gaps) / room
        # The rounding of the mean, which a long step would magnify, is taken out again.
        centred = gaps - mean
        centred = centred - jnp.sum(shares * centred) / room
        variance = jnp.sum(shares * centred**2)
        squares = dropped * (dropped / jnp.where(dropped > 0, widths, 1.0))
        spent = lost + jnp.sum(squares) + room * raised**2
        step = jnp.where(variance > 0, length(spent, jnp.where(variance > 0, variance, 1.0)), 0.0)
        change = widths * (raised - step * centred)
        return _Clipped(kept, change, centred, mean, variance, raised, spent, step)

    def drop(state: tuple[Array, Array]) -> tuple[Array, Array]:
        found = condition(state[0])
        law = probs + found.change
        fewer = found.kept & ((law > 0) | ((law == 0) & (found.centred <= 0)))
        return fewer, jnp.any(fewer != found.kept)

    start = (atoms, jnp.ones((), bool))
    return condition(jax.lax.while_loop(lambda state: state[1], drop, start)[0])


def _out_to(square: Array) -> Callable[[Array, Array], Array]:
    """The length of the step that spends `square` in all."""
    return lambda spent, variance: jnp.sqrt(jnp.maximum(square - spent, 0.0) / variance)


def _chi_square_conjugate(point: Array) -> Array:
    """Of f(r) = (r - 1)^2 on r >= 0."""
    return 0.25 * jnp.maximum(point + 2.0, 0.0) ** 2 - 1.0


def _chi_square_ball(law: ScaledLaw, radius: Array) -> Optimum:
    best = _chi_square_step(law, _out_to(radius))
    left = jnp.sqrt(jnp.maximum(radius - best.spent, 0.0))
    price = 0.5 * jnp.sqrt(best.variance) / jnp.maximum(left, jnp.finfo(left.dtype).eps)
    inner = jnp.maximum(best.mean - best.step * best.variance, 0.0)
    sheds = (1.0 + radius) * law.lost <= radius
    return _chi_square_optimum(law, best, price, jnp.where(sheds, inner, jnp.inf), -price)


def _chi_square_penalty(law: ScaledLaw, weight: Array) -> Optimum:
    price = worst_law.relative_price(law, weight)
    best = _chi_square_step(law, lambda spent, variance: 0.5 / price)
    fall = best.step * best.variance
    divergence = best.spent + best.step * fall
    inner = best.mean - fall + price * divergence
    return _chi_square_optimum(law, best, price, inner, divergence / law.spread)


def _chi_square_step(law: ScaledLaw, length: Callable[[Array, Array], Array]) -> _Clipped:
    probs = (1.0 - law.lost) * law.probs
    return _clipped(probs, probs, law.gaps, probs > 0, length, law.lost)


def _chi_square_optimum(
    law: ScaledLaw, best: _Clipped, price: Array, inner: Array, by_setting: Array
) -> Optimum:
    held = 1.0 - law.lost
    ratio = 1.0 + best.raised
    # - price (q / p)^2 for each p, above its value at the mean: nothing cancels at small radii.
    by_kept = 0.5 * best.centred * (2.0 * ratio - best.step * best.centred)
    weights = jnp.where(best.kept, held * law.probs + best.change, 0.0)
    return inner, weights, held * jnp.where(best.kept, by_kept, price * ratio**2), by_setting


class Ellipsoid(CheckedStruct):
    """Worst case over laws within an ellipsoid about the nominal one.

    F(p, v) = min { q.v : (q - p)' covariance^-1 (q - p) <= radius^2, q a law }

    While no probability is driven to zero it is the mean minus radius * sqrt(v' C v), with C the
    covariance conditioned on the sum of the law. `radius = 0` is the mean. Without a covariance it
    is the Euclidean ball, sum_i (q_i - p_i)^2 <= radius^2 (`l2_ball` on the command line): the mean
    minus radius * |v - mean of v|, the mean here being over atoms, not under p; from sqrt(2) on,
    the least value. A singular covariance, such as a multinomial one (diag(p) - p p') / n, bounds
    q - p to its range. It is (s,a)-rectangular and nested.

    Attributes:
        radius: greatest Mahalanobis distance of the laws.
        covariance: `[N, N]`, symmetric, positive semidefinite; when absent, the unit matrix:
            the Euclidean distance, and far faster.
        support: `"nominal"`: atoms with p = 0 keep none; `"full"`: any atom may get mass.

    Numerics:
        The critical-line method: as nature's step grows, its law moves along a broken line; each
        corner, at which an atom runs out of mass or regains it, is one principal pivot (N^2), about
        N of them in all, at most 4 N + 8. Rounding grows with the condition of the covariance.
        Without a covariance: in closed form on the atoms that keep mass; those that it makes
        negative are dropped until none is left, in about three rounds, at most N. First
        derivatives hold in `values`, `probs`, `radius` and `covariance`.

    Example:
        >>> import jax.numpy as jnp
        >>> functional = Ellipsoid(0.1, jnp.array([[2.0, 0.0], [0.0, 2.0]]))
        >>> f"{float(functional(jnp.array([0.5, 0.5]), jnp.array([0.0, 1.0]))):.4f}"  # 0.5 - 0.1
        '0.4000'
        >>> f"{float(Ellipsoid(0.1)(jnp.array([0.5, 0.5]), jnp.array([0.0, 1.0]))):.4f}"
        '0.4293'

    Sources:
        Nilim & El Ghaoui (2005), Robust control of Markov decision processes with uncertain
        transition matrices, section 3 (the set); Markowitz (1956), The optimization of a quadratic
        function subject to linear constraints (the method); Michelot (1986), A finite algorithm
        for finding the projection of a point onto the canonical simplex (the dropping); Derman,
        Geist & Mannor (2021), Twice regularized MDPs, section 4 (Euclidean, without q >= 0).
    """

    radius: Number = setting(0.1, "greatest Mahalanobis distance", low=0.0)
    covariance: Array | None = None  # [N, N]
    support: str = setting("nominal", "atoms that nature may use", choices=worst_law.SUPPORTS)

    facts = FunctionalFacts(coherent=True, per_outcome="covariance")

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        if self.covariance is None:
            return _round_ball(self.radius, self.support, probs, values)
        held = worst_law.hold(self.support, probs, values, self.radius, self.covariance)
        parameters, reachable, (probs, values, radius, covariance) = held
        gaps, spread = worst_law.unit_gaps(values, reachable)
        start = jnp.where(probs > 0, probs, 0.0)
        unit = jnp.max(jnp.diagonal(covariance))
        unit = jnp.where(unit > 0, unit, 1.0)
        shape = (covariance + covariance.T) / (2.0 * unit)
        reach = radius * jnp.sqrt(unit)

        path = _critical_line(start, gaps, shape, reach, reachable)
        origin, slope, is_bound, variance, step = path
        law = jnp.maximum(jnp.where(is_bound, 0.0, origin + step * slope), 0.0)
        law = jnp.where(reachable, law, 0.0)
        law = law * (jnp.sum(start) / jnp.sum(law))
        is_inner = step > 0
        pull = jnp.where(is_inner, 1.0 / jnp.where(is_inner, step, 1.0), 0.0)
        surplus = jnp.where(is_bound, slope + pull * origin, 0.0)  # of q >= 0
        by_probs = jnp.where(reachable, finite_part(values) - spread * surplus, 0.0)
        by_reach = jnp.where(is_inner, reach * pull, jnp.sqrt(variance))
        by_radius = -spread * jnp.sqrt(unit) * by_reach
        tilt = gaps - surplus
        column = jnp.sum(shape, 0)
        mass = jnp.sum(column)
        tilt = tilt - jnp.where(mass > 0, column @ tilt / jnp.where(mass > 0, mass, 1.0), 0.0)
        by_covariance = -0.5 * (step / unit) * spread * tilt[:, None] * tilt[None, :]
        slopes = by_probs, by_radius, by_covariance
        return worst_law.value_of(law, reachable, parameters, *slopes)


def _round_ball(radius: Array | float, support: str, probs: Array, values: Array) -> Array:
    """The ellipsoid of the unit matrix."""
    held = worst_law.hold(support, probs, values, radius)
    parameters, reachable, (probs, values, radius) = held
    gaps, spread = worst_law.unit_gaps(values, reachable)
    probs = jnp.where(probs > 0, probs, 0.0)

    best = _clipped(probs, jnp.ones_like(probs), gaps, reachable, _out_to(radius**2))
    law = jnp.where(best.kept, jnp.maximum(probs + best.change, 0.0), 0.0)
    slope = jnp.where(best.step > 0, 1.0 / jnp.where(best.step > 0, best.step, 1.0), 0.0)
    surplus = best.centred - (probs + best.raised) * slope  # multiplier of q >= 0
    surplus = jnp.where(best.kept, 0.0, jnp.maximum(surplus, 0.0))
    by_probs = jnp.where(reachable, finite_part(values) - spread * surplus, 0.0)
    by_radius = jnp.where(best.step > 0, radius * slope, jnp.sqrt(best.variance))
    return worst_law.value_of(law, reachable, parameters, by_probs, -spread * by_radius)


def _critical_line(
    start: Array, gaps: Array, shape: Array, reach: Array, usable: Array
) -> tuple[Array, Array, Array, Array, Array]:
    """Follow q(step) = argmin { step * gaps.q + |q - start|^2 / 2 : q a law } out to `reach`.

    The norm is that of the inverse of `shape`. Its optimality conditions, q = start - step C gaps
    + C m with 0 <= q, 0 <= m, q.m = 0, are a linear complementarity problem with one parameter.

    Returns:
        Of the last piece of the path: `[N]` origin and `[N]` slope; `[N]` bool, the atoms without
        mass; the squared distance per squared step; the step. An atom that keeps mass has q_i =
        origin_i + step slope_i; one that has none, the multiplier of q_i >= 0, times the step.
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
    begin = (0, jnp.asarray(False), table, none, jnp.zeros_like(reach))
    _, _, table, is_bound, _ = jax.lax.while_loop(
        lambda state: (state[0] < 4 * size + 8) & ~state[1], advance, begin
    )
    fixed, variance = measure(table, is_bound)
    is_steep = variance > noise**2 * jnp.max(jnp.abs(jnp.diagonal(shape)))
    variance = jnp.where(is_steep, variance, 0.0)
    left = jnp.maximum(reach**2 - fixed, 0.0)
    step = jnp.where(is_steep, jnp.sqrt(left / jnp.where(is_steep, variance, 1.0)), 0.0)
    return table[:, -2], table[:, -1], is_bound, variance, step
