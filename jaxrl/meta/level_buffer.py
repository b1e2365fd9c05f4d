"""A buffer of levels with scores: which to live in again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Key, PyTree, select
from jaxrl.meta.tasks import take

# ---- how scores become odds at temperature 1: logarithms, up to a constant: `SCORES` -------------


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


SCORES: dict[str, Callable[[Array, Array], Array]] = {
    "rank": _rank,
    "proportional": _proportional,
    "softmax": _softmax,
}


@struct.dataclass
class LevelBuffer:
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


@struct.dataclass
class LevelReplay:
    """Which level comes next: an old one from a buffer by its score, or a new one.

        old with probability replay_prob, once min_filled of the places are filled
        P(level) = (1 - staleness) P_S(level) + staleness P_C(level)

    with P_S from the scores by `transform` and P_C proportional to the draws since the level was
    last drawn. A scored level keeps its place; a new one takes an empty place, or that of the
    lowest score if its own is higher.

    Attributes:
        transform: from scores to odds: by `rank`, `proportional` or by `softmax`.
        temperature: odds are taken to the power of 1 / temperature; 1 suits all but ranks.
        replay_prob: probability of an old level.
        staleness: share of P_C.
        min_filled: share of places to fill with new levels before any is replayed.
        num_levels: N.

    Source: Jiang, Grefenstette & Rocktaschel 2021, Prioritized level replay.
    """

    transform: str = setting("rank", "from scores to odds", choices=tuple(SCORES))
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
        odds = SCORES[self.transform](buffer.scores, filled) / self.temperature
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
