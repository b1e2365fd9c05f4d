"""`train` as a pure function: its records, its life, and what may be mapped and differentiated."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import KEY, Clock, Diary

from jaxrl.agents import PRESETS, Optimiser
from jaxrl.core import Linear
from jaxrl.envs import TabularEnv, riverswim
from jaxrl.networks import NetworkSettings
from jaxrl.training import loop, train

AGENT = PRESETS["a2c"]().replace(
    network=NetworkSettings(hidden_sizes=(8,), initialiser="lecun"),
    optimiser=Optimiser(learning_rate=1e-2),
    num_envs=2,
    rollout_length=8,
)
DIARY = Diary(rollout_length=8, num_pages=10)  # 16 steps in each iteration
CLOCK = Clock(length=5.0, truncates=1.0)


@functools.cache
def env():
    return TabularEnv(riverswim(4), time_limit=5.0)


@functools.partial(jax.jit, static_argnames=("num_records", "auto_reset"))
def run_on_device(key, agent, env, num_records, auto_reset):
    return train(key, agent, env, num_steps=160, num_records=num_records, auto_reset=auto_reset)


def run(key=KEY, agent=DIARY, env=CLOCK, num_records=5, auto_reset=True):
    return jax.device_get(run_on_device(key, agent, env, num_records, auto_reset))


@pytest.fixture(scope="module")
def result():
    return run()


begin, iterate = jax.jit(loop.start_training), jax.jit(loop.train_iteration)


@functools.cache
def iterations():
    """Weight, loss and episode sums of each of the ten iterations, made one by one."""
    state, rows = begin(KEY, DIARY, CLOCK, 160.0), []
    for _ in range(10):
        state, tally = iterate(DIARY, CLOCK, state)
        rows.append(jax.device_get((state.agent.weight, tally.metrics["loss"], tally.episodes)))
    return rows


def test_records_stand_at_the_ends_of_their_steps(result):
    assert result.steps.tolist() == [32, 64, 96, 128, 160]
    assert {leaf.shape for leaf in jax.tree.leaves(result.metrics)} == {(5,)}
    assert int(result.state.iteration) == 10
    assert int(result.state.agent.number) == 10
    assert float(result.state.agent.total_steps) == 160.0


def test_episodes_of_five_steps_are_counted(result):
    """In 80 steps of two environments 32 end; after 16, 32, ... steps 3, 6, 9, 12, 16 in each.
    1 + 2 + 3 + 4 + 5 is paid in each."""
    np.testing.assert_array_equal(result.metrics["num_episodes"], [6, 6, 6, 6, 8])
    np.testing.assert_array_equal(result.metrics["episode_length"], np.full(5, 5.0))
    np.testing.assert_array_equal(result.metrics["episode_return"], np.full(5, 15.0))


def test_after_two_to_the_31_iterations_they_begin_again_under_a_key_that_none_spent():
    state = begin(KEY, DIARY, CLOCK, 160.0).replace(iteration=np.int32(2**31 - 2))
    numbers, keys = [], [jax.random.key_data(state.key).tolist()]
    spent = jax.random.split(jax.random.fold_in(state.key, 2**31 - 1))
    for _ in range(4):
        state, _ = iterate(DIARY, CLOCK, state)
        numbers.append(int(state.iteration))
        keys.append(jax.random.key_data(state.key).tolist())
    assert numbers == [2**31 - 1, 0, 1, 2]
    assert keys[0] == keys[1] != keys[2] == keys[3] == keys[4]
    assert keys[2] not in jax.random.key_data(spent).tolist()


def test_a_record_is_the_mean_of_its_iterations(result):
    """Step by step by hand: metrics averaged over iterations, returns over episodes."""
    np.testing.assert_array_equal(result.metrics["number"], [0.5, 2.5, 4.5, 6.5, 8.5])
    for record, (first, second) in enumerate(zip(*[iter(iterations())] * 2, strict=True)):
        (_, loss, episodes), (weight, more, later) = first, second
        np.testing.assert_allclose(result.metrics["loss"][record], (loss + more) / 2, rtol=1e-6)
        count = episodes.num_episodes + later.num_episodes
        assert result.metrics["num_episodes"][record] == count
        total = episodes.episode_return + later.episode_return
        np.testing.assert_allclose(result.metrics["episode_return"][record], total / count)
    np.testing.assert_allclose(result.state.agent.weight, weight, rtol=1e-6)


@pytest.mark.slow
def test_how_often_records_are_taken_changes_no_life(result):
    finer = run(num_records=10)
    for a, b in zip(jax.tree.leaves(result.state), jax.tree.leaves(finer.state), strict=True):
        np.testing.assert_array_equal(*map(np.asarray, map(plain, (a, b))))
    coarse = np.mean(finer.metrics["loss"].reshape(5, 2), axis=1)
    np.testing.assert_allclose(coarse, result.metrics["loss"], rtol=1e-6)


def plain(leaf):
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def test_a_span_without_an_ended_episode_has_no_return():
    metrics = run(env=CLOCK.replace(length=float("inf"))).metrics
    assert np.all(np.isnan(metrics["episode_return"])) and np.all(metrics["num_episodes"] == 0)
    np.testing.assert_array_equal(metrics["number"], [0.5, 2.5, 4.5, 6.5, 8.5])


@pytest.mark.slow
def test_without_reset_an_episode_ends_once_and_for_all():
    """Every step from the fifth on is truncated again: 2 x (80 - 4) ends."""
    metrics = run(auto_reset=False).metrics
    assert metrics["num_episodes"].sum() == 2 * (80 - 4)


@pytest.mark.slow
def test_schedules_see_the_whole_life():
    """A rate that falls to 0 by the middle of the life: the second half learns nothing."""
    falling = AGENT.replace(optimiser=Optimiser(learning_rate=Linear(1e-2, 0.0, end=0.5)))
    step = jax.jit(loop.train_iteration)
    state = jax.jit(loop.start_training)(KEY, falling, env(), 160.0)
    seen = []
    for _ in range(10):
        state, _ = step(falling, env(), state)
        seen.append(jax.device_get(state.agent.params))
    assert int(state.agent.progress.step) == 160
    assert float(state.agent.progress.total_steps) == 160.0
    moved = [
        any(map(np.any, jax.tree.leaves(jax.tree.map(np.not_equal, a, b))))
        for a, b in itertools.pairwise(seen)
    ]
    # Iteration i learns at step 16 i: before 80 in the first five, iteration 0 is not compared.
    assert moved == [True] * 4 + [False] * 5


@pytest.mark.slow
def test_it_maps_over_keys_agents_and_environments():
    keys = jax.random.split(KEY, 2)
    lives = [(0.5, 5.0), (0.25, 4.0)]
    rates, lengths = np.array(lives, np.float32).T
    agents, envs = DIARY.replace(learning_rate=rates), CLOCK.replace(length=lengths)
    envs = envs.replace(truncates=np.ones(2, np.float32))
    agents = agents.replace(discount=np.full(2, 0.9, np.float32))
    mapped = jax.jit(jax.vmap(lambda *life: train(*life, num_steps=160, num_records=5)))(
        keys, agents, envs
    )
    mapped = jax.device_get(mapped)
    np.testing.assert_array_equal(mapped.metrics["episode_length"], [[5.0] * 5, [4.0] * 5])
    for lane, (rate, length) in enumerate(lives):
        single = run(keys[lane], DIARY.replace(learning_rate=rate), CLOCK.replace(length=length))
        for name, values in single.metrics.items():
            np.testing.assert_allclose(mapped.metrics[name][lane], values, rtol=1e-6)


def test_a_life_may_be_differentiated_in_its_settings():
    """One step from 0 by rate times x leaves x rate, whose square has the slope 2 x^2 rate."""

    @jax.jit
    @jax.value_and_grad
    def final(rate):
        agent = DIARY.replace(learning_rate=rate)
        result = train(KEY, agent, CLOCK, num_steps=16, num_records=1)
        return result.state.agent.weight**2

    value, slope = final(0.05)
    np.testing.assert_allclose(slope, 2 * value / 0.05, rtol=1e-6)
    # Rewards of 1 .. 5, 1 .. 3: 21 / 8 and a number below 1 more.
    assert 21 / 8 <= np.sqrt(value) / 0.05 < 21 / 8 + 1


@pytest.mark.parametrize("bad", [{"num_steps": 0}, {"num_records": 0}])
def test_empty_budgets_are_refused(bad):
    with pytest.raises(ValueError, match="at least 1"):
        train(KEY, DIARY, CLOCK, **({"num_steps": 10} | bad))
