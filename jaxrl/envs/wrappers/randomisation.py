"""Domain randomisation: every episode in an environment of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxrl.core import Array, Environment, Key, PyTree, Struct, TimeStep
from jaxrl.core.types import is_traced
from jaxrl.envs.parameters import check_parameter, resolve_parameter, with_parameters
from jaxrl.envs.wrappers.inner import WrapperState, inner_actions, inner_observations


class Distribution(Protocol):
    """Where one parameter is drawn from."""

    def draw(self, key: Key) -> Array:
        """-> `[]`, in the parameter's unit."""
        ...


class Uniform(Struct):
    """Uniform between `low` and `high`."""

    low: float
    high: float

    def draw(self, key: Key) -> Array:
        """One number, `[]`."""
        low, high = jnp.asarray(self.low, float), jnp.asarray(self.high, float)
        return low + (high - low) * jax.random.uniform(key, (), low.dtype)


class LogUniform(Struct):
    """Uniform in the logarithm between `low` and `high`, both above 0: scales and masses."""

    low: float
    high: float

    def draw(self, key: Key) -> Array:
        """One number, `[]`."""
        low, high = jnp.asarray(self.low, float), jnp.asarray(self.high, float)
        drawn = low * (high / low) ** jax.random.uniform(key, (), low.dtype)
        return jnp.clip(drawn, low, high)


class OneOf(Struct):
    """One of `values[K]`, each as likely as any other."""

    values: Any  # [K], or a tuple of K numbers

    def draw(self, key: Key) -> Array:
        """One number, `[]`."""
        values = jnp.asarray(self.values, float)
        return values[jax.random.randint(key, (), 0, values.shape[0])]


class DomainRandomisation(Struct):
    """Draws parameters of the environment anew for every episode, independently by name.

    What was drawn is part of the state, kept by name: it holds for the whole episode, and a stored
    state that is stepped again goes on in the same environment, as generative backups need. The
    agent does not see it: an optimal policy may have to infer it, and a policy without memory
    maximises its mean return over the ranges. Spaces are those of the environment as it was given.
    Evaluate on the environment inside, at values of your choice: `jaxrl.evaluate(..., over=...)`.

    Build it by `domain_randomisation`, which checks names and values.

    Sources: Tobin et al. (2017), "Domain randomization for transferring deep neural networks from
    simulation to the real world"; Peng et al. (2018), "Sim-to-real transfer of robotic control
    with dynamics randomization" (dynamics drawn at the start of each episode).
    """

    env: Any
    ranges: dict[str, Any]  # name of a parameter: where it is drawn from; leaves

    observation_space = inner_observations
    action_space = inner_actions

    @property
    def legal(self) -> Callable[[WrapperState], Array]:
        """That of the environment of this episode; none where it has none."""
        _ = self.env.legal
        return lambda state: with_parameters(self.env, state.kept).legal(state.inner)

    def reset(self, key: Key) -> tuple[WrapperState, PyTree]:
        """A new episode in an environment drawn for it."""
        draw_key, reset_key = jax.random.split(key)
        drawn = {
            name: self.ranges[name].draw(jax.random.fold_in(draw_key, index))
            for index, name in enumerate(sorted(self.ranges))
        }
        inner, observation = with_parameters(self.env, drawn).reset(reset_key)
        return WrapperState(inner, drawn), observation

    def step(self, key: Key, state: WrapperState, action: Array) -> tuple[WrapperState, TimeStep]:
        """One step in the environment of this episode."""
        inner, step = with_parameters(self.env, state.kept).step(key, state.inner, action)
        return WrapperState(inner, state.kept), step


def domain_randomisation(
    env: Environment, ranges: Mapping[str, Distribution]
) -> DomainRandomisation:
    """An environment whose parameters are drawn anew for every episode.

    Args:
        env: what is randomised; its own values of the named parameters no longer matter.
        ranges: parameter names, as in `jaxrl.evaluate(over=...)`, to `Uniform`, `LogUniform`,
            `OneOf`, or any struct with `draw(key)`.

    Returns:
        the wrapped environment; the ends of the ranges are leaves.

    Raises:
        KeyError: the environment has no such parameter; the message lists near names.
        ValueError: nothing to draw, a name given twice, or a range that leaves what is allowed.

    Example:
        >>> from jaxrl.envs.control import CartPole
        >>> ranges = {"pole_mass": LogUniform(0.05, 0.5), "gravity": OneOf((9.0, 9.8))}
        >>> env = domain_randomisation(CartPole(), ranges)
        >>> state, observation = env.reset(jax.random.key(0))
        >>> 0.05 <= float(state.kept["pole_mass"]) <= 0.5
        True
    """
    if not ranges:
        raise ValueError("nothing is randomised: give at least one parameter and its range.")
    full = [resolve_parameter(env, name) for name in ranges]
    for name in full:
        if full.count(name) > 1:
            raise ValueError(f"{name} is randomised twice: give it one range.")
    named = dict(zip(full, ranges.values(), strict=True))
    for name, range_ in named.items():
        _check_range(env, name, range_)
    return DomainRandomisation(env, named)


def _check_range(env: Environment, name: str, range_: Distribution) -> None:
    if isinstance(range_, OneOf):
        values = jnp.asarray(range_.values)
        if values.ndim != 1 or not values.size:
            raise ValueError(f"{name}: OneOf takes a list of numbers; got {range_.values!r}.")
        check_parameter(env, name, values)
    if isinstance(range_, (Uniform, LogUniform)):
        ends = (range_.low, range_.high)
        for end in ends:
            check_parameter(env, name, end)
        if is_traced(ends):
            return
        if not range_.low <= range_.high:
            raise ValueError(f"{name}: the range from {ends[0]} to {ends[1]} is empty.")
        if isinstance(range_, LogUniform) and not range_.low > 0:
            raise ValueError(f"{name}: LogUniform needs ends above 0; got {ends[0]}.")
