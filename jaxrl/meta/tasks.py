"""Tasks and laws over tasks: what an update rule is learned on, and tested on."""

# Bodies of protocols are their docstrings.
# pyright: reportReturnType=false

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp

from jaxrl.core import Struct, struct
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Key, PyTree
from jaxrl.envs.bandits import Bandit, CoinPayout
from jaxrl.envs.collecting import CollectingGrid
from jaxrl.envs.grid_levels import ScatteredWalls
from jaxrl.envs.walled import WalledGrid
from jaxrl.envs.wrappers import LogUniform, Uniform


class Task(Struct):
    """An environment to spend a life in, and how long the life is.

    Tasks of one distribution have one structure and one shape: they batch, are stored in a buffer
    `[L, ...]`, and recompile nothing. A task is the distribution that always gives it; tasks
    `[L, ...]` are the one that gives each of them as often: a held-out set, a list of levels.

    Everywhere the length of a life may be a law with `draw(key)` instead of a number, such as
    `envs.wrappers.LogUniform(1e4, 1e6)`; what it gives is rounded.

    Sources: Jackson et al. (2024), "Discovering temporally-aware reinforcement learning
    algorithms", for training on lives of many lengths, log-uniform as released
    (EmptyJackson/groove, environments/gridworld/configs.py).

    Example:
        >>> from jaxrl import envs
        >>> task = Task(envs.TwoColours(), LogUniform(1e5, 1e6)).sample(jax.random.key(0))
        >>> task.env.width, task.total_steps.dtype.name
        (5, 'float32')
        >>> tasks = jax.vmap(RandomGrids().sample)(jax.random.split(jax.random.key(0), 8))
        >>> tasks.sample(jax.random.key(1)).env.positions.shape
        (2,)
    """

    env: Any  # an `Environment`
    total_steps: Any = 1e5  # [] or [L], environment steps of a life; or a law

    def sample(self, key: Key) -> Task:
        """The task, or one of them, with float32 steps and strong types."""
        if dataclasses.is_dataclass(self.total_steps) or not jnp.ndim(self.total_steps):
            return _task(key, self.env, self.total_steps)
        return take(self, jax.random.randint(key, (), 0, self.total_steps.shape[0]))


class TaskDistribution(Protocol):
    """A law over tasks, a pytree itself: its numbers are leaves."""

    def sample(self, key: Key) -> Task:
        """One task; `vmap` over keys gives a batch."""


