"""Corrections of a target that widen the gap between the best action and the others.

All act on one example: the state's own values `q_values[A]`, the action taken and a target for it,
such as reward + discount max q at the successor. The first three leave the greedy policy of the
fixed point optimal and lower the values of other actions. Stop the gradient where they are used.
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxrl.core.protocols import Improvement
from jaxrl.core.types import Array
from jaxrl.operators.improvement import Greedy
from jaxrl.operators.regularised import softmax_of_legal, split_legal


def munchausen_bonus(
    q_values: Array,
    action: Array,
    weight: float | Array = 0.9,
    temperature: float | Array = 0.03,
    clip: float | Array = -1.0,
    mask: Array | None = None,
) -> Array:
    """The scaled log-probability of the action taken, to be added to its reward.

    bonus = weight * max(temperature log softmax(q / temperature)_a, clip)

    With `Softmax(temperature)` as the improvement it is the mirror descent of KL weight
    weight * temperature and entropy weight (1 - weight) temperature, in other variables.

    Args:
        q_values: `[A]` [return], at the state.
        action: `[]` int, the action taken.
        weight: in [0, 1]; 0 is soft value iteration.
        temperature: > 0 [return / nat].
        clip: least value before weighting, <= 0 [return]; -inf for none.
        mask: `[A]` bool, true where legal; None when every action is.

    Returns:
        `[]` [return], at most zero.

    Example:
        >>> import jax.numpy as jnp
        >>> q = jnp.array([0.0, 0.0])
        >>> f"{float(munchausen_bonus(q, 1, weight=0.5, temperature=1.0, clip=-9.0)):.4f}"
        '-0.3466'

    Sources:
        Vieillard, Pietquin & Geist (2020), Munchausen reinforcement learning, equation 1, section
        4.1 (weight 0.9, temperature 0.03, clip -1) and theorem 1.
    """
    values, legal = split_legal(q_values, mask)
    log_prob = softmax_of_legal(values / temperature, legal)[1][action]
    return weight * jnp.maximum(temperature * log_prob, clip)


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

    `Softmax` gives `munchausen_bonus`, `Greedy` gives `advantage_learning`, `Tsallis` the bonus of
    general Munchausen value iteration. That one is not weight * temperature ln_order(probs_a)
    unless the order is 1: below the threshold it keeps telling actions of probability zero apart.

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
        Vieillard, Pietquin & Geist (2020), section 3; Zhu et al. (2023), General Munchausen
        reinforcement learning with Tsallis Kullback-Leibler divergence, section 4.
    """
    probs, bonus = improvement(q_values, mask)
    held = jnp.where(probs > 0, q_values + bonus, 0.0)
    return weight * jnp.maximum(q_values[action] - jnp.sum(probs * held), clip)


def advantage_learning(
    target: Array,
    q_values: Array,
    action: Array,
    weight: float | Array = 0.9,
    mask: Array | None = None,
) -> Array:
    """Baird's operator: target - weight (max_b q_b - q_a).

    Args:
        target: `[]` [return], of the Bellman operator.
        q_values: `[A]` [return], at the state.
        action: `[]` int, the action taken.
        weight: in [0, 1); 0 leaves the target as it is.
        mask: `[A]` bool, true where legal; None when every action is.

    Returns:
        `[]` [return]. At the fixed point gaps are 1 / (1 - weight) times as wide.

    Example:
        >>> import jax.numpy as jnp
        >>> float(advantage_learning(5.0, jnp.array([1.0, 3.0]), 0, weight=0.5))
        4.0

    Sources:
        Baird (1999), Reinforcement learning through gradient descent, chapter 5; Bellemare et al.
        (2016), Increasing the action gap: new operators for reinforcement learning, section 4.
    """
    best = Greedy().select(q_values, mask)
    return target - weight * (q_values[best] - q_values[action])


def persistent(
    target: Array,
    repeated_target: Array,
    q_values: Array,
    action: Array,
    weight: float | Array = 0.9,
    mask: Array | None = None,
) -> Array:
    """Advantage learning that spares an action which would be taken again.

    max(target - weight (max_b q_b - q_a), repeated_target)

    Args:
        target: `[]` [return], of the Bellman operator.
        repeated_target: `[]` [return], of the operator that repeats the action:
            E[reward + discount q(next state, a)], at most `target`.
        q_values: `[A]` [return], at the state.
        action: `[]` int, the action taken.
        weight: in [0, 1).
        mask: `[A]` bool, true where legal; None when every action is.

    Returns:
        `[]` [return]. With sampled successors the maximum of samples is above that of means.

    Example:
        >>> import jax.numpy as jnp
        >>> float(persistent(5.0, 4.5, jnp.array([1.0, 3.0]), 0, weight=0.5))
        4.5

    Sources:
        Bellemare et al. (2016), Increasing the action gap, section 4.2 (persistent advantage
        learning).
    """
    shrunk = advantage_learning(target, q_values, action, weight, mask)
    return jnp.maximum(repeated_target, shrunk)


def consistent(
    reward: Array,
    discount: Array,
    next_value: Array,
    q_values: Array,
    action: Array,
    is_same_state: Array,
) -> Array:
    """The consistent Bellman target: whoever comes back to the state takes the same action again.

    reward + discount * (q_a where the successor is the state itself, next_value elsewhere)

    Args:
        reward: `[]` [return].
        discount: `[]`, gamma^tau (1 - terminated).
        next_value: `[]` [return], max q at the successor.
        q_values: `[A]` [return], at the state.
        action: `[]` int, the action taken.
        is_same_state: `[]` bool; in an aggregation, whether both fall into the same cell.

    Returns:
        `[]` [return].

    Example:
        >>> import jax.numpy as jnp
        >>> q = jnp.array([1.0, 3.0])
        >>> [float(consistent(1.0, 0.5, 8.0, q, 0, same)) for same in (False, True)]
        [5.0, 1.5]

    Sources:
        Bellemare et al. (2016), Increasing the action gap, equation 3.
    """
    after = jnp.where(is_same_state, q_values[action], next_value)
    return reward + discount * jnp.where(jnp.asarray(discount) > 0, after, 0.0)
