"""Levels chosen by what they have to teach: a buffer that replays the best, and regret as score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxrl.agents.presets import a2c
from jaxrl.core import Struct
from jaxrl.core.protocols import Agent
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Key, PyTree, select
from jaxrl.meta.gradients import MetaGradient
from jaxrl.meta.inner import repeat
from jaxrl.meta.lives import ANTAGONISTS, LEVELS, Life, OuterState, birth_keys, ratio
from jaxrl.meta.tasks import Task, take
from jaxrl.training.evaluation import play_episodes
from jaxrl.training.loop import Tally, TrainState, train_iteration

# ---- how scores become odds at temperature 1: logarithms, up to a constant -----------------------


def _rank(scores: Array, filled: Array) -> Array:
    """The best has rank 1, the next rank 2, ...: odds = 1 / rank; ties in the order of places.

    Source: Jiang, Grefenstette & Rocktaschel 2021, Prioritized level replay, equation 3 with
    h = 1 / rank.

    Example:
        >>> odds = _rank(jnp.array([5.0, 7.0]), jnp.ones(2, bool))
        >>> [f"{float(p):.2f}" for p in jax.nn.softmax(odds)]
        ['0.33', '0.67']
    """
    order = jnp.argsort(jnp.where(filled, -scores, jnp.inf))
    rank = jnp.zeros(scores.shape, scores.dtype).at[order].set(jnp.arange(scores.size) + 1.0)
    return -jnp.log(rank)


def _proportional(scores: Array, filled: Array) -> Array:
    """odds = max(score, 0), or even where no score is above 0.

    Source: Jiang, Grefenstette & Rocktaschel 2021, the proportional form of P_S.
    """
    worth = filled & (scores > 0)
    logs = jnp.where(worth, jnp.log(jnp.where(worth, scores, 1.0)), -jnp.inf)
    return jnp.where(jnp.any(worth), logs, 0.0)


def _softmax(scores: Array, filled: Array) -> Array:
    """odds = exp(score), the temperature in units of the score.

    Source: Jackson et al. 2023, Discovering general reinforcement learning algorithms with
    adversarial environment design, as released.
    """
    return jnp.where(filled, scores, 0.0)


class LevelBuffer(Struct):
    """Levels `[N, ...]` and what is known of them. A pytree of fixed shape."""

    levels: PyTree  # [N, ...]
    scores: Array  # [N], -inf where there is no level
    drawn_at: Array  # [N] int32, count of draws when the level was last drawn or entered
    ids: Array  # [N] int32, -1 where there is no level
    num_draws: Array  # [] int32
    next_id: Array  # [] int32

    @property
    def filled(self) -> Array:
        """Where there is a level, `[N]` bool."""
        return self.ids >= 0


class LevelReplay(Struct):
    """Which level comes next: an old one from a buffer by its score, or a new one.

        old with probability replay_prob, once min_filled of the places are filled
        P(level) = (1 - staleness) P_S(level) + staleness P_C(level)

    with P_S from the scores by `transform` and P_C proportional to the draws since the level was
    last drawn. A scored level keeps its place; a new one takes an empty place, or that of the
    lowest score if its own is higher.

    Attributes:
        transform: from scores `[N]` and which places are filled `[N]` to logarithms of odds `[N]`,
            up to a constant: one of `transforms`, which has them by name, or any such function.
        temperature: odds are taken to the power of 1 / temperature; 1 suits all but ranks.
        replay_prob: probability of an old level.
        staleness: share of P_C.
        min_filled: share of places to fill with new levels before any is replayed.
        num_levels: N.

    Source: Jiang, Grefenstette & Rocktaschel 2021, Prioritized level replay.
    """

    transforms: ClassVar = {"rank": _rank, "proportional": _proportional, "softmax": _softmax}

    transform: Callable[[Array, Array], Array] = setting(_rank, "from scores to odds")
    temperature: float = setting(0.3, "high for more even odds", low=0.0, low_open=True)
    replay_prob: float = setting(0.5, "probability of an old level", low=0.0, high=1.0)
    staleness: float = setting(0.1, "share drawn by age", low=0.0, high=1.0)
    min_filled: float = setting(0.5, "share filled before levels are replayed", low=0.0, high=1.0)
    num_levels: int = setting(256, "places in the buffer", low=1)

    def init(self, example: Any) -> LevelBuffer:
        """An empty buffer for levels like `example`."""
        num = self.num_levels
        return LevelBuffer(
            levels=jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num, *leaf.shape)), example),
            scores=jnp.full(num, -jnp.inf),
            drawn_at=jnp.zeros(num, jnp.int32),
            ids=jnp.full(num, -1, jnp.int32),
            num_draws=jnp.zeros((), jnp.int32),
            next_id=jnp.zeros((), jnp.int32),
        )

    def probs(self, buffer: LevelBuffer) -> Array:
        """Of each level, given that an old one is drawn, `[N]`; zeros while there is none."""
        filled = buffer.filled
        odds = self.transform(buffer.scores, filled) / self.temperature
        by_score = jax.nn.softmax(jnp.where(filled, odds, -jnp.inf))
        age = jnp.where(filled, buffer.num_draws - buffer.drawn_at, 0).astype(by_score.dtype)
        total = jnp.sum(age)
        by_age = jnp.where(total > 0, age / jnp.maximum(total, 1), by_score)
        probs = (1.0 - self.staleness) * by_score + self.staleness * by_age
        return jnp.where(filled, probs, 0.0)

    def draw(
        self, key: Key, buffer: LevelBuffer, fresh: Any, wanted: Array
    ) -> tuple[LevelBuffer, Any, Array, Array]:
        """A level for each of L places, old or `fresh[L, ...]`; those not `wanted[L]` do not count.

        All are drawn from the buffer as it is, independently.

        Returns:
            the buffer, levels `[L, ...]`, their ids `[L]` (new ones for new levels), and which are
            old `[L]`.
        """
        num = wanted.shape[0]
        old_key, which_key = jax.random.split(key)
        enough = jnp.mean(buffer.filled) >= self.min_filled
        ready = enough & jnp.any(buffer.filled)
        old = jax.random.bernoulli(old_key, self.replay_prob, (num,)) & ready
        logits = jnp.log(jnp.where(ready, self.probs(buffer), 1.0))
        slots = jax.random.categorical(which_key, logits, shape=(num,))
        levels = select(old, take(buffer.levels, slots), fresh)
        new = wanted & ~old
        new_ids = buffer.next_id + jnp.cumsum(new) - 1
        ids = jnp.where(old, buffer.ids[slots], new_ids).astype(jnp.int32)
        num_draws = buffer.num_draws + jnp.sum(wanted, dtype=jnp.int32)
        # Places out of range are dropped: those that were not drawn.
        touched = jnp.where(wanted & old, slots, self.num_levels)
        buffer = buffer.replace(
            drawn_at=buffer.drawn_at.at[touched].set(num_draws, mode="drop"),
            num_draws=num_draws,
            next_id=buffer.next_id + jnp.sum(new, dtype=jnp.int32),
        )
        return buffer, levels, ids, old

    def insert(
        self, buffer: LevelBuffer, levels: Any, ids: Array, scores: Array, counts: Array
    ) -> LevelBuffer:
        """Enter scored `levels[L, ...]`, one after the other, where `counts[L]`.

        A score that is not finite does not count.
        """

        def one(buffer: LevelBuffer, row: tuple) -> tuple[LevelBuffer, None]:
            level, number, score, counts = row
            same = buffer.ids == number
            known = jnp.any(same)
            slot = jnp.where(known, jnp.argmax(same), jnp.argmin(buffer.scores))
            enters = counts & jnp.isfinite(score) & (known | (score > buffer.scores[slot]))
            slot = jnp.where(enters, slot, self.num_levels)

            def put(held: Array, value: Array) -> Array:
                return held.at[slot].set(value, mode="drop")

            when = jnp.where(known, buffer.drawn_at[slot], buffer.num_draws)
            return buffer.replace(
                levels=jax.tree.map(put, buffer.levels, level),
                scores=put(buffer.scores, score),
                ids=put(buffer.ids, number),
                drawn_at=put(buffer.drawn_at, when),
            ), None

        return jax.lax.scan(one, buffer, (levels, ids, scores, counts))[0]


# ---- meta-gradients on levels that are replayed ------------------------------------------------


class CuratedState(Struct):
    """Everything that the next outer step needs."""

    outer: OuterState
    antagonists: Life  # [L, ...] in the tasks of the lives, as old as they are
    levels: LevelBuffer  # of tasks
    ids: Array  # [L] int32, of the level that each life is lived in


class Curated(Struct):
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
    antagonist: Agent = a2c()
    replay: LevelReplay = LevelReplay()
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
        draw_key = jax.random.fold_in(key, LEVELS)
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
    def parts(self) -> tuple[int, int]:
        """As of `outer`."""
        return self.outer.parts

    # ---- parts -----------------------------------------------------------------------------

    def _trained(self, life: Life) -> Life:
        """An antagonist after as many updates as the life beside it makes in an outer step."""

        def update(train: TrainState) -> tuple[TrainState, Tally]:
            return train_iteration(self.antagonist, life.env, train, self.outer.auto_reset)

        return life.replace(train=repeat(update, life.train, self.outer.num_updates)[0])

    def _antagonists(self, key: Key, births: Array, tasks: Task) -> Life:
        """New ones for `tasks[L, ...]`, in their places for the `births[L]`-th time."""
        keys = birth_keys(jax.random.fold_in(key, ANTAGONISTS), births)
        return jax.vmap(lambda own, task: Life.start(own, self.antagonist, task))(keys, tasks)

    def _renewed(
        self, state: CuratedState, over: Array, ended: Array
    ) -> tuple[CuratedState, Array, Array]:
        """Scores of what `ended`, new lives for what is `over`; regrets and what is old `[L]`."""
        outer = state.outer
        key = jax.random.fold_in(jax.random.fold_in(outer.key, LEVELS), outer.step)
        play_key, draw_key = jax.random.split(key)
        keys = jax.random.split(play_key, self.outer.num_lives)
        regret = self.outer.over_lives(self._regret, keys, outer.lives, state.antagonists)
        lived_in = Task(outer.lives.env, outer.lives.total_steps)
        buffer = self.replay.insert(state.levels, lived_in, state.ids, regret, ended)
        fresh = self.outer.fresh_tasks(outer.key, outer.births)
        buffer, tasks, ids, old = self.replay.draw(draw_key, buffer, fresh, over)
        fresh_antagonists = self._antagonists(outer.key, outer.births, tasks)
        antagonists = select(over, fresh_antagonists, state.antagonists)
        outer, ids = self.outer.renew(outer, over, tasks), jnp.where(over, ids, state.ids)
        return CuratedState(outer, antagonists, buffer, ids), regret, old

    def _regret(self, key: Key, life: Life, antagonist: Life) -> Array:
        """Of one pair as it stands, `[]` [return]; both face the same draws."""

        def mean_return(agent: Agent, life: Life) -> Array:
            play = (self.num_episodes, self.max_steps, True)
            return play_episodes(key, agent, life.env, life.train.agent, *play).mean

        learner = self.outer.tuned.agent  # what is learned does not change how a policy acts
        return mean_return(self.antagonist, antagonist) - mean_return(learner, life)
