"""Smoothing certificates: bounds against SciPy, a case where they are tight, attacks that fail."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_policy import Linear
from scipy import integrate, stats
from toys import KEY

import jaxrl
from jaxrl.agents import NormalisedAgent, response
from jaxrl.core import Box, TimeStep, struct
from jaxrl.envs import TabularEnv, riverswim
from jaxrl.envs.control import CartPole
from jaxrl.envs.wrappers import RunningMoments
from jaxrl.training import (
    GradientAttack,
    SensorBias,
    SmoothedPolicy,
    smoothing,
)
from jaxrl.training.evaluation import play_episodes
from jaxrl.training.smoothing import SmoothingCertificate

IDENTITY = np.ones((1, 1), np.float32)


@pytest.mark.parametrize("num_trials", [pytest.param(1, marks=pytest.mark.slow), 7, 20_000])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 1 - 1e-6])
def test_clopper_pearson_is_scipy_s(num_trials, confidence):
    successes = np.unique(np.linspace(0, num_trials, 9).astype(int))[1:]
    expected = stats.beta.ppf(1 - confidence, successes, num_trials - successes + 1)
    bound = smoothing.clopper_pearson_lower(successes, num_trials, confidence)
    np.testing.assert_allclose(bound, expected, rtol=1e-9)
    exact = stats.binomtest(int(successes[0]), num_trials, alternative="greater")
    low = exact.proportion_ci(confidence, method="exact").low
    np.testing.assert_allclose(bound[0], low, rtol=1e-6, atol=1e-11)
    assert smoothing.clopper_pearson_lower(0, num_trials, confidence) == 0.0


LAWS = {
    "continuous": (lambda rng, size: rng.random(size), lambda x: 1 - x),
    "three values": (
        lambda rng, size: rng.choice(3, size, p=[0.02, 0.18, 0.8]).astype(float),
        lambda x: np.array([1.0, 0.98, 0.8])[x.astype(int)],
    ),
}


@pytest.mark.parametrize("law", LAWS)
def test_the_band_holds_everywhere_at_once_as_often_as_it_says(law):
    """Of 4,000 samples of 300, at most a tenth may cross, give or take four standard errors."""
    draw, survival = LAWS[law]
    band = smoothing.survival_band(300, 0.9)
    assert np.all(np.diff(band) <= 0)
    samples = np.sort(draw(np.random.default_rng(0), (4000, 300)), axis=1)
    crossed = np.any(band > survival(samples), axis=1)
    assert crossed.mean() <= 0.1 + 4 * np.sqrt(0.09 / 4000)
    assert crossed.mean() > 0.01 or law != "continuous"  # and is not wider than it need be


def test_the_band_beats_each_of_its_halves_where_it_should():
    """Near 1 it is close to exact; in the middle it loses no more than its half's slack."""
    band = smoothing.survival_band(20_000, 0.95)
    slack = np.sqrt(np.log(40.0) / 40_000)
    assert band[0] > 0.9994 and 1 - slack < 0.991
    np.testing.assert_allclose(band[10_000], 0.5 - slack, atol=1e-9)


def certificate_of(returns, lowest=0.0, scale=0.5):
    return SmoothingCertificate(np.sort(returns), scale, 0.95, lowest, 100, 0)


def test_the_certified_mean_is_the_integral_over_thresholds():
    """SciPy integrates the staircase of shifted bounds; at budget 0 that of the bounds alone."""
    returns = np.random.default_rng(1).gamma(4.0, 5.0, 20) - 2.0
    certificate, ranked = certificate_of(returns, lowest=-2.0), np.sort(returns)
    band = smoothing.survival_band(20, 0.95)

    for budget in (0.0, 0.9):

        def height(x, budget=budget):
            prob = band[np.searchsorted(ranked, x)]
            return stats.norm.cdf(stats.norm.ppf(prob) - budget / 0.5)

        pieces = zip([-2.0, *ranked[:-1]], ranked, strict=True)
        area = sum(integrate.quad(height, low, high)[0] for low, high in pieces)
        np.testing.assert_allclose(certificate.mean(budget), -2.0 + area, rtol=1e-9)
    assert certificate.mean(0.0) < returns.mean()
    reached = int(np.sum(returns >= 15.0))
    low = stats.binomtest(reached, 20, alternative="greater").proportion_ci(0.95, "exact").low
    np.testing.assert_allclose(certificate.probability(15.0), low, rtol=1e-6)


