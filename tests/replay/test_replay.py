"""Uniform and prioritised replay: contents, windows, wrap-around, machinery."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.core.types import Transition
from jaxrl.replay import PrioritisedReplay, UniformReplay

KINDS = [UniformReplay, PrioritisedReplay]


def steps(first: int, num_steps: int, num_envs: int, end_at=lambda t, env: "") -> Transition:
    """Steps whose observation is (t, env); reward t + 100 env, discount 0.5, ends as told."""
    t, env = np.meshgrid(np.arange(first, first + num_steps), np.arange(num_envs), indexing="ij")
    ends = np.vectorize(lambda t, env: end_at(int(t), int(env)), otypes=[object])(t, env)
    terminated, truncated = ends == "terminated", ends == "truncated"
    return Transition(
        observation=jnp.asarray(np.stack([t, env], -1), jnp.float32),
        action=jnp.asarray(t % 3, jnp.int32),
        reward=jnp.asarray(t + 100 * env, jnp.float32),
        discount=jnp.asarray(np.where(terminated, 0.0, 0.5), jnp.float32),
        next_observation=jnp.asarray(np.stack([t + 0.5, env], -1), jnp.float32),
        terminated=jnp.asarray(terminated),
        truncated=jnp.asarray(truncated),
        extras={"pixels": jnp.asarray((t[..., None, None] >> np.arange(12).reshape(3, 4)) & 1 > 0)},
    )


def one(num_envs: int) -> Transition:
    return jax.tree.map(lambda leaf: leaf[0], steps(0, 1, num_envs))


def reference(history: Transition, t: int, env: int, num_step: int, store_next: bool):
    """The n-step transition by walking the stream, or None where none may start."""
    total, discount, k = 0.0, 1.0, 0
    while k < num_step:
        if bool(history.truncated[t + k, env]) and not store_next:
            if k == 0:
                return None
            break
        total += discount * float(history.reward[t + k, env])
        discount *= float(history.discount[t + k, env])
        k += 1
        if bool(history.terminated[t + k - 1, env] | history.truncated[t + k - 1, env]):
            break
    if store_next:
        return total, discount, np.asarray(history.next_observation[t + k - 1, env])
    return total, discount, np.asarray(history.observation[t + k, env])


def ends(t: int, env: int) -> str:
    return {(3, 0): "terminated", (7, 1): "truncated", (8, 0): "truncated"}.get((t % 11, env), "")


@pytest.mark.parametrize("kind", KINDS)
def test_three_step_return_by_hand(kind):
    # Rewards 0, 1, 2, ... and discount 1/2. A full window from t = 0: 0 + 1/2 + 2/4 = 1, discount
    # 1/8, bootstrap at t = 3. From t = 4, truncation at 5: reward 4, discount 1/2, bootstrap at
    # observation 5. From t = 8, termination at 9: 8 + 9/2 = 12.5, discount 0.
    told = {5: "truncated", 9: "terminated"}
    replay = kind(capacity=16, num_envs=1, num_step=3)
    state = replay.add(replay.init(one(1)), steps(0, 14, 1, lambda t, _: told.get(t, "")))
    batch = jax.jit(replay.sample, static_argnums=2)(jax.random.key(0), state, 256)
    expected = {0: (1.0, 0.125, 3.0), 4: (4.0, 0.5, 5.0), 8: (12.5, 0.0, None)}
    starts = np.asarray(batch.transition.observation[:, 0]).astype(int)
    for start, (reward, discount, successor) in expected.items():
        entry = jax.tree.map(lambda leaf, i=np.flatnonzero(starts == start)[0]: leaf[i], batch)
        assert float(entry.transition.reward) == reward
        assert float(entry.transition.discount) == discount
        assert bool(entry.transition.truncated) == (start == 4)
        assert bool(entry.transition.terminated) == (start == 8)
        if successor is not None:
            assert float(entry.transition.next_observation[0]) == successor
    counted = set(starts[np.asarray(batch.weights) > 0])
    assert counted == set(range(11)) - {5}  # 11, 12, 13 are not complete; 5 lost its successor


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("store_next", [False, True])
@pytest.mark.parametrize("num_step", [1, 3])
def test_draws_match_the_stream_across_the_seam(kind, store_next, num_step):
    num_rows, num_envs = 13, 2  # no multiple of the chunk, so that writes straddle the seam
    replay = kind(num_rows * num_envs, num_envs, num_step, store_next)
    add, sample = jax.jit(replay.add), jax.jit(replay.sample, static_argnums=2)
    history = steps(0, 60, num_envs, ends)
    state, end = replay.init(one(num_envs)), 0
    while end < 60:
        state, end = add(state, jax.tree.map(lambda x, t=end: x[t : t + 5], history)), end + 5
        batch = jax.device_get(sample(jax.random.key(end), state, 300))
        oldest = max(end - num_rows, 0)
        last = end - num_step if store_next else end - num_step - 1
        valid = {
            (t, env): reference(history, t, env, num_step, store_next)
            for t in range(oldest, last + 1)
            for env in range(num_envs)
        }
        counted = {start for start, entry in valid.items() if entry is not None}
        seen = set()
        for i in np.flatnonzero(batch.weights):
            t, env = map(int, batch.transition.observation[i])
            seen.add((t, env))
            reward, discount, successor = valid[t, env]
            assert batch.transition.reward[i] == pytest.approx(reward)
            assert batch.transition.discount[i] == pytest.approx(discount)
            assert batch.transition.action[i] == t % 3
            if discount > 0:
                np.testing.assert_array_equal(batch.transition.next_observation[i], successor)
            bits = (t >> np.arange(12).reshape(3, 4)) & 1 > 0
            np.testing.assert_array_equal(batch.transition.extras["pixels"][i], bits)
        assert seen == counted  # 300 draws of at most 26: each is seen
        if kind is PrioritisedReplay and counted:
            assert np.all(batch.weights > 0)  # an invalid start is never drawn
            every = np.arange(num_rows * num_envs)
            probs = np.asarray(replay.probs_at(state, every))
            assert np.count_nonzero(probs) == len(counted)


@pytest.mark.parametrize("kind", KINDS)
def test_a_trajectory_longer_than_the_ring_keeps_the_newest(kind):
    replay = kind(capacity=8, num_envs=2)
    state = replay.add(replay.init(one(2)), steps(0, 11, 2))
    batch = replay.sample(jax.random.key(0), state, 100)
    assert set(np.asarray(batch.transition.observation[:, 0])) == {7, 8, 9}
    assert int(replay.size(state)) == 8


@pytest.mark.parametrize("kind", KINDS)
def test_rows_keep_their_dtype_and_memory_is_counted(kind):
    example = one(4).replace(
        observation={
            "pixels": jax.ShapeDtypeStruct((4, 10, 10, 4), jnp.bool_),
            "image": jax.ShapeDtypeStruct((4, 6, 6), jnp.uint8),
            "key": jax.random.split(jax.random.key(0), 4),
        },
        extras={},
    )
    replay = kind(capacity=64, num_envs=4)
    plan = jax.eval_shape(replay.init, example)
    stored = [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(plan)]
    assert replay.nbytes(example) == sum(stored)
    # A transition: 13 words of bits, 36 bytes, a key of 8, action, reward and discount, flags.
    rows = 64 * (52 + 36 + 8 + 12 + 1) + 2 * 4 + 4
    # Leaves and a spare are 65 = 17 rows of 4; above them 5, 2 and 1 rows of 4; and the maximum.
    tree = (17 + 5 + 2 + 1) * 4 * 4 + 4 if kind is PrioritisedReplay else 0
    assert replay.nbytes(example) == rows + tree
    batch = jax.eval_shape(lambda s: replay.sample(jax.random.key(0), s, 5), plan)
    observation = batch.transition.observation
    assert (observation["pixels"].shape, observation["pixels"].dtype) == ((5, 10, 10, 4), jnp.bool_)
    assert (observation["image"].shape, observation["image"].dtype) == ((5, 6, 6), jnp.uint8)
    assert observation["key"].dtype == example.observation["key"].dtype


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_side_by_side_equal_each_alone(kind):
    replay = kind(capacity=12, num_envs=2, num_step=2)

    def life(key, scale):
        def body(state, inputs):
            key, t = inputs
            chunk = steps(0, 3, 2, ends)
            chunk = chunk.replace(reward=chunk.reward * scale + t)
            state = replay.add(state, chunk)
            batch = replay.sample(key, state, 8)
            errors = batch.transition.reward
            return replay.update_priorities(state, batch.indices, errors), batch

        keys = jax.random.split(key, 6)
        return jax.lax.scan(body, replay.init(one(2)), (keys, jnp.arange(6.0)))

    keys, scales = jax.random.split(jax.random.key(0), 3), jnp.array([1.0, 2.0, 3.0])
    together = jax.jit(jax.vmap(life))(keys, scales)
    alone = jax.jit(life)
    for seed in range(3):
        single = alone(keys[seed], scales[seed])
        mine = jax.tree.map(lambda leaf, seed=seed: leaf[seed], together)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), mine, single)


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_written_in_place(kind):
    # The whole loop may hold no second copy of the ring or of the tree.
    replay = kind(capacity=1 << 16, num_envs=1)

    def life(state, key):
        def body(state, key):
            state = replay.add(state, steps(0, 1, 1))
            batch = replay.sample(key, state, 4)
            return replay.update_priorities(state, batch.indices, batch.transition.reward), None

        return jax.lax.scan(body, state, jax.random.split(key, 10))[0]

    many = jax.jit(jax.vmap(life), donate_argnums=0)
    state = jax.eval_shape(lambda: jax.vmap(lambda _: replay.init(one(1)))(jnp.arange(4)))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 4))
    plan = many.lower(state, keys).compile().memory_analysis()
    leaf_column = 4 * (1 << 16) * 4  # bytes of one float column of all four seeds
    assert plan.temp_size_in_bytes < leaf_column / 4


@pytest.mark.parametrize("kind", KINDS)
def test_empty_replay_gives_weight_zero_and_says_so(kind):
    replay = kind(capacity=8, num_envs=1, num_step=2)
    state = replay.init(one(1))
    assert not bool(replay.can_sample(state, 1))
    assert np.all(replay.sample(jax.random.key(0), state, 4).weights == 0)
    state = replay.add(state, steps(0, 3, 1))
    assert bool(replay.can_sample(state, 1)) and not bool(replay.can_sample(state, 2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("capacity", "num_envs", "num_step", "batch_size", "says"),
    [
        (10, 4, 1, 1, "multiple"),
        (8, 4, 3, 1, "no window"),
        (64, 4, 1, 100, "batch of 100"),
        (64, 4, 0, 1, "num_step"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(kind, capacity, num_envs, num_step, batch_size, says):
    with pytest.raises(ValueError, match=says):
        kind(capacity, num_envs, num_step).check(batch_size)


def test_a_trajectory_of_another_build_is_refused():
    replay = UniformReplay(capacity=8, num_envs=2)
    state = replay.init(one(2))
    with pytest.raises(ValueError, match="extras"):
        replay.add(state, steps(0, 2, 2).replace(extras={}))
    with pytest.raises(ValueError, match="action"):
        replay.add(state, steps(0, 2, 2).replace(action=jnp.zeros((2, 2))))
    with pytest.raises(ValueError, match="one step of 2 environments"):
        replay.init(one(3))


def test_uniform_draws_are_uniform():
    replay = UniformReplay(capacity=20, num_envs=2)
    state = replay.add(replay.init(one(2)), steps(0, 17, 2))
    indices = np.asarray(replay.sample(jax.random.key(3), state, 18_000).indices)
    counts = np.bincount(indices, minlength=20)
    newest = (17 - 1) % 10
    assert np.all(counts[2 * newest : 2 * newest + 2] == 0)
    counts = np.delete(counts, [2 * newest, 2 * newest + 1])
    # 17 degrees of freedom: chi-square above 40.8 has probability 0.001.
    assert np.sum((counts - 1000.0) ** 2 / 1000.0) < 40.8


def test_a_step_with_reward_channels_sums_each():
    told = steps(0, 6, 1)
    example = one(1).replace(reward=jnp.zeros((1, 2)))
    replay = UniformReplay(capacity=8, num_envs=1, num_step=2)
    channels = jnp.stack([told.reward, -told.reward], -1)
    state = replay.add(replay.init(example), told.replace(reward=channels))
    batch = replay.sample(jax.random.key(0), state, 16).transition
    t = batch.observation[:, 0]
    np.testing.assert_allclose(batch.reward[:, 0], t + 0.5 * (t + 1))
    np.testing.assert_allclose(batch.reward[:, 1], -(t + 0.5 * (t + 1)))
