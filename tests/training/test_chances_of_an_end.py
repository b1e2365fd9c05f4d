"""Ends that are probabilities count alike in evaluation, statistics, learning and planning."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxrl
from jaxrl import envs, planning
from jaxrl.envs.wrappers import EpisodeStatistics
from jaxrl.networks import NetworkSettings
from jaxrl.training import rollout, start_rollout

CHANCES = np.array([0.25, 0.5, 0.0, 1.0])  # of an end after each of the four steps
REWARDS = np.array([1.0, 2.0, 4.0, 8.0])
WORTH = 1.0 + 0.75 * (2.0 + 0.5 * (4.0 + 8.0))  # of the whole


def chain():
    state = np.arange(4)
    following = np.minimum(state + 1, 3)[:, None, None]
    return jaxrl.outcome_mdp(
        np.ones((4, 1, 1)),
        following,
        REWARDS[:, None, None],
        1.0,
        terminal=CHANCES[:, None, None],
    )


def test_they_agree():
    small = {"network": NetworkSettings(hidden_sizes=(4,), initialiser="lecun")}
    agent = jaxrl.pqn().replace(num_envs=2, rollout_length=9, **small)
    env = envs.TabularEnv(chain())
    planned = np.asarray(planning.value_iteration(env.mdp).values)[0]
    key, state = jax.random.key(0), jax.jit(lambda key: agent.init(key, env))(jax.random.key(0))
    played = jaxrl.evaluate(key, agent, env, state, num_episodes=3)
    np.testing.assert_allclose([planned, *played.returns], WORTH, rtol=1e-6)
    assert played.lengths.tolist() == [4] * 3

    play = jax.jit(lambda key: rollout(key, agent, env, state, start_rollout(key, agent, env)))
    _, _, sums = play(key)
    assert float(sums.num_episodes) == 4.0  # two in each environment, and a step of a third
    np.testing.assert_allclose(sums.episode_return, 4 * WORTH, rtol=1e-6)

    watched = EpisodeStatistics(env)
    inner, _ = jax.jit(watched.reset)(key)
    totals, forward = [], jax.jit(watched.step)
    for _ in range(4):
        inner, step = forward(key, inner, jnp.int32(0))
        totals.append(float(step.info["episode_return"]))
    np.testing.assert_allclose(totals, [1.0, 2.5, 4.0, WORTH], rtol=1e-6)
