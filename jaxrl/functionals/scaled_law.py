"""What every worst case over a divergence needs first: a law without scale, and the envelope rule.

A worst case is solved for its multiplier by iteration; its derivatives come from the envelope
theorem (nature's law in `values`, the partial derivatives of the Lagrangian in the rest), never
through the iteration. They are first derivatives: the weights are constants to JAX.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.types import Array
from jaxrl.functionals.worst_law import as_floats, atoms_at, envelope


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
