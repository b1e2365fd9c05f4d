"""Losses between numbers."""

from __future__ import annotations

import jax.numpy as jnp

from jaxrl.core.types import Array


def squared_loss(prediction: Array, target: Array) -> Array:
    """Half the squared error: e^2 / 2 with e = target - prediction.

    Args:
        prediction: `[]` [return].
        target: `[]` [return].

    Returns:
        `[]` [return^2]; its gradient in `prediction` is -e.

    Example:
        >>> float(squared_loss(1.0, 3.0))
        2.0

    Sources:
        Sutton & Barto (2018), Reinforcement Learning, equation 9.1 (for one state).
    """
    return 0.5 * jnp.square(target - prediction)


def huber_loss(prediction: Array, target: Array, threshold: float | Array = 1.0) -> Array:
    """Squared near zero, linear beyond `threshold`.

    L(e) = e^2 / 2 where |e| <= threshold, else threshold (|e| - threshold / 2),
    with e = target - prediction.

    An infinite threshold is `squared_loss`.

    Args:
        prediction: `[]` [return].
        target: `[]` [return].
        threshold: where the loss turns linear, > 0 [return]; may be traced.

    Returns:
        `[]` [return^2]; its gradient in `prediction` is -clip(e, -threshold, threshold).

    Example:
        >>> float(huber_loss(0.0, 3.0, 1.0))
        2.5

    Sources:
        Huber (1964), Robust estimation of a location parameter.
    """
    size = jnp.abs(target - prediction)
    # One product for both pieces: it stays finite, with its gradient, at an infinite threshold,
    # and its gradient does not depend on how `minimum` splits a tie.
    inner = jnp.minimum(size, threshold)
    return inner * (size - 0.5 * inner)
