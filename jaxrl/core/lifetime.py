"""What rules and schedules that know their lifetime are told of it."""

from __future__ import annotations

import jax.numpy as jnp

from jaxrl.core.types import Array, Progress

_MIDDLE, _MOST_DECADES = 5.0, 10.0  # of log10 of the steps of a life


def lifetime_features(progress: Progress) -> tuple[Array, Array]:
    """How much of a life is over, and how long it is: two numbers of order one.

    share = step / total_steps, in [0, 1]
    length = log10(total_steps / 10^5), in [-5, 5] [decades]

    An unlimited life has share 0 and length 5, as one of 10^10 steps or more.

    Source: Jackson et al. 2024, Discovering temporally-aware reinforcement learning algorithms,
    section 3: n / N and log N. The base and the origin are ours: a weight of order one tells lives
    of 10^4 and 10^6 steps apart.

    Example:
        >>> share, length = lifetime_features(Progress.start(1e5).advance(25_000))
        >>> f"{float(share):.2f}", f"{float(length):.2f}"
        ('0.25', '0.00')
    """
    total = jnp.clip(progress.total_steps, 1.0, 10.0**_MOST_DECADES)
    return progress.fraction, jnp.log10(total) - _MIDDLE
