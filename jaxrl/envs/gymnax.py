"""Every gymnax environment as a pure struct whose parameters are leaves.

`import jaxrl.envs` does not import gymnax; building the first environment does, without what gymnax
only draws pictures with.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import math
import re
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core import Array, Box, Discrete, Key, PyTree, Space, Struct, TimeStep, struct
from jaxrl.core.settings import SettingInfo, check_value, near_names
from jaxrl.core.types import is_traced
from jaxrl.envs.gymnax_cures import cure_of
from jaxrl.envs.gymnax_suites import GYMNAX_SUITES

GYMNAX_NAMES = tuple(name for rows in GYMNAX_SUITES.values() for name in rows)

# By name, for gymnax states no ranges: what is divided by, a size, or a bound round 0; and chances.
_POSITIVE = re.compile(
    r"dt|tau|m|l|t_max|max_(steps|speed|vel|torque|force|oxygen|action).*|(.*_)?length"
    r"|.*mass.*|link_(length|moi).*|.*(radius|interval|threshold).*|ball_max.*"
)
_NOT_NEGATIVE = re.compile(r"sigma_.*|torque_noise_max|.*_prob")


class GymnaxEnv(Struct):
    """A gymnax environment, cured; build it with `gymnax_env`.

    `params` is the environment's parameter struct with strongly typed arrays as leaves: `vmap` over
    the environment is an uncertainty set, and a gradient in it is a sensitivity.

    * `reset` and `step` give states and observations of the same types, so a loop compiles once.
    * Observations have the dtype of their space; rewards are float32.
    * Actions are cast to the dtype of their space, and clipped where it is a `Box`.
    * `terminated` and `truncated` are never both true: an end wins over the clock.
    * With `horizon_is_terminal` the time limit is part of the task and terminates.
    """

    params: PyTree
    raw: Any = struct.field(pytree_node=False)  # the shared gymnax object
    name: str = struct.field(pytree_node=False)
    horizon_is_terminal: bool = struct.field(pytree_node=False, default=False)

    @property
    def observation_space(self) -> Space:
        """The set of observations; bounds follow `params`."""
        params, bounds = self._derived(), cure_of(self.name).bounds
        return _space(
            self.raw.observation_space(params), None if bounds is None else bounds(self.raw, params)
        )

    @property
    def action_space(self) -> Space:
        """The set of actions; bounds follow `params`."""
        return _space(self.raw.action_space(self._derived()))

    @property
    def parameters(self) -> dict[str, Array]:
        """The parameters that can be set, by name."""
        derived = cure_of(self.name).derived
        return {name: value for name, value in vars(self.params).items() if name not in derived}

    def with_parameters(self, values: Mapping[str, Any]) -> GymnaxEnv:
        """A copy with the named parameters set; never recompiles what runs on the original.

        Args:
            values: parameter name to a number or array of the parameter's shape, possibly traced.

        Raises:
            ValueError: unknown or derived name, wrong shape, or wrong kind of number.
        """
        known, cast = self.parameters, {}
        for name, value in values.items():
            if name in cure_of(self.name).derived:
                raise ValueError(f"{self.name} derives {name!r}: set what it is derived from.")
            if name not in known:
                near = near_names(name, sorted(known))
                raise ValueError(f"{self.name} has no parameter {name!r}; {near}")
            cast[name] = _like(parameter_info(name, known[name]), value)
        return self.replace(params=self.params.replace(**cast))

    def reset(self, key: Key) -> tuple[PyTree, Array]:
        """A new episode -> `state`, `observation`."""
        cure, params = cure_of(self.name), self._derived()
        observation, state = cure.reset(self.raw, key, params)
        observation = cure.observe(observation, self.raw, state, params)
        return jax.tree.map(_strong, state), self._cast_observation(observation, params)

    def step(self, key: Key, state: PyTree, action: Array) -> tuple[PyTree, TimeStep]:
        """One transition, without reset -> `state`, `TimeStep` with the true successor."""
        cure, params = cure_of(self.name), self._derived()
        space = self.raw.action_space(params)
        action = jnp.asarray(action, space.dtype).reshape(space.shape)
        if not _is_discrete(space):
            action = jnp.clip(action, space.low, space.high)
        observation, state, reward, terminated = cure.step(self.raw, key, state, action, params)
        observation = cure.observe(observation, self.raw, state, params)
        terminated = jnp.asarray(terminated, bool)
        limit = jnp.asarray(self.raw.is_truncated(state, params), bool)
        if self.horizon_is_terminal:
            terminated, limit = terminated | limit, jnp.zeros_like(limit)
        step = TimeStep(
            observation=self._cast_observation(observation, params),
            reward=jnp.asarray(reward, jnp.float32),
            terminated=terminated,
            truncated=limit & ~terminated,
        )
        return jax.tree.map(_strong, state), step

    def _derived(self) -> PyTree:
        """Parameters as the dynamics see them: strongly typed, dependent ones recomputed."""
        return cure_of(self.name).derive(jax.tree.map(_strong, self.params))

    def _cast_observation(self, observation: Array, params: PyTree) -> Array:
        dtype = jnp.dtype(self.raw.observation_space(params).dtype)
        return jnp.asarray(observation, dtype)


def gymnax_env(
    name: str,
    /,
    *,
    horizon_is_terminal: bool | None = None,
    transition_gradients: bool = False,
    **parameters: Any,
) -> GymnaxEnv:
    """A gymnax environment by its id.

    Args:
        name: gymnax id, such as `CartPole-v1`.
        horizon_is_terminal: whether reaching the time limit terminates. `None` takes the task's
            own meaning: true where the horizon defines the task (Freeway, DiscountingChain, the
            Bernoulli and Gaussian bandits, MetaMaze, PointRobot), false elsewhere (so Reacher and
            Swimmer, which cannot see the clock, are truncated).
        transition_gradients: let gradients flow through the dynamics, where gymnax supports it.
        **parameters: physical ones (leaves, such as `gravity`) and constructor options of the
            gymnax class (static, such as DeepSea's `size`).

    Raises:
        ValueError: an id that is refused (with the reason), or a bad parameter.

    Example:
        >>> env = gymnax_env("CartPole-v1", gravity=12.0)
        >>> float(env.params.gravity)
        12.0
    """
    cure = cure_of(name)
    if cure.refusal:
        raise ValueError(f"{name} is not offered: {cure.refusal}.")
    known_options = _options(name)
    options = {key: value for key, value in parameters.items() if key in known_options}
    given = {key: value for key, value in parameters.items() if key not in options}
    for key, only in cure.fixed:
        if options.get(key, only) != only:
            raise ValueError(f"{name} works with {key}={only} only: gymnax fails with others.")
    frozen = tuple(sorted((key, _frozen(value)) for key, value in options.items()))
    raw = _raw(name, frozen, transition_gradients)
    if horizon_is_terminal is None:
        horizon_is_terminal = cure.horizon_is_terminal
    params = jax.tree.map(_strong, cure.params(raw))
    env = GymnaxEnv(params, raw, name, bool(horizon_is_terminal))
    for key in given:
        if key not in (*env.parameters, *cure.derived):
            switches = ("horizon_is_terminal", "transition_gradients")
            near = near_names(key, sorted([*env.parameters, *known_options, *switches]))
            raise ValueError(f"{name} has no parameter {key!r}; {near}")
    return env.with_parameters(given)


def parameter_info(name: str, default: Array) -> SettingInfo:
    """What is known of a parameter of a gymnax environment by its name: its range."""
    positive = _POSITIVE.fullmatch(name) is not None
    low = 0.0 if positive or _NOT_NEGATIVE.fullmatch(name) else -math.inf
    high = 1.0 if name.endswith("_prob") else math.inf
    return SettingInfo(name, default, low=low, high=high, low_open=positive)


class _Deferred(ModuleType):
    """Stands for a module that is imported when one of its names is asked for."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


@functools.cache
def _gymnax() -> ModuleType:
    """gymnax, which gets seaborn and pyplot when it draws a picture, if ever.

    It imports them for its drawings alone; with pandas they take three of its four seconds. While
    it is imported something stands for them, and nowhere but in gymnax thereafter. (The lazy loader
    of the standard library will not do: an import statement that finds its module loads it.)
    """
    missing = {"matplotlib.pyplot", "seaborn"} - set(sys.modules)
    drawing = {name: _Deferred(name) for name in missing}
    sys.modules.update(drawing)
    try:
        return importlib.import_module("gymnax")
    finally:
        for name, module in drawing.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def _options(name: str) -> tuple[str, ...]:
    """Names of the constructor options of a gymnax class."""
    constructor = type(_raw(name, (), False)).__init__
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = inspect.signature(constructor).parameters.items()
    return tuple(key for key, value in found if key != "self" and value.kind in kinds)


@functools.cache
def _raw(name: str, options: tuple[tuple[str, Any], ...], transition_gradients: bool) -> Any:
    """The one gymnax object of this configuration.

    gymnax objects compare by identity; sharing one lets equal adapters share one compilation.
    """
    # Outside any trace, so that no tracer is kept in the object when called under `jit`.
    try:
        with jax.ensure_compile_time_eval():
            raw, _ = _gymnax().make(name, **dict(options))
    except (AssertionError, TypeError) as error:
        raise ValueError(
            f"{name} refuses {dict(options)}: {str(error) or 'out of range'}."
        ) from error
    return raw.with_transition_gradients() if transition_gradients else raw


def _frozen(value: Any) -> Any:
    """A hashable form of a constructor option."""
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(entry) for entry in value)
    try:
        hash(value)
    except TypeError as error:
        raise ValueError(
            f"option {value!r} cannot be static: give numbers, strings or lists of them."
        ) from error
    return value


