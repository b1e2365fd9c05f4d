"""Normalisation by running statistics, which are leaves of the wrapper and change only on request.

A wrapper never updates itself: `step` is pure in the wrapper. Training code carries the wrapper,
gathers what `info` reports, and goes on with `wrapper.updated(batch)`; not calling it freezes the
statistics, as evaluation should. One update per rollout costs less than one per step, and gives
every environment of a batch the same statistics.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.core import Array, Box, Key, PyTree, Space, Struct, TimeStep, setting, struct
from jaxrl.core.settings import check_own_settings
from jaxrl.core.spaces import Leaf, is_leaf, leaves
from jaxrl.envs.wrappers.inner import (
    WrapperState,
    inner_actions,
    inner_legal,
    inner_observations,
    same_legal,
)
from jaxrl.envs.wrappers.observations import float_box, is_float_box

_CLIP = "largest size of a normalised number"


class RunningMoments(Struct):
    """Mean and variance of all samples merged so far; mean 0 and variance 1 before the first."""

    mean: Array  # [*shape]
    variance: Array  # [*shape], population variance
    count: Array  # [] float32, samples merged

    @classmethod
    def start(cls, shape: tuple[int, ...] = ()) -> RunningMoments:
        """Moments of no sample."""
        dtype = jnp.float32
        return cls(jnp.zeros(shape, dtype), jnp.ones(shape, dtype), jnp.zeros((), dtype))

    def merged(self, samples: Array) -> RunningMoments:
        """Moments with the samples `[..., *shape]` added, but those with an entry not finite.

        Numerics: the pairwise update of two sets of moments, which squares no large mean. Entries
        from 1e15 on count as not finite: the squares of 10^8 smaller ones do not overflow float32.

        Sources: Chan, Golub and LeVeque (1983), "Algorithms for computing the sample variance",
        equation 2.1.
        """
        samples = jnp.asarray(samples, jnp.float32).reshape(-1, *self.mean.shape)
        fit = jnp.all(jnp.abs(samples.reshape(samples.shape[0], -1)) < 1e15, axis=1)
        rows = fit.reshape(-1, *(1,) * self.mean.ndim)
        num_fit = jnp.sum(fit, dtype=jnp.float32)
        count = self.count + num_fit
        share = num_fit / jnp.maximum(count, 1.0)
        divisor = jnp.maximum(num_fit, 1.0)
        mean = jnp.sum(jnp.where(rows, samples, 0.0), axis=0) / divisor
        gap = mean - self.mean
        squares = jnp.where(rows, (samples - mean) ** 2, 0.0)
        spread = jnp.sum(squares, axis=0) / divisor - self.variance
        return RunningMoments(
            mean=self.mean + share * gap,
            variance=self.variance + share * spread + share * (1.0 - share) * gap**2,
            count=count,
        )


def start_moments(space: Space, owner: str) -> PyTree:
    """Moments of no member of a space of floats.

    Of a tree, one for each leaf of floats, and `()` in the places of the others.

    Raises:
        ValueError: nothing in it is a float, as `owner` needs.
    """
    if is_leaf(space) or not any(map(is_float_box, leaves(space))):
        return RunningMoments.start(float_box(space, owner).shape)

    def start(one: Leaf) -> PyTree:
        return RunningMoments.start(one.shape) if is_float_box(one) else ()

    return jax.tree.map(start, space, is_leaf=is_leaf)


def merged_moments(moments: PyTree, samples: PyTree) -> PyTree:
    """Those of `start_moments` with the members `[..., *shape]` of each leaf added."""
    return jax.tree.map(lambda one, x: one and one.merged(x), moments, samples, is_leaf=_is_one)


def standardised(
    moments: PyTree, observation: PyTree, epsilon: float | Array, clip: float | Array
) -> PyTree:
    """Members `[..., *shape]`: each leaf of floats shifted and scaled by its moments, clipped."""

    def scale(one: Any, leaf: Array) -> Array:
        if not one:
            return leaf
        return jnp.clip((leaf - one.mean) / jnp.sqrt(one.variance + epsilon), -clip, clip)

    return jax.tree.map(scale, moments, observation, is_leaf=_is_one)


def _is_one(part: PyTree) -> bool:
    return isinstance(part, RunningMoments) or part == ()


class NormaliseObservation(Struct):
    """Shifts and scales each entry of a float observation to mean 0 and variance 1.

        observation <- clip((observation - mean) / sqrt(variance + epsilon), -clip, clip)

    Of a tree of spaces, what is no box of floats stays as it is. The statistics are leaves;
    `updated` returns a wrapper with more data in them, nothing else changes them.
    `info["raw_observation"]` carries what to update with. Build it with `start`, which begins as
    the identity up to `clip`.

    Example:
        >>> from jaxrl.envs import TabularEnv, riverswim
        >>> env = NormaliseObservation.start(TabularEnv(riverswim(), one_hot=True))
        >>> env = env.updated(jnp.eye(6))
        >>> float(env.moments.count)
        6.0
    """

    env: Any
    moments: RunningMoments | PyTree  # of a tree of spaces the same tree, see `start_moments`
    epsilon: float = setting(1e-8, "added to the variance", low=0.0)
    clip: float = setting(10.0, _CLIP, unit="standard deviations", low=0.0, infinite=True)

    __post_init__ = check_own_settings

    @classmethod
    def start(cls, env: Any) -> NormaliseObservation:
        """The wrapper round `env` before any data.

        Raises:
            ValueError: no observation of `env` is a box of floats.
        """
        return cls(env, start_moments(env.observation_space, "NormaliseObservation"))

    @property
    def observation_space(self) -> Space:
        """The inner shape between `-clip` and `clip`."""
        limit = jnp.asarray(self.clip, jnp.float32)

        def scaled(one: Leaf) -> Leaf:
            return Box(-limit, limit, one.shape, one.dtype) if is_float_box(one) else one

        return jax.tree.map(scaled, self.env.observation_space, is_leaf=is_leaf)

    action_space = inner_actions
    legal = same_legal

    def reset(self, key: Key) -> tuple[PyTree, PyTree]:
        """A new episode, its first observation normalised."""
        state, observation = self.env.reset(key)
        return state, self.normalised(observation)

    def step(self, key: Key, state: PyTree, action: Array) -> tuple[PyTree, TimeStep]:
        """One step with a normalised observation; the raw one stands in `info`."""
        state, step = self.env.step(key, state, action)
        info = {**step.info, "raw_observation": step.observation}
        return state, step.replace(observation=self.normalised(step.observation), info=info)

    def normalised(self, observation: PyTree) -> PyTree:
        """A raw observation `[..., *shape]` as the agent sees it."""
        scaled = standardised(self.moments, observation, self.epsilon, self.clip)
        return jax.tree.map(lambda raw, leaf: leaf.astype(raw.dtype), observation, scaled)

    def updated(self, batch: PyTree) -> NormaliseObservation:
        """The wrapper with raw observations `[..., *shape]` added to its statistics."""
        return self.replace(moments=merged_moments(self.moments, batch))


class NormaliseReward(Struct):
    """Scales rewards by the standard deviation of a running discounted return; no shift.

        accumulated_t = reward_t + discount * accumulated_{t-1}
        reward <- clip(reward / sqrt(variance(accumulated) + epsilon), -clip, clip)

    The accumulator, `[]` float32, is what the wrapper keeps as environment state; it starts from
    zero with each episode. The statistics are leaves; `updated` returns a wrapper with more data in
    them, nothing else changes them. `info["discounted_return"]` carries what to update with,
    `info["raw_reward"]` the task's reward.

    Sources: Engstrom et al. (2020), "Implementation matters in deep policy gradients", section 3.
    """

    env: Any
    # A factory, because an array made at import would start the backend.
    moments: RunningMoments = struct.field(default_factory=RunningMoments.start)
    discount: float = setting(
        0.99, "of the accumulator, usually the agent's", unit="per step", low=0.0, high=1.0
    )
    epsilon: float = setting(1e-8, "added to the variance", low=0.0)
    clip: float = setting(10.0, _CLIP, unit="standard deviations", low=0.0, infinite=True)

    __post_init__ = check_own_settings

    observation_space = inner_observations
    action_space = inner_actions
    legal = inner_legal

    def reset(self, key: Key) -> tuple[WrapperState, PyTree]:
        """A new episode with an empty accumulator."""
        inner, observation = self.env.reset(key)
        return WrapperState(inner, jnp.zeros((), jnp.float32)), observation

    def step(self, key: Key, state: WrapperState, action: Array) -> tuple[WrapperState, TimeStep]:
        """One step with a scaled reward; the raw one stands in `info`."""
        inner, step = self.env.step(key, state.inner, action)
        total = (step.reward + self.discount * state.kept).astype(jnp.float32)
        info = {**step.info, "discounted_return": total, "raw_reward": step.reward}
        reward = step.reward / jnp.sqrt(self.moments.variance + self.epsilon)
        reward = jnp.clip(reward, -self.clip, self.clip).astype(step.reward.dtype)
        return WrapperState(inner, total), step.replace(reward=reward, info=info)

    def updated(self, batch: Array) -> NormaliseReward:
        """The wrapper with discounted returns `[...]` added to its statistics."""
        return self.replace(moments=self.moments.merged(batch))
