"""A memory in the action: it is seen in the next step, of the same episode, and changes no more."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import envs
from jaxrl.core import Box
from jaxrl.envs.wrappers import CarriedMemory, EpisodeStatistics, TimeLimit
from jaxrl.training import rollout, start_training

KEY = jax.random.key(0)
AGENT = jaxrl.ppo(hidden_sizes=(4,), num_envs=6, rollout_length=30)


def lived(env):
    """The first state, and a trajectory."""

    def run(key):
        start = start_training(key, AGENT, env, 100.0)
        return start, rollout(key, AGENT, env, start.agent, start.rollout)[1]

    return jax.device_get(jax.jit(run)(KEY))


@pytest.mark.parametrize("limit", [4.0, pytest.param(1000.0, marks=pytest.mark.slow)])
def test_what_is_carried_is_seen_next_and_gone_with_the_episode(limit):
    """Episodes are cut by the clock, or ended by the pole."""
    env = CarriedMemory(EpisodeStatistics(TimeLimit(envs.make("CartPole"), limit)), size=2)
    envs.check(env, num_steps=20)
    start, seen = lived(env)
    carried, before, after = seen.action[1], seen.observation[1], seen.next_observation[1]
    ended = seen.terminated.astype(bool) | seen.truncated
    assert ended.any() and (seen.truncated.any() if limit < 10 else seen.terminated.any())
    np.testing.assert_array_equal(start.rollout.observation[1], 0.0)
    np.testing.assert_array_equal(after, carried)
    np.testing.assert_array_equal(before[0], 0.0)
    np.testing.assert_array_equal(before[1:], np.where(ended[:-1, :, None], 0.0, carried[:-1]))
    assert np.all(np.abs(carried) <= 1.0) and np.std(carried) > 0.1


def test_the_environment_inside_is_the_same():
    inner = envs.make("Pendulum")
    env, action = CarriedMemory(inner, size=3), jnp.array([0.7])
    (state, seen), (own, shown) = inner.reset(KEY), env.reset(KEY)
    assert jax.tree.all(jax.tree.map(np.array_equal, (state, seen), (own, shown[0])))
    first, second = inner.step(KEY, state, action), env.step(KEY, own, (action, jnp.ones(3)))
    np.testing.assert_array_equal(second[1].observation[1], 1.0)
    second = second[0], second[1].replace(observation=second[1].observation[0])
    assert jax.tree.all(jax.tree.map(np.array_equal, first, second))
    assert env.action_space == (inner.action_space, Box(-1.0, 1.0, (3,)))
    with pytest.raises(ValueError, match="size=0 is out of range"):
        CarriedMemory(inner, size=0)


def test_what_is_legal_inside_is_legal_and_every_memory_is():
    mask = np.array([[True, False, True], [False, True, True]])
    mdp = jaxrl.tabular_mdp(np.full((2, 3, 2), 0.5), np.zeros((2, 3)), 0.9, mask=mask)
    env = CarriedMemory(envs.TabularEnv(mdp, time_limit=5.0), size=1)
    envs.check(env, num_steps=20)
    assert not hasattr(CarriedMemory(envs.make("CartPole")), "legal")
    _, seen = lived(env)
    state, action = np.asarray(seen.observation[0]), np.asarray(seen.action[0])
    assert mask[state, action].all() and set(action.flat) == {0, 1, 2}
    np.testing.assert_array_equal(seen.mask[0], mask[state])
