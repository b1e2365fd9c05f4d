"""Risk measures of a finite law, for rewards: the lower tail is the bad one."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.settings import setting
from jaxrl.core.types import Array


@struct.dataclass
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

    monotone: ClassVar[bool] = True
    translation_equivariant: ClassVar[bool] = True
    coherent: ClassVar[bool] = True
    time_consistent: ClassVar[bool] = False
    needs_successors: ClassVar[bool] = True

    def __call__(self, probs: Array, values: Array) -> Array:
        """Apply the functional.

        Args:
            probs: `[N]`, non-negative, summing to one.
            values: `[N]` [return].

        Returns:
            `[]` [return].
        """
        possible = probs > 0
        # Impossible atoms go last, so that none of them can take a part of the tail.
        order = jnp.argsort(jax.lax.stop_gradient(jnp.where(possible, values, jnp.inf)))
        probs, possible = probs[order], possible[order]
        values = jnp.where(possible, values[order], 0.0)
        reached = jnp.cumsum(probs)
        before = jnp.concatenate([jnp.zeros((1,), reached.dtype), reached[:-1]])
        # Relative to the total, so that level = 1 takes every atom whole whatever the rounding;
        # the floor keeps one atom in the tail when the level underflows to zero.
        tail = jnp.maximum(self.level * reached[-1], jnp.finfo(reached.dtype).tiny)
        share = jnp.where(before < tail, tail - before, 0.0)
        taken = jnp.where(possible, jnp.where(reached <= tail, probs, share), 0.0)
        # The order is the only choice made; the weights below are smooth in `probs` and `level`,
        # and do not depend on `values`, so that plain derivatives are the envelope theorem's.
        counts = (taken > 0) | jnp.isnan(values)  # not 0 inf above the tail; NaN is never hidden
        return jnp.sum(taken / jnp.sum(taken) * jnp.where(counts, values, 0.0))


@struct.dataclass
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

    monotone: ClassVar[bool] = True
    translation_equivariant: ClassVar[bool] = True
    coherent: ClassVar[bool] = False
    time_consistent: ClassVar[bool] = True
    needs_successors: ClassVar[bool] = True

    def __call__(self, probs: Array, values: Array) -> Array:
        """Apply the functional.

        Args:
            probs: `[N]`, non-negative, summing to one.
            values: `[N]` [return].

        Returns:
            `[]` [return].
        """
        aversion = jnp.asarray(self.risk_aversion, values.dtype)
        possible = probs > 0
        low = jnp.min(jnp.where(possible, values, jnp.inf))
        high = jnp.max(jnp.where(possible, values, -jnp.inf))
        # F is the same about any origin; about the end the exponent favours, none is positive.
        origin = jax.lax.stop_gradient(jnp.where(aversion >= 0, low, high))
        origin_is_finite = jnp.isfinite(origin)
        centre = jnp.where(origin_is_finite, origin, 0.0)
        gaps = jnp.where(possible & origin_is_finite, values - centre, 0.0)

        spread = jax.lax.stop_gradient(jnp.max(jnp.abs(gaps)))
        is_flat = jnp.abs(aversion) * spread <= jnp.finfo(values.dtype).eps
        exponents = jnp.where(is_flat, 0.0, -aversion * gaps)  # [N], none positive
        drop = jnp.sum(probs * jnp.expm1(exponents))  # in (-1, 0]
        is_near = drop > -0.5
        log_near = jnp.log1p(jnp.where(is_near, drop, 0.0))
        moment = jnp.sum(probs * jnp.exp(exponents))  # > 0: the favoured atom adds its probability
        log_far = jnp.log(jnp.where(is_near, 1.0, moment))
        log_moment = jnp.where(is_near, log_near, log_far)
        curved = -log_moment / jnp.where(is_flat, 1.0, aversion)

        flat_gaps = jnp.where(is_flat, gaps, 0.0)
        mean = jnp.sum(probs * flat_gaps)
        scale = jnp.where(is_flat & (spread > 0), spread, 1.0)
        # The variance in units of the spread: its square alone could overflow.
        variance = jnp.sum(probs * ((flat_gaps - mean) / scale) ** 2)
        flat = mean - 0.5 * (aversion * scale) * (scale * variance)
        result = centre + jnp.where(is_flat, flat, curved)
        return jnp.where(origin_is_finite, result, origin)
