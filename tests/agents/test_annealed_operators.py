"""Any number of an operator may be a schedule: what is learned is what its present value gives.

One iteration of a life of two: half of the life is over when its gradient steps are taken.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest

import jaxrl
from jaxrl.core import Linear
from jaxrl.envs import TabularEnv
from jaxrl.envs.control import Pendulum
from jaxrl.functionals import CVaR
from jaxrl.networks import NetworkSettings
from jaxrl.operators import BellmanOperator, Mellowmax, Quantile, Scalar
from jaxrl.replay import UniformReplay
from jaxrl.training import start_training, train_iteration

SMALL = {"network": NetworkSettings(hidden_sizes=(8,)), "num_envs": 4, "rollout_length": 4}
FROM_REPLAY = SMALL | {
    "replay": UniformReplay(64, store_next=True),
    "batch_size": 8,
    "num_updates": 2,
    "warmup": 0,
}
RNG = np.random.default_rng(0)
GARNET = jaxrl.outcome_mdp(  # four states, two actions, two outcomes of each
    RNG.dirichlet(np.ones(2), (4, 2)), RNG.integers(4, size=(4, 2, 2)), RNG.normal(size=(4, 2, 2))
)
# The first two have the value 0.65 in the middle of a life, the others those of its ends.
SCHEDULES = np.array([[0.65, 0.65], [1.0, 0.3], [1.0, 1.0], [0.3, 0.3]], np.float32)


def learned(agent_of, env):
    """Parameters `[schedule, ...]` after one iteration, as rows."""

    def iterate(key, ends):
        agent = agent_of(Linear(ends[0], ends[1]))
        state = start_training(key, agent, env, 32.0)
        return train_iteration(agent, env, state)[0].agent

    run = jax.jit(jax.vmap(iterate, in_axes=(None, 0)))
    state = jax.device_get(run(jax.random.key(0), SCHEDULES))
    params = state.learner.params if hasattr(state, "learner") else state.params
    return np.concatenate([leaf.reshape(4, -1) for leaf in jax.tree.leaves(params)], axis=1)


def assert_present_value_counts(params, middle=0):
    """The falling schedule does what the right constant does, and far less so what others do."""
    gaps = np.abs(params[[0, 2, 3]] - params[1]).max(axis=1)
    assert gaps[middle] < 0.01 * np.delete(gaps, middle).min()


def risky(level, num_samples):
    functional = CVaR(level)
    return {
        "operator": BellmanOperator(
            Quantile(4), successor_functional=functional, return_functional=functional
        ),
        "successors": jaxrl.Generative(num_samples),
    }


@pytest.mark.slow  # by default a schedule stands in tests/agents/test_which_network.py
def test_levels_over_successors_and_returns():
    def agent(level):
        return jaxrl.qr_dqn().replace(**FROM_REPLAY | risky(level, 4), exploration=1.0)

    assert_present_value_counts(learned(agent, TabularEnv(GARNET, time_limit=10.0)))


@pytest.mark.slow
def test_improvement_of_parallel_q():
    """Its updates see the life as it was when the rollout began."""

    def agent(omega):
        operator = BellmanOperator(Scalar(float("inf")), Mellowmax(omega))
        return jaxrl.pqn().replace(**SMALL, operator=operator, exploration=1.0, num_minibatches=2)

    env = TabularEnv(GARNET, time_limit=10.0)
    assert_present_value_counts(learned(agent, env), middle=1)


@pytest.mark.slow
def test_critics_of_continuous_actions():
    """SAC and TD3 share what teaches them."""

    def agent(level):
        return jaxrl.td3().replace(**FROM_REPLAY | risky(level, 2))

    assert_present_value_counts(learned(agent, Pendulum(noise_scale=np.float32(1.0))))
