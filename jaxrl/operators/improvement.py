"""Which next actions a backup assumes: V = sum_a probs_a (q_a + bonus_a).

Every improvement is called with `q_values[A]` [return] and `mask[A]` bool, true where an action is
legal; None when every one is. It gives `probs[A]`, a law on the legal actions (on all of them where
none is legal), and `bonus[A]` [return]. What holds of it whatever its settings are its `facts`,
see `jaxrl.core.protocols.ImprovementFacts`.

Those that weigh a divergence against the value (`Softmax`, `KLSoftmax`, `Mellowmax`,
`MirrorDescent`, `Tsallis`) have as V the conjugate of a convex penalty: the maximum over laws on
the legal actions of sum_a probs_a q_a - penalty(probs). `probs` attains it and is the gradient of V
in `q_values`, and the bonuses share the penalty out: -penalty = sum_a probs_a bonus_a. Each V is
monotone and moves by a constant when all values do. In all of them illegal actions, and those of
value -inf, have probability and bonus zero, and pass no gradient; with no action left the policy is
uniform over all and the bonus zero.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core import Struct
from jaxrl.core.notation import register
from jaxrl.core.protocols import Improvement, ImprovementFacts
from jaxrl.core.settings import CheckedStruct, setting
from jaxrl.core.types import Array, Number, is_traced


class Greedy(Struct):
    """The best action: V = max_a q_a. Ties go to the first of the best.

    Example:
        >>> import jax.numpy as jnp
        >>> Greedy()(jnp.array([1.0, 3.0, 3.0]))[0].tolist()
        [0.0, 1.0, 0.0]

    Sources:
        Bellman (1957), Dynamic Programming, chapter III.
    """

    facts = ImprovementFacts(deterministic=True, sublinear=True)

    def select(self, q_values: Array, mask: Array | None = None) -> Array:
        """The index `[]` int32 of the first best legal action; 0 when none is legal.

        Args:
            q_values: `[A]` [return].
            mask: `[A]` bool, true where legal; None when every action is.
        """
        return jnp.argmax(q_values if mask is None else jnp.where(mask, q_values, -jnp.inf))

    def __call__(self, q_values: Array, mask: Array | None = None) -> tuple[Array, Array]:
        """`q_values[A]` [return], `mask[A]` -> `probs[A]`, `bonus[A]` [return], zero."""
        index = self.select(q_values, mask)
        probs = jax.nn.one_hot(index, q_values.shape[0], dtype=q_values.dtype)
        return probs, jnp.zeros_like(q_values)


class EpsilonGreedy(CheckedStruct):
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

    epsilon: Number = setting(0.05, "probability of exploring", low=0.0, high=1.0)

    facts = ImprovementFacts(sublinear=True)

    def __call__(self, q_values: Array, mask: Array | None = None) -> tuple[Array, Array]:
        """`q_values[A]` [return], `mask[A]` -> `probs[A]`, `bonus[A]` [return], zero."""
        greedy, bonus = Greedy()(q_values, mask)
        legal = jnp.ones_like(greedy, bool) if mask is None else mask | ~jnp.any(mask)
        uniform = legal.astype(greedy.dtype) / jnp.sum(legal)
        return (1.0 - self.epsilon) * greedy + self.epsilon * uniform, bonus


class FixedPolicy(Struct):
    """A given policy: V = sum_a probs_a q_a. The backup of policy evaluation.

    Attributes:
        probs: `[A]`, non-negative, summing to one; `[S, A]` inside `PerState`. Probability given
            to illegal actions is shared among the legal in proportion to theirs, or evenly when
            they have none.

    Raises:
        ValueError: concrete probabilities are negative or do not sum to one.

    Example:
        >>> import jax.numpy as jnp
        >>> policy = FixedPolicy(jnp.array([0.5, 0.25, 0.25]))
        >>> policy(jnp.zeros(3), jnp.array([False, True, True]))[0].tolist()
        [0.0, 0.5, 0.5]

    Sources:
        Howard (1960), Dynamic programming and Markov processes, chapter 4.
    """

    probs: Array  # [A]

    facts = ImprovementFacts(fixed=True, sublinear=True)

    def __post_init__(self) -> None:
        """Refuse concrete probabilities that are no law."""
        if is_traced(self.probs):
            return
        probs = np.asarray(self.probs)
        if not (np.all(probs >= 0) and np.all(np.abs(probs.sum(axis=-1) - 1.0) < 1e-3)):
            raise ValueError(
                f"probs={probs} is no policy: give non-negative probabilities that sum to one over "
                "the last axis."
            )

    def __call__(self, q_values: Array, mask: Array | None = None) -> tuple[Array, Array]:
        """`q_values[A]` [return], `mask[A]` -> `probs[A]`, `bonus[A]` [return], zero."""
        probs = jnp.asarray(self.probs, q_values.dtype)
        if mask is not None:
            legal = mask | ~jnp.any(mask)
            even = legal.astype(probs.dtype) / jnp.sum(legal)
            kept = jnp.where(legal, probs, 0.0)
            total = jnp.sum(kept)
            lost = jnp.any(~legal & (probs > 0))
            # As given where nothing is lost: the gradient in `probs` is then plainly q.
            shared = kept / jnp.where(lost & (total > 0), total, 1.0)
            probs = jnp.where(total > 0, shared, even)
        return probs, jnp.zeros_like(q_values)


class Boltzmann(CheckedStruct):
    """The softmax policy without its entropy: V = sum_a softmax(q / temperature)_a q_a.

    It is no non-expansion, and not monotone: raising a low value draws probability to it. Value
    iteration with it may have several fixed points, or none that it reaches. Use `Softmax` or
    `Mellowmax` for a backup that contracts. As `temperature -> 0` it is `Greedy`.

    Attributes:
        temperature: > 0 [return / nat].

    Example:
        >>> import jax.numpy as jnp
        >>> probs, bonus = Boltzmann(1.0)(jnp.array([0.0, jnp.log(3.0)]))
        >>> [f"{p:.2f}" for p in probs.tolist()], bonus.tolist()
        (['0.25', '0.75'], [0.0, 0.0])

    Sources:
        Asadi & Littman (2017), An alternative softmax operator for reinforcement learning,
        sections 1 and 4.
    """

    temperature: Number = setting(1.0, "temperature", unit="return / nat", low=0.0, low_open=True)

    facts = ImprovementFacts(nonexpansive=False)

    def __call__(self, q_values: Array, mask: Array | None = None) -> tuple[Array, Array]:
        """`q_values[A]` [return], `mask[A]` -> `probs[A]`, `bonus[A]` [return], zero."""
        values, legal = split_legal(q_values, mask)
        return softmax_of_legal(values / self.temperature, legal)[0], jnp.zeros_like(q_values)


class ExpectileMax(CheckedStruct):
    """The expectile of the values under the uniform law on the legal actions.

    V solves level sum_a (q_a - V)^+ = (1 - level) sum_a (V - q_a)^+;
    probs_a is proportional to `level` above V and to 1 - level below, so that V = sum_a probs_a q_a

    `level = 1/2` is the mean, `level = 1` the maximum (`Greedy`, ties to the first). It never looks
    beyond the values of the given actions, which is why learners that only see sampled actions
    regress to it.

    Attributes:
        level: of the expectile, in [1/2, 1].

    Numerics:
        Exact by one sort. The gradient of V in `q_values` is `probs`.

    Example:
        >>> import jax.numpy as jnp
        >>> ExpectileMax(0.75)(jnp.array([0.0, 4.0]))[0].tolist()
        [0.25, 0.75]

    Sources:
        Newey & Powell (1987), Asymmetric least squares estimation and testing; Kostrikov, Nair &
        Levine (2022), Offline reinforcement learning with implicit Q-learning, section 4.
    """

    level: Number = setting(0.9, "level of the expectile", low=0.5, high=1.0)

    facts = ImprovementFacts()

    def __call__(self, q_values: Array, mask: Array | None = None) -> tuple[Array, Array]:
        """`q_values[A]` [return], `mask[A]` -> `probs[A]`, `bonus[A]` [return], zero."""
        values, legal = split_legal(jax.lax.stop_gradient(q_values), mask)
        legal = legal | ~jnp.any(legal)
        order = jnp.argsort(jnp.where(legal, -values, jnp.inf))  # best first, illegal last
        ranked, count = values[order], jnp.arange(1, values.shape[0] + 1)
        num_legal = jnp.sum(legal)
        level = jnp.asarray(self.level, values.dtype)
        # Weighting the first k by `level` gives the greatest mean at the right k, for level >= 1/2.
        centred = jnp.where(count <= num_legal, ranked - ranked[0], 0.0)
        above = jnp.cumsum(centred)
        weighted = level * above + (1.0 - level) * (above[-1] - above)
        mass = level * count + (1.0 - level) * (num_legal - count)
        num_above = jnp.argmax(jnp.where(count <= num_legal, weighted / mass, -jnp.inf)) + 1
        weights = jnp.where(count <= num_above, level, jnp.where(count <= num_legal, 1 - level, 0))
        probs = jnp.zeros_like(values).at[order].set(weights / jnp.sum(weights))
        return probs, jnp.zeros_like(q_values)


class Softmax(CheckedStruct):
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

    temperature: Number = setting(
        1.0, "weight of the entropy", unit="return / nat", low=0.0, low_open=True
    )

    facts = ImprovementFacts()

    def __call__(self, q_values: Array, mask: Array | None = None) -> tuple[Array, Array]:
        """`q_values[A]` [return], `mask[A]` -> `probs[A]`, `bonus[A]` [return]."""
        q_values, legal = split_legal(q_values, mask)
        probs, log_probs = softmax_of_legal(q_values / self.temperature, legal)
        return probs, -self.temperature * log_probs


class KLSoftmax(CheckedStruct):
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

    temperature: Number = setting(
        1.0, "weight of the divergence", unit="return / nat", low=0.0, low_open=True
    )
    reference: Array | None = None  # [A]

    facts = ImprovementFacts()

    def __call__(self, q_values: Array, mask: Array | None = None) -> tuple[Array, Array]:
        """`q_values[A]` [return], `mask[A]` -> `probs[A]`, `bonus[A]` [return]."""
        q_values, legal = split_legal(q_values, mask)
        reference = jnp.ones_like(q_values) if self.reference is None else self.reference
        held = legal & (reference > 0)
        usable = jnp.any(held)
        legal = jnp.where(usable, held, legal)
        _, log_reference = softmax_of_legal(jnp.log(jnp.where(held, reference, 1.0)), legal)
        probs, _ = softmax_of_legal(q_values / self.temperature + log_reference, legal)
        return probs, _bonus(q_values, log_reference, self.temperature, legal)


class Mellowmax(CheckedStruct):
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

    omega: Number = setting(5.0, "sharpness", unit="nat / return", low=0.0, low_open=True)

    facts = ImprovementFacts()

    def __call__(self, q_values: Array, mask: Array | None = None) -> tuple[Array, Array]:
        """`q_values[A]` [return], `mask[A]` -> `probs[A]`, `bonus[A]` [return]."""
        q_values, legal = split_legal(q_values, mask)
        probs, _ = softmax_of_legal(self.omega * q_values, legal)
        _, uniform = softmax_of_legal(jnp.zeros_like(q_values), legal)
        return probs, _bonus(q_values, uniform, 1.0 / self.omega, legal)


class MirrorDescent(CheckedStruct):
    """The step of mirror-descent value iteration: near the last policy, and random.

    probs = argmax sum_a probs_a q_a - kl_weight KL(probs || reference) + entropy_weight entropy
          = softmax((q + kl_weight log reference) / (kl_weight + entropy_weight))
    bonus = -kl_weight log(probs / reference) - entropy_weight log probs

    Without `regularise_evaluation` the bonus is zero: the variant that regularises the policy but
    not its evaluation, whose V is not a non-expansion. Both weights 0: `Greedy`;
    kl_weight 0: `Softmax`; entropy_weight 0: `KLSoftmax`, conservative value iteration. With
    a = kl_weight / (kl_weight + entropy_weight) it is soft value iteration of temperature
    kl_weight + entropy_weight with a Munchausen bonus of weight a.

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

    kl_weight: Number = setting(1.0, "weight of the divergence", unit="return / nat", low=0.0)
    entropy_weight: Number = setting(0.0, "weight of the entropy", unit="return / nat", low=0.0)
    regularise_evaluation: bool = setting(True, "whether the value includes the penalties")
    log_reference: Array | None = None  # [A] [nats]

    @property
    def facts(self) -> ImprovementFacts:
        """Nonexpansive where the evaluation is regularised too."""
        return ImprovementFacts(nonexpansive=self.regularise_evaluation)

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


