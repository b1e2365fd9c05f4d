"""Wrappers that change rewards."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.core import Array, Key, PyTree, Struct, TimeStep, setting, struct
from jaxrl.core.settings import check_own_settings
from jaxrl.envs.wrappers.inner import inner_actions, inner_observations, inner_reset, same_legal


class RewardScale(Struct):
    """Multiplies rewards: reward <- scale * reward. Scale 1 changes nothing."""

    env: Any
    scale: float = setting(1.0, "factor of every reward")

    __post_init__ = check_own_settings

    observation_space = inner_observations
    action_space = inner_actions
    legal = same_legal
    reset = inner_reset

    def step(self, key: Key, state: PyTree, action: Array) -> tuple[PyTree, TimeStep]:
        """One step with the scaled reward."""
        state, step = self.env.step(key, state, action)
        return state, step.replace(reward=(self.scale * step.reward).astype(step.reward.dtype))


class ScalarReward(Struct):
    """One reward of several channels: reward <- sum_c weights_c channel_c.

    For learners, which need one number, in environments whose reward is a vector. `evaluate` in the
    environment inside tells the return of every channel. Weights are leaves: `vmap` over them for a
    front of trade-offs.

    Attributes:
        env: with rewards `[C]`.
        weights: `[C]`.
    """

    env: Any
    weights: tuple[float, ...] | Array = struct.field(metadata={"setting": False})

    observation_space = inner_observations
    action_space = inner_actions
    reset = inner_reset

    def step(self, key: Key, state: PyTree, action: Array) -> tuple[PyTree, TimeStep]:
        """One step with the weighted reward `[]`.

        Raises:
            ValueError: other than one weight for each channel.
        """
        state, step = self.env.step(key, state, action)
        weights = jnp.asarray(self.weights, step.reward.dtype)
        if weights.shape != step.reward.shape or weights.ndim != 1:
            raise ValueError(
                f"ScalarReward has weights {list(weights.shape)} for a reward of shape "
                f"{list(step.reward.shape)}: give one weight for each channel."
            )
        return state, step.replace(reward=weights @ step.reward)


class RewardNoise(Struct):
    """Adds Gaussian noise to rewards: reward <- reward + scale * N(0, 1), drawn anew each step.

    Expected returns stay as they are; their spread grows.
    """

    env: Any
    scale: float = setting(0.1, "standard deviation", unit="return", low=0.0)

    __post_init__ = check_own_settings

    observation_space = inner_observations
    action_space = inner_actions
    legal = same_legal
    reset = inner_reset

    def step(self, key: Key, state: PyTree, action: Array) -> tuple[PyTree, TimeStep]:
        """One step with the noisy reward."""
        noise_key, step_key = jax.random.split(key)
        state, step = self.env.step(step_key, state, action)
        noise = jax.random.normal(noise_key, step.reward.shape, step.reward.dtype)
        return state, step.replace(reward=(step.reward + self.scale * noise).astype(noise.dtype))
