"""What makes one gradient of several, for `combine` of a rule with several losses."""

from __future__ import annotations

import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxrl.core.types import Array, PyTree


def bisector(first: PyTree, second: PyTree) -> PyTree:
    """The direction between two gradients, as long as they are on average.

        g = (|a| + |b|) / 2  direction(u + v),  u = a / |a|, v = b / |b|
        where they oppose each other, u.v < 0:  direction(u - (u.v) v), which leaves b's loss alone

    Along it both losses fall at rates in the ratio of the gradients' lengths. Of one gradient and
    nothing it is half the one; of two that are exactly opposed, nothing.

    Args:
        first: a, the gradient of the loss that matters more.
        second: b, of the same structure.

    Sources: Zhang, Yu & Turk 2019, Learning novel policies for tasks (task-novelty bisector); Sun
    et al. 2020, Novel policy seeking with constrained optimization, as in its authors' release
    (the length, and what is done where the gradients oppose each other).

    Example:
        >>> right, up, back = (jnp.array(x) for x in ([3.0, 0.0], [0.0, 1.0], [-1.0, 1.0]))
        >>> [f"{x:.3f}" for x in (*bisector(right, up), *bisector(right, back))]
        ['1.414', '1.414', '1.561', '1.561']
    """
    (a, unravel), (b, _) = ravel_pytree(first), ravel_pytree(second)
    (u, length), (v, other) = _direction(a), _direction(b)
    cosine = jnp.dot(u, v)
    way, _ = _direction(jnp.where(cosine < 0, u - cosine * v, u + v))
    return unravel(0.5 * (length + other) * way)


def _direction(vector: Array) -> tuple[Array, Array]:
    """A vector of length 1, or 0 where there is none, and the length `[]`."""
    square = jnp.sum(vector**2)
    length = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    return vector / jnp.where(square > 0, length, 1.0), length
