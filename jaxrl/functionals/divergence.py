"""Worst cases in f-divergences, by a limit or at a price: nature tilts the law.

A ball is met by a search for the steepness t of the tilt, one over the multiplier of the radius;
each divergence says only how far a tilted law lies and in which scale that is almost a straight
line in log t. A penalty, F(p, v) = inf_q { sum_i q_i v_i + weight D(q, p) }, is concave, monotone
and translation equivariant, but not positively homogeneous: the weight is in the unit of the
return. Chi-square has no search and stands in `quadratic`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core import Struct
from jaxrl.core.protocols import COHERENT, FunctionalFacts
from jaxrl.core.settings import CheckedStruct, check_settings, setting
from jaxrl.core.types import Array, Number
from jaxrl.functionals.duals import DivergenceDual, SampleDual, UtilityDual
from jaxrl.functionals.ordering import log_moment
from jaxrl.functionals.utility import ExponentialUtility
from jaxrl.functionals.worst_law import SUPPORTS, Optimum, ScaledLaw, relative_price, worst_value

_MAX_TRIPS = 80  # few rows need more than six; bisection alone would need about fifty

# Of what is searched for: its value `[]`, the first two derivatives in log t, its rounding.
Distance = tuple[Array, Array, Array, Array | float | np.floating]


class DivergenceBall(Struct):
    """Worst case over the laws within `radius` of the nominal one in an f-divergence.

    F(p, v) = min { sum_i q_i v_i : sum_i p_i f(q_i / p_i) <= radius }
            = max_{l > 0, c} c - l radius - l E f*((c - v) / l)

    with f convex, f(1) = f'(1) = 0 (add a multiple of r - 1: the divergence stays the same), and
    f*(y) = max_{r >= 0} r y - f(r), so that f*(0) = 0 and f*'(0) = 1. Nature's law is
    p_i f*'((c - v_i) / l). radius = 0 is the mean. Only atoms of positive probability count.

    | divergence | f(r) | f*(y) |
    |---|---|---|
    | KL(q || p) | r log r - r + 1 | exp(y) - 1 |
    | KL(p || q) | -log r + r - 1 | -log(1 - y), y < 1 |
    | chi-square | (r - 1)^2 | y + y^2 / 4, and -1 for y < -2 |
    | squared Hellinger | (sqrt(r) - 1)^2 | y / (1 - y), y < 1 |

    `KLBall`, `BurgBall` and `ChiSquareBall` are several times faster.

    Attributes:
        radius: of the set, at least 0, in the unit of f.
        conjugate: f*, of one number; written with `jax.numpy`, differentiable twice except at
            kinks, and infinite or NaN outside its domain.

    Raises:
        ValueError: `conjugate` is not 0 with slope 1 at 0, or the radius is negative.

    Numerics:
        Two nested safeguarded Newton iterations, c for each l inside that for l; the error of
        the value is of second order in theirs. First derivatives hold in `values`, `probs` and
        `radius`.

    Example:
        >>> import jax.numpy as jnp
        >>> half, values = jnp.array([0.5, 0.5]), jnp.array([0.0, 1.0])
        >>> f"{float(DivergenceBall(0.1, jnp.expm1)(half, values)):.4f}"  # as KLBall
        '0.2802'

    Sources:
        Ben-Tal, den Hertog, De Waegenaere, Melenberg & Rennen (2013), Robust solutions of
        optimization problems affected by uncertain probabilities, theorem 1 and table 2.
    """

    radius: Number = setting(0.1, "radius of the set of laws", low=0.0)
    conjugate: Callable[[Array], Array] = setting(jnp.expm1, "convex conjugate f* of f")

    facts = COHERENT

    def __post_init__(self) -> None:
        check_settings(self)
        with jax.ensure_compile_time_eval():
            level, slope = jax.value_and_grad(self.conjugate)(jnp.zeros(()))
        if not np.allclose((level, slope), (0.0, 1.0), atol=1e-5):
            raise ValueError(
                f"conjugate has value {level:g} and slope {slope:g} at 0: give 0 and 1 (those of "
                "f plus a multiple of r - 1 for which f'(1) = 0)."
            )

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        return worst_value(partial(_conjugate_ball, self.conjugate), probs, values, self.radius)

    def dual(self, least: float) -> SampleDual:
        """Of one sampled value.

        Raises:
            ValueError: the conjugate is not finite everywhere, so that a sample could lie outside.
        """
        with jax.ensure_compile_time_eval():
            far = self.conjugate(jnp.asarray(10.0))
        if not np.isfinite(far):
            raise ValueError(
                f"conjugate is {far} at 10: a dual of one sample needs one that is finite "
                "everywhere. Use successors=Generative(num_samples=16)."
            )
        return DivergenceDual(self.radius, least, self.conjugate)


class KLBall(CheckedStruct):
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

    radius: Number = setting(0.1, "radius of the set of laws", unit="nats", low=0.0)

    facts = COHERENT

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        return worst_value(_kl_ball, probs, values, self.radius)

    def dual(self, least: float) -> SampleDual:
        """Of one sampled value."""
        return DivergenceDual(self.radius, least)


class EVaR(CheckedStruct):
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

    level: Number = setting(0.1, "confidence", low=0.0, high=1.0, low_open=True)

    facts = COHERENT

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        return KLBall(-jnp.log(self.level))(probs, values)

    def dual(self, least: float) -> SampleDual:
        """Of one sampled value."""
        return DivergenceDual(-jnp.log(self.level), least)


class KLPenalty(CheckedStruct):
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

    weight: Number = setting(
        1.0, "price of a nat of divergence", unit="return", low=0.0, infinite=True
    )

    facts = FunctionalFacts(time_consistent=True)

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        return worst_value(_kl_penalty, probs, values, self.weight)

    def dual(self, least: float) -> SampleDual:
        """Of one sampled value."""
        return UtilityDual(ExponentialUtility(1.0 / self.weight))


class BurgBall(CheckedStruct):
    """Worst case over the laws q with KL(p || q) at most `radius`.

    F(p, v) = min { sum_i q_i v_i : sum_i p_i log(p_i / q_i) <= radius }
            = max_{h > -min v} exp(E log(v + h) - radius) - h

    Nature's law is proportional to p_i / (v_i + h). It is the likelihood ball: with n successors
    seen, the laws under which they are at least exp(-n radius) times as likely as under the
    frequencies p. No possible atom ever loses all its mass, so that the least possible value is
    approached but never reached. radius = 0 is the mean.

    Attributes:
        radius: of the set, at least 0 [nats].
        support: "nominal": mass only where p_i > 0. "full": on every atom given; an atom of zero
            probability and of a value below all possible ones then takes mass, except one whose
            value is not finite, which is absent.

    Numerics:
        Third-order safeguarded iteration for h, in practice three to six passes with one logarithm
        per atom; the error of the value is of second order in that of h. First derivatives hold in
        `values`, `probs` and `radius`. With the nominal support the slope in the radius is minus
        infinity at 0; the finite slope at a radius of the order of the rounding is returned.

    Example:
        >>> import jax.numpy as jnp
        >>> half, values = jnp.array([0.5, 0.5]), jnp.array([0.0, 1.0])
        >>> f"{float(BurgBall(0.5)(half, values)):.4f}"  # q (1 - q) = exp(-1) / 4
        '0.1025'

    Sources:
        Nilim & El Ghaoui (2005), Robust control of Markov decision processes with uncertain
        transition matrices, section 4 (likelihood models); Ben-Tal et al. (2013), Robust solutions
        of optimization problems affected by uncertain probabilities, table 2.
    """

    radius: Number = setting(0.1, "radius of the set of laws", unit="nats", low=0.0)
    support: str = setting("nominal", "where nature may put mass", choices=SUPPORTS)

    facts = COHERENT

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        if self.support == "nominal":
            return worst_value(_burg_ball, probs, values, self.radius)
        held = jax.lax.stop_gradient(values)
        present = jnp.where((probs > 0) | jnp.isfinite(held), held, jnp.inf)
        solve = partial(_burg_ball, lowest=jnp.argmin(present), floor=jnp.min(present))
        return worst_value(solve, probs, values, self.radius)


def _kl_ball(law: ScaledLaw, radius: Array) -> Optimum:
    # Shedding the atoms of +inf costs -log(1 - lost) of the radius.
    left = radius + jnp.log1p(-law.lost)
    rest = jnp.sum(jnp.where(law.lowest, 0.0, law.probs))
    sure = jnp.sum(jnp.where(law.lowest, law.probs, 0.0))
    reach = jnp.where(rest < 0.5, -jnp.log1p(-jnp.minimum(rest, 0.5)), -jnp.log(sure))
    is_saturated = left >= reach
    eps = jnp.finfo(law.gaps.dtype).eps
    used = jnp.maximum(jnp.where(is_saturated, 0.5 * reach, left), eps**2)
    t = _kl_steepness(law, used, jnp.maximum(reach, eps))
    log_mean, ratio, excess = _exponential_tilt(law, t)
    scale = jnp.where(is_saturated, 0.0, 1.0 / t)
    inner = jnp.where(is_saturated, 0.0, -scale * (log_mean + left))
    weights = law.probs * jnp.where(is_saturated, law.lowest / sure, ratio)
    return jnp.where(left < 0, jnp.inf, inner), weights, -scale * excess, -scale


def _kl_penalty(law: ScaledLaw, weight: Array) -> Optimum:
    price = relative_price(law, weight)
    log_mean, ratio, excess = _exponential_tilt(law, 1.0 / price)
    # Atoms of +inf are shed at the price of -log(1 - lost).
    shed = -jnp.log1p(-law.lost)
    weights = law.probs * ratio
    divergence = jnp.maximum(shed - jnp.sum(weights * law.gaps) / price - log_mean, 0.0)
    return price * (shed - log_mean), weights, -price * excess, divergence / law.spread


def _exponential_tilt(law: ScaledLaw, t: Array) -> tuple[Array, Array, Array]:
    """log E exp(-t x) of a scaled law, and q_i / p_i with its excess over 1.

    The excess is exact to rounding also where t x is far below one.
    """
    exponents = -t * law.gaps
    excess, growth = jnp.expm1(exponents), jnp.exp(exponents)
    drop = jnp.sum(law.probs * excess)  # in (-1, 0]
    moment = jnp.sum(law.probs * growth)  # > 0: the least value adds its probability
    return log_moment(law.probs, exponents), growth / moment, (excess - drop) / moment


def _kl_steepness(law: ScaledLaw, radius: Array, reach: Array) -> Array:
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
        slope = t * t * jnp.sum(squares)
        bend = 2.0 * slope - t * t * t * jnp.sum(squares * centred)
        noise = info.eps * (4.0 * (t * mean + jnp.abs(log_mean) + radius) + 1.0)
        return jnp.minimum(-t * mean - log_mean, most), slope, bend, noise

    def straight(divergence: Array) -> Array:
        return jnp.log(-jnp.log1p(-divergence / reach))

    # Two bounds from below: K <= t mean, and K <= t^2 / 8 (Hoeffding).
    low = radius / jnp.maximum(jnp.sum(probs * gaps), info.tiny)
    low = jnp.maximum(low, jnp.sqrt(8.0 * radius))
    high = jnp.maximum(info.max**0.5, low)
    guess = _small_steepness(law, radius, by_skew=1 / 3)
    return _steepness(distance, straight, jnp.minimum(radius, most), guess, low, high)


def _burg_ball(
    law: ScaledLaw, radius: Array, lowest: Array | None = None, floor: Array | None = None
) -> Optimum:
    info = jnp.finfo(law.gaps.dtype)
    # In t = 1 / (h + low): the atom of least value, where it has no probability, bounds t.
    most = jnp.asarray(info.max**0.5, law.gaps.dtype)
    depth = jnp.zeros_like(most)
    if lowest is None or floor is None:
        receives = law.lowest / jnp.sum(law.lowest)
    else:
        receives = (jnp.arange(law.gaps.shape[0]) == lowest).astype(law.gaps.dtype)
        depth = jnp.maximum((law.low - floor) / law.spread, 0.0)
        most = jnp.where(depth * most > 1.0, 1.0 / jnp.where(depth > 0, depth, 1.0), most)
    t = _burg_steepness(law, jnp.maximum(radius, info.eps**2), most)
    logs = jnp.log1p(t * law.gaps)
    exponent = jnp.sum(law.probs * logs) - radius
    share = jnp.where(jnp.all(law.gaps == 0) & (depth == 0), 0.0, 1.0 / t)
    scale = jnp.exp(exponent) * share  # the multiplier of the radius
    weights = law.probs * jnp.exp(exponent) / (1.0 + t * law.gaps)
    weights = weights / jnp.maximum(jnp.sum(weights), 1.0)
    weights = weights + receives * (1.0 - jnp.sum(weights))
    inner = jnp.where(law.lost > 0, jnp.inf, jnp.expm1(exponent) * share)
    return inner, weights, scale * logs, -scale


def _burg_steepness(law: ScaledLaw, radius: Array, most: Array) -> Array:
    """The t in (0, most] at which q_i = p_i / (1 + t x_i), normalised, has KL(p || q) = `radius`.

    The divergence G(t) grows as t^2 at first and in proportion to log t at the end: in log t,
    log(exp(G) - 1) is almost a straight line.
    """
    probs, gaps = law.probs, law.gaps
    info = jnp.finfo(gaps.dtype)

    def distance(t: Array) -> Distance:
        kept = 1.0 / (1.0 + t * gaps)
        left = jnp.sum(probs * kept)
        mean_log, log_left = jnp.sum(probs * jnp.log1p(t * gaps)), jnp.log(left)
        shed = 1.0 - kept
        centred = shed - jnp.sum(probs * shed)
        share = probs * shed * kept
        slope = jnp.sum(probs * centred**2) / left
        bend = 2.0 * jnp.sum(centred * share) / left + slope * jnp.sum(share) / left
        noise = info.eps * (4.0 * (mean_log + jnp.abs(log_left) + radius) + 1.0)
        return mean_log + log_left, slope, bend, noise

    def straight(divergence: Array) -> Array:
        return divergence + jnp.log(-jnp.expm1(-divergence))

    # Kantorovich: E(1 + t x) E(1 / (1 + t x)) <= (2 + t)^2 / (4 (1 + t)), hence t from below.
    risen = -jnp.expm1(-radius)
    low = 2.0 * jnp.exp(jnp.minimum(radius, 0.4 * jnp.log(info.max))) * (risen + jnp.sqrt(risen))
    guess, is_known = _small_steepness(law, radius, by_skew=2 / 3, by_mean=1.0)
    is_constant = jnp.all(gaps == 0)
    guess = jnp.where(is_constant, most, guess), is_known | is_constant
    return _steepness(distance, straight, radius, guess, low, most)


def _conjugate_ball(conjugate: Callable[[Array], Array], law: ScaledLaw, radius: Array) -> Optimum:
    """In t = 1 / l and s = c / l: max over t > 0 and s of (s - radius - E f*(s - t x)) / t."""
    probs, gaps = law.probs, law.gaps
    info = jnp.finfo(gaps.dtype)
    used = jnp.maximum(radius, info.eps**2)

    def distance(t: Array) -> Distance:
        points, heights, ratio, bends = _conjugate_tilt(conjugate, law, t)
        terms = jnp.where(probs > 0, points * ratio - heights, 0.0)
        sizes = jnp.where(probs > 0, jnp.abs(points * ratio) + jnp.abs(heights), 0.0)
        divergence, noise = jnp.sum(probs * terms), 4.0 * info.eps * jnp.sum(probs * sizes)
        curved = probs * jnp.where(probs > 0, bends, 0.0)
        centre = jnp.sum(curved * gaps) / jnp.maximum(jnp.sum(curved), info.tiny)
        slope = jnp.maximum(t * t * jnp.sum(curved * (gaps - centre) ** 2), info.tiny)
        # The bend is that of a power of t: the step is then Newton's.
        return divergence, slope, slope * (slope / jnp.maximum(divergence, info.tiny)), noise

    bend = jax.grad(jax.grad(conjugate))(jnp.zeros_like(radius))
    guess, is_known = _small_steepness(law, used / jnp.where(bend > 0, bend, 1.0))
    ends = jnp.full_like(radius, info.eps**2), jnp.full_like(radius, info.eps**-1.5)
    guess = guess, is_known & (bend > 0)
    t = _steepness(distance, jnp.log, used, guess, *ends, narrow=info.eps**0.4)
    points, heights, ratio, _ = _conjugate_tilt(conjugate, law, t)
    # s is the point of the least gap, zero.
    inner = jnp.maximum((jnp.max(points) - jnp.sum(probs * heights) - radius) / t, 0.0)
    weights = probs * ratio
    inner = jnp.where(law.lost > 0, jnp.inf, inner)
    return inner, weights / jnp.sum(weights), -heights / t, -1.0 / t


def _conjugate_tilt(
    conjugate: Callable[[Array], Array], law: ScaledLaw, t: Array
) -> tuple[Array, Array, Array, Array]:
    """At the s in [0, t] for which E f*'(s - t x) = 1: s - t x, and f*, f*' and f*'' there.

    Where f* is not finite, it and its slope are infinite.
    """
    probs, info = law.probs, jnp.finfo(t.dtype)
    slope_of = jax.grad(conjugate)

    def at(s: Array) -> tuple[Array, Array, Array, Array]:
        points = s - t * law.gaps
        functions = (conjugate, slope_of, jax.grad(slope_of))
        heights, slopes, bends = (jax.vmap(function)(points) for function in functions)
        inside = jnp.isfinite(heights)
        heights, slopes = (jnp.where(inside, x, jnp.inf) for x in (heights, slopes))
        return points, heights, slopes, jnp.where(inside, bends, 0.0)

    def distance(s: Array) -> Distance:
        _, _, slopes, bends = at(s)
        mass = jnp.sum(probs * jnp.where(probs > 0, slopes, 0.0))
        slope = s * jnp.sum(probs * jnp.where(probs > 0, bends, 0.0))
        return mass, slope, slope * (slope / jnp.maximum(mass, info.tiny)), info.eps

    guess = t * jnp.sum(probs * law.gaps), jnp.asarray(False)
    one, ends = jnp.ones_like(t), (t * info.eps**2, t)
    s = _steepness(distance, jnp.log, one, guess, *ends, narrow=info.eps**0.5, far=jnp.inf)
    return at(s)


def _small_steepness(
    law: ScaledLaw, radius: Array, by_skew: float = 0.0, by_mean: float = 0.0
) -> tuple[Array, Array]:
    """The t at which t^2 Var / 2 is the radius, as every divergence with f''(1) = 1 begins.

    `by_skew` and `by_mean` weigh the third moment over the variance and the mean of the gaps in the
    next term of t, relative to the first.

    Returns:
        t, and whether it is as good as the search would make it.
    """
    info = jnp.finfo(law.gaps.dtype)
    mean = jnp.sum(law.probs * law.gaps)
    centred = law.gaps - mean
    variance = jnp.maximum(jnp.sum(law.probs * centred**2), info.tiny)
    skew = jnp.sum(law.probs * centred**3) / variance
    t = jnp.sqrt(2.0 * radius / variance)
    t = t * (1.0 + jnp.clip((by_skew * skew + by_mean * mean) * t, -0.5, 0.5))
    return t, t < info.eps**0.25


def _steepness(
    distance: Callable[[Array], Distance],
    straight: Callable[[Array], Array],
    radius: Array,
    guess: tuple[Array, Array],
    low: Array,
    high: Array,
    narrow: float | np.floating | None = None,
    far: float = 0.1,
) -> Array:
    """Safeguarded third-order iteration for the t at which the distance is `radius`.

    Halley's step in log t, inside a bracket; the geometric middle of the bracket where that leaves
    it, or where it is short while the function is far from its target. It ends one step after
    the error is small enough for that step to make it negligible.

    Args:
        distance: grows with t.
        straight: a function of the distance that is almost a straight line in log t.
        radius: `[]`, positive.
        guess: the first t, and whether it is known to be the result.
        low: `[]`, positive, at most the solution.
        high: `[]`, at least the solution, or the greatest t of interest.
        narrow: the last change of log t after which the next is negligible; its square is the
            relative width of a bracket that needs no more halving.
        far: from the target, in the straight scale, where a short step is not to be trusted.
    """
    info = jnp.finfo(radius.dtype)
    if narrow is None:
        narrow = float(info.eps**0.25)  # the next error is of the order of the last step's cube
    rise, turn = jax.grad(straight), jax.grad(jax.grad(straight))

    def improve(state: tuple) -> tuple:
        trips, t, low, high, _ = state
        value, slope, bend, noise = distance(t)
        low = jnp.where(value <= radius, t, low)
        high = jnp.where(value >= radius, t, high)
        held = jnp.maximum(value, info.tiny)
        gap = straight(held) - straight(radius)
        grade = rise(held) * slope
        curve = turn(held) * slope**2 + rise(held) * bend
        halley = grade - 0.5 * gap * curve / grade
        change = -gap / jnp.where(halley > 0.3 * grade, halley, grade)
        change = jnp.clip(change, -3.0, 3.0)
        proposal = t * jnp.exp(change)
        # A short step means little where the function is all but flat and far from its target.
        is_fair = (jnp.abs(gap) <= far) | (jnp.abs(change) > 0.03)
        inside = (proposal > low) & (proposal < high) & is_fair
        middle = jnp.where(high > 64.0 * low, 8.0 * low, jnp.sqrt(low) * jnp.sqrt(high))
        is_flat = jnp.abs(value - radius) <= noise
        is_narrow = high - low <= narrow**2 * low
        is_done = is_flat | is_narrow | (inside & (jnp.abs(change) <= narrow))
        t = jnp.where(is_flat, t, jnp.where(inside, proposal, middle))
        return trips + 1, t, low, high, is_done

    t, is_known = guess
    low = jnp.minimum(jnp.where(is_known, 0.0, low), high)
    start = jnp.where(is_known, t, jnp.maximum(low, t))
    first = (0, jnp.clip(start, low, high), low, high, is_known)
    return jax.lax.while_loop(lambda s: (s[0] < _MAX_TRIPS) & ~s[-1], improve, first)[1]
