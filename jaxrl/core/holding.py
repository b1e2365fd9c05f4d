"""Numbers held between bounds before a power is taken of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def held(number: Array, most: float) -> Array:
    """`number[...]` held in [-most, most]; its slope stays 1, so that it can come back.

    Example:
        >>> jax.value_and_grad(held)(30.0, 20.0)
        (Array(20., dtype=float32, weak_type=True), Array(1., dtype=float32, weak_type=True))
    """
    fixed = jax.lax.stop_gradient(number)
    beyond = jnp.clip(fixed, -most, most) + jnp.where(jnp.isfinite(fixed), number - fixed, 0.0)
    return jnp.where(jnp.abs(number) <= most, number, beyond)
