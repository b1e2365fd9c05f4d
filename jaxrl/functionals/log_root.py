"""The root of an increasing function of log t, for the multiplier of a worst case."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.types import Array

_MAX_TRIPS = 80  # few rows need more than six; bisection alone would need about fifty


@struct.dataclass
class LogPoint:
    """A function of log t at one t, in a shape that makes it almost straight."""

    excess: Array  # [], positive above the root, negative below
    gap: Array  # [], value less target; zero at the root
    grade: Array  # [], its derivative in log t
    curve: Array  # [], its second derivative in log t; zero makes the step Newton's
    is_flat: Array  # [] bool: zero to rounding


def log_root(
    evaluate: Callable[[Array], LogPoint], start: Array, low: Array, high: Array, is_done: Array
) -> Array:
    """Safeguarded third-order iteration for the root t of a function that grows with log t.

    Halley's step in log t, inside a bracket; the geometric middle of the bracket where that leaves
    it, or where it is short while the function is far from its target. It ends one step after
    the error is small enough for that step to make it negligible.

    Args:
        evaluate: the function at t, near a straight line in log t.
        start: `[]`, in [low, high].
        low: `[]`, positive, at most the root.
        high: `[]`, at least the root, or the greatest t of interest.
        is_done: `[]` bool, whether `start` is good enough as it is.
    """
    eps = jnp.finfo(start.dtype).eps
    narrow = eps**0.25  # the next error is of the order of the cube of the last step

    def improve(state: tuple) -> tuple:
        trips, t, low, high, _ = state
        at = evaluate(t)
        low = jnp.where(at.excess <= 0, t, low)
        high = jnp.where(at.excess >= 0, t, high)
        halley = at.grade - 0.5 * at.gap * at.curve / at.grade
        slope = jnp.where(halley > 0.3 * at.grade, halley, at.grade)
        change = jnp.clip(-at.gap / slope, -3.0, 3.0)
        proposal = t * jnp.exp(change)
        # A short step means little where the function is all but flat and far from its target.
        is_fair = (jnp.abs(at.gap) <= 0.1) | (jnp.abs(change) > 0.05)
        inside = (proposal > low) & (proposal < high) & is_fair
        middle = jnp.where(high > 64.0 * low, 8.0 * low, jnp.sqrt(low) * jnp.sqrt(high))
        is_narrow = high - low <= eps**0.5 * low
        is_done = at.is_flat | is_narrow | (inside & (jnp.abs(change) <= narrow))
        t = jnp.where(at.is_flat, t, jnp.where(inside, proposal, middle))
        return trips + 1, t, low, high, is_done

    first = (0, jnp.clip(start, low, high), low, high, is_done)
    return jax.lax.while_loop(lambda s: (s[0] < _MAX_TRIPS) & ~s[-1], improve, first)[1]
