"""Tabular environments by name: the numbers of a model, a clock and how states are observed."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from jaxrl.core import TabularMDP
from jaxrl.envs.chains import chain, deep_sea, riverswim
from jaxrl.envs.facts import EnvFacts, Registered, first_line
from jaxrl.envs.finance import american_option, gambler
from jaxrl.envs.garnet import garnet
from jaxrl.envs.gridworlds import (
    LAKE_4X4,
    LAKE_8X8,
    cliff_walking,
    frozen_lake,
    windy_cliff,
    windy_gridworld,
    windy_walk,
)
from jaxrl.envs.mazes import EAST_HALLWAY, four_rooms, random_maze
from jaxrl.envs.operations import access_control_queue, inventory, machine_replacement
from jaxrl.envs.regimes import regime_option, regime_portfolio
from jaxrl.envs.tabular import TabularEnv


def _numbers(function: Callable[..., Any]) -> dict[str, float]:
    """The parameters that are numbers, with their defaults; not the discount, which is no part of
    an environment."""
    parameters = inspect.signature(function).parameters.values()
    return {
        p.name: p.default
        for p in parameters
        if isinstance(p.default, (int, float)) and p.name != "discount"
    }


def _taken(given: dict[str, Any], function: Callable[..., Any]) -> dict[str, Any]:
    """Of what is given, what a function takes, and no longer given."""
    return {name: given.pop(name) for name in _numbers(function) if name in given}


def _nothing() -> dict[str, Any]:
    return {}


def _table(
    model: Callable[..., TabularMDP],
    num_states: int,
    num_actions: int,
    time_limit: float | Callable[[TabularMDP], float] = float("inf"),
    seed: int | None = None,
    arranged: Callable[..., dict[str, Any]] = _nothing,
) -> Registered:
    """Builds a `TabularEnv` from keywords, whose defaults are those of the model.

    They are the numbers of the model, of the structs among its arguments, and of `arranged`, which
    makes other arguments of them; `seed` of the model's key; `time_limit` and `one_hot`.

    Args:
        model: builds the table.
        num_states: as by default, as is the number of actions: what is listed.
        num_actions: of the model.
        time_limit: of episodes, or how to tell it from the table [steps].
        seed: by default.
        arranged: numbers to arguments of the model that are none.
    """
    arguments = inspect.signature(model).parameters
    structs = {n: p.default for n, p in arguments.items() if dataclasses.is_dataclass(p.default)}
    known: dict[str, Any] = {**_numbers(model), **_numbers(arranged)}
    for struct in structs.values():
        known |= _numbers(type(struct))
    known |= {"seed": seed} if "key" in arguments else {}
    known |= {"time_limit": time_limit, "one_hot": True}

    def build(
        seed: int | None = seed, time_limit: Any = time_limit, one_hot: bool = True, **given: Any
    ) -> TabularEnv:
        others = arranged(**_taken(given, arranged))
        for name, struct in structs.items():
            others[name] = dataclasses.replace(struct, **_taken(given, type(struct)))
        if seed is not None:
            others["key"] = jax.random.key(seed)
        mdp = model(**others, **given)
        return TabularEnv(mdp, time_limit(mdp) if callable(time_limit) else time_limit, one_hot)

    kind = inspect.Parameter.KEYWORD_ONLY
    build.__signature__ = inspect.Signature(  # what `make` compares names with
        [inspect.Parameter(name, kind, default=default) for name, default in known.items()]
    )
    about = first_line(getattr(model, "func", model))
    return Registered(build, EnvFacts(about, (num_states,), num_actions, is_tabular=True))


def _one_goal(
    goal_row: int = EAST_HALLWAY[0], goal_column: int = EAST_HALLWAY[1]
) -> dict[str, Any]:
    return {"goals": [(goal_row, goal_column)]}


def _two_regimes(wild_multiplier: float = 2.0) -> dict[str, Any]:
    return {"multipliers": (1.0, wild_multiplier)}


TABULAR_BUILDERS: dict[str, Registered] = {
    "RiverSwim": _table(riverswim, 6, 2, 100.0),
    "DeepSea": _table(deep_sea, 64, 2),
    "Garnet": _table(garnet, 20, 4, 100.0, seed=0),
    "Chain": _table(chain, 5, 2, 1000.0),
    "FrozenLake-4x4": _table(partial(frozen_lake, LAKE_4X4), 16, 4, 100.0),
    "FrozenLake-8x8": _table(partial(frozen_lake, LAKE_8X8), 64, 4, 200.0),
    "CliffWalking": _table(cliff_walking, 48, 4, 200.0),
    "WindyGridworld": _table(windy_gridworld, 70, 4, 200.0),
    "WindyWalk": _table(windy_walk, 40, 4, 200.0),
    "WindyCliff": _table(windy_cliff, 28, 4, 200.0),
    "FourRooms": _table(four_rooms, 104, 4, 1000.0, arranged=_one_goal),
    "RandomMaze": _table(random_maze, 64, 4, 500.0, seed=0),
    "Gambler": _table(gambler, 101, 51, lambda mdp: 10.0 * (mdp.num_states - 1)),
    "AmericanOption": _table(partial(american_option, num_steps=20), 231, 2),
    "RegimeOption": _table(regime_option, 338, 2, arranged=_two_regimes),
    "RegimePortfolio": _table(regime_portfolio, 10, 5, 100.0),
    "Inventory": _table(inventory, 4, 4, 100.0),
    "MachineReplacement": _table(machine_replacement, 10, 2, 100.0),
    "AccessControlQueue": _table(access_control_queue, 44, 2, 1000.0),
}
