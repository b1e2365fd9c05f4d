"""Evaluation over settings: the grid, common random numbers, and intervals that keep dependence."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_policy import Linear
from scipy import stats
from toys import KEY, Clock

import jaxrl
from jaxrl.core import Box, TimeStep, outcome_mdp, struct
from jaxrl.envs import TabularEnv
from jaxrl.envs.control import CartPole, Pendulum
from jaxrl.envs.wrappers import TimeLimit, Uniform, domain_randomisation
from jaxrl.training import RobustEvaluation, evaluation

WEIGHTS = np.ones((1, 1), np.float32)
PLAY = {"num_episodes": 6, "max_steps": 60}


@struct.dataclass
class Drift:
    """Pays and shows where it is: carried on by `wind`, shaken by `noise`, until beyond 3."""

    wind: float = 0.5
    noise: float = 1.0

    observation_space, action_space = Box(-jnp.inf, jnp.inf, (1,)), Box(-jnp.inf, jnp.inf, (1,))

    def reset(self, key):
        return jnp.zeros(()), jnp.zeros(1)

    def step(self, key, state, action):
        state = state + self.wind + self.noise * jax.random.normal(key)
        return state, TimeStep(
            observation=state[None],
            reward=state + action[0],
            terminated=jnp.abs(state) > 3.0,
            truncated=jnp.zeros((), bool),
            cost=jnp.zeros((0,)),
            info={},
        )


def over(settings, env=None, key=KEY, **options):
    env = Drift() if env is None else env
    return jaxrl.evaluate(key, Linear(box=True), env, WEIGHTS, over=settings, **PLAY, **options)


def test_every_setting_is_played_as_if_alone():
    """Same keys, same agent: the row of a setting is what `evaluate` gives there."""
    winds, noises = [0.1, 0.9], [0.5, 1.0, 2.0]
    played = over({"wind": winds, "noise": noises})
    assert played.returns.shape == (6, 6)
    settings = [(wind, noise) for wind in winds for noise in noises]
    alone = jax.jit(
        jax.vmap(lambda env: jaxrl.evaluate(KEY, Linear(box=True), env, WEIGHTS, **PLAY))
    )(Drift(*np.float32(settings).T))
    columns = {name: np.asarray(values).tolist() for name, values in played.parameters.items()}
    np.testing.assert_allclose(list(zip(*columns.values(), strict=True)), settings, rtol=1e-6)
    assert played.setting(4) == pytest.approx({"wind": 0.9, "noise": 1.0})
    alone = jax.device_get(alone)
    np.testing.assert_array_equal(played.evaluation(4).lengths, alone.lengths[4])
    np.testing.assert_array_equal(played.lengths, alone.lengths)
    np.testing.assert_array_equal(played.finished, alone.finished)
    np.testing.assert_allclose(played.returns, alone.returns, rtol=1e-6)
    assert len(np.unique(played.returns)) == 36


def test_the_clock_and_the_model_end_the_episodes_of_a_setting_alike():
    """Lengths of 2 and 3, ended by either: 1 + 2 and 1 + 2 + 3, and both are finished."""
    settings = {"length": [2.0, 3.0], "truncates": [0.0, 1.0]}
    policy = Linear(box=True)
    played = jaxrl.evaluate(
        KEY, policy, Clock(), np.zeros((2, 1), np.float32), over=settings, **PLAY
    )
    np.testing.assert_array_equal(played.lengths, [[2] * 6] * 2 + [[3] * 6] * 2)
    np.testing.assert_array_equal(played.returns, [[3.0] * 6] * 2 + [[6.0] * 6] * 2)
    assert np.all(played.finished)


def test_paired_values_go_together():
    """The pairs are those of the grid, in another order: as many, so that one program serves."""
    winds, noises = [0.1, 0.9, 0.1, 0.9, 0.9, 0.1], [0.5, 2.0, 1.0, 0.5, 1.0, 2.0]
    played = over({"wind": winds, "noise": noises}, paired=True)
    assert played.returns.shape == (6, 6)
    assert played.setting(1) == pytest.approx({"wind": 0.9, "noise": 2.0})
    whole = np.asarray(over({"wind": [0.1, 0.9], "noise": [0.5, 1.0, 2.0]}).returns)
    np.testing.assert_allclose(played.returns, whole[[0, 5, 1, 3, 4, 2]], rtol=1e-6)


def test_names_reach_into_wrappers_as_the_settings_of_an_agent_do():
    env = TimeLimit(Drift(), 50)
    played = over({"max_steps": [3, 5], "env.noise": [0.0]}, env)
    np.testing.assert_array_equal(played.lengths, [[3] * 6, [5] * 6])
    assert list(played.parameters) == ["max_steps", "env.noise"]
    # 0.5, 1, 1.5 and the place before, which the policy repeats: 3 + 1.5; then 5 more and so on.
    np.testing.assert_allclose(played.setting_means, [3.0 + 1.5, 7.5 + 5.0], rtol=1e-6)


def test_other_values_and_another_agent_state_do_not_compile_again():
    over({"wind": [0.1, 0.3], "noise": [0.5, 1.0, 2.0]})
    size = evaluation._play_each._cache_size()
    other = {"wind": [0.2, 0.4], "noise": [0.6, 0.7, 0.8]}
    over(other, Drift(noise=0.3), jax.random.key(3))
    assert evaluation._play_each._cache_size() == size


@pytest.mark.slow
def test_it_is_pure():
    @jax.jit
    def worst(weights, noise):
        env = Drift(noise=noise)
        grid = {"wind": [0.1, 0.9]}
        return jaxrl.evaluate(KEY, Linear(box=True), env, weights, over=grid, **PLAY).setting_means

    expected = over({"wind": [0.1, 0.9]}, Drift(noise=2.0)).setting_means
    np.testing.assert_allclose(worst(WEIGHTS, 2.0), expected, rtol=1e-6)


def coin(prob):
    """Each step pays 1 and ends with probability `prob`."""
    ends = np.array([[[False, True]]])
    return TabularEnv(
        outcome_mdp([[[1 - prob, prob]]], [[[0, 0]]], [[[1.0, 1.0]]], terminal=ends), one_hot=True
    )


@pytest.mark.slow
def test_environments_of_any_kind_share_their_episodes_unless_told_otherwise():
    """That they share none where told so is read off their keys in test_keys.py."""
    envs, one = [coin(0.5), coin(0.5), coin(0.25)], np.ones((1, 1), np.float32)
    same = jaxrl.evaluate_each(KEY, Linear(), envs, one, num_episodes=2000)
    np.testing.assert_array_equal(same.returns[0], same.returns[1])
    assert abs(float(same.setting_means[2]) - 4.0) < 5 * (12.0 / 2000) ** 0.5
    # By inverse CDF, a draw that ends at 1/4 ends at 1/2 as well: no episode is shorter.
    longer, shorter = np.asarray(same.returns[2]), np.asarray(same.returns[0])
    assert np.all(longer >= shorter) and np.any(longer > shorter)


def made(returns, same_episodes=True):
    shape = returns.shape
    return RobustEvaluation(
        jnp.asarray(returns), jnp.ones(shape), jnp.ones(shape, bool), {}, same_episodes
    )


@pytest.mark.parametrize("same_episodes", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_numbers_of_all_settings(same_episodes):
    """Against NumPy: means of rows, the least of them, and means of the lowest values."""
    returns = np.random.default_rng(0).normal(5.0, 2.0, (5, 40)).astype(np.float32)
    returns += 3 * np.arange(5)[:, None]
    played = made(returns, same_episodes)
    summary = played.summary(tail=0.4, num_resamples=200)
    rows = np.sort(returns.mean(1))
    expected = {
        "mean": returns.mean(),
        "worst": rows[0],
        "cvar_settings": rows[:2].mean(),
        "cvar_episodes": np.sort(returns.ravel())[:80].mean(),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(summary[name].value, value, rtol=1e-5)
        assert summary[name].low < value < summary[name].high

    @jax.jit
    def traced(played):
        numbers = [played.mean, played.worst, played.cvar_over_settings(0.4), played.cvar(0.4)]
        return jnp.stack(numbers), played.setting_cvars(0.4)

    numbers, setting_tails = traced(played)
    np.testing.assert_allclose(numbers, list(expected.values()), rtol=1e-4)
    tails = np.sort(returns, axis=1)[:, :16].mean(1)
    np.testing.assert_allclose(setting_tails, tails, rtol=1e-4)
    assert int(played.worst_setting) == np.argmin(returns.mean(1))
    for row, estimate in zip(returns, played.setting_summary(num_resamples=200), strict=True):
        assert estimate.value == pytest.approx(row.mean(), rel=1e-6)


def test_intervals_agree_with_scipy_s_bootstrap():
    row = np.random.default_rng(1).gamma(2.0, 3.0, (1, 60))
    ours = evaluation.stratified_estimate(
        row, evaluation.mean_of_settings, same_episodes=True, num_resamples=8000
    )
    theirs = stats.bootstrap(
        row, np.mean, n_resamples=8000, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    spread = theirs.high - theirs.low
    np.testing.assert_allclose([ours.low, ours.high], theirs, atol=0.05 * spread)


@pytest.mark.parametrize("same_episodes", [True, False])
def test_intervals_of_a_mean_know_whether_settings_share_their_chance(same_episodes):
    """Nine settings that repeat one row tell no more than one; nine independent rows three times
    as much. The interval of the right kind covers the truth, here 0, in 95 % of 300 samples."""
    rng, covered, widths = np.random.default_rng(2), 0, []
    for trial in range(300):
        if same_episodes:
            returns = np.repeat(rng.normal(0, 1, (1, 50)), 9, axis=0)
        else:
            returns = rng.normal(0, 1, (9, 50))
        got = evaluation.stratified_estimate(
            returns,
            evaluation.mean_of_settings,
            same_episodes=same_episodes,
            num_resamples=300,
            seed=trial,
        )
        covered += got.low <= 0.0 <= got.high
        width = 2 * 1.96 / np.sqrt(50 if same_episodes else 450)
        widths.append((got.high - got.low) / width)
    assert 0.90 < covered / 300 < 0.985
    # That of a resample is the sample's, short of the law's by a root of 49 / 50 on average.
    np.testing.assert_allclose(np.mean(widths), np.sqrt(49 / 50), atol=0.03)


def test_a_diverged_episode_leaves_no_lower_bound():
    returns = np.ones((2, 30))
    returns[1, 3] = np.nan
    worst = made(returns).summary(num_resamples=100)["mean"]
    assert np.isnan(worst.value) and worst.low == -np.inf


def test_what_cannot_be_varied_is_refused():
    bad = {
        "no values": {"gravity": []},
        "out of range": {"pole_mass": [0.1, -0.2]},
        "given twice": {"gravity": [9.0], "env.gravity": [8.0]},
        "names no parameter": {},
    }
    for message, settings in bad.items():
        with pytest.raises(ValueError, match=message):
            over(settings, TimeLimit(CartPole(), 50))
    with pytest.raises(KeyError, match="pole_mass"):
        over({"pole_mess": [0.1]}, CartPole())
    with pytest.raises(ValueError, match="equal numbers"):
        over({"gravity": [1.0], "pole_mass": [0.1, 0.2]}, CartPole(), paired=True)
    with pytest.raises(ValueError, match="inside it"):
        over({"gravity": [9.0]}, domain_randomisation(CartPole(), {"gravity": Uniform(8.0, 9.0)}))
    with pytest.raises(ValueError, match="one at a time"):
        jaxrl.evaluate_each(KEY, Linear(), [CartPole(), Pendulum()], WEIGHTS, **PLAY)
    with pytest.raises(ValueError, match="at least one"):
        jaxrl.evaluate_each(KEY, Linear(), [], WEIGHTS, **PLAY)
