"""Numbers that change over a life: pure functions of `Progress`, traced from end to end."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.lifetime import lifetime_features
from jaxrl.core.ranges import Range
from jaxrl.core.types import Array, Progress

Settings = TypeVar("Settings")


class Linear(struct.Struct):
    """A straight line from `initial` to `final` over a share of the life.

    value = initial + (final - initial) clip((fraction - start) / (end - start), 0, 1)

    With an unlimited life (`total_steps` infinite) the fraction stays 0 and the value `initial`.

    Example:
        >>> float(Linear(1.0, 0.0, end=0.5)(Progress.start(100.0).advance(25)))  # half of the way
        0.5
    """

    initial: float
    final: float
    start: float = 0.0  # share of the life, in [0, 1]
    end: float = 1.0  # share of the life, in [0, 1]

    def __call__(self, progress: Progress) -> Array:
        """The value `[]` at this point of the life."""
        width = jnp.maximum(self.end - self.start, 1e-9)
        share = jnp.clip((progress.fraction - self.start) / width, 0.0, 1.0)
        return self.initial + (self.final - self.initial) * share


class LinearSteps(struct.Struct):
    """A straight line from `initial` to `final` over the first `num_steps` environment steps."""

    initial: float
    final: float
    num_steps: float  # [steps]

    def __call__(self, progress: Progress) -> Array:
        """The value `[]` at this point of the life."""
        share = jnp.clip(progress.step / jnp.maximum(self.num_steps, 1.0), 0.0, 1.0)
        return self.initial + (self.final - self.initial) * share


class Exponential(struct.Struct):
    """Geometric decay from `initial` towards `final`, with a half-life in environment steps.

    value = final + (initial - final) 2^(-step / half_life)
    """

    initial: float
    final: float
    half_life: float  # [steps]

    def __call__(self, progress: Progress) -> Array:
        """The value `[]` at this point of the life."""
        return self.final + (self.initial - self.final) * 2.0 ** (-progress.step / self.half_life)


class Cosine(struct.Struct):
    """Half a cosine from `initial` to `final` over the whole life (Loshchilov & Hutter, 2017)."""

    initial: float
    final: float = 0.0

    def __call__(self, progress: Progress) -> Array:
        """The value `[]` at this point of the life."""
        share = 0.5 * (1.0 + jnp.cos(jnp.pi * progress.fraction))
        return self.final + (self.initial - self.final) * share


class LifetimeCurve(struct.Struct):
    """A curve over the life that also knows how long the life is: made to be learned.

        s = step / total_steps,   l = log10(total_steps / 10^5), in [-5, 5]
        value = range(base + slopes . (s, s^2, l, s l))

    with `range` the map from the real line into (low, high) of `jaxrl.core.ranges.Range`. Without
    slopes it is a constant. An unlimited life has s = 0 and l = 5.

    Attributes:
        base: free number of the constant.
        slopes: `[4]`.
        low: lower end of the values, or -inf.
        high: upper end, or inf.

    Source: the two inputs are those of Jackson et al. 2024, Discovering temporally-aware
    reinforcement learning algorithms, section 3; the curve is ours.

    Example:
        >>> curve = LifetimeCurve(jnp.log(0.1), jnp.array([-1.0, 0.0, 0.0, 0.0]), low=0.0)
        >>> life = Progress.start(1e4)
        >>> f"{float(curve(life)):.3f}", f"{float(curve(life.advance(10_000))):.3f}"  # 0.1 / e
        ('0.100', '0.037')
    """

    base: float
    slopes: Array  # [4]
    low: float = struct.field(pytree_node=False, default=-math.inf)
    high: float = struct.field(pytree_node=False, default=math.inf)

    def __call__(self, progress: Progress) -> Array:
        """The value `[]` at this point of the life."""
        s, length = lifetime_features(progress)
        features = jnp.stack([s, s**2, length, s * length])
        return Range(self.low, self.high).value(self.base + features @ self.slopes)


Schedule = Linear | LinearSteps | Exponential | Cosine | LifetimeCurve


def value_at(setting: float | Array | Schedule, progress: Progress) -> Array:
    """The number `[]` that a setting stands for now: itself, or its schedule's value."""
    return jnp.asarray(values_at(setting, progress))


def values_at(settings: Settings, progress: Progress) -> Settings:
    """A struct of settings, with the present value in place of every schedule in it.

    Example:
        >>> from jaxrl.functionals import CVaR
        >>> level = Linear(1.0, 0.2)
        >>> f"{float(values_at(CVaR(level), Progress.start(100.0).advance(50)).level):.3f}"
        '0.600'
    """

    def now(node: Any) -> Any:
        return node(progress) if isinstance(node, Schedule) else node

    return jax.tree.map(now, settings, is_leaf=_is_schedule)


def has_schedule(settings: object) -> bool:
    """Whether a struct of settings holds a schedule anywhere."""
    return any(map(_is_schedule, jax.tree.leaves(settings, is_leaf=_is_schedule)))


def _is_schedule(node: object) -> bool:
    return isinstance(node, Schedule)
