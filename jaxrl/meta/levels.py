"""Levels chosen by what they have to teach: algorithmic regret against a trained antagonist."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.agents.presets import a2c
from jaxrl.core import struct
from jaxrl.core.protocols import Agent
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Key, select
from jaxrl.meta.gradients import MetaGradient, MetaGradientState
from jaxrl.meta.level_buffer import LevelBuffer, LevelReplay
from jaxrl.meta.lives import Life, birth_keys, ratio, start_life
from jaxrl.meta.tasks import Task
from jaxrl.training.evaluation import play_episodes
from jaxrl.training.loop import train_iteration

# Folded into the outer loop's key, whose lives fold in their places, 0 up to their number.
_ANTAGONISTS, _LEVELS = 0xA2C00000, 0x1E7E1000


@struct.dataclass
class CuratedState:
    """Everything that the next outer step needs."""

    outer: MetaGradientState
    antagonists: Life  # [L, ...] in the tasks of the lives, as old as they are
    levels: LevelBuffer  # of tasks
    ids: Array  # [L] int32, of the level that each life is lived in


@struct.dataclass
class Curated:
    """Meta-gradients on levels that are replayed by their regret.

        regret(level) = return of an antagonist trained on it - return of the learned rule's agent

    Beside each life an antagonist lives in the same task, with as many updates on as much data.
    When the life has spent its steps, and only then, both play `num_episodes` fresh episodes; the
    difference is the score with which the level enters the buffer. A life that was replaced early,
    by the first ends or for a number that is not finite, is not scored. Every life that begins
    draws its task from the buffer or anew, by `replay`. Everything else is `outer`.

    Regret is taken in the units of the level's return: give levels returns that compare.

    Attributes:
        outer: whose `tasks` are where new levels come from.
        antagonist: an agent of trusted rule, with the learner's environments and rollout lengths.
        replay: which level comes next.
        num_episodes: played by each of the two at the end of a life.
        max_steps: of an episode so played; what it had by then counts.

    Source: Jackson et al. 2023, Discovering general reinforcement learning algorithms with
    adversarial environment design. There the antagonist is trained when the score is wanted; here
    as the life goes on, which costs the same and needs no loop inside a step.

    Example:
        >>> from jaxrl.meta import RandomGrids, tuned
        >>> learner = a2c().replace(num_envs=2, rollout_length=4)
        >>> outer = MetaGradient(tuned(learner, ["discount"]), RandomGrids(100.0), num_lives=2)
        >>> curated = Curated(outer, antagonist=learner)
        >>> state = jax.eval_shape(curated.init, jax.random.key(0))
        >>> state.ids.shape, state.levels.scores.shape
        ((2,), (256,))
    """

    outer: MetaGradient
    antagonist: Agent = struct.field(default_factory=a2c)
    replay: LevelReplay = struct.field(default_factory=LevelReplay)
    num_episodes: int = setting(16, "episodes that measure a return", low=1)
    max_steps: int = setting(200, "of such an episode", unit="steps", low=1)

    def init(self, key: Key) -> CuratedState:
        """New lives in new levels, and an empty buffer.

        Raises:
            ValueError: an antagonist whose updates see more or fewer steps than the learner's.
        """
        ours, theirs = self.outer.tuned.agent, self.antagonist
        shapes = [(agent.num_envs, agent.rollout_length) for agent in (ours, theirs)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"The antagonist rolls out {shapes[1]} (num_envs, rollout_length) and the learner "
                f"{shapes[0]}: a regret compares equal budgets, give both the same."
            )
        outer = self.outer.init(key)
        tasks = Task(outer.lives.env, outer.lives.total_steps)
        buffer = self.replay.init(jax.tree.map(lambda leaf: leaf[0], tasks))
        everywhere = jnp.ones(self.outer.num_lives, bool)
        # The first levels are new ones: a buffer that is empty replays none.
        draw_key = jax.random.fold_in(key, _LEVELS)
        buffer, tasks, ids, _ = self.replay.draw(draw_key, buffer, tasks, everywhere)
        first = jnp.zeros_like(outer.births)
        return CuratedState(outer, self._antagonists(outer.key, first, tasks), buffer, ids)

    def agent(self, state: CuratedState) -> Agent:
        """The agent under what was learned."""
        return self.outer.agent(state.outer)

    def step(self, state: CuratedState) -> tuple[CuratedState, dict[str, Array]]:
        """One outer step -> state, metrics: `outer`'s, and of the levels.

        `regret` is the mean over the lives that ended in this step, NaN where none did.
        """
        outer, over, finite, metrics = self.outer.advance(state.outer)
        antagonists = self.outer.over_lives(self._trained, state.antagonists)
        state = state.replace(outer=outer, antagonists=antagonists)
        lives = outer.lives
        ended = finite & jax.vmap(lambda life: life.is_over(self.outer.tuned.agent))(lives)
        state, regret, old = jax.lax.cond(
            jnp.any(over),
            lambda: self._renewed(state, over, ended),
            lambda: (state, jnp.full(over.shape, jnp.nan), jnp.zeros_like(over)),
        )
        filled = state.levels.filled
        held = jnp.sum(jnp.where(filled, state.levels.scores, 0.0))
        return state, {
            **metrics,
            "regret": ratio(jnp.sum(jnp.where(ended, regret, 0.0)), jnp.sum(ended)),
            "replayed_fraction": ratio(jnp.sum(old & over), jnp.sum(over)),
            "filled_fraction": jnp.mean(filled),
            "buffer_score": held / jnp.maximum(jnp.sum(filled), 1),
        }

    @property
    def chunk(self) -> int:
        """As `outer`'s."""
        return self.outer.chunk

    @property
    def num_parts(self) -> int:
        """Lives that `chunk` counts."""
        return self.outer.num_parts

    # ---- parts -----------------------------------------------------------------------------

    def _trained(self, life: Life) -> Life:
        """An antagonist after as many updates as the life beside it makes in an outer step."""

        def update(train: Any, _: None) -> tuple[Any, None]:
            return train_iteration(self.antagonist, life.env, train, self.outer.auto_reset)[0], None

        train, _ = jax.lax.scan(update, life.train, None, self.outer.num_updates)
        return life.replace(train=train)

    def _antagonists(self, key: Key, births: Array, tasks: Task) -> Life:
        """New ones for `tasks[L, ...]`, in their places for the `births[L]`-th time."""
        keys = birth_keys(jax.random.fold_in(key, _ANTAGONISTS), births)
        return jax.vmap(lambda own, task: start_life(own, self.antagonist, task))(keys, tasks)

    def _renewed(
        self, state: CuratedState, over: Array, ended: Array
    ) -> tuple[CuratedState, Array, Array]:
        """Scores of what `ended`, new lives for what is `over`; regrets and what is old `[L]`."""
        outer = state.outer
        key = jax.random.fold_in(jax.random.fold_in(outer.key, _LEVELS), outer.step)
        play_key, draw_key = jax.random.split(key)
        keys = jax.random.split(play_key, self.outer.num_lives)
        regret = self.outer.over_lives(self._regret, keys, outer.lives, state.antagonists)
        lived_in = Task(outer.lives.env, outer.lives.total_steps)
        buffer = self.replay.insert(state.levels, lived_in, state.ids, regret, ended)
        fresh = self.outer.fresh_tasks(outer)
        buffer, tasks, ids, old = self.replay.draw(draw_key, buffer, fresh, over)
        fresh_antagonists = self._antagonists(outer.key, outer.births, tasks)
        antagonists = select(over, fresh_antagonists, state.antagonists)
        state = CuratedState(
            outer=self.outer.renew(outer, over, tasks),
            antagonists=antagonists,
            levels=buffer,
            ids=jnp.where(over, ids, state.ids),
        )
        return state, regret, old

    def _regret(self, key: Key, life: Life, antagonist: Life) -> Array:
        """Of one pair as it stands, `[]` [return]; both face the same draws."""

        def mean_return(agent: Agent, life: Life) -> Array:
            play = (self.num_episodes, self.max_steps, True)
            return play_episodes(key, agent, life.env, life.train.agent, *play).mean

        learner = self.outer.tuned.agent  # what is learned does not change how a policy acts
        return mean_return(self.antagonist, antagonist) - mean_return(learner, life)
