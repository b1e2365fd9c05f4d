"""What functionals of the order of the values share: running totals, and sums that survive inf."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core.types import Array

# Up to this many atoms, pairs are compared; above, the values are sorted. Measured on a CPU, under
# `vmap` in float32 [ns per law], sorting against comparing: 16 atoms 1250 and 100, 64 atoms 6200
# and 750, 128 atoms 13600 and 4000.
_MOST_COMPARED = 128


def readable(probs: Array, values: Array) -> Array:
    """`values[N]` with zero where an impossible atom holds inf or NaN.

    A finite value at zero probability stays: it is what the gradient in `probs` is about.
    """
    return jnp.where((probs > 0) | jnp.isfinite(values), values, 0.0)


def running_totals(
    values: Array, *amounts: Array
) -> tuple[Array, list[tuple[Array, Array, Array]]]:
    """What lies below and above each atom, by value and among equals by position.

    Args:
        values: `[N]`, the order; no gradient flows through it.
        *amounts: `[N]` each, what is added up.

    Returns:
        values: `[N]`, in an order that may differ from the one given.
        totals: of each amount, in that same order, `[N]` the amount itself, `[N]` the sum over
            all atoms below, `[N]` the sum over all atoms above.
    """
    if values.shape[0] <= _MOST_COMPARED:
        # Held as they are: XLA may compute `values` twice and round the copies differently, so that
        # an atom lies below itself (one in seven did, unoptimised on a CPU under jax 0.11.2).
        values, *held = jax.lax.optimization_barrier((values, *amounts))
        keys = jax.lax.stop_gradient(values)
        return values, [(amount, *_compared_totals(amount, keys)) for amount in held]
    values, *ordered = jax.lax.sort((values, *amounts), num_keys=1)  # stable
    return values, [(amount, *_sorted_totals(amount)) for amount in ordered]


def _sorted_totals(amount: Array) -> tuple[Array, Array]:
    nothing = jnp.zeros((1,), amount.dtype)
    below = jnp.concatenate([nothing, jnp.cumsum(amount)[:-1]])
    above = jnp.concatenate([jnp.cumsum(amount[::-1])[-2::-1], nothing])
    return below, above


@jax.custom_jvp
def _compared_totals(amount: Array, keys: Array) -> tuple[Array, Array]:
    positions = jnp.arange(keys.shape[0])

    # Atom by atom, each against all: this vectorises where one `[N, N]` reduction does not.
    def add(totals: tuple[Array, Array], atom: tuple) -> tuple[tuple[Array, Array], None]:
        below, above = totals
        position, key, share = atom
        is_other = position != positions
        is_below = is_other & jnp.where(position < positions, key <= keys, key < keys)
        is_above = is_other & ~is_below
        return (
            below + jnp.where(is_below, share, 0.0),
            above + jnp.where(is_above, share, 0.0),
        ), None

    start = (jnp.zeros_like(amount), jnp.zeros_like(amount))
    return jax.lax.scan(add, start, (positions, keys, amount), unroll=min(8, keys.shape[0]))[0]


@_compared_totals.defjvp
def _compared_totals_jvp(primals: tuple, tangents: tuple) -> tuple:
    amount, keys = primals
    positions = jnp.arange(keys.shape[0])
    first, second = positions[:, None], positions[None, :]
    is_below = jnp.where(first < second, keys[:, None] <= keys, keys[:, None] < keys)
    change = tangents[0][:, None]
    below = jnp.sum(jnp.where(is_below, change, 0.0), axis=0)
    above = jnp.sum(jnp.where(is_below | (first == second), 0.0, change), axis=0)
    return _compared_totals(amount, keys), (below, above)


def atoms_at(value: Array, values: Array, allowed: Array) -> Array:
    """`[N]` bool: the allowed atoms at a `value[]` that was taken from one of `values[N]`.

    By position too: XLA may compute `values` twice and round the copies differently, so that none
    equals what was taken from them. (Unoptimised on a CPU a KL ball was NaN for want of a least
    atom, and a total variation moved too little mass.)
    """
    distance = jnp.where(allowed, jnp.abs(values - value), jnp.inf)
    nearest = jnp.arange(values.shape[0]) == jnp.argmin(distance)
    return allowed & ((values == value) | (nearest & jnp.isfinite(value)))


def lower_tail(probs: Array, below: Array, level: Array) -> Array:
    """The law of the worst share `level`: each atom whole, the last one in part.

    Args:
        probs: `[N]`.
        below: `[N]`, the probability below each atom.
        level: `[]`, in (0, 1].
    """
    limits = jnp.finfo(probs.dtype)
    # Of the actual total; the floor keeps one atom in the tail when the level underflows.
    tail = jnp.maximum(level * jnp.sum(probs), limits.tiny)
    rest = jnp.where((below < tail) & (probs > 0), tail - below, 0.0)
    # The first atom that ends the tail, but for rounding, is the part that moves with the level. Of
    # many small atoms the rounding may hold several: no more than half of one is forgiven.
    rounding = jnp.minimum(probs.size * limits.eps * tail, 0.5 * probs)
    is_whole = below + probs < tail - rounding
    within = jax.lax.stop_gradient(jnp.minimum(rest, probs))
    ends = jnp.argmin(jnp.where(is_whole | (rest == 0), jnp.inf, below))
    moves = within + (rest - jax.lax.stop_gradient(rest))
    taken = jnp.where(jnp.arange(probs.size) == ends, moves, within)
    taken = jnp.where(is_whole, probs, taken)
    return taken / jnp.sum(taken)


@jax.custom_jvp
def weighted_sum(weights: Array, values: Array) -> Array:
    """sum_i w_i v_i, where a value of zero weight does not matter unless it is NaN.

    The derivative in `values` is `weights`, in `weights` the finite part of `values`: an infinite
    value makes the sum infinite and none of its gradients NaN.
    """
    total = jnp.sum(weights * jnp.where(weights != 0, values, 0.0))
    # Not 0 NaN, which XLA makes 0 where the weight is a converted truth value.
    return jnp.where(jnp.any(jnp.isnan(values)), jnp.nan, total)


weighted_sum.defjvps(
    lambda change, _, weights, values: jnp.sum(
        change * jnp.where(jnp.isfinite(values), values, 0.0)
    ),
    lambda change, _, weights, values: jnp.sum(change * weights),
)


def unless_infinite(result: Array, probs: Array, values: Array) -> Array:
    """`result`, or what decides when an atom is not finite: minus infinity before plus infinity.

    Args:
        result: `[]`, computed with a finite number in the place of every other.
        probs: `[N]`.
        values: `[N]`, `readable`.
    """
    is_worst = values == -jnp.inf
    decides = jnp.where(jnp.any(is_worst), is_worst, ~jnp.isfinite(values))
    chances = jnp.where(decides, probs, 0.0)
    weights = chances / jnp.maximum(jnp.sum(chances), jnp.finfo(chances.dtype).tiny)
    return jnp.where(jnp.any(decides), weighted_sum(weights, values), result)


def finite_part(values: Array) -> Array:
    """`values`, with zeros for what is infinite or NaN."""
    return jnp.where(jnp.isfinite(values), values, 0.0)


def least_possible(probs: Array, values: Array) -> Array:
    """The least value of positive probability, as a constant: an origin without cancellation."""
    return jax.lax.stop_gradient(jnp.min(jnp.where(probs > 0, values, jnp.inf)))


def log_moment(probs: Array, exponents: Array) -> Array:
    """log sum_i p_i exp(x_i), accurate where it is near zero too.

    Args:
        probs: `[N]`, a law, or zeros: then the result is 0.
        exponents: `[N]`, at most zero where the probability is positive, and zero somewhere; below
            overflow elsewhere.

    Returns:
        `[]`, at most zero.
    """
    drop = jnp.sum(probs * jnp.expm1(exponents))  # in (-1, 0]
    is_near = drop > -0.5
    log_near = jnp.log1p(jnp.where(is_near, drop, 0.0))
    moment = jnp.sum(probs * jnp.exp(exponents))  # > 0: the atom at zero adds its probability
    return jnp.where(is_near, log_near, jnp.log(jnp.where(is_near, 1.0, moment)))
