"""Wrappers that change actions on their way in.

The noisy ones cost one key split and one draw a step: on small environments randomness is most of
the price.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core import Array, Box, Discrete, Key, PyTree, Struct, TimeStep, setting
from jaxrl.core.protocols import has_legal, legal_actions
from jaxrl.core.settings import check_own_settings
from jaxrl.core.spaces import share_to_legal
from jaxrl.core.types import is_traced
from jaxrl.envs.wrappers.inner import (
    WrapperState,
    inner_actions,
    inner_legal,
    inner_observations,
    inner_reset,
    same_legal,
)


class StickyActions(Struct):
    """With `probability`, the action executed last is executed again.

    The memory belongs to the episode: the first action of an episode is always executed as given.
    It keeps the action executed last, and whether the episode has had none yet, `[]` bool.
    Probability 0 changes nothing; probability 1 repeats the first action for ever. An action that
    is no longer legal is not repeated.

    Sources: Machado et al. (2018), "Revisiting the Arcade Learning Environment", section 5.2.
    """

    env: Any
    probability: float = setting(0.25, "chance to repeat", unit="per step", low=0.0, high=1.0)

    __post_init__ = check_own_settings

    observation_space = inner_observations
    action_space = inner_actions
    legal = inner_legal

    def reset(self, key: Key) -> tuple[WrapperState, PyTree]:
        """A new episode without a last action."""
        inner, observation = self.env.reset(key)
        space = self.env.action_space
        last_action = jnp.zeros(space.shape, space.dtype)
        return WrapperState(inner, (last_action, jnp.ones((), bool))), observation

    def step(self, key: Key, state: WrapperState, action: Array) -> tuple[WrapperState, TimeStep]:
        """One step with the given or the last action."""
        noise_key, step_key = jax.random.split(key)
        last_action, is_first = state.kept
        repeat = (jax.random.uniform(noise_key) < self.probability) & ~is_first
        if has_legal(self.env):
            mask = legal_actions(self.env, state.inner)
            repeat = repeat & self.env.action_space.allows(mask, last_action)
        action = jnp.asarray(action, last_action.dtype).reshape(last_action.shape)
        action = jnp.where(repeat, last_action, action)
        inner, step = self.env.step(step_key, state.inner, action)
        return WrapperState(inner, (action, jnp.zeros((), bool))), step


class NoisyActions(Struct):
    """The executed action differs by chance from the one chosen.

    Discrete actions: with `probability`, a uniform draw from all legal actions replaces the choice
    (it may be the same one). Box actions: Gaussian noise of standard deviation `scale` is added,
    and the result clipped to the box. The other field has no effect.

    Sources: Tessler, Efroni and Mannor (2019), "Action robust reinforcement learning and
    applications in continuous control", sections 3 and 4.
    """

    env: Any
    probability: float = setting(
        0.1, "chance to replace a discrete action", unit="per step", low=0.0, high=1.0
    )
    scale: float = setting(
        0.1, "standard deviation of the noise on a box action", unit="action", low=0.0
    )

    __post_init__ = check_own_settings

    observation_space = inner_observations
    action_space = inner_actions
    legal = same_legal
    reset = inner_reset

    def step(self, key: Key, state: PyTree, action: Array) -> tuple[PyTree, TimeStep]:
        """One step with the disturbed action."""
        noise_key, step_key = jax.random.split(key)
        space = self.env.action_space
        action = jnp.asarray(action, space.dtype).reshape(space.shape)
        if isinstance(space, Discrete):
            # One uniform serves twice: given that it is below `probability`, it is uniform there.
            draw = jax.random.uniform(noise_key)
            share = draw / jnp.maximum(self.probability, jnp.finfo(jnp.float32).tiny)
            drawn = jnp.minimum(share * space.num_values, space.num_values - 1)
            if has_legal(self.env):
                drawn = share_to_legal(legal_actions(self.env, state), share)
            action = jnp.where(draw < self.probability, drawn.astype(space.dtype), action)
        elif not isinstance(space, Box):
            raise ValueError(f"NoisyActions disturbs Discrete or Box actions, not {space}.")
        else:
            noise = jax.random.normal(noise_key, space.shape, space.dtype)
            action = jnp.clip(action + self.scale * noise, space.low, space.high)
        return self.env.step(step_key, state, action)


class DiscreteActions(Struct):
    """A box action chosen from few: for agents whose actions are discrete.

    A grid of `num_values` evenly spaced values of each of the box's D numbers, both ends included:
    num_values^D actions, the last number changing fastest.

    Example:
        >>> from jaxrl.envs.control import Pendulum
        >>> env = DiscreteActions(Pendulum(), num_values=3)
        >>> env.action_space.num_values, [env.box_action(jnp.array(i)).tolist() for i in range(3)]
        (3, [[-2.0], [0.0], [2.0]])
    """

    env: Any  # its action space is a bounded `Box`
    num_values: int = setting(5, "values of each number", low=2)

    __post_init__ = check_own_settings

    observation_space = inner_observations

    @property
    def action_space(self) -> Discrete:
        """num_values^D actions. Raises `ValueError` where the inner actions are no bounded box."""
        space = self.env.action_space
        bounds = (space.low, space.high) if isinstance(space, Box) else (jnp.inf,)
        known = [x for x in bounds if not is_traced(x)]
        if not all(np.isfinite(x).all() for x in known):
            raise ValueError(
                "DiscreteActions needs actions in a Box with finite bounds, but those of "
                f"{type(self.env).__name__} are {space}."
            )
        return Discrete(self.num_values ** math.prod(space.shape))

    def box_action(self, action: Array) -> Array:
        """The box action `[D...]` of a discrete one `[]`."""
        space = self.env.action_space
        places = jnp.unravel_index(action, (self.num_values,) * math.prod(space.shape))
        share = jnp.stack(places).reshape(space.shape) / (self.num_values - 1)
        return (space.low + share * (space.high - space.low)).astype(space.dtype)

    reset = inner_reset

    def step(self, key: Key, state: PyTree, action: Array) -> tuple[PyTree, TimeStep]:
        """One step with the box action."""
        return self.env.step(key, state, self.box_action(action))
