"""Static CVaR of the whole return, learned with the stock in the observation."""

from __future__ import annotations

import functools
import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
import scipy.stats

from jaxrl import BellmanOperator, evaluate, outcome_mdp, train
from jaxrl.agents import (
    PRESETS,
    ExpectedUtility,
    Generative,
    Optimiser,
    StockConditioned,
    static_cvar_stocks,
)
from jaxrl.core import Linear, Progress
from jaxrl.envs import TabularEnv
from jaxrl.envs.wrappers import Stock
from jaxrl.networks import NetworkSettings
from jaxrl.operators import Quantile
from jaxrl.replay import UniformReplay
from jaxrl.returns import next_stock

DISCOUNT, LEVEL, HORIZON = 0.8, 0.5, 2
# First a coin: 0 or 4. Then a choice: 1 for sure, or -2 or 6.
GAME = outcome_mdp(
    [[[0.5, 0.5]] * 2, [[1.0, 0.0], [0.5, 0.5]]],
    [[[1, 1]] * 2, [[0, 0], [0, 0]]],
    [[[0.0, 4.0]] * 2, [[1.0, 1.0], [-2.0, 6.0]]],
    DISCOUNT,
    terminal=[[[False, False]] * 2, [[True, True]] * 2],
)
SPREAD = StockConditioned(low=-8.0, high=8.0)
AGENT = PRESETS["qr_dqn"]().replace(
    operator=BellmanOperator(Quantile(8), return_functional=ExpectedUtility()),
    network=NetworkSettings(hidden_sizes=(64,), activation="relu"),
    optimiser=Optimiser(learning_rate=Linear(3e-3, 0.0)),
    replay=UniformReplay(capacity=4096),
    discount=DISCOUNT,
    exploration=1.0,
    parts=(SPREAD,),
    num_envs=16,
    num_updates=2,
    batch_size=128,
    warmup=500,
)


def in_stock(low, high, mdp=GAME):
    return Stock(TabularEnv(mdp), low=low, high=high, discount=DISCOUNT, limit=30.0)


@jax.jit
def played(env, key, action):
    """First observations and two steps of 500 environments, in which `action` is taken."""
    reset_key, step_key = jax.random.split(key)
    state, observation = jax.vmap(env.reset)(jax.random.split(reset_key, 500))

    def step(state, key):
        actions = jnp.full(500, action)
        state, step = jax.vmap(env.step)(jax.random.split(key, 500), state, actions)
        return state, (step.observation, step.reward)

    return observation, *jax.lax.scan(step, state, jax.random.split(step_key, HORIZON))[1]


def play(env, action):
    return jax.device_get(played(env, jax.random.key(0), np.int32(action)))


@functools.cache
def trained():
    learn = jax.jit(lambda key: train(key, AGENT, in_stock(-8.0, 8.0), num_steps=48_000))
    return learn(jax.random.key(0)).state.agent


TRIED = [0.1, 0.25, 0.5, 1.0]


@functools.cache
def chosen():
    """The values predicted at each of `TRIED`, and what is done after either coin, `[level, 2]`."""

    @jax.jit
    def choose(state, start, levels):
        stocks, predicted = static_cvar_stocks(AGENT, state, start, levels)
        here = next_stock(stocks[:, None], jnp.array([0.0, 4.0]), DISCOUNT).ravel()
        seen = jnp.stack([jnp.zeros_like(here), jnp.ones_like(here), here], axis=1)
        return predicted, AGENT.act(jax.random.key(0), state, seen, explore=False)[0]

    start = in_stock(0.0, 0.0).reset(jax.random.key(0))[1][None]
    predicted, actions = jax.device_get(choose(trained(), start, np.array(TRIED, np.float32)))
    return predicted, actions.reshape(-1, 2).tolist()


