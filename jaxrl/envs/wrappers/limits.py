"""Wrappers of the clock: an own time limit, and statistics of the running episode."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxrl.core import Array, Key, PyTree, Struct, TimeStep, struct
from jaxrl.core.settings import check_own_settings
from jaxrl.core.types import is_traced
from jaxrl.envs.wrappers.inner import WrapperState, inner_actions, inner_legal, inner_observations


class TimeLimit(Struct):
    """Ends an episode after `max_steps` steps, where the inner environment has not done so.

    By default the clock truncates, so learners bootstrap through it. With `horizon_is_terminal` it
    terminates: the horizon is then part of the task, which is Markov only where the observation
    tells the time. A limit of the inner environment stays in force. It keeps the steps of the
    episode so far, `[]` int32.
    """

    env: Any
    # A leaf, so that a new limit does not recompile.
    max_steps: int = struct.field(metadata={"help": "of an episode", "unit": "steps", "low": 1})
    horizon_is_terminal: bool = struct.field(pytree_node=False, default=False)

    def __post_init__(self) -> None:
        """Refuse a limit that is none."""
        check_own_settings(self)
        limit = self.max_steps
        if not is_traced(limit) and np.any(np.asarray(limit) % 1):
            raise ValueError(f"max_steps={limit} is not a whole number.")

    observation_space = inner_observations
    action_space = inner_actions
    legal = inner_legal

    def reset(self, key: Key) -> tuple[WrapperState, PyTree]:
        """A new episode, at time 0."""
        inner, observation = self.env.reset(key)
        return WrapperState(inner, jnp.zeros((), jnp.int32)), observation

    def step(self, key: Key, state: WrapperState, action: Array) -> tuple[WrapperState, TimeStep]:
        """One step; ends where the limit is reached."""
        inner, step = self.env.step(key, state.inner, action)
        time = state.kept + 1
        limit = time >= self.max_steps
        if self.horizon_is_terminal:
            terminated = jnp.where(limit, jnp.ones_like(step.terminated), step.terminated)
            step = step.replace(terminated=terminated, truncated=step.truncated & ~limit)
        else:
            step = step.replace(truncated=step.truncated | (limit & (step.terminated < 1)))
        return WrapperState(inner, time), step


class EpisodeStatistics(Struct):
    """Adds running totals of the current episode to `info`.

    `info["episode_return"]` (undiscounted) and `info["episode_length"]` include the step just made;
    where a step ends an episode they are that episode's totals. They start from zero at `reset`, so
    any auto-reset, or none, works outside. Where ends are probabilities, a reward counts with the
    chance that its step is reached. Put it inside what changes rewards to report the task's own
    score. Needs scalar rewards. It keeps both totals, and the chance that the episode goes on.
    """

    env: Any

    observation_space = inner_observations
    action_space = inner_actions
    legal = inner_legal

    def reset(self, key: Key) -> tuple[WrapperState, PyTree]:
        """A new episode with totals of zero."""
        inner, observation = self.env.reset(key)
        zero, one = jnp.zeros((), jnp.float32), jnp.ones((), jnp.float32)
        return WrapperState(inner, (zero, jnp.zeros((), jnp.int32), one)), observation

    def step(self, key: Key, state: WrapperState, action: Array) -> tuple[WrapperState, TimeStep]:
        """One step; its reward joins the totals."""
        inner, step = self.env.step(key, state.inner, action)
        total, length, survival = state.kept
        total, length = total + survival * step.reward.astype(jnp.float32), length + 1
        survival = survival * (1.0 - jnp.asarray(step.terminated, jnp.float32))
        info = {**step.info, "episode_return": total, "episode_length": length}
        return WrapperState(inner, (total, length, survival)), step.replace(info=info)