def _bonus(q_values: Array, log_weights: Array, temperature: float | Array, legal: Array) -> Array:
    """temperature log sum_b weights_b exp(q_b / temperature) - q_a, `[A]` [return], weights a law;
    zero at illegal actions."""
    best = q_values[jnp.argmax(jnp.where(legal, q_values, -jnp.inf))]
    below = jnp.where(legal, q_values - best, 0.0) / temperature  # or 0 * inf in the gradient
    excess = jnp.sum(jnp.where(legal, jnp.exp(log_weights) * jnp.expm1(below), 0.0))
    # By expm1 and log1p while the sum is near one, which keeps the digits that a high temperature
    # needs; by log-sum-exp where it is not, which keeps those of a small weight of the best.
    is_near = excess > -0.5
    far = jnp.where(legal & ~is_near, log_weights + below, jnp.where(is_near, 0.0, -jnp.inf))
    gain = jnp.where(is_near, jnp.log1p(jnp.where(is_near, excess, 0.0)), jax.nn.logsumexp(far))
    return jnp.where(legal, best + temperature * gain - q_values, 0.0)


class PerState(Struct):
    """An improvement whose every leaf has a leading axis `[S]`: one setting for each state.

    Planners map over it; it cannot be applied at a single state.

    Attributes:
        improvement: its leaves are `[S, ...]`, such as `FixedPolicy(probs)` with `probs[S, A]`.

    Example:
        >>> import jax.numpy as jnp
        >>> policy = jnp.array([[0.5, 0.5], [0.25, 0.75]])
        >>> mask = jnp.array([[True, True], [True, False]])
        >>> over_states(PerState(FixedPolicy(policy)), jnp.zeros((2, 2)), mask)[0].tolist()
        [[0.5, 0.5], [1.0, 0.0]]
    """

    improvement: Improvement

    @property
    def facts(self) -> ImprovementFacts:
        """As the improvement."""
        return self.improvement.facts

    def __call__(self, q_values: Array, mask: Array | None = None) -> tuple[Array, Array]:
        """Refused.

        Raises:
            ValueError: always; the call names no state.
        """
        raise ValueError(
            "PerState has settings for each state, and this call names none. Plan on a TabularMDP, "
            "or apply the improvement of one state."
        )


