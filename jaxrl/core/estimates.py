"""A number with its interval, and how an interval is read off a bootstrap's replicates."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number and its bootstrap interval, in the unit of the scores."""

    value: float
    low: float
    high: float


def percentile_interval(replicates: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """The central `level` of replicates along axis 0, rounded outwards, never interpolated.

    NaN ranks lowest and is given as -inf: of what diverged no lower bound is known.

    Example:
        >>> low, high = percentile_interval(np.arange(101.0), 0.9)
        >>> float(low), float(high)
        (5.0, 95.0)

    Sources:
        Efron & Tibshirani, "An introduction to the bootstrap" (1993), ch. 13.
    """
    ranked = np.sort(np.where(np.isnan(replicates), -np.inf, replicates), axis=0)
    # The guard keeps a product such as 0.05 * 100 from falling just below a whole number.
    cut = int(np.floor((1 - level) / 2 * (len(ranked) - 1) + 1e-9))
    return ranked[cut], ranked[len(ranked) - 1 - cut]