@pytest.mark.slow
def test_more_budget_certifies_less_down_to_the_lowest_return():
    returns = np.random.default_rng(2).uniform(1.0, 9.0, 300)
    certificate = certificate_of(returns)
    budgets = np.array([0.0, 1e-9, 0.1, 0.5, 1.0, 5.0, np.inf])
    means, probs = certificate.mean(budgets), certificate.probability(4.0, budgets)
    assert np.all(np.diff(means) <= 0) and np.all(np.diff(probs) <= 0)
    assert means[-1] == 0.0 and probs[-1] == 0.0
    # The Dvoretzky-Kiefer-Wolfowitz half of the band loses its slack on all of [0, 9], at most.
    slack = np.sqrt(np.log(2.0 / 0.05) / (2 * 300))
    assert returns.mean() - 9.0 * slack < means[0] < returns.mean()
    np.testing.assert_allclose(means[1], means[0], rtol=1e-6)
    for target in (4.0, 1.0):
        budget = certificate.largest_budget(target)
        np.testing.assert_allclose(certificate.mean(budget), target, rtol=1e-9)
    assert certificate.largest_budget(9.0) == 0.0
    assert certificate.largest_budget(0.0) == np.inf


@struct.dataclass
class Tally:
    """Shows 0 for nine steps and pays 1 at the end when the actions sum to `least` or more."""

    least: float = -1.5

    @property
    def observation_space(self):
        return Box(-jnp.inf, jnp.inf, (1,))

    @property
    def action_space(self):
        return Box(-jnp.inf, jnp.inf, (1,))

    def reset(self, key):
        return (jnp.zeros(()), jnp.zeros(())), jnp.zeros(1)

    def step(self, key, state, action):
        total, time = state[0] + action[0], state[1] + 1
        return (total, time), TimeStep(
            observation=jnp.zeros(1),
            reward=jnp.where((time >= 9) & (total >= self.least), 1.0, 0.0),
            terminated=time >= 9,
            truncated=jnp.zeros((), bool),
            cost=jnp.zeros((0,)),
            info={},
        )


@functools.cache
def certificate_of_tally():
    return jaxrl.certify_smoothed(
        KEY, Linear(box=True), Tally(), IDENTITY, scale=0.5, num_episodes=40_000, max_steps=20
    )


@pytest.mark.parametrize("budget", [0.0, 0.4, 1.0])
def test_the_certificate_is_tight_where_the_best_attack_is_known(budget):
    """The policy adds up its noise, N(0, 9 scale^2) with scale 1/2; the return is 1 above -1.5,
    so with probability Phi(1). Spread evenly, a budget moves the sum by 3 budget, that is by
    budget / scale standard deviations: exactly what the theorem allows. A certificate for a budget
    of every step, or for one draw of noise in all steps, would be wrong here."""
    agent, env, certificate = Linear(box=True), Tally(), certificate_of_tally()
    exact = stats.norm.cdf(1.0 - budget / 0.5)
    attack = SensorBias(-budget / 3.0)
    attacked = jaxrl.evaluate(
        jax.random.key(1),
        SmoothedPolicy(agent, 0.5),
        env,
        IDENTITY,
        attack=attack,
        num_episodes=40_000,
        max_steps=20,
    )
    error = np.sqrt(exact * (1 - exact) / 40_000)
    assert abs(float(attacked.mean) - exact) < 5 * error
    bound = certificate.probability(1.0, budget)
    assert exact - 8 * error < bound < exact
    assert exact - 0.015 < certificate.mean(budget) < exact


@pytest.mark.slow
def test_gradient_attacks_on_cartpole_stay_above_the_certificate():
    """They ruin the plain policy, which shows that they are attacks."""
    env = CartPole(time_limit=50.0)
    gains = jnp.array([0.3, 1.0, 10.0, 2.0])
    weights = jnp.stack([-gains, gains], axis=1)
    agent, scale = Linear(), 0.1
    play = {"num_episodes": 100, "max_steps": 50}
    certificate = jaxrl.certify_smoothed(
        KEY, agent, env, weights, scale=scale, num_episodes=2000, max_steps=50
    )
    assert certificate.mean(0.0) > 49.0  # the noise costs little
    assert certificate.mean(scale) > 45.0 and certificate.mean(2 * scale) > 30.0

    def attacked(policy, radius, budget):
        attack = GradientAttack(radius, budget, num_steps=2, frugal=True)
        return jaxrl.evaluate(KEY, policy, env, weights, attack=attack, **play).returns

    assert attacked(agent, 1.0, 0.5).mean() < 20.0
    for radius, budget in ((0.05, 2.0 * scale), (0.1, 4.0 * scale), (0.3, 6.0 * scale)):
        returns = np.asarray(attacked(SmoothedPolicy(agent, scale), radius, budget))
        assert returns.mean() > certificate.mean(budget)
        for threshold in (20.0, 45.0):
            share = np.mean(returns >= threshold)
            assert share > certificate.probability(threshold, budget)
    assert returns.mean() < 45.0  # the last attack bites through the noise


