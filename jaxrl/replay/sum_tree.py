"""A sum tree: draw an index in proportion to its weight, change weights, both in O(log n)."""

from __future__ import annotations

import jax.numpy as jnp

from jaxrl.core import Struct, struct
from jaxrl.core.types import Array

BRANCHES = 4  # measured under vmap on a CPU: 2-4x faster than two, and than sixteen


class SumTree(Struct):
    """Non-negative weights of `num_leaves` indices and the sums above them.

    `levels[0][i, j]` is the weight of index `4 i + j`; `levels[k + 1]` holds the sums of the rows
    of `levels[k]`; the last level has one row. Sums are recomputed from below at every change,
    never corrected by differences, so that rounding does not build up.
    """

    levels: tuple[Array, ...]  # each [num_nodes, 4] float32
    num_leaves: int = struct.field(pytree_node=False)

    @property
    def total(self) -> Array:
        """The sum of all weights, `[]`."""
        return jnp.sum(self.levels[-1])

    def weights_at(self, indices: Array) -> Array:
        """Weights `[...]` of `indices[...]`."""
        node, branch = indices // BRANCHES, indices % BRANCHES
        return self.levels[0].at[node, branch].get(mode="promise_in_bounds")

    def update(self, indices: Array, weights: Array) -> SumTree:
        """Set `weights[batch]` at `indices[batch]`; of an index that stands twice, the largest.

        Index `num_leaves` is a spare: set it to zero to change nothing.
        """
        node, branch = indices // BRANCHES, indices % BRANCHES
        # Setting to zero and then taking the maximum is independent of the order of the writes.
        leaves = self.levels[0].at[node, branch].set(0.0, mode="promise_in_bounds")
        levels = [leaves.at[node, branch].max(weights, mode="promise_in_bounds")]
        for level in self.levels[1:]:
            sums = jnp.sum(levels[-1].at[node].get(mode="promise_in_bounds"), axis=-1)
            node, branch = node // BRANCHES, node % BRANCHES
            levels.append(level.at[node, branch].set(sums, mode="promise_in_bounds"))
        return self.replace(levels=tuple(levels))

    def find(self, fractions: Array) -> tuple[Array, Array]:
        """Where the running sum of weights passes `fractions` of the total.

        An index of weight zero is never returned while any weight is positive, whatever the
        rounding: each level looks only at branches of positive weight.

        The weights come with the indices because every index depends on their being read: a caller
        that reads the leaves apart from that, and then writes them, makes the compiler copy them.

        Args:
            fractions: `[batch]` in [0, 1].

        Returns:
            The indices `[batch]` and their weights `[batch]`.
        """
        left = fractions * self.total
        node, weight = jnp.zeros(fractions.shape, jnp.int32), left
        for level in reversed(self.levels):
            weights = level.at[node].get(mode="promise_in_bounds")  # [batch, 4]
            ends = jnp.cumsum(weights, axis=-1)
            positive = weights > 0
            passed = positive & (ends > left[:, None])
            last = BRANCHES - 1 - jnp.argmax(positive[:, ::-1], axis=-1)
            branch = jnp.where(jnp.any(passed, axis=-1), jnp.argmax(passed, axis=-1), last)
            chosen = branch[:, None]
            weight = jnp.take_along_axis(weights, chosen, axis=-1)[:, 0]
            end = jnp.take_along_axis(ends, chosen, axis=-1)[:, 0]
            left = jnp.clip(left - (end - weight), 0.0, weight)
            node = node * BRANCHES + branch.astype(jnp.int32)
        return jnp.minimum(node, self.num_leaves - 1), weight  # an empty tree leads outside


def sum_tree(num_leaves: int) -> SumTree:
    """A tree of `num_leaves` zero weights."""
    levels, num_nodes = [], num_leaves + 1  # the spare
    while not levels or num_nodes > 1:
        num_nodes = -(-num_nodes // BRANCHES)
        levels.append(jnp.zeros((num_nodes, BRANCHES), jnp.float32))
    return SumTree(tuple(levels), num_leaves)
