"""Tilted laws: how far one lies from the nominal law, and how steep it is at a given distance."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.types import Array
from jaxrl.functionals.worst_law import ScaledLaw

_MAX_TRIPS = 80  # few rows need more than six; bisection alone would need about fifty


def log_moment(probs: Array, exponents: Array) -> Array:
    """log sum_i p_i exp(x_i), accurate where it is near zero too.

    Args:
        probs: `[N]`, a law, or zeros: then the result is 0.
        exponents: `[N]`, at most zero where the probability is positive, and zero somewhere; below
            overflow elsewhere.

    Returns:
        `[]`, at most zero.
    """
    drop = jnp.sum(probs * jnp.expm1(exponents))  # in (-1, 0]
    is_near = drop > -0.5
    log_near = jnp.log1p(jnp.where(is_near, drop, 0.0))
    moment = jnp.sum(probs * jnp.exp(exponents))  # > 0: the atom at zero adds its probability
    return jnp.where(is_near, log_near, jnp.log(jnp.where(is_near, 1.0, moment)))


@struct.dataclass
class Distance:
    """The divergence of the tilted law from the nominal one, at one steepness t."""

    value: Array  # []
    slope: Array  # [], its derivative in log t
    bend: Array  # [], its second derivative in log t
    noise: Array  # [], rounding of the value


@struct.dataclass
class Guess:
    """Where the search for a steepness begins."""

    t: Array  # []
    is_known: Array  # [] bool, whether it is as good as the search would make it


def small_steepness(
    law: ScaledLaw, radius: Array, by_skew: float = 0.0, by_mean: float = 0.0
) -> Guess:
    """The t at which t^2 Var / 2 is the radius, as every divergence with f''(1) = 1 begins.

    `by_skew` and `by_mean` weigh the third moment over the variance and the mean of the gaps in the
    next term of t, relative to the first.
    """
    info = jnp.finfo(law.gaps.dtype)
    mean = jnp.sum(law.probs * law.gaps)
    centred = law.gaps - mean
    variance = jnp.maximum(jnp.sum(law.probs * centred**2), info.tiny)
    skew = jnp.sum(law.probs * centred**3) / variance
    t = jnp.sqrt(2.0 * radius / variance)
    t = t * (1.0 + jnp.clip((by_skew * skew + by_mean * mean) * t, -0.5, 0.5))
    return Guess(t, t < info.eps**0.25)


def steepness(
    distance: Callable[[Array], Distance],
    straight: Callable[[Array], Array],
    radius: Array,
    guess: Guess,
    low: Array,
    high: Array,
    narrow: float | None = None,
) -> Array:
    """Safeguarded third-order iteration for the t at which the distance is `radius`.

    Halley's step in log t, inside a bracket; the geometric middle of the bracket where that leaves
    it, or where it is short while the function is far from its target. It ends one step after
    the error is small enough for that step to make it negligible.

    Args:
        distance: grows with t.
        straight: a function of the distance that is almost a straight line in log t.
        radius: `[]`, positive.
        guess: the first t; the result where it is known.
        low: `[]`, positive, at most the solution.
        high: `[]`, at least the solution, or the greatest t of interest.
        narrow: the last change of log t after which the next is negligible; its square is the
            relative width of a bracket that needs no more halving.
    """
    info = jnp.finfo(radius.dtype)
    narrow = narrow or info.eps**0.25  # the next error is of the order of the cube of the last step
    rise, turn = jax.grad(straight), jax.grad(jax.grad(straight))

    def improve(state: tuple) -> tuple:
        trips, t, low, high, _ = state
        at = distance(t)
        low = jnp.where(at.value <= radius, t, low)
        high = jnp.where(at.value >= radius, t, high)
        held = jnp.maximum(at.value, info.tiny)
        gap = straight(held) - straight(radius)
        grade = rise(held) * at.slope
        curve = turn(held) * at.slope**2 + rise(held) * at.bend
        halley = grade - 0.5 * gap * curve / grade
        slope = jnp.where(halley > 0.3 * grade, halley, grade)
        change = jnp.clip(-gap / slope, -3.0, 3.0)
        proposal = t * jnp.exp(change)
        # A short step means little where the function is all but flat and far from its target.
        is_fair = (jnp.abs(gap) <= 0.1) | (jnp.abs(change) > 0.03)
        inside = (proposal > low) & (proposal < high) & is_fair
        middle = jnp.where(high > 64.0 * low, 8.0 * low, jnp.sqrt(low) * jnp.sqrt(high))
        is_flat = jnp.abs(at.value - radius) <= at.noise
        is_narrow = high - low <= narrow**2 * low
        is_done = is_flat | is_narrow | (inside & (jnp.abs(change) <= narrow))
        t = jnp.where(is_flat, t, jnp.where(inside, proposal, middle))
        return trips + 1, t, low, high, is_done

    low = jnp.minimum(jnp.where(guess.is_known, 0.0, low), high)
    start = jnp.where(guess.is_known, guess.t, jnp.maximum(low, guess.t))
    first = (0, jnp.clip(start, low, high), low, high, guess.is_known)
    return jax.lax.while_loop(lambda s: (s[0] < _MAX_TRIPS) & ~s[-1], improve, first)[1]
