"""The time-major ring that every replay keeps its rows in: pure functions on one pytree.

One *row* is one step of all `num_envs` environments. Writing T rows touches T rows and nothing
else: under `jit(vmap(scan(...)))` the write is a scatter in place, whether or not the write
position is batched over seeds, as long as the caller donates the state and keeps it out of
`lax.cond`, which under `vmap` becomes a select over the whole memory.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.core import Struct, struct
from jaxrl.core.types import Array, PyTree, Transition

TERMINATED, TRUNCATED, STARTS = 1, 2, 4  # bits of `Record.flags`


@dataclasses.dataclass(frozen=True)
class Column:
    """How one leaf is laid out in memory: same numbers, flat, booleans eight to the byte.

    Flat rows gather about twice as fast on a CPU as rows with several axes, and packed booleans
    faster again, at an eighth of the memory. Reading gives back the leaf's own shape and dtype.
    """

    shape: tuple[int, ...]  # of one environment's entry
    dtype: Any

    @property
    def is_packed(self) -> bool:
        """Whether the entry is stored as bits of 32-bit words."""
        return self.dtype == jnp.bool_ and math.prod(self.shape) >= 8

    def encode(self, values: Array) -> Array:
        """`values[..., *shape]` -> stored `[..., width]`, or `[...]` for a scalar entry."""
        if not self.shape:
            return values
        size = math.prod(self.shape)
        flat = values.reshape(*values.shape[: values.ndim - len(self.shape)], size)
        if not self.is_packed:
            return flat
        padding = [(0, 0)] * (flat.ndim - 1) + [(0, -size % 32)]
        bits = jnp.pad(flat, padding).reshape(*flat.shape[:-1], -1, 32).astype(jnp.uint32)
        return jnp.sum(bits << jnp.arange(32, dtype=jnp.uint32), axis=-1, dtype=jnp.uint32)

    def decode(self, stored: Array) -> Array:
        """Stored `[..., width]` -> `[..., *shape]` in the entry's own dtype."""
        if not self.shape:
            return stored
        if self.is_packed:
            bits = (stored[..., None] >> jnp.arange(32, dtype=jnp.uint32)) & 1
            flat = bits.reshape(*stored.shape[:-1], -1)[..., : math.prod(self.shape)]
            return flat.reshape(*stored.shape[:-1], *self.shape).astype(jnp.bool_)
        return stored.reshape(*stored.shape[:-1], *self.shape)


@dataclasses.dataclass(frozen=True)
class Layout:
    """The columns of a memory, and the tree they stand in. Static and hashable."""

    treedef: Any
    columns: tuple[Column, ...]
    num_rows: int
    num_envs: int
    store_next: bool

    def tree(self) -> Record:
        """A `Record` whose leaves are the columns."""
        return jax.tree.unflatten(self.treedef, self.columns)


class Record(Struct):
    """What is kept of a `Transition`; each leaf `[num_rows, num_envs, width]`."""

    observation: PyTree
    action: PyTree
    reward: Array
    discount: Array
    flags: Array  # uint8: TERMINATED, TRUNCATED and STARTS bits
    extras: PyTree
    env_state: PyTree
    next_observation: PyTree  # `()` unless the replay stores it
    cost: PyTree = ()  # `()` unless the example has some
    mask: PyTree = ()  # bool; `()` where every action is legal
    next_mask: PyTree = ()  # `()` unless the replay stores successors


class ReplayState(Struct):
    """A ring of rows. Only `add` changes it."""

    memory: Record
    position: Array  # [] int32, the row the next add writes first
    num_filled: Array  # [] int32, rows written so far, at most num_rows
    ended: Array  # [num_envs] bool, whether the newest row closed its episode
    layout: Layout = struct.field(pytree_node=False)


def create(example: Transition, num_rows: int, num_envs: int, store_next: bool) -> ReplayState:
    """An empty ring for transitions like `example`, whose leaves are `[num_envs, ...]`.

    Raises:
        ValueError: a leaf of `example` does not lead with `num_envs`.
    """
    example = jax.eval_shape(lambda tree: tree, example)
    flags = jax.ShapeDtypeStruct((num_envs,), jnp.uint8)
    record = _record(example, flags, store_next)
    for path, leaf in jax.tree_util.tree_leaves_with_path(record):
        if leaf.shape[:1] != (num_envs,):
            raise ValueError(
                f"replay example: {jax.tree_util.keystr(path)} has shape {leaf.shape}, expected "
                f"one step of {num_envs} environments, [{num_envs}, ...]."
            )
    leaves, treedef = jax.tree.flatten(record)
    columns = tuple(Column(leaf.shape[1:], leaf.dtype) for leaf in leaves)
    stored = [
        jax.eval_shape(column.encode, leaf) for column, leaf in zip(columns, leaves, strict=True)
    ]
    memory = [jnp.zeros((num_rows, *leaf.shape), leaf.dtype) for leaf in stored]
    return ReplayState(
        memory=jax.tree.unflatten(treedef, memory),
        position=jnp.zeros((), jnp.int32),
        num_filled=jnp.zeros((), jnp.int32),
        ended=jnp.ones((num_envs,), jnp.bool_),
        layout=Layout(treedef, columns, num_rows, num_envs, store_next),
    )


