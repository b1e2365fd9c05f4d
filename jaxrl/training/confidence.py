"""Exact lower confidence bounds on probabilities, and on a whole survival function at once.

Numbers of the host in float64; nothing here is traced.
"""

from __future__ import annotations

import math
import statistics

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betainc
from numpy.typing import ArrayLike

from jaxrl.core.types import Array

_RANKS_PER_OCTAVE = 2


def clopper_pearson_lower(successes: ArrayLike, num_trials: int, confidence: float) -> np.ndarray:
    """The one-sided lower bound of Clopper and Pearson on a probability.

    The p at which `successes` or more of `num_trials` have probability 1 - confidence:
    I_p(k, n - k + 1) = 1 - confidence. It is above the truth with probability at most
    1 - confidence, for every truth.

    Args:
        successes: `[...]`, in `[0, num_trials]`.
        num_trials: independent trials, n.
        confidence: in (0, 1).

    Returns:
        `[...]` in [0, 1); 0 without a success.

    Numerics:
        Bisection in float64 on the incomplete beta function, from below: the lower end of the last
        bracket is returned.

    Example:
        >>> bound = clopper_pearson_lower(20, 20, 0.95)  # all of n: (1 - confidence)^(1 / n)
        >>> abs(float(bound) - 0.05 ** (1 / 20)) < 1e-12
        True

    Sources:
        Clopper & Pearson, "The use of confidence or fiducial limits illustrated in the case of the
        binomial" (1934).
    """
    successes = np.asarray(successes, np.float64)
    if np.any((successes < 0) | (successes > num_trials)):
        raise ValueError(f"successes must lie between 0 and num_trials={num_trials}.")
    with jax.enable_x64(True):
        bound = np.asarray(_beta_quantile(successes, num_trials - successes + 1, 1.0 - confidence))
    return np.where(successes > 0, bound, 0.0)


def survival_band(num_episodes: int, confidence: float) -> np.ndarray:
    """Lower bounds on P(R >= x) at every order statistic, that hold all at once.

    With n independent returns R_(1) <= ... <= R_(n), and probability at least `confidence`,

        P(R >= R_(i)) >= band[i - 1] for all i.

    Half of the risk goes to the Dvoretzky-Kiefer-Wolfowitz bound with Massart's constant,
    (n - i + 1) / n - sqrt(log(2 / risk) / (2 n)), best in the middle; half, in equal parts, to
    Clopper-Pearson bounds at ranks chosen beforehand, dense among the least returns: P(R >= R_(i))
    is stochastically at least Beta(n - i + 1, i), whatever the law of R, and their bound is its
    quantile. They are close to exact where P(R >= x) is near 1, and hold at lower ranks too.

    Returns:
        `[num_episodes]`, falling.

    Sources:
        Massart, "The tight constant in the Dvoretzky-Kiefer-Wolfowitz inequality" (1990).
    """
    risk = 1.0 - confidence
    num_above = num_episodes - np.arange(num_episodes)
    slack = math.sqrt(math.log(2.0 / risk) / (2.0 * num_episodes))
    everywhere = np.maximum(num_above / num_episodes - slack, 0.0)
    octaves = np.arange(0, math.log2(num_episodes) + 1e-9, 1.0 / _RANKS_PER_OCTAVE)
    ranks = np.unique(np.round(2.0**octaves).astype(int)) - 1
    at_ranks = np.zeros(num_episodes)
    at_ranks[ranks] = clopper_pearson_lower(
        num_above[ranks], num_episodes, 1.0 - 0.5 * risk / len(ranks)
    )
    falling = np.maximum.accumulate(at_ranks[::-1])[::-1]  # what a higher return reaches, lower do
    return np.maximum(everywhere, falling)


def shifted_probability(probs: ArrayLike, shift: float) -> np.ndarray:
    """Phi(Phi^-1(p) - shift), elementwise: the least probability, after a Gaussian is moved by
    `shift` standard deviations, of an event that had probability p before; 0 where p is 0."""
    probs = np.asarray(probs, np.float64)
    if shift == 0.0:
        return probs.copy()
    if math.isinf(shift):
        return np.zeros_like(probs)
    unique, index = np.unique(probs, return_inverse=True)
    normal = statistics.NormalDist()
    moved = [
        0.5 * math.erfc((shift - normal.inv_cdf(p)) / math.sqrt(2.0)) if 0.0 < p < 1.0 else p
        for p in unique.tolist()
    ]
    return np.asarray(moved)[index].reshape(probs.shape)


@jax.jit
def _beta_quantile(a: Array, b: Array, share: Array) -> Array:
    """The lower end of a bracket, one unit of rounding wide, of the Beta(a, b) quantile."""

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        below = betainc(jnp.maximum(a, 1.0), b, middle) <= share
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    ends = (jnp.zeros_like(a), jnp.ones_like(a))
    return jax.lax.fori_loop(0, 60, halve, ends)[0]
