"""Sums that go on counting where float32 would stop."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def add_exactly(total: Array, rest: Array, amount: Array) -> tuple[Array, Array]:
    """`total + rest + amount` as a float32 and what it rounds away: whole numbers up to 2^47.

    A float32 alone ignores an added 1 from 2^24 on. The error of each sum is computed as in Knuth's
    two-sum and carried along. A sum that is not finite has no rest.

    Args:
        total: `[...]` float32, the nearest to the sum so far.
        rest: `[...]` float32, the sum so far less `total`.
        amount: `[...]`, added.

    Source: Knuth, The art of computer programming, volume 2, section 4.2.2, theorem B.

    Example:
        >>> total, rest = jnp.float32(2**24), jnp.float32(0)
        >>> for _ in range(3):
        ...     total, rest = add_exactly(total, rest, 1.0)
        >>> int(total) + int(rest) - 2**24
        3
    """
    amount = jnp.asarray(amount, total.dtype)
    rough = total + amount
    seen = rough - total
    small = rest + ((total - (rough - seen)) + (amount - seen))
    result = jnp.where(jnp.isfinite(rough), rough + small, rough)
    return result, jnp.where(jnp.isfinite(result), small - (result - rough), 0.0)
