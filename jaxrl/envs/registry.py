"""Environments by name: the door for the command line and for short scripts."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax

from jaxrl.core.protocols import Environment
from jaxrl.core.settings import near_names
from jaxrl.envs.chains import deep_sea, riverswim
from jaxrl.envs.garnet import garnet
from jaxrl.envs.gymnax import GYMNAX_NAMES, gymnax_env
from jaxrl.envs.gymnax_cures import cure_of
from jaxrl.envs.tabular import TabularEnv

Builder = Callable[..., Environment]


def make(name: str, **parameters: Any) -> Environment:
    """An environment by name.

    Args:
        name: a gymnax id, one of ours, or a name given to `register`; `names()` lists them.
        **parameters: what the environment calls its parameters. Physical constants become leaves;
            sizes are static. Every gymnax environment also takes `horizon_is_terminal` and
            `transition_gradients` (see `jaxrl.envs.gymnax.gymnax_env`).

    Raises:
        ValueError: unknown name or parameter (near ones are listed), or a bad value.

    Example:
        >>> make("RiverSwim", num_states=5).observation_space.shape
        (5,)
    """
    if name not in _builders:
        raise ValueError(f"unknown environment {name!r}; {near_names(name, names())}")
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


def _riverswim(num_states: int = 6, time_limit: float = 100.0, one_hot: bool = True) -> Environment:
    return TabularEnv(riverswim(num_states), time_limit, one_hot)


def _deep_sea(
    size: int = 8, move_cost: float = 0.01, seed: int | None = None, one_hot: bool = True
) -> Environment:
    key = None if seed is None else jax.random.key(seed)
    return TabularEnv(deep_sea(size, move_cost=move_cost, key=key), one_hot=one_hot)


def _garnet(
    num_states: int = 20,
    num_actions: int = 4,
    num_outcomes: int = 3,
    seed: int = 0,
    time_limit: float = 100.0,
    one_hot: bool = True,
) -> Environment:
    mdp = garnet(jax.random.key(seed), num_states, num_actions, num_outcomes)
    return TabularEnv(mdp, time_limit, one_hot)


_builders: dict[str, Builder] = {
    **{name: _gymnax_builder(name) for name in GYMNAX_NAMES},
    "RiverSwim": _riverswim,
    "DeepSea": _deep_sea,
    "Garnet": _garnet,
}
