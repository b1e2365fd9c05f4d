"""Exploration that answers to how the rewards have been of late."""

from __future__ import annotations

import math
from typing import ClassVar

import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Key
from jaxrl.rules.recent_rewards import recent_weights, remember, share


@struct.dataclass
class ReactiveExploration:
    """The probability of a uniform action as a network of the mean rewards of the last rollouts.

        m = mean rewards of the last `num_recent` rollouts, the latest first, 0 before the first
        exploration = lowest + (highest - lowest) sigmoid( relu(m W + b) . v + c )

    An agent's `exploration` that holds one keeps m in its state. Exploration only changes what
    data there will be: no gradient passes through the agent's updates to these weights. An outer
    loop learns them from the policies themselves: `Bootstrap` matches the epsilon-greedy law with
    that of later values. Where its plain agent explores by e, and the greedy action of a share p of
    the steps is another one by then, the best match of A actions is near e + p A / (A - 1). That is
    why exploration rises when values start to move; and a learner whose greedy actions never
    settle, because its steps are large, explores for that too.

    Attributes:
        weights: `hidden[N, H]`, `bias[H]`, `output[H]`, `shift[]`.
        lowest: least exploration, above 0 where policies are matched.
        highest: greatest exploration.
        num_recent: N, rollouts looked back on.

    Sources: Flennerhag et al. 2022, Bootstrapped meta-learning (exploration of an epsilon-greedy
    Q-learner, learned without a gradient through its updates). Luketina et al. 2022, Meta-gradients
    in non-stationary environments, appendix A, spell it out: the epsilon-greedy law is matched with
    the greedy one of later values, where here it is matched with the plain agent's. Their network
    sees the rewards of the last 100 steps through two layers of 128 relus, and has no bounds but 0
    and 1. Mean rewards of rollouts, one layer and the bounds are ours.

    Example:
        >>> import jax
        >>> exploration = reactive_exploration(jax.random.key(0), num_recent=3)
        >>> memory = exploration.remember(exploration.init(), jnp.array([1.0, 3.0]))
        >>> memory.tolist(), exploration.learned
        ([2.0, 0.0, 0.0], ('weights',))
        >>> f"{float(exploration(exploration.init())):.2f}"  # nothing seen yet
        '0.30'
    """

    weights: dict[str, Array]
    lowest: float = setting(0.01, "least probability of a uniform action", low=0.0, high=1.0)
    highest: float = setting(0.99, "greatest probability of a uniform action", low=0.0, high=1.0)
    num_recent: int = setting(10, "rollouts looked back on", low=1)

    learned: ClassVar[tuple[str, ...]] = ("weights",)

    def init(self) -> Array:
        """Mean rewards `[N]`, none so far."""
        return jnp.zeros(self.num_recent)

    def remember(self, recent: Array, reward: Array) -> Array:
        """The memory `[N]` after a rollout that paid `reward[...]` [return]."""
        return remember(recent, reward)

    def __call__(self, recent: Array) -> Array:
        """Mean rewards `[..., N]`, the latest first -> probability of a uniform action `[...]`."""
        return self.lowest + (self.highest - self.lowest) * share(self.weights, recent)


def reactive_exploration(
    key: Key,
    num_hidden: int = 32,
    num_recent: int = 10,
    start: float = 0.3,
    lowest: float = 0.01,
    highest: float = 0.99,
) -> ReactiveExploration:
    """Exploration that a random network gives, about `start` at first.

    Args:
        key: of the weights.
        num_hidden: units of the network, at least 1.
        num_recent: rollouts looked back on, at least 1.
        start: probability of a uniform action before any reward, inside (`lowest`, `highest`).
        lowest: least probability.
        highest: greatest probability.

    Raises:
        ValueError: a size below 1, or probabilities out of order.
    """
    if not 0.0 <= lowest < start < highest <= 1.0:
        raise ValueError(
            f"lowest={lowest}, start={start} and highest={highest} must rise within [0, 1]."
        )
    shift = math.log((start - lowest) / (highest - start))
    weights = recent_weights(key, num_recent, num_hidden, shift)
    return ReactiveExploration(weights, lowest=lowest, highest=highest, num_recent=num_recent)
