"""Risk measures of a finite law, for rewards: the lower tail is the bad one."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrl.core.protocols import COHERENT, MONETARY, FunctionalFacts
from jaxrl.core.settings import CheckedStruct, setting
from jaxrl.core.types import Array, Number
from jaxrl.functionals import ordering
from jaxrl.functionals.duals import ExpectileDual, SampleDual, UtilityDual
from jaxrl.functionals.utility import ExponentialUtility, PiecewiseLinear


class Mean(CheckedStruct):
    """Expectation: the risk-neutral functional, under which the backup is the classical one.

    F(p, v) = sum_i p_i v_i

    Atoms of zero probability are ignored, even when their values are not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> float(Mean()(jnp.array([0.25, 0.75]), jnp.array([4.0, 8.0])))
        7.0

    Sources:
        Bellman (1957), Dynamic Programming, chapter III.
    """

    facts = FunctionalFacts(
        coherent=True, time_consistent=True, needs_successors=False, is_expectation=True
    )

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        # A finite value keeps its gradient in `probs` at p = 0; an infinite one must not make NaN.
        counts = (probs > 0) | jnp.isfinite(values)
        return jnp.sum(probs * jnp.where(counts, values, 0.0))


class CVaR(CheckedStruct):
    """Conditional value at risk: the mean of the worst share `level` of the law.

    F(p, v) = max_x x - E[(x - v)^+] / level
            = min { sum_i w_i v_i : 0 <= w <= p / level, sum_i w_i = 1 }

    `level = 1` is the mean; as `level -> 0` it becomes the least value of positive probability.
    As `successor_functional` it is *nested* CVaR, applied anew at every step; as
    `return_functional` it is *greedy on the return law*. Neither is the CVaR of the whole return.

    Attributes:
        level: share of the lower tail, in (0, 1].

    Numerics:
        Exact up to the rounding of one cumulative sum, with ties and with atoms of zero
        probability, which may hold any value. Gradients hold in `values`, `probs` and `level`;
        where the optimum is not unique they are one member of the superdifferential.

    Example:
        >>> import jax.numpy as jnp
        >>> float(CVaR(0.5)(jnp.array([0.25, 0.25, 0.5]), jnp.array([0.0, 4.0, 8.0])))
        2.0

    Sources:
        Rockafellar & Uryasev (2002), Conditional value-at-risk for general loss distributions,
        theorem 10 (the maximum form, there for losses).
    """

    level: Number = setting(0.1, "share of the lower tail", low=0.0, high=1.0, low_open=True)

    facts = COHERENT

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        values, [(probs, below, _)] = ordering.running_totals(
            ordering.readable(probs, values), probs
        )
        taken = ordering.lower_tail(probs, below, jnp.asarray(self.level, probs.dtype))
        # The order is the only choice made; the weights are smooth in `probs` and `level`, and do
        # not depend on `values`, so that plain derivatives are the envelope theorem's.
        return ordering.weighted_sum(taken, values)

    def dual(self, least: float) -> SampleDual:
        """Of one sampled value."""
        return UtilityDual(PiecewiseLinear(0.0, 1.0 / self.level))


class VaR(CheckedStruct):
    """Value at risk: the lower quantile, the least value that the law stays below with `level`.

    F(p, v) = min { x : P(v <= x) >= level }

    The *lower* quantile: where the distribution function is flat at `level`, its left end.
    `level = 1` is the greatest possible value, `level -> 0` the least. It sees nothing of the tail
    below it and is not concave: diversification may look worse.

    Attributes:
        level: probability of staying at or below, in (0, 1].

    Numerics:
        A cumulative probability that misses `level` by the rounding of the sum counts as reached.
        The gradient in `values` is all on one atom at the quantile; those in `probs` and `level`
        are zero, as the quantile is constant between jumps.

    Example:
        >>> import jax.numpy as jnp
        >>> float(VaR(0.5)(jnp.array([0.25, 0.25, 0.5]), jnp.array([0.0, 4.0, 8.0])))
        4.0

    Sources:
        Föllmer & Schied (2016), Stochastic Finance, 4th edition, section 4.4 and appendix A.3.
    """

    level: Number = setting(0.1, "probability of the tail", low=0.0, high=1.0, low_open=True)

    facts = MONETARY

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        values, [(probs, below, above)] = ordering.running_totals(
            ordering.readable(probs, values), probs
        )
        level, total = jnp.asarray(self.level, probs.dtype), jnp.sum(probs)
        slack = probs.size * jnp.finfo(probs.dtype).eps
        wanted, beyond = level * total, (1.0 - level) * total
        # From the nearer end, so that rare atoms count at either: level = 1 reaches the last. Of
        # many small atoms the rounding may hold several: no more than half of one is forgiven.
        from_below = below + probs >= wanted - jnp.minimum(slack * wanted, 0.5 * probs)
        from_above = above <= beyond + jnp.minimum(slack * beyond, 0.5 * probs)
        is_reached = (probs > 0) & jnp.where(level > 0.5, from_above, from_below)
        is_quantile = ordering.atoms_at(
            jnp.min(jnp.where(is_reached, values, jnp.inf)), values, is_reached
        )
        positions = jnp.arange(probs.size)
        first = jnp.min(jnp.where(is_quantile, positions, probs.size))
        return ordering.weighted_sum((positions == first).astype(probs.dtype), values)


class Expectile(CheckedStruct):
    """Expectile: where gains weighted by `level` balance losses weighted by the rest.

    level E[(v - F)^+] = (1 - level) E[(F - v)^+]

    For `level <= 1/2` also F(p, v) = min { sum_i w_i v_i : w_i / p_i within a factor
    (1 - level) / level of one another }, so that it is concave, and coherent; above 1/2 the
    minimum is a maximum and it seeks risk. 1/2 is the mean, 1 the greatest possible value, -> 0
    the least.

    Attributes:
        level: weight of the gains, in (0, 1].

    Numerics:
        No iteration: the minimum is over N thresholds, whose sums come from one ordering. Ties and
        extreme levels lose nothing. Gradients hold in `values`, `probs` and `level`.

    Example:
        >>> import jax.numpy as jnp
        >>> f"{float(Expectile(0.25)(jnp.array([0.5, 0.5]), jnp.array([0.0, 4.0]))):.4f}"
        '1.0000'

    Sources:
        Newey & Powell (1987), Asymmetric least squares estimation and testing. Bellini, Klar,
        Müller & Rosazza Gianin (2014), Generalized quantiles as risk measures, propositions 6
        and 8 (which are coherent; the dual form).
    """

    level: Number = setting(0.1, "weight of the gains", low=0.0, high=1.0, low_open=True)

    facts = MONETARY  # coherent for level <= 1/2

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        values = ordering.readable(probs, values)
        level = jnp.asarray(self.level, values.dtype)
        # The expectile at `level` of v is minus the one at 1 - `level` of -v.
        sign = jnp.where(level > 0.5, -1.0, 1.0)
        light = jnp.where(level > 0.5, 1.0 - level, level)
        signed = sign * ordering.finite_part(values)
        gaps = signed - ordering.least_possible(probs, signed)
        chances = probs / jnp.sum(probs)
        below = gaps <= _threshold(*jax.lax.stop_gradient((chances, gaps, light)))
        weights = chances * jnp.where(below, 1.0 - light, light)
        result = ordering.weighted_sum(weights / jnp.sum(weights), ordering.finite_part(values))
        return ordering.unless_infinite(result, probs, values)

    def dual(self, least: float) -> SampleDual:
        """Of one sampled value."""
        return ExpectileDual(self.level)


def _threshold(probs: Array, gaps: Array, light: Array) -> Array:
    """The expectile of non-negative gaps: the least mean with the atoms up to one weighing more."""
    amounts = ordering.running_totals(gaps, probs, probs * gaps)[1]
    (chance, chance_below, _), (part, part_below, _) = amounts
    heavy = 1.0 - light
    mass = light * jnp.sum(probs) + (heavy - light) * (chance_below + chance)
    mean = (light * jnp.sum(part) + (heavy - light) * (part_below + part)) / mass
    return jnp.min(jnp.where(chance_below + chance > 0, mean, jnp.inf))


class Entropic(CheckedStruct):
    """Certainty equivalent under exponential utility.

    F(p, v) = -1/b log sum_i p_i exp(-b v_i),  b = risk_aversion

    b = 0 is the mean, b -> inf the least and b -> -inf the greatest value of positive probability;
    a negative b seeks risk. Nested and static entropic risk agree when undiscounted; with a
    discount they differ (the static one would need b discount^t at step t).

    Attributes:
        risk_aversion: b [1 / return].

    Numerics:
        No cancellation at small b (expm1 and log1p about the extreme value; a second-order
        expansion below rounding), no overflow at large b. Smooth in all arguments.

    Example:
        >>> import jax.numpy as jnp
        >>> half = jnp.array([0.5, 0.5])
        >>> f"{float(Entropic(1.0)(half, jnp.array([0.0, jnp.inf]))):.4f}"  # -log 0.5
        '0.6931'

    Sources:
        Howard & Matheson (1972), Risk-sensitive Markov decision processes.
    """

    risk_aversion: Number = setting(1.0, "risk aversion; negative seeks risk", unit="1 / return")

    facts = FunctionalFacts(time_consistent=True)

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        values = ordering.readable(probs, values)
        aversion = jnp.asarray(self.risk_aversion, values.dtype)
        chances = probs / jnp.sum(probs)
        # A value that decides alone; the other infinity only loses its share.
        decides = jnp.isnan(values) | (values == -jnp.inf) & (aversion >= 0)
        decides |= (values == jnp.inf) & (aversion <= 0)
        is_decided = jnp.any(decides)
        alone = jnp.where(decides, probs, 0.0)
        alone = alone / jnp.where(is_decided, jnp.sum(alone), 1.0)

        possible = probs > 0
        low = jnp.min(jnp.where(possible, values, jnp.inf))
        high = jnp.max(jnp.where(possible, values, -jnp.inf))
        # F is the same about any origin; about the end the exponent favours, none is positive.
        origin = jax.lax.stop_gradient(jnp.where(aversion >= 0, low, high))
        centre = jnp.where(is_decided, 0.0, origin)
        gaps = jnp.where(is_decided, 0.0, values - centre)

        spread = jax.lax.stop_gradient(jnp.max(jnp.where(possible, jnp.abs(gaps), 0.0)))
        is_flat = jnp.abs(aversion) * spread <= jnp.finfo(values.dtype).eps
        # Impossible atoms may have any exponent: it matters to gradients only.
        most = jnp.log(jnp.finfo(values.dtype).max) / 4
        exponents = jnp.minimum(jnp.where(is_flat, 0.0, -aversion * gaps), most)
        curved = -ordering.log_moment(chances, exponents) / jnp.where(is_flat, 1.0, aversion)

        flat_gaps = jnp.where(is_flat, gaps, 0.0)
        mean = jnp.sum(chances * flat_gaps)
        scale = jnp.where(is_flat & (spread > 0), spread, 1.0)
        # The variance in units of the spread: its square alone could overflow.
        variance = jnp.sum(chances * ((flat_gaps - mean) / scale) ** 2)
        flat = mean - 0.5 * (aversion * scale) * (scale * variance)
        result = centre + jnp.where(is_flat, flat, curved)
        return jnp.where(is_decided, ordering.weighted_sum(alone, values), result)

    def dual(self, least: float) -> SampleDual:
        """Of one sampled value."""
        return UtilityDual(ExponentialUtility(self.risk_aversion))


class MeanSemideviation(CheckedStruct):
    """The mean less a share of the mean deviation below it.

    F(p, v) = m - weight (sum_i p_i ((m - v_i)^+)^order)^(1/order),  m = sum_i p_i v_i

    `weight = 0` is the mean. A weight above 1 would no longer be monotone and is refused.

    Attributes:
        weight: share of the semideviation taken off, in [0, 1].
        order: of the deviation, at least 1; static.

    Numerics:
        Deviations are measured in units of the greatest, so that no power overflows. At a law of
        equal values the gradient is the one of the mean.

    Example:
        >>> import jax.numpy as jnp
        >>> float(MeanSemideviation(1.0)(jnp.array([0.5, 0.5]), jnp.array([0.0, 4.0])))
        1.0

    Sources:
        Ogryczak & Ruszczyński (1999), From stochastic dominance to mean-risk models. Shapiro,
        Dentcheva & Ruszczyński (2009), Lectures on Stochastic Programming, example 6.20.
    """

    weight: Number = setting(0.5, "share of the semideviation taken off", low=0.0, high=1.0)
    order: int = setting(1, "order of the deviation", low=1.0)

    facts = COHERENT

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        return _mean_less(self.weight, self.order, lambda x: jnp.maximum(-x, 0.0), probs, values)


class MeanStd(CheckedStruct):
    """The mean less a multiple of the standard deviation: **not monotone**.

    F(p, v) = m - weight (sum_i p_i (v_i - m)^2)^(1/2),  m = sum_i p_i v_i

    A better outcome may lower it, since it also spreads the law: a backup built on it need not
    contract, and its worst-case weights may be negative. `weight = 0` is the mean.

    Attributes:
        weight: multiple of the standard deviation taken off, at least 0.

    Numerics:
        In units of the greatest deviation, so that no square overflows. At a law of equal values
        the gradient is the one of the mean.

    Example:
        >>> import jax.numpy as jnp
        >>> float(MeanStd(1.0)(jnp.array([0.5, 0.5]), jnp.array([0.0, 4.0])))
        0.0

    Sources:
        Markowitz (1952), Portfolio selection. Shapiro, Dentcheva & Ruszczyński (2009), Lectures on
        Stochastic Programming, example 6.18 (why it is not monotone).
    """

    weight: Number = setting(0.5, "multiple of the standard deviation taken off", low=0.0)

    facts = FunctionalFacts(monotone=False)

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        return _mean_less(self.weight, 2, jnp.abs, probs, values)


def _mean_less(
    weight: Array | float, order: int, size: Callable[[Array], Array], probs: Array, values: Array
) -> Array:
    """m - weight (sum_i p_i size(v_i - m)^order)^(1/order), of gradient zero where all are 0."""
    values = ordering.readable(probs, values)
    finite, chances = ordering.finite_part(values), probs / jnp.sum(probs)
    origin = ordering.least_possible(probs, finite)
    mean = jnp.sum(chances * (finite - origin))
    sizes = size(finite - origin - mean)
    scale = jax.lax.stop_gradient(jnp.max(jnp.where(probs > 0, sizes, 0.0)))
    scale = jnp.where(scale > 0, scale, 1.0)
    moment = jnp.sum(chances * (sizes / scale) ** order)
    root = jnp.where(moment > 0, jnp.where(moment > 0, moment, 1.0) ** (1.0 / order), 0.0)
    return ordering.unless_infinite(origin + mean - weight * scale * root, probs, values)
