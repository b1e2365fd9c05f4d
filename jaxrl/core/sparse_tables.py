"""Transition tables that come as SciPy sparse matrices."""

from __future__ import annotations

from typing import Any

import numpy as np


def is_sparse(table: Any) -> bool:
    """Whether this is a SciPy sparse matrix, or a list of them."""
    first = table[0] if isinstance(table, (list, tuple)) and len(table) else table
    return hasattr(first, "tocsr")


def sparse_outcomes(
    transition: Any, reward: Any, terminal: Any
) -> tuple[np.ndarray, np.ndarray, Any, Any]:
    """Probabilities and next states `[S, A, K]` of sparse matrices, and what goes with them.

    Args:
        transition: a list of A matrices `[S, S]`, or one `[S A, S]`, row s A + a for each pair.
        reward: sparse in the same form, or dense in one that `tabular_mdp` takes.
        terminal: dense, in one that `tabular_mdp` takes.

    Raises:
        ValueError: matrices of other shapes.
    """
    blocks = list(transition) if isinstance(transition, (list, tuple)) else [transition]
    num_states = blocks[0].shape[1]
    wanted = "a list of matrices [S, S], or one [S A, S]"
    if len({block.shape for block in blocks}) > 1 or num_states == 0 or blocks[0].shape[0] == 0:
        raise ValueError(f"A sparse transition must be {wanted}, of one size and not empty.")
    if blocks[0].shape[0] % num_states or (len(blocks) > 1 and blocks[0].shape[0] != num_states):
        raise ValueError(f"A sparse transition must be {wanted}; got {list(blocks[0].shape)}.")
    num_actions = len(blocks) * blocks[0].shape[0] // num_states

    def in_order(per_block: list[np.ndarray]) -> np.ndarray:
        if len(per_block) > 1:
            return np.stack(per_block, axis=1)
        return per_block[0].reshape(num_states, num_actions, -1)

    blocks = [block.tocsr(copy=True) for block in blocks]
    for block in blocks:
        block.sum_duplicates()
    num_outcomes = max(1, *(int(np.diff(block.indptr).max()) for block in blocks))
    probs, successors, rows = [], [], []
    for block in blocks:
        counts = np.diff(block.indptr)
        row = np.repeat(np.arange(counts.size), counts)
        place = np.arange(block.nnz) - block.indptr[row]
        prob = np.zeros((counts.size, num_outcomes))
        prob[row, place] = block.data
        # What is padded is a copy of a possible outcome, at probability 0.
        first = np.append(block.indices, 0)[block.indptr[:-1]]
        successor = np.broadcast_to(first[:, None], prob.shape).copy()
        successor[row, place] = block.indices
        probs.append(prob)
        successors.append(successor)
        rows.append(np.broadcast_to(np.arange(counts.size)[:, None], prob.shape))
    if is_sparse(reward):
        tables = list(reward) if isinstance(reward, (list, tuple)) else [reward]
        if [table.shape for table in tables] != [block.shape for block in blocks]:
            raise ValueError("A sparse reward must have the form of the transition.")
        found = []
        for table, row, successor in zip(tables, rows, successors, strict=True):
            entries = table.tocsr()[row.ravel(), successor.ravel()]
            entries = entries.todense() if hasattr(entries, "todense") else entries
            found.append(np.asarray(entries).reshape(row.shape))
        reward = in_order(found)
    next_state = in_order(successors)

    def at_outcomes(table: Any) -> Any:
        wide = np.shape(table) == (num_states, num_actions, num_states)
        return np.take_along_axis(np.asarray(table), next_state, axis=2) if wide else table

    return in_order(probs), next_state, at_outcomes(reward), at_outcomes(terminal)
