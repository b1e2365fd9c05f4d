"""Quantiles of a finite law, and expectiles, their smooth relatives."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core.protocols import MONETARY
from jaxrl.core.settings import checked_struct, setting
from jaxrl.core.types import Array
from jaxrl.functionals.duals import Dual, ExpectileDual
from jaxrl.functionals.ordering import (
    finite_part,
    least_possible,
    readable,
    running_totals,
    unless_infinite,
    weighted_sum,
)
from jaxrl.functionals.worst_law import atoms_at


@checked_struct
class VaR:
    """Value at risk: the lower quantile, the least value that the law stays below with `level`.

    F(p, v) = min { x : P(v <= x) >= level }

    The *lower* quantile: where the distribution function is flat at `level`, its left end.
    `level = 1` is the greatest possible value, `level -> 0` the least. It sees nothing of the tail
    below it and is not concave: diversification may look worse.

    Attributes:
        level: probability of staying at or below, in (0, 1].

    Numerics:
        A cumulative probability that misses `level` by the rounding of the sum counts as reached.
        The gradient in `values` is all on one atom at the quantile; those in `probs` and `level`
        are zero, as the quantile is constant between jumps.

    Example:
        >>> import jax.numpy as jnp
        >>> float(VaR(0.5)(jnp.array([0.25, 0.25, 0.5]), jnp.array([0.0, 4.0, 8.0])))
        4.0

    Sources:
        Föllmer & Schied (2016), Stochastic Finance, 4th edition, section 4.4 and appendix A.3.
    """

    level: float = setting(0.1, "probability of the tail", low=0.0, high=1.0, low_open=True)

    facts = MONETARY

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        values, [(probs, below, above)] = running_totals(readable(probs, values), probs)
        level, total = jnp.asarray(self.level, probs.dtype), jnp.sum(probs)
        slack = probs.size * jnp.finfo(probs.dtype).eps
        wanted, beyond = level * total, (1.0 - level) * total
        # From the nearer end, so that rare atoms count at either: level = 1 reaches the last. Of
        # many small atoms the rounding may hold several: no more than half of one is forgiven.
        from_below = below + probs >= wanted - jnp.minimum(slack * wanted, 0.5 * probs)
        from_above = above <= beyond + jnp.minimum(slack * beyond, 0.5 * probs)
        is_reached = (probs > 0) & jnp.where(level > 0.5, from_above, from_below)
        is_quantile = atoms_at(jnp.min(jnp.where(is_reached, values, jnp.inf)), values, is_reached)
        positions = jnp.arange(probs.size)
        first = jnp.min(jnp.where(is_quantile, positions, probs.size))
        return weighted_sum((positions == first).astype(probs.dtype), values)


@checked_struct
class Expectile:
    """Expectile: where gains weighted by `level` balance losses weighted by the rest.

    level E[(v - F)^+] = (1 - level) E[(F - v)^+]

    For `level <= 1/2` also F(p, v) = min { sum_i w_i v_i : w_i / p_i within a factor
    (1 - level) / level of one another }, so that it is concave, and coherent; above 1/2 the
    minimum is a maximum and it seeks risk. 1/2 is the mean, 1 the greatest possible value, -> 0
    the least.

    Attributes:
        level: weight of the gains, in (0, 1].

    Numerics:
        No iteration: the minimum is over N thresholds, whose sums come from one ordering. Ties and
        extreme levels lose nothing. Gradients hold in `values`, `probs` and `level`.

    Example:
        >>> import jax.numpy as jnp
        >>> f"{float(Expectile(0.25)(jnp.array([0.5, 0.5]), jnp.array([0.0, 4.0]))):.4f}"
        '1.0000'

    Sources:
        Newey & Powell (1987), Asymmetric least squares estimation and testing. Bellini, Klar,
        Müller & Rosazza Gianin (2014), Generalized quantiles as risk measures, propositions 6
        and 8 (which are coherent; the dual form).
    """

    level: float = setting(0.1, "weight of the gains", low=0.0, high=1.0, low_open=True)

    facts = MONETARY  # coherent for level <= 1/2

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        values = readable(probs, values)
        level = jnp.asarray(self.level, values.dtype)
        # The expectile at `level` of v is minus the one at 1 - `level` of -v.
        sign = jnp.where(level > 0.5, -1.0, 1.0)
        light = jnp.where(level > 0.5, 1.0 - level, level)
        signed = sign * finite_part(values)
        gaps = signed - least_possible(probs, signed)
        chances = probs / jnp.sum(probs)
        below = gaps <= _threshold(*jax.lax.stop_gradient((chances, gaps, light)))
        weights = chances * jnp.where(below, 1.0 - light, light)
        result = weighted_sum(weights / jnp.sum(weights), finite_part(values))
        return unless_infinite(result, probs, values)

    def dual(self, least: float) -> Dual:
        """Of one sampled value."""
        return ExpectileDual(self.level)


def _threshold(probs: Array, gaps: Array, light: Array) -> Array:
    """The expectile of non-negative gaps: the least mean with the atoms up to one weighing more."""
    amounts = running_totals(gaps, probs, probs * gaps)[1]
    (chance, chance_below, _), (part, part_below, _) = amounts
    heavy = 1.0 - light
    mass = light * jnp.sum(probs) + (heavy - light) * (chance_below + chance)
    mean = (light * jnp.sum(part) + (heavy - light) * (part_below + part)) / mass
    return jnp.min(jnp.where(chance_below + chance > 0, mean, jnp.inf))
