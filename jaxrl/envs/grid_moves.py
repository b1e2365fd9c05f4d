"""Moves on a grid of cells that are numbered row by row, and the model of a way to a goal."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jaxrl.core import Array, TabularMDP

# Up, right, down, left; stay; the diagonals. Of the first four, a move + 2 undoes it.
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1), (0, 0), (-1, 1), (1, 1), (1, -1), (-1, -1))
MOVE_COUNTS = (4, 5, 9)


def landings(
    shape: tuple[int, int],
    moves: Sequence[tuple[int, int]] = MOVES[:4],
    push: np.ndarray | int = 0,
) -> np.ndarray:
    """The cells that each move, with a push of so many rows, leads to from each cell, `[S, A, K]`.

    What would leave the grid is clipped in each coordinate alone: straight moves stay put, diagonal
    ones slide along the edge. `push` broadcasts against `[S, A, K]` [cells down].
    """
    row, column = (at[:, None, None] for at in np.divmod(np.arange(shape[0] * shape[1]), shape[1]))
    down, right = np.array(moves).T[..., None]  # [A, 1] each
    row = np.clip(row + down + push, 0, shape[0] - 1)
    return row * shape[1] + np.clip(column + right, 0, shape[1] - 1)


def reached_cells(height: int, width: int, num_moves: int = 4) -> np.ndarray:
    """The cell that each move leads to from each cell, `[height width, num_moves]` int32.

    A table, because a gather is cheaper than dividing by the width.

    Args:
        height: rows, at least 1.
        width: columns, at least 1.
        num_moves: 4 straight moves (up, right, down, left), 5 with staying, 9 with diagonals
            (up-right, down-right, down-left, up-left).

    Raises:
        ValueError: a size below 1, or another number of moves.

    Example:
        >>> reached_cells(2, 2)[0].tolist()  # from the upper left corner
        [0, 1, 2, 0]
    """
    if min(height, width) < 1:
        raise ValueError(f"a grid needs at least one cell; got {height} x {width}.")
    if num_moves not in MOVE_COUNTS:
        raise ValueError(f"num_moves={num_moves} is not one of: 4, 5, 9.")
    return landings((height, width), MOVES[:num_moves])[..., 0].astype(np.int32)


def cells_beside(
    height: int, width: int, moves: Sequence[tuple[int, int]] | np.ndarray, outside: int
) -> np.ndarray:
    """The cell at each offset of `moves[M]` from each cell, `[height width, M]` int32; `outside`
    where that is off the grid."""
    row, column = (at[:, None] for at in np.divmod(np.arange(height * width), width))
    down, right = np.array(moves).T
    row, column = row + down, column + right
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return np.where(inside, row * width + column, outside).astype(np.int32)


def cell_index(name: str, place: tuple[int, int], height: int, width: int) -> int:
    """The number of the cell at (row, column).

    Raises:
        ValueError: it is off the grid; the message calls it `name`.
    """
    row, column = place
    if not (0 <= row < height and 0 <= column < width):
        raise ValueError(f"{name} {tuple(place)} is off the grid of {height} x {width} cells.")
    return int(row * width + column)


def goal_mdp(
    prob: float | Array, reached: Array, start: Array, goal: Array, discount: float | Array
) -> TabularMDP:
    """A walk from `start` on which entering `goal` pays 1 and ends, all else pays 0; may be traced.

    Args:
        prob: broadcasts to `[S, A, K]`.
        reached: `[S, A, K]`, states; those of the goal are rewritten as staying put for nothing.
        start: `[]`, a state.
        goal: `[]`, a state.
        discount: gamma in [0, 1] [per step].
    """
    number, states = jnp.result_type(float), jnp.arange(reached.shape[0], dtype=jnp.int32)
    at_goal = (states == goal)[:, None, None]
    reached = jnp.where(at_goal, states[:, None, None], reached).astype(jnp.int32)
    enters = reached == goal
    return TabularMDP(
        prob=jnp.broadcast_to(jnp.asarray(prob, number), reached.shape),
        next_state=reached,
        reward=jnp.where(enters & ~at_goal, 1.0, 0.0).astype(number),
        terminal=enters,
        initial=(states == start).astype(number),
        legal=jnp.ones(reached.shape[:2], bool),
        discount=jnp.asarray(discount, number),
    )