def over_states(improvement: Improvement, q_values: Array, mask: Array) -> tuple[Array, Array]:
    """The improvement at every state.

    Args:
        improvement: an improvement, or `PerState`.
        q_values: `[S, A]` [return].
        mask: `[S, A]` bool, true where legal.

    Returns:
        `probs[S, A]` and `bonus[S, A]` [return].
    """
    if isinstance(improvement, PerState):
        return jax.vmap(lambda i, q, m: i(q, m))(improvement.improvement, q_values, mask)
    return jax.vmap(improvement)(q_values, mask)


def gap_bonus(
    improvement: Improvement,
    q_values: Array,
    action: Array,
    weight: float | Array,
    clip: float | Array = -jnp.inf,
    mask: Array | None = None,
) -> Array:
    """The advantage of the action taken under an improvement, to be added to its reward.

    bonus = weight * max(q_a - V, clip),  V = sum_b probs_b (q_b + bonus_b) of the improvement

    `Softmax(temperature)` gives weight * max(temperature log probs_a, clip), the Munchausen bonus,
    `Greedy` that of advantage learning: gaps grow to 1 / (1 - weight) times their width. `Tsallis`
    gives the bonus of general Munchausen value iteration, which is not weight * temperature
    ln_order(probs_a) unless the order is 1: below the threshold it keeps telling actions of
    probability zero apart.

    Args:
        improvement: by which the state's value is taken.
        q_values: `[A]` [return], at the state.
        action: `[]` int, the action taken.
        weight: in [0, 1].
        clip: least advantage, <= 0 [return].
        mask: `[A]` bool, true where legal; None when every action is.

    Returns:
        `[]` [return].

    Example:
        >>> import jax.numpy as jnp
        >>> float(gap_bonus(Greedy(), jnp.array([1.0, 3.0]), 0, weight=0.5))
        -1.0

    Sources:
        Vieillard, Pietquin & Geist (2020), Munchausen reinforcement learning, equation 1, section 3
        and theorem 1; Baird (1999), Reinforcement learning through gradient descent, chapter 5
        (advantage learning); Zhu et al. (2023), General Munchausen reinforcement learning with
        Tsallis Kullback-Leibler divergence, section 4.
    """
    probs, bonus = improvement(q_values, mask)
    held = jnp.where(probs > 0, q_values + bonus, 0.0)
    return weight * jnp.maximum(q_values[action] - jnp.sum(probs * held), clip)


register("improvements", Greedy, EpsilonGreedy, Softmax, KLSoftmax, MirrorDescent, Mellowmax)
register("improvements", ExpectileMax, FixedPolicy, Boltzmann)
