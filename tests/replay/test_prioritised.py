"""Priorities: probabilities, importance weights, duplicates, parity."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxrl.core import Transition
from jaxrl.replay import PrioritisedReplay

NUM_ROWS = 12
STARTS = np.arange(NUM_ROWS - 1)  # the newest row starts no window


@jax.jit
def filled_state(replay):
    row = np.arange(float(NUM_ROWS), dtype=np.float32)[:, None]
    flags = np.zeros((NUM_ROWS, 1), bool)
    trajectory = Transition(row, row, row, row * 0 + np.float32(0.9), row, flags, flags, {})
    state = replay.init(jax.tree.map(lambda leaf: leaf[0], trajectory))
    return replay.add(state, trajectory)


def filled(**settings) -> tuple[PrioritisedReplay, object]:
    replay = PrioritisedReplay(capacity=NUM_ROWS, num_envs=1, **{"store_next": False} | settings)
    return replay, filled_state(replay)


@jax.jit
def updated(replay, state, indices, priorities, when=True):
    return replay.update_priorities(state, indices, priorities, when)


@functools.partial(jax.jit, static_argnums=2)
def added(replay, state, num_rows):
    row = np.full((num_rows, 1), 99.0, np.float32)
    flags = np.zeros((num_rows, 1), bool)
    return replay.add(state, Transition(row, row, row, row * 0, row, flags, flags, {}))


@jax.jit
def probs_of(replay, state):
    return replay.probs_at(state, jnp.arange(NUM_ROWS))


@functools.partial(jax.jit, static_argnums=3)
def drawn(replay, key, state, size, beta=None):
    return replay.sample(key, state, size, beta)


def prioritised(priorities, **settings):
    replay, state = filled(**settings)
    return replay, updated(replay, state, STARTS, np.asarray(priorities, np.float32))


@functools.partial(jax.jit, static_argnums=0)
def found_in_tree(num_leaves, weights, fractions):
    one, flag = jnp.ones(1), jnp.zeros(1, bool)
    step = Transition(one, one, one, one, one, flag, flag, {})
    tree = PrioritisedReplay(num_leaves).init(step).tree
    tree = tree.update(jnp.arange(num_leaves), weights)
    return tree.total, *tree.find(fractions)


@pytest.mark.parametrize(
    "num_leaves", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 4, 5, 64, 100))]
)
def test_tree_sums_and_finds_by_the_running_sum(num_leaves):
    draw = np.random.default_rng(num_leaves)
    weights = np.where(draw.random(num_leaves) < 0.3, 0, draw.integers(1, 9, num_leaves))
    weights[draw.integers(num_leaves)] = 2
    total = weights.sum()
    middles = np.arange(total) + 0.5  # integers are exact, so are the boundaries
    fractions = (middles / total).astype(np.float32)
    found_total, indices, found = found_in_tree(num_leaves, weights.astype(np.float32), fractions)
    assert float(found_total) == total
    np.testing.assert_array_equal(indices, np.repeat(np.arange(num_leaves), weights))
    np.testing.assert_array_equal(found, weights[np.asarray(indices)])


def test_tree_never_finds_weight_zero_at_any_scale():
    draw = np.random.default_rng(0)
    weights = 10.0 ** draw.uniform(-20, 3, 1000) * (draw.random(1000) < 0.5)
    fractions = np.append(np.linspace(0, 1, 20_001), [0.9999999, 1.0]).astype(np.float32)
    _, indices, found = found_in_tree(1000, weights.astype(np.float32), fractions)
    assert np.all(np.asarray(found) > 0)
    assert np.all(weights[np.asarray(indices)] > 0)
    # The running sum in float64 passes the fraction at the index found, up to float32's rounding.
    ends = np.cumsum(weights) / weights.sum()
    indices = np.asarray(indices)
    assert np.all(ends[indices] >= fractions - 1e-5)
    assert np.all(ends[indices] - weights[indices] / weights.sum() <= fractions + 1e-5)


def test_draws_follow_the_powers_of_the_priorities():
    priorities = np.arange(1.0, 12.0) ** 2
    replay, state = prioritised(priorities, alpha=0.5, epsilon=0.0)
    expected = np.sqrt(priorities) / np.sqrt(priorities).sum()
    np.testing.assert_allclose(probs_of(replay, state), np.append(expected, 0.0), rtol=1e-6)
    draw = jax.jit(jax.vmap(lambda key: replay.sample(key, state, 8).indices))
    indices = draw(jax.random.split(jax.random.key(0), 2000))
    counts = np.bincount(np.asarray(indices).ravel(), minlength=12)
    assert counts[11] == 0
    assert stats.chisquare(counts[:11], 16_000 * expected).pvalue > 1e-3


def test_one_batch_is_stratified():
    """Of n draws the i-th comes from the i-th share: counts are n P but for the two shares cut."""
    replay, state = prioritised(np.arange(1.0, 12.0), alpha=1.0, epsilon=0.0)
    batch = drawn(replay, jax.random.key(1), state, 2000, 0.0)
    counts = np.bincount(np.asarray(batch.indices), minlength=12)
    expected = np.append(2000 * np.arange(1.0, 12.0) / 66, 0.0)
    assert np.max(np.abs(counts - expected)) < 2.0
    assert np.all(np.diff(np.asarray(batch.indices)) >= 0)


def test_the_epsilon_joins_every_priority_before_the_power():
    replay, state = prioritised(np.arange(11.0), alpha=0.5, epsilon=1.0)
    weights = np.sqrt(np.arange(11.0) + 1.0)
    np.testing.assert_allclose(
        probs_of(replay, state), np.append(weights / weights.sum(), 0.0), rtol=1e-6
    )
    assert float(state.max_priority) == 11.0


def test_the_sign_of_a_priority_is_ignored():
    _, plus = prioritised(np.arange(1.0, 12.0))
    _, minus = prioritised(-np.arange(1.0, 12.0))
    jax.tree.map(np.testing.assert_array_equal, plus, minus)


def test_importance_weights_follow_the_law():
    replay, state = prioritised(np.arange(1.0, 12.0), alpha=1.0, epsilon=0.0)
    for beta in (0.0, 0.4, 1.0):
        batch = jax.device_get(drawn(replay, jax.random.key(1), state, 2000, beta))
        probs = (1.0 + batch.indices) / 66
        weights = (11 * probs) ** -beta
        np.testing.assert_allclose(batch.weights, weights / weights.max(), rtol=1e-5)
    # Not told, beta is the replay's own.
    own = drawn(replay.replace(beta=1.0), jax.random.key(1), state, 2000)
    np.testing.assert_array_equal(own.weights, batch.weights)


def test_full_correction_undoes_the_priorities():
    # With beta = 1 the weighted mean of any number over the draws is its mean over the windows.
    replay, state = prioritised(np.arange(1.0, 12.0), alpha=1.0, epsilon=0.0)
    batch = jax.device_get(drawn(replay, jax.random.key(1), state, 2000, 1.0))
    mean = np.average(batch.transition.reward, weights=batch.weights)
    # Stratified counts are off by less than two, each worth 1 / P = 66 / i of 11 * 2000: below
    # 2 * 66 * (1 + 1/2 + ... + 1/11) / 22000 = 0.018 of the distance from the mean, at most 5.
    assert mean == pytest.approx(5.0, abs=0.09)


def test_alpha_zero_is_uniform():
    replay, state = prioritised(np.arange(1.0, 12.0), alpha=0.0)
    np.testing.assert_allclose(probs_of(replay, state), np.append(np.full(11, 1 / 11), 0))
    batch = drawn(replay, jax.random.key(0), state, 2000, 0.4)
    np.testing.assert_allclose(batch.weights, 1.0)


def test_of_an_index_that_stands_twice_the_largest_counts():
    replay, state = filled(alpha=1.0, epsilon=0.0)
    index, priority = np.full(11, 3), np.ones(11, np.float32)
    index[1] = 5
    priority[[0, 2, 3]] = 2.0, 7.0, 4.0
    state = updated(replay, state, index, priority)
    expected = np.append(np.full(11, 7.0), 0.0)  # what is not told yet: as the largest of the first
    expected[5] = 1.0
    np.testing.assert_allclose(probs_of(replay, state), expected / 71.0, rtol=1e-6)
    assert float(state.max_priority) == 7.0


@pytest.mark.parametrize("unit", [1e-12, 1e12])
def test_rewards_in_other_units_give_the_same_draws(unit):
    laws = []
    for factor in (1.0, unit):
        replay, state = filled(alpha=0.7, epsilon=0.0)
        for index, priority in (([3, 5], [2.0, 1.0]), ([3, 8], [0.5, 9.0])):
            told = np.asarray(priority, np.float32) * np.float32(factor)
            state = updated(replay, state, np.asarray(index), told)
        laws.append(probs_of(replay, added(replay, state, 2)))
    weights = np.array([9.0, 0.0, 2.0, 0.5, 2.0, 1.0, 2.0, 2.0, 9.0, 2.0, 2.0, 9.0]) ** 0.7
    np.testing.assert_allclose(laws[0], weights / weights.sum(), rtol=1e-5)
    np.testing.assert_allclose(laws[1], laws[0], rtol=1e-5)


def test_the_largest_priority_is_forgotten_after_two_passes_of_the_ring():
    replay, state = prioritised(np.full(11, 5.0), alpha=1.0, epsilon=0.0)
    largest = []
    for _ in range(4):  # passes end in the second and the fourth
        state = added(replay, updated(replay, state, np.array([6]), np.float32([0.5])), 6)
        largest.append(float(state.max_priority))
    assert largest == [5.0, 5.0, 5.0, 0.5]
    for _ in range(4):  # nothing is told
        state = added(replay, state, 6)
    assert float(state.max_priority) == 0.5


def test_new_windows_get_the_largest_priority_and_old_ones_vanish():
    replay, state = prioritised(np.full(11, 5.0), alpha=1.0, epsilon=0.0)
    state = updated(replay, state, STARTS, np.full(11, 0.5, np.float32))
    state = added(replay, state, 2)
    # Rows 0 and 1 are rewritten: row 1 is the newest and may not start; 11 and 0 are new windows.
    expected = np.array([5.0, 0.0, *[0.5] * 9, 5.0])
    np.testing.assert_allclose(probs_of(replay, state), expected / expected.sum(), rtol=1e-6)


def test_rows_that_may_not_start_stay_silent_and_unwanted_updates_change_nothing():
    replay, state = filled()
    np.testing.assert_allclose(probs_of(replay, state), np.append(np.full(11, 1 / 11), 0.0))
    index, priority = np.full(11, 2), np.ones(11, np.float32)
    index[0], priority[0] = 11, 50.0
    told = updated(replay, state, index, priority)
    assert float(probs_of(replay, told)[11]) == 0
    assert float(told.max_priority) == np.float32(1.0) + np.float32(1e-6)
    quiet = updated(replay, state, STARTS, np.full(11, 9.0, np.float32), False)
    jax.tree.map(np.testing.assert_array_equal, quiet, state)


def test_a_changed_float_setting_does_not_retrace():
    count = 0
    replay, state = filled()

    @jax.jit
    def learn(replay, state, beta):
        nonlocal count
        count += 1
        batch = replay.sample(jax.random.key(0), state, 4, beta)
        return replay.update_priorities(state, batch.indices, batch.weights)

    jax.eval_shape(learn, replay, state, 0.4)
    jax.eval_shape(learn, replay.replace(alpha=0.9, epsilon=0.1), state, 1.0)
    assert count == 1


@pytest.mark.slow  # imports flashbax
def test_probabilities_agree_with_flashbax():
    flashbax = pytest.importorskip("flashbax")
    size, alpha = 32, 0.7
    theirs = flashbax.make_prioritised_flat_buffer(
        max_length=size,
        min_length=1,
        sample_batch_size=32,
        priority_exponent=alpha,
        add_batch_size=None,
    )
    buffer = theirs.init({"row": jnp.zeros(())})
    add = jax.jit(theirs.add)
    for number in range(size):
        buffer = add(buffer, {"row": np.float32(number)})
    replay = PrioritisedReplay(size, num_envs=1, store_next=False, alpha=alpha, epsilon=0.0)
    row = jnp.arange(float(size))[:, None]
    flags = jnp.zeros((size, 1), bool)
    trajectory = Transition(row, row, row, row * 0 + 0.9, row, flags, flags, {})
    state = replay.init(jax.tree.map(lambda leaf: leaf[0], trajectory))
    state = replay.add(state, trajectory)
    priorities = jnp.asarray(np.random.default_rng(1).uniform(0.1, 3.0, size - 1), jnp.float32)
    buffer = theirs.set_priorities(buffer, jnp.arange(size - 1), priorities)
    sample = theirs.sample(buffer, jax.random.key(0))
    state = replay.update_priorities(state, jnp.arange(size - 1), priorities)
    # Their probability of a drawn index, against ours.
    np.testing.assert_allclose(
        np.asarray(sample.probabilities),
        np.asarray(replay.probs_at(state, sample.indices)),
        rtol=1e-4,
    )
