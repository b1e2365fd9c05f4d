"""Uniform and prioritised replay: contents, windows, wrap-around, machinery."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.core import Transition
from jaxrl.replay import PrioritisedReplay, UniformReplay

KINDS = [UniformReplay, PrioritisedReplay]
# Of the prioritised one where time is no matter: its ring is the uniform one's.
QUICK = [UniformReplay, pytest.param(PrioritisedReplay, marks=pytest.mark.slow)]


def steps(first: int, num_steps: int, num_envs: int, end_at=lambda t, env: "") -> Transition:
    """Steps whose observation is (t, env); reward t + 100 env, discount 0.5, ends as told."""
    t, env = np.meshgrid(np.arange(first, first + num_steps), np.arange(num_envs), indexing="ij")
    ends = np.vectorize(lambda t, env: end_at(int(t), int(env)), otypes=[object])(t, env)
    terminated, truncated = ends == "terminated", ends == "truncated"
    return Transition(
        observation=np.stack([t, env], -1).astype(np.float32),
        action=(t % 3).astype(np.int32),
        reward=(t + 100 * env).astype(np.float32),
        discount=np.where(terminated, 0.0, 0.5).astype(np.float32),
        next_observation=np.stack([t + 0.5, env], -1).astype(np.float32),
        terminated=terminated,
        truncated=truncated,
        extras={"pixels": (t[..., None, None] >> np.arange(12).reshape(3, 4)) & 1 > 0},
    )


def one(num_envs: int) -> Transition:
    return jax.tree.map(lambda leaf: leaf[0], steps(0, 1, num_envs))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _drawn(kind, sizes, store_next, size, key, trajectory):
    replay = kind(*sizes, store_next)
    state = replay.add(replay.init(jax.tree.map(lambda leaf: leaf[0], trajectory)), trajectory)
    return state, replay.sample(key, state, size)


def drawn(kind, sizes, size, trajectory, store_next=False, seed=0):
    """A replay of (capacity, num_envs, num_step) given one trajectory, its state, and a draw."""
    state, batch = _drawn(kind, sizes, store_next, size, jax.random.key(seed), trajectory)
    return kind(*sizes, store_next), state, jax.device_get(batch)


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


@pytest.mark.parametrize("kind", QUICK)
def test_three_step_return_by_hand(kind):
    # Rewards 0, 1, 2, ... and discount 1/2. A full window from t = 0: 0 + 1/2 + 2/4 = 1, discount
    # 1/8, bootstrap at t = 3. From t = 4, truncation at 5: reward 4, discount 1/2, bootstrap at
    # observation 5. From t = 8, termination at 9: 8 + 9/2 = 12.5, discount 0.
    told = {5: "truncated", 9: "terminated"}
    trajectory = steps(0, 14, 1, lambda t, _: told.get(t, ""))
    _, _, batch = drawn(kind, (16, 1, 3), 256, trajectory)
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


CHUNK, NUM_DRAWN, NUM_UNIFORM = 5, 300, 18_000
# One in every run: the uniform ring that keeps no successor is tried by hand above. Each two of the
# three settings meet in every way.
SEAMS = [
    pytest.param(num_step, store_next, kind, marks=() if quick else pytest.mark.slow)
    for num_step, store_next, kind, quick in [
        (1, False, PrioritisedReplay, False),
        (1, True, UniformReplay, False),
        (3, False, UniformReplay, False),
        (3, True, PrioritisedReplay, True),
    ]
]


@pytest.mark.parametrize(("num_step", "store_next", "kind"), SEAMS)
def test_draws_match_the_stream_across_the_seam(kind, store_next, num_step):
    num_rows, num_envs = 13, 2  # no multiple of the chunk, so that writes straddle the seam
    replay = kind(num_rows * num_envs, num_envs, num_step, store_next)
    history = steps(0, 60, num_envs, ends)
    every = np.arange(num_rows * num_envs)

    def body(state, inputs):
        key, chunk = inputs
        state = replay.add(state, chunk)
        probs = replay.probs_at(state, every) if kind is PrioritisedReplay else ()
        return state, (replay.sample(key, state, NUM_DRAWN), probs)

    def life(key, chunks):
        keys = jax.random.split(key, len(chunks.reward))
        return jax.lax.scan(body, replay.init(one(num_envs)), (keys, chunks))[1]

    chunks = jax.tree.map(lambda leaf: leaf.reshape(-1, CHUNK, *leaf.shape[1:]), history)
    batches, all_probs = jax.device_get(jax.jit(life)(jax.random.key(1), chunks))
    for index, end in enumerate(range(CHUNK, 61, CHUNK)):
        batch = jax.tree.map(lambda leaf, index=index: leaf[index], batches)
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
            probs = all_probs[index]  # of new windows: all alike
            np.testing.assert_allclose(probs[probs > 0], 1 / len(counted), rtol=1e-5)
            assert np.count_nonzero(probs) == len(counted)


@pytest.mark.parametrize("kind", QUICK)
def test_a_trajectory_longer_than_the_ring_keeps_the_newest(kind):
    replay, state, batch = drawn(kind, (20, 2, 1), NUM_UNIFORM, steps(0, 17, 2), seed=3)
    assert {tuple(row) for row in batch.transition.observation} == {
        (t, env) for t in range(7, 16) for env in (0, 1)
    }
    assert int(replay.size(state)) == 20


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
    replay = kind(capacity=64, num_envs=4, store_next=False)
    plan = jax.eval_shape(replay.init, example)
    stored = [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(plan)]
    assert replay.nbytes(example) == sum(stored)
    # A transition: 13 words of bits, 36 bytes, a key of 8, action, reward and discount, flags.
    rows = 64 * (52 + 36 + 8 + 12 + 1) + 2 * 4 + 4
    # Leaves and a spare are 65 = 17 rows of 4; above them 5, 2 and 1 rows; scale and two maxima.
    tree = (17 + 5 + 2 + 1) * 4 * 4 + 12 if kind is PrioritisedReplay else 0
    assert replay.nbytes(example) == rows + tree
    batch = jax.eval_shape(lambda s: replay.sample(jax.random.key(0), s, 5), plan)
    observation = batch.transition.observation
    assert (observation["pixels"].shape, observation["pixels"].dtype) == ((5, 10, 10, 4), jnp.bool_)
    assert (observation["image"].shape, observation["image"].dtype) == ((5, 6, 6), jnp.uint8)
    assert observation["key"].dtype == example.observation["key"].dtype


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_seeds_side_by_side_equal_each_alone(kind):
    replay = kind(capacity=12, num_envs=2, num_step=2)

    def life(key, scale):
        def body(state, inputs):
            key, t = inputs
            chunk = steps(6, 3, 2, ends)  # with ends of both kinds
            chunk = chunk.replace(reward=chunk.reward * scale + t)
            state = replay.add(state, chunk)
            batch = replay.sample(key, state, 8)
            errors = batch.transition.reward
            return replay.update_priorities(state, batch.indices, errors), batch

        keys = jax.random.split(key, 6)
        return jax.lax.scan(body, replay.init(one(2)), (keys, np.arange(6, dtype=np.float32)))

    keys, scales = jax.random.split(jax.random.key(0), 3), np.float32([1.0, 2.0, 3.0])
    both = lambda *args: (jax.vmap(life)(*args), jax.lax.map(lambda one: life(*one), args))  # noqa: E731
    together, alone = jax.device_get(jax.jit(both)(keys, scales))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), together, alone)


@pytest.mark.parametrize("kind", QUICK)
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


@pytest.mark.parametrize("kind", QUICK)
def test_empty_replay_gives_weight_zero_and_says_so(kind):
    replay = kind(capacity=8, num_envs=1, num_step=2, store_next=False)

    @jax.jit
    def life(key):
        empty = replay.init(one(1))
        some = replay.add(empty, steps(0, 3, 1))
        can = [replay.can_sample(empty, 1), replay.can_sample(some, 1), replay.can_sample(some, 2)]
        return can, replay.sample(key, empty, 4).weights, replay.sample(key, some, 4).weights

    can, none, all_weights = jax.device_get(life(jax.random.key(0)))
    assert [bool(x) for x in can] == [False, True, False]
    np.testing.assert_array_equal(none, 0.0)
    np.testing.assert_array_equal(all_weights, 1.0)


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
    state = jax.eval_shape(replay.init, one(2))
    add = functools.partial(jax.eval_shape, replay.add)
    with pytest.raises(ValueError, match="extras"):
        add(state, steps(0, 2, 2).replace(extras={}))
    with pytest.raises(ValueError, match="action"):
        add(state, steps(0, 2, 2).replace(action=np.zeros((2, 2), np.float32)))
    with pytest.raises(ValueError, match="one step of 2 environments"):
        replay.init(one(3))


def test_uniform_draws_are_uniform():
    _, _, batch = drawn(UniformReplay, (20, 2, 1), NUM_UNIFORM, steps(0, 17, 2), seed=3)
    counts = np.bincount(batch.indices, minlength=20)
    newest = (17 - 1) % 10
    assert np.all(counts[2 * newest : 2 * newest + 2] == 0)
    counts = np.delete(counts, [2 * newest, 2 * newest + 1])
    # 17 degrees of freedom: chi-square above 40.8 has probability 0.001.
    assert np.sum((counts - 1000.0) ** 2 / 1000.0) < 40.8


@pytest.mark.slow
def test_a_step_with_reward_channels_sums_each():
    told = steps(0, 6, 1)
    channels = np.stack([told.reward, -told.reward], -1)
    _, _, batch = drawn(UniformReplay, (8, 1, 2), 16, told.replace(reward=channels))
    reward, t = batch.transition.reward, batch.transition.observation[:, 0]
    np.testing.assert_allclose(reward[:, 0], t + 0.5 * (t + 1))
    np.testing.assert_allclose(reward[:, 1], -(t + 0.5 * (t + 1)))
