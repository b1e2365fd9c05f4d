"""The sets that observations and actions live in.

A space is a `Discrete`, a `Box` or a `MultiDiscrete`, or a tree of such *leaves*: a dict, a tuple
or a struct of spaces. A member of a tree is the same tree with an array in each leaf's place.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxrl.core import struct
from jaxrl.core.types import Array, Key, PyTree


class Discrete(struct.Struct):
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

    def sample(self, key: Key, mask: PyTree = ()) -> Array:
        """A uniform draw, `[]`; from those that are true in `mask[num_values]`, if one is given."""
        if not is_masked(mask):
            return jax.random.randint(key, (), 0, self.num_values, self.dtype)
        return share_to_legal(mask, jax.random.uniform(key)).astype(self.dtype)

    def contains(self, value: Array) -> Array:
        """Whether `value` is a member, `[]` bool."""
        value = jnp.asarray(value)
        return jnp.all((value >= 0) & (value < self.num_values) & (value == jnp.floor(value)))

    def allows(self, mask: Array, value: Array) -> Array:
        """Whether the member `value[]` is true in `mask[num_values]`, `[]` bool."""
        return mask[value]


class MultiDiscrete(struct.Struct):
    """Vectors `[D]` of integers, the i-th of them one of `0 .. num_values[i] - 1`.

    As gymnasium's `MultiDiscrete(nvec)` of a flat `nvec`. A mask of it is one of each coordinate,
    end to end: `[sum(num_values)]`.

    Example:
        >>> space = MultiDiscrete([3, 2])
        >>> space.shape, [bool(space.contains(jnp.array(value))) for value in ([2, 1], [1, 2])]
        ((2,), [True, False])

    Raises:
        ValueError: `num_values` are no whole numbers of at least 1.
    """

    num_values: tuple[int, ...] = struct.field(pytree_node=False)
    dtype: jnp.dtype = struct.field(pytree_node=False, default=jnp.dtype("int32"))

    def __post_init__(self) -> None:
        given = self.num_values
        flat = np.ndim(given) == 1 and len(given) and all(_is_count(n, least=1) for n in given)
        if not flat:
            raise ValueError(
                "MultiDiscrete takes a flat list of whole numbers of values, such as [3, 2]; got "
                f"{given!r}."
            )
        object.__setattr__(self, "num_values", tuple(map(int, given)))

    @property
    def shape(self) -> tuple[int, ...]:
        """`(D,)`."""
        return (len(self.num_values),)

    def sample(self, key: Key, mask: PyTree = ()) -> Array:
        """A uniform draw, `[D]`; from those whose coordinates are all true in `mask`, if given."""
        if not is_masked(mask):
            return jax.random.randint(key, self.shape, 0, jnp.array(self.num_values), self.dtype)
        shares = jax.random.uniform(key, self.shape)
        drawn = map(share_to_legal, columns(mask, self.num_values), shares)
        return jnp.stack([*drawn]).astype(self.dtype)

    def contains(self, value: Array) -> Array:
        """Whether `value` has the shape and is a member, `[]` bool."""
        value = jnp.asarray(value)
        if value.shape != self.shape:
            return jnp.zeros((), bool)
        inside = (value >= 0) & (value < jnp.array(self.num_values)) & (value == jnp.floor(value))
        return jnp.all(inside)

    def allows(self, mask: Array, value: Array) -> Array:
        """Whether each coordinate of the member `value[D]` is true in its part of `mask`, `[]`."""
        parts = columns(mask, self.num_values)
        return jnp.all(jnp.stack([part[one] for part, one in zip(parts, value, strict=True)]))


class Box(struct.Struct):
    """Arrays of one shape between `low` and `high`, which may be infinite and may be traced.

    Raises:
        ValueError: `shape` is no tuple of whole numbers.
    """

    low: ArrayLike  # broadcasts to `shape`
    high: ArrayLike  # broadcasts to `shape`
    shape: tuple[int, ...] = struct.field(pytree_node=False)
    dtype: jnp.dtype = struct.field(pytree_node=False, default=jnp.dtype("float32"))

    num_values: ClassVar[int] = 0  # not to be counted

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


Leaf = Discrete | Box | MultiDiscrete
Space = Any  # a leaf, or a tree of leaves, which has no type of its own


def _is_count(value: object, least: int = 0) -> bool:
    return isinstance(value, (int, np.integer)) and bool(value >= least)


def is_leaf(space: Space) -> bool:
    """Whether it is a space of single arrays; else it is a tree of such, or none."""
    return isinstance(space, Leaf)


def leaves(space: Space) -> list[Leaf]:
    """The leaves of a space, in the order of its members' arrays; of a leaf, itself.

    Raises:
        ValueError: something in it is no space, or there is nothing in it.
    """
    found = jax.tree_util.tree_leaves_with_path(space, is_leaf=is_leaf)
    for path, one in found or [((), space)]:
        if not is_leaf(one):
            place = f"{jax.tree_util.keystr(path)}, " if path else ""
            raise ValueError(
                f"{place}{one!r} is no space: give a jaxrl.Discrete, Box or MultiDiscrete, or a "
                "dict, tuple or struct of them."
            )
    return [one for _, one in found]


def sample(key: Key, space: Space, mask: PyTree = ()) -> PyTree:
    """A member of any space, each leaf drawn by its own `sample`; from those that are true in
    `mask`, if one is given, which is built like a tree of spaces, `()` where there is none."""
    if is_leaf(space):
        return space.sample(key, *[mask] * is_masked(mask))
    tree, found = jax.tree.structure(space, is_leaf=is_leaf), leaves(space)
    masks = tree.flatten_up_to(mask) if is_masked(mask) else [()] * len(found)
    return tree.unflatten(map(sample, jax.random.split(key, len(found)), found, masks))


def contains(space: Space, value: PyTree) -> Array:
    """Whether `value` is built like the space, and each of its arrays is in its leaf, `[]` bool."""
    if jax.tree.structure(space, is_leaf=is_leaf) != jax.tree.structure(value):
        return jnp.zeros((), bool)
    pairs = zip(leaves(space), jax.tree.leaves(value), strict=True)
    return jnp.all(jnp.stack([one.contains(array) for one, array in pairs]))


def part_of(tree: PyTree, names: tuple[str, ...]) -> dict[str, PyTree]:
    """The parts of a tree of spaces, or of a member of one, that are called so.

    Args:
        tree: a dict, tuple or struct, of spaces or of arrays.
        names: keys, places or fields, dotted where they are inside one another: `"own.speed"`.

    Raises:
        ValueError: a part that is not there; the message lists those that are.

    Example:
        >>> sorted(part_of({"seen": (Discrete(2), Discrete(3)), "rest": Discrete(4)}, ("seen.1",)))
        ['seen.1']
    """
    return {name: functools.reduce(_within, name.split("."), tree) for name in names}


def _within(tree: PyTree, name: str) -> PyTree:
    if isinstance(tree, (tuple, list)):
        tree = {str(place): part for place, part in enumerate(tree)}
    elif dataclasses.is_dataclass(tree) and not is_leaf(tree):
        tree = vars(tree)
    if not isinstance(tree, Mapping) or name not in tree:
        known = ", ".join(tree) if isinstance(tree, Mapping) else "none, as it is a single array"
        raise ValueError(f"there is no part {name!r} in the observation; its parts: {known}.")
    return tree[name]


def flat_size(space: Space) -> int:
    """Numbers that one element of the space takes when one-hot (discrete) or flattened (box)."""
    return sum(map(_leaf_size, leaves(space)))


def _leaf_size(space: Leaf) -> int:
    if isinstance(space, Box):
        return math.prod(space.shape)
    return int(np.sum(space.num_values))


def columns(values: Array, num_values: tuple[int, ...]) -> list[Array]:
    """`values[..., sum(num_values)]`, of the coordinates of a `MultiDiscrete` end to end, cut into
    those of each: `[..., num_values[i]]`."""
    ends = list(itertools.accumulate(num_values))
    return [values[..., end - size : end] for end, size in zip(ends, num_values, strict=True)]


def is_masked(mask: PyTree) -> bool:
    """Whether there is a mask; `()` and `None` are none."""
    return bool(jax.tree.leaves(mask))


def share_to_legal(mask: Array, share: Array) -> Array:
    """The index that lies at `share` of the way through those that are true: uniform if `share` is.

    Args:
        mask: `[..., A]` bool.
        share: `[...]` in [0, 1).

    Returns:
        `[...]` int32; 0 where nothing is true.

    Example:
        >>> mask = jnp.array([False, True, False, True])
        >>> share_to_legal(mask, jnp.array([0.0, 0.49, 0.5, 0.99])).tolist()
        [1, 1, 3, 3]
    """
    count = jnp.sum(mask, axis=-1)
    rank = jnp.minimum((share * count).astype(jnp.int32), count - 1)  # that rounding is not beyond
    return jnp.argmax(jnp.cumsum(mask, axis=-1) > rank[..., None], axis=-1).astype(jnp.int32)
