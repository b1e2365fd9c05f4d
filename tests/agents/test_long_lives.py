"""Longer lives: control tasks that take thousands of gradient steps."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import jaxrl
from jaxrl import envs, sac
from jaxrl.agents import preset

pytestmark = pytest.mark.slow
KEY = jax.random.key(0)


def pendulum_return(agent, num_steps):
    """The mean of 64 greedy episodes; benchmarks/learning.py trains more seeds."""
    env = envs.make("Pendulum-v1")
    run = jax.jit(lambda key: jaxrl.train(key, agent, env, num_steps=num_steps, num_records=5))
    state = run(KEY).state.agent
    return float(jaxrl.evaluate(jax.random.key(100), agent, env, state, num_episodes=64).mean)


@pytest.mark.optimised
def test_pendulum_is_swung_up():
    """At least -200 within 50,000 steps; hanging down has -1200."""
    assert pendulum_return(sac(batch_size=64), 50_000) >= -200.0


def best_cart_pole_return(name, num_steps):
    """Of a tenth of the run, with at least 5 % of actions at random; random play has about 22."""
    agent, env = preset(name), envs.make("CartPole-v1")
    run = jax.jit(lambda key: jaxrl.train(key, agent, env, num_steps=num_steps, num_records=10))
    return np.nanmax(run(KEY).metrics["episode_return"])


@pytest.mark.optimised
def test_logarithmic_channels_learn_cart_pole():
    assert best_cart_pole_return("log_dqn", 100_000) > 200.0
