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
from jaxrl.training.loop import Tally, TrainState


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

    def update(life: Life, _: None) -> tuple[Life, Array]:
        after, tally = step_life(agent, life)
        return after, earnings(life.train, after.train, tally)

    life, rows = jax.lax.scan(update, life, None, num_updates)
    return lifetime_of(rows, life, steps, per_update, last_part)


def earnings(before: TrainState, after: TrainState, tally: Tally) -> Array:
    """Episodes that ended in an update, their returns, and all reward of its rollout, `[3]`."""
    episodes = tally.episodes
    under_way = [jnp.sum(train.rollout.episode_return) for train in (before, after)]
    earned = episodes.episode_return + under_way[1] - under_way[0]
    return jnp.stack([episodes.num_episodes, episodes.episode_return, earned])


def lifetime_of(
    rows: Array, life: Life, steps: Array, per_update: int, last_part: float
) -> Lifetime:
    """What a life earned, from the `earnings` of its updates, `[N, 3]`, 0 after its end.

    Args:
        rows: of updates 0 to N - 1.
        life: as it ended.
        steps: that it was given, `[]`.
        per_update: environment steps of an update.
        last_part: share of the life that counts as its end.
    """
    num_lived = jnp.ceil(steps / per_update)
    late_from = num_lived - jnp.maximum(jnp.round(last_part * num_lived), 1.0)
    is_late = jnp.arange(len(rows)) >= late_from
    whole, late = jnp.sum(rows, axis=0), jnp.sum(jnp.where(is_late[:, None], rows, 0.0), axis=0)
    return Lifetime(
        final_return=_ratio(late[1], late[0]),
        lifetime_return=_ratio(whole[1], whole[0]),
        final_rate=late[2] / ((num_lived - late_from) * per_update),
        lifetime_rate=whole[2] / (num_lived * per_update),
        life=life,
    )


def _ratio(total: Array, count: Any) -> Array:
    return jnp.where(count > 0, total / jnp.maximum(count, 1.0), jnp.nan)
