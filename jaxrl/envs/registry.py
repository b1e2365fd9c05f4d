"""Environments by name: the door for the command line and for short scripts.

A tabular one is a `TabularEnv` and carries its whole model, so that its exact optimum is a call
away: `planning.value_iteration(make("WindyCliff").mdp)`, with an error bound. At discount 1, where
a policy may never end, `planning.finite_horizon(env.mdp, horizon=200)` is the optimum over so many
steps.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from jaxrl.core import Discrete, Environment, MultiDiscrete, Space, TabularMDP, check_settings
from jaxrl.core.arguments import check_whole
from jaxrl.core.settings import near_names
from jaxrl.core.spaces import flat_size, is_leaf, leaves, sample
from jaxrl.envs import bandits, chains, collecting, finance, gridworlds, mazes, operations, regimes
from jaxrl.envs.constrained import hazard_grid
from jaxrl.envs.control import Acrobot, CartPole, MountainCar, Pendulum
from jaxrl.envs.control.mountain_car import mountain_car_continuous
from jaxrl.envs.control.pendulum import SpeedLimitedPendulum
from jaxrl.envs.control.point_mass import PointMass
from jaxrl.envs.gymnax import gymnax_env
from jaxrl.envs.gymnax_cures import cure_of
from jaxrl.envs.gymnax_suites import GYMNAX_SUITES
from jaxrl.envs.tabular import TabularEnv
from jaxrl.envs.two_colours import TwoColours
from jaxrl.envs.walled import WalledGrid, walled_grid

Builder = Callable[..., Environment]
Size = int | tuple[int, ...] | str  # values if discrete, the shape of a box, else in words


@dataclasses.dataclass(frozen=True)
class EnvFacts:
    """What is known of an environment before it is built, and how it is built.

    The facts are those of its parameters by default; a test builds every environment and compares.
    That an observation hides something is said where a memory belongs to the task, and not of a
    clock or of the timers that MinAtar hides.
    """

    build: Builder
    about: str  # one line
    observation: Size | None = None  # None where it must be built to know
    action: Size | None = None
    is_partial: bool = False  # observations hide what an agent should remember
    is_tabular: bool = False  # a `TabularEnv`, whose whole model is known
    suite: str = "jaxrl"
    parameters: frozenset[str] = frozenset()  # that `build` takes, where its signature tells less
    num_costs: int = 0  # of a step, beside its reward

    @property
    def is_continuous(self) -> bool:
        """Whether actions are numbers and not one of several."""
        return isinstance(self.action, tuple)


def make(name: str, **parameters: Any) -> Environment:
    """An environment by name.

    Args:
        name: a gymnax id, one of ours, or a name given to `register`; `names()` lists them.
            `CartPole-v1` is gymnax's, `CartPole` ours (`jaxrl.envs.control`).
        **parameters: what the environment calls its parameters. Physical constants become leaves;
            sizes are static. Every gymnax environment also takes `horizon_is_terminal` and
            `transition_gradients` (see `jaxrl.envs.gymnax.gymnax_env`).

    Raises:
        ValueError: unknown name or parameter (near ones are listed), or a bad value.

    Example:
        >>> make("RiverSwim", num_states=5).observation_space.shape
        (5,)
    """
    if not isinstance(name, str) or name not in _registered:
        raise ValueError(f"unknown environment {name!r}; {near_names(str(name), names())}")
    facts = _registered[name]
    accepted = inspect.signature(facts.build).parameters.values()
    is_open = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in accepted)
    known = facts.parameters or [one.name for one in accepted]
    for given in parameters:
        if given not in known and (facts.parameters or not is_open):
            near = near_names(given, sorted(known))
            raise ValueError(f"{name} has no parameter {given!r}; {near}")
    return facts.build(**parameters)


def names() -> list[str]:
    """Every name that `make` accepts, sorted; costs no import of gymnax."""
    return sorted(name for name in _registered if not cure_of(name).refusal)


def register(name: str, builder: Builder) -> None:
    """Let `make(name, **parameters)` call `builder(**parameters)`.

    Raises:
        ValueError: the name is taken.
    """
    if name in _registered:
        raise ValueError(f"the environment name {name!r} is taken: choose another.")
    _registered[name] = EnvFacts(builder, _about(builder), suite="registered")


def facts_of(name: str) -> EnvFacts:
    """What is known of the environment `name`; one of `register` is built to know it."""
    facts = _registered[name]
    if facts.observation is not None:
        return facts
    env = facts.build()
    sizes = _size(env.observation_space), _size(env.action_space)
    keys = jax.random.split(jax.random.key(0), 3)
    step = lambda: env.step(keys[1], env.reset(keys[0])[0], sample(keys[2], env.action_space))  # noqa: E731
    return dataclasses.replace(
        facts,
        observation=sizes[0],
        action=sizes[1],
        is_tabular=isinstance(env, TabularEnv),
        num_costs=jax.eval_shape(step)[1].cost.shape[-1],
    )


def _size(space: Space) -> Size:
    """How `EnvFacts` say a space."""
    if isinstance(space, MultiDiscrete):
        return f"{'x'.join(map(str, space.num_values))} values"
    if not is_leaf(space):
        return f"{len(leaves(space))} parts, {flat_size(space)} numbers"
    return space.num_values if isinstance(space, Discrete) else space.shape


def _about(documented: Any) -> str:
    """What a function or class is, by its docstring."""
    return (documented.__doc__ or "").strip().partition("\n")[0]


def _struct(
    kind: Callable[[], Any],
    observation: Size,
    action: Size,
    is_partial: bool = False,
    num_costs: int = 0,
) -> EnvFacts:
    """Builds a struct whose fields are settings; scalars become floats, values are checked."""
    fields = {f.name: f.metadata for f in dataclasses.fields(kind()) if "help" in f.metadata}

    def build(**parameters: Any) -> Environment:
        given = {
            name: (check_whole if fields[name]["whole"] else _scalar)(name, value)
            for name, value in parameters.items()
        }
        env = dataclasses.replace(kind(), **given)
        check_settings(env)
        return env

    facts = EnvFacts(build, _about(kind), observation, action, is_partial, num_costs=num_costs)
    return dataclasses.replace(facts, parameters=frozenset(fields))


def _scalar(name: str, value: Any) -> Any:
    """A number as a float, a scalar array (traced or not) as it is."""
    plain: Any = value
    if isinstance(plain, (int, float)) and not isinstance(plain, bool):
        return float(plain)
    if not hasattr(value, "dtype") or value.dtype.kind not in "iuf":
        raise ValueError(f"parameter {name} must be a number; got {value!r}.")
    if value.shape != ():
        shape = list(value.shape)
        raise ValueError(f"parameter {name} must be one number; got shape {shape}: use `vmap`.")
    return value


def _table(
    model: Callable[..., TabularMDP],
    num_states: int,
    num_actions: int,
    time_limit: float | Callable[[TabularMDP], float] = float("inf"),
) -> EnvFacts:
    """A tabular environment: a model with the clock of its episodes.

    Its parameters are the numbers that `model` takes, itself and in a struct of settings, other
    than the discount, which the learner has; and a seed where it takes a key.

    Args:
        model: builds the model.
        num_states: of the model by default.
        num_actions: of the model by default.
        time_limit: truncates after so many steps; infinite where every episode ends by itself. Or
            how a model sets it.
    """
    arguments = inspect.signature(model).parameters
    defaults = {name: argument.default for name, argument in arguments.items()}
    structs = {n: vars(part) for n, part in defaults.items() if dataclasses.is_dataclass(part)}
    numbers = {n: x for one in (defaults, *structs.values()) for n, x in one.items()}
    known = {n for n, x in numbers.items() if isinstance(x, (int, float)) and n != "discount"}
    known |= {"time_limit", "one_hot", *(["seed"] if "key" in defaults else [])}

    def build(time_limit: Any = time_limit, one_hot: bool = True, **given: Any) -> TabularEnv:
        for name, fields in structs.items():
            own = {field: given.pop(field) for field in fields if field in given}
            given[name] = dataclasses.replace(defaults[name], **own)
        if "key" in defaults:  # where it may be left out, so may the seed
            seed = given.pop("seed", None if defaults["key"] is None else 0)
            given["key"] = None if seed is None else jax.random.key(seed)
        mdp = model(**given)
        limit: Any = time_limit(mdp) if callable(time_limit) else time_limit
        return TabularEnv(mdp, limit, one_hot)

    about = _about(model.func if isinstance(model, partial) else model)
    sizes = (num_states,), num_actions
    return EnvFacts(build, about, *sizes, is_tabular=True, parameters=frozenset(known))


def _four_rooms(
    goal_row: int = mazes.EAST_HALLWAY[0],
    goal_column: int = mazes.EAST_HALLWAY[1],
    slip_prob: float = 1.0 / 3.0,
) -> TabularMDP:
    """Four rooms joined by four hallways: the gridworld of options."""
    return mazes.four_rooms([(goal_row, goal_column)], slip_prob)


def _regime_option(
    wild_multiplier: float = 2.0,
    terms: finance.OptionTerms = finance.OptionTerms(),
    num_steps: int = 12,
    is_put: bool = True,
) -> TabularMDP:
    """When to exercise an option while the volatility of the share switches."""
    multipliers = (1.0, wild_multiplier)
    return regimes.regime_option(terms, multipliers, num_steps=num_steps, is_put=is_put)


def _speed_limited(speed_limit: Any = 4.0, **pendulum: Any) -> Environment:
    """The pendulum of the entry `Pendulum`, under a limit."""
    inner: Any = _registered["Pendulum"].build(**pendulum)
    env = SpeedLimitedPendulum(inner, _scalar("speed_limit", speed_limit))
    check_settings(env)
    return env


_PENDULUM = _struct(Pendulum, (3,), (1,))
_registered: dict[str, EnvFacts] = {
    **{
        name: EnvFacts(partial(gymnax_env, name), *row, suite=suite)
        for suite, rows in GYMNAX_SUITES.items()
        for name, row in rows.items()
    },
    "CartPole": _struct(CartPole, (4,), 2),
    "Pendulum": _PENDULUM,
    "PendulumSpeedLimit": EnvFacts(
        _speed_limited,
        _about(SpeedLimitedPendulum),
        (3,),
        (1,),
        parameters=_PENDULUM.parameters | {"speed_limit"},
        num_costs=1,
    ),
    "PointMass": _struct(PointMass, (4,), (2,), num_costs=1),
    "Acrobot": _struct(Acrobot, (6,), 3),
    "MountainCar": _struct(MountainCar, (2,), 3),
    "MountainCarContinuous": _struct(mountain_car_continuous, (2,), (1,)),
    "TwoColours": _struct(TwoColours, (30,), 4, is_partial=True),
    "CollectingGrid": EnvFacts(
        collecting.collecting_grid, _about(collecting.CollectingGrid), 100, 4
    ),
    "HazardGrid": EnvFacts(hazard_grid, _about(hazard_grid), (12,), 4, num_costs=1),
    "WalledGrid": EnvFacts(walled_grid, _about(WalledGrid), 25, 4),
    "Bandit": EnvFacts(bandits.bandit, _about(bandits.Bandit), 1, 3),
    "RiverSwim": _table(chains.riverswim, 6, 2, 100.0),
    "DeepSea": _table(chains.deep_sea, 64, 2),
    "Garnet": _table(chains.garnet, 20, 4, 100.0),
    "Chain": _table(chains.chain, 5, 2, 1000.0),
    "FrozenLake-4x4": _table(partial(gridworlds.frozen_lake, gridworlds.LAKE_4X4), 16, 4, 100.0),
    "FrozenLake-8x8": _table(partial(gridworlds.frozen_lake, gridworlds.LAKE_8X8), 64, 4, 200.0),
    "CliffWalking": _table(gridworlds.cliff_walking, 48, 4, 200.0),
    "WindyGridworld": _table(gridworlds.windy_gridworld, 70, 4, 200.0),
    "WindyWalk": _table(gridworlds.windy_walk, 40, 4, 200.0),
    "WindyCliff": _table(gridworlds.windy_cliff, 28, 4, 200.0),
    "FourRooms": _table(_four_rooms, 104, 4, 1000.0),
    "RandomMaze": _table(mazes.random_maze, 64, 4, 500.0),
    "Gambler": _table(finance.gambler, 101, 51, lambda mdp: 10.0 * (mdp.num_states - 1)),
    "AmericanOption": _table(partial(finance.american_option, num_steps=20), 231, 2),
    "RegimeOption": _table(_regime_option, 338, 2),
    "RegimePortfolio": _table(regimes.regime_portfolio, 10, 5, 100.0),
    "Inventory": _table(operations.inventory, 4, 4, 100.0),
    "MachineReplacement": _table(operations.machine_replacement, 10, 2, 100.0),
    "AccessControlQueue": _table(operations.access_control_queue, 44, 2, 1000.0),
}
