"""Semi-Markov decision processes as tables: steps that last for several unit steps."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from jaxrl.core import TabularMDP, outcome_mdp


def semi_markov_mdp(
    prob: ArrayLike,
    next_state: ArrayLike,
    reward: ArrayLike,
    duration: ArrayLike,
    discount: float = 0.99,
    *,
    initial: ArrayLike | None = None,
    terminal: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> TabularMDP:
    """An outcome list whose outcomes last tau unit steps each.

        q(s, a) = sum_k p_k (r_k + discount^tau_k (1 - terminal_k) max_b q(s'_k, b))

    The table says it by probabilities of ending, 1 - discount^(tau - 1) (1 - terminal), which every
    planner and every agent of the same discount takes as factors of what follows. Episodes sampled
    from it end where `terminal` is 1, and nowhere else.

    Args:
        prob: `[S, A, K]`, see `outcome_mdp`.
        next_state: `[S, A, K]`, after the whole step.
        reward: `[S, A, K]` or `[S, A]`, of the whole step, discounted to its beginning [return].
        duration: tau, broadcast to `[S, A, K]`, at least 1; need not be whole [unit steps].
        discount: gamma in (0, 1] [per unit step].
        initial: `[S]` law of the first state.
        terminal: `[S, A, K]` bool or probability.
        mask: `[S, A]` bool, true where the action is legal.

    Raises:
        ValueError: as `outcome_mdp`; a duration below 1, or a discount of 0.

    Example:
        >>> mdp = semi_markov_mdp([[[1.0]]], [[[0]]], [[[3.0]]], 2.0, discount=0.5)
        >>> from jaxrl.planning import value_iteration
        >>> f"{float(value_iteration(mdp).values[0]):.3f}"  # 3 / (1 - 1/4)
        '4.000'

    Sources:
        Puterman (1994), Markov Decision Processes, chapter 11; Bradtke & Duff (1995), Reinforcement
        learning methods for continuous-time Markov decision problems.
    """
    prob = np.asarray(prob, np.float64)
    duration = np.asarray(duration, np.float64)
    if not np.all(duration >= 1):
        raise ValueError(f"duration must be at least 1 unit step; the least is {duration.min()}.")
    if not 0.0 < float(discount) <= 1.0:
        raise ValueError(f"discount={discount} is out of range: give a value in (0, 1].")
    ends = np.zeros(prob.shape) if terminal is None else np.asarray(terminal, np.float64)
    survival = np.broadcast_to(discount ** (duration - 1.0), prob.shape) * (1.0 - ends)
    return outcome_mdp(
        prob, next_state, reward, discount, initial=initial, terminal=1.0 - survival, mask=mask
    )
