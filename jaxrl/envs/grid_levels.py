"""Levels for a `WalledGrid`: walls, a start and a goal, drawn so that there is always a way."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core import Array, Key, Struct, setting
from jaxrl.envs.mazes import dig


@jax.jit
def grid_distances(walls: Array, source: Array) -> Array:
    """Steps from each cell to the cell `source` by straight moves, `[H, W]` int32; -1 where no way
    leads.

    A flood: as many sweeps over the grid as the longest way has steps, at worst half of H W.

    Args:
        walls: `[H, W]` bool.
        source: `[]` int, a cell; -1 everywhere else if it is a wall.

    Example:
        >>> walls = jnp.array([[False, True, False], [False, False, False]])
        >>> grid_distances(walls, jnp.array(0)).tolist()
        [[0, -1, 4], [1, 2, 3]]
    """
    height, width = walls.shape
    far = jnp.int32(height * width)  # longer than any way
    is_source = jnp.arange(height * width).reshape(height, width) == source

    def sweep(flood: tuple[Array, Array]) -> tuple[Array, Array]:
        away, _ = flood
        edged = jnp.pad(away, 1, constant_values=far)
        beside = edged[:-2, 1:-1], edged[2:, 1:-1], edged[1:-1, :-2], edged[1:-1, 2:]
        new = jnp.where(walls, far, jnp.minimum(away, functools.reduce(jnp.minimum, beside) + 1))
        new = jnp.where(is_source, 0, new)
        return new, jnp.any(new != away)

    first = jnp.where(is_source, 0, far)
    away, _ = jax.lax.while_loop(lambda flood: flood[1], sweep, (first, jnp.array(True)))
    return jnp.where(away < far, away, -1)


class GridLevel(Struct):
    """A level as data: levels of one size are a batch `[L, ...]`, to be stored and taken by index.

    Cells are numbered row by row. Start and goal are no walls and differ.
    """

    walls: Array  # [H, W] bool
    start: Array  # [] int32, a cell
    goal: Array  # [] int32, a cell

    def distances(self) -> Array:
        """Steps from each cell to the goal by straight moves, `[H, W]` int32; -1 where no way
        leads."""
        return grid_distances(self.walls, self.goal)

    @jax.jit
    def is_solvable(self) -> Array:
        """Whether a way leads from the start to the goal, neither of them a wall, `[]` bool."""
        walls, away = self.walls.reshape(-1), self.distances().reshape(-1)
        return (away[self.start] >= 0) & ~walls[self.start] & ~walls[self.goal]


class ScatteredWalls(Struct):
    """Single cells as walls, a random number of them, strewn over the grid.

    The number of walls is uniform between `fewest` and `most`, the start uniform over all cells,
    the walls over the other ones, and the goal over the cells that can be reached from the start.
    Where none can, a neighbour of the start, drawn uniformly, is freed and becomes the goal.
    """

    fewest: float = setting(0.0, "least number of walls", unit="cells", low=0.0)
    most: float = setting(25.0, "greatest number of walls", unit="cells", low=0.0)
    height: int = setting(9, "rows")
    width: int = setting(9, "columns")

    def draw(self, key: Key) -> GridLevel:
        """One level; the number of walls is cut so that two cells stay free."""
        num_cells = self.height * self.width
        if min(self.height, self.width) < 1 or num_cells < 2:
            raise ValueError(f"a level needs at least 2 cells; got {self.height} x {self.width}.")
        order_key, count_key, goal_key = jax.random.split(key, 3)
        order = jnp.argsort(jax.random.uniform(order_key, (num_cells,)))
        rank = jnp.argsort(order)
        span = self.most - self.fewest + 1.0
        num_walls = jnp.floor(self.fewest + span * jax.random.uniform(count_key))
        num_walls = jnp.minimum(num_walls, jnp.minimum(self.most, num_cells - 2))
        walls = (rank >= 1) & (rank <= num_walls)
        start = order[0].astype(jnp.int32)
        away = grid_distances(walls.reshape(self.height, self.width), start).reshape(-1)
        row, column = np.divmod(np.arange(num_cells), self.width)
        down, right = row - start // self.width, column - start % self.width
        is_beside = jnp.abs(down) + jnp.abs(right) == 1
        fits = jnp.where(jnp.any(away > 0), away > 0, is_beside)
        draw = jax.random.uniform(goal_key, (num_cells,))
        goal = jnp.argmax(jnp.where(fits, draw, -1.0)).astype(jnp.int32)
        walls = walls & (np.arange(num_cells) != goal)
        return GridLevel(walls.reshape(self.height, self.width), start, goal)


class DugWalls(Struct):
    """Corridors dug by a depth-first digger, as in `random_maze`, one cell wide between walls.

    Rooms are the cells of even row and column; the digger joins all of them by a tree, and every
    wall left between two rooms falls with probability `loop_prob`. Start and goal are two rooms.
    """

    loop_prob: float = setting(0.0, "share of the walls that fall", low=0.0, high=1.0)
    height: int = setting(9, "rows, an odd number")
    width: int = setting(9, "columns, an odd number")

    def draw(self, key: Key) -> GridLevel:
        """One level."""
        height, width = (self.height + 1) // 2, (self.width + 1) // 2
        if self.height % 2 == 0 or self.width % 2 == 0 or height * width < 2:
            raise ValueError(
                "a dug level needs odd sizes and at least 2 rooms; "
                f"got {self.height} x {self.width}."
            )
        dig_key, start_key, goal_key = jax.random.split(key, 3)
        start = jax.random.randint(start_key, (), 0, height * width)
        goal = (start + jax.random.randint(goal_key, (), 1, height * width)) % (height * width)
        sides = dig(dig_key, height, width, start, jnp.asarray(self.loop_prob, float))
        is_open = sides.reshape(height, width, 4)  # up, right, down, left
        walls = jnp.ones((self.height, self.width), bool).at[::2, ::2].set(False)
        walls = walls.at[::2, 1::2].set(~is_open[:, :-1, 1]).at[1::2, ::2].set(~is_open[:-1, :, 2])
        start, goal = (
            (2 * (room // width) * self.width + 2 * (room % width)).astype(jnp.int32)
            for room in (start, goal)
        )
        return GridLevel(walls, start, goal)
