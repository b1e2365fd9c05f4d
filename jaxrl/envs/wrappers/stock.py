"""The stock in the observation: static risk of the whole return becomes a matter of the state."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.core import Array, Key, Space, TimeStep, setting, struct
from jaxrl.envs.wrappers.appended import appended, appended_space
from jaxrl.envs.wrappers.forwarding import WrapperState, inner_actions
from jaxrl.returns import next_stock


@struct.dataclass
class Stock:
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
