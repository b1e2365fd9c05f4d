"""Losses of a law of given form against any other law."""

from __future__ import annotations

import jax.numpy as jnp

from jaxrl.core.law import Law
from jaxrl.core.types import Array


def gaussian_cross_entropy(mean: Array, scale: Array, target: Law) -> Array:
    """Negative log-likelihood of a Gaussian, averaged over a law.

    L = log(2 pi) / 2 + log scale + E_{Z ~ target} (Z - mean)^2 / (2 scale^2)

    The minimiser has the target's mean and standard deviation.

    Args:
        mean: `[]` [return].
        scale: `[]`, the standard deviation, > 0 [return].
        target: law with `[N]` atoms [return]; impossible ones may hold any value.

    Returns:
        `[]` [nats].

    Numerics:
        Its gradients grow as 1 / scale and 1 / scale^2: bound the scale from below, or the
        gradient's norm.

    Example:
        >>> import jax.numpy as jnp
        >>> target = Law.of_samples(jnp.array([-1.0, 1.0]))
        >>> f"{float(gaussian_cross_entropy(jnp.array(0.0), jnp.array(1.0), target)):.4f}"
        '1.4189'

    Sources:
        Nix & Weigend (1994), Estimating the mean and variance of the target probability
        distribution.
    """
    shares = (jnp.where(target.probs > 0, target.atoms, mean) - mean) / scale
    spread = 0.5 * jnp.sum(target.probs * jnp.square(shares))
    return 0.5 * jnp.log(2.0 * jnp.pi) + jnp.log(scale) + spread


def energy_loss(particles: Array, target: Law) -> Array:
    """Energy distance of equally likely particles from a law, up to a constant of the law.

    L = E |X - Z| - E |X - X'| / 2,  X, X' ~ particles and Z ~ target, all independent
      = integral (F_X - F_Z)^2 + E |Z - Z'| / 2

    It is linear in the target, so that the mean of the losses against sampled targets is the loss
    against their mixture: gradients from sampled transitions are unbiased, which those of a
    Wasserstein distance are not. The minimisers are the mid-level quantiles of the target.

    Args:
        particles: `[K]` [return], in any order.
        target: law with `[N]` atoms [return]; impossible ones may hold any value.

    Returns:
        `[]` [return].

    Numerics:
        All K N and K^2 differences.

    Example:
        >>> import jax.numpy as jnp
        >>> float(energy_loss(jnp.array([0.0, 2.0]), Law.of_samples(jnp.array([1.0]))))
        0.5

    Sources:
        Székely & Rizzo (2013), Energy statistics; Bellemare et al. (2017), The Cramér distance as
        a solution to biased Wasserstein gradients; Nguyen-Tang, Gupta & Venkatesh (2021),
        Distributional reinforcement learning via moment matching (the head; there other kernels).
    """
    atoms = jnp.where(target.probs > 0, target.atoms, 0.0)
    across = jnp.mean(jnp.abs(particles[:, None] - atoms[None, :]) @ target.probs)
    within = jnp.mean(jnp.abs(particles[:, None] - particles[None, :]))
    return across - 0.5 * within
