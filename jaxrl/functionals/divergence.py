"""The worst case over laws near in any f-divergence, given by its convex conjugate."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core import struct
from jaxrl.core.protocols import COHERENT
from jaxrl.core.settings import check_settings, setting
from jaxrl.core.types import Array
from jaxrl.functionals.duals import DivergenceDual, Dual
from jaxrl.functionals.tilting import Distance, Guess, small_steepness, steepness
from jaxrl.functionals.worst_law import Optimum, ScaledLaw, worst_value

_MAX_TRIPS = 100


@struct.dataclass
class DivergenceBall:
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

    radius: float = setting(0.1, "radius of the set of laws", low=0.0)
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
        return worst_value(partial(_solve, self.conjugate), probs, values, self.radius)

    def dual(self, least: float) -> Dual:
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


@struct.dataclass
class _Tilted:
    """The law that is worst for one multiplier."""

    shift: Array  # [], c over the multiplier
    ratio: Array  # [N], q / p
    heights: Array  # [N], f* at each atom
    bends: Array  # [N], f*''
    divergence: Array  # []
    noise: Array  # [], its rounding


def _solve(conjugate: Callable[[Array], Array], law: ScaledLaw, radius: Array) -> Optimum:
    """In t = 1 / l and s = c / l: max over t > 0 and s of (s - radius - E f*(s - t x)) / t."""
    info = jnp.finfo(law.gaps.dtype)
    t = _steepness(conjugate, law, jnp.maximum(radius, info.eps**2))
    at = _tilt(conjugate, law, t)
    inner = (at.shift - jnp.sum(law.probs * at.heights) - radius) / t
    weights = law.probs * at.ratio
    return Optimum(
        inner=jnp.where(law.lost > 0, jnp.inf, jnp.maximum(inner, 0.0)),
        weights=weights / jnp.sum(weights),
        by_probs=-at.heights / t,
        by_setting=-1.0 / t,
    )


def _derivatives(conjugate: Callable[[Array], Array], points: Array) -> tuple:
    """f*, f*' and f*'' at each point; where f* is not finite, it and its slope are infinite."""
    slope = jax.grad(conjugate)
    heights, slopes, bends = (
        jax.vmap(function)(points) for function in (conjugate, slope, jax.grad(slope))
    )
    inside = jnp.isfinite(heights)
    return (
        jnp.where(inside, heights, jnp.inf),
        jnp.where(inside, slopes, jnp.inf),
        jnp.where(inside, bends, 0.0),
    )


def _tilt(conjugate: Callable[[Array], Array], law: ScaledLaw, t: Array) -> _Tilted:
    """For one t, the s in [0, t] at which E f*'(s - t x) = 1, and what follows from it."""
    probs = law.probs
    eps = jnp.finfo(t.dtype).eps

    def excess_and_slope(s: Array) -> tuple[Array, Array]:
        _, slopes, bends = _derivatives(conjugate, s - t * law.gaps)
        counts = probs > 0
        excess = jnp.sum(probs * jnp.where(counts, slopes - 1.0, 0.0))
        return excess, jnp.sum(probs * jnp.where(counts, bends, 0.0))

    def improve(state: tuple) -> tuple:
        trips, s, low, high, last, _ = state
        excess, slope = excess_and_slope(s)
        low, high = jnp.where(excess <= 0, s, low), jnp.where(excess >= 0, s, high)
        change = -excess / jnp.where(slope > 0, slope, 1.0)
        newton = s + change
        # Newton's step, unless it leaves the bracket or does not even halve the last one.
        fair = (newton >= low) & (newton <= high) & (slope > 0)
        fair = fair & (jnp.abs(change) <= 0.5 * last)
        new = jnp.where(fair, newton, 0.5 * (low + high))
        step = jnp.abs(new - s)
        flat = jnp.abs(excess) <= eps  # then Newton's step may be refused, and the middle is far
        done = flat | (high - low <= eps * high) | (step <= eps * jnp.abs(s))
        return trips + 1, jnp.where(flat, s, new), low, high, step, done

    mean = jnp.clip(jnp.sum(probs * law.gaps), 0.0, 1.0)
    start = (0, t * mean, jnp.zeros_like(t), t, 2 * t, jnp.asarray(False))
    s = jax.lax.while_loop(lambda s: (s[0] < _MAX_TRIPS) & ~s[-1], improve, start)[1]
    points = s - t * law.gaps
    heights, ratio, bends = _derivatives(conjugate, points)
    terms = probs * jnp.where(probs > 0, points * ratio - heights, 0.0)
    sizes = probs * jnp.where(probs > 0, jnp.abs(points * ratio) + jnp.abs(heights), 0.0)
    return _Tilted(s, ratio, heights, bends, jnp.sum(terms), 4.0 * eps * jnp.sum(sizes))


def _steepness(conjugate: Callable[[Array], Array], law: ScaledLaw, radius: Array) -> Array:
    """The t at which the worst law has divergence `radius`; a great t where none has so much."""
    probs, gaps = law.probs, law.gaps
    info = jnp.finfo(gaps.dtype)

    def distance(t: Array) -> Distance:
        at = _tilt(conjugate, law, t)
        curved = probs * jnp.where(probs > 0, at.bends, 0.0)
        centre = jnp.sum(curved * gaps) / jnp.maximum(jnp.sum(curved), info.tiny)
        slope = jnp.maximum(t * t * jnp.sum(curved * (gaps - centre) ** 2), info.tiny)
        # The bend is that of a power of t: the step is then Newton's.
        bend = slope * (slope / jnp.maximum(at.divergence, info.tiny))
        return Distance(at.divergence, slope, bend, at.noise)

    bend = jax.grad(jax.grad(conjugate))(jnp.zeros_like(radius))
    guess = small_steepness(law, radius / jnp.where(bend > 0, bend, 1.0))
    guess = Guess(guess.t, guess.is_known & (bend > 0))
    low, high = jnp.full_like(radius, info.eps**2), jnp.full_like(radius, info.eps**-1.5)
    return steepness(distance, jnp.log, radius, guess, low, high, narrow=info.eps**0.4)
