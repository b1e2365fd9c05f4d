"""Utilities of a gain, and the two certainty equivalents that are built on any of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.core import Struct, struct
from jaxrl.core.protocols import MONETARY
from jaxrl.core.settings import CheckedStruct, check_settings, setting
from jaxrl.core.types import Array, Number
from jaxrl.functionals.duals import SampleDual, UtilityDual
from jaxrl.functionals.ordering import least_possible, readable, unless_infinite


class ExponentialUtility(CheckedStruct):
    """Constant absolute risk aversion: u(t) = (1 - exp(-b t)) / b; t itself at b = 0.

    Both certainty equivalents built on it are `Entropic(b)`.

    Attributes:
        risk_aversion: b, at least 0 [1 / return].

    Example:
        >>> import jax.numpy as jnp
        >>> float(ExponentialUtility(2.0)(jnp.array(jnp.inf)))
        0.5

    Sources:
        Pratt (1964), Risk aversion in the small and in the large.
    """

    risk_aversion: Number = setting(1.0, "risk aversion", unit="1 / return", low=0.0)

    def __call__(self, gain: Array) -> Array:
        """The utility of `gain`, elementwise."""
        power = self.risk_aversion * gain
        is_small = jnp.abs(power) < jnp.finfo(power.dtype).eps ** 0.25
        small = jnp.where(is_small, power, 0.0)
        series = gain * (1.0 - small / 2 + small**2 / 6 - small**3 / 24)
        curved = -jnp.expm1(-jnp.where(is_small, 1.0, power))
        curved = curved / jnp.where(is_small, 1.0, self.risk_aversion)
        return jnp.where(is_small, series, curved)


class QuadraticUtility(CheckedStruct):
    """Quadratic up to its top, constant above: u(t) = t - curvature t^2 / 2 for t <= 1 / curvature.

    Its optimised certainty equivalent is the mean less `curvature` half variances while no value
    exceeds the mean by 1 / curvature, and a monotone version of that beyond.

    Attributes:
        curvature: at least 0 [1 / return].

    Example:
        >>> import jax.numpy as jnp
        >>> QuadraticUtility(1.0)(jnp.array([0.5, 1.0, 9.0])).tolist()
        [0.375, 0.5, 0.5]
    """

    curvature: Number = setting(1.0, "curvature", unit="1 / return", low=0.0)

    def __call__(self, gain: Array) -> Array:
        """The utility of `gain`, elementwise."""
        curved = jnp.where(self.curvature * gain < 1.0, gain, 0.0)
        top = 0.5 / jnp.where(self.curvature > 0, self.curvature, 1.0)
        value = curved - (0.5 * self.curvature * curved) * curved
        return jnp.where(self.curvature * gain < 1.0, value, top)


class PiecewiseLinear(CheckedStruct):
    """Linear in gains and in losses: u(t) = gain_slope t for t >= 0, loss_slope t for t < 0.

    Slopes 0 and 1 / level make the optimised certainty equivalent `CVaR(level)`; slopes `level`
    and 1 - `level` make the shortfall `Expectile(level)`, 0 < level <= 1/2.

    Attributes:
        gain_slope: at least 0, and at most 1 for an optimised certainty equivalent.
        loss_slope: at least `gain_slope`, and at least 1 for an optimised certainty equivalent.

    Example:
        >>> import jax.numpy as jnp
        >>> PiecewiseLinear(0.5, 2.0)(jnp.array([-1.0, 1.0])).tolist()
        [-2.0, 0.5]
    """

    gain_slope: Number = setting(0.5, "slope of gains", low=0.0)
    loss_slope: Number = setting(2.0, "slope of losses", low=0.0)

    def __call__(self, gain: Array) -> Array:
        """The utility of `gain`, elementwise."""
        return jnp.where(gain < 0, self.loss_slope, self.gain_slope) * gain


class UtilityFunction(Struct):
    """A utility given as a function of JAX arrays, elementwise; static.

    Attributes:
        function: concave, not decreasing, zero at zero.

    Example:
        >>> import jax.numpy as jnp
        >>> float(UtilityFunction(lambda gain: jnp.minimum(gain, 1.0))(jnp.array(4.0)))
        1.0
    """

    function: Callable[[Array], Any] = struct.field(pytree_node=False)

    def __call__(self, gain: Array) -> Array:
        """The utility of `gain`, elementwise."""
        return self.function(gain)


def as_utility(utility: Any) -> Any:
    """A bare function as a `UtilityFunction`; anything else as it is."""
    if dataclasses.is_dataclass(utility) or not callable(utility):
        return utility
    return UtilityFunction(utility)


class OptimisedCertaintyEquivalent(Struct):
    """Optimised certainty equivalent: take a sure amount now, the utility of the rest later.

    F(p, v) = max_x x + sum_i p_i u(v_i - x)

    with a concave u that does not decrease, u(0) = 0, and 1 among its slopes at 0. The linear
    utility gives the mean, `ExponentialUtility` gives `Entropic`, `PiecewiseLinear` gives `CVaR`
    and its mixtures with the mean, `QuadraticUtility` a monotone mean less variance.

    Attributes:
        utility: u; a struct whose floats are leaves, or a function of JAX arrays.

    Numerics:
        x is found to the last bit by bisection on the slope, without gradient. Where u has a kink,
        the two neighbouring floats are mixed so that the slopes average to one: the value is the
        same, and the gradient in `values` a law. Gradients hold in `values`, `probs` and the
        parameters of u.

    Example:
        >>> import jax.numpy as jnp
        >>> utility = PiecewiseLinear(gain_slope=0.0, loss_slope=2.0)  # CVaR(0.5)
        >>> law = jnp.array([0.25, 0.25, 0.5]), jnp.array([0.0, 4.0, 8.0])
        >>> float(OptimisedCertaintyEquivalent(utility)(*law))
        2.0

    Sources:
        Ben-Tal & Teboulle (2007), An old-new concept of convex risk measures: the optimized
        certainty equivalent, definition 2.1 and theorem 2.1.
    """

    utility: Callable[[Array], Array] = setting(ExponentialUtility(), "utility of a gain")

    facts = MONETARY  # coherent for piecewise linear ones

    def __post_init__(self) -> None:
        object.__setattr__(self, "utility", as_utility(self.utility))
        check_settings(self)

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        values, chances, gaps, origin = _from_the_least(probs, values)
        fixed, fixed_chances, fixed_gaps = jax.lax.stop_gradient((self.utility, chances, gaps))

        def mean_slope(amount: Array) -> Array:
            return _mean(_slope_of(fixed), fixed_chances, fixed_gaps - amount)

        tiny = 4 * jnp.finfo(gaps.dtype).tiny
        highest = jnp.max(jnp.where(probs > 0, fixed_gaps, 0.0))
        high = jnp.maximum(highest * (1 + 4 * jnp.finfo(gaps.dtype).eps), tiny)
        low, high = turning_point(lambda amount: mean_slope(amount) < 1, -tiny, high)
        low_slope, high_slope = mean_slope(low), mean_slope(high)
        rise = high_slope - low_slope
        share = jnp.where(rise > 0, (1 - low_slope) / jnp.where(rise > 0, rise, 1.0), 0.5)
        share = jnp.clip(share, 0.0, 1.0)

        def objective(amount: Array) -> Array:
            return amount + _mean(self.utility, chances, gaps - amount)

        result = origin + (1 - share) * objective(low) + share * objective(high)
        return _finished(result, probs, values)

    def dual(self, least: float) -> SampleDual:
        """Of one sampled value."""
        return UtilityDual(self.utility)


class Shortfall(Struct):
    """Utility-based shortfall: the most that can be taken while enough utility remains.

    F(p, v) = max { x : sum_i p_i u(v_i - x) >= threshold }

    with a concave u that increases up to where it reaches `threshold`. With u(0) = 0 and threshold
    0 a sure amount is worth itself; another threshold shifts it. `ExponentialUtility` gives
    `Entropic`, `PiecewiseLinear` gives `Expectile`. Minus infinity where u never exceeds the
    threshold.

    Attributes:
        utility: u; a struct whose floats are leaves, or a function of JAX arrays.
        threshold: utility that must remain [return].

    Numerics:
        x is found to the last bit by bisection, without gradient; the implicit function theorem
        gives the gradients in `values`, `probs`, `threshold` and the parameters of u.

    Example:
        >>> import jax.numpy as jnp
        >>> utility = PiecewiseLinear(gain_slope=0.25, loss_slope=0.75)  # Expectile(0.25)
        >>> law = jnp.array([0.5, 0.5]), jnp.array([0.0, 4.0])
        >>> f"{float(Shortfall(utility)(*law)):.4f}"
        '1.0000'

    Sources:
        Föllmer & Schied (2002), Convex measures of risk and trading constraints, section 3 (there
        for losses).
    """

    utility: Callable[[Array], Array] = setting(ExponentialUtility(), "utility of a gain")
    threshold: Number = setting(0.0, "utility that must remain", unit="return")

    facts = MONETARY  # coherent for piecewise linear ones

    def __post_init__(self) -> None:
        object.__setattr__(self, "utility", as_utility(self.utility))
        check_settings(self)

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        values, chances, gaps, origin = _from_the_least(probs, values)
        fixed, fixed_chances, fixed_gaps = jax.lax.stop_gradient((self.utility, chances, gaps))
        threshold = jnp.asarray(self.threshold, gaps.dtype)

        def enough(amount: Array) -> Array:
            return _mean(fixed, fixed_chances, fixed_gaps - amount) >= threshold

        most = jnp.asarray(jnp.finfo(gaps.dtype).max / 8, gaps.dtype)
        amount, above = turning_point(enough, -most, most)
        slope = _mean(_slope_of(fixed), fixed_chances, fixed_gaps - above)
        surplus = _mean(self.utility, chances, gaps - above) - threshold
        # Zero, with the derivative of the solution.
        change = (surplus - jax.lax.stop_gradient(surplus)) / jnp.where(slope > 0, slope, 1.0)
        result = jnp.where(amount > -most, origin + amount + change, -jnp.inf)
        return _finished(result, probs, values)


def _from_the_least(probs: Array, values: Array) -> tuple[Array, Array, Array, Array]:
    """Values (without infinite gains), probabilities of sum one, gaps to the least value, and it.

    An infinite gain stands as a huge one: a bounded utility makes nothing more of it.
    """
    values = readable(probs, values)
    is_gain = values == jnp.inf
    limited = jnp.where(is_gain, jnp.finfo(values.dtype).max / 16, values)
    limited = jnp.where(jnp.isfinite(limited), limited, 0.0)
    origin = least_possible(probs, limited)
    return jnp.where(is_gain, limited, values), probs / jnp.sum(probs), limited - origin, origin


def _finished(result: Array, probs: Array, values: Array) -> Array:
    """`result`, but plus infinity where an infinite gain made it huge, or what decides alone."""
    limits = jnp.finfo(values.dtype)
    is_huge = jnp.any(values == limits.max / 16) & (result > limits.max * limits.eps)
    return unless_infinite(jnp.where(is_huge, jnp.inf, result), probs, values)


def _mean(function: Callable[[Array], Array], chances: Array, gains: Array) -> Array:
    """sum_i p_i f(g_i), without the impossible atoms at which f is not finite."""
    counts = (chances > 0) | jnp.isfinite(function(jax.lax.stop_gradient(gains)))
    return jnp.sum(chances * jnp.where(counts, function(jnp.where(counts, gains, 0.0)), 0.0))


def _slope_of(utility: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda gains: jax.jvp(utility, (gains,), (jnp.ones_like(gains),))[1]


def turning_point(is_below: Callable[[Array], Array], low: Any, high: Any) -> tuple[Array, Array]:
    """Neighbouring floats between which `is_below` turns from true to false.

    Halving the number of floats in between, not their distance, takes as many trips as a float has
    bits whatever the scales, and ends at the resolution of the format.

    Args:
        is_below: `[] -> []` bool, true up to some number and false from there on.
        low: `[]`, where it is taken to be true.
        high: `[]`, where it is taken to be false; above `low`.

    Returns:
        The last float where it is true, the next one; both without gradient.
    """
    low, high = jax.lax.stop_gradient((low, high))
    num_bits = jnp.finfo(low.dtype).bits
    ends = _rank(low), _rank(high)

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low & high) + ((low ^ high) >> 1)  # their mean, where the sum would overflow
        below = is_below(_float_of_rank(middle)) | (middle == low)
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low_rank, high_rank = jax.lax.fori_loop(0, num_bits, halve, ends)
    return _float_of_rank(low_rank), _float_of_rank(high_rank)


def _rank(number: Array) -> Array:
    """The position of a float among all floats, zero at zero."""
    kind = jnp.dtype(f"int{jnp.finfo(number.dtype).bits}")
    size = jax.lax.bitcast_convert_type(jnp.abs(number), kind)
    return jnp.where(number < 0, -size, size)


def _float_of_rank(rank: Array) -> Array:
    kind = jnp.dtype(f"float{jnp.iinfo(rank.dtype).bits}")
    size = jax.lax.bitcast_convert_type(jnp.abs(rank), kind)
    return jnp.where(rank < 0, -size, size)
