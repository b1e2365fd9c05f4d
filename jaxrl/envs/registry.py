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

from jaxrl.core.protocols import Environment
from jaxrl.core.settings import check_settings, near_names
from jaxrl.envs.bandits import bandit
from jaxrl.envs.collecting import collecting_grid
from jaxrl.envs.control import (
    Acrobot,
    CartPole,
    MountainCar,
    MountainCarContinuous,
    Pendulum,
)
from jaxrl.envs.gymnax import GYMNAX_NAMES, gymnax_env
from jaxrl.envs.gymnax_cures import cure_of
from jaxrl.envs.tabular_builders import TABULAR_BUILDERS
from jaxrl.envs.two_colours import two_colours
from jaxrl.envs.walled import walled_grid

Builder = Callable[..., Environment]


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
    if not isinstance(name, str) or name not in _builders:
        raise ValueError(f"unknown environment {name!r}; {near_names(str(name), names())}")
    builder = _builders[name]
    accepted = inspect.signature(builder).parameters.values()
    if all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in accepted):
        known = sorted(parameter.name for parameter in accepted)
        for given in parameters:
            if given not in known:
                raise ValueError(f"{name} has no parameter {given!r}; {near_names(given, known)}")
    return builder(**parameters)


def names() -> list[str]:
    """Every name that `make` accepts, sorted; costs no import of gymnax."""
    return sorted(name for name in _builders if not cure_of(name).refusal)


def register(name: str, builder: Builder) -> None:
    """Let `make(name, **parameters)` call `builder(**parameters)`.

    Raises:
        ValueError: the name is taken.
    """
    if name in _builders:
        raise ValueError(f"the environment name {name!r} is taken: choose another.")
    _builders[name] = builder


def _gymnax_builder(name: str) -> Builder:
    def build(
        *,
        horizon_is_terminal: bool | None = None,
        transition_gradients: bool = False,
        **parameters: Any,
    ) -> Environment:
        return gymnax_env(
            name,
            parameters,
            horizon_is_terminal=horizon_is_terminal,
            transition_gradients=transition_gradients,
        )

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


_builders: dict[str, Builder] = {
    **{name: _gymnax_builder(name) for name in GYMNAX_NAMES},
    "CartPole": _struct_builder(CartPole),
    "Pendulum": _struct_builder(Pendulum),
    "Acrobot": _struct_builder(Acrobot),
    "MountainCar": _struct_builder(MountainCar),
    "MountainCarContinuous": _struct_builder(MountainCarContinuous),
    "CollectingGrid": collecting_grid,
    "TwoColours": two_colours,
    "WalledGrid": walled_grid,
    "Bandit": bandit,
    **TABULAR_BUILDERS,
}
