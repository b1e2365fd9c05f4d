"""What every worst case over laws shares: the envelope theorem, gaps, greedy filling."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

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
