"""Distortion risk measures: the mean under a reshaped distribution function.

In all of them the distortion g acts on P(v <= x), the probability of doing no better, and
F(p, v) = integral of x dg(P(v <= x)). A g above the diagonal makes bad outcomes likelier. It is the
*inverse* of a map of quantile levels, as in drawing beta(u) for uniform u: there g = beta^-1.
On the survival probability P(v > x) acts 1 - g(1 - s).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri

from jaxrl.core import Struct, struct
from jaxrl.core.protocols import COHERENT, MONETARY
from jaxrl.core.settings import CheckedStruct, setting
from jaxrl.core.types import Array, Number, is_traced
from jaxrl.functionals.ordering import lower_tail, readable, running_totals, weighted_sum


class Spectral(Struct):
    """Spectral risk measure with a spectrum of steps: a mixture of `CVaR`s.

    F(p, v) = sum_k weights_k CVaR(levels_k)(p, v) / sum_k weights_k
            = integral over u of phi(u) q(u),  phi(u) = sum_k weights_k 1(u <= levels_k) / levels_k

    with q the quantile function and weights of sum one. Every spectrum phi that does not increase
    is a limit of such steps. One level gives `CVaR`; the distortion is g(u) = integral of phi up
    to u, sum_k weights_k min(u / levels_k, 1).

    Attributes:
        levels: `[K]`, shares of the lower tail, in (0, 1].
        weights: `[K]`, at least 0, not all 0.

    Numerics:
        As `CVaR`: exact up to the rounding of one cumulative sum.

    Example:
        >>> import jax.numpy as jnp
        >>> law = jnp.array([0.25, 0.25, 0.5]), jnp.array([0.0, 4.0, 8.0])
        >>> float(Spectral(levels=(0.5, 1.0), weights=(0.5, 0.5))(*law))  # of 2 and 5
        3.5

    Sources:
        Acerbi (2002), Spectral measures of risk. Kusuoka (2001), On law invariant coherent risk
        measures (the mixture).
    """

    levels: Any = struct.field(default=(0.1, 1.0))  # [K] or a tuple of K floats
    weights: Any = struct.field(default=(0.5, 0.5))  # [K] or a tuple of K floats

    facts = COHERENT

    def __post_init__(self) -> None:
        if len(self.levels) != len(self.weights):
            numbers = f"{len(self.levels)} and {len(self.weights)}"
            raise ValueError(f"levels and weights have lengths {numbers}: give as many of each.")
        if is_traced(self):
            return
        levels, weights = np.asarray(self.levels), np.asarray(self.weights)
        if not np.all((levels > 0) & (levels <= 1)):
            raise ValueError(f"levels={self.levels} are out of range: give values in (0, 1].")
        if not (np.all(weights >= 0) and np.any(weights > 0)):
            raise ValueError(f"weights={self.weights}: give values >= 0, not all of them 0.")

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        values, [(probs, below, _)] = running_totals(readable(probs, values), probs)
        levels = jnp.asarray(self.levels, probs.dtype)
        shares = jnp.asarray(self.weights, probs.dtype)
        tails = jax.vmap(lower_tail, in_axes=(None, None, 0))(probs, below, levels)  # [K, N]
        weights = jnp.sum((shares / jnp.sum(shares))[:, None] * tails, axis=0)
        return weighted_sum(weights, values)


def _distorted(self: Any, probs: Array, values: Array) -> Array:
    """`probs[N]`, `values[N]` [return] -> `[]` [return]: sum_i (g(P(atoms up to i)) - g(P(atoms
    below i))) v_i, with g the distortion of a measure, `self`.
    """
    values, [(probs, below, above)] = running_totals(readable(probs, values), probs)
    total = jnp.sum(probs)
    lower = jnp.stack([below + probs, below]) / total  # [2, N]
    upper = jnp.stack([above, above + probs]) / total  # not 1 - lower: both ends need accuracy
    is_inside = (lower > 0) & (upper > 0)
    # At the ends the slope may be infinite, and the values are known.
    reached = self.distortion(jnp.where(is_inside, lower, 0.5), jnp.where(is_inside, upper, 0.5))
    reached = jnp.where(is_inside, reached, jnp.where(lower > 0, 1.0, 0.0))
    weights = reached[0] - reached[1]
    return weighted_sum(jnp.where(weights >= 0, weights, 0.0), values)  # but for rounding


def _log_second(first: Array, second: Array) -> Array:
    """log `second` for two positive numbers of sum one, accurate where it is near one too."""
    is_near = first < 0.5
    near = jnp.log1p(-jnp.where(is_near, first, 0.5))
    return jnp.where(is_near, near, jnp.log(jnp.where(is_near, 0.5, second)))


class Wang(CheckedStruct):
    """Wang's transform: the distribution function shifted on the scale of the normal law.

    F(p, v) = integral of x dg(P(v <= x)),  g(u) = Phi(Phi^-1(u) + shift)

    On a normal law it is the mean less `shift` standard deviations. `shift = 0` is the mean,
    shift -> inf the least and shift -> -inf the greatest possible value; it is concave, and
    coherent, for `shift >= 0`, and seeks risk below. As a map of quantile levels that are drawn,
    the same measure has the opposite sign: Phi(Phi^-1(u) - shift).

    Attributes:
        shift: price of risk [standard deviations]; negative seeks risk.

    Numerics:
        Both tails keep their relative accuracy. Gradients in `probs` leave out the atoms of zero
        probability at either end, where the slope of g is infinite.

    Example:
        >>> import jax.numpy as jnp
        >>> law = jnp.array([0.5, 0.5]), jnp.array([0.0, 4.0])
        >>> f"{float(Wang(1.0)(*law)):.4f}"  # 4 (1 - Phi(1))
        '0.6346'

    Sources:
        Wang (2000), A class of distortion operators for pricing financial and insurance risks.
        Dabney et al. (2018), Implicit quantile networks, section 3.1 (the map of drawn levels).
    """

    shift: Number = setting(0.5, "price of risk; negative seeks risk", unit="standard deviations")

    facts = MONETARY  # coherent for shift >= 0

    def distortion(self, lower: Array, upper: Array) -> Array:
        """g(`lower`), elementwise, of probabilities in (0, 1); `upper` is 1 - `lower`."""
        score = ndtri(jnp.minimum(lower, upper))
        return ndtr(jnp.where(lower < upper, score, -score) + self.shift)

    __call__ = _distorted


class PowerDistortion(CheckedStruct):
    """Power distortion: the expected worst of `exponent` independent draws.

    F(p, v) = integral of x dg(P(v <= x)),  g(u) = 1 - (1 - u)^exponent

    The survival probability is raised to the power. `exponent = 1` is the mean, exponent -> inf
    the least possible value; it is concave, and coherent, for `exponent >= 1`, and seeks risk
    below. As a map of quantile levels that are drawn, the same measure is
    1 - (1 - u)^(1 / exponent).

    Attributes:
        exponent: number of draws, above 0; need not be whole.

    Numerics:
        As `Wang`.

    Example:
        >>> import jax.numpy as jnp
        >>> float(PowerDistortion(2.0)(jnp.array([0.5, 0.5]), jnp.array([0.0, 4.0])))
        1.0

    Sources:
        Cherny & Madan (2009), New measures for performance evaluation (there MINVAR, of
        1 + x draws). Wang (1995), Insurance pricing and increased limits ratemaking by
        proportional hazards transforms.
    """

    exponent: Number = setting(
        2.0, "number of draws of which the worst counts", low=0.0, low_open=True
    )

    facts = MONETARY  # coherent for exponent >= 1

    def distortion(self, lower: Array, upper: Array) -> Array:
        """g(`lower`), elementwise, of probabilities in (0, 1); `upper` is 1 - `lower`."""
        return -jnp.expm1(self.exponent * _log_second(lower, upper))

    __call__ = _distorted


class CumulativeProspect(CheckedStruct):
    """Cumulative prospect weighting: both tails weigh more, the middle less.

    F(p, v) = integral of x dg(P(v <= x)),  g(u) = u^c / (u^c + (1 - u)^c)^(1/c),  c = exponent

    `exponent = 1` is the mean. Neither concave nor convex: it fears rare losses and hopes for rare
    gains. g is the weighting of probabilities itself, not the map of quantile levels (its inverse)
    nor a utility of gains and losses.

    Attributes:
        exponent: c, in [0.28, 1]; below, g would not be monotone.

    Numerics:
        As `Wang`.

    Example:
        >>> import jax.numpy as jnp
        >>> law = jnp.array([0.5, 0.5]), jnp.array([0.0, 4.0])
        >>> f"{float(CumulativeProspect(0.5)(*law)):.4f}"  # 4 (1 - g(1/2)), g(1/2) = 8^(-1/2)
        '2.5858'

    Sources:
        Tversky & Kahneman (1992), Advances in prospect theory: cumulative representation of
        uncertainty, equation 6.
    """

    exponent: Number = setting(0.71, "curvature of the weighting", low=0.28, high=1.0)

    facts = MONETARY

    def distortion(self, lower: Array, upper: Array) -> Array:
        """g(`lower`), elementwise, of probabilities in (0, 1); `upper` is 1 - `lower`."""
        rise = self.exponent * _log_second(upper, lower)
        fall = self.exponent * _log_second(lower, upper)
        return jnp.exp(rise - jnp.logaddexp(rise, fall) / self.exponent)

    __call__ = _distorted
