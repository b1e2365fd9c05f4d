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
_SIZED: dict[str, tuple[Callable, str, str]] = {
    "CliffWalking": (envs.cliff_walking, "num_rows", "num_columns"),
    "WindyWalk": (envs.windy_walk, "num_rows", "num_columns"),
    "WindyCliff": (envs.windy_cliff, "num_rows", "num_columns"),
    "RandomMaze": (envs.random_maze, "height", "width"),
}


def grid_layout(env_name: str, parameters: Mapping[str, Any], mdp: TabularMDP) -> GridLayout | None:
    """Rows and columns of the states, and where each action points; None for other models.

    Args:
        env_name: as for `envs.make`.
        parameters: those that were given.
        mdp: the environment's model.
    """
    num_states, moves, side = mdp.num_states, _FOUR, math.isqrt(mdp.num_states)
    floor = np.ones((side, side), bool)  # states are numbered row by row over it
    if env_name == "FourRooms":
        floor = np.array([list(row) for row in FOUR_ROOMS]) == "."
    elif env_name in ("FrozenLake-4x4", "FrozenLake-8x8"):
        moves = (_LEFT, _DOWN, _RIGHT, _UP)
    elif env_name == "WindyGridworld":
        floor, moves = np.ones((7, num_states // 7), bool), _KINGS[: mdp.num_actions]
    elif env_name in _SIZED:
        builder, *names = _SIZED[env_name]
        sizes = inspect.signature(builder).parameters
        floor = np.ones([int(parameters.get(name, sizes[name].default)) for name in names], bool)
    elif env_name != "DeepSea":
        return None
    cells = np.argwhere(floor)
    if len(cells) != num_states:  # another model than this table knows
        return None
    directions = np.broadcast_to(np.array(moves), (num_states, len(moves), 2))
    if env_name == "DeepSea":
        # Which action is right may differ from cell to cell: each points where it leads.
        directions = cells[np.asarray(mdp.next_state)[:, :, 0]] - cells[:, None, :]
    rows, columns = floor.shape
    return GridLayout((rows, columns), cells, directions)
