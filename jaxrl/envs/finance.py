"""Money at stake: the gambler and the American option."""

from __future__ import annotations

import numpy as np

from jaxrl.core import Struct, TabularMDP, check_settings, outcome_mdp, setting
from jaxrl.core.arguments import check_prob, check_whole


def gambler(goal: int = 100, head_prob: float = 0.4, discount: float = 1.0) -> TabularMDP:
    """Bet on coin flips until the goal or ruin.

    State s is the capital. Action a stakes a, in [1, min(s, goal - s)]: heads win it, tails lose
    it. Reaching `goal` pays 1; goal and 0 end. So a value at discount 1 is the probability of
    reaching the goal. Action 0 is not legal: staking nothing changes nothing, and a policy that
    never ends has no value at discount 1.

    At `head_prob` p <= 1/2, bold play (stake all one may) is optimal:

        v(s) = p v(2 s)  for s <= goal / 2,    v(s) = p + (1 - p) v(2 s - goal)  above,

    so that p = 0.4 gives v(25) = 0.16, v(50) = 0.4 and v(75) = 0.64 of 100. At p = 1/2 every
    policy has v(s) = s / goal; above, staking 1 is optimal:
    v(s) = (1 - x^s) / (1 - x^goal), x = (1 - p) / p.

    Args:
        goal: capital at which the gambler wins, at least 2.
        head_prob: probability of heads, in [0, 1] [per flip].
        discount: gamma in [0, 1] [per flip].

    Raises:
        ValueError: a number is out of range.

    Sources: Sutton and Barto (2018), "Reinforcement Learning: An Introduction", example 4.3;
    Dubins and Savage (1965), "How to Gamble If You Must", for bold play. The first state is
    uniform over the capitals between; the book gives none.
    """
    goal = check_whole("goal", goal, 2)
    check_prob("head_prob", head_prob)
    capital, stake = np.arange(goal + 1)[:, None], np.arange(goal // 2 + 1)
    legal = (stake >= 1) & (stake <= np.minimum(capital, goal - capital))
    after = np.stack([capital + stake, capital - stake], axis=-1)  # heads, tails
    is_between = (capital[:, 0] > 0) & (capital[:, 0] < goal)
    return outcome_mdp(
        np.broadcast_to([head_prob, 1 - head_prob], after.shape),
        np.clip(after, 0, goal),
        after == goal,
        discount,
        initial=is_between / is_between.sum(),
        terminal=~is_between,
        mask=legal,
    )


class OptionTerms(Struct):
    """What an option is worth depends on this."""

    spot: float = setting(100.0, "price of the share now", unit="money", low=0.0, low_open=True)
    strike: float = setting(100.0, "price in the contract", unit="money", low=0.0)
    rate: float = setting(0.05, "interest rate", unit="per year", low=0.0)
    volatility: float = setting(0.2, "of log price", unit="per sqrt(year)", low=0.0, low_open=True)
    maturity: float = setting(1.0, "time to run", unit="year", low=0.0, low_open=True)
    dividend_yield: float = setting(0.0, "paid by the share", unit="per year", low=0.0)

    def per_step(self, volatility: float, num_steps: int) -> tuple[float, float, float]:
        """Of one of `num_steps`: log of a move up, growth without risk, discount."""
        step = self.maturity / num_steps
        growth = np.exp((self.rate - self.dividend_yield) * step)
        return volatility * np.sqrt(step), growth, float(np.exp(-self.rate * step))

    def payoff(self, price: np.ndarray, is_put: bool) -> np.ndarray:
        """What exercising at these prices pays [money]."""
        return np.maximum((self.strike - price) if is_put else (price - self.strike), 0.0)


def american_option(
    terms: OptionTerms = OptionTerms(), num_steps: int = 50, is_put: bool = True
) -> TabularMDP:
    """When to exercise: optimal stopping on a binomial tree of share prices.

        dt = maturity / num_steps,  up = exp(volatility sqrt(dt)),  down = 1 / up
        price(t, j) = spot up^(2 j - t),  j up-moves of t in state t (t + 1) / 2 + j
        P(up) = (exp((rate - dividend_yield) dt) - down) / (up - down)

    Action 0 holds, action 1 exercises: it pays max(strike - price, 0) (a put) or
    max(price - strike, 0) (a call) and ends. Holding at maturity pays nothing and ends. The
    discount is exp(-rate dt) [per step of the tree], so that the optimal value of state 0 is the
    price of the option [money]. A call without dividends is never worth exercising early: its
    price tends to that of Black and Scholes, at order 1 / num_steps.

    Args:
        terms: share and contract.
        num_steps: exercise dates after now, at least 1; there are
            (num_steps + 1) (num_steps + 2) / 2 states.
        is_put: whether it is a put; else a call.

    Raises:
        ValueError: a term is out of range, or so few steps that P(up) is outside [0, 1].

    Sources: Cox, Ross and Rubinstein (1979), "Option pricing: a simplified approach", Journal of
    Financial Economics 7.

    Example:
        >>> american_option(num_steps=2).num_states
        6
    """
    check_settings(terms)
    num_steps = check_whole("num_steps", num_steps)
    log_up, growth, discount = terms.per_step(terms.volatility, num_steps)
    up = np.exp(log_up)
    up_prob = (growth - 1 / up) / (up - 1 / up)
    if not 0.0 <= up_prob <= 1.0:
        raise ValueError(
            f"P(up)={up_prob:g} is no probability at {num_steps} steps: raise num_steps, or "
            "volatility against the rates."
        )
    time, num_ups = np.tril_indices(num_steps + 1)  # row by row: t, then j = 0, ..., t
    price = terms.spot * np.exp(log_up * (2 * num_ups - time))
    up_state = np.arange(time.size) + time + 2  # the next level is t + 1 states longer
    after = np.stack([up_state, up_state - 1], axis=-1)
    chance = np.broadcast_to([up_prob, 1 - up_prob], after.shape)
    payoff = terms.payoff(price, is_put)
    return stopping_mdp(payoff, time == num_steps, chance, after, discount)


def stopping_mdp(
    payoff: np.ndarray, is_last: np.ndarray, chance: np.ndarray, after: np.ndarray, discount: float
) -> TabularMDP:
    """Hold 0, or exercise 1, which pays and ends; holding at maturity ends and pays nothing.

    Args:
        payoff: `[S]`, of exercising [money].
        is_last: `[S]`, at maturity.
        chance: `[S, K]`, of what follows where one holds.
        after: `[S, K]`, states that follow.
        discount: [per step of the tree].
    """
    states = np.broadcast_to(np.arange(payoff.size)[:, None], after.shape)
    exercised = np.broadcast_to(np.arange(after.shape[1]) == 0, after.shape)
    prob = np.stack([chance, exercised], axis=1)
    ends = np.stack([is_last, np.ones_like(is_last)], axis=1)
    return outcome_mdp(
        prob,
        np.stack([np.where(is_last[:, None], states, after), states], axis=1),
        np.stack([np.zeros_like(payoff), payoff], axis=1),
        discount,
        terminal=np.broadcast_to(ends[..., None], prob.shape),
    )
