"""A batch of lives in parts, and over devices: neither changes anything but rounding."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jaxrl.core.types import PyTree


def over_rows(
    function: Callable[..., Any], arguments: tuple, at_once: int = 0, num_devices: int = 1
) -> Any:
    """`vmap(function)(*arguments)` over `[R, ...]`, in equal parts of at most `at_once` rows.

    Parts are padded by copies of the last row, to be of one size that `num_devices` divides.
    """
    num_rows = jax.tree.leaves(arguments)[0].shape[0]
    num_parts = math.ceil(num_rows / min(at_once or num_rows, num_rows))
    size = math.ceil(math.ceil(num_rows / num_parts) / num_devices) * num_devices

    def part(rows: tuple) -> Any:
        return _spread(jax.vmap(function)(*_spread(rows, num_devices)), num_devices)

    if num_parts * size != num_rows:
        index = jnp.minimum(jnp.arange(num_parts * size), num_rows - 1)
        arguments = jax.tree.map(lambda leaf: leaf[index], arguments)
    if num_parts == 1:
        found = part(arguments)
    else:
        cut = jax.tree.map(lambda leaf: leaf.reshape(num_parts, size, *leaf.shape[1:]), arguments)
        found = jax.lax.map(part, cut)
        found = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), found)
    return jax.tree.map(lambda leaf: leaf[:num_rows], found)


def _spread(tree: PyTree, num_devices: int) -> PyTree:
    """The leading axis of every leaf over devices."""
    if num_devices == 1:
        return tree
    auto = (jax.sharding.AxisType.Auto,)
    devices = jax.devices()[:num_devices]
    mesh = jax.make_mesh((num_devices,), ("row",), devices=devices, axis_types=auto)
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec("row")))
