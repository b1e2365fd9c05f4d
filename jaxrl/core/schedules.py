"""Numbers that change over a life: pure functions of `Progress`, traced from end to end."""

from __future__ import annotations

import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.types import Array, Progress


@struct.dataclass
class Linear:
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


@struct.dataclass
class LinearSteps:
    """A straight line from `initial` to `final` over the first `num_steps` environment steps."""

    initial: float
    final: float
    num_steps: float  # [steps]

    def __call__(self, progress: Progress) -> Array:
        """The value `[]` at this point of the life."""
        share = jnp.clip(progress.step / jnp.maximum(self.num_steps, 1.0), 0.0, 1.0)
        return self.initial + (self.final - self.initial) * share


@struct.dataclass
class Exponential:
    """Geometric decay from `initial` towards `final`, with a half-life in environment steps.

    value = final + (initial - final) 2^(-step / half_life)
    """

    initial: float
    final: float
    half_life: float  # [steps]

    def __call__(self, progress: Progress) -> Array:
        """The value `[]` at this point of the life."""
        return self.final + (self.initial - self.final) * 2.0 ** (-progress.step / self.half_life)


@struct.dataclass
class Cosine:
    """Half a cosine from `initial` to `final` over the whole life (Loshchilov & Hutter, 2017)."""

    initial: float
    final: float = 0.0

    def __call__(self, progress: Progress) -> Array:
        """The value `[]` at this point of the life."""
        share = 0.5 * (1.0 + jnp.cos(jnp.pi * progress.fraction))
        return self.final + (self.initial - self.final) * share


Schedule = Linear | LinearSteps | Exponential | Cosine


def value_at(setting: float | Array | Schedule, progress: Progress) -> Array:
    """The number `[]` that a setting stands for now: itself, or its schedule's value."""
    if isinstance(setting, (Linear, LinearSteps, Exponential, Cosine)):
        return setting(progress)
    return jnp.asarray(setting)
