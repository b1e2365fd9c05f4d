"""What the classic control tasks share: the disturbance, angles and number types.

The disturbance channel. Each task names one force or torque that enters its equations of motion
beside the action; in each step it is

    w = disturbance + noise_scale * u,    u uniform on [-1, 1], drawn anew in every step,

with both numbers leaves of the environment, 0 by default. `noise_scale` makes nature random.
`disturbance` is the input of an adversary, who sets it before each step:

    state, step = env.replace(disturbance=w).step(key, state, action)

It is a field and no argument of `step` for three reasons. `step` keeps the signature of the
protocol, so that wrappers and rollouts need not know of it. A leaf that is held over an episode
is a constant wind, so that a set of environments may hold models that differ in the wind, too.
And whatever `vmap` and `grad` do with physical constants they do with it: `jax.grad` in the leaf
is the direction in which a bounded (H-infinity) adversary pushes.

Number types. A step computes in the dtype of the state, which `reset` makes the default float of
JAX (float64 under x64); observations and rewards are float32.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.core import Array, Key, setting


def positive(default: float, help: str, unit: str) -> Any:
    """A setting above 0, such as a mass or a speed that is never exceeded."""
    return setting(default, help, unit=unit, low=0.0, low_open=True)


def nonnegative(default: float, help: str, unit: str = "") -> Any:
    """A constant that is at least 0."""
    return setting(default, help, unit=unit, low=0.0)


def spread(default: float, what: str, unit: str = "") -> Any:
    """How far from 0 an episode may begin."""
    return nonnegative(default, f"first {what} are uniform within this distance of 0", unit)


def steady(what: str, unit: str) -> Any:
    """The setting `disturbance`: the given part of the force or torque `what`."""
    return setting(0.0, f"{what} in every step", unit=unit)


def random(what: str, unit: str) -> Any:
    """The setting `noise_scale`: the random part of the force or torque `what`."""
    return nonnegative(0.0, f"greatest random {what}, drawn in every step", unit)


def constants_as(dtype: jnp.dtype, env: Any) -> Any:
    """`env` with every leaf an array of `dtype`, so that a step keeps the types of its state."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), env)


def push(key: Key, disturbance: Array, noise_scale: Array) -> Array:
    """The disturbance of one step, `[]`: its given part and a draw of its random part.

    Without noise nothing is drawn (and the derivative in `noise_scale` is its mean, 0): the draw
    costs as much as the rest of a cart-pole step on a CPU.
    """

    def draw() -> Array:
        return noise_scale * jax.random.uniform(key, (), noise_scale.dtype, -1.0, 1.0)

    return disturbance + jax.lax.cond(noise_scale != 0.0, draw, lambda: jnp.zeros_like(noise_scale))


def round_zero(key: Key, *spreads: float | Array) -> Array:
    """Numbers each drawn uniformly within its spread of 0."""
    ends = jnp.stack([jnp.asarray(spread, float) for spread in spreads])
    return ends * jax.random.uniform(key, ends.shape, ends.dtype, -1.0, 1.0)


def wrapped(angle: Array) -> Array:
    """The same direction in [-pi, pi) [rad]; what lies there already keeps its bits."""
    return angle - 2.0 * math.pi * jnp.floor((angle + math.pi) / (2.0 * math.pi))
