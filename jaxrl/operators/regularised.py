"""Improvements that weigh a divergence against the value: V is the conjugate of a convex penalty.

V = max over laws on the legal actions of sum_a probs_a q_a - penalty(probs), `probs` attains it and
is the gradient of V in `q_values`, and the bonuses share the penalty out: -penalty = sum_a probs_a
bonus_a. Each V is monotone and moves by a constant when all values do, hence nonexpansive.

In all of them illegal actions, and those of value -inf, have probability and bonus zero, and pass
no gradient. With no action left the policy is uniform over all and the bonus zero.
"""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.settings import check_settings, setting
from jaxrl.core.types import Array


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

    __post_init__ = check_settings

    def __call__(self, q_values: Array, mask: Array | None = None) -> tuple[Array, Array]:
        """`q_values[A]` [return], `mask[A]` -> `probs[A]`, `bonus[A]` [return]."""
        q_values, legal = split_legal(q_values, mask)
        probs, log_probs = softmax_of_legal(q_values / self.temperature, legal)
        return probs, -self.temperature * log_probs


@struct.dataclass
class KLSoftmax:
    """The best policy near a reference.

    probs = reference exp(q / temperature) / normaliser,
    bonus = -temperature log(probs / reference),
    V = temperature log sum_a reference_a exp(q_a / temperature)
      = max over probs of sum_a probs_a q_a - temperature KL(probs || reference)

    As `temperature -> 0` it is `Greedy` among the actions of the reference, as it grows the
    reference itself. V lies between the reference's value and the greatest.

    Attributes:
        temperature: weight of the divergence, > 0 [return / nat].
        reference: `[A]`, a law; it is conditioned on the legal actions, and ignored when it has
            none. None: uniform.

    Example:
        >>> import jax.numpy as jnp
        >>> probs, bonus = KLSoftmax(1.0, jnp.array([0.25, 0.75]))(jnp.zeros(2))
        >>> probs.tolist(), float(jnp.max(jnp.abs(bonus))) < 1e-6
        ([0.25, 0.75], True)

    Sources:
        Vieillard et al. (2020), Leverage the average: an analysis of KL regularization in RL,
        section 3; Azar, Gomez & Kappen (2012), Dynamic policy programming.
    """

    temperature: float = setting(
        1.0, "weight of the divergence", unit="return / nat", low=0.0, low_open=True
    )
    reference: Array | None = None  # [A]

    deterministic: ClassVar[bool] = False
    nonexpansive: ClassVar[bool] = True

    __post_init__ = check_settings

    def __call__(self, q_values: Array, mask: Array | None = None) -> tuple[Array, Array]:
        """`q_values[A]` [return], `mask[A]` -> `probs[A]`, `bonus[A]` [return]."""
        q_values, legal = split_legal(q_values, mask)
        reference = jnp.ones_like(q_values) if self.reference is None else self.reference
        held = legal & (reference > 0)
        usable = jnp.any(held)
        legal = jnp.where(usable, held, legal)
        _, log_reference = softmax_of_legal(jnp.log(jnp.where(held, reference, 1.0)), legal)
        probs, _ = softmax_of_legal(q_values / self.temperature + log_reference, legal)
        value = _log_average_exp(q_values, log_reference, self.temperature, legal)
        return probs, jnp.where(legal, value - q_values, 0.0)


@struct.dataclass
class Mellowmax:
    """The log-average-exp: a softened maximum that never exceeds it.

    V = log(mean_a exp(omega q_a)) / omega
    probs = softmax(omega q),  bonus = V - q = -log(A probs) / omega

    `KLSoftmax` with a uniform reference and temperature 1 / omega, in a form that is exact as
    `omega -> 0`, where V is the mean; as omega -> inf it is the maximum. These probabilities are
    the gradient of V; the maximum-entropy policy of value V that the paper acts by is another.

    Attributes:
        omega: sharpness, > 0 [nat / return].

    Example:
        >>> import jax.numpy as jnp
        >>> probs, bonus = Mellowmax(1.0)(jnp.array([0.0, jnp.log(3.0)]))
        >>> q = jnp.array([0.0, jnp.log(3.0)])
        >>> f"{float(jnp.sum(probs * (q + bonus))):.4f}"  # log((1 + 3) / 2)
        '0.6931'

    Sources:
        Asadi & Littman (2017), An alternative softmax operator for reinforcement learning,
        equation 1.
    """

    omega: float = setting(5.0, "sharpness", unit="nat / return", low=0.0, low_open=True)

    deterministic: ClassVar[bool] = False
    nonexpansive: ClassVar[bool] = True

    __post_init__ = check_settings

    def __call__(self, q_values: Array, mask: Array | None = None) -> tuple[Array, Array]:
        """`q_values[A]` [return], `mask[A]` -> `probs[A]`, `bonus[A]` [return]."""
        q_values, legal = split_legal(q_values, mask)
        probs, _ = softmax_of_legal(self.omega * q_values, legal)
        _, uniform = softmax_of_legal(jnp.zeros_like(q_values), legal)
        value = _log_average_exp(q_values, uniform, 1.0 / self.omega, legal)
        return probs, jnp.where(legal, value - q_values, 0.0)


