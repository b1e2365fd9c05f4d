"""From the fitness of mirrored pairs to the weight of each pair's direction."""

from __future__ import annotations

from typing import Protocol

import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.types import Array


class Shaping(Protocol):
    """What of the fitness counts.

    A fitness that is not finite loses: to its mirror image, and to all others of the generation.
    Where both of a pair are not finite the weight is 0.
    """

    def weights(self, fitness: Array) -> Array:
        """`fitness[P, 2]`, of centre + sigma e and of centre - sigma e -> weight of e, `[P]`."""
        ...


@struct.dataclass
class Plain:
    """Half the difference: the estimate is that of the gradient, in the units of the fitness.

        w_p = (f_p+ - f_p-) / 2

    The only shaping under which estimates are unbiased. A lost fitness counts as the least of the
    generation less one standard deviation.

    Example:
        >>> Plain().weights(jnp.array([[3.0, 1.0], [2.0, 2.0]])).tolist()
        [1.0, 0.0]
    """

    def weights(self, fitness: Array) -> Array:
        """As the formula says."""
        scores, _ = _scores(fitness)
        return (scores[:, 0] - scores[:, 1]) / 2.0


@struct.dataclass
class ZScore:
    """Half the difference, in standard deviations of the generation's fitness.

    Nothing where all are equal. A lost fitness counts as with `Plain`.

    Example:
        >>> ZScore().weights(jnp.array([[6.0, 2.0], [6.0, 2.0]])).tolist()
        [1.0, 1.0]
    """

    def weights(self, fitness: Array) -> Array:
        """As said, `[P]`."""
        scores, deviation = _scores(fitness)
        some = deviation > 0
        difference = (scores[:, 0] - scores[:, 1]) / 2.0
        return jnp.where(some, difference / jnp.where(some, deviation, 1.0), 0.0)


@struct.dataclass
class PairSign:
    """Which of the two is better: 1, 0 or -1.

    Blind to the scale of the task's rewards, so that pairs may live in different tasks.

    Sources: Jackson et al. 2024, Discovering temporally-aware reinforcement learning algorithms.

    Example:
        >>> PairSign().weights(jnp.array([[9.0, 1.0], [jnp.nan, -4.0], [2.0, 2.0]])).tolist()
        [1.0, -1.0, 0.0]
    """

    def weights(self, fitness: Array) -> Array:
        """As said, `[P]`."""
        plus, minus = _ordered(fitness).T
        return (plus > minus).astype(fitness.dtype) - (plus < minus)


@struct.dataclass
class CentredRanks:
    """Half the difference of ranks among the 2P of the generation, from -1/2 to 1/2 each.

    Ties share the mean of their ranks. Blind to the scale, but not to the task: pairs should live
    in common tasks, or in tasks alike.

    Sources: Salimans et al. 2017, Evolution strategies as a scalable alternative to reinforcement
    learning, as released (openai/evolution-strategies-starter, es_distributed/es.py), where ties
    are ranked in the order that sorting leaves them in.

    Example:
        >>> CentredRanks().weights(jnp.array([[9.0, jnp.nan], [5.0, 5.0]])).tolist()
        [0.5, 0.0]
    """

    def weights(self, fitness: Array) -> Array:
        """As said, `[P]`."""
        flat = _ordered(fitness).reshape(-1)
        ordered = jnp.sort(flat)
        below = jnp.searchsorted(ordered, flat, side="left")
        not_above = jnp.searchsorted(ordered, flat, side="right")
        rank = (below + not_above - 1).astype(fitness.dtype) / 2.0
        centred = (rank / (flat.size - 1) - 0.5).reshape(fitness.shape)
        return (centred[:, 0] - centred[:, 1]) / 2.0


def _ordered(fitness: Array) -> Array:
    """What is not finite, below everything."""
    return jnp.where(jnp.isfinite(fitness), fitness, -jnp.inf)


def _scores(fitness: Array) -> tuple[Array, Array]:
    """Fitness with the lost below the least, and the standard deviation of the finite, `[]`."""
    finite = jnp.isfinite(fitness)
    count = jnp.maximum(jnp.sum(finite), 1)
    known = jnp.where(finite, fitness, 0.0)
    centred = jnp.where(finite, fitness - jnp.sum(known) / count, 0.0)
    deviation = jnp.sqrt(jnp.sum(centred**2) / count)
    least = jnp.min(jnp.where(finite, fitness, jnp.inf))
    lost = jnp.where(jnp.any(finite), least, 0.0) - deviation
    return jnp.where(finite, fitness, lost), deviation