def _strong(leaf: Any) -> Array:
    """`leaf` as an array without a weak type."""
    leaf = jnp.asarray(leaf)
    return leaf.astype(leaf.dtype)


def _like(info: SettingInfo, given: Any) -> Array:
    """`given` as an array of the shape and dtype of the default, in its range."""
    name, default = info.name, info.value
    problem = f"parameter {name} must be {default.dtype} of shape {list(default.shape)}"
    if is_traced(given):
        if given.shape != default.shape:
            raise ValueError(f"{problem}; got shape {list(given.shape)}.")
        return given.astype(default.dtype)
    value, wanted = np.asarray(given), default.dtype
    if value.dtype.kind not in "biuf" or value.shape != default.shape:
        raise ValueError(f"{problem}; got {given!r}.")
    if np.any(np.isnan(value)):
        raise ValueError(f"{problem}; got NaN.")
    if name == "max_steps_in_episode" and np.any(value < 1):
        raise ValueError(f"max_steps_in_episode={given} is out of range: give at least 1.")
    # A float parameter takes any number; an integer or a flag takes only what it can hold.
    is_flag = (value.dtype.kind == "b") > (wanted.kind == "b")
    if is_flag or (wanted.kind in "biu" and np.any(value.astype(wanted) != value)):
        raise ValueError(f"{problem}; got {given!r}.")
    if wanted.kind != "b":
        check_value(info, value)
    return jnp.asarray(value, wanted)


def _space(space: Any, bounds: tuple[Any, Any] | None = None) -> Space:
    """Ours; huge bounds of a box are infinite, so that samples stay finite."""
    if _is_discrete(space):
        return Discrete(int(space.n), jnp.dtype(space.dtype))
    low, high = (jnp.asarray(end, jnp.float32) for end in bounds or (space.low, space.high))
    low, high = jnp.where(low < -1e30, -jnp.inf, low), jnp.where(high > 1e30, jnp.inf, high)
    return Box(low, high, tuple(space.shape), jnp.dtype(space.dtype))


def _is_discrete(space: Any) -> bool:
    from gymnax.environments import spaces

    return isinstance(space, spaces.Discrete)
