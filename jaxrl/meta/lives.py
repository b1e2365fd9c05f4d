"""A life: one learner in one task, from its first step to its last."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.protocols import Agent, Environment
from jaxrl.core.types import Array, Key, select
from jaxrl.meta.tasks import Task
from jaxrl.training.loop import (
    Tally,
    TrainState,
    check_training,
    start_training,
    train_iteration,
)


@struct.dataclass
class Life:
    """A learner and where it stands: a pytree to step, batch, fork, reset by mask and save."""

    train: TrainState  # the learner, its environments' states, its key
    env: Environment  # the task's environment; its numbers are leaves
    total_steps: Array  # [] environment steps of the whole life

    def steps_done(self, agent: Agent) -> Array:
        """Environment steps lived so far, `[]`."""
        return self.train.iteration * (agent.num_envs * agent.rollout_length)

    def is_over(self, agent: Agent) -> Array:
        """Whether the steps of this life are spent, `[]` bool."""
        return self.steps_done(agent) >= self.total_steps


def start_life(key: Key, agent: Agent, task: Task) -> Life:
    """A new learner in a task.

    Raises:
        ValueError: a setting out of range, or an agent that does not fit the environment.
    """
    check_training(agent, task.env)
    train = start_training(key, agent, task.env, task.total_steps)
    return Life(train, task.env, jnp.asarray(task.total_steps, jnp.float32))


def step_life(agent: Agent, life: Life) -> tuple[Life, Tally]:
    """One rollout and one update; a life that is over stays as it is and tallies nothing."""
    train, tally = train_iteration(agent, life.env, life.train)
    over = life.is_over(agent)
    nothing = jax.tree.map(jnp.zeros_like, tally)
    return (
        life.replace(train=select(over, life.train, train)),
        select(over, nothing, tally),
    )


def restart(over: Array, lives: Life, fresh: Life) -> Life:
    """Put `fresh` lives in place of those that are `over[L]`, all `[L, ...]`."""
    return select(over, fresh, lives)
