"""Several settings of one environment struct: which of its numbers differ, and by how much."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core import struct
from jaxrl.core.protocols import Environment
from jaxrl.core.types import Array, PyTree
from jaxrl.envs.parameters import check_parameter, resolve_parameter, with_parameters

Spread = tuple[tuple[str, float, float], ...]  # (name, low, high) of each parameter


@struct.dataclass
class EnvModels:
    """An environment under M settings, which `setting` tells apart."""

    env: PyTree  # an environment; with `is_batch` its leaves are [M, ...]
    values: dict[str, Array]  # [M] each, by full name of the parameter
    is_batch: bool = struct.field(pytree_node=False, default=False)

    @property
    def settings(self) -> PyTree:
        """What differs, leaves `[M, ...]`, to map over."""
        return self.env if self.is_batch else self.values

    def under(self, setting: PyTree) -> Environment:
        """The environment under one row of `settings`."""
        return setting if self.is_batch else with_parameters(self.env, setting)


def check_env_models(env: Environment, num_models: int, spread: Spread, models: PyTree) -> None:
    """Raise `ValueError` unless `num_models` settings are told.

    Args:
        env: the nominal environment.
        num_models: M.
        spread: what differs on a grid.
        models: what differs, given outright, with leaves `[M, ...]`.

    Raises:
        ValueError: they are not told, or told twice, or no grid.
        KeyError: a name that is no parameter of the environment; near ones are listed.
    """
    if models is not None:
        _check_given(env, num_models, spread, models)
        return
    if num_models == 1 and spread:
        raise ValueError(
            f"spread names {spread[0][0]!r}, but num_models=1 has no room for it: set num_models "
            f"to {2 ** len(spread)} or more, or set the parameter in the environment."
        )
    if num_models > 1 and not spread:
        raise ValueError(
            f"num_models={num_models} settings of the environment, but none differs: name what "
            "does, as in spread=(('gravity', 8.0, 12.0),), or give models=."
        )
    for name, low, high in spread:
        if not low < high:
            raise ValueError(f"spread: {name} reaches from {low} to {high}: give low < high.")
        check_parameter(env, name, low)
        check_parameter(env, name, high)
    _grid_side(num_models, len(spread))


def make_env_models(env: Environment, num_models: int, spread: Spread, models: PyTree) -> EnvModels:
    """The environment and the grid of its settings, or the settings as they are given.

    Copies, because the state of an agent may be donated and the caller's environment may not.
    """
    copy = jax.tree.map(_copied, env if models is None else models)
    if models is not None:
        return EnvModels(copy, {}, is_batch=True)
    side = _grid_side(num_models, len(spread))
    axes = [np.linspace(low, high, side) for _, low, high in spread]
    points = [axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")]
    names = [resolve_parameter(env, name) for name, _, _ in spread]
    return EnvModels(copy, dict(zip(names, map(jnp.asarray, points), strict=True)))


def _grid_side(num_models: int, num_parameters: int) -> int:
    """Points along each axis of a grid of `num_models` over `num_parameters` axes."""
    if num_parameters == 0:
        return 1
    side = round(num_models ** (1.0 / num_parameters))
    if side < 2 or side**num_parameters != num_models:
        below, above = max(side, 2) ** num_parameters, (max(side, 2) + 1) ** num_parameters
        raise ValueError(
            f"num_models={num_models} is no grid over {num_parameters} parameters: use {below} or "
            f"{above}, or give the environments themselves by models=."
        )
    return side


def _check_given(env: Environment, num_models: int, spread: Spread, models: PyTree) -> None:
    if spread:
        raise ValueError("both spread and models are given: leave one of them out.")
    if jax.tree.structure(models) != jax.tree.structure(env):
        raise ValueError(
            f"models must be one {type(env).__name__} built like the environment, with a leading "
            "axis on every leaf: jax.tree.map(lambda *leaves: jnp.stack(leaves), env_1, env_2)."
        )
    pairs = zip(jax.tree.leaves(models), jax.tree.leaves(env), strict=True)
    if any(np.shape(many) != (num_models, *np.shape(one)) for many, one in pairs):
        sizes = sorted({np.shape(leaf)[:1] for leaf in jax.tree.leaves(models)})
        raise ValueError(
            f"models must hold num_models={num_models} settings, one along the first axis of every "
            f"leaf; those have {sizes}."
        )


def _copied(leaf: Any) -> Array:
    """`leaf` as an array of its own, without a weak type."""
    leaf = jnp.asarray(leaf)
    return jnp.copy(leaf.astype(leaf.dtype))
