"""Regimes: the option against trees and integrals of other hands, the portfolio against Kelly."""

import math

import jax
import numpy as np
import pytest
from scipy.linalg import expm
from scipy.optimize import minimize_scalar

from jaxrl import envs, planning
from jaxrl.envs import OptionTerms, Regime

TERMS = OptionTerms(spot=95.0, rate=0.06, volatility=0.25, dividend_yield=0.02)


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def backward(mdp, num_sweeps):
    """Optimal values `[S]` and q-values by backward induction in numpy."""
    prob, reward, terminal = (np.asarray(x, float) for x in (mdp.prob, mdp.reward, mdp.terminal))
    next_state, value = np.asarray(mdp.next_state), np.zeros(mdp.num_states)
    q_values = np.zeros(mdp.legal.shape)
    for _ in range(num_sweeps):
        worth = reward + float(mdp.discount) * (1 - terminal) * value[next_state]
        q_values = np.sum(prob * worth, axis=-1)
        value = q_values.max(axis=1)
    return value, q_values


def prices(num_steps, terms=TERMS, **arguments):
    mdp = envs.regime_option(terms, num_steps=num_steps, **arguments)
    return backward(mdp, num_steps + 1)[0]


# The option


@pytest.mark.parametrize("is_put", [True, False])
@pytest.mark.parametrize("num_steps", [1, 9])
def test_one_regime_or_equal_ones_are_the_plain_option(num_steps, is_put):
    plain = backward(envs.american_option(TERMS, num_steps, is_put), num_steps + 1)[0][0]
    one = prices(num_steps, multipliers=[1.0], switch_rates=[0.0], is_put=is_put)
    assert one[0] == pytest.approx(plain, rel=1e-12)
    equal = prices(num_steps, multipliers=[1.0] * 3, switch_rates=[1, 2, 3], is_put=is_put)
    np.testing.assert_allclose(equal[:3], plain, rtol=1e-12)


def tree_price(terms, multipliers, rates, num_steps):
    """American put in each regime on the same tree, written as the moments it must match."""
    step, num_regimes = terms.maturity / num_steps, len(multipliers)
    jump = terms.volatility * max(multipliers) * math.sqrt(step)
    ratios = np.exp([jump, 0.0, -jump])
    laws = []
    for factor in multipliers:  # total, mean price, share of moves
        moments = [[1, 1, 1], ratios, [1, 0, 1]]
        mean = math.exp((terms.rate - terms.dividend_yield) * step)
        laws.append(np.linalg.solve(moments, [1, mean, (factor / max(multipliers)) ** 2]))
    generator = np.array(
        [
            [-rates[i] if i == j else rates[i] / (num_regimes - 1) for j in range(num_regimes)]
            for i in range(num_regimes)
        ]
    )
    switching = expm(generator * step)

    def price(time, height, regime):
        now = max(terms.strike - terms.spot * math.exp(jump * height), 0.0)
        if time == num_steps:
            return now
        hold = sum(
            laws[regime][k] * switching[regime, j] * price(time + 1, height + 1 - k, j)
            for k in range(3)
            for j in range(num_regimes)
        )
        return max(now, math.exp(-terms.rate * step) * hold)

    return [price(0, 0, regime) for regime in range(num_regimes)]


@pytest.mark.parametrize(
    ("multipliers", "rates"), [([1.0, 2.0], [1.0, 4.0]), ([1.5, 0.8, 1.0], [0.5, 3.0, 0.0])]
)
def test_small_trees_by_recursion(multipliers, rates):
    ours = prices(4, multipliers=multipliers, switch_rates=rates)
    expected = tree_price(TERMS, multipliers, rates, 4)
    np.testing.assert_allclose(ours[: len(rates)], expected, rtol=1e-12)


