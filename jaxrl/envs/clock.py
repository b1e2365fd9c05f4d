"""The clock that an environment carries itself: episodes cut after so many steps."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxrl.core import Array, PyTree, TimeStep, setting
from jaxrl.core.types import Number


def clock(num_steps: float) -> Any:
    """The setting `time_limit` of an environment, by default `num_steps` [steps]."""
    return setting(num_steps, "when an episode is cut", unit="steps", low=1.0, infinite=True)


def clocked(
    observation: PyTree, reward: Number, terminated: Number, time: Array, time_limit: Number
) -> TimeStep:
    """The step just made, which ends by the clock at `time_limit` unless the task ended it."""
    return TimeStep(
        observation=observation,
        reward=jnp.asarray(reward, jnp.float32),
        terminated=jnp.asarray(terminated),
        truncated=(time >= time_limit) & (terminated < 1),
    )
