"""`TabularEnv` follows its MDP, and the builders have the optima their papers give them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.core import outcome_mdp
from jaxrl.envs import TabularEnv, deep_sea, garnet, make, riverswim

dense = jax.jit(lambda mdp: mdp.dense())


def finite_horizon_value(mdp, horizon):
    """Optimal value of the first state by backward induction [return]."""
    table, reward = (np.asarray(part, np.float64) for part in dense(mdp))
    value = np.zeros(mdp.num_states)
    for _ in range(horizon):
        value = (reward + float(mdp.discount) * table @ value).max(axis=1)
    return float(np.asarray(mdp.initial) @ value)


@jax.jit
def step_many(env, keys, index, action):
    state, _ = env.reset(keys[0])
    state = state.replace(index=index)
    return jax.vmap(lambda key: env.step(key, state, action))(keys)


def test_outcomes_follow_their_joint_law():
    # Reward and successor are dependent: 1 goes with state 1, 5 with the end. Outcome 1 is padding.
    mdp = outcome_mdp(
        [[[0.3, 0.0, 0.7]]] * 3,
        [[[1, 2, 0]]] * 3,
        [[[1.0, 99.0, 5.0]]] * 3,
        terminal=[[[False, False, True]]] * 3,
    )
    keys = jax.random.split(jax.random.key(0), 4096)
    _, step = jax.device_get(step_many(TabularEnv(mdp), keys, np.int32(2), np.int32(0)))
    np.testing.assert_array_equal(step.reward == 1.0, step.observation == 1)
    np.testing.assert_array_equal(step.reward == 5.0, step.terminated)
    assert not np.any(step.reward == 99.0)
    # Standard error of a share of 0.3 in 4096 draws is 0.0072.
    assert abs(float(np.mean(step.reward == 1.0)) - 0.3) < 0.036


@pytest.mark.slow
def test_sampled_reward_matches_dense():
    mdp = garnet(jax.random.key(3), num_states=4, num_actions=2, num_outcomes=3)
    keys = jax.random.split(jax.random.key(0), 4096)
    state, _ = step_many(TabularEnv(mdp), keys, jnp.int32(1), jnp.int32(1))
    counts = np.bincount(np.asarray(state.index), minlength=4) / 4096
    np.testing.assert_allclose(counts, mdp.dense()[0][1, 1], atol=0.04)


def test_time_limit_truncates_only_what_goes_on():
    mdp = outcome_mdp([[[1.0]]] * 2, [[[1]], [[0]]], [[[0.0]]] * 2, terminal=[[[False]], [[True]]])
    env = TabularEnv(mdp, time_limit=1.0)
    keys = jax.random.split(jax.random.key(0), 1)
    _, going = jax.device_get(step_many(env, keys, np.int32(0), np.int32(0)))
    _, ending = jax.device_get(step_many(env, keys, np.int32(1), np.int32(0)))
    assert (bool(going.terminated[0]), bool(going.truncated[0])) == (False, True)
    assert (bool(ending.terminated[0]), bool(ending.truncated[0])) == (True, False)


@pytest.mark.slow
def test_batch_of_mdps_is_a_batch_of_environments():
    mdps = [garnet(jax.random.key(seed), 5, 2, 2) for seed in range(3)]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[TabularEnv(mdp) for mdp in mdps])
    key = jax.random.key(1)

    @jax.jit
    def one(env):
        state, _ = env.reset(key)
        return env.step(key, state, 1)[1].reward

    rewards = jax.vmap(one)(batch)
    assert [float(r) for r in rewards] == [float(one(TabularEnv(mdp))) for mdp in mdps]


def test_garnet_is_what_it_says():
    mdp = garnet(jax.random.key(0), num_states=7, num_actions=3, num_outcomes=4)
    np.testing.assert_allclose(np.asarray(mdp.prob).sum(axis=-1), 1.0, atol=1e-6)
    successors = np.sort(np.asarray(mdp.next_state), axis=-1)
    assert np.all(np.diff(successors, axis=-1) > 0)  # distinct
    with pytest.raises(ValueError, match="num_outcomes"):
        garnet(jax.random.key(0), num_states=2, num_outcomes=3)


@pytest.mark.parametrize("key", [None, jax.random.key(1)])
def test_deep_sea_optimum(key):
    # Always right: the treasure of 1 less the cost of all moves, 0.01. Nothing else is above 0.
    mdp = deep_sea(6, key=key)
    assert finite_horizon_value(mdp, 6) == pytest.approx(0.99, abs=1e-6)
    assert finite_horizon_value(mdp.replace(reward=np.minimum(mdp.reward, 0.0)), 6) == 0.0


@pytest.mark.slow
def test_riverswim_prefers_swimming():
    table, reward = riverswim(6).dense()
    np.testing.assert_allclose(table[2, 1], [0, 0.05, 0.6, 0.35, 0, 0], atol=1e-7)
    np.testing.assert_allclose(reward[5], [0.0, 1.0])
    # A short-sighted planner takes the sure 0.005 at once; a far-sighted one swims for far more.
    assert finite_horizon_value(riverswim(6), 1) == pytest.approx(0.005)
    assert finite_horizon_value(riverswim(6), 200) > 200 * 0.005 * 5


@pytest.mark.slow
def test_one_hot_and_index_tell_the_same():
    keys = jax.random.split(jax.random.key(0), 8)
    plain, hot = (make("Garnet", one_hot=flag) for flag in (False, True))
    _, index = step_many(plain, keys, jnp.int32(0), jnp.int32(0))
    _, row = step_many(hot, keys, jnp.int32(0), jnp.int32(0))
    np.testing.assert_array_equal(jnp.argmax(row.observation, axis=-1), index.observation)
    assert row.observation.dtype == hot.observation_space.dtype
