"""Mirrored Gaussian perturbations of any pytree, and the gradients that they show.

All randomness is addressed by the number of the pair: how many are computed at once, or on how many
devices, changes nothing but rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.types import Array, Key, PyTree
from jaxrl.meta.rows import over_rows

_CENTRE = 2**32 - 1  # where a pair has its number, the centre and what all pairs share have these
_SHARED = 2**32 - 2
_NOISE, _SEED, _TASK = 0, 1, 2  # what the key of a pair is spent on


@struct.dataclass
class Rows:
    """Who is evaluated: both of each pair, then the centre. `[R]`."""

    pair: Array  # uint32
    sign: Array  # float32: 1, -1, or 0 for the centre
    number: Array  # int32, which life of the candidate

    @classmethod
    def of(cls, num_pairs: int, num_lives: int = 1, num_centre: int = 0) -> Rows:
        """`P x 2 x num_lives` rows, then `num_centre` of the centre."""
        shape = (num_pairs, 2, num_lives)
        pair = jnp.arange(num_pairs, dtype=jnp.uint32)[:, None, None]
        sign = jnp.array([1.0, -1.0], jnp.float32)[:, None]
        number = jnp.arange(num_lives, dtype=jnp.int32)

        def flat(pairs: Array, centre: Array) -> Array:
            return jnp.concatenate([jnp.broadcast_to(pairs, shape).reshape(-1), centre])

        return cls(
            pair=flat(pair, jnp.full(num_centre, _CENTRE, jnp.uint32)),
            sign=flat(sign, jnp.zeros(num_centre, jnp.float32)),
            number=flat(number, jnp.arange(num_centre, dtype=jnp.int32)),
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


def evaluate_pairs(
    fitness: Callable[[PyTree, Key, Key], PyTree],
    key: Key,
    centre: PyTree,
    sigma: Array | float,
    num_pairs: int,
    *,
    num_lives: int = 1,
    num_centre: int = 0,
    common_tasks: bool = False,
    chunk: int = 0,
    num_devices: int = 1,
) -> tuple[PyTree, PyTree]:
    """The fitness of the mirrored pairs 0 .. P - 1 round a centre, and of the centre.

    Args:
        fitness: of parameters, the key of a task and the key of a life.
        key: of this generation.
        centre: parameters, any pytree of floats.
        sigma: standard deviation of the perturbations.
        num_pairs: P.
        num_lives: L, evaluations of each candidate. Both of a pair are given the same keys.
        num_centre: C, evaluations of the centre, under keys of their own.
        common_tasks: give all pairs the same L keys of tasks.
        chunk: pairs at a time; 0 for all, and the centre.
        num_devices: that what is computed at once is spread over.

    Returns:
        `[P, 2, L, ...]` of plus and minus, and `[C, ...]`.
    """

    def one(row: Rows) -> PyTree:
        own = jnp.where(row.sign == 0, row.pair, jnp.uint32(_SHARED)) if common_tasks else row.pair
        task_key = jax.random.fold_in(jax.random.fold_in(key, own), _TASK)
        life_key = jax.random.fold_in(jax.random.fold_in(key, row.pair), _SEED)
        return fitness(
            candidate(key, row, centre, sigma),
            jax.random.fold_in(task_key, row.number),
            jax.random.fold_in(life_key, row.number),
        )

    rows = Rows.of(num_pairs, num_lives, num_centre)
    found = over_rows(one, (rows,), 2 * num_lives * chunk, num_devices)
    return split_rows(found, num_pairs, 2, num_lives)


def estimate(
    key: Key, centre: PyTree, weights: Array, sigma: Array | float, chunk: int = 0
) -> PyTree:
    """The gradient that weighted directions show; `key` and `centre` as they were evaluated.

        g = 1 / (P sigma) sum_p w_p e_p

    With w_p half the difference of fitness (`Plain`), g is an unbiased estimate of the gradient of
    the smoothed fitness E[f(centre + sigma e)]. Directions are drawn again, `chunk` at a time.

    Sources: Salimans et al. 2017, Evolution strategies as a scalable alternative to reinforcement
    learning; Nesterov & Spokoiny 2017, Random gradient-free minimization of convex functions.

    Example:
        >>> slope = lambda params, *keys: 3.0 * params
        >>> key, centre = jax.random.key(0), jnp.zeros(())
        >>> f, _ = evaluate_pairs(slope, key, centre, 0.1, num_pairs=4096)
        >>> g = estimate(key, centre, (f[:, 0, 0] - f[:, 1, 0]) / 2, 0.1)
        >>> abs(float(g) - 3.0) < 0.3
        True
    """
    num_pairs = weights.shape[0]
    size = min(chunk or num_pairs, num_pairs)
    padding = -num_pairs % size
    pairs = jnp.arange(num_pairs + padding, dtype=jnp.uint32)
    rows = (pairs.reshape(-1, size), jnp.pad(weights, (0, padding)).reshape(-1, size))

    def part(total: PyTree, rows: tuple[Array, Array]) -> tuple[PyTree, None]:
        pairs, weight = rows
        noise = jax.vmap(pair_noise, (None, 0, None))(key, pairs, centre)
        return jax.tree.map(lambda t, e: t + _weighted(weight, e), total, noise), None

    total, _ = jax.lax.scan(part, jax.tree.map(jnp.zeros_like, centre), rows)
    scale = num_pairs * jnp.asarray(sigma)
    return jax.tree.map(lambda leaf: leaf / scale.astype(leaf.dtype), total)


@struct.dataclass
class Particles:
    """Mirrored pairs that live through many windows, under new perturbations in each."""

    states: PyTree  # [R, ...], as `Rows` has them
    scores: PyTree  # [P, ...] sum of e / sigma over the windows since the states began


def unroll_pairs(
    unroll: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]],
    key: Key,
    centre: PyTree,
    sigma: Array | float,
    particles: Particles,
    *,
    chunk: int = 0,
    num_devices: int = 1,
) -> tuple[Particles, PyTree, PyTree]:
    """The next window of every pair and of the centre, and what it earned.

    Args:
        unroll: parameters, state -> state after the window, what it earned.
        key: of this window; each draws new perturbations.
        centre: parameters, any pytree of floats.
        sigma: standard deviation of the perturbations; it may change between windows.
        particles: where they stand.
        chunk: pairs at a time; 0 for all, and the centre.
        num_devices: that what is computed at once is spread over.

    Returns:
        particles, earned `[P, 2, ...]`, earned by the centre `[C, ...]`.
    """
    num_pairs = jax.tree.leaves(particles.scores)[0].shape[0]
    num_rows = jax.tree.leaves(particles.states)[0].shape[0]
    rows = Rows.of(num_pairs, num_centre=num_rows - 2 * num_pairs)

    def one(row: Rows, state: PyTree) -> tuple[PyTree, PyTree]:
        return unroll(candidate(key, row, centre, sigma), state)

    states, earned = over_rows(one, (rows, particles.states), 2 * chunk, num_devices)
    pairs = jnp.arange(num_pairs, dtype=jnp.uint32)
    noise = jax.vmap(pair_noise, (None, 0, None))(key, pairs, centre)
    scores = jax.tree.map(
        lambda s, e: s + e / jnp.asarray(sigma).astype(e.dtype), particles.scores, noise
    )
    return Particles(states, scores), *split_rows(earned, num_pairs, 2)


def split_rows(tree: PyTree, *shape: int) -> tuple[PyTree, PyTree]:
    """Rows of pairs, as many as `shape` holds, and then those of the centre, apart.

    Returns:
        `[*shape, ...]` and `[C, ...]`.
    """
    count = math.prod(shape)
    pairs = jax.tree.map(lambda leaf: leaf[:count].reshape(*shape, *leaf.shape[1:]), tree)
    return pairs, jax.tree.map(lambda leaf: leaf[count:], tree)


def persistent_estimate(particles: Particles, weights: Array) -> PyTree:
    """The gradient of all windows together that one window of each pair shows.

        g_t = mean_p w_{p,t} sum_{k <= t} e_{p,k} / sigma_k

    Summed over the windows t of a life, with w half the difference of the windows' fitness, it is
    an unbiased estimate of the gradient of the smoothed sum, while the centre stands still. With
    the present e / sigma alone (truncated evolution strategies) the effect of earlier windows on
    this one would be missing.

    Sources: Vicol, Metz & Sohl-Dickstein 2021, Unbiased gradient estimation in unrolled computation
    graphs with persistent evolution strategies. For a sigma that changes, the sum of e / sigma is
    the score of all perturbations together, ours.
    """
    count = weights.shape[0]
    return jax.tree.map(lambda s: _weighted(weights, s) / count, particles.scores)


def _weighted(weights: Array, rows: Array) -> Array:
    """`sum_p weights[p] rows[p]`."""
    return jnp.tensordot(weights.astype(rows.dtype), rows, 1)
