"""Environments by name: the door for the command line and for short scripts.

A tabular one is a `TabularEnv` and carries its whole model, so that its exact optimum is a call
away: `planning.value_iteration(make("WindyCliff").mdp)`, with an error bound. At discount 1, where
a policy may never end, `planning.finite_horizon(env.mdp, horizon=200)` is the optimum over so many
steps.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from jaxrl.core import Environment, check_settings
from jaxrl.core.settings import near_names
from jaxrl.envs.bandits import Bandit, bandit
from jaxrl.envs.collecting import CollectingGrid, collecting_grid
from jaxrl.envs.control import (
    Acrobot,
    CartPole,
    MountainCar,
    MountainCarContinuous,
    Pendulum,
)
from jaxrl.envs.facts import GYMNAX_FACTS, Builder, EnvFacts, Registered, Size, first_line, size_of
from jaxrl.envs.gymnax import gymnax_env
from jaxrl.envs.gymnax_cures import cure_of
from jaxrl.envs.tabular import TabularEnv
from jaxrl.envs.tabular_builders import TABULAR_BUILDERS
from jaxrl.envs.two_colours import TwoColours, two_colours
from jaxrl.envs.walled import WalledGrid, walled_grid


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
    builder = _registered[name].build
    accepted = inspect.signature(builder).parameters.values()
    if all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in accepted):
        known = sorted(parameter.name for parameter in accepted)
        for given in parameters:
            if given not in known:
                raise ValueError(f"{name} has no parameter {given!r}; {near_names(given, known)}")
    return builder(**parameters)


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
    _registered[name] = Registered(builder)


def facts_of(name: str) -> EnvFacts:
    """What is known of the environment `name`; one of `register` is built to know it."""
    build, facts = _registered[name]
    if facts is None:
        env = build()
        spaces = size_of(env.observation_space), size_of(env.action_space)
        is_tabular = isinstance(env, TabularEnv)
        return EnvFacts(first_line(build), *spaces, is_tabular=is_tabular, suite="registered")
    return facts


def _gymnax_builder(name: str) -> Builder:
    switches = ("horizon_is_terminal", "transition_gradients")

    def build(**parameters: Any) -> Environment:
        given = {switch: parameters.pop(switch) for switch in switches if switch in parameters}
        return gymnax_env(name, parameters, **given)

    return build


def _struct_builder(kind: Callable[..., Environment]) -> Builder:
    """Builds a struct whose fields are settings; scalars become floats, values are checked."""
    signature = inspect.signature(kind)

    def build(**parameters: Any) -> Environment:
        env = kind(**{name: _scalar(name, value) for name, value in parameters.items()})
        check_settings(env)
        return env

    build.__signature__ = signature  # what `make` compares names with
    return build


def _scalar(name: str, value: Any) -> Any:
    """A number as a float, a scalar array (traced or not) as it is."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if not hasattr(value, "dtype") or value.dtype.kind not in "iuf":
        raise ValueError(f"parameter {name} must be a number; got {value!r}.")
    if value.shape != ():
        shape = list(value.shape)
        raise ValueError(f"parameter {name} must be one number; got shape {shape}: use `vmap`.")
    return value


def _own(
    kind: Callable[..., Environment],
    observation: Size,
    action: Size,
    builder: Builder | None = None,
    is_partial: bool = False,
) -> Registered:
    facts = EnvFacts(first_line(kind), observation, action, is_partial=is_partial)
    return Registered(builder or _struct_builder(kind), facts)


_registered: dict[str, Registered] = {
    **{name: Registered(_gymnax_builder(name), facts) for name, facts in GYMNAX_FACTS.items()},
    "CartPole": _own(CartPole, (4,), 2),
    "Pendulum": _own(Pendulum, (3,), (1,)),
    "Acrobot": _own(Acrobot, (6,), 3),
    "MountainCar": _own(MountainCar, (2,), 3),
    "MountainCarContinuous": _own(MountainCarContinuous, (2,), (1,)),
    "CollectingGrid": _own(CollectingGrid, 100, 4, collecting_grid),
    "TwoColours": _own(TwoColours, (30,), 4, two_colours, is_partial=True),
    "WalledGrid": _own(WalledGrid, 25, 4, walled_grid),
    "Bandit": _own(Bandit, 1, 3, bandit),
    **TABULAR_BUILDERS,
}
