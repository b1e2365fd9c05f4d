"""Agents learn small and published tasks (`-m slow`), all from one table.

A row is what is trained on what, for how long, on how many seeds, and what the interquartile mean
of the seeds' greedy returns must reach.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxrl.agents import preset
from jaxrl.core import outcome_mdp
from jaxrl.envs import TabularEnv, make
from jaxrl.training import evaluate, lanes, sweep

pytestmark = [pytest.mark.slow, pytest.mark.optimised, pytest.mark.timeout(7200)]


@dataclasses.dataclass(frozen=True)
class Row:
    agent: str
    env: str
    num_steps: int
    num_seeds: int
    threshold: float  # of the interquartile mean over seeds [return]
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)  # by name

    @property
    def name(self) -> str:
        return f"{self.agent}-{self.env}-{self.num_steps}"


TINY = {"network.hidden_sizes": (32,)}
SMALL_REPLAY = TINY | {"replay.capacity": 8192, "target.period": 50, "batch_size": 32}

ROWS = [
    Row("pqn", "Catch-bsuite", 40_000, 4, 0.9, TINY),
    # A smaller version of benchmarks/learning.py, with its settings.
    Row("ppo", "CartPole-v1", 60_000, 4, 300.0),
]


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_seeds_reach_the_threshold(row):
    agent, env = lanes.with_settings(preset(row.agent), row.settings), make(row.env)
    result = sweep(jax.random.key(0), agent, env, num_seeds=row.num_seeds, num_steps=row.num_steps)
    assert np.all(result.diverged_at == -1)
    play = jax.jit(
        lambda state: (
            evaluate(jax.random.key(1), agent, env, state, num_episodes=32, max_steps=1000).mean
        )
    )
    states = jax.tree.map(lambda leaf: leaf[0], result.agent_states)
    returns = [
        float(play(jax.tree.map(lambda leaf, seed=seed: leaf[seed], states)))
        for seed in range(row.num_seeds)
    ]
    assert scipy.stats.trim_mean(returns, 0.25) >= row.threshold, np.round(returns, 2)


def detour(num_states: int = 5) -> TabularEnv:
    """A chain whose first state tempts with 0.3 at once; walking on to the end pays 1."""
    state = np.arange(num_states)
    next_state = np.stack([np.zeros_like(state), np.minimum(state + 1, num_states - 1)], axis=1)
    reward = np.zeros((num_states, 2))
    reward[0, 0], reward[-1, 1] = 0.3, 1.0
    terminal = np.zeros((num_states, 2, 1), bool)
    terminal[0, 0], terminal[-1, 1] = True, True
    mdp = outcome_mdp(
        np.ones((num_states, 2, 1)),
        next_state[..., None],
        reward,
        terminal=terminal,
        initial=np.full(num_states, 1.0 / num_states),
        discount=0.9,
    )
    return TabularEnv(mdp)


def planned(env: TabularEnv) -> np.ndarray:
    """Optimal `q[S, A]` by iterating q = r + gamma P max q in float64."""
    table, reward = (np.asarray(x, np.float64) for x in env.mdp.dense())
    q_values = np.zeros_like(reward)
    for _ in range(500):
        q_values = reward + float(env.mdp.discount) * table @ q_values.max(axis=1)
    return q_values


def test_dqn_reaches_the_planner_s_values():
    """Two seeds; a chain without noise, explored uniformly, so the values are the optimal ones."""
    env = detour()
    settings = SMALL_REPLAY | {
        "discount": 0.9,
        "exploration": 1.0,
        "warmup": 200,
        "optimiser.learning_rate": 3e-3,
    }
    agent = lanes.with_settings(preset("dqn"), settings)
    result = sweep(jax.random.key(0), agent, env, num_seeds=2, num_steps=8_000, num_records=5)
    optimal = planned(env)
    for seed in range(2):
        state = jax.tree.map(lambda leaf, seed=seed: leaf[0, seed], result.agent_states)
        learned = agent.scores(state.model.apply(state.params, jnp.arange(5)))
        np.testing.assert_allclose(learned, optimal, atol=0.05)
        np.testing.assert_array_equal(jnp.argmax(learned, 1), optimal.argmax(1))
