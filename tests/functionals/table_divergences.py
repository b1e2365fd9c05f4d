"""The divergence balls and penalties that every contract is run over."""

from __future__ import annotations

import jax.numpy as jnp

from jaxrl.core import Array
from jaxrl.functionals import (
    BurgBall,
    ChiSquareBall,
    ChiSquarePenalty,
    DivergenceBall,
    KLBall,
    KLPenalty,
    TotalVariationPenalty,
)


def chi_square_conjugate(point: Array) -> Array:
    """Of f(r) = (r - 1)^2 on r >= 0."""
    return jnp.where(point > -2.0, point + 0.25 * point**2, -1.0)


def burg_conjugate(point: Array) -> Array:
    """Of f(r) = -log r + r - 1."""
    return -jnp.log1p(-point)


def hellinger_conjugate(point: Array) -> Array:
    """Of f(r) = (sqrt r - 1)^2."""
    return jnp.where(point < 1.0, point / (1.0 - jnp.minimum(point, 1.0)), jnp.inf)


# Name to instance; each is valid for laws of 7 atoms.
FUNCTIONALS = {
    "kl_0": KLBall(0.0),
    "kl_1e-6": KLBall(1e-6),
    "kl_0.2": KLBall(0.2),
    "kl_2": KLBall(2.0),
    "kl_100": KLBall(100.0),
    "burg_0": BurgBall(0.0),
    "burg_0.2": BurgBall(0.2),
    "burg_2": BurgBall(2.0),
    "chi_square_0": ChiSquareBall(0.0),
    "chi_square_1e-6": ChiSquareBall(1e-6),
    "chi_square_0.3": ChiSquareBall(0.3),
    "chi_square_5": ChiSquareBall(5.0),
    "divergence_kl_0.2": DivergenceBall(0.2, jnp.expm1),
    "divergence_chi_square_2": DivergenceBall(2.0, chi_square_conjugate),
    "divergence_hellinger_0.1": DivergenceBall(0.1, hellinger_conjugate),
    "kl_penalty_0": KLPenalty(0.0),
    "kl_penalty_0.5": KLPenalty(0.5),
    "total_variation_penalty_0": TotalVariationPenalty(0.0),
    "total_variation_penalty_0.7": TotalVariationPenalty(0.7),
    "chi_square_penalty_0.05": ChiSquarePenalty(0.05),
    "chi_square_penalty_1": ChiSquarePenalty(1.0),
}
