"""Risk measures of a finite law, for rewards: the lower tail is the bad one."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core.protocols import COHERENT, FunctionalFacts
from jaxrl.core.settings import checked_struct, setting
from jaxrl.core.types import Array
from jaxrl.functionals.duals import Dual, UtilityDual
from jaxrl.functionals.ordering import (
    lower_tail,
    readable,
    running_totals,
    weighted_sum,
)
from jaxrl.functionals.tilting import log_moment
from jaxrl.functionals.utility import ExponentialUtility, PiecewiseLinear


@checked_struct
class CVaR:
    """Conditional value at risk: the mean of the worst share `level` of the law.

    F(p, v) = max_x x - E[(x - v)^+] / level
            = min { sum_i w_i v_i : 0 <= w <= p / level, sum_i w_i = 1 }

    `level = 1` is the mean; as `level -> 0` it becomes the least value of positive probability.
    As `successor_functional` it is *nested* CVaR, applied anew at every step; as
    `return_functional` it is *greedy on the return law*. Neither is the CVaR of the whole return.

    Attributes:
        level: share of the lower tail, in (0, 1].

    Numerics:
        Exact up to the rounding of one cumulative sum, with ties and with atoms of zero
        probability, which may hold any value. Gradients hold in `values`, `probs` and `level`;
        where the optimum is not unique they are one member of the superdifferential.

    Example:
        >>> import jax.numpy as jnp
        >>> float(CVaR(0.5)(jnp.array([0.25, 0.25, 0.5]), jnp.array([0.0, 4.0, 8.0])))
        2.0

    Sources:
        Rockafellar & Uryasev (2002), Conditional value-at-risk for general loss distributions,
        theorem 10 (the maximum form, there for losses).
    """

    level: float = setting(0.1, "share of the lower tail", low=0.0, high=1.0, low_open=True)

    facts = COHERENT

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        values, [(probs, below, _)] = running_totals(readable(probs, values), probs)
        taken = lower_tail(probs, below, jnp.asarray(self.level, probs.dtype))
        # The order is the only choice made; the weights are smooth in `probs` and `level`, and do
        # not depend on `values`, so that plain derivatives are the envelope theorem's.
        return weighted_sum(taken, values)

    def dual(self, least: float) -> Dual:
        """Of one sampled value."""
        return UtilityDual(PiecewiseLinear(0.0, 1.0 / self.level))


@checked_struct
class Entropic:
    """Certainty equivalent under exponential utility.

    F(p, v) = -1/b log sum_i p_i exp(-b v_i),  b = risk_aversion

    b = 0 is the mean, b -> inf the least and b -> -inf the greatest value of positive probability;
    a negative b seeks risk. Nested and static entropic risk agree when undiscounted; with a
    discount they differ (the static one would need b discount^t at step t).

    Attributes:
        risk_aversion: b [1 / return].

    Numerics:
        No cancellation at small b (expm1 and log1p about the extreme value; a second-order
        expansion below rounding), no overflow at large b. Smooth in all arguments.

    Example:
        >>> import jax.numpy as jnp
        >>> half = jnp.array([0.5, 0.5])
        >>> f"{float(Entropic(1.0)(half, jnp.array([0.0, jnp.inf]))):.4f}"  # -log 0.5
        '0.6931'

    Sources:
        Howard & Matheson (1972), Risk-sensitive Markov decision processes.
    """

    risk_aversion: float = setting(1.0, "risk aversion; negative seeks risk", unit="1 / return")

    facts = FunctionalFacts(time_consistent=True)

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        values = readable(probs, values)
        aversion = jnp.asarray(self.risk_aversion, values.dtype)
        chances = probs / jnp.sum(probs)
        # A value that decides alone; the other infinity only loses its share.
        decides = jnp.isnan(values) | (values == -jnp.inf) & (aversion >= 0)
        decides |= (values == jnp.inf) & (aversion <= 0)
        is_decided = jnp.any(decides)
        alone = jnp.where(decides, probs, 0.0)
        alone = alone / jnp.where(is_decided, jnp.sum(alone), 1.0)

        possible = probs > 0
        low = jnp.min(jnp.where(possible, values, jnp.inf))
        high = jnp.max(jnp.where(possible, values, -jnp.inf))
        # F is the same about any origin; about the end the exponent favours, none is positive.
        origin = jax.lax.stop_gradient(jnp.where(aversion >= 0, low, high))
        centre = jnp.where(is_decided, 0.0, origin)
        gaps = jnp.where(is_decided, 0.0, values - centre)

        spread = jax.lax.stop_gradient(jnp.max(jnp.where(possible, jnp.abs(gaps), 0.0)))
        is_flat = jnp.abs(aversion) * spread <= jnp.finfo(values.dtype).eps
        # Impossible atoms may have any exponent: it matters to gradients only.
        most = jnp.log(jnp.finfo(values.dtype).max) / 4
        exponents = jnp.minimum(jnp.where(is_flat, 0.0, -aversion * gaps), most)
        curved = -log_moment(chances, exponents) / jnp.where(is_flat, 1.0, aversion)

        flat_gaps = jnp.where(is_flat, gaps, 0.0)
        mean = jnp.sum(chances * flat_gaps)
        scale = jnp.where(is_flat & (spread > 0), spread, 1.0)
        # The variance in units of the spread: its square alone could overflow.
        variance = jnp.sum(chances * ((flat_gaps - mean) / scale) ** 2)
        flat = mean - 0.5 * (aversion * scale) * (scale * variance)
        result = centre + jnp.where(is_flat, flat, curved)
        return jnp.where(is_decided, weighted_sum(alone, values), result)

    def dual(self, least: float) -> Dual:
        """Of one sampled value."""
        return UtilityDual(ExponentialUtility(self.risk_aversion))
