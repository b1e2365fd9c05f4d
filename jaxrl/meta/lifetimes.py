"""Whole lives: what a learner earns in its last steps, and on the way there."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.protocols import Agent
from jaxrl.core.types import Array, Key
from jaxrl.meta.lives import Life, start_life, step_life
from jaxrl.meta.tasks import Task


@struct.dataclass
class Lifetime:
    """What whole lives earned. `[...]` as the lives were batched.

    Rewards are undiscounted; where no episode ended in time, returns are NaN and the rates speak.
    """

    final_return: Array  # mean of the episodes that ended in the life's last part [return]
    lifetime_return: Array  # mean of all episodes [return]
    final_rate: Array  # reward in the last part [return per step]
    lifetime_rate: Array  # reward of the whole life [return per step]
    life: Life  # as it ended


def num_updates_of(agent: Agent, total_steps: float) -> int:
    """Updates that a life of at most `total_steps` environment steps takes."""
    return math.ceil(total_steps / (agent.num_envs * agent.rollout_length))


def live(
    key: Key, agent: Agent, task: Task, *, num_updates: int, last_part: float = 0.1
) -> Lifetime:
    """One whole life: pure, so `vmap` it over keys, agents and tasks.

    Args:
        key: of the life.
        agent: the learner.
        task: and how many steps it is given.
        num_updates: computed; a longer life is cut there, a shorter one stands still at its end.
        last_part: share of the life that counts as its end, in (0, 1].

    Raises:
        ValueError: fewer than one update, or a share out of range.
    """
    if num_updates < 1 or not 0.0 < last_part <= 1.0:
        raise ValueError(
            f"num_updates={num_updates} must be at least 1 and last_part={last_part} in (0, 1]."
        )
    life = start_life(key, agent, task)
    per_update = agent.num_envs * agent.rollout_length
    steps = jnp.minimum(life.total_steps, float(num_updates * per_update))
    num_lived = jnp.ceil(steps / per_update)
    late_from = num_lived - jnp.maximum(jnp.round(last_part * num_lived), 1.0)

    def update(carry: tuple, index: Array) -> tuple[tuple, None]:
        life, sums, rewards = carry
        after, tally = step_life(agent, life)
        episodes = tally.episodes
        earned = episodes.episode_return + _running(after) - _running(life)
        row = jnp.stack([episodes.num_episodes, episodes.episode_return, earned])
        late = jnp.where(index >= late_from, row, 0.0)
        return (after, sums + row, rewards + late), None

    nothing = jnp.zeros(3)
    (life, whole, late), _ = jax.lax.scan(update, (life, nothing, nothing), jnp.arange(num_updates))
    return Lifetime(
        final_return=_ratio(late[1], late[0]),
        lifetime_return=_ratio(whole[1], whole[0]),
        final_rate=late[2] / ((num_lived - late_from) * per_update),
        lifetime_rate=whole[2] / (num_lived * per_update),
        life=life,
    )


def _running(life: Life) -> Array:
    """The reward so far of the episodes under way, `[]`."""
    return jnp.sum(life.train.rollout.episode_return)


def _ratio(total: Array, count: Any) -> Array:
    return jnp.where(count > 0, total / jnp.maximum(count, 1.0), jnp.nan)
