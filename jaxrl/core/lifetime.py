"""What rules and schedules that know their lifetime are told of it."""

from __future__ import annotations

import jax.numpy as jnp

from jaxrl.core.types import Array, Progress

_MOST_DECADES = 10.0


def lifetime_features(progress: Progress) -> tuple[Array, Array]:
    """How much of a life is over, and how long it is: two numbers in [0, 1].

    share = step / total_steps
    length = log10(total_steps) / 10, at most 1

    An unlimited life has share 0 and length 1, as one of 10^10 steps or more.

    Source: Jackson et al. 2024, Discovering temporally-aware reinforcement learning algorithms,
    section 3: n / N and log N. The base and the division are ours, so that both are of order one.

    Example:
        >>> share, length = lifetime_features(Progress.start(1e5).advance(25_000))
        >>> f"{float(share):.2f}", f"{float(length):.2f}"
        ('0.25', '0.50')
    """
    total = jnp.clip(progress.total_steps, 1.0, 10.0**_MOST_DECADES)
    return progress.fraction, jnp.log10(total) / _MOST_DECADES
