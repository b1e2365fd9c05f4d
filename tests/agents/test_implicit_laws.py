"""Implicit quantiles: the laws that an agent learns by them, and a longer run."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
import scipy.stats

import jaxrl
from jaxrl import envs, planning
from jaxrl.agents import Optimiser, QNetworkAgent, TargetUpdate
from jaxrl.core import Linear
from jaxrl.functionals import CVaR
from jaxrl.networks import NetworkSettings
from jaxrl.operators import BellmanOperator, ImplicitQuantile, Quantile
from jaxrl.replay import UniformReplay

pytestmark = [pytest.mark.slow, pytest.mark.optimised]
KEY = jax.random.key(0)
K = 8
LEVELS = (np.arange(K) + 0.5) / K
HEAD, PLAIN = ImplicitQuantile(K, num_cosines=16, huber_threshold=0.0), Quantile(K, 0.0)


DISCOUNT = 0.8
SPREAD = np.linspace(-2.0, 2.0, 8)
SKEWED = -np.log1p(-(np.arange(8) + 0.5) / 8)  # exponential


def game():
    """Two steps: a gamble (or 0.2 and the end), then a skewed gamble or 0.4; eight outcomes."""
    reward = np.stack([[SPREAD, np.full(8, 0.2)], [SKEWED, np.full(8, 0.4)]])
    after = np.ones(reward.shape, int)
    ends = np.ones(reward.shape, bool)
    ends[0, 0] = False
    return jaxrl.outcome_mdp(
        np.full(reward.shape, 1 / 8), after, reward, DISCOUNT, initial=[0.5, 0.5], terminal=ends
    )


def exact_laws():
    """Atoms of equal probability for (state, action), by all paths; SKEWED has the larger mean."""
    both = (SPREAD[:, None] + DISCOUNT * SKEWED).ravel()
    return {(0, 0): both, (0, 1): [0.2], (1, 0): SKEWED, (1, 1): [0.4]}


AGENT = QNetworkAgent(
    operator=BellmanOperator(HEAD),
    network=NetworkSettings(hidden_sizes=(32,), activation="relu"),
    optimiser=Optimiser(learning_rate=Linear(0.01, 0.0), max_grad_norm=100.0),
    replay=UniformReplay(capacity=16_384),
    target=TargetUpdate(period=1, step_size=0.02),
    discount=DISCOUNT,
    exploration=1.0,
    num_envs=32,
    rollout_length=4,
    num_updates=12,
    batch_size=64,
    warmup=256,
)


@functools.cache
def learned():
    env = envs.TabularEnv(game())
    run = jax.jit(lambda key: jaxrl.train(key, AGENT, env, num_steps=96_000, num_records=1).state)
    state = run(KEY).agent
    finer = (np.arange(K)[:, None] + (np.arange(8) + 0.5) / 8).T / K  # 8 sets of K levels
    apply = lambda *levels: state.model.apply(state.params, np.arange(2), *levels)  # noqa: E731
    answers, stored = jax.device_get(jax.jit(lambda f: (jax.vmap(apply)(f), apply()))(finer))
    return stored, np.moveaxis(answers[..., 0], 0, -1)  # of [8, S, A, K]


@pytest.mark.parametrize("pair", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_the_laws_learned_are_those_of_all_paths(pair):
    """The quantile function, asked at 64 levels and at its own eight, against all paths."""
    stored, asked = learned()
    exact = np.sort(exact_laws()[pair])
    assert scipy.stats.wasserstein_distance(asked[pair].ravel(), exact) < 0.15
    known = np.quantile(exact, LEVELS, method="inverted_cdf")
    np.testing.assert_allclose(stored[pair][:, 0], known, atol=0.3)


def test_return_functionals_score_the_laws_learned():
    """Greedy on the law: by its mean the first gamble is best, by its tail the sure reward."""
    params, _ = learned()
    careful = AGENT.replace(operator=AGENT.operator.replace(return_functional=CVaR(0.25)))
    read = jax.jit(lambda params: (AGENT.scores(params), careful.scores(params)))
    neutral, averse = jax.device_get(read(params))
    for (s, a), atoms in exact_laws().items():
        tail = np.sort(np.repeat(atoms, 64 // len(atoms)))[:16].mean()
        assert float(neutral[s, a]) == pytest.approx(np.mean(atoms), abs=0.1)
        assert float(averse[s, a]) == pytest.approx(tail, abs=0.25)
    assert np.argmax(neutral, axis=1).tolist() == [0, 0]
    assert np.argmax(averse, axis=1).tolist() == [1, 1]


def test_the_planner_stores_the_same_laws_by_both_heads():
    mdp = game()
    ours, plain = (
        planning.distributional_value_iteration(mdp, BellmanOperator(head), tolerance=1e-3).params
        for head in (HEAD, PLAIN)
    )
    np.testing.assert_allclose(ours[..., 0], plain, atol=1e-5)