def take(tasks: PyTree, index: Any) -> PyTree:
    """The entry or entries `index`, as of one axis, of tasks, levels or lives `[L, ...]`."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], tasks)


class RandomGrids(Struct):
    """Grids with objects to collect (`jaxrl.envs.CollectingGrid`), of one size.

    The start and the places of the objects are distinct cells, uniformly. Rewards are drawn from
    `rewards`, that of the first object in absolute value, so that something is worth collecting;
    the other numbers each from its range.

    Sources: the family of Oh et al. (2020), appendix A; drawing every number anew, and the defaults
    of the ranges (the small grids), follow Jackson et al. (2023), "Discovering general
    reinforcement learning algorithms with adversarial environment design", as released. Their grids
    vary in size and have walls; these do not.

    Example:
        >>> grids = RandomGrids(total_steps=2e4, height=4, width=4)
        >>> task = grids.sample(jax.random.key(0))
        >>> task.env.observation_space.num_values
        64
    """

    total_steps: Any = 1e5  # [environment steps]
    rewards: Any = struct.field(default_factory=lambda: Uniform(-1.0, 1.0))  # [return]
    end_probs: Any = struct.field(default_factory=lambda: LogUniform(0.01, 1.0))
    respawn_probs: Any = struct.field(default_factory=lambda: LogUniform(0.001, 0.1))  # [per step]
    time_limit: Any = struct.field(default_factory=lambda: LogUniform(20.0, 100.0))  # [steps]
    height: int = setting(5, "rows")
    width: int = setting(5, "columns")
    num_objects: int = setting(2, "objects to collect")
    num_moves: int = setting(4, "moves: 4, 5 with staying, 9 with diagonals", choices=(4, 5, 9))

    def sample(self, key: Key) -> Task:
        """One grid.

        Raises:
            ValueError: no object, or more of them than cells beside the start.
        """
        num_cells = self.height * self.width
        if not 1 <= self.num_objects < num_cells:
            raise ValueError(
                f"num_objects={self.num_objects} does not fit on {self.height} x {self.width} "
                f"cells with a start: give 1 to {num_cells - 1}."
            )
        keys = jax.random.split(key, 6)
        order = jnp.argsort(jax.random.uniform(keys[0], (num_cells,))).astype(jnp.int32)
        rewards = _draws(keys[1], self.rewards, self.num_objects)
        env = CollectingGrid(
            positions=order[1 : self.num_objects + 1],
            rewards=rewards.at[0].set(jnp.abs(rewards[0])),
            end_probs=_draws(keys[2], self.end_probs, self.num_objects),
            respawn_probs=_draws(keys[3], self.respawn_probs, self.num_objects),
            start=order[0],
            time_limit=jnp.round(self.time_limit.draw(keys[4])),
            height=self.height,
            width=self.width,
            num_moves=self.num_moves,
        )
        return _task(keys[5], env, self.total_steps)


class RandomMazes(Struct):
    """Mazes of one size (`jaxrl.envs.WalledGrid`), each with a way to its goal.

    Attributes:
        levels: where levels come from: `envs.ScatteredWalls` or `envs.DugWalls`, which have the
            sizes and the number of walls.

    Example:
        >>> tasks = jax.vmap(RandomMazes().sample)(jax.random.split(jax.random.key(0), 3))
        >>> tasks.env.level.walls.shape
        (3, 9, 9)
    """

    total_steps: Any = 1e5  # [environment steps]
    levels: Any = struct.field(default_factory=ScatteredWalls)  # a `LevelGenerator`
    time_limit: float = setting(
        100.0, "truncates after so many steps", unit="steps", low=1.0, infinite=True
    )
    view: int = setting(0, "cells seen in each direction; 0 observes the index of the cell")

    def sample(self, key: Key) -> Task:
        """One maze."""
        level_key, life_key = jax.random.split(key)
        env = WalledGrid(self.levels.draw(level_key), self.time_limit, self.view)
        return _task(life_key, env, self.total_steps)


class RandomBandits(Struct):
    """Bandits whose arms' means are drawn independently.

    Example:
        >>> task = RandomBandits(num_arms=3).sample(jax.random.key(0))
        >>> task.env.action_space.num_values
        3
    """

    total_steps: Any = 1e3  # [environment steps]
    means: Any = struct.field(default_factory=lambda: Uniform(0.0, 1.0))  # [return]
    payout: Any = struct.field(default_factory=CoinPayout)  # a payout of `jaxrl.envs.bandits`
    num_pulls: float = setting(1.0, "pulls in an episode", unit="pulls", low=1.0, infinite=True)
    num_arms: int = setting(10, "arms")

    def sample(self, key: Key) -> Task:
        """One bandit.

        Raises:
            ValueError: no arm.
        """
        if self.num_arms < 1:
            raise ValueError(f"num_arms={self.num_arms}: a bandit needs at least one arm.")
        means_key, life_key = jax.random.split(key)
        means = _draws(means_key, self.means, self.num_arms)
        return _task(life_key, Bandit(means, self.payout, self.num_pulls), self.total_steps)


def _draws(key: Key, law: Any, num_draws: int) -> Array:
    return jax.vmap(law.draw)(jax.random.split(key, num_draws))


def _task(key: Key, env: Any, total_steps: Any) -> Task:
    """With a length that is drawn, if it is a law, and without weak types."""
    if dataclasses.is_dataclass(total_steps):
        total_steps = jnp.round(cast(Any, total_steps).draw(key))
    env = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), env)
    return Task(env, jnp.asarray(total_steps, jnp.float32))
