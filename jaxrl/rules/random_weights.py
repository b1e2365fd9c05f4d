"""Random weights for the small networks that rules are made of."""

from __future__ import annotations

import functools

import jax

from jaxrl.core.types import Array, Key


def random_weights(key: Key, **shapes: tuple[int, ...]) -> dict[str, Array]:
    """Normal arrays by name, of variance 1 / (length of the first axis).

    Source: LeCun et al. 1998, Efficient backprop, section 4.6.

    Example:
        >>> weights = random_weights(jax.random.key(0), hidden=(100, 20), output=(20,))
        >>> weights["hidden"].shape, f"{float(weights['hidden'].std()):.1f}"
        ((100, 20), '0.1')
    """
    return _drawn(key, tuple(shapes.items()))


@functools.partial(jax.jit, static_argnums=1)  # one program, not one for each shape
def _drawn(key: Key, shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> dict[str, Array]:
    keys = jax.random.split(key, len(shapes))
    return {
        name: jax.random.normal(name_key, shape) / shape[0] ** 0.5
        for (name, shape), name_key in zip(shapes, keys, strict=True)
    }
