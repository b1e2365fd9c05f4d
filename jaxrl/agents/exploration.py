"""How value agents explore."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core.types import Array, Key


def epsilon_greedy(key: Key, scores: Array, epsilon: float | Array) -> Array:
    """The best action, but a uniform one with probability `epsilon`, drawn anew for every row.

    Args:
        key: spent here.
        scores: `[B, A]` [return].
        epsilon: probability of a uniform action, in [0, 1].

    Returns:
        `[B]` int32; ties go to the first of the best.

    Example:
        >>> epsilon_greedy(jax.random.key(0), jnp.array([[1.0, 3.0]]), 0.0).tolist()
        [1]
    """
    batch, num_actions = scores.shape
    draws = jax.random.uniform(key, (2, batch))
    uniform = jnp.minimum((draws[1] * num_actions).astype(jnp.int32), num_actions - 1)
    greedy = jnp.argmax(scores, axis=-1).astype(jnp.int32)
    return jnp.where(draws[0] < epsilon, uniform, greedy)
