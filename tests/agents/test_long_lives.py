"""Longer lives, compiled as users compile: control tasks that take thousands of gradient steps."""

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
from jaxrl.agents.twin_delayed import TwinDelayedAgent
from jaxrl.networks import NetworkSettings
from jaxrl.operators import BellmanOperator, Quantile

pytestmark = [pytest.mark.slow, pytest.mark.optimised]
KEY = jax.random.key(0)


def pendulum_return(agent, num_steps):
    """The mean of 64 greedy episodes; benchmarks/learning.py trains more seeds."""
    env = envs.make("Pendulum-v1")
    run = jax.jit(lambda key: jaxrl.train(key, agent, env, num_steps=num_steps, num_records=5))
    state = run(KEY).state.agent
    return float(jaxrl.evaluate(jax.random.key(100), agent, env, state, num_episodes=64).mean)


@pytest.mark.parametrize("kind", [SoftActorCriticAgent, TwinDelayedAgent])
def test_pendulum_is_swung_up(kind):
    """At least -200 within 50,000 steps; hanging down has -1200."""
    assert pendulum_return(kind(), 50_000) >= -200.0


@pytest.mark.parametrize(
    "agent",
    [
        preset("dsac_t"),
        TwinDelayedAgent(operator=BellmanOperator(Quantile(num_atoms=25))),
    ],
    ids=["dsac_t", "td3_quantile"],
)
def test_pendulum_is_swung_up_by_critics_of_laws(agent):
    """At least -300 within 30,000 steps."""
    assert pendulum_return(agent, 30_000) >= -300.0


def best_cart_pole_return(name, num_steps):
    """Of a tenth of the run, with at least 5 % of actions at random; random play has about 22."""
    agent, env = preset(name), envs.make("CartPole-v1")
    run = jax.jit(lambda key: jaxrl.train(key, agent, env, num_steps=num_steps, num_records=10))
    return np.nanmax(run(KEY).metrics["episode_return"])


def test_it_learns_cart_pole():
    """Implicit quantiles."""
    assert best_cart_pole_return("iqn", 100_000) > 150.0


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
