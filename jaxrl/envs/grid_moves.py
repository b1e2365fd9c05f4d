"""Moves on a grid of cells that are numbered row by row."""

from __future__ import annotations

import numpy as np

# Up, right, down, left; stay; the diagonals. The first four are those of the tabular grids.
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1), (0, 0), (-1, 1), (1, 1), (1, -1), (-1, -1))
MOVE_COUNTS = (4, 5, 9)


def reached_cells(height: int, width: int, num_moves: int = 4) -> np.ndarray:
    """The cell that each move leads to from each cell, `[height width, num_moves]` int32.

    A move off the grid is clipped in each coordinate alone: straight ones stay put, diagonal ones
    slide along the edge. A table, because a gather is cheaper than dividing by the width.

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
    row, column = (at[:, None] for at in np.divmod(np.arange(height * width), width))
    down, right = np.array(MOVES[:num_moves]).T
    row, column = np.clip(row + down, 0, height - 1), np.clip(column + right, 0, width - 1)
    return (row * width + column).astype(np.int32)


def cell_index(name: str, place: tuple[int, int], height: int, width: int) -> int:
    """The number of the cell at (row, column).

    Raises:
        ValueError: it is off the grid; the message calls it `name`.
    """
    row, column = place
    if not (0 <= row < height and 0 <= column < width):
        raise ValueError(f"{name} {tuple(place)} is off the grid of {height} x {width} cells.")
    return int(row * width + column)