def test_the_stock_telescopes_and_survives_resets():
    observation, following, rewards = play(in_stock(-3.0, 5.0), 1)
    start = observation[:, -1]
    assert scipy.stats.kstest((start + 3.0) / 8.0, "uniform").pvalue > 1e-3
    gained, weight = np.zeros(500), 1.0
    for after, reward in zip(following, rewards, strict=True):
        gained, weight = gained + weight * reward, weight * DISCOUNT
        np.testing.assert_allclose(weight * after[:, -1], start + gained, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(following[-1, :, :-1].sum(axis=1), 1.0)


def test_a_stock_beyond_every_return_is_cut():
    env = in_stock(29.5, 29.5)
    np.testing.assert_array_equal(play(env, 0)[1][..., -1], 30.0)
    assert env.observation_space.high[-1] == 30.0


def test_relabelled_stocks_follow_from_their_rewards():
    env = in_stock(-1.0, 1.0)
    observation, following, rewards = play(env, 0)
    relabel = jax.jit(
        lambda key, data: (
            SPREAD.relabelled(key, (), AGENT, data),
            SPREAD.replace(relabel=False).relabelled(key, (), AGENT, data),
        )
    )
    data = probes.example_transition(observation, env.action_space).replace(
        reward=rewards[0], next_observation=following[0]
    )
    new, kept = jax.device_get(relabel(jax.random.key(2), data))
    stock, later = new.observation[:, -1], new.next_observation[:, -1]
    assert scipy.stats.kstest((stock + 8.0) / 16.0, "uniform").pvalue > 1e-3
    np.testing.assert_allclose(DISCOUNT * later, stock + rewards[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(new.observation[:, :-1], observation[:, :-1])
    np.testing.assert_array_equal(new.next_observation[:, :-1], following[0, :, :-1])
    np.testing.assert_array_equal(kept.observation, observation)
    np.testing.assert_array_equal(kept.next_observation, following[0])


class Exact:
    """In a network's place: eight equally likely returns of the game's first state, by its stock.

    After the coin the choice is that of the larger E min(stock + return, 0), 1 or -2 and 6.
    """

    def apply(self, params, observation):
        stock = observation[:, -1]

        def after(coin):
            here = (stock + coin) / DISCOUNT
            sure, gamble = jnp.array([1.0] * 4), jnp.array([-2.0, -2.0, 6.0, 6.0])
            gains = [jnp.minimum(here[:, None] + law, 0.0).mean(1) for law in (sure, gamble)]
            return coin + DISCOUNT * jnp.where((gains[0] >= gains[1])[:, None], sure, gamble)

        atoms = jnp.concatenate([after(0.0), after(4.0)], axis=1)
        return jnp.stack([atoms, atoms], axis=1)  # both first actions are the same


def static_cvar(level, low, high):
    """Of these choices after the coin, by the average of the worst share of all paths (NumPy)."""
    laws = {0: [1.0] * 4, 1: [-2.0, -2.0, 6.0, 6.0]}
    atoms = np.sort(
        np.concatenate([DISCOUNT * np.array(laws[low]), 4 + DISCOUNT * np.array(laws[high])])
    )
    return np.clip(level - np.arange(8) / 8, 0.0, 1 / 8) @ atoms / level


def best_static_cvar(level):
    return max(static_cvar(level, *choices) for choices in itertools.product((0, 1), (0, 1)))


LEVELS = [0.1, 0.25, 0.5, 0.7, 1.0]


def test_the_initial_stock_of_exact_laws_gives_the_static_optimum():
    """The candidates hold minus every return, one of which is the best stock."""
    state = SimpleNamespace(model=Exact(), params=(), progress=Progress(np.int32(0), np.float32(1)))
    stocks = np.linspace(-10.0, 10.0, 101, dtype=np.float32)
    start = np.array([[1.0, 0.0, 5.0]], np.float32)
    find = jax.jit(
        lambda start, levels: static_cvar_stocks(AGENT, state, start, levels, jnp.asarray(stocks))
    )
    chosen, found = find(start, np.array(LEVELS, np.float32))
    exact = [best_static_cvar(level) for level in LEVELS]
    np.testing.assert_allclose(found, exact, atol=1e-4)
    returns = np.array([0.8, -1.6, 4.8, 2.4, 8.8])
    for index in (0, 3):  # at the others all stocks between two returns serve
        assert np.min(np.abs(float(chosen[index]) + returns)) < 1e-4


@pytest.mark.slow
def test_it_finds_the_static_optimum_that_nested_and_greedy_risk_miss():
    """After an unlucky coin only the gamble can still pay; after a lucky one it need not.

    Nested risk, and greed on the law, choose by the state alone: alike after either coin.
    """
    best, (predicted, choices) = best_static_cvar(LEVEL), chosen()
    assert abs(static_cvar(LEVEL, *choices[TRIED.index(LEVEL)]) - best) < 1e-3
    assert abs(float(predicted[TRIED.index(LEVEL)]) - best) < 0.3
    for action in (0, 1):
        assert static_cvar(LEVEL, action, action) < best - 0.1


@pytest.mark.slow
def test_one_network_serves_every_level():
    for level, choices in zip(TRIED, chosen()[1], strict=True):
        assert abs(static_cvar(level, *choices) - best_static_cvar(level)) < 1e-3


@pytest.mark.slow
def test_evaluation_plays_from_the_chosen_stock():
    env = in_stock(2.0, 2.0)
    found = evaluate(jax.random.key(0), AGENT, env, trained(), num_episodes=50)
    assert bool(found.finished.all()) and found.lengths.tolist() == [HORIZON] * 50


@pytest.mark.parametrize(
    ("changes", "env", "message"),
    [
        ({}, TabularEnv(GAME), "Stock\\(env"),
        ({"discount": 0.5}, in_stock(-1.0, 1.0), "discounts by"),
        ({"replay": UniformReplay(4096, num_step=2)}, in_stock(-1.0, 1.0), "num_step=1"),
        ({"successors": Generative(4)}, in_stock(-1.0, 1.0), "relabel=False"),
    ],
)
def test_what_does_not_fit_is_refused(changes, env, message):
    with pytest.raises(ValueError, match=message):
        AGENT.replace(**changes).check(env)


def test_levels_and_agents_without_a_stock_are_refused():
    start = np.zeros((1, 3))
    with pytest.raises(ValueError, match="levels"):
        static_cvar_stocks(AGENT, None, start, np.array([0.0]))
    with pytest.raises(ValueError, match="does not see the stock"):
        static_cvar_stocks(AGENT.replace(parts=()), None, start, np.array([0.5]))