def european_call(terms, multipliers, rates):
    """Exact prices in two regimes by inverting the characteristic function of the log price."""
    generator = np.array([[-rates[0], rates[0]], [rates[1], -rates[1]]])
    variance = (terms.volatility * np.array(multipliers)) ** 2
    carry, log_ratio = terms.rate - terms.dividend_yield, math.log(terms.strike / terms.spot)

    def characteristic(u):  # [..., regime]
        u = np.asarray(u)[..., None]
        exponent = 1j * u * (carry - variance / 2) - u**2 * variance / 2
        return expm(terms.maturity * (generator + exponent[..., None] * np.eye(2))).sum(axis=-1)

    nodes, weights = np.polynomial.legendre.leggauss(200)
    u, weights = 30.0 * (nodes + 1.0), 30.0 * weights  # the integrand is gone at u = 60
    chances = []
    for shift in (-1j, 0.0):  # with the share as numeraire, and with cash
        ratio = characteristic(u + shift) / characteristic(shift)
        wave = (np.exp(-1j * u * log_ratio) / (1j * u))[:, None] * ratio
        chances.append(0.5 + weights @ wave.real / math.pi)
    share = terms.spot * math.exp(-terms.dividend_yield * terms.maturity) * chances[0]
    return share - terms.strike * math.exp(-terms.rate * terms.maturity) * chances[1]


def black_scholes(terms):
    normal = lambda x: 0.5 * (1 + math.erf(x / math.sqrt(2)))  # noqa: E731
    total = terms.volatility * math.sqrt(terms.maturity)
    high = (math.log(terms.spot / terms.strike) + terms.rate * terms.maturity) / total + total / 2
    cash = terms.strike * math.exp(-terms.rate * terms.maturity)
    return terms.spot * normal(high) - cash * normal(high - total)


@pytest.mark.slow
def test_call_without_dividends_tends_to_the_integral():
    # Never worth exercising early, so that American and European prices are one.
    terms = OptionTerms(spot=95.0, rate=0.06, volatility=0.25)
    exact = european_call(terms, [1.0, 2.0], [1.0, 2.0])
    calm = european_call(terms, [1.0, 1.0], [1.0, 2.0])
    np.testing.assert_allclose(calm, black_scholes(terms), atol=1e-6)
    for num_steps in (10, 40):
        ours = prices(num_steps, terms, switch_rates=[1.0, 2.0], is_put=False)[:2]
        assert np.all(np.abs(ours - exact) < 8 / num_steps)


