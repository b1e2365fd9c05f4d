"""Worst cases in Kullback-Leibler divergence: exponential tilting, by a limit or at a price.

A penalty, F(p, v) = inf_q { sum_i q_i v_i + weight D(q, p) }, is concave, monotone and translation
equivariant, but not positively homogeneous: the weight is in the unit of the return.
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxrl.core.protocols import COHERENT, FunctionalFacts
from jaxrl.core.settings import checked_struct, setting
from jaxrl.core.types import Array
from jaxrl.functionals.duals import DivergenceDual, Dual, UtilityDual
from jaxrl.functionals.tilting import Distance, log_moment, small_steepness, steepness
from jaxrl.functionals.utility import ExponentialUtility
from jaxrl.functionals.worst_law import Optimum, ScaledLaw, relative_price, worst_value


@checked_struct
class KLBall:
    """Worst case over the laws within `radius` of the nominal one in relative entropy.

    F(p, v) = min { sum_i q_i v_i : sum_i q_i log(q_i / p_i) <= radius }
            = max_l -l log E exp(-v / l) - l radius,  l > 0

    Nature's law is p_i exp(-v_i / l), normalised. radius = 0 is the mean; from -log P(V = min V)
    on, the least value of positive probability. Only atoms of positive probability count (any
    other would be infinitely far).

    Attributes:
        radius: of the set, at least 0 [nats].

    Numerics:
        Third-order safeguarded iteration for 1 / l, in practice three to six passes with one
        exponential per atom; the error of the value is of second order in that of 1 / l. First
        derivatives hold in `values`, `probs` and `radius`. At radius 0 the slope in the radius is
        minus infinity; the finite slope at a radius of the order of the rounding is returned.

    Example:
        >>> import jax.numpy as jnp
        >>> half = jnp.array([0.5, 0.5])
        >>> f"{float(KLBall(0.1)(half, jnp.array([0.0, 1.0]))):.4f}"
        '0.2802'

    Sources:
        Iyengar (2005), Robust dynamic programming, section 4; Nilim & El Ghaoui (2005), Robust
        control of Markov decision processes with uncertain transition matrices, section 6.
    """

    radius: float = setting(0.1, "radius of the set of laws", unit="nats", low=0.0)

    facts = COHERENT

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        return worst_value(_solve, probs, values, self.radius)

    def dual(self, least: float) -> Dual:
        """Of one sampled value."""
        return DivergenceDual(self.radius, least)


@checked_struct
class EVaR:
    """Entropic value at risk: the worst mean among laws of bounded relative entropy.

    F(p, v) = max_{b > 0} -1/b (log sum_i p_i exp(-b v_i) - log level)
            = min { sum_i w_i v_i : KL(w || p) <= -log level }

    with KL(w || p) = sum_i w_i log w_i / p_i.

    The greatest lower bound on `CVaR(level)` that exponential moments give. `level = 1` is the
    mean; from the probability of the least possible value downwards it is that value.

    Attributes:
        level: confidence, in (0, 1]; -log level is the radius [nats].

    Numerics:
        It is `KLBall(-log level)`. At `level = 1` the derivative in `level` is infinite; a large
        number stands for it.

    Example:
        >>> import jax.numpy as jnp
        >>> law = jnp.array([0.25, 0.75]), jnp.array([1.0, 3.0])
        >>> f"{float(EVaR(1.0)(*law)):.4f}", f"{float(EVaR(0.25)(*law)):.4f}"
        ('2.5000', '1.0000')

    Sources:
        Ahmadi-Javid (2012), Entropic value-at-risk: a new coherent risk measure, definition 3.1
        and theorem 3.3 (there for losses).
    """

    level: float = setting(0.1, "confidence", low=0.0, high=1.0, low_open=True)

    facts = COHERENT

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        return KLBall(-jnp.log(self.level))(probs, values)

    def dual(self, least: float) -> Dual:
        """Of one sampled value."""
        return DivergenceDual(-jnp.log(self.level), least)


@checked_struct
class KLPenalty:
    """Worst case at a price of `weight` per nat of relative entropy.

    F(p, v) = min_q { sum_i q_i v_i + weight KL(q || p) } = -weight log E exp(-v / weight)

    It is `Entropic(1 / weight)`. weight -> inf is the mean, weight = 0 the least value of positive
    probability. Nature's law is p_i exp(-v_i / weight), normalised.

    Attributes:
        weight: price of a nat, at least 0; infinite for the mean [return].

    Numerics:
        Nothing cancels at great weights, nothing overflows at small ones. First derivatives hold
        in `values`, `probs` and `weight`.

    Example:
        >>> import jax.numpy as jnp
        >>> half = jnp.array([0.5, 0.5])
        >>> f"{float(KLPenalty(1.0)(half, jnp.array([0.0, jnp.inf]))):.4f}"  # -log 0.5
        '0.6931'

    Sources:
        Hansen & Sargent (2001), Robust control and model uncertainty; Tang, Liu & Xu (2024),
        Robust offline reinforcement learning with linearly structured f-divergence regularization.
    """

    weight: float = setting(
        1.0, "price of a nat of divergence", unit="return", low=0.0, infinite=True
    )

    facts = FunctionalFacts(time_consistent=True)

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        return worst_value(_solve_penalty, probs, values, self.weight)

    def dual(self, least: float) -> Dual:
        """Of one sampled value."""
        return UtilityDual(ExponentialUtility(1.0 / self.weight))


def tilt(law: ScaledLaw, t: Array) -> tuple[Array, Array, Array]:
    """Exponential tilting of a scaled law: log E exp(-t x), and q_i / p_i with its excess over 1.

    The excess is exact to rounding also where t x is far below one.
    """
    exponents = -t * law.gaps
    excess = jnp.expm1(exponents)
    drop = jnp.sum(law.probs * excess)  # in (-1, 0]
    growth = jnp.exp(exponents)
    moment = jnp.sum(law.probs * growth)  # > 0: the least value adds its probability
    return log_moment(law.probs, exponents), growth / moment, (excess - drop) / moment


def _solve(law: ScaledLaw, radius: Array) -> Optimum:
    # Shedding the atoms of +inf costs -log(1 - lost) of the radius.
    left = radius + jnp.log1p(-law.lost)
    rest = jnp.sum(jnp.where(law.lowest, 0.0, law.probs))
    sure = jnp.sum(jnp.where(law.lowest, law.probs, 0.0))
    reach = jnp.where(rest < 0.5, -jnp.log1p(-jnp.minimum(rest, 0.5)), -jnp.log(sure))
    is_saturated = left >= reach
    eps = jnp.finfo(law.gaps.dtype).eps
    used = jnp.maximum(jnp.where(is_saturated, 0.5 * reach, left), eps**2)
    t = _steepness(law, used, jnp.maximum(reach, eps))
    log_mean, ratio, excess = tilt(law, t)
    scale = jnp.where(is_saturated, 0.0, 1.0 / t)
    inner = -scale * (log_mean + left)
    return Optimum(
        inner=jnp.where(left < 0, jnp.inf, jnp.where(is_saturated, 0.0, inner)),
        weights=law.probs * jnp.where(is_saturated, law.lowest / sure, ratio),
        by_probs=-scale * excess,
        by_setting=-scale,
    )


def _steepness(law: ScaledLaw, radius: Array, reach: Array) -> Array:
    """The t > 0 at which the law tilted by exp(-t x) has divergence `radius` < `reach`.

    K(t) grows from 0 to `reach`, as t^2 at first and as reach - exp(-t) at the end, or in several
    such steps when the gaps differ by orders of magnitude. In log t and log -log(1 - K / reach) a
    single step is almost a straight line.
    """
    probs, gaps = law.probs, law.gaps
    info = jnp.finfo(gaps.dtype)
    most = reach * (1 - info.epsneg)

    def distance(t: Array) -> Distance:
        terms = probs * jnp.exp(-t * gaps)
        moment = jnp.sum(terms)
        terms = terms / moment
        mean, log_mean = jnp.sum(terms * gaps), jnp.log(moment)
        centred = gaps - mean  # not from raw moments: the variance may be tiny against the mean
        squares = terms * centred * centred
        variance, skew = jnp.sum(squares), jnp.sum(squares * centred)
        slope = t * t * variance
        return Distance(
            value=jnp.minimum(-t * mean - log_mean, most),
            slope=slope,
            bend=2.0 * slope - t * t * t * skew,
            noise=info.eps * (4.0 * (t * mean + jnp.abs(log_mean) + radius) + 1.0),
        )

    def straight(divergence: Array) -> Array:
        return jnp.log(-jnp.log1p(-divergence / reach))

    # Two bounds from below: K <= t mean, and K <= t^2 / 8 (Hoeffding).
    low = radius / jnp.maximum(jnp.sum(probs * gaps), info.tiny)
    low = jnp.maximum(low, jnp.sqrt(8.0 * radius))
    high = jnp.maximum(info.max**0.5, low)
    guess = small_steepness(law, radius, by_skew=1 / 3)
    return steepness(distance, straight, jnp.minimum(radius, most), guess, low, high)


def _solve_penalty(law: ScaledLaw, weight: Array) -> Optimum:
    price = relative_price(law, weight)
    log_moment, ratio, excess = tilt(law, 1.0 / price)
    # Atoms of +inf are shed at the price of -log(1 - lost).
    shed = -jnp.log1p(-law.lost)
    weights = law.probs * ratio
    divergence = shed - jnp.sum(weights * law.gaps) / price - log_moment
    return Optimum(
        inner=price * (shed - log_moment),
        weights=weights,
        by_probs=-price * excess,
        by_setting=jnp.maximum(divergence, 0.0) / law.spread,
    )