def write(state: ReplayState, trajectory: Transition) -> ReplayState:
    """Append `trajectory[T, num_envs]`, overwriting the oldest rows; O(T).

    Consecutive rows of an environment must be consecutive steps: a reset that no `terminated` or
    `truncated` row announces would make the next episode's first observation a successor.

    Raises:
        ValueError: the trajectory is not built like the example that made the ring.
    """
    layout = state.layout
    terminated = trajectory.terminated >= 1  # a probability below one does not end the episode
    ends = terminated | trajectory.truncated
    starts = jnp.concatenate([state.ended[None], ends[:-1]])
    flags = jnp.where(terminated, TERMINATED, jnp.where(trajectory.truncated, TRUNCATED, 0))
    flags = (flags | jnp.where(starts, STARTS, 0)).astype(jnp.uint8)
    record = _record(trajectory, flags, layout.store_next)
    _check_built_alike(layout, record)
    num_written = min(ends.shape[0], layout.num_rows)
    skipped = ends.shape[0] - num_written  # rows that this same call would overwrite
    offsets = jnp.arange(num_written, dtype=jnp.int32)
    rows = (state.position + skipped + offsets) % layout.num_rows

    def put(column: Column, memory: Array, values: Array) -> Array:
        stored = column.encode(values[skipped:])
        return memory.at[rows].set(stored, unique_indices=True, mode="promise_in_bounds")

    return state.replace(
        memory=jax.tree.map(put, layout.tree(), state.memory, record),
        position=(state.position + ends.shape[0]) % layout.num_rows,
        num_filled=jnp.minimum(state.num_filled + num_written, layout.num_rows),
        ended=ends[-1],
    )


def read(columns: PyTree, memory: PyTree, row: Array, env: Array) -> PyTree:
    """Entries `[..., *shape]` at `row[...]`, `env[...]` of some columns; O(entries read)."""

    def get(column: Column, stored: Array) -> Array:
        return column.decode(stored.at[row, env].get(mode="promise_in_bounds"))

    return jax.tree.map(get, columns, memory)


def row_of_age(state: ReplayState, age: Array) -> Array:
    """The row written `age` rows ago; age 0 is the newest."""
    return (state.position - 1 - age) % state.layout.num_rows


def num_bytes(state: PyTree) -> int:
    """Bytes of the arrays of a state, or of its `jax.eval_shape`."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def check_sizes(capacity: int, num_envs: int, reach: int, window: int, batch_size: int) -> None:
    """Raise `ValueError` when the sizes of a replay do not fit together.

    Args:
        capacity: transitions kept.
        num_envs: environments written side by side.
        reach: newest rows that cannot start a window, because it would pass the write head.
        window: steps of one window.
        batch_size: windows of one draw.
    """
    if num_envs < 1 or capacity % num_envs:
        raise ValueError(
            f"replay: capacity={capacity} is not a multiple of num_envs={num_envs}; "
            f"use {max(capacity // max(num_envs, 1), 1) * max(num_envs, 1)}."
        )
    least = (reach + 1) * num_envs
    if capacity < least:
        raise ValueError(
            f"replay: capacity={capacity} holds no window of {window} steps of {num_envs} "
            f"environments; use a capacity of at least {least}."
        )
    if batch_size > capacity - reach * num_envs:
        raise ValueError(
            f"replay: a batch of {batch_size} is larger than the {capacity - reach * num_envs} "
            f"windows that capacity={capacity} can hold; use a smaller batch or a larger capacity."
        )


def _record(kept: Transition, flags: Any, store_next: bool) -> Record:
    after = (kept.next_observation, kept.next_mask) if store_next else ((), ())
    step = kept.observation, kept.action, kept.reward, kept.discount
    rest = flags, kept.extras, kept.env_state
    return Record(*step, *rest, after[0], kept.cost, kept.mask, after[1])


def _check_built_alike(layout: Layout, record: Record) -> None:
    if jax.tree.structure(record) != layout.treedef:
        raise ValueError(
            f"replay add: the trajectory has the entries {jax.tree.structure(record)}, but the "
            f"replay was made for {layout.treedef}; drop or add extras, env_state and cost alike."
        )
    found = jax.tree_util.tree_leaves_with_path(record)
    for (path, leaf), column in zip(found, layout.columns, strict=True):
        wanted = (layout.num_envs, *column.shape)
        if leaf.shape[1:] != wanted or leaf.dtype != column.dtype:
            raise ValueError(
                f"replay add: {jax.tree_util.keystr(path)} is {leaf.dtype}{list(leaf.shape)}, but "
                f"the replay was made for {column.dtype}[T, {', '.join(map(str, wanted))}]."
            )
