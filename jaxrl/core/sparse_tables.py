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
    table, num_actions = _rows(transition)
    shape = len(table.indptr) // num_actions, num_actions, -1
    counts = np.diff(table.indptr)
    row = np.repeat(np.arange(counts.size), counts)
    place = np.arange(table.nnz) - table.indptr[row]
    prob = np.zeros((counts.size, max(1, int(counts.max()))))
    prob[row, place] = table.data
    # What is padded is a copy of a possible outcome, at probability 0.
    successor = np.append(table.indices, 0)[table.indptr[:-1], None].repeat(prob.shape[1], axis=1)
    successor[row, place] = table.indices
    next_state = successor.reshape(shape)
    if is_sparse(reward):
        rewards, _ = _rows(reward)
        if rewards.shape != table.shape:
            raise ValueError("A sparse reward must have the form of the transition.")
        rows = np.arange(counts.size).repeat(prob.shape[1])
        reward = np.asarray(rewards[rows, successor.ravel()]).reshape(shape)

    def at_outcomes(table: Any) -> Any:
        wide = np.shape(table) == (*next_state.shape[:2], len(next_state))
        return np.take_along_axis(np.asarray(table), next_state, axis=2) if wide else table

    return prob.reshape(shape), next_state, at_outcomes(reward), at_outcomes(terminal)


def _rows(tables: Any) -> tuple[Any, int]:
    """Matrices as one, a row s A + a for each pair, entries of one place added up; and A."""
    from scipy import sparse  # only for who has such tables

    blocks = list(tables) if isinstance(tables, (list, tuple)) else [tables]
    height, num_states = blocks[0].shape
    wanted = "a list of matrices [S, S], or one [S A, S]"
    if len({block.shape for block in blocks}) > 1 or num_states == 0 or height == 0:
        raise ValueError(f"A sparse transition must be {wanted}, of one size and not empty.")
    if height % num_states or (len(blocks) > 1 and height != num_states):
        raise ValueError(f"A sparse transition must be {wanted}; got [{height}, {num_states}].")
    table: Any = sparse.csr_array(sparse.vstack(blocks))
    num_actions = table.shape[0] // num_states
    if len(blocks) > 1:  # stood action by action
        table = table[np.arange(table.shape[0]).reshape(num_actions, num_states).T.ravel()]
    table.sum_duplicates()
    return table, num_actions
