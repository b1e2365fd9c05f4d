"""Rewards that carry the log-policy: mirror descent without keeping the last policy."""

from __future__ import annotations

import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.settings import setting
from jaxrl.core.types import Array
from jaxrl.operators import BellmanOperator, MirrorDescent
from jaxrl.operators.bellman import describe
from jaxrl.operators.improvement import gap_bonus


@struct.dataclass
class Munchausen:
    """A share of the taken action's advantage under the improvement, added to its reward.

    reward + weight max(q_a - V, clip),  V = sum_b probs_b (q_b + bonus_b)

    of the lagged copy at the state. With `Softmax(temperature)` the advantage is temperature log
    probs_a, the published form, which is mirror descent of KL weight weight * temperature and
    entropy weight (1 - weight) temperature; with `Tsallis` it is general Munchausen value
    iteration, with `Greedy` advantage learning.

    Attributes:
        weight: in [0, 1); 0 changes nothing.
        clip: least advantage, <= 0 [return]; -inf for none, where the correspondence is exact.

    Example:
        >>> from jaxrl.operators import Softmax
        >>> operator = BellmanOperator(improvement=Softmax(1.0))
        >>> bonus = Munchausen(weight=0.5, clip=-9.0).bonus(operator, jnp.zeros(2), 1)
        >>> f"{float(bonus):.4f}"  # log(1/2) / 2
        '-0.3466'

    Sources:
        Vieillard, Pietquin & Geist (2020), Munchausen reinforcement learning, equation 1 and
        theorem 1; Zhu et al. (2023), General Munchausen reinforcement learning with Tsallis
        Kullback-Leibler divergence, section 4; Baird (1999), chapter 5.
    """

    weight: float = setting(0.9, "share of the advantage added to the reward", low=0.0, high=1.0)
    clip: float = setting(-1.0, "least advantage", unit="return", high=0.0, infinite=True)

    def bonus(self, operator: BellmanOperator, scores: Array, action: Array) -> Array:
        """`scores[A]` [return] of the lagged copy at the state, `action[]` -> `[]` [return]."""
        return gap_bonus(operator.improvement, scores, action, self.weight, self.clip)


def check_mirror_descent(operator: BellmanOperator, munchausen: Munchausen | None) -> None:
    """Raise `ValueError` for a mirror descent that needs more than one lagged copy."""
    step = operator.improvement
    if not _is_implicit(step):
        return
    if munchausen is not None:
        raise ValueError(
            f"{describe(step)} is itself a Munchausen bonus: use Softmax with munchausen, or leave "
            "munchausen at None."
        )
    if not step.regularise_evaluation:
        raise ValueError(
            f"{describe(step)}: without regularise_evaluation the last policy is not in the values "
            "and would have to be kept. Set regularise_evaluation=True, give log_reference, or "
            "plan with mirror_descent_value_iteration."
        )


def implicit_policy(
    operator: BellmanOperator, munchausen: Munchausen | None
) -> tuple[BellmanOperator, Munchausen | None]:
    """Mirror descent in the variables that a learner can keep.

    `MirrorDescent(l, t)` without a reference goes on from the last policy pi_k. With
    q'_k = q_k + l log pi_k it is

        pi_{k+1} = softmax(q'_k / (l + t)),
        q'_{k+1} = r + l log pi_{k+1} + discount P <pi_{k+1}, q'_k - (l + t) log pi_{k+1}>

    so that one network holds both. Anything else is left as it is.

    Sources:
        Vieillard, Pietquin & Geist (2020), Munchausen reinforcement learning, theorem 1.
    """
    step = operator.improvement
    if not _is_implicit(step):
        return operator, munchausen
    temperature = jnp.asarray(step.kl_weight + step.entropy_weight)
    weight = step.kl_weight / jnp.where(temperature > 0, temperature, 1.0)
    soft = step.replace(kl_weight=jnp.zeros_like(temperature), entropy_weight=temperature)
    return operator.replace(improvement=soft), Munchausen(weight, -jnp.inf)


def _is_implicit(step: object) -> bool:
    return isinstance(step, MirrorDescent) and step.log_reference is None
