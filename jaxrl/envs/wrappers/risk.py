"""Risk as a matter of the state: numbers appended to the observation turn it into a plain task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.core import Array, Box, Discrete, Key, Space, Struct, TimeStep, setting
from jaxrl.core.settings import check_own_settings
from jaxrl.envs.wrappers.inner import WrapperState, inner_actions, inner_legal
from jaxrl.returns import next_stock


class Stock(Struct):
    """Appends the stock c to the observation: c_0 drawn at reset, c' = (c + r) / discount.

    Then discount^t (c_t + return from t on) = c_0 + (whole return) on every path, and a policy of
    observation and stock can maximise E f(c_0 + return) for any f that scales. The static CVaR of
    the return is f(x) = min(x, 0) with the right c_0.

    The stock, `[]` float32, is what the wrapper keeps. It is cut at +-limit, or it would grow like
    discount^-t. That loses nothing while no return from any state exceeds `limit` in size: beyond
    it f is linear, and stays so.

    Attributes:
        env: with discrete or flat observations.
        low: least initial stock [return].
        high: greatest initial stock [return]; equal to `low` for a given one.
        discount: the agent's own, in (0, 1] [per step].
        limit: greatest size of a stock [return].

    Example:
        >>> from jaxrl.envs import TabularEnv, riverswim
        >>> env = Stock(TabularEnv(riverswim(3)), low=-1.0, high=-1.0, discount=0.5, limit=10.0)
        >>> state, observation = env.reset(jax.random.key(0))
        >>> observation.shape, float(observation[-1])  # one of three states, then the stock
        ((4,), -1.0)

    Sources:
        Pires et al. (2025), Optimizing return distributions with distributional dynamic
        programming; Bäuerle & Ott (2011), Markov decision processes with average-value-at-risk
        criteria.
    """

    env: Any
    low: float = setting(-1.0, "least initial stock", unit="return")
    high: float = setting(1.0, "greatest initial stock", unit="return")
    discount: float = setting(0.99, "discount factor", low=0.0, high=1.0, low_open=True)
    limit: float = setting(100.0, "greatest size of a stock", unit="return", low=0.0)

    @property
    def observation_space(self) -> Space:
        """`Box[D + 1]` float32: the flat or one-hot observation, then the stock [return]."""
        end = jnp.asarray(self.limit, jnp.float32)[None]
        return appended_space(self.env.observation_space, -end, end)

    action_space = inner_actions
    legal = inner_legal

    def reset(self, key: Key) -> tuple[WrapperState, Array]:
        """A new episode, with a stock drawn uniformly in [low, high]."""
        inner_key, stock_key = jax.random.split(key)
        inner, observation = self.env.reset(inner_key)
        low, high = (jnp.asarray(end, jnp.float32) for end in (self.low, self.high))
        stock = low + (high - low) * jax.random.uniform(stock_key)
        return WrapperState(inner, stock), appended(self.env.observation_space, observation, stock)

    def step(self, key: Key, state: WrapperState, action: Array) -> tuple[WrapperState, TimeStep]:
        """One step; the next observation holds the next stock."""
        inner, step = self.env.step(key, state.inner, action)
        stock = jnp.clip(
            next_stock(state.kept, step.reward, self.discount), -self.limit, self.limit
        )
        stock = stock.astype(state.kept.dtype)
        observation = appended(self.env.observation_space, step.observation, stock)
        return WrapperState(inner, stock), step.replace(observation=observation)


class ExpectedConditionalRisk(Struct):
    """Makes expected conditional risk, a mix of mean and CVaR of each reward, a matter of means.

        objective = E r_0 + sum_{t >= 1} discount^t E[rho(r_t | history of the steps before t)]
        rho(X) = (1 - weight) E X + weight CVaR_level(X)
        CVaR_level(X) = max_x { x - E (x - X)^+ / level }

    Together with its action, an agent announces a threshold x_{t+1} for the *next* reward. On
    observation, announced threshold and a mark of the first step, the objective is the largest mean
    of the discounted sum of

        (1 - weight) r_t - weight (x_t - r_t)^+ / level + discount weight x_{t+1},   r_0 at t = 0,

    at the best thresholds: the lower `level`-quantiles of the next reward, given state and action.
    An episode that terminates pays nothing ever after, so that the last threshold is settled at
    once against 0: minus discount weight (x_{t+1})^+ / level. Without this, high last thresholds
    would be free gains. Every agent for means may so learn a risk, and at `weight = 0` it is the
    task itself. The reward of the task is `info["reward"]`.

    This is neither *static* nor *nested* risk: it looks at single rewards, each one step ahead, and
    averages over what came before; gains and losses of several steps do not add up inside a CVaR.
    The best policy may depend on the history, through the threshold announced, even where the task
    is Markov. The first reward counts by its mean, as it is not random in the paper.

    The wrapper keeps `[2]` float32: the threshold announced for the reward of this step, 0 in the
    first, and a mark, 1 in the first step of an episode, then 0.

    With discrete actions, action a and the m-th of M thresholds make a M + m; with a box the
    threshold is one more coordinate, cut to [low, high].

    Attributes:
        env: with discrete or flat observations, and discrete or flat actions.
        level: share of the lower tail, in (0, 1].
        weight: of CVaR, in [0, 1].
        discount: the agent's own [per step].
        low: least threshold [return].
        high: greatest threshold [return].
        num_thresholds: M, evenly spaced, for discrete actions.

    Numerics: a quantile between two of the M thresholds costs at most weight (1 - level) times
    their distance a step, one outside [low, high] more. An episode cut by a clock keeps the last
    threshold unsettled: learners bootstrap from it, but sums of these rewards over cut episodes
    say nothing.

    Example:
        >>> from jaxrl.envs import TabularEnv, riverswim
        >>> env = TabularEnv(riverswim(3))
        >>> env = ExpectedConditionalRisk(env, low=0.0, high=1.0, num_thresholds=5)
        >>> env.action_space.num_values, env.observation_space.shape  # 2 x 5; 3 states, 2 numbers
        (10, (5,))

    Sources:
        Yu & Ying 2023, On the global convergence of risk-averse policy gradient methods with
        expected conditional risk measures (there for costs, so of the upper tail); Yu & Shen 2022,
        Risk-averse reinforcement learning via dynamic time-consistent risk measures (for rewards,
        with one more number in the action); Homem-de-Mello & Pagnoncelli 2016, Risk aversion in
        multistage stochastic programming. Rewards that follow the action and the settling at the
        end are ours.
    """

    env: Any
    level: float = setting(0.1, "share of the lower tail", low=0.0, high=1.0, low_open=True)
    weight: float = setting(0.5, "weight of CVaR against the mean", low=0.0, high=1.0)
    discount: float = setting(0.99, "discount factor", unit="per step", low=0.0, high=1.0)
    low: float = setting(-1.0, "least threshold", unit="return")
    high: float = setting(1.0, "greatest threshold", unit="return")
    num_thresholds: int = setting(11, "thresholds to choose from, for discrete actions", low=2)

    __post_init__ = check_own_settings

    @property
    def observation_space(self) -> Space:
        """`Box[D + 2]` float32: flat or one-hot observation, threshold [return], first step."""
        low, high = jnp.minimum(self.low, 0.0), jnp.maximum(self.high, 0.0)
        zero, one = jnp.zeros(()), jnp.ones(())
        return appended_space(
            self.env.observation_space, jnp.stack([low, zero]), jnp.stack([high, one])
        )

    @property
    def action_space(self) -> Space:
        """`Discrete(A M)`, or `Box[D + 1]` with the threshold last."""
        space = self.env.action_space
        if isinstance(space, Discrete):
            return Discrete(space.num_values * self.num_thresholds)
        if isinstance(space, Box) and len(space.shape) == 1:
            ends = ((space.low, self.low), (space.high, self.high))
            low, high = (jnp.append(jnp.broadcast_to(a, space.shape), b) for a, b in ends)
            return Box(low.astype(jnp.float32), high.astype(jnp.float32), low.shape)
        raise ValueError(f"Actions must be Discrete or a Box of shape [D], not {space}.")

    @property
    def legal(self) -> Callable[[WrapperState], Array]:
        """That of the environment inside, with any threshold; none where it has none."""
        legal = self.env.legal
        return lambda state: jnp.repeat(legal(state.inner), self.num_thresholds)

    def reset(self, key: Key) -> tuple[WrapperState, Array]:
        """A new episode, with nothing announced."""
        inner, observation = self.env.reset(key)
        kept = jnp.array([0.0, 1.0], jnp.float32)
        return WrapperState(inner, kept), appended(self.env.observation_space, observation, *kept)

    def step(self, key: Key, state: WrapperState, action: Array) -> tuple[WrapperState, TimeStep]:
        """One step with action and threshold; the reward is that of the task without risk."""
        (before, first), (action, threshold) = state.kept, self._split(action)
        inner, step = self.env.step(key, state.inner, action)
        risky = (1.0 - self.weight) * step.reward - self._short(before - step.reward)
        announced = self.weight * threshold - step.terminated * self._short(threshold)
        reward = jnp.where(first > 0, step.reward, risky) + self.discount * announced
        kept = jnp.stack([threshold, jnp.zeros_like(first)])
        return WrapperState(inner, kept), step.replace(
            observation=appended(self.env.observation_space, step.observation, *kept),
            reward=reward.astype(jnp.float32),
            info={**step.info, "reward": step.reward},
        )

    def _short(self, shortfall: Array) -> Array:
        return self.weight / self.level * jnp.maximum(shortfall, 0.0)

    def _split(self, action: Array) -> tuple[Array, Array]:
        """-> the inner action, and the threshold `[]` float32."""
        low, high = (jnp.asarray(end, jnp.float32) for end in (self.low, self.high))
        if isinstance(self.env.action_space, Discrete):
            action = jnp.asarray(action, jnp.int32)
            share = (action % self.num_thresholds) / (self.num_thresholds - 1)
            threshold = low + (high - low) * share.astype(jnp.float32)
            return action // self.num_thresholds, threshold
        return action[:-1], jnp.clip(action[-1].astype(jnp.float32), low, high)


def appended_space(space: Space, low: Array, high: Array) -> Box:
    """`Box[D + K]` float32: the flat or one-hot observation, then K numbers in [low, high].

    Args:
        space: of the observation, `Discrete(D)` or a `Box` of shape `[D]`.
        low: `[K]`.
        high: `[K]`.

    Raises:
        ValueError: another space.
    """
    if isinstance(space, Discrete):
        first, last = jnp.zeros(space.num_values), jnp.ones(space.num_values)
    elif isinstance(space, Box) and len(space.shape) == 1:
        first, last = (jnp.broadcast_to(end, space.shape) for end in (space.low, space.high))
    else:
        raise ValueError(
            f"A number can be appended to flat or discrete observations; {space} is neither."
        )
    low, high = (
        jnp.concatenate([jnp.asarray(part, jnp.float32) for part in ends])
        for ends in ((first, low), (last, high))
    )
    return Box(low, high, (low.size,))


def appended(space: Space, observation: Array, *numbers: Array) -> Array:
    """`[D + K]`: a member of `appended_space(space, ...)`."""
    if isinstance(space, Discrete):
        observation = jax.nn.one_hot(observation, space.num_values)
    more = jnp.stack([jnp.asarray(number, jnp.float32) for number in numbers])
    return jnp.concatenate([observation.astype(jnp.float32), more])
