"""Money in markets whose regime changes: when to exercise an option, how much to hold of a share.

The regime is observed and part of the state, which keeps the problems finite and their optima
exact. Hide it (observe the price, or nothing) for a problem of partial observation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxrl.core import Struct, TabularMDP, check_settings, outcome_mdp, setting
from jaxrl.core.arguments import check_whole
from jaxrl.envs.finance import OptionTerms, stopping_mdp


def regime_option(
    terms: OptionTerms = OptionTerms(),
    multipliers: Sequence[float] = (1.0, 2.0),
    switch_rates: Sequence[float] = (1.0, 2.0),
    num_steps: int = 12,
    is_put: bool = True,
) -> TabularMDP:
    """When to exercise an option while the volatility of the share switches.

    In regime i the volatility is `terms.volatility multipliers[i]`. The regime is left at
    `switch_rates[i]`, for each other regime alike: P(regime after dt) = expm(Q dt). It is known,
    and independent of the price. On one tree for all regimes, with w the wildest volatility,

        dt = maturity / num_steps,  up = exp(w sqrt(dt)),  down = 1 / up,
        growth = exp((rate - dividend_yield) dt),  P_i(moves) = (volatility_i / w)^2,
        P_i(up) = (growth - 1 + P_i(moves) (1 - down)) / (up - down),
        P_i(down) = P_i(moves) - P_i(up),  else the price stays.

    So E price' = growth price in every regime, and the wildest one has the tree of
    `american_option`; with one regime both price alike. State (t^2 + j) R + i is time t, node j in
    [0, 2 t] and regime i of R; its price is spot up^(j - t).

    Action 0 holds, action 1 exercises: it pays max(strike - price, 0) (a put) or
    max(price - strike, 0) (a call) and ends. Holding at maturity pays nothing and ends. The
    discount is exp(-rate dt) [per step of the tree]: the optimal values of states 0, ..., R - 1
    are the prices of the option in each regime now [money]. Starts in regime 0. The wilder the
    regime, the longer one waits.

    Args:
        terms: share and contract.
        multipliers: of the volatility, one for each regime, > 0.
        switch_rates: at which each regime is left, at least 0 [per year].
        num_steps: exercise dates after now, at least 1; there are (num_steps + 1)^2 R states.
        is_put: whether it is a put; else a call.

    Raises:
        ValueError: a term is out of range, or so few steps that P(up) or P(down) is none.

    Sources: Bollen (1998), "Valuing options in regime-switching models", Journal of Derivatives 6;
    Yuen and Yang (2010), "Option pricing with regime switching by trinomial tree method", Journal
    of Computational and Applied Mathematics 233, for one tree with other probabilities in each
    regime. The probabilities above match price mean and log variance to order dt, and are ours.

    Example:
        >>> regime_option(num_steps=2).num_states
        18
    """
    from scipy.linalg import expm  # a third of a second that only this needs

    check_settings(terms)
    factors, leaving = (np.asarray(x, np.float64) for x in (multipliers, switch_rates))
    if factors.ndim != 1 or not factors.size or not np.all((factors > 0) & np.isfinite(factors)):
        raise ValueError(f"multipliers must be numbers > 0, one per regime; got {multipliers}.")
    if leaving.shape != factors.shape or not np.all((leaving >= 0) & np.isfinite(leaving)):
        raise ValueError(
            f"switch_rates must be numbers >= 0, one for each of {factors.size} regimes; got "
            f"{switch_rates}."
        )
    num_steps = check_whole("num_steps", num_steps)
    volatility = terms.volatility * factors
    log_up, growth, discount = terms.per_step(volatility.max(), num_steps)
    up = np.exp(log_up)
    moves = (volatility / volatility.max()) ** 2
    up_prob = (growth - 1 + moves * (1 - 1 / up)) / (up - 1 / up)
    by_move = np.stack([up_prob, 1 - moves, moves - up_prob], axis=1)  # [R, 3]: up, stay, down
    if np.any(by_move < 0):
        raise ValueError(
            f"P(up)={up_prob.tolist()} leaves a negative probability at {num_steps} steps: raise "
            "num_steps, or volatility against the rates."
        )
    num_regimes = factors.size
    others = _left_for(leaving)
    rates = others - np.diag(others.sum(axis=1))
    switching = expm(rates * (terms.maturity / num_steps))  # [R, R]

    time = np.repeat(np.arange(num_steps + 1), 2 * np.arange(num_steps + 1) + 1)
    node = np.arange(time.size) - time**2
    price = terms.spot * np.exp(log_up * (node - time))
    above = ((time + 1) ** 2 + node)[:, None] + np.array([2, 1, 0])  # nodes after up, stay, down
    after = above[:, None, :, None] * num_regimes + np.arange(num_regimes)  # [nodes, 1, 3, R]
    num_outcomes = 3 * num_regimes
    after = np.repeat(after, num_regimes, axis=1).reshape(-1, num_outcomes)
    chance = (by_move[:, :, None] * switching[:, None, :]).reshape(num_regimes, num_outcomes)
    chance = np.tile(chance, (time.size, 1))
    price, is_last = (np.repeat(x, num_regimes) for x in (price, time == num_steps))
    payoff = terms.payoff(price, is_put)
    return stopping_mdp(payoff, is_last, chance, after, discount)


class Regime(Struct):
    """A share in one regime of a market."""

    drift: float = setting(0.03, "expected return of the share", unit="per step")
    spread: float = setting(0.2, "standard deviation of that", unit="per step", low=0.0)
    leave_prob: float = setting(0.1, "probability of leaving", unit="per step", low=0.0, high=1.0)


CALM, PANIC = Regime(), Regime(drift=-0.02, spread=0.3, leave_prob=0.2)


def regime_portfolio(
    regimes: Sequence[Regime] = (CALM, PANIC),
    num_shares: int = 5,
    rate: float = 0.005,
    cost: float = 0.01,
    discount: float = 0.99,
) -> TabularMDP:
    """How much of one's wealth to hold in a share whose drift and spread depend on the regime.

        wealth' = wealth (1 - cost |a - h|) (1 + rate + a (return - rate))
        return = drift_i +- spread_i, each with probability 1/2
        reward = log(wealth' / wealth)

    h is the fraction of wealth held in the share, a the fraction chosen for this step. Then the
    regime i is left with `leave_prob`, for each other regime alike, independently of the return.
    State i num_shares + n holds n / (num_shares - 1) in regime i; action m chooses
    m / (num_shares - 1). Outcomes are the return up or down, for each regime that follows. Starts
    in regime 0 with nothing held; never ends.

    Why wealth is no state: its logarithm grows by the reward, whatever it is, so that a sum of
    rewards at discount 1 is the log growth of wealth, exactly. The model holds that a fraction
    stays as chosen through a step, which is what keeps the states finite. Without `cost` the
    optimum is myopic: the fraction of the greatest expected log growth in each regime. A cost makes
    it hold still while a change would not pay. The *static* entropic risk of the return at discount
    1 is that of a power utility: E wealth^(-b) for risk aversion b of log wealth.

    Args:
        regimes: at least one.
        num_shares: fractions 0, ..., 1 that may be held, at least 2.
        rate: interest on what is not held in the share [per step].
        cost: of trading, as a fraction of what is traded, in [0, 1).
        discount: gamma in [0, 1] [per step].

    Raises:
        ValueError: a number is out of range, or wealth could be lost whole.

    Sources: Kelly (1956), "A new interpretation of information rate", for the growth of wealth;
    Magill and Constantinides (1976), "Portfolio selection with transactions costs", for the region
    of no trade. The numbers are ours.

    Example:
        >>> mdp = regime_portfolio(cost=0.0)
        >>> mdp.num_states, mdp.num_actions, mdp.num_outcomes
        (10, 5, 4)
    """
    if num_shares < 2 or not len(regimes):
        raise ValueError("regime_portfolio needs num_shares >= 2 and at least one regime.")
    for regime in regimes:
        check_settings(regime)
    if not 0.0 <= cost < 1.0:
        raise ValueError(f"cost={cost} is out of range: give a value in [0, 1).")
    num_regimes, share = len(regimes), np.linspace(0.0, 1.0, num_shares)
    rows = [(regime.drift, regime.spread, regime.leave_prob) for regime in regimes]
    drift, spread, leaving = np.array(rows, np.float64).T
    if num_regimes == 1:
        leaving = np.zeros(1)
    switching = _left_for(leaving) + np.diag(1 - leaving)  # [R, R]
    gains = drift[:, None] + spread[:, None] * np.array([1.0, -1.0])  # [R, 2]
    grown = 1 + rate + share[:, None] * (gains[:, None, :] - rate)  # [R, chosen, 2]
    if not np.all(grown > 0):
        raise ValueError(f"wealth may be lost whole: growth {grown.min():g}; lower the spread.")
    paid = 1 - cost * np.abs(share - share[:, None])  # [held, chosen]
    growth = np.log(paid)[None, :, :, None] + np.log(grown)[:, None, :, :]
    # Axes: regime, held, chosen, return, regime after.
    shape = (num_regimes, num_shares, num_shares, 2, num_regimes)
    next_state = np.arange(num_regimes) * num_shares + np.arange(num_shares)[:, None, None]
    chance = 0.5 * switching[:, None, None, None, :]
    flat = (num_regimes * num_shares, num_shares, 2 * num_regimes)
    return outcome_mdp(
        np.broadcast_to(chance, shape).reshape(flat),
        np.broadcast_to(next_state, shape).reshape(flat),
        np.broadcast_to(growth[..., None], shape).reshape(flat),
        discount,
    )


def _left_for(leaving: np.ndarray) -> np.ndarray:
    """`[R, R]`, what leaves each regime by `leaving[R]` for each other one alike."""
    num_regimes = leaving.size
    return (leaving / max(num_regimes - 1, 1))[:, None] * (1 - np.eye(num_regimes))
