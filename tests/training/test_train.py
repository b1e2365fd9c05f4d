"""`train` as a pure function: its records, its life, and what may be mapped and differentiated."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.agents.optimiser import Optimiser
from jaxrl.agents.presets import PRESETS
from jaxrl.core.schedules import Linear
from jaxrl.envs.chains import riverswim
from jaxrl.envs.tabular import TabularEnv
from jaxrl.networks import NetworkSettings
from jaxrl.training.loop import start_training, train, train_iteration

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY = jax.random.key(0)
ENV = TabularEnv(riverswim(4), time_limit=5.0)
AGENT = PRESETS["a2c"]().replace(
    network=NetworkSettings(hidden_sizes=(8,), initialiser="lecun"),
    optimiser=Optimiser(learning_rate=1e-2),
    num_envs=2,
    rollout_length=8,
)


@functools.partial(jax.jit, static_argnames=("num_records", "auto_reset"))
def run(key, agent, env, num_records=5, auto_reset=True):
    return train(key, agent, env, num_steps=160, num_records=num_records, auto_reset=auto_reset)


@pytest.fixture(scope="module")
def result():
    return run(KEY, AGENT, ENV)


def test_records_stand_at_the_ends_of_their_steps(result):
    assert result.steps.tolist() == [32, 64, 96, 128, 160]
    assert {leaf.shape for leaf in jax.tree.leaves(result.metrics)} == {(5,)}
    assert int(result.state.iteration) == 10
    assert int(result.state.agent.progress.step) == 160
    assert float(result.state.agent.progress.total_steps) == 160.0


def test_episodes_of_five_steps_are_counted(result):
    """Two environments of five-step episodes end 2 x 160 / 2 / 5 = 32 of them, in whole."""
    assert float(jnp.sum(result.metrics["num_episodes"])) == 32.0
    np.testing.assert_array_equal(result.metrics["episode_length"], np.full(5, 5.0))


def test_a_record_is_the_mean_of_its_iterations(result):
    """Step by step by hand: metrics averaged over iterations, returns over episodes."""
    one = jax.jit(train_iteration)
    state = jax.jit(start_training)(KEY, AGENT, ENV, 160.0)
    for record in range(2):
        losses, returns, count = [], 0.0, 0.0
        for _ in range(2):
            state, tally = one(AGENT, ENV, state)
            losses.append(float(tally.metrics["loss"]))
            returns += float(tally.episodes.episode_return)
            count += float(tally.episodes.num_episodes)
        got = jax.tree.map(lambda values, r=record: float(values[r]), result.metrics)
        np.testing.assert_allclose(got["loss"], np.mean(losses), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(got["episode_return"], returns / count, rtol=1e-4)
        assert got["num_episodes"] == count


def test_how_often_records_are_taken_changes_no_life(result):
    finer = run(KEY, AGENT, ENV, num_records=10)
    for a, b in zip(
        jax.tree.leaves(result.state.agent.params),
        jax.tree.leaves(finer.state.agent.params),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    coarse = jnp.mean(finer.metrics["loss"].reshape(5, 2), axis=1)
    np.testing.assert_allclose(coarse, result.metrics["loss"], rtol=1e-4, atol=1e-5)


def test_a_span_without_an_ended_episode_has_no_return():
    long = ENV.replace(time_limit=float("inf"))
    metrics = run(KEY, AGENT, long).metrics
    assert np.all(np.isnan(metrics["episode_return"])) and np.all(metrics["num_episodes"] == 0)
    assert np.all(np.isfinite(metrics["loss"]))


def test_without_reset_an_episode_ends_once_and_for_all():
    """Every step from the fifth on is truncated again: 2 x (80 - 4) ends."""
    metrics = run(KEY, AGENT, ENV, auto_reset=False).metrics
    assert float(jnp.sum(metrics["num_episodes"])) == 2 * (80 - 4)


def test_schedules_see_the_whole_life(result):
    """A rate that falls to 0 by the middle of the life: the second half learns nothing."""
    falling = AGENT.replace(optimiser=Optimiser(learning_rate=Linear(1e-2, 0.0, end=0.5)))
    step = jax.jit(train_iteration)
    state = jax.jit(start_training)(KEY, falling, ENV, 160.0)
    seen = []
    for _ in range(10):
        state, _ = step(falling, ENV, state)
        seen.append(np.asarray(jax.flatten_util.ravel_pytree(state.agent.params)[0]))
    moved = [not np.array_equal(a, b) for a, b in itertools.pairwise(seen)]
    # Iteration i learns at step 16 i: before 80 in the first five, iteration 0 is not compared.
    assert moved == [True] * 4 + [False] * 5


def test_it_maps_over_keys_agents_and_environments():
    keys = jax.random.split(KEY, 2)
    agents = jax.vmap(lambda discount: AGENT.replace(discount=discount))(jnp.array([0.5, 0.9]))
    envs = jax.vmap(lambda limit: ENV.replace(time_limit=limit))(jnp.array([5.0, 4.0]))
    mapped = jax.jit(jax.vmap(lambda *life: train(*life, num_steps=160, num_records=5)))(
        keys, agents, envs
    )
    assert mapped.metrics["episode_length"][:, 0].tolist() == [5.0, 4.0]
    for lane, (discount, limit) in enumerate([(0.5, 5.0), (0.9, 4.0)]):
        agent, env = AGENT.replace(discount=discount), ENV.replace(time_limit=limit)
        single = run(keys[lane], agent, env)
        np.testing.assert_allclose(
            mapped.metrics["loss"][lane], single.metrics["loss"], rtol=1e-3, atol=1e-4
        )


def test_a_life_may_be_differentiated_in_its_settings():
    """The slope of a life's last loss in the learning rate, against a difference quotient."""

    @jax.jit
    @jax.value_and_grad
    def final(rate):
        agent = AGENT.replace(optimiser=AGENT.optimiser.replace(learning_rate=rate))
        params = train(KEY, agent, ENV, num_steps=16, num_records=1).state.agent.params
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))

    (low, _), (_, slope), (high, _) = map(final, (0.04, 0.05, 0.06))
    quotient = (high - low) / 0.02
    # One Adam step is linear in its rate, so the objective is a parabola and the quotient exact.
    np.testing.assert_allclose(slope, quotient, rtol=1e-2)


@pytest.mark.parametrize("bad", [{"num_steps": 0}, {"num_records": 0}])
def test_empty_budgets_are_refused(bad):
    with pytest.raises(ValueError, match="at least 1"):
        train(KEY, AGENT, ENV, **({"num_steps": 10} | bad))
