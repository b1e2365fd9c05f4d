"""Evaluation: known returns, greedy and exploring play, tails against NumPy, cut episodes."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_policy import Counter
from toys import Clock

from jaxrl.core import TimeStep, outcome_mdp, struct
from jaxrl.envs import TabularEnv
from jaxrl.training import Evaluation, evaluate, evaluation
from jaxrl.training.evaluation import play_episodes

KEY = jax.random.key(0)


@struct.dataclass
class Constant:
    """Plays `state`; exploring, its opposite."""

    discount: float = 0.9
    bonus: float = 0.0

    def initial_memory(self, num_envs):
        return ()

    def act(self, key, state, observation, explore=True, memory=()):
        action = jnp.full(observation.shape, state, jnp.int32)
        return (1 - action if explore else action), {}


@functools.cache
def line(length: int = 4, time_limit: float = float("inf")) -> TabularEnv:
    """Action 1 moves on and pays the state's number, the last move ends; action 0 waits for -1."""
    state = np.arange(length)[:, None, None]
    action = np.arange(2)[None, :, None]
    mdp = outcome_mdp(
        np.ones((length, 2, 1)),
        np.minimum(state + action, length - 1),
        np.where(action == 1, state, -1.0),
        terminal=(state == length - 1) & (action == 1),
    )
    return TabularEnv(mdp, time_limit)


def test_returns_of_a_deterministic_environment_are_known():
    """Moving on from 0 to the end pays 0 + 1 + 2 + 3 in four steps."""
    played = evaluate(KEY, Constant(), line(), jnp.int32(1), num_episodes=5)
    np.testing.assert_array_equal(played.returns, np.full(5, 6.0))
    np.testing.assert_array_equal(played.lengths, np.full(5, 4))
    assert played.summary() == {
        "mean": 6.0,
        "cvar_0.1": 6.0,
        "worst_decile": 6.0,
        "worst": 6.0,
        "mean_length": 4.0,
        "num_episodes": 5,
        "num_unfinished": 0,
    }


def test_exploring_is_asked_of_the_agent():
    waits = {"num_episodes": 5, "max_steps": 3}
    greedy = evaluate(KEY, Constant(), line(), jnp.int32(0), **waits)
    np.testing.assert_array_equal(greedy.returns, np.full(5, -3.0))
    exploring = evaluate(KEY, Constant(), line(), jnp.int32(0), explore=True, **waits)
    np.testing.assert_array_equal(exploring.returns, np.full(5, 3.0))


def test_cut_episodes_count_with_what_they_had():
    played = evaluate(KEY, Constant(), line(), jnp.int32(1), num_episodes=5, max_steps=3)
    np.testing.assert_array_equal(played.returns, [3.0] * 5)
    np.testing.assert_array_equal(played.lengths, [3] * 5)
    assert played.summary()["num_unfinished"] == 5
    assert not np.any(played.finished)


def test_a_time_limit_finishes_an_episode():
    played = evaluate(KEY, Constant(), line(time_limit=3.0), jnp.int32(1), num_episodes=5)
    np.testing.assert_array_equal(played.returns, [3.0] * 5)
    assert np.all(played.finished)


def test_the_clock_and_the_model_end_an_episode_alike():
    """Lengths of 2 and 3 by either end: 1 + 2 and 1 + 2 + 3, nothing after."""

    @jax.jit
    @jax.vmap
    def play(truncates, length):
        policy = Counter()
        return evaluate(KEY, policy, Clock(length, truncates), (), num_episodes=2, max_steps=9)

    played = jax.device_get(play(np.float32([0, 0, 1, 1]), np.float32([2, 3, 2, 3])))
    np.testing.assert_array_equal(played.returns, [[3, 3], [6, 6]] * 2)
    np.testing.assert_array_equal(played.lengths, [[2, 2], [3, 3]] * 2)
    assert np.all(played.finished)


@struct.dataclass
class Cut:
    """Pays 1 a step, and a clock of each episode's own cuts it after 1, 2 or 3 steps."""

    def reset(self, key):
        return jax.random.randint(key, (), 1, 4), jnp.zeros(1)

    def step(self, key, state, action):
        return state - 1, TimeStep(
            observation=jnp.zeros(1),
            reward=jnp.ones(()),
            terminated=jnp.zeros((), bool),
            truncated=state == 1,
            cost=jnp.zeros((0,)),
            info={},
        )


def test_nothing_counts_after_a_cut_while_others_go_on():
    played = evaluate(KEY, Counter(), Cut(), (), num_episodes=40, max_steps=9)
    np.testing.assert_array_equal(played.returns, played.lengths)
    assert set(np.unique(played.lengths)) == {1, 2, 3} and np.all(played.finished)


