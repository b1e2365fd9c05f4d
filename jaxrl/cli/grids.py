"""Where the states of the grid worlds lie, by the environment's name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxrl import envs
from jaxrl.core.mdp import TabularMDP
from jaxrl.envs.mazes import FOUR_ROOMS
from jaxrl.report.plan_picture import GridLayout

_UP, _RIGHT, _DOWN, _LEFT = (-1, 0), (0, 1), (1, 0), (0, -1)
_FOUR = (_UP, _RIGHT, _DOWN, _LEFT)
_KINGS = (*_FOUR, (-1, 1), (1, 1), (1, -1), (-1, -1))


def grid_layout(env_name: str, parameters: Mapping[str, Any], mdp: TabularMDP) -> GridLayout | None:
    """Rows and columns of the states, and where each action points; None for other models.

    Args:
        env_name: as for `envs.make`.
        parameters: those that were given.
        mdp: the environment's model.
    """
    num_states, num_actions = mdp.num_states, mdp.num_actions
    if env_name == "FourRooms":
        floor = np.array([list(row) for row in FOUR_ROOMS]) == "."
        return _layout(floor.shape, np.argwhere(floor), _FOUR, num_states)
    if env_name == "DeepSea":
        side = math.isqrt(num_states)
        found = _full((side, side), _FOUR, num_states)
        if found is None:
            return None
        # Which action is right may differ from cell to cell: each points where it leads.
        reached = found.cells[np.asarray(mdp.next_state)[:, :, 0]]
        return GridLayout(found.shape, found.cells, reached - found.cells[:, None, :])
    if env_name in ("FrozenLake-4x4", "FrozenLake-8x8"):
        side = math.isqrt(num_states)
        return _full((side, side), (_LEFT, _DOWN, _RIGHT, _UP), num_states)
    if env_name == "WindyGridworld":
        return _full((7, num_states // 7), _KINGS[:num_actions], num_states)
    if env_name in _SIZED:
        builder, *names = _SIZED[env_name]
        sizes = inspect.signature(builder).parameters
        shape = tuple(int(parameters.get(name, sizes[name].default)) for name in names)
        return _full(shape, _FOUR, num_states)
    return None


_SIZED: dict[str, tuple[Callable, str, str]] = {
    "CliffWalking": (envs.cliff_walking, "num_rows", "num_columns"),
    "WindyWalk": (envs.windy_walk, "num_rows", "num_columns"),
    "WindyCliff": (envs.windy_cliff, "num_rows", "num_columns"),
    "RandomMaze": (envs.random_maze, "height", "width"),
}


def _full(shape: tuple[int, ...], moves: tuple, num_states: int) -> GridLayout | None:
    """States numbered row by row over the whole grid."""
    return _layout(shape, np.argwhere(np.ones(shape)), moves, num_states)


def _layout(
    shape: tuple[int, ...], cells: np.ndarray, moves: tuple, num_states: int
) -> GridLayout | None:
    if len(cells) != num_states:  # another model than this table knows
        return None
    directions = np.broadcast_to(np.array(moves), (num_states, len(moves), 2))
    return GridLayout((shape[0], shape[1]), cells, directions)
