"""The sets that observations and actions live in."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core import struct
from jaxrl.core.types import Array, Key


@struct.dataclass
class Discrete:
    """The integers `0 .. num_values - 1`.

    Raises:
        ValueError: `num_values` is no whole number of at least 1.
    """

    num_values: int = struct.field(pytree_node=False)
    dtype: jnp.dtype = struct.field(pytree_node=False, default=jnp.dtype("int32"))

    def __post_init__(self) -> None:
        if not _is_count(self.num_values, least=1):
            raise ValueError(f"Discrete takes a whole number of values; got {self.num_values!r}.")

    @property
    def shape(self) -> tuple[int, ...]:
        """`()`: a member is one integer."""
        return ()

    def sample(self, key: Key) -> Array:
        """A uniform draw, `[]`."""
        return jax.random.randint(key, (), 0, self.num_values, self.dtype)

    def contains(self, value: Array) -> Array:
        """Whether `value` is a member, `[]` bool."""
        value = jnp.asarray(value)
        return jnp.all((value >= 0) & (value < self.num_values) & (value == jnp.floor(value)))


@struct.dataclass
class Box:
    """Arrays of one shape between `low` and `high`, which may be infinite and may be traced.

    Raises:
        ValueError: `shape` is no tuple of whole numbers.
    """

    low: Array  # broadcasts to `shape`
    high: Array  # broadcasts to `shape`
    shape: tuple[int, ...] = struct.field(pytree_node=False)
    dtype: jnp.dtype = struct.field(pytree_node=False, default=jnp.dtype("float32"))

    def __post_init__(self) -> None:
        if not (isinstance(self.shape, tuple) and all(map(_is_count, self.shape))):
            raise ValueError(f"Box(low, high, shape) takes a tuple as shape; got {self.shape!r}.")

    def sample(self, key: Key) -> Array:
        """A finite draw, `[*shape]`.

        Uniform between finite bounds (inclusive for integers and booleans), exponential beyond one
        finite bound, standard normal where neither bound is finite. A bound of more than 1e30 in
        magnitude counts as infinite, so that no draw overflows.
        """
        low = jnp.broadcast_to(jnp.asarray(self.low, jnp.float32), self.shape)
        high = jnp.broadcast_to(jnp.asarray(self.high, jnp.float32), self.shape)
        has_low, has_high = jnp.abs(low) < 1e30, jnp.abs(high) < 1e30
        uniform_key, tail_key, normal_key = jax.random.split(key, 3)
        if self.dtype == jnp.bool_ or jnp.issubdtype(self.dtype, jnp.integer):
            span = jnp.where(has_low & has_high, high - low, 1.0)
            draw = jnp.floor(jax.random.uniform(uniform_key, self.shape) * (span + 1.0))
            return (jnp.where(has_low, low, 0.0) + jnp.minimum(draw, span)).astype(self.dtype)
        span = jnp.where(has_low & has_high, high - low, 0.0)
        uniform = jnp.where(has_low, low, 0.0) + span * jax.random.uniform(uniform_key, self.shape)
        tail = jax.random.exponential(tail_key, self.shape)
        normal = jax.random.normal(normal_key, self.shape)
        draw = jnp.where(has_low, jnp.where(has_high, uniform, low + tail), normal)
        draw = jnp.where(has_high & ~has_low, high - tail, draw)
        return draw.astype(self.dtype)

    def contains(self, value: Array) -> Array:
        """Whether `value` has the shape and lies within the bounds, `[]` bool."""
        value = jnp.asarray(value)
        if value.shape != self.shape:
            return jnp.zeros((), bool)
        return jnp.all((value >= self.low) & (value <= self.high))


def _is_count(value: object, least: int = 0) -> bool:
    return isinstance(value, (int, np.integer)) and value >= least


Space = Discrete | Box


def flat_size(space: Space) -> int:
    """Numbers that one element of the space takes when one-hot (discrete) or flattened (box)."""
    return space.num_values if isinstance(space, Discrete) else math.prod(space.shape)