@struct.dataclass
class Fading:
    """Pays the action, and ends with a probability that discounts: never before `max_steps`."""

    probability: float = 0.5

    def reset(self, key):
        return (), jnp.zeros(1)

    def step(self, key, state, action):
        return state, TimeStep(
            observation=jnp.zeros(1),
            reward=action[0],
            terminated=jnp.asarray(self.probability),
            truncated=jnp.zeros((), bool),
            cost=jnp.zeros((0,)),
            info={},
        )


def test_a_probability_of_ending_is_no_end_and_memory_goes_on():
    """The policy acts by the steps it has acted, each counted with the chance to come there: 0 +
    1/2 + 2/4 + 3/8; at probability 1, 0 and the end."""
    for probability, total in ((0.5, 1.375), (1.0, 0.0)):
        played = evaluate(KEY, Counter(), Fading(probability), (), num_episodes=2, max_steps=4)
        np.testing.assert_array_equal(played.returns, [total] * 2)
        assert np.all(np.asarray(played.finished) == (probability == 1.0))


@functools.cache
def geometric() -> TabularEnv:
    """Each step pays 1 and ends with probability 1/2."""
    return TabularEnv(
        outcome_mdp(
            [[[0.5, 0.5]]], [[[0, 0]]], [[[1.0, 1.0]]], terminal=np.array([[[False, True]]])
        )
    )


def test_episodes_are_independent_and_end_on_their_own():
    """Lengths are geometric of mean 2 and variance 2; returns equal them, nothing after the end."""
    played = evaluate(KEY, Constant(), geometric(), jnp.int32(0), num_episodes=4000)
    np.testing.assert_array_equal(played.returns, played.lengths)
    assert abs(float(played.mean) - 2.0) < 5 * (2.0 / 4000) ** 0.5
    counts = np.bincount(played.lengths, minlength=6)[1:5] / 4000
    np.testing.assert_allclose(counts, [1 / 2, 1 / 4, 1 / 8, 1 / 16], atol=5 * 0.5 / 4000**0.5)
    again = evaluate(KEY, Constant(), geometric(), jnp.int32(0), num_episodes=4000)
    np.testing.assert_array_equal(again.returns, played.returns)


LEVELS = (0.1, 0.25, 1.0)


@functools.cache
def tails(num_episodes):
    """Returns, their worst decile and, by level, their tails: one program for each size."""
    returns = np.random.default_rng(num_episodes).normal(10.0, 5.0, num_episodes)

    @jax.jit
    def measure(returns):
        played = Evaluation(returns, jnp.ones_like(returns), jnp.ones(num_episodes, bool))
        return played.worst_decile, [played.cvar(level) for level in LEVELS]

    decile, found = jax.device_get(measure(returns.astype(np.float32)))
    return returns, decile, dict(zip(LEVELS, found, strict=True))


SIZES = (1, 11)  # the others, programs of their own, where time is no matter


@pytest.mark.parametrize(
    "num_episodes",
    [n if n in SIZES else pytest.param(n, marks=pytest.mark.slow) for n in (1, 7, 10, 11, 95, 200)],
)
@pytest.mark.parametrize("level", LEVELS)
def test_tails_agree_with_numpy(num_episodes, level):
    returns, decile, found = tails(num_episodes)
    expected = np.quantile(returns, 0.1, method="inverted_cdf")
    np.testing.assert_allclose(decile, expected, rtol=1e-6)
    # The mean of the lowest `level` share of mass, the atom at its edge in part.
    mass = np.clip(level * num_episodes - np.arange(num_episodes), 0.0, 1.0)
    tail = mass @ np.sort(returns) / (level * num_episodes)
    np.testing.assert_allclose(found[level], tail, rtol=2e-5)


def test_returns_of_whole_numbers_have_a_tail():
    assert float(evaluation.tail_mean(0.5, np.array([4, 1, 3, 2]))) == 1.5


def test_another_number_in_agent_or_environment_does_not_compile_again():
    evaluate(KEY, Constant(0.9), line(), jnp.int32(1), num_episodes=5)
    size = play_episodes._cache_size()
    evaluate(
        jax.random.key(5),
        Constant(0.5, 2.0),
        line(),
        jnp.int32(0),
        num_episodes=5,
        max_steps=10_000,
    )
    env = line()
    faster = env.replace(mdp=env.mdp.replace(reward=2 * env.mdp.reward))
    assert float(evaluate(KEY, Constant(), faster, jnp.int32(1), num_episodes=5).mean) == 12.0
    assert play_episodes._cache_size() == size


@pytest.mark.slow
def test_agent_states_may_be_mapped_over():
    played = jax.vmap(
        lambda state: evaluate(KEY, Constant(), line(), state, num_episodes=2, max_steps=10)
    )(np.int32([0, 1]))
    np.testing.assert_array_equal(played.returns, [[-10.0, -10.0], [6.0, 6.0]])


@pytest.mark.parametrize("bad", [{"num_episodes": 0}, {"max_steps": 0}])
def test_nothing_to_play_is_refused(bad):
    with pytest.raises(ValueError, match="at least 1"):
        evaluate(KEY, Constant(), line(), jnp.int32(0), **bad)
