"""Sequences: order, starts, masks."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxrl.core import Transition
from jaxrl.replay import EpisodeReplay

ENDS = {4: "terminated", 9: "truncated", 10: "terminated", 17: "truncated"}


def stream(first: int, num_steps: int) -> Transition:
    t = np.arange(first, first + num_steps)[:, None]
    terminated = np.array([[ENDS.get(i) == "terminated"] for i in t[:, 0]])
    truncated = np.array([[ENDS.get(i) == "truncated"] for i in t[:, 0]])
    row = t.astype(np.float32)
    discount = np.where(terminated, 0, 0.9).astype(np.float32)
    return Transition(row, row, row, discount, row + np.float32(0.5), terminated, truncated, {})


@pytest.mark.parametrize(
    ("within_episode", "store_next"),
    [
        (True, False),
        pytest.param(False, False, marks=pytest.mark.slow),
        pytest.param(False, True, marks=pytest.mark.slow),
        pytest.param(True, True, marks=pytest.mark.slow),
    ],
)
def test_sequences_follow_the_stream(store_next, within_episode):
    length, num_rows = 4, 14
    replay = EpisodeReplay(num_rows, 1, length, store_next, within_episode)

    def body(state, inputs):
        key, chunk = inputs
        state = replay.add(state, chunk)
        return state, replay.sample(key, state, 128)

    def life(key, chunks):
        start = replay.init(jax.tree.map(lambda leaf: leaf[0], stream(0, 1)))
        return jax.lax.scan(body, start, (jax.random.split(key, 9), chunks))[1]

    chunks = jax.tree.map(lambda leaf: leaf.reshape(9, 3, 1), stream(0, 27))
    batches = jax.device_get(jax.jit(life)(jax.random.key(0), chunks))
    begins = {0, *(t + 1 for t in ENDS)}
    for index, end in enumerate(range(3, 28, 3)):
        batch = jax.tree.map(lambda leaf, index=index: leaf[index], batches)
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
        EpisodeReplay(capacity=8, num_envs=2, length=4, store_next=False).check()
    EpisodeReplay(capacity=8, num_envs=2, length=4, store_next=True).check()
    with pytest.raises(ValueError, match="batch of 9"):
        EpisodeReplay(capacity=8, num_envs=1, length=2, store_next=False).check(9)
