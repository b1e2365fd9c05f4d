"""Wrappers that change observations: noise and stacking."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.core import Array, Box, Key, PyTree, Space, Struct, TimeStep, setting, struct
from jaxrl.core.settings import check_own_settings
from jaxrl.envs.wrappers.inner import WrapperState, inner_actions, inner_legal, same_legal


class ObservationNoise(Struct):
    """Adds Gaussian noise to what the agent sees, at reset too; the state is untouched.

    observation <- observation + scale * N(0, 1), independent in each entry and step. The noise has
    no bounds, so neither has the observation space. Needs float observations.
    """

    env: Any
    scale: float | Array = setting(
        0.1, "standard deviation, or one for each entry", unit="observation", low=0.0
    )

    __post_init__ = check_own_settings

    @property
    def observation_space(self) -> Space:
        """The inner box without bounds."""
        space = float_box(self.env.observation_space, "ObservationNoise")
        return Box(jnp.asarray(-jnp.inf), jnp.asarray(jnp.inf), space.shape, space.dtype)

    action_space = inner_actions
    legal = same_legal

    def reset(self, key: Key) -> tuple[PyTree, Array]:
        """A new episode, seen through noise."""
        noise_key, reset_key = jax.random.split(key)
        state, observation = self.env.reset(reset_key)
        return state, self._noisy(noise_key, observation)

    def step(self, key: Key, state: PyTree, action: Array) -> tuple[PyTree, TimeStep]:
        """One step, seen through noise."""
        noise_key, step_key = jax.random.split(key)
        state, step = self.env.step(step_key, state, action)
        return state, step.replace(observation=self._noisy(noise_key, step.observation))

    def _noisy(self, key: Key, observation: Array) -> Array:
        float_box(self.env.observation_space, "ObservationNoise")
        noise = jax.random.normal(key, observation.shape, observation.dtype)
        return (observation + self.scale * noise).astype(observation.dtype)


class FrameStack(Struct):
    """Joins the last `num_frames` observations along the last axis, oldest first.

    They are what the wrapper keeps. At reset the first observation stands in for those before it.
    One frame changes nothing. On pixels this was measured 1.5 to 3 times slower than stacking what
    is read from a buffer.
    """

    env: Any
    num_frames: int = struct.field(pytree_node=False, default=4)

    @property
    def observation_space(self) -> Space:
        """The inner box, `num_frames` times along its last axis."""
        space = _stackable(self.env.observation_space)
        repeats = (*(1,) * (len(space.shape) - 1), self.num_frames)
        low = jnp.tile(jnp.broadcast_to(space.low, space.shape), repeats)
        high = jnp.tile(jnp.broadcast_to(space.high, space.shape), repeats)
        return Box(low, high, low.shape, space.dtype)

    action_space = inner_actions
    legal = inner_legal

    def reset(self, key: Key) -> tuple[WrapperState, Array]:
        """A new episode; the first observation fills the stack."""
        inner, observation = self.env.reset(key)
        _stackable(self.env.observation_space)
        frames = jnp.concatenate([observation] * self.num_frames, axis=-1)
        return WrapperState(inner, frames), frames

    def step(self, key: Key, state: WrapperState, action: Array) -> tuple[WrapperState, TimeStep]:
        """One step; the oldest observation leaves the stack."""
        inner, step = self.env.step(key, state.inner, action)
        width = step.observation.shape[-1]
        frames = jnp.concatenate([state.kept[..., width:], step.observation], axis=-1)
        return WrapperState(inner, frames), step.replace(observation=frames)


def float_box(space: Space, owner: str) -> Box:
    """The space, if it is a box of floats, as `owner` needs it."""
    if not is_float_box(space):
        raise ValueError(f"{owner} needs float observations, a Box of them; got {space}.")
    return space


def is_float_box(space: Space) -> bool:
    """Whether it is a box of floats."""
    return isinstance(space, Box) and bool(jnp.issubdtype(space.dtype, jnp.floating))


def _stackable(space: Space) -> Box:
    if not isinstance(space, Box) or not space.shape:
        raise ValueError(f"FrameStack needs observations with at least one axis; got {space}.")
    return space
