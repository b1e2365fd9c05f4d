"""How far two laws are apart, by their distribution functions."""

from __future__ import annotations

import jax.numpy as jnp

from jaxrl.core.law import Law
from jaxrl.core.types import Array


def wasserstein_distance(law: Law, other: Law) -> Array:
    """The 1-Wasserstein distance of two laws, the least cost of moving one onto the other.

        W1 = integral |F(x) - G(x)| dx = integral_0^1 |F^-1(u) - G^-1(u)| du

    0 for equal laws only; |x - y| for two sure numbers. Under a shift and scale of both it is
    |scale| times as great. A backup of return laws under a fixed policy brings laws together by the
    discount, in the greatest distance over states and actions. It bounds |E X - E Y|, and level
    times the difference of their CVaR.

    Args:
        law: `[..., N]`, atoms finite where they have probability.
        other: `[..., M]`; the leading axes broadcast.

    Returns:
        `[...]` [return].

    Numerics:
        Both distribution functions are sums in the dtype of the probabilities: laws that are equal
        come out at about the range of the atoms times its rounding.

    Example:
        >>> law = Law(jnp.array([0.5, 0.5]), jnp.array([0.0, 4.0]))
        >>> float(wasserstein_distance(law, Law.of_samples([1.0])))  # (1 + 3) / 2
        2.0

    Sources:
        Vallender (1974), Calculation of the Wasserstein distance between probability distributions
        on the line; Bellemare, Dabney & Rowland (2023), Distributional Reinforcement Learning,
        section 4.4 (contraction).
    """
    gap, width = _gaps(law, other)
    return jnp.sum(jnp.abs(gap) * width, axis=-1)


def cramer_distance(law: Law, other: Law) -> Array:
    """The Cramer distance of two laws, the l2 distance of their distribution functions.

        l2 = sqrt(integral (F(x) - G(x))^2 dx) = sqrt(E|X - Y| - E|X - X'| / 2 - E|Y - Y'| / 2)

    0 for equal laws only; sqrt|x - y| for two sure numbers, so that its unit is the root of the
    return's. Under a shift and scale of both it is sqrt|scale| times as great. The categorical
    projection is the nearest law on its grid in this distance. Twice its square is the square of
    the energy distance.

    Args:
        law: `[..., N]`, atoms finite where they have probability.
        other: `[..., M]`; the leading axes broadcast.

    Returns:
        `[...]` [root of return]. Its gradient at equal laws is 0.

    Numerics:
        As `wasserstein_distance`, but for the root: equal laws come out at about the root of the
        atoms' range times the rounding of probabilities.

    Example:
        >>> law = Law(jnp.array([0.5, 0.5]), jnp.array([0.0, 4.0]))
        >>> float(cramer_distance(law, Law.of_samples([1.0])))  # sqrt((1 + 3) / 4)
        1.0

    Sources:
        Szekely & Rizzo (2013), Energy statistics: a class of statistics based on distances;
        Rowland, Bellemare, Dabney, Munos & Teh (2018), An analysis of categorical distributional
        reinforcement learning, section 4.
    """
    gap, width = _gaps(law, other)
    square = jnp.sum(gap * gap * width, axis=-1)
    apart = square > 0
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1.0)), 0.0)


def _gaps(law: Law, other: Law) -> tuple[Array, Array]:
    """F - G between neighbouring atoms of both laws, and how far these are apart, each
    `[..., N + M - 1]`."""
    lead = jnp.broadcast_shapes(law.probs.shape[:-1], other.probs.shape[:-1])
    both = [(one.probs, one.atoms) for one in (law, other)]
    (probs, atoms), (less, others) = (
        tuple(jnp.broadcast_to(x, (*lead, x.shape[-1])) for x in pair) for pair in both
    )
    mass = jnp.concatenate([probs, -less], axis=-1)
    # Where there is no mass any place will do: the gap does not change there.
    place = jnp.where(mass == 0, 0.0, jnp.concatenate([atoms, others], axis=-1))
    order = jnp.argsort(place, axis=-1)
    place, mass = (jnp.take_along_axis(x, order, axis=-1) for x in (place, mass))
    return jnp.cumsum(mass, axis=-1)[..., :-1], jnp.diff(place, axis=-1)
