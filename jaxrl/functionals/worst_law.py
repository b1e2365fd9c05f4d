"""What every worst case over laws shares: the envelope theorem, gaps, greedy filling.

A worst case is solved for its multiplier by iteration; its derivatives come from the envelope
theorem (nature's law in `values`, the partial derivatives of the Lagrangian in the rest), never
through the iteration. They are first derivatives: the weights are constants to JAX.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.types import Array
from jaxrl.functionals.ordering import running_totals

SUPPORTS = ("nominal", "full")


PAIRWISE = 32  # up to so many atoms, N^2 comparisons are faster than a sort


@jax.custom_jvp
def envelope(value: Array, parameters: tuple[Array, ...], slopes: tuple[Array, ...]) -> Array:
    """`value`, with the derivative `slopes[k]` in `parameters[k]` and none other.

    At an optimum the derivative of the optimal value is that of the Lagrangian with its minimiser
    and multipliers held fixed: in the values nature's law, in the radius minus the multiplier. So
    the search itself is never differentiated. First derivatives only: further ones are zero.

    Args:
        value: `[]`, found from the parameters by any means.
        parameters: arrays of a floating dtype.
        slopes: one per parameter, of its shape.
    """
    return value


@envelope.defjvp
def _envelope_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    value, _, slopes = primals
    change = jnp.zeros_like(value)
    for slope, step in zip(slopes, tangents[1], strict=True):
        change = change + jnp.sum(jax.lax.stop_gradient(slope) * step)
    return value, change


def as_floats(*arrays: Any) -> tuple[Array, ...]:
    """The arrays in one common floating dtype, that of the first two.

    They are held as they are, so that XLA rounds all that is computed from them alike; see
    `atoms_at` for where that does not help.
    """
    dtype = jnp.result_type(arrays[0], arrays[1], jnp.float32)
    return jax.lax.optimization_barrier(tuple(jnp.asarray(array, dtype) for array in arrays))


def reachable_atoms(probs: Array, support: str) -> Array:
    """`[N]`: the atoms that nature may put mass on."""
    return probs > 0 if support == "nominal" else jnp.ones_like(probs, bool)


def expectation(law: Array, values: Array, reachable: Array) -> Array:
    """Sum of `law * values`, where zero mass hides an infinite value but never a reachable NaN."""
    counts = (law > 0) | (reachable & jnp.isnan(values))
    return jnp.sum(law * jnp.where(counts, values, 0.0))


def value_range(values: Array, reachable: Array) -> tuple[Array, Array]:
    """Least and greatest reachable value; inf and -inf when there is none."""
    low = jnp.min(jnp.where(reachable, values, jnp.inf))
    return low, jnp.max(jnp.where(reachable, values, -jnp.inf))


def atoms_at(value: Array, values: Array, allowed: Array) -> Array:
    """`[N]` bool: the allowed atoms at a `value[]` that was taken from one of `values[N]`.

    By position too: XLA may compute `values` twice and round the copies differently, so that none
    equals what was taken from them. (Unoptimised on a CPU a KL ball was NaN for want of a least
    atom, and a total variation moved too little mass.)
    """
    distance = jnp.where(allowed, jnp.abs(values - value), jnp.inf)
    nearest = jnp.arange(values.shape[0]) == jnp.argmin(distance)
    return allowed & ((values == value) | (nearest & jnp.isfinite(value)))


def unit_gaps(values: Array, reachable: Array) -> tuple[Array, Array]:
    """Values as gaps above the least reachable one, in units of their spread.

    An infinite value leaves no scale for the others: the gaps are then 0 and 1, and say only which
    atoms are best or worst without bound.

    Returns:
        `[N]` gaps in [0, 1], zero where unreachable, and the spread `[]` [return].
    """
    low, high = value_range(values, reachable)
    bounded = jnp.isfinite(low) & jnp.isfinite(high)
    spread = jnp.where(bounded & (high > low), high - low, 1.0)
    usual = (values - jnp.where(bounded, low, 0.0)) / spread
    extreme = jnp.where(low == -jnp.inf, values > -jnp.inf, values == jnp.inf)
    gaps = jnp.where(bounded, usual, extreme.astype(values.dtype))
    return jnp.where(reachable, gaps, 0.0), spread


def marginal_value(amount: Array, capacity: Array, values: Array) -> Array:
    """The value at which `amount` runs out when atoms are filled from the least value upwards.

    x = max { v_k : sum_i c_i [v_i < v_k] <= amount }

    Args:
        amount: `[]`, not negative.
        capacity: `[N]`, not negative; infinite values of zero capacity are never the answer
            unless nothing else is.
        values: `[N]`, without NaN.
    """
    # Among equals the first has what lies strictly below it; the others cannot raise the maximum.
    values, [(capacity, below, _)] = running_totals(values, capacity)
    return jnp.max(jnp.where((capacity > 0) & (below <= amount), values, -jnp.inf))


def fill_lowest(amount: Array, capacity: Array, values: Array, marginal: Array) -> Array:
    """`[N]`: `amount` laid on the atoms of least value, as much as each of them holds.

    Atoms at the marginal value share what is left in proportion to their capacity.
    """
    at_margin = atoms_at(marginal, values, capacity > 0)
    whole = jnp.where((values < marginal) & ~at_margin, capacity, 0.0)
    last = jnp.where(at_margin, capacity, 0.0)
    room = jnp.sum(last)
    share = jnp.clip((amount - jnp.sum(whole)) / jnp.where(room > 0, room, 1.0), 0.0, 1.0)
    return whole + last * share


def evenly(amount: Array, atoms: Array) -> Array:
    """`[N]`: `amount` in equal shares on the atoms marked by `atoms[N]` bool; nothing on none."""
    return amount * atoms / jnp.maximum(jnp.sum(atoms), 1)


@struct.dataclass
class ScaledLaw:
    """The possible finite part of a law with its values moved and shrunk to [0, 1].

    value = low + spread gap. About `low`, an offset cancels before anything is squared or
    exponentiated, and values of 1e30 and of 1e-6 pose the same problem.
    """

    probs: Array  # [N], a law; zero on absent atoms
    gaps: Array  # [N] in [0, 1]; zero on absent atoms
    lowest: Array  # [N] bool, the possible atoms of the least value
    low: Array  # [] [return]; NaN, -inf or inf when that is the least possible value
    spread: Array  # [] [return], positive
    total: Array  # [], what the probabilities of the counted atoms summed to
    lost: Array  # [], share of the mass that lies on values of +inf


@struct.dataclass
class Optimum:
    """A worst case of a scaled law: its value and its first derivatives."""

    inner: Array  # [], the value in units of the spread above `low`
    weights: Array  # [N], nature's law
    by_probs: Array  # [N], in units of the spread, up to a constant
    by_setting: Array  # [], in units of the spread


def scale_law(probs: Array, values: Array) -> ScaledLaw:
    """Bring a law to gaps in [0, 1] above its least possible value.

    Args:
        probs: `[N]`, non-negative, summing to about one.
        values: `[N]` [return]; anything where the probability is zero.
    """
    possible = probs > 0
    low = jnp.min(jnp.where(possible, values, jnp.inf))
    # Not left to the minimum, which passes over a NaN in some programs of jaxlib 0.11.2.
    low = jnp.where(jnp.any(possible & jnp.isnan(values)), jnp.nan, low)
    is_finite = jnp.isfinite(low)
    counted = possible & (jnp.isfinite(values) | ~is_finite)
    high = jnp.max(jnp.where(counted & is_finite, values, low))
    spread = jnp.where(is_finite & (high > low), high - low, 1.0)
    # With a catastrophe among the values the gaps only tell it from the rest.
    centred = jnp.where(is_finite, values - low, jnp.where(values == low, 0.0, 1.0))
    gaps = jnp.where(counted, centred, 0.0) / spread
    masses = jnp.where(counted, probs, 0.0)
    total = jnp.sum(masses)
    escaped = jnp.sum(jnp.where(possible & ~counted, probs, 0.0))
    return ScaledLaw(
        probs=masses / total,
        gaps=gaps,
        lowest=atoms_at(jnp.zeros(()), gaps, counted),
        low=low,
        spread=spread,
        total=total,
        lost=escaped / (total + escaped),
    )


def worst_value(
    solve: Callable[[ScaledLaw, Array], Optimum], probs: Array, values: Array, number: Array | float
) -> Array:
    """The value of a worst case, with the derivatives that its optimum states.

    Args:
        solve: finds the optimum of a scaled law for a radius or a weight.
        probs: `[N]`, non-negative, summing to about one.
        values: `[N]` [return].
        number: `[]`, the radius or the weight.

    Returns:
        `[]` [return].
    """

    probs, values, number = as_floats(probs, values, number)
    law = scale_law(jax.lax.stop_gradient(probs), jax.lax.stop_gradient(values))
    best = solve(law, jax.lax.stop_gradient(number))
    value = jnp.where(jnp.isfinite(law.low), law.low + law.spread * best.inner, law.low)
    # The law was divided by its total: the derivative is free of a component along it.
    centred = best.by_probs - jnp.sum(law.probs * best.by_probs)
    by_probs = jnp.where(law.probs > 0, centred, 0.0) * (law.spread / law.total)
    slopes = by_probs, best.weights, law.spread * best.by_setting
    return envelope(value, (probs, values, number), slopes)


def relative_price(law: ScaledLaw, weight: Array) -> Array:
    """The weight in units of the spread, away from zero and infinity."""
    info = jnp.finfo(law.gaps.dtype)
    return jnp.clip(weight / law.spread, info.tiny**0.5, info.max**0.5)
