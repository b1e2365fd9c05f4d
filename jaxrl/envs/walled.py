"""A grid with walls, a start and a goal, whose level is data."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jaxrl.core import Array, Box, Discrete, Key, Space, Struct, TabularMDP, TimeStep
from jaxrl.core.settings import check_settings, setting
from jaxrl.envs.clock import clock, clocked
from jaxrl.envs.grid_levels import GridLevel
from jaxrl.envs.grid_moves import cells_beside, goal_mdp, reached_cells
from jaxrl.envs.tabular import TabularState

DETOUR = (
    "S..#.",
    "##.#.",
    ".....",
    ".###.",
    "...#G",
)


class WalledGrid(Struct):
    """Find the way to the goal: entering it pays 1 and ends, all else pays 0.

    Actions are up 0, right 1, down 2, left 3; a move into a wall or off the grid stays put. Nothing
    is random, so that d steps from the goal the best value is discount^(d - 1).

    The level is made of leaves: levels of one size are a batch under `vmap`, may be kept in a
    buffer `[L, ...]` and taken from it by a traced index, and recompile nothing. Build one with
    `make("WalledGrid")`, which checks, or draw them with `jaxrl.meta.RandomMazes`.

    Example:
        >>> import jax
        >>> env = walled_grid(["SG"])
        >>> state, _ = env.reset(jax.random.key(0))
        >>> _, step = env.step(jax.random.key(0), state, jnp.array(1))
        >>> float(step.reward), bool(step.terminated)
        (1.0, True)
    """

    level: GridLevel
    time_limit: float = clock(100.0)
    view: int = setting(0, "cells seen in each direction; 0 observes the index of the cell")

    action_space = Discrete(4)  # up, right, down, left

    @property
    def observation_space(self) -> Space:
        """`Discrete(H W)`, the cell; or `Box[2 (2 view + 1)^2]`: walls, then the goal, in the
        square round the agent. Beyond the edge all is wall."""
        if self.view == 0:
            height, width = self.level.walls.shape[-2:]
            return Discrete(height * width)
        return Box(jnp.zeros(()), jnp.ones(()), (2 * (2 * self.view + 1) ** 2,))

    def reset(self, key: Key) -> tuple[TabularState, Array]:
        """The agent at the start; the key is not used."""
        state = TabularState(jnp.asarray(self.level.start, jnp.int32), jnp.zeros((), jnp.int32))
        return state, self._observe(state.index)

    def step(self, key: Key, state: TabularState, action: Array) -> tuple[TabularState, TimeStep]:
        """One move; the key is not used."""
        height, width = self.level.walls.shape
        cell = jnp.asarray(reached_cells(height, width))[state.index, action]
        cell = jnp.where(self.level.walls.reshape(-1)[cell], state.index, cell)
        terminated = cell == self.level.goal
        time = state.time + 1
        step = clocked(self._observe(cell), terminated, terminated, time, self.time_limit)
        return TabularState(cell, time), step

    def _observe(self, cell: Array) -> Array:
        if self.view == 0:
            return cell
        height, width = self.level.walls.shape
        beyond = height * width  # one more cell, a wall, stands for all that is off the grid
        moves = np.indices((2 * self.view + 1,) * 2).reshape(2, -1).T - self.view
        seen = jnp.asarray(cells_beside(height, width, moves, beyond))[cell]
        walls = jnp.pad(self.level.walls.reshape(-1), (0, 1), constant_values=True)
        return jnp.concatenate([walls[seen], seen == self.level.goal]).astype(jnp.float32)

    def as_mdp(self, discount: float | Array = 0.99) -> TabularMDP:
        """The model of this grid without its clock; states are cells, K is 1.

        It runs inside `jit`, and under `vmap` over levels. Walls are states that are never met.

        Args:
            discount: gamma in [0, 1] [per step].
        """
        height, width = self.level.walls.shape
        cells, walls = np.arange(height * width)[:, None], self.level.walls.reshape(-1)
        reached = jnp.asarray(reached_cells(height, width))
        reached = jnp.where(walls[reached], cells, reached)[..., None]
        return goal_mdp(1.0, reached, self.level.start, self.level.goal, discount)


def walled_grid(
    rows: Sequence[str] = DETOUR, time_limit: float = 100.0, view: int = 0
) -> WalledGrid:
    """A `WalledGrid` from a drawing.

    Args:
        rows: one string for each row: `#` a wall, `.` free, `S` the start, `G` the goal.
        time_limit: truncates after so many steps, at least 1 [steps].
        view: cells seen in each direction; 0 observes the index of the cell.

    Raises:
        ValueError: rows of different lengths, another character, not exactly one start and one
            goal, no way between them, or a number out of range.

    Example:
        >>> walled_grid(["S#G"])
        Traceback (most recent call last):
        ValueError: no way leads from S to G: remove a wall.
    """
    if len({len(row) for row in rows}) != 1:
        raise ValueError(f"rows must have one length; got {[len(row) for row in rows]}.")
    drawn = np.array([list(row) for row in rows])
    unknown = sorted(set(drawn.reshape(-1)) - set("#.SG"))
    if unknown:
        raise ValueError(f"rows hold {', '.join(map(repr, unknown))}: draw with #, ., S and G.")
    places = [np.flatnonzero(drawn == letter) for letter in "SG"]
    if any(len(place) != 1 for place in places):
        raise ValueError("rows must hold exactly one S and one G.")
    if view < 0:
        raise ValueError(f"view={view} is out of range: give 0 or more cells.")
    start, goal = (jnp.asarray(place[0], jnp.int32) for place in places)
    level = GridLevel(jnp.asarray(drawn == "#"), start, goal)
    if not level.is_solvable():
        raise ValueError("no way leads from S to G: remove a wall.")
    env = WalledGrid(level, time_limit, view)
    check_settings(env)
    return env
