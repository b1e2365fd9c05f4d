"""Losses whose minimisers are the expectiles of a law."""

from __future__ import annotations

import jax.numpy as jnp

from jaxrl.core.law import Law
from jaxrl.core.types import Array


def expectile_loss(estimates: Array, levels: Array, target: Law) -> Array:
    """Asymmetric squared loss of expectile estimates against a law.

    L = sum_i E_{Z ~ target} |tau_i - 1{Z < e_i}| (Z - e_i)^2

    At level 1/2 it is the squared loss, whose minimiser is the mean.

    Args:
        estimates: `[K]` [return].
        levels: `[K]`, tau_i in (0, 1).
        target: law with `[N]` atoms [return]; impossible ones may hold any value.

    Returns:
        `[]` [return^2], summed over the estimates. Its gradient is continuous.

    Example:
        >>> import jax.numpy as jnp
        >>> target = Law.of_samples(jnp.array([0.0, 4.0]))
        >>> float(expectile_loss(jnp.array([1.0]), jnp.array([0.25]), target))
        1.5

    Sources:
        Newey & Powell (1987), Asymmetric least squares estimation and testing; Rowland et al.
        (2019), Statistics and samples in distributional reinforcement learning, definition 3.4.
    """
    td_errors = jnp.where(target.probs > 0, target.atoms, 0.0)[None, :] - estimates[:, None]
    slopes = jnp.where(td_errors < 0, 1.0 - levels[:, None], levels[:, None])
    return jnp.sum((slopes * jnp.square(td_errors)) @ target.probs)
