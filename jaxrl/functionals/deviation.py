"""The mean less a deviation from it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core.protocols import COHERENT, FunctionalFacts
from jaxrl.core.settings import checked_struct, setting
from jaxrl.core.types import Array
from jaxrl.functionals.ordering import finite_part, least_possible, readable, unless_infinite


@checked_struct
class MeanSemideviation:
    """The mean less a share of the mean deviation below it.

    F(p, v) = m - weight (sum_i p_i ((m - v_i)^+)^order)^(1/order),  m = sum_i p_i v_i

    `weight = 0` is the mean. A weight above 1 would no longer be monotone and is refused.

    Attributes:
        weight: share of the semideviation taken off, in [0, 1].
        order: of the deviation, at least 1; static.

    Numerics:
        Deviations are measured in units of the greatest, so that no power overflows. At a law of
        equal values the gradient is the one of the mean.

    Example:
        >>> import jax.numpy as jnp
        >>> float(MeanSemideviation(1.0)(jnp.array([0.5, 0.5]), jnp.array([0.0, 4.0])))
        1.0

    Sources:
        Ogryczak & Ruszczyński (1999), From stochastic dominance to mean-risk models. Shapiro,
        Dentcheva & Ruszczyński (2009), Lectures on Stochastic Programming, example 6.20.
    """

    weight: float = setting(0.5, "share of the semideviation taken off", low=0.0, high=1.0)
    order: int = setting(1, "order of the deviation", low=1.0)

    facts = COHERENT

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        values = readable(probs, values)
        mean, chances, gaps = _centred(probs, values)
        deviation = _norm(chances, jnp.maximum(-gaps, 0.0), self.order)
        return unless_infinite(mean - self.weight * deviation, probs, values)


@checked_struct
class MeanStd:
    """The mean less a multiple of the standard deviation: **not monotone**.

    F(p, v) = m - weight (sum_i p_i (v_i - m)^2)^(1/2),  m = sum_i p_i v_i

    A better outcome may lower it, since it also spreads the law: a backup built on it need not
    contract, and its worst-case weights may be negative. `weight = 0` is the mean.

    Attributes:
        weight: multiple of the standard deviation taken off, at least 0.

    Numerics:
        In units of the greatest deviation, so that no square overflows. At a law of equal values
        the gradient is the one of the mean.

    Example:
        >>> import jax.numpy as jnp
        >>> float(MeanStd(1.0)(jnp.array([0.5, 0.5]), jnp.array([0.0, 4.0])))
        0.0

    Sources:
        Markowitz (1952), Portfolio selection. Shapiro, Dentcheva & Ruszczyński (2009), Lectures on
        Stochastic Programming, example 6.18 (why it is not monotone).
    """

    weight: float = setting(0.5, "multiple of the standard deviation taken off", low=0.0)

    facts = FunctionalFacts(monotone=False)

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        values = readable(probs, values)
        mean, chances, gaps = _centred(probs, values)
        return unless_infinite(mean - self.weight * _norm(chances, gaps, 2), probs, values)


def _centred(probs: Array, values: Array) -> tuple[Array, Array, Array]:
    """The mean, the normalised probabilities and the distances of the values from the mean."""
    values = finite_part(values)
    chances = probs / jnp.sum(probs)
    origin = least_possible(probs, values)
    gaps = values - origin
    mean = jnp.sum(chances * gaps)
    return origin + mean, chances, gaps - mean


def _norm(probs: Array, gaps: Array, order: float) -> Array:
    """(sum_i p_i |gap_i|^order)^(1/order), with gradient zero at zero."""
    scale = jax.lax.stop_gradient(jnp.max(jnp.where(probs > 0, jnp.abs(gaps), 0.0)))
    scale = jnp.where(scale > 0, scale, 1.0)
    moment = jnp.sum(probs * jnp.abs(gaps / scale) ** order)
    is_spread = moment > 0
    return scale * jnp.where(is_spread, jnp.where(is_spread, moment, 1.0) ** (1.0 / order), 0.0)
