"""Lives: the training loop's own numbers, frozen at their end, forked and replaced by mask."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_learner as toy

from jaxrl import a2c, meta, train
from jaxrl.envs import TabularEnv, garnet
from jaxrl.networks import NetworkSettings

KEY = jax.random.key(0)
TOY, WALK = toy.Toy(rollout_length=5), toy.Walk(num_places=4, cuts=True)
PER_UPDATE = 10


def task(num_updates, env=WALK, per_update=PER_UPDATE):
    return meta.Task(env, np.float32(num_updates * per_update))


@functools.partial(jax.jit, static_argnums=(2, 4))
def live(key, agent, num_updates, task, last_part=0.5):
    return meta.live(key, agent, task, num_updates=num_updates, last_part=last_part)


def params_of(result):
    return jax.tree.leaves(result.life.train.agent.params)


def check_training_run(agent, env):
    per_update = agent.num_envs * agent.rollout_length
    found = live(KEY, agent, 8, task(8, env, per_update))
    run = jax.jit(lambda key: train(key, agent, env, num_steps=8 * per_update, num_records=8))(KEY)
    found, run = toy.raw((found, run))
    for ours, theirs in zip(params_of(found), jax.tree.leaves(run.state.agent.params), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    returns, counts = run.metrics["episode_return"], run.metrics["num_episodes"]
    totals = np.nan_to_num(returns) * counts
    np.testing.assert_allclose(found.lifetime_return, totals.sum() / counts.sum(), rtol=1e-5)
    np.testing.assert_allclose(found.final_return, totals[4:].sum() / counts[4:].sum(), rtol=1e-5)
    # What ended, and what was under way at the end, is all that was earned.
    under_way = np.sum(run.state.rollout.episode_return)
    earned = (totals.sum() + under_way) / (8 * per_update)
    np.testing.assert_allclose(found.lifetime_rate, earned, rtol=1e-4, atol=1e-6)
    return found


def rewards_of(num_updates):
    """Of each step of a toy life, `[num_updates * 5]`: places 0 to 3 again and again."""
    x = np.repeat(toy.states_of((TOY.push, TOY.aim, TOY.discount), num_updates - 1), 5)
    return 1.0 - (x - 1.0) ** 2 + 0.1 * (np.arange(5 * num_updates) % 4)


def test_a_whole_life_is_a_training_run():
    """And what it earned is the sum of its rewards, episode by episode, in its last half."""
    found = check_training_run(TOY, WALK)
    rewards = rewards_of(8)
    np.testing.assert_allclose(found.lifetime_rate, rewards.mean(), rtol=1e-5)
    np.testing.assert_allclose(found.final_rate, rewards[20:].mean(), rtol=1e-5)
    episodes = rewards.reshape(10, 4).sum(1)  # the sixth is the first that ends after step 20
    np.testing.assert_allclose(found.lifetime_return, episodes.mean(), rtol=1e-5)
    np.testing.assert_allclose(found.final_return, episodes[5:].mean(), rtol=1e-5)


@pytest.mark.slow
def test_a_whole_life_of_an_actor_critic_is_a_training_run():
    network = NetworkSettings(hidden_sizes=(), initialiser="lecun")
    agent = a2c().replace(network=network, num_envs=4, rollout_length=5)
    check_training_run(agent, TabularEnv(garnet(jax.random.key(3), 5, 2, 2), time_limit=6.0))


def test_a_life_stands_still_at_its_end():
    short = jax.device_get(live(KEY, TOY, 8, task(5)).replace(life=()))
    rewards = rewards_of(5)
    np.testing.assert_allclose(short.lifetime_rate, rewards.mean(), rtol=1e-5)
    # The last half of five updates, rounded to even: the last two.
    np.testing.assert_allclose(short.final_rate, rewards[15:].mean(), rtol=1e-5)
    episodes = rewards[:24].reshape(6, 4).sum(1)
    np.testing.assert_allclose(short.final_return, episodes[[3, 4, 5]].mean(), rtol=1e-5)
    np.testing.assert_allclose(short.lifetime_return, episodes.mean(), rtol=1e-5)
    life = live(KEY, TOY, 8, task(5)).life
    assert int(life.train.iteration) == 5
    np.testing.assert_allclose(
        life.train.agent.params, toy.states_of((0.3, 2.0, 0.9), 5)[-1], rtol=1e-5
    )


def chosen(over, fresh, stepped):
    return jnp.where(over.reshape(-1, *[1] * (fresh.ndim - 1)), fresh, stepped)


def test_lives_are_forked_and_replaced_by_mask():
    @jax.jit
    def everything(keys, fresh_keys, over):
        start = jax.vmap(lambda key: meta.Life.start(key, TOY, task(3)))
        lives, fresh = start(keys), start(fresh_keys)
        stepped, _ = jax.vmap(lambda life: life.step(TOY))(lives)
        mixed = jax.tree.map(functools.partial(chosen, over), fresh, stepped)
        states = [life.train.agent for life in (stepped, fresh, mixed)]
        keys = [jax.random.key_data(life.train.key) for life in (stepped, fresh, mixed)]
        return states, keys, mixed.train.iteration

    over = np.array([False, True, False])
    states, keys, iteration = jax.device_get(
        everything(jax.random.split(KEY, 3), jax.random.split(jax.random.key(1), 3), over)
    )
    assert iteration.tolist() == [1, 0, 1]
    for stepped, fresh, mixed in zip(*map(jax.tree.leaves, states), strict=True):
        choose = over.reshape(-1, *[1] * (fresh.ndim - 1))
        np.testing.assert_array_equal(mixed, np.where(choose, fresh, stepped))
    np.testing.assert_array_equal(keys[2], np.where(over[:, None], keys[1], keys[0]))
    once = toy.states_of((0.3, 2.0, 0.9), 1)
    np.testing.assert_allclose(states[2].params, once[[1, 0, 1]], rtol=1e-6)


@pytest.mark.parametrize("kwargs", [{"num_updates": 0}, {"num_updates": 3, "last_part": 0.0}])
def test_what_is_no_life_is_refused(kwargs):
    with pytest.raises(ValueError, match="num_updates"):
        meta.live(KEY, TOY, task(3), **kwargs)
