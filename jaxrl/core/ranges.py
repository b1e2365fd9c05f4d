"""Numbers in a range as free numbers: what gradients and evolution move without leaving it."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.types import Array


class Range(struct.Struct):
    """A one-to-one map between the open interval (low, high) and the real line.

        both ends finite   value = low + (high - low) / (1 + exp(-free))
        `low` alone        value = low + exp(free)
        `high` alone       value = high - exp(free)
        neither            value = free

    A step of `free` is so a step of the log-odds, or of the logarithm.

    Attributes:
        low: lower end, or -inf.
        high: upper end, or inf.

    Example:
        >>> discount = Range(0.0, 1.0)
        >>> free = discount.free(0.99)
        >>> f"{float(free):.3f}", f"{float(discount.value(free)):.2f}"  # log 99
        ('4.595', '0.99')
    """

    low: float = struct.field(pytree_node=False, default=-math.inf)
    high: float = struct.field(pytree_node=False, default=math.inf)

    def value(self, free: Array | float) -> Array:
        """`free[...]` -> the value in the range."""
        free = jnp.asarray(free, float)
        if math.isfinite(self.low) and math.isfinite(self.high):
            return self.low + (self.high - self.low) * jax.nn.sigmoid(free)
        if math.isfinite(self.low):
            return self.low + jnp.exp(free)
        return self.high - jnp.exp(free) if math.isfinite(self.high) else free

    def free(self, value: Array | float) -> Array:
        """The inverse of `value`; infinite at the ends, NaN outside."""
        value = jnp.asarray(value, float)
        if math.isfinite(self.low) and math.isfinite(self.high):
            return jnp.log(value - self.low) - jnp.log(self.high - value)
        if math.isfinite(self.low):
            return jnp.log(value - self.low)
        return jnp.log(self.high - value) if math.isfinite(self.high) else value
