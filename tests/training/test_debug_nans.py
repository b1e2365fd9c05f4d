"""`jax_debug_nans` finds what is broken: nothing healthy is stopped by it."""

import jax
import numpy as np
import pytest

import jaxrl
from jaxrl.agents import preset
from jaxrl.envs import make

# One of each kind of agent and of head; the others are these with another rule.
SLOW = ("dqn", "iqn", "pqn", "rainbow", "tqc", "td3")


@pytest.mark.parametrize("name", ["ppo", *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def test_every_preset_trains(name):
    """A record in which no episode ends, and one in which some do."""
    agent = preset(name).replace(num_envs=4, rollout_length=4)
    agent = agent.replace(network=agent.network.replace(hidden_sizes=()))
    env = make("CartPole", time_limit=20.0)
    try:
        agent.check(env)
    except ValueError:
        env = make("Pendulum", time_limit=20.0)
    numbers = {"num_steps": 2 * 16 * 4, "num_records": 8}
    with jax.debug_nans(True):
        swept = jaxrl.sweep(jax.random.key(0), agent, env, num_seeds=1, **numbers)
    none = swept.metrics["num_episodes"][0, 0] == 0
    assert none[0] and not none.all()
    np.testing.assert_array_equal(np.isnan(swept.metrics["episode_return"][0, 0]), none)


@pytest.mark.slow
def test_inside_a_program_a_record_without_an_episode_is_zero():
    agent = preset("ppo").replace(num_envs=4, rollout_length=4)
    agent = agent.replace(network=agent.network.replace(hidden_sizes=(4,)))
    train = jax.jit(
        lambda key: jaxrl.train(key, agent, make("CartPole"), num_steps=64, num_records=4)
    )
    with jax.debug_nans(True):
        found = train(jax.random.key(0)).metrics
    none = found["num_episodes"] == 0
    assert none[0] and np.all(found["episode_return"][none] == 0.0)
