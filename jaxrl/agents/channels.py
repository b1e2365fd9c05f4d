"""Deep values of reward channels, each stored through a mapping (orchestrated value mapping)."""

# Bodies of protocols are their docstrings.
# pyright: reportReturnType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrl.agents import chain
from jaxrl.agents.action_values import each
from jaxrl.core import Struct, struct
from jaxrl.core.protocols import Environment, PartFacts
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, PyTree
from jaxrl.operators.bellman import BellmanOperator, Lookahead
from jaxrl.operators.composition import LogMapping, RewardChannels, ValueMapping


class Split(Protocol):
    """How a reward is told apart into channels: reward = sum_j weights_j channels_j."""

    @property
    def weights(self) -> tuple[float, ...]:
        """`[J]`: a class attribute will do."""

    def __call__(self, reward: Array) -> Array:
        """`reward[...]` [return] -> channels `[..., J]` [return]."""


class BySign(Struct):
    """Gains and losses, both as numbers of at least 0: r = max(r, 0) - max(-r, 0).

    Example:
        >>> BySign()(jnp.array([2.0, -3.0])).tolist()
        [[2.0, 0.0], [0.0, 3.0]]
    """

    weights = (1.0, -1.0)

    def __call__(self, reward: Array) -> Array:
        """`reward[...]` -> `[..., 2]`."""
        return jnp.stack([jnp.maximum(reward, 0.0), jnp.maximum(-reward, 0.0)], axis=-1)


class Whole(Struct):
    """One channel, the reward itself.

    Example:
        >>> Whole()(jnp.array([2.0, -3.0])).tolist()
        [[2.0], [-3.0]]
    """

    weights = (1.0,)

    def __call__(self, reward: Array) -> Array:
        """`reward[...]` -> `[..., 1]`."""
        return reward[..., None]


class ByFunction(Struct):
    """Channels by any function of the reward.

    Attributes:
        function: `reward[...]` -> `[..., J]` [return].
        weights: of the channels in the reward.

    Example:
        >>> halves = ByFunction(lambda r: jnp.stack([r / 2, r / 2], axis=-1), (1.0, 1.0))
        >>> halves(jnp.array([4.0])).tolist()
        [[2.0, 2.0]]
    """

    function: Callable[[Array], Array] = struct.field(pytree_node=False)
    weights: tuple[float, ...] = struct.field(pytree_node=False)

    def __call__(self, reward: Array) -> Array:
        """`reward[...]` -> `[..., J]`."""
        return self.function(reward)


class ValueChannels(Struct):
    """J values of each action, each of one channel of the reward and stored through its mapping.

    With f_j the mappings, w_j the weights of the channels r_j in the reward, and y the network:

        Q_j = f_j^-1(y_j),  a* = the improvement's choice by sum_j w_j Q_j
        U_j = sum_n p_n (r_nj + d_n Q_j(s'_n, a*_n))          the lagged copy, ordinary returns
        aim_j = f_j(Q_j(s, a) + value_rate (U_j - Q_j(s, a)))  the present network
        loss = sum_j (y_j - aim_j)^2 / 2,  no slope through aim

    Noise is averaged twice: in ordinary space by `value_rate`, and then in mapped space by the
    learning rate of the network, which only sees what the first has smoothed. Under random targets
    values tend to the mean as value_rate -> 0; at value_rate = 1 it is the mean of mapped targets,
    as with the composition `Mapped`. Where targets are not random any rate has the same fixed
    point. The step as a whole is the product of both rates: lower one, raise the other.

    It plays the head's part in an agent (`shape`, `mean`, `loss`), but its target is a number for
    each channel and not a law.

    Attributes:
        split: the reward's channels, `BySign`, `Whole` or `ByFunction`.
        mappings: f_j, one for each channel.
        value_rate: step in ordinary space, in (0, 1].

    Example:
        >>> from jaxrl.operators import Identity
        >>> channels = ValueChannels(mappings=(Identity(), Identity()), value_rate=0.5)
        >>> float(channels.mean(jnp.array([3.0, 1.0])))  # gains less losses
        2.0
        >>> float(channels.loss(jnp.array([3.0, 1.0]), jnp.array([5.0, 1.0])))  # aim 4: 1 / 2
        0.5

    Sources:
        Fatemi & Tavakoli (2022), Orchestrated value mapping for reinforcement learning, section 3
        and algorithm 1; van Seijen, Fatemi & Tavakoli (2019), section 4 (the two rates).
    """

    facts = PartFacts(
        name="channels",
        owns=(chain.HEAD, chain.ORIGIN, chain.BONUS),
        plain=True,
        one_step=True,
        discrete=True,
    )

    split: Split = BySign()
    mappings: tuple[ValueMapping, ...] = (LogMapping(), LogMapping())
    value_rate: float = setting(0.1, "step in ordinary space", low=0.0, high=1.0, low_open=True)

    def check(self, agent: Any, env: Environment) -> None:
        """Raise `ValueError` for channels that do not add up to the reward, or without mappings."""
        name, weights = type(self.split).__name__, self.split.weights
        if len(self.mappings) != len(weights):
            raise ValueError(
                f"channels: {len(self.mappings)} mappings for {len(weights)} parts of {name}: give "
                "one mapping for each part."
            )
        with jax.ensure_compile_time_eval():
            sample = jnp.array([-2.0, -0.5, 0.0, 0.25, 3.0])
            sums = self.split(sample) @ jnp.asarray(weights)
        if not np.allclose(sums, sample, rtol=1e-5, atol=1e-6):
            raise ValueError(
                f"channels: {name} does not split rewards: of {sample} the weighted parts add up "
                f"to {sums}."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """`(J,)`."""
        return (len(self.mappings),)

    @property
    def channels(self) -> RewardChannels:
        """The channels' algebra."""
        return RewardChannels(self.mappings, jnp.asarray(self.split.weights))

    def mean(self, params: Array) -> Array:
        """Stored `params[J]` -> `[]` [return], the weighted sum of the channels."""
        return self.channels.q_values(params)

    def scores(self, operator: BellmanOperator, params: Array, observation: PyTree) -> Array:
        """Stored `params[..., A, J]` -> `[..., A]` [return]."""
        return each(self.mean, params, self)

    def backup(self, operator: BellmanOperator, lookahead: Lookahead) -> Array:
        """The targets U `[J]` [return] of one state and action; see the class.

        Args:
            operator: its improvement, which must be deterministic, chooses the next action.
            lookahead: N outcomes, with `next_params[N, A, J]` as stored.
        """
        channels = self.channels

        def outcome(
            reward: Array, discount: Array, params: Array, selector: Array, mask: Array | None
        ) -> Array:
            scores = channels.q_values(selector)
            chosen = operator.improvement.select(scores, mask)  # pyright: ignore[reportAttributeAccessIssue]
            after = channels.values(params[chosen])
            return self.split(reward) + discount * jnp.where(discount > 0, after, 0.0)

        selector = lookahead.selector_params
        selector = lookahead.next_params if selector is None else selector
        rows = (lookahead.reward, lookahead.discount, lookahead.next_params, selector)
        return lookahead.probs @ jax.vmap(outcome)(*rows, lookahead.mask)

    def loss(self, params: Array, target: Array) -> Array:
        """`params[J]` as stored, `target[J]` [return] -> `[]` [mapped^2]."""
        channels, stored = self.channels, jax.lax.stop_gradient(params)
        values = channels.values(stored)
        aim = channels.params(values + self.value_rate * (target - values))
        return jnp.sum(optax.l2_loss(params, aim))
