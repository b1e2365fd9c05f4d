"""The Tsallis-regularised best policy, whose support may be a part of the actions."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core.notation import register
from jaxrl.core.protocols import ImprovementFacts
from jaxrl.core.settings import CheckedStruct, setting
from jaxrl.core.types import Array, Number
from jaxrl.operators.improvement import split_legal

_TRIPS = 16


class Tsallis(CheckedStruct):
    """The best policy under a Tsallis entropy: sparse for orders above 1.

    probs = argmax sum_a probs_a q_a + temperature S(probs)
    S(probs) = (1 - sum_a probs_a^order) / (order - 1) = -sum_a probs_a ln_order(probs_a)
    ln_order(x) = (x^(order - 1) - 1) / (order - 1),  bonus = -temperature ln_order(probs)

    probs_a^(order - 1) = [1 + (order - 1) (q_a / temperature - threshold)]^+ / order, with the
    threshold that makes them sum to one. Mind the division by the order: it belongs to this
    entropy. Texts that leave it out have another temperature; order 2 here is the sparsemax of
    q / (2 temperature), the Euclidean projection on the simplex.

    `order -> 1` is `Softmax`; `temperature -> 0` or `order -> inf` is `Greedy`. V is at most
    temperature S(uniform) above max q. Only orders above 1 give probabilities of exactly zero.

    Attributes:
        temperature: weight of the entropy, > 0 [return].
        order: of the entropy, > 0.

    Numerics:
        A safeguarded Newton iteration for the logarithm of the greatest probability, of a fixed
        number of trips; finite in exact arithmetic at order 2. Derivatives are in closed form at
        the solution, in the values, the temperature and the order, and can be differentiated again.

    Example:
        >>> import jax.numpy as jnp
        >>> [f"{p:.4f}" for p in Tsallis(1.0, 2.0)(jnp.array([1.0, 0.0, -9.0]))[0].tolist()]
        ['0.7500', '0.2500', '0.0000']

    Sources:
        Zhu et al. (2023), General Munchausen reinforcement learning with Tsallis
        Kullback-Leibler divergence, section 3; Martins & Astudillo (2016), From softmax to
        sparsemax (order 2); Lee, Choi & Oh (2018), Sparse Markov decision processes.
    """

    temperature: Number = setting(
        1.0, "weight of the entropy", unit="return", low=0.0, low_open=True
    )
    order: Number = setting(2.0, "order of the entropy", low=0.0, low_open=True)

    facts = ImprovementFacts()

    def __call__(self, q_values: Array, mask: Array | None = None) -> tuple[Array, Array]:
        """`q_values[A]` [return], `mask[A]` -> `probs[A]`, `bonus[A]` [return]."""
        q_values, legal = split_legal(q_values, mask)
        order = jnp.asarray(self.order, q_values.dtype)
        probs = _tsallis_probs(q_values / self.temperature, order, legal)
        bonus = -self.temperature * log_of_order(probs, order)
        return probs, jnp.where(legal, bonus, 0.0)


def log_of_order(values: Array, order: float | Array) -> Array:
    """The deformed logarithm (x^(order - 1) - 1) / (order - 1); the natural one at order 1.

    Args:
        values: `[...]`, >= 0. At zero it is -1 / (order - 1) for orders above 1; for others, where
            it is -inf, the finite 0 stands for it, without a gradient.
        order: > 0.
    """
    excess = jnp.asarray(order, values.dtype) - 1.0
    positive = values > 0
    natural = jnp.log(jnp.where(positive, values, 1.0))
    deformed = natural * _first_remainder(excess * natural)
    at_zero = jnp.where(excess > 0, -1.0 / jnp.where(excess > 0, excess, 1.0), 0.0)
    return jnp.where(positive, deformed, at_zero)


@jax.custom_jvp
def _tsallis_probs(scaled: Array, order: Array, legal: Array) -> Array:
    """`scaled[A]`, values over the temperature -> the maximising law `[A]`.

    The unknown is one probability r, the pivot's: with y the values relative to it, the others are
    (r^excess + excess y / order)^(1 / excess). Their sum is increasing in r, and for orders up to 2
    the best action is the pivot: the sum is then convex in r above order 1 and concave below. Above
    order 2 it is the worst action of the support, which makes the sum convex, of slopes 1 to A.
    Newton's iteration is then monotone from one end, however steep the powers are at zero.
    """
    dtype = scaled.dtype
    excess = order - 1.0
    divisor = jnp.where(excess == 0, 1.0, excess)
    usable = legal | ~jnp.any(legal)
    ranked = -jnp.sort(-jnp.where(usable, scaled, -jnp.inf))  # best first, unusable last
    num_usable = jnp.sum(usable)
    is_steep = order > 2.0
    # Above order 2: the k-th action is in the support when those above would not fill it.
    steep_order = jnp.where(is_steep, order, 3.0)
    steep_excess = steep_order - 1.0

    def filled(value: Array) -> Array:
        above = jnp.where(usable, jnp.maximum(scaled - value, 0.0), 0.0)
        return jnp.sum((steep_excess / steep_order * above) ** (1.0 / steep_excess))

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        inside, outside = bracket
        middle = (inside + outside) // 2
        fits = filled(ranked[middle]) < 1.0
        return jnp.where(fits, middle, inside), jnp.where(fits, outside, middle)

    halvings = scaled.shape[0].bit_length()
    last = jax.lax.fori_loop(0, halvings, halve, (jnp.zeros_like(num_usable), num_usable))[0]
    pivot = ranked[jnp.where(is_steep, last, 0)]
    offsets = jnp.where(usable, scaled - pivot, 0.0)
    support = usable & (~is_steep | (offsets >= 0))

    steep_log = jnp.log(jnp.where(support, jnp.maximum(offsets, 0.0), 0.0) * excess / order)

    def terms(top: Array) -> tuple[Array, Array]:
        log_top = jnp.log(jnp.maximum(top, jnp.finfo(dtype).tiny))
        gentle = offsets / (order * jnp.exp(excess * log_top))  # -> y as order -> 1
        inside = support & (is_steep | (1.0 + excess * gentle > 0))
        log_ratio = jnp.where(
            is_steep,
            jax.nn.softplus(steep_log - excess * log_top),  # no power that could underflow
            jnp.log1p(jnp.where(inside & ~is_steep, excess * gentle, 0.0)),
        )
        log_share = jnp.where(excess == 0, gentle, log_ratio / divisor)  # log(prob / r)
        probs = jnp.where(inside, jnp.exp(log_top + log_share), 0.0)
        slopes = jnp.where(inside, jnp.exp((1.0 - excess) * log_share), 0.0)
        return probs, slopes

    def trip(_: int, top: Array) -> Array:
        probs, slopes = terms(top)
        return jnp.clip(top - (jnp.sum(probs) - 1.0) / jnp.sum(slopes), 0.0, 1.0)

    num_above = jnp.where(is_steep, last + 1, 1).astype(dtype)
    lowest = 1.0 / num_usable.astype(dtype)
    start = jnp.where(order < 1.0, lowest, 1.0 / num_above)
    top = jax.lax.fori_loop(0, _TRIPS, trip, start)
    probs = terms(top)[0]
    return probs / jnp.sum(probs)


@_tsallis_probs.defjvp
def _tsallis_probs_jvp(
    primals: tuple[Array, ...], tangents: tuple[Array, ...]
) -> tuple[Array, Array]:
    """Differentiate order probs^(order - 1) = 1 + (order - 1) (scaled - threshold) on the support.

    The threshold moves so that the probabilities keep summing to one.
    """
    scaled, order, legal = primals
    scaled_dot, order_dot, _ = tangents
    probs = _tsallis_probs(scaled, order, legal)
    support = probs > 0
    natural = jnp.log(jnp.where(support, probs, 1.0))
    most = 0.4 * jnp.log(jnp.finfo(probs.dtype).max)
    bends = jnp.exp(jnp.minimum((2.0 - order) * natural, most))
    weights = jnp.where(support, bends / order, 0.0)
    excess = order - 1.0
    # The part of the order, free of cancellation through order 1.
    power = log_of_order(jnp.where(support, probs, 1.0), order)
    bend = jnp.square(natural) * _second_remainder(excess * natural)
    by_order = bend - natural - power * natural * order
    push = scaled_dot + by_order * order_dot
    push = jnp.where(support, push, 0.0)
    centre = jnp.sum(weights * push) / jnp.sum(weights)
    # Of the action of most weight, which may have nearly all, the rest is less the others' sum.
    is_most = jnp.arange(probs.shape[0]) == jnp.argmax(weights)
    moves = jnp.where(is_most, 0.0, weights * (push - centre))
    return probs, jnp.where(is_most, -jnp.sum(moves), moves)


def _first_remainder(x: Array) -> Array:
    """(exp(x) - 1) / x, 1 at zero, smooth through it."""
    near = jnp.abs(x) < 0.01
    safe = jnp.where(near, 1.0, x)
    return jnp.where(near, 1.0 + x * _second_series(x), jnp.expm1(safe) / safe)


def _second_remainder(x: Array) -> Array:
    """(exp(x) - 1 - x) / x^2, 1/2 at zero, smooth through it."""
    near = jnp.abs(x) < 0.01
    safe = jnp.where(near, 1.0, x)
    return jnp.where(near, _second_series(x), (jnp.expm1(safe) - safe) / (safe * safe))


def _second_series(x: Array) -> Array:
    return 0.5 + x * (1 / 6 + x * (1 / 24 + x * (1 / 120 + x * (1 / 720 + x / 5040))))


register("improvements", Tsallis)
