"""What worst cases over laws share: the envelope theorem, gaps, greedy filling.

A worst case is solved for its multiplier by iteration; its derivatives come from the envelope
theorem (nature's law in `values`, the partial derivatives of the Lagrangian in the rest), never
through the iteration. They are first derivatives: the weights are constants to JAX.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.core import Struct
from jaxrl.core.protocols import Functional
from jaxrl.core.types import Array
from jaxrl.functionals.ordering import atoms_at, running_totals

SUPPORTS = ("nominal", "full")


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


def worst_case(functional: Functional, probs: Array, values: Array) -> Array:
    """Nature's law: the gradient of a functional in `values`.

    w = dF(p, v)/dv. For a monotone, translation-equivariant functional w is a law; for a coherent
    one, F(p, v) = sum_i w_i v_i. For `Mean` it is `probs`.

    Args:
        functional: what to differentiate.
        probs: `[N]`, non-negative, summing to one.
        values: `[N]` [return].

    Returns:
        `[N]`, the weights; where several laws are worst, one of them.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxrl.functionals import CVaR
        >>> worst_case(CVaR(0.5), jnp.array([0.25, 0.75]), jnp.array([1.0, 3.0])).tolist()
        [0.5, 0.5]

    Sources:
        Shapiro, Dentcheva & Ruszczynski (2009), Lectures on Stochastic Programming, chapter 6
        (dual representation and subdifferential).
    """
    return jax.grad(functional, argnums=1)(probs, values)


def as_floats(*arrays: Any) -> tuple[Array, ...]:
    """The arrays in one common floating dtype, that of the first two.

    They are held as they are, so that XLA rounds all that is computed from them alike; see
    `atoms_at` for where that does not help.
    """
    dtype = jnp.result_type(arrays[0], arrays[1], jnp.float32)
    return jax.lax.optimization_barrier(tuple(jnp.asarray(array, dtype) for array in arrays))


def hold(
    support: str, probs: Array, *others: Any
) -> tuple[tuple[Array, ...], Array, tuple[Array, ...]]:
    """The parameters of a worst case in one dtype, the atoms that nature may use, and the
    parameters as constants.
    """
    parameters = as_floats(probs, *others)
    is_possible = parameters[0] > 0
    reachable = is_possible if support == "nominal" else jnp.ones_like(is_possible)
    return parameters, reachable, jax.lax.stop_gradient(parameters)


def value_of(
    law: Array, reachable: Array, parameters: tuple[Array, ...], by_probs: Array, *by_own: Array
) -> Array:
    """The value of nature's law, with its derivatives by the envelope theorem.

    Args:
        law: `[N]`, constant, also the derivative in the values.
        reachable: `[N]` bool.
        parameters: probs, values and the functional's own numbers.
        by_probs: `[N]`.
        *by_own: of the shapes of the functional's own numbers.
    """
    value = expectation(law, jax.lax.stop_gradient(parameters[1]), reachable)
    return envelope(value, parameters, (by_probs, law, *by_own))


def expectation(law: Array, values: Array, reachable: Array) -> Array:
    """Sum of `law * values`, where zero mass hides an infinite value but never a reachable NaN."""
    counts = (law > 0) | (reachable & jnp.isnan(values))
    return jnp.sum(law * jnp.where(counts, values, 0.0))


def unit_gaps(values: Array, counted: Array) -> tuple[Array, Array]:
    """Values as gaps above the least counted one, in units of their spread.

    An infinite value leaves no scale for the others: the gaps are then 0 and 1, and say only which
    atoms are best or worst without bound.

    Returns:
        `[N]` gaps in [0, 1], zero where not counted, and the spread `[]` [return].
    """
    low = jnp.min(jnp.where(counted, values, jnp.inf))
    high = jnp.max(jnp.where(counted, values, -jnp.inf))
    bounded = jnp.isfinite(low) & jnp.isfinite(high)
    spread = jnp.where(bounded & (high > low), high - low, 1.0)
    usual = (values - jnp.where(bounded, low, 0.0)) / spread
    extreme = jnp.where(jnp.isfinite(low), values == jnp.inf, values > low)
    gaps = jnp.where(bounded, usual, extreme.astype(values.dtype))
    return jnp.where(counted, gaps, 0.0), spread


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


class ScaledLaw(Struct):
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


# A worst case of a scaled law, in units of the spread: the value `[]` above `low`, nature's law
# `[N]`, the derivatives in the probs `[N]`, up to a constant, and in the radius or weight `[]`.
Optimum = tuple[Array, Array, Array, Array]


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
    counted = possible & (jnp.isfinite(values) | ~jnp.isfinite(low))
    gaps, spread = unit_gaps(values, counted)
    masses = jnp.where(counted, probs, 0.0)
    total = jnp.sum(masses)
    escaped = jnp.sum(jnp.where(possible & ~counted, probs, 0.0))
    lowest, lost = atoms_at(jnp.zeros(()), gaps, counted), escaped / (total + escaped)
    return ScaledLaw(masses / total, gaps, lowest, low, spread, total, lost)


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
    inner, weights, by_probs, by_number = solve(law, jax.lax.stop_gradient(number))
    value = jnp.where(jnp.isfinite(law.low), law.low + law.spread * inner, law.low)
    # The law was divided by its total: the derivative is free of a component along it.
    centred = by_probs - jnp.sum(law.probs * by_probs)
    by_probs = jnp.where(law.probs > 0, centred, 0.0) * (law.spread / law.total)
    slopes = by_probs, weights, law.spread * by_number
    return envelope(value, (probs, values, number), slopes)


def relative_price(law: ScaledLaw, weight: Array) -> Array:
    """The weight in units of the spread, away from zero and infinity."""
    info = jnp.finfo(law.gaps.dtype)
    return jnp.clip(weight / law.spread, info.tiny**0.5, info.max**0.5)
