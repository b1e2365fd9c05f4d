"""Mirrored Gaussian perturbations of any pytree, and the gradients that they show.

    weight[P] = shaping(fitness[P, 2]),   of centre + sigma e and of centre - sigma e

A fitness that is not finite loses: to its mirror image, and to all others of the generation. Where
both of a pair are not finite the weight is 0.

All randomness is addressed by the number of the pair: how many are computed at once, or on how many
devices, changes nothing but rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import rankdata

from jaxrl.core import Struct
from jaxrl.core.types import Array, Key, PyTree

Shaping = Callable[[Array], Array]

CENTRE = 2**32 - 1  # where a pair has its number, the centre and what all pairs share have these
SHARED = 2**32 - 2
_NOISE, SEED, TASK = 0, 1, 2  # what the key of a pair is spent on


class Rows(Struct):
    """Who is evaluated: both of each pair, then the centre. `[R]`."""

    pair: Array  # uint32
    sign: Array  # float32: 1, -1, or 0 for the centre
    number: Array  # int32, which life of the candidate


def rows_of(num_pairs: int, num_lives: int = 1, num_centre: int = 0) -> Rows:
    """`P x 2 x num_lives` rows, then `num_centre` of the centre."""
    pair, side, number = np.indices((num_pairs, 2, num_lives)).reshape(3, -1)
    return Rows(
        pair=jnp.asarray(np.append(pair, [CENTRE] * num_centre), jnp.uint32),
        sign=jnp.asarray(np.append(1 - 2 * side, [0] * num_centre), jnp.float32),
        number=jnp.asarray(np.append(number, np.arange(num_centre)), jnp.int32),
    )


def pair_noise(key: Key, pair: Array | int, params: PyTree) -> PyTree:
    """The standard normal direction e of a pair, shaped as `params`; the same whenever asked."""
    key = jax.random.fold_in(jax.random.fold_in(key, pair), _NOISE)
    leaves, structure = jax.tree.flatten(params)
    drawn = [
        jax.random.normal(jax.random.fold_in(key, i), jnp.shape(leaf), jnp.result_type(leaf))
        for i, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, drawn)


def candidate(key: Key, row: Rows, centre: PyTree, sigma: Array | float) -> PyTree:
    """centre + sign sigma e of one row."""
    noise = pair_noise(key, row.pair, centre)
    return jax.tree.map(lambda c, e: c + (row.sign * sigma).astype(e.dtype) * e, centre, noise)


def estimate(
    key: Key, centre: PyTree, weights: Array, sigma: Array | float, chunk: int = 0
) -> PyTree:
    """The gradient that weighted directions show; `key` and `centre` as they were evaluated.

        g = 1 / (P sigma) sum_p w_p e_p

    With w_p half the difference of fitness (`plain`), g is an unbiased estimate of the gradient of
    the smoothed fitness E[f(centre + sigma e)]. Directions are drawn again, `chunk` at a time.

    Sources: Salimans et al. 2017, Evolution strategies as a scalable alternative to reinforcement
    learning; Nesterov & Spokoiny 2017, Random gradient-free minimization of convex functions.
    """
    num_pairs = weights.shape[0]
    size = min(chunk or num_pairs, num_pairs)
    padding = -num_pairs % size
    pairs = jnp.arange(num_pairs + padding, dtype=jnp.uint32)
    rows = (pairs.reshape(-1, size), jnp.pad(weights, (0, padding)).reshape(-1, size))

    def part(total: PyTree, rows: tuple[Array, Array]) -> tuple[PyTree, None]:
        pairs, weight = rows
        noise = jax.vmap(pair_noise, (None, 0, None))(key, pairs, centre)
        return jax.tree.map(lambda t, e: t + weighted(weight, e), total, noise), None

    total, _ = jax.lax.scan(part, jax.tree.map(jnp.zeros_like, centre), rows)
    scale = num_pairs * jnp.asarray(sigma)
    return jax.tree.map(lambda leaf: leaf / scale.astype(leaf.dtype), total)


def split_rows(tree: PyTree, *shape: int) -> tuple[PyTree, PyTree]:
    """Rows of pairs, as many as `shape` holds, and then those of the centre, apart.

    Returns:
        `[*shape, ...]` and `[C, ...]`.
    """
    count = math.prod(shape)
    pairs = jax.tree.map(lambda leaf: leaf[:count].reshape(*shape, *leaf.shape[1:]), tree)
    return pairs, jax.tree.map(lambda leaf: leaf[count:], tree)


def weighted(weights: Array, rows: Array) -> Array:
    """`sum_p weights[p] rows[p]`."""
    return jnp.tensordot(weights.astype(rows.dtype), rows, 1)


# ---- from the fitness of pairs to the weight of each direction: `SHAPINGS` ----------------------


def plain(fitness: Array) -> Array:
    """Half the difference, in the units of the fitness: the only shaping without a bias.

    A lost fitness counts as the least of the generation less one standard deviation.

    Example:
        >>> plain(jnp.array([[3.0, 1.0], [2.0, 2.0]])).tolist()
        [1.0, 0.0]
    """
    scores, _ = _scores(fitness)
    return (scores[:, 0] - scores[:, 1]) / 2.0


def z_score(fitness: Array) -> Array:
    """As `plain`, in standard deviations of the generation's fitness; nothing where all are equal.

    Example:
        >>> z_score(jnp.array([[6.0, 2.0], [6.0, 2.0]])).tolist()
        [1.0, 1.0]
    """
    _, deviation = _scores(fitness)
    some = deviation > 0
    return jnp.where(some, plain(fitness) / jnp.where(some, deviation, 1.0), 0.0)


def pair_sign(fitness: Array) -> Array:
    """Which of the two is better: 1, 0 or -1.

    Blind to the scale of the task's rewards, so that pairs may live in different tasks.

    Sources: Jackson et al. 2024, Discovering temporally-aware reinforcement learning algorithms.

    Example:
        >>> pair_sign(jnp.array([[9.0, 1.0], [jnp.nan, -4.0], [2.0, 2.0]])).tolist()
        [1.0, -1.0, 0.0]
    """
    plus, minus = _ordered(fitness).T
    return (plus > minus).astype(fitness.dtype) - (plus < minus)


def centred_ranks(fitness: Array) -> Array:
    """Half the difference of ranks among the 2P of the generation, from -1/2 to 1/2 each.

    Ties share the mean of their ranks. Blind to the scale, but not to the task: pairs should live
    in common tasks, or in tasks alike.

    Sources: Salimans et al. 2017, Evolution strategies as a scalable alternative to reinforcement
    learning, as released (openai/evolution-strategies-starter, es_distributed/es.py), where ties
    are ranked in the order that sorting leaves them in.

    Example:
        >>> centred_ranks(jnp.array([[9.0, jnp.nan], [5.0, 5.0]])).tolist()
        [0.5, 0.0]
    """
    rank = rankdata(_ordered(fitness)).astype(fitness.dtype) - 1.0
    centred = (rank / (fitness.size - 1) - 0.5).reshape(fitness.shape)
    return (centred[:, 0] - centred[:, 1]) / 2.0


SHAPINGS = {one.__name__: one for one in (plain, z_score, pair_sign, centred_ranks)}


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
