"""Intervals of an evaluation over several environments: episodes drawn anew, agents held fixed.

All of it is numpy and seeded: the same returns give the same interval.

Sources: Efron & Tibshirani, "An introduction to the bootstrap" (1993), ch. 13 (percentiles).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jaxrl.core.estimates import Estimate, percentile_interval

# How often each episode is drawn, `[R, M, E]`, and the returns `[M, E]` -> `[R, ...]`.
Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]


def setting_means(counts: np.ndarray, returns: np.ndarray) -> np.ndarray:
    """Mean return in each setting, `[R, M]`."""
    if counts.shape[1] == 1:  # the same draw in all settings
        return counts[:, 0] @ returns.T / returns.shape[1]
    return np.einsum("rme,me->rm", counts, returns) / returns.shape[1]


def mean_of_settings(counts: np.ndarray, returns: np.ndarray) -> np.ndarray:
    """Mean of all settings, `[R]`."""
    return setting_means(counts, returns).mean(-1)


def worst_setting(counts: np.ndarray, returns: np.ndarray) -> np.ndarray:
    """Mean return in the worst setting of each resample, `[R]`."""
    return setting_means(counts, returns).min(-1)


def tail_of_settings(counts: np.ndarray, returns: np.ndarray, tail: float) -> np.ndarray:
    """CVaR over settings of their mean returns, `[R]`."""
    means = setting_means(counts, returns)
    return _tail_mean(means, np.ones_like(means), tail)


def tail_of_episodes(counts: np.ndarray, returns: np.ndarray, tail: float) -> np.ndarray:
    """CVaR over the episodes of all settings together, `[R]`."""
    times = np.broadcast_to(counts, (len(counts), *returns.shape)).reshape(len(counts), -1)
    return _tail_mean(returns.reshape(1, -1), times, tail)


def stratified_estimate(
    returns: np.ndarray,
    statistic: Statistic,
    *,
    same_episodes: bool,
    level: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """A statistic of `returns[M, E]` and its percentile interval.

    Every resample draws the E episodes of each setting anew, so that no setting weighs more than in
    the original. With `same_episodes`, episode `e` shares its randomness across settings: whole
    columns are drawn, which keeps the dependence; drawing apart would give intervals too narrow
    for averages over settings and too wide for differences.

    Args:
        returns: `[M, E]` [return]; NaN where an episode diverged.
        statistic: one of this module; of a tail, with its share bound.
        same_episodes: whether columns are drawn whole.
        level: share of the resamples inside the interval, in (0, 1).
        num_resamples: how often episodes are drawn.
        seed: of the draws.

    Numerics:
        A least mean over settings is lower in a resample than in truth where settings are close:
        its interval errs to the safe side.
    """
    returns = np.asarray(returns, np.float64)
    num_settings, num_episodes = returns.shape
    strata = 1 if same_episodes else num_settings
    generator = np.random.default_rng(seed)
    batch = max(1, 4_000_000 // returns.size)
    replicates = []
    for start in range(0, num_resamples, batch):
        size = min(batch, num_resamples - start)
        drawn = generator.integers(0, num_episodes, (size * strata, num_episodes))
        drawn += num_episodes * np.arange(size * strata)[:, None]
        counts = np.bincount(drawn.reshape(-1), minlength=drawn.size).astype(np.float64)
        replicates.append(statistic(counts.reshape(size, strata, num_episodes), returns))
    value = statistic(np.ones((1, 1, num_episodes)), returns)[0]
    low, high = percentile_interval(np.concatenate(replicates), level)
    return Estimate(float(value), float(low), float(high))


def _tail_mean(values: np.ndarray, times: np.ndarray, tail: float) -> np.ndarray:
    """Mean of the lowest `tail` share of `values[R or 1, N]`, each counted `times[R, N]`."""
    order = np.argsort(values, axis=-1)
    values = np.take_along_axis(values, order, axis=-1)
    times = np.take_along_axis(times, np.broadcast_to(order, times.shape), axis=-1)
    before = np.cumsum(times, axis=-1) - times
    wanted = tail * times.sum(-1, keepdims=True)
    taken = np.clip(wanted - before, 0.0, times)
    return (taken * values).sum(-1) / wanted[:, 0]
