"""The numbers of an environment by name: what an evaluation varies and a randomisation draws.

A parameter is a scalar float leaf of the environment's struct or of a struct inside it, or a
parameter of a gymnax environment. Its name is its dotted path, `env.pole_mass` inside a wrapper;
the last part alone will do where only one parameter has it, as for the settings of an agent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core import Array, Environment
from jaxrl.core.settings import SettingInfo, check_value, resolve_name
from jaxrl.envs.gymnax import GymnaxEnv, parameter_info

_RANGE = ("help", "unit", "low", "high", "low_open", "choices")


def list_parameters(env: Environment) -> list[SettingInfo]:
    """Every parameter of an environment and of those it wraps, in field order.

    A field without a range of its own, such as one of a wrapper, allows every number.

    Example:
        >>> from jaxrl.envs.control import MountainCar
        >>> from jaxrl.envs.wrappers import TimeLimit
        >>> [info.name for info in list_parameters(TimeLimit(MountainCar(), 100))][:3]
        ['env.gravity', 'env.force', 'env.friction']
    """
    return _list(env, "")


def resolve_parameter(env: Environment, name: str) -> str:
    """The full dotted path of the parameter called `name`.

    Raises:
        KeyError: no such parameter, or several; the message lists what is near.
    """
    return resolve_name([info.name for info in list_parameters(env)], name)


def check_parameter(env: Environment, name: str, value: Any) -> None:
    """Raise `KeyError` for an unknown name, `ValueError` for a concrete value out of range."""
    known = {info.name: info for info in list_parameters(env)}
    check_value(known[resolve_parameter(env, name)], value)


def with_parameters(env: Any, values: Mapping[str, float | Array]) -> Any:
    """A copy of `env` with these parameters, numbers or tracers; nothing is recompiled by it.

    Raises:
        KeyError: no such parameter, or several.
        ValueError: what a gymnax environment refuses.

    Example:
        >>> from jaxrl.envs.control import CartPole
        >>> with_parameters(CartPole(), {"pole_mass": 0.3}).pole_mass
        0.3
    """
    for name, value in values.items():
        env = _replaced(env, resolve_parameter(env, name).split("."), value)
    return env


def _list(owner: Any, prefix: str) -> list[SettingInfo]:
    if isinstance(owner, GymnaxEnv):
        infos = [parameter_info(*item) for item in owner.parameters.items()]
        named = [dataclasses.replace(info, name=prefix + info.name) for info in infos]
        return [info for info in named if _is_scalar(info.value)]
    found = []
    for field in dataclasses.fields(owner):
        value, name = getattr(owner, field.name), prefix + field.name
        if not field.metadata.get("pytree_node", True):
            continue
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            found.extend(_list(value, name + "."))
        elif _is_scalar(value):
            limits = {key: field.metadata[key] for key in _RANGE if key in field.metadata}
            found.append(SettingInfo(name, value, **limits))
    return found


def _is_scalar(value: Any) -> bool:
    if isinstance(value, (jax.Array, np.ndarray, np.generic)):
        return value.ndim == 0 and jnp.issubdtype(value.dtype, np.number)
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _replaced(owner: Any, path: list[str], value: Any) -> Any:
    head, *rest = path
    if isinstance(owner, GymnaxEnv):
        return owner.with_parameters({head: value})
    if rest:
        value = _replaced(getattr(owner, head), rest, value)
    return dataclasses.replace(owner, **{head: value})
