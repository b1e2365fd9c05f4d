"""Static risk of the whole return: agents that see the stock, and the search for the first one."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.agents import chain
from jaxrl.agents.action_values import legal_scores
from jaxrl.agents.chain import Step
from jaxrl.agents.checks import differs
from jaxrl.core import Struct
from jaxrl.core.notation import register
from jaxrl.core.protocols import Environment, FunctionalFacts, PartFacts
from jaxrl.core.settings import check_settings, labelled, setting
from jaxrl.core.types import Array, Key, PyTree, Transition, is_traced
from jaxrl.envs.wrappers import Stock
from jaxrl.functionals.utility import PiecewiseLinear, as_utility
from jaxrl.operators.bellman import BellmanOperator, Lookahead
from jaxrl.returns import next_stock


class ExpectedUtility(Struct):
    """E u(V), as the `return_functional` of an agent whose observation ends with the stock.

    It sees stock + return, so that actions are compared by E u(c + Z): the greedy step of
    distributional dynamic programming. u must scale (u(g x) = g u(x), or any power of g) when the
    return is discounted: min(x, 0) for CVaR, -|x| or -x^2 to come close to a return of -c_0.

    Attributes:
        utility: u, a struct or a function of arrays; default min(x, 0).

    Sources:
        Pires et al. (2025), Optimizing return distributions with distributional dynamic
        programming.
    """

    utility: Any = setting(PiecewiseLinear(gain_slope=0.0, loss_slope=1.0), "utility of a return")

    # Monotone for utilities that do not decrease.
    facts = FunctionalFacts(monotone=False, translation_equivariant=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "utility", as_utility(self.utility))
        check_settings(self)

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [utility]."""
        possible = probs > 0
        return jnp.sum(jnp.where(possible, probs * self.utility(jnp.where(possible, values, 0)), 0))


class StockConditioned(Struct):
    """Tells an agent that the last entry of its observation is the stock (wrapper `Stock`).

    With `relabel`, the update draws the stock of every replayed transition anew, uniformly in [low,
    high]: the next one is a known function of it and of the reward, and one network so learns every
    initial stock, hence every level, from the same experience.

    Attributes:
        low: least stock drawn [return]; low enough for what is left of a first stock after losses,
            or those states are never learned.
        high: greatest stock drawn [return]; above every first stock that will be chosen.
        relabel: whether replayed stocks are drawn anew.
    """

    facts = PartFacts(name="stock", owns=(chain.ORIGIN,), unit_steps=True, discrete=True)

    low: float = setting(-1.0, "least stock drawn", unit="return")
    high: float = setting(1.0, "greatest stock drawn", unit="return")
    relabel: bool = setting(True, "draw the stocks of replayed transitions anew")

    def of(self, observation: Array) -> Array:
        """`[..., D + 1]` -> `[...]` [return]."""
        return observation[..., -1]

    def scores(self, operator: BellmanOperator, params: Array, observation: Array) -> Array:
        """Each action's law of stock and return, under the return functional."""
        shape = operator.head.shape
        lead = params.shape[: params.ndim - len(shape)]
        stock = jnp.broadcast_to(self.of(observation)[..., None], lead)
        rows = params.reshape(-1, *shape)
        return jax.vmap(operator.score)(rows, stock.reshape(-1)).reshape(lead)

    def reward(self, key: Key, state: tuple, step: Step, lookahead: Lookahead) -> Lookahead:
        """With the stocks of the successors."""
        return lookahead.replace(stock=self.of(step.outcomes.observation))

    def relabelled(self, key: Key, state: tuple, agent: Any, data: Transition) -> Transition:
        """`data[B, ...]`, of one step each, with other stocks."""
        if not self.relabel:
            return data
        stock = jax.random.uniform(key, data.reward.shape, minval=self.low, maxval=self.high)
        later = next_stock(stock, data.reward, agent.discount)
        return data.replace(
            observation=data.observation.at[..., -1].set(stock),
            next_observation=data.next_observation.at[..., -1].set(later),
        )

    def check(self, agent: Any, env: Environment) -> None:
        """Raise `ValueError` unless the stock that an agent reads is the one that `env` shows."""
        if not isinstance(env, Stock):
            raise ValueError(
                "StockConditioned reads the stock off the observation, but the environment is a "
                f"{type(env).__name__}: wrap it, outermost, as Stock(env, low, high, discount)."
            )
        if differs(agent.discount, env.discount):
            raise ValueError(
                f"The agent discounts by {agent.discount}, the stock by {env.discount}: give both "
                "the same."
            )
        if self.relabel and (agent.replay.num_step > 1 or agent.keep_env_state):
            raise ValueError(
                "A stock drawn anew belongs to one sampled step: set replay.num_step=1 and "
                "successors=Sampled(), or StockConditioned(relabel=False)."
            )


register("parts", StockConditioned)


def static_cvar_stocks(
    agent: Any,
    agent_state: PyTree,
    observation: Array,
    levels: Array,
    stocks: Array | None = None,
    mask: PyTree = (),
) -> tuple[Array, Array]:
    """The initial stock for each level of static CVaR, and the CVaR that the agent expects.

    CVaR_level = max_c { -c + E min(c + Z(c), 0) / level } over initial stocks c, with Z(c) the law
    of the greedy action at stock c. The same network serves every level.

    Args:
        agent: with the part `StockConditioned` and `ExpectedUtility()` as `return_functional`.
        agent_state: trained.
        observation: `[B, D + 1]` of freshly reset environments; their stocks do not matter.
        levels: `[L]` in (0, 1].
        stocks: `[C]` candidates [return]; default 257 between the part's low and high.
        mask: `[B, A]` bool, which actions are legal at the starts; `()` where all are.

    Returns:
        Stocks `[L]` and predicted CVaR `[L]` [return], for the mixture of the `B` starts.

    Raises:
        ValueError: the agent does not see the stock.
    """
    part = labelled(agent.parts).get("stock")
    if part is None:
        raise ValueError(
            "This agent does not see the stock: train it in Stock(env, ...) with "
            "parts=(StockConditioned(...),) and return_functional=ExpectedUtility()."
        )
    if not is_traced(levels) and not np.all((np.asarray(levels) > 0) & (np.asarray(levels) <= 1)):
        raise ValueError(f"levels={levels} must lie in (0, 1].")
    if stocks is None:
        stocks = jnp.linspace(part.low, part.high, 257)

    def shortfall(stock: Array) -> Array:
        """The mean of min(c + Z(c), 0) over the starts, `[]`."""
        here = observation.at[:, -1].set(stock)
        scores = legal_scores(agent.q_values(agent_state, here), mask)
        return jnp.mean(jnp.max(scores, axis=-1))

    values = -stocks + jax.lax.map(shortfall, stocks) / jnp.asarray(levels)[:, None]  # [L, C]
    best = jnp.argmax(values, axis=1)
    return stocks[best], jnp.max(values, axis=1)