@pytest.mark.slow
def test_an_attack_on_a_table_stays_above_the_certificate():
    """One-hot states and a table of action values; never a negative reward."""
    env = TabularEnv(riverswim(4), time_limit=20.0, one_hot=True)
    q_values = jnp.array([[0.0, 1.0]] * 4)
    play = {"num_episodes": 500, "max_steps": 20}
    certificate = jaxrl.certify_smoothed(KEY, Linear(), env, q_values, scale=0.5, **play)
    clean = certificate.mean(0.0)
    attacked = {}
    for budget in (0.5, 2.0):
        attack = GradientAttack(0.5, budget, num_steps=2)
        policy = SmoothedPolicy(Linear(), 0.5)
        played = jaxrl.evaluate(KEY, policy, env, q_values, attack=attack, **play)
        attacked[budget] = float(played.mean)
        assert attacked[budget] > certificate.mean(budget)
    assert attacked[2.0] < attacked[0.5] < 1.05 * np.mean(certificate.returns)
    assert 0.3 * clean < certificate.mean(0.1)


def test_noise_is_gaussian_fresh_and_in_raw_units():
    """A running normaliser that divides by 10 comes after it."""
    seen = np.full((5000, 1), 3.0, np.float32)

    @jax.jit
    def acts(key, policy, state, seen):
        return policy.act(key, state, seen)[0]

    policy = SmoothedPolicy(Linear(box=True), 2.0)
    draws = [acts(jax.random.key(k), policy, IDENTITY, seen) for k in (1, 2)]
    for drawn in draws:
        assert stats.kstest(np.ravel(drawn), stats.norm(3.0, 2.0).cdf).pvalue > 1e-4
    assert abs(np.corrcoef(np.ravel(draws[0]), np.ravel(draws[1]))[0, 1]) < 0.06
    outer = NormalisedAgent(Linear(box=True))
    moments = RunningMoments(np.zeros(1, np.float32), np.float32([100.0]), np.float32(1e4))
    state = outer.init(KEY, CartPole()).replace(inner=IDENTITY, observation=moments)
    drawn = acts(KEY, SmoothedPolicy(outer, 2.0), state, 0.0 * seen)
    np.testing.assert_allclose(np.std(drawn), 0.2, rtol=0.05)


def test_the_response_that_an_attacker_computes_is_the_mean_of_sixteen_draws():
    """Of N(3, 2^2) in each of 5000 rows: normal of deviation 2 / 4 about 3."""
    seen = np.full((5000, 1), 3.0, np.float32)
    kinds = []

    @jax.jit
    def responses(key):
        rows, discrete = response(SmoothedPolicy(Linear(box=True), 2.0), key, IDENTITY, seen, ())
        kinds.append(discrete)
        return rows

    rows = responses(KEY)
    assert kinds == [False]
    assert stats.kstest(np.ravel(rows), stats.norm(3.0, 0.5).cdf).pvalue > 1e-4


def test_another_scale_does_not_compile_again():
    for scale in (0.1, 0.2, 0.9):
        jaxrl.certify_smoothed(
            KEY, Linear(box=True), Tally(), IDENTITY, scale=scale, num_episodes=3, max_steps=20
        )
        if scale == 0.2:
            size = play_episodes._cache_size()
    assert play_episodes._cache_size() == size


def test_what_cannot_be_certified_is_refused():
    def certify(agent=None, env=None, state=IDENTITY, **changes):
        settings = {"scale": 0.5, "num_episodes": 3, "max_steps": 20, **changes}
        agent = Linear(box=True) if agent is None else agent
        return jaxrl.certify_smoothed(KEY, agent, env or Tally(), state, **settings)

    with pytest.raises(ValueError, match="below lowest_return"):
        certify(lowest_return=0.5, env=Tally(least=100.0))
    for bad in ({"scale": 0.0}, {"confidence": 1.0}, {"num_episodes": 0}, {"max_steps": 0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            certify(**bad)
    with pytest.raises(ValueError, match="smoothed already"):
        certify(agent=SmoothedPolicy(Linear(box=True)))
    with pytest.raises(ValueError, match="one_hot"):
        certify(agent=Linear(), env=TabularEnv(riverswim(), time_limit=5.0))
    with pytest.raises(ValueError, match="budget"):
        certificate_of(np.ones(3)).mean(-1.0)
