"""No key is spent twice: every agent's start, play and update, traced and searched by JAX."""

from __future__ import annotations

import jax
import pytest
from jax.errors import KeyReuseError
from jax.experimental.key_reuse._core import check_key_reuse
from tables import Line

from jaxrl.agents import (
    PRESETS,
    Dual,
    Generative,
    NormalisedAgent,
    VarianceWeights,
)
from jaxrl.envs.wrappers import TimeLimit
from jaxrl.functionals import CVaR
from jaxrl.networks import NetworkSettings
from jaxrl.operators import BellmanOperator, Quantile
from jaxrl.training import start_training, train_iteration

CONTINUOUS = {"sac", "td3", "dsac_t", "tqc", "annealed_sac", "annealed_td3"}
NETWORK = NetworkSettings(hidden_sizes=(8,), initialiser="lecun")


def small(name, **changes):
    agent = PRESETS[name]().replace(network=NETWORK, num_envs=2, rollout_length=2)
    if hasattr(agent, "replay"):
        agent = agent.replace(replay=agent.replay.replace(capacity=64), batch_size=4, warmup=0)
    else:
        agent = agent.replace(num_minibatches=1, num_epochs=2)
    return agent.replace(**changes)


RISKY = BellmanOperator(Quantile(3), successor_functional=CVaR(0.5))
OTHERS = {
    "ppo_continuous": lambda: small("ppo"),
    "ppo_memory": lambda: small("ppo", network=NETWORK.replace(recurrent_size=4)),
    "normalised": lambda: NormalisedAgent(small("a2c"), observations=False),
    "generative": lambda: small("dqn", operator=RISKY, successors=Generative(num_samples=3)),
    "generative_sac": lambda: small("sac", successors=Generative(num_samples=3)),
    "dual": lambda: small("dqn", successors=Dual(), operator=RISKY),
    "variances": lambda: small("dqn", parts=(VarianceWeights(),)),
}
LIKE_ANOTHER = {"mdpo", "dpo", "lpo", "double_dqn", "c51", "qr_dqn", "log_dqn", "munchausen_dqn"}
LIKE_ANOTHER |= {"dsac_t", "tqc", "annealed_sac", "annealed_td3", "differential_dqn"}
LIKE_ANOTHER |= {"ppo_continuous", "variances"}
ROWS = [
    pytest.param(name, marks=[pytest.mark.slow] * (name in LIKE_ANOTHER))
    for name in (*PRESETS, *OTHERS)
]


@pytest.mark.parametrize("name", ROWS)
def test_no_key_is_spent_twice(name):
    agent = OTHERS[name]() if name in OTHERS else small(name)
    continuous = name in CONTINUOUS or name in ("ppo_continuous", "generative_sac")
    env = TimeLimit(Line(discrete=not continuous), 2)

    def iterate(key):
        return train_iteration(agent, env, start_training(key, agent, env, 100.0))

    check_key_reuse(iterate, jax.random.key(0))


def test_the_search_finds_a_key_spent_twice():
    def twice(key):
        return jax.random.normal(key) + jax.random.uniform(key)

    with pytest.raises(KeyReuseError):
        check_key_reuse(twice, jax.random.key(0))
