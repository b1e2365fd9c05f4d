"""Where a monotone condition turns, to the last bit: bisection in the order of the floats."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrl.core.types import Array


def turning_point(
    is_below: Callable[[Array], Array], low: Array, high: Array
) -> tuple[Array, Array]:
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
