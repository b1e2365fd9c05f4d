"""Worst-case search on problems whose robust optimum is known, or that are judged by play."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from toys import KEY

import jaxrl
from jaxrl import envs, planning
from jaxrl.agents import Optimiser, QNetworkAgent, TargetUpdate
from jaxrl.core import Linear
from jaxrl.functionals import PerPair, Scenarios
from jaxrl.networks import NetworkSettings
from jaxrl.operators import BellmanOperator
from jaxrl.replay import UniformReplay
from jaxrl.training import train_iwocs

pytestmark = [pytest.mark.slow, pytest.mark.optimised]
DISCOUNT = 0.8


def crossing(chance):
    """At home (0) stay for 0.5 or cross, which succeeds with this chance and pays 2 on the far side
    (1); then home through the woods (2), where the first path is better."""
    transition = np.zeros((3, 2, 3))
    transition[0, 0, 0] = 1.0
    transition[0, 1] = [1.0 - chance, chance, 0.0]
    transition[1, :] = [[0.0, 0.0, 1.0], [0.5, 0.0, 0.5]]
    transition[2, :] = [[1.0, 0.0, 0.0], [0.2, 0.0, 0.8]]
    reward = np.array([[0.5, 0.0], [2.5, 2.0], [0.2, 0.0]])
    return jaxrl.tabular_mdp(transition, reward, DISCOUNT, initial=np.full(3, 1.0 / 3.0))


def table_agent():
    """A linear network on one-hot states: a table."""
    return QNetworkAgent(
        network=NetworkSettings(hidden_sizes=(), initialiser="lecun"),
        optimiser=Optimiser(learning_rate=Linear(0.05, 0.0), max_grad_norm=100.0),
        replay=UniformReplay(capacity=2048),
        target=TargetUpdate(period=1, step_size=0.1),
        discount=DISCOUNT,
        exploration=1.0,
        num_envs=16,
        rollout_length=4,
        num_updates=4,
        batch_size=64,
        warmup=128,
    )


def static_values(mdp, actions):
    """Of a policy in one model, by linear algebra."""
    states, prob = np.arange(3), np.asarray(mdp.prob, np.float64)
    reward = np.sum(prob * np.asarray(mdp.reward), axis=-1)
    return np.linalg.solve(np.eye(3) - DISCOUNT * prob[states, actions], reward[states, actions])


def test_with_two_kernels_it_attains_the_robust_optimum_of_the_planner():
    """One pair has two kernels, so that nature gains nothing by changing between them, and the set
    is that of robust value iteration."""
    good, bad = crossing(0.95), crossing(0.1)
    kernels = jnp.stack([good.prob, bad.prob], axis=2)  # [S, A, 2, K]
    robust = BellmanOperator(successor_functional=PerPair(Scenarios(kernels)))
    solved = planning.value_iteration(good, robust, tolerance=1e-3)
    assert bool(solved.converged)
    env, model = (envs.TabularEnv(mdp, time_limit=60.0) for mdp in (good, bad))
    found = train_iwocs(
        KEY,
        table_agent(),
        env,
        models=[model],
        num_steps=25_600,
        num_seeds=3,
        max_models=3,
        lanes=2,
        num_episodes=32,
    )
    assert found.found.tolist() == [[0, 1, -1]] * 3 and found.converged.all()
    returns = np.asarray(found.returns)
    assert np.all(returns[:, 0, 0] > returns[:, 0, 1] + 5.0)
    assert np.all(found.worst_returns[:, 1] > found.worst_returns[:, 0] + 5.0)
    for seed in range(3):
        q_values = np.asarray(found.policy.q_values(found.state(seed), jnp.arange(3)))
        np.testing.assert_allclose(q_values, solved.q_values, atol=0.08)
        action, _ = found.policy.act(KEY, found.state(seed), jnp.arange(3), explore=False)
        worst = np.minimum(static_values(good, action), static_values(bad, action))
        np.testing.assert_allclose(worst, solved.values, atol=2e-3)
        nominal = found.policy.q_values(found.candidate(0, seed), jnp.arange(3)).argmax(axis=1)
        assert np.any(static_values(bad, np.asarray(nominal)) < worst - 0.3)
