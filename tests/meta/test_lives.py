"""Lives: the training loop's own numbers, frozen at their end, forked and replaced by mask."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import a2c, meta, train
from jaxrl.envs import TabularEnv, garnet
from jaxrl.networks import NetworkSettings

KEY = jax.random.key(0)
ENV = TabularEnv(garnet(jax.random.key(3), 5, 2, 2), time_limit=6.0)
AGENT = a2c().replace(
    network=NetworkSettings(hidden_sizes=(), initialiser="lecun"), num_envs=4, rollout_length=5
)
PER_UPDATE = 20


def task(num_updates):
    return meta.Task(ENV, jnp.float32(num_updates * PER_UPDATE))


@functools.partial(jax.jit, static_argnums=2)
def live(key, agent, num_updates, task):
    return meta.live(key, agent, task, num_updates=num_updates, last_part=0.5)


def lived(num_updates, bound=8):
    return live(KEY, AGENT, bound, task(num_updates))


def params_of(result):
    return jax.tree.leaves(result.life.train.agent.params)


def test_a_whole_life_is_a_training_run():
    found = lived(8)
    run = jax.jit(lambda key: train(key, AGENT, ENV, num_steps=8 * PER_UPDATE, num_records=8))(KEY)
    for ours, theirs in zip(params_of(found), jax.tree.leaves(run.state.agent.params), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    returns, counts = run.metrics["episode_return"], run.metrics["num_episodes"]
    totals = np.nan_to_num(returns) * counts
    np.testing.assert_allclose(found.lifetime_return, totals.sum() / counts.sum(), rtol=1e-5)
    np.testing.assert_allclose(found.final_return, totals[4:].sum() / counts[4:].sum(), rtol=1e-5)
    # What ended, and what was under way at the end, is all that was earned.
    under_way = float(jnp.sum(run.state.rollout.episode_return))
    earned = (totals.sum() + under_way) / (8 * PER_UPDATE)
    np.testing.assert_allclose(found.lifetime_rate, earned, rtol=1e-4, atol=1e-6)


def test_a_life_stands_still_at_its_end():
    short = lived(5)
    assert int(short.life.train.iteration) == 5
    assert not bool(jnp.isnan(short.final_return))
    # The same five updates as those of a program that computes no more.
    exact = lived(5, bound=5)
    for ours, theirs in zip(params_of(short), params_of(exact), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    for name in ("final_return", "lifetime_return", "final_rate", "lifetime_rate"):
        np.testing.assert_allclose(getattr(short, name), getattr(exact, name), rtol=1e-5)


def test_lives_are_forked_and_replaced_by_mask():
    agents = jax.vmap(lambda key: meta.start_life(key, AGENT, task(3)))
    lives = agents(jax.random.split(KEY, 3))
    fresh = agents(jax.random.split(jax.random.key(1), 3))
    stepped, _ = jax.jit(jax.vmap(functools.partial(meta.step_life, AGENT)))(lives)
    mixed = meta.restart(jnp.array([False, True, False]), stepped, fresh)
    assert mixed.train.iteration.tolist() == [1, 0, 1]
    first = jax.tree.leaves(mixed.train.agent.params)[0]
    np.testing.assert_array_equal(first[1], jax.tree.leaves(fresh.train.agent.params)[0][1])
    np.testing.assert_array_equal(first[0], jax.tree.leaves(stepped.train.agent.params)[0][0])
    assert (
        jax.random.key_data(mixed.train.key)[1] == jax.random.key_data(fresh.train.key)[1]
    ).all()


@pytest.mark.parametrize("kwargs", [{"num_updates": 0}, {"num_updates": 3, "last_part": 0.0}])
def test_what_is_no_life_is_refused(kwargs):
    with pytest.raises(ValueError, match="num_updates"):
        meta.live(KEY, AGENT, task(3), **kwargs)
