"""Which next actions a backup assumes: V = sum_a probs_a (q_a + bonus_a).

An improvement with `deterministic = True` also has `select`, gives all probability to that action
and no bonus; a backup then looks at one action's row instead of mixing all of them. `nonexpansive`
states that V moves no further than the greatest change in `q_values`; with a monotone,
translation-equivariant functional the backup then contracts.
"""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.settings import setting
from jaxrl.core.types import Array


@struct.dataclass
class Greedy:
    """The best action: V = max_a q_a. Ties go to the first of the best.

    Example:
        >>> import jax.numpy as jnp
        >>> Greedy()(jnp.array([1.0, 3.0, 3.0]))[0].tolist()
        [0.0, 1.0, 0.0]

    Sources:
        Bellman (1957), Dynamic Programming, chapter III.
    """

    deterministic: ClassVar[bool] = True
    nonexpansive: ClassVar[bool] = True

    def select(self, q_values: Array, mask: Array | None = None) -> Array:
        """The index `[]` int32 of the first best legal action; 0 when none is legal.

        Args:
            q_values: `[A]` [return].
            mask: `[A]` bool, true where legal; None when every action is.
        """
        return jnp.argmax(_legal_only(q_values, mask))

    def __call__(self, q_values: Array, mask: Array | None = None) -> tuple[Array, Array]:
        """Action probabilities and bonuses.

        Args:
            q_values: `[A]` [return].
            mask: `[A]` bool, true where legal; None when every action is.

        Returns:
            `probs[A]`, one-hot, and `bonus[A]` [return], zero.
        """
        index = self.select(q_values, mask)
        return jax.nn.one_hot(index, q_values.shape[0], dtype=q_values.dtype), jnp.zeros_like(
            q_values
        )


@struct.dataclass
class EpsilonGreedy:
    """The best action, but with probability `epsilon` a uniform one of the legal.

    V = (1 - epsilon) max_a q_a + epsilon mean_a q_a. Its own policy's evaluation: the fixed point
    is the best value among policies that explore so. epsilon = 0 is `Greedy`.

    Attributes:
        epsilon: probability of exploring, in [0, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> EpsilonGreedy(0.5)(jnp.array([1.0, 3.0]))[0].tolist()
        [0.25, 0.75]

    Sources:
        Sutton & Barto (2018), Reinforcement Learning, section 5.4.
    """

    epsilon: float = setting(0.05, "probability of exploring", low=0.0, high=1.0)

    deterministic: ClassVar[bool] = False
    nonexpansive: ClassVar[bool] = True

    def __call__(self, q_values: Array, mask: Array | None = None) -> tuple[Array, Array]:
        """Action probabilities and bonuses.

        Args:
            q_values: `[A]` [return].
            mask: `[A]` bool, true where legal; None when every action is.

        Returns:
            `probs[A]` and `bonus[A]` [return], zero.
        """
        greedy, bonus = Greedy()(q_values, mask)
        legal = jnp.ones_like(greedy) if mask is None else mask.astype(greedy.dtype)
        uniform = legal / jnp.maximum(jnp.sum(legal), 1.0)
        return (1.0 - self.epsilon) * greedy + self.epsilon * uniform, bonus


@struct.dataclass
class Softmax:
    """The entropy-regularised best policy.

    probs = softmax(q / temperature),  bonus = -temperature log probs,
    V = temperature log sum_a exp(q_a / temperature)
      = max over probs of sum_a probs_a q_a + temperature entropy(probs)

    As `temperature -> 0` it is `Greedy`. V exceeds max q by at most temperature log A.

    Attributes:
        temperature: weight of the entropy, > 0 [return / nat].

    Numerics:
        Log-space throughout; illegal actions have probability and bonus zero.

    Example:
        >>> import jax.numpy as jnp
        >>> probs, bonus = Softmax(2.0)(jnp.array([1.0, 1.0]))
        >>> f"{float(jnp.sum(probs * (1.0 + bonus))):.4f}"  # 1 + 2 log 2
        '2.3863'

    Sources:
        Haarnoja et al. (2017), Reinforcement learning with deep energy-based policies, theorem 1;
        Geist, Scherrer & Pietquin (2019), A theory of regularized Markov decision processes.
    """

    temperature: float = setting(
        1.0, "weight of the entropy", unit="return / nat", low=0.0, low_open=True
    )

    deterministic: ClassVar[bool] = False
    nonexpansive: ClassVar[bool] = True

    def __call__(self, q_values: Array, mask: Array | None = None) -> tuple[Array, Array]:
        """Action probabilities and bonuses.

        Args:
            q_values: `[A]` [return].
            mask: `[A]` bool, true where legal; None when every action is.

        Returns:
            `probs[A]` and `bonus[A]` [return], the entropy bonus.
        """
        logits = q_values / self.temperature
        if mask is not None:
            # A finite floor: with no legal action at all the policy is uniform, not NaN.
            logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
        log_probs = jax.nn.log_softmax(logits)
        bonus = -self.temperature * log_probs
        return jnp.exp(log_probs), bonus if mask is None else jnp.where(mask, bonus, 0.0)


def _legal_only(q_values: Array, mask: Array | None) -> Array:
    return q_values if mask is None else jnp.where(mask, q_values, -jnp.inf)
