"""Longer lives: control tasks that take thousands of gradient steps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import envs
from jaxrl.agents.optimiser import Optimiser
from jaxrl.agents.presets import preset
from jaxrl.agents.soft_actor_critic import SoftActorCriticAgent
from jaxrl.networks import NetworkSettings

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
    assert pendulum_return(SoftActorCriticAgent(), 50_000) >= -200.0


def best_cart_pole_return(name, num_steps):
    """Of a tenth of the run, with at least 5 % of actions at random; random play has about 22."""
    agent, env = preset(name), envs.make("CartPole-v1")
    run = jax.jit(lambda key: jaxrl.train(key, agent, env, num_steps=num_steps, num_records=10))
    return np.nanmax(run(KEY).metrics["episode_return"])


@pytest.mark.optimised
def test_logarithmic_channels_learn_cart_pole():
    assert best_cart_pole_return("log_dqn", 150_000) > 200.0


def test_a_longer_chain_of_bsuite_is_remembered():
    agent = preset("ppo").replace(
        network=NetworkSettings(hidden_sizes=(16,), recurrent_size=16, initialiser="lecun"),
        optimiser=Optimiser(learning_rate=1e-2),
        num_envs=16,
        rollout_length=64,
        num_epochs=4,
        num_minibatches=2,
    )
    env = envs.make("MemoryChain-bsuite")
    run = jax.jit(jax.vmap(lambda key: jaxrl.train(key, agent, env, num_steps=200_000).metrics))
    returns = run(jax.random.split(KEY, 2))["episode_return"][:, -10:]
    assert float(jnp.min(jnp.nanmean(returns, axis=1))) > 0.8
