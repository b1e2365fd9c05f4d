"""The logarithm of an exponential moment, on which tilted laws rest."""

from __future__ import annotations

import jax.numpy as jnp

from jaxrl.core.types import Array


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
