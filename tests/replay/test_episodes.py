"""Sequences: order, starts, masks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.core.types import Transition
from jaxrl.replay import EpisodeReplay

ENDS = {4: "terminated", 9: "truncated", 10: "terminated", 17: "truncated"}


def stream(first: int, num_steps: int) -> Transition:
    t = np.arange(first, first + num_steps)[:, None]
    terminated = np.array([[ENDS.get(i) == "terminated"] for i in t[:, 0]])
    truncated = np.array([[ENDS.get(i) == "truncated"] for i in t[:, 0]])
    row = jnp.asarray(t, jnp.float32)
    discount = jnp.asarray(np.where(terminated, 0, 0.9), jnp.float32)
    return Transition(
        row, row, row, discount, row + 0.5, jnp.asarray(terminated), jnp.asarray(truncated), {}
    )


@pytest.mark.parametrize("store_next", [False, True])
@pytest.mark.parametrize("within_episode", [False, True])
def test_sequences_follow_the_stream(store_next, within_episode):
    length, num_rows = 4, 14
    replay = EpisodeReplay(num_rows, 1, length, store_next, within_episode)
    add, sample = jax.jit(replay.add), jax.jit(replay.sample, static_argnums=2)
    state = replay.init(jax.tree.map(lambda leaf: leaf[0], stream(0, 1)))
    begins = {0, *(t + 1 for t in ENDS)}
    for end in range(3, 31, 3):
        state = add(state, stream(end - 3, 3))
        batch = jax.device_get(sample(jax.random.key(end), state, 128))
        last = end - length - (not store_next)
        possible = set(range(max(end - num_rows, 0), last + 1))
        if not possible:
            assert not batch.mask.any()
            continue
        first = batch.transition.observation[0].astype(int)
        assert set(first) == possible
        for i, t in enumerate(first):
            steps = np.arange(t, t + length)
            np.testing.assert_array_equal(batch.transition.observation[:, i], steps)
            shift = 0.5 if store_next else 1.0
            np.testing.assert_array_equal(batch.transition.next_observation[:, i], steps + shift)
            np.testing.assert_array_equal(batch.starts[:, i], [s in begins for s in steps])
            mask, ended = [], False
            for s in steps:
                lost = ENDS.get(int(s)) == "truncated" and not store_next
                mask.append(not lost and not (within_episode and ended))
                ended = ended or int(s) in ENDS
            np.testing.assert_array_equal(batch.mask[:, i], mask)


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="no window"):
        EpisodeReplay(capacity=8, num_envs=2, length=4).check()
    EpisodeReplay(capacity=8, num_envs=2, length=4, store_next=True).check()
    with pytest.raises(ValueError, match="batch of 9"):
        EpisodeReplay(capacity=8, num_envs=1, length=2).check(9)