def test_one_waits_longer_in_the_wild_regime():
    num_steps = 30
    mdp = jax.device_get(envs.regime_option(TERMS, num_steps=num_steps))
    value, q_values = backward(mdp, num_steps + 1)
    pays = np.asarray(mdp.reward)[:, 1, 0].reshape(-1, 2) > 0
    stops = (q_values[:, 1] >= q_values[:, 0]).reshape(-1, 2) & pays
    before_last = slice(0, num_steps**2)
    assert np.all(stops[before_last, 0] | ~stops[before_last, 1])  # stops if wild: stops if calm
    assert stops[before_last, 0].sum() > stops[before_last, 1].sum() > 0
    value = value.reshape(-1, 2)
    assert np.all(value[:, 1] >= value[:, 0] - 1e-12) and value[0, 1] > value[0, 0] + 1.0
    # Prices of node j at time t are spot up^(j - t): the tree of the wild volatility.
    up = math.exp(0.5 * math.sqrt(1 / num_steps))
    assert float(mdp.reward[2 * (4 + 0), 1, 0]) == pytest.approx(100 - 95 / up**2)
    assert mdp.next_state[2 * 4, 0].tolist() == [22, 23, 20, 21, 18, 19]  # t = 2, j = 0
    assert np.argmax(mdp.initial) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 0}, "num_steps=0"),
        ({"multipliers": [1.0, -1.0]}, "multipliers must be"),
        ({"switch_rates": [1.0]}, "each of 2 regimes"),
        ({"switch_rates": [1.0, -1.0]}, "switch_rates must be"),
        ({"terms": OptionTerms(volatility=-1.0)}, "volatility"),
        ({"terms": OptionTerms(rate=0.9, volatility=0.05), "num_steps": 2}, "raise num_steps"),
    ],
)
def test_bad_options_give_one_clear_line(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        envs.regime_option(**arguments)
    assert "\n" not in str(error.value)


# The portfolio

MARKET = (Regime(0.05, 0.3, 0.1), Regime(0.01, 0.2, 0.3), Regime(-0.05, 0.3, 0.5))
RATE = 0.005


def log_growth(regime, share):
    """Expected log growth of a fraction held, and its two values."""
    grown = [1 + RATE + share * (regime.drift + s * regime.spread - RATE) for s in (1, -1)]
    return np.mean(np.log(grown), axis=0), np.array(grown)


def best_shares(mdp, num_shares, **arguments):
    """The share chosen in `[regime, held]`."""
    policy = planning.value_iteration(mdp, **arguments).policy
    return np.argmax(policy, axis=1).reshape(-1, num_shares)


@pytest.mark.slow
def test_without_cost_one_holds_kelly_s_share():
    mdp = envs.regime_portfolio(MARKET, 101, RATE, cost=0.0, discount=0.9)
    chosen = best_shares(mdp, 101)
    kelly = [
        minimize_scalar(lambda x, m=m: -log_growth(m, x)[0], bounds=(0, 1), method="bounded").x
        for m in MARKET
    ]
    assert 0.4 < kelly[0] < 0.6  # inside
    np.testing.assert_allclose(chosen / 100, np.array(kelly)[:, None] * np.ones(101), atol=0.0051)


@pytest.mark.slow
def test_values_without_cost_are_those_of_the_regime_chain():
    mdp = envs.regime_portfolio(MARKET, 5, RATE, cost=0.0, discount=0.9)
    shares = np.linspace(0, 1, 5)
    best = [log_growth(m, shares)[0].max() for m in MARKET]
    stays = [m.leave_prob for m in MARKET]
    chain = np.array([[1 - q if i == j else q / 2 for j in range(3)] for i, q in enumerate(stays)])
    expected = np.linalg.solve(np.eye(3) - 0.9 * chain, best)
    values = planning.value_iteration(mdp, tolerance=1e-9).values.reshape(3, 5)
    np.testing.assert_allclose(values, np.repeat(expected[:, None], 5, axis=1), atol=1e-8)


def test_rewards_are_the_growth_of_wealth():
    # Two steps by hand: from nothing held to half, the share gains; then to all, it loses and the
    # market falls into its second regime.
    mdp = jax.device_get(envs.regime_portfolio(num_shares=3, rate=0.01, cost=0.02))
    first = int(np.flatnonzero(np.asarray(mdp.next_state)[0, 1] == 1)[0])
    fall = 2 + 1  # outcomes: (gain, loss) x regime after
    assert mdp.next_state[1, 2].tolist() == [2, 5, 2, 5]
    total = float(mdp.reward[0, 1, first] + mdp.reward[1, 2, fall])
    wealth = (1 - 0.02 * 0.5) * (1 + 0.5 * 0.01 + 0.5 * 0.23)
    wealth *= (1 - 0.02 * 0.5) * (1 - 0.17)
    assert total == pytest.approx(math.log(wealth), rel=1e-12)
    np.testing.assert_allclose(mdp.prob[1, 2], [0.45, 0.05, 0.45, 0.05])
    np.testing.assert_allclose(mdp.prob[4, 2], [0.1, 0.4, 0.1, 0.4])


@pytest.mark.slow
def test_cost_makes_it_hold_still():
    trades = []
    for cost in (0.0, 0.003, 0.01, 0.05, 0.5):
        chosen = best_shares(envs.regime_portfolio(MARKET, 9, RATE, cost), 9)
        trades.append(int(np.sum(chosen != np.arange(9))))
        # No trade between two bounds; from outside one goes to the nearer bound.
        assert np.all(np.diff(chosen, axis=1) >= 0)
    assert trades[0] == 3 * 8 and np.all(np.diff(trades) <= 0) and trades[-1] < trades[2] < 24


@pytest.mark.slow
@pytest.mark.parametrize("aversion", [0.5, 3.0])
def test_entropic_risk_of_log_wealth_is_power_utility(aversion):
    market, shares = Regime(0.05, 0.3, 0.0), np.linspace(0, 1, 21)
    mdp = envs.regime_portfolio([market], 21, RATE, cost=0.0, discount=1.0)
    plan = planning.static_entropic(mdp, risk_aversion=aversion, horizon=4)
    utility = np.mean(log_growth(market, shares)[1] ** -aversion, axis=0)  # E wealth^-b of a step
    assert float(plan.value) == pytest.approx(-4 * math.log(utility.min()) / aversion, rel=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_shares": 1}, "num_shares >= 2"),
        ({"regimes": ()}, "at least one regime"),
        ({"regimes": [Regime(leave_prob=1.5)]}, "leave_prob=1.5"),
        ({"regimes": [Regime(spread=2.0)]}, "lost whole"),
        ({"cost": 1.0}, "cost=1.0"),
    ],
)
def test_bad_portfolios_give_one_clear_line(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        envs.regime_portfolio(**arguments)
    assert "\n" not in str(error.value)
