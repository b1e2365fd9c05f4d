"""The stock: what was gained so far, in present money."""

from __future__ import annotations

import jax.numpy as jnp

from jaxrl.core.types import Array


def next_stock(stock: Array, reward: Array, discount: Array | float) -> Array:
    """The stock after a reward: c' = (c + r) / discount [return].

    It telescopes: discount^t c_t = c_0 + sum_{u < t} discount^u r_u. It grows like discount^-t:
    over long horizons keep `discount^t c_t`, as the planners do, or bound it, as the wrapper
    `Stock` does.

    Example:
        >>> float(next_stock(1.0, 2.0, 0.5))
        6.0

    Sources:
        Pires et al. (2025), Optimizing return distributions with distributional dynamic
        programming.
    """
    return (jnp.asarray(stock) + reward) / discount