@struct.dataclass
class MirrorDescent:
    """The step of mirror-descent value iteration: near the last policy, and random.

    probs = argmax sum_a probs_a q_a - kl_weight KL(probs || reference) + entropy_weight entropy
          = softmax((q + kl_weight log reference) / (kl_weight + entropy_weight))
    bonus = -kl_weight log(probs / reference) - entropy_weight log probs

    Without `regularise_evaluation` the bonus is zero: the variant that regularises the policy but
    not its evaluation, whose V is not a non-expansion. Both weights 0: `Greedy`;
    kl_weight 0: `Softmax`; entropy_weight 0: `KLSoftmax`, conservative value iteration. With
    a = kl_weight / (kl_weight + entropy_weight) it is soft value iteration of temperature
    kl_weight + entropy_weight with `munchausen_bonus` of weight a.

    Attributes:
        kl_weight: lambda, >= 0 [return / nat].
        entropy_weight: tau, >= 0 [return / nat].
        regularise_evaluation: whether V is the maximum itself, penalties included.
        log_reference: `[A]`, log-probabilities of the last policy: their logarithms, because
            probabilities underflow. An action at -inf is not taken, unless kl_weight is 0; the
            reference is ignored when it has no legal action. None: uniform.

    Example:
        >>> import jax.numpy as jnp
        >>> step = MirrorDescent(1.0, 1.0, log_reference=jnp.log(jnp.array([0.2, 0.8])))
        >>> [f"{p:.4f}" for p in step(jnp.zeros(2))[0].tolist()]  # 1 : sqrt(4)
        ['0.3333', '0.6667']

    Sources:
        Vieillard et al. (2020), Leverage the average: an analysis of KL regularization in RL,
        equation 1 and section 3; Vieillard, Pietquin & Geist (2020), Munchausen reinforcement
        learning, theorem 1.
    """

    kl_weight: float = setting(1.0, "weight of the divergence", unit="return / nat", low=0.0)
    entropy_weight: float = setting(0.0, "weight of the entropy", unit="return / nat", low=0.0)
    regularise_evaluation: bool = setting(True, "whether the value includes the penalties")
    log_reference: Array | None = None  # [A] [nats]

    deterministic: ClassVar[bool] = False

    @property
    def nonexpansive(self) -> bool:
        """Whether the evaluation is regularised."""
        return self.regularise_evaluation

    __post_init__ = check_settings

    def __call__(self, q_values: Array, mask: Array | None = None) -> tuple[Array, Array]:
        """`q_values[A]` [return], `mask[A]` -> `probs[A]`, `bonus[A]` [return]."""
        q_values, legal = split_legal(q_values, mask)
        given = jnp.zeros_like(q_values) if self.log_reference is None else self.log_reference
        held = legal & (given != -jnp.inf)
        held = jnp.where(jnp.any(held), held, legal)
        _, log_reference = softmax_of_legal(jnp.where(given == -jnp.inf, 0.0, given), held)
        legal = jnp.where(self.kl_weight > 0, held, legal)
        temperature = jnp.asarray(self.kl_weight + self.entropy_weight, q_values.dtype)
        is_soft = temperature > 0
        pulled = q_values + self.kl_weight * log_reference
        probs, log_probs = softmax_of_legal(pulled / jnp.where(is_soft, temperature, 1.0), legal)
        best = jnp.argmax(jnp.where(legal, q_values, -jnp.inf))
        greedy = jax.nn.one_hot(best, q_values.shape[0], dtype=q_values.dtype)
        bonus = self.kl_weight * log_reference - temperature * log_probs
        keeps = is_soft & self.regularise_evaluation
        return jnp.where(is_soft, probs, greedy), jnp.where(keeps, bonus, 0.0)


def split_legal(q_values: Array, mask: Array | None) -> tuple[Array, Array]:
    """`q_values[A]` with zeros at actions that cannot be taken, and which can, `[A]` bool.

    Values of -inf cannot, whatever the mask says: 0 (-inf) must not arise, nor in a gradient.
    """
    legal = q_values != -jnp.inf  # NaN stays, to be seen
    legal = legal if mask is None else legal & mask
    return jnp.where(legal, q_values, 0.0), legal


def softmax_of_legal(logits: Array, legal: Array) -> tuple[Array, Array]:
    """Probabilities and log-probabilities [nats], `[A]` each: both zero at illegal actions.

    Where no action is legal the law is uniform over all, never NaN.
    """
    log_probs = jax.nn.log_softmax(jnp.where(legal, logits, jnp.finfo(logits.dtype).min))
    return jnp.exp(log_probs), jnp.where(legal, log_probs, 0.0)


def _log_average_exp(
    q_values: Array, log_weights: Array, temperature: float | Array, legal: Array
) -> Array:
    """temperature log sum_a weights_a exp(q_a / temperature), `[]` [return], weights a law."""
    best = q_values[jnp.argmax(jnp.where(legal, q_values, -jnp.inf))]
    below = jnp.where(legal, q_values - best, 0.0) / temperature  # or 0 * inf in the gradient
    excess = jnp.sum(jnp.where(legal, jnp.exp(log_weights) * jnp.expm1(below), 0.0))
    # By expm1 and log1p while the sum is near one, which keeps the digits that a high temperature
    # needs; by log-sum-exp where it is not, which keeps those of a small weight of the best.
    is_near = excess > -0.5
    far = jnp.where(legal & ~is_near, log_weights + below, jnp.where(is_near, 0.0, -jnp.inf))
    gain = jnp.where(is_near, jnp.log1p(jnp.where(is_near, excess, 0.0)), jax.nn.logsumexp(far))
    return best + temperature * gain
