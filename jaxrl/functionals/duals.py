"""Duals of functionals on one sampled value: what a learner ascends when it sees no whole law.

A worst case or a tail mean of a law is no expectation, so that the functional of the one successor
seen is not an unbiased estimate of it. Each dual here is a concave function d(v, t) of some
parameters t with

F(p, v) = max_t E d(V, t)

so that d(v, t) and its gradient in t, at one sampled v, are unbiased. E d(V, t) <= F(p, v) at every
feasible t: an imperfect t only makes the estimate more careful. A learner holds t, or a network
that predicts it for each state and action, and alternates

t <- project(t + step * gradient of d(v, t), v)

The expectile has no such form (it is not convex in the law), only a criterion that its value
maximises: see `ExpectileDual`.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.settings import check_settings, setting
from jaxrl.core.types import Array


class Dual(Protocol):
    """A per-sample dual of a functional."""

    shape: ClassVar[tuple[int, ...]]  # of the parameters

    def __call__(self, value: Array, parameters: Array) -> Array:
        """What is ascended in the parameters: `value[]`, `parameters[*shape]` -> `[]`."""
        ...

    def estimate(self, value: Array, parameters: Array) -> Array:
        """The sampled target, whose mean at the best parameters is the functional."""
        ...

    def initial(self, value: Array, scale: Array | float = 1.0) -> Array:
        """Feasible parameters about a first value, for values that spread by about `scale`."""
        ...

    def project(self, parameters: Array, value: Array) -> Array:
        """The nearest parameters that are feasible, now that `value` is known to be possible."""
        ...


@struct.dataclass
class CVaRDual:
    """Dual of `CVaR(level)`: d(v, x) = x - (x - v)^+ / level.

    At the best parameter, x is the lower quantile of that level.

    Attributes:
        level: share of the lower tail, in (0, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> float(CVaRDual(0.5)(jnp.array(1.0), jnp.array([3.0])))
        -1.0

    Sources:
        Rockafellar & Uryasev (2000), Optimization of conditional value-at-risk, theorem 1.
    """

    level: float = setting(0.1, "share of the lower tail", low=0.0, high=1.0, low_open=True)

    shape: ClassVar[tuple[int, ...]] = (1,)

    __post_init__ = check_settings

    def __call__(self, value: Array, parameters: Array) -> Array:
        """`value[]` [return], `parameters[1]` [return] -> `[]` [return]."""
        quantile = parameters[0]
        return quantile - jnp.maximum(quantile - value, 0.0) / self.level

    def estimate(self, value: Array, parameters: Array) -> Array:
        """The dual itself."""
        return self(value, parameters)

    def initial(self, value: Array, scale: Array | float = 1.0) -> Array:
        """The value seen."""
        return jnp.stack([value])

    def project(self, parameters: Array, value: Array) -> Array:
        """Every parameter is feasible."""
        return parameters


@struct.dataclass
class EntropicDual:
    """Dual of `Entropic(risk_aversion)`: d(v, x) = x + (1 - exp(-b (v - x))) / b.

    Concave in x, and largest in the mean where x = -1/b log E exp(-b V): then E d = x. At b = 0,
    d = v whatever x is.

    Attributes:
        risk_aversion: b, at least 0 [1 / return].

    Numerics:
        The exponent is not bounded: keep x within a few 1/b of the values seen.

    Example:
        >>> import jax.numpy as jnp
        >>> float(EntropicDual(2.0)(jnp.array(3.0), jnp.array([3.0])))
        3.0

    Sources:
        Ben-Tal & Teboulle (2007), An old-new concept of convex risk measures: the optimized
        certainty equivalent, example 2.1.
    """

    risk_aversion: float = setting(1.0, "risk aversion", unit="1 / return", low=0.0)

    shape: ClassVar[tuple[int, ...]] = (1,)

    __post_init__ = check_settings

    def __call__(self, value: Array, parameters: Array) -> Array:
        """`value[]` [return], `parameters[1]` [return] -> `[]` [return]."""
        aversion = jnp.asarray(self.risk_aversion, jnp.result_type(value))
        gap = value - parameters[0]
        is_neutral = aversion == 0
        safe = jnp.where(is_neutral, 1.0, aversion)
        return parameters[0] + jnp.where(is_neutral, gap, -jnp.expm1(-safe * gap) / safe)

    def estimate(self, value: Array, parameters: Array) -> Array:
        """The dual itself."""
        return self(value, parameters)

    def initial(self, value: Array, scale: Array | float = 1.0) -> Array:
        """The value seen."""
        return jnp.stack([value])

    def project(self, parameters: Array, value: Array) -> Array:
        """Every parameter is feasible."""
        return parameters


@struct.dataclass
class KLDual:
    """Dual of `KLBall(radius)`: d(v, (l, c)) = c - l radius - l (exp((c - v) / l) - 1), l > 0.

    For one q, sum_i q_i v_i + l (KL(q || p) - radius) + c (1 - sum_i q_i) is least at
    q_i = p_i exp((c - v_i) / l), where it is E d up to the constant l of f(r) = r log r - r + 1; by
    strong duality the maximum over (l, c) is F. Maximising over c first, c = -l log E exp(-V / l),
    leaves -l log E exp(-V / l) - l radius, which is no expectation: at one sample its gradient is
    biased.

    Attributes:
        radius: of the set, at least 0 [nats].
        least: of the multiplier l, above 0; small against the spread of the values [return].

    Numerics:
        The exponent is not bounded: keep c within a few l of the values seen, or clip gradients.

    Example:
        >>> import jax.numpy as jnp
        >>> float(KLDual(0.25)(jnp.array(3.0), jnp.array([2.0, 3.0])))
        2.5

    Sources:
        Ben-Tal et al. (2013), Robust solutions of optimization problems affected by uncertain
        probabilities, theorem 1, with the conjugate exp(y) - 1.
    """

    radius: float = setting(0.1, "radius of the set of laws", unit="nats", low=0.0)
    least: float = setting(1e-3, "least multiplier", unit="return", low=0.0, low_open=True)

    shape: ClassVar[tuple[int, ...]] = (2,)

    __post_init__ = check_settings

    def __call__(self, value: Array, parameters: Array) -> Array:
        """`value[]` [return], `parameters[2]` (multiplier, shift) [return] -> `[]` [return]."""
        multiplier, shift = parameters
        grown = jnp.expm1((shift - value) / multiplier)
        return shift - multiplier * (self.radius + grown)

    def estimate(self, value: Array, parameters: Array) -> Array:
        """The dual itself."""
        return self(value, parameters)

    def initial(self, value: Array, scale: Array | float = 1.0) -> Array:
        """The multiplier at `scale`, the shift at the value seen."""
        return jnp.stack([jnp.maximum(jnp.full_like(value, scale), self.least), value])

    def project(self, parameters: Array, value: Array) -> Array:
        """The multiplier at least `least`."""
        return jnp.stack([jnp.maximum(parameters[0], self.least), parameters[1]])


@struct.dataclass
class ChiSquareDual:
    """Dual of `ChiSquareBall(radius)`: d(v, (l, a)) = a - l (1 + radius) - ((a - v)^+)^2 / (4 l).

    It is c - l radius - l f*((c - v) / l) with the conjugate f*(y) = max(y + 2, 0)^2 / 4 - 1 of
    (r - 1)^2 and a = c + 2 l. Maximising over l leaves a - sqrt(1 + radius) ||(a - V)^+||_2, a norm
    and no expectation.

    Attributes:
        radius: of the set, at least 0.
        least: of the multiplier l, above 0; small against the spread of the values [return].

    Example:
        >>> import jax.numpy as jnp
        >>> float(ChiSquareDual(0.5)(jnp.array(2.0), jnp.array([1.0, 4.0])))  # 4 - 1.5 - 1
        1.5

    Sources:
        Ben-Tal et al. (2013), Robust solutions of optimization problems affected by uncertain
        probabilities, theorem 1; Duchi & Namkoong (2021), Learning models with uniform performance
        via distributionally robust optimization, lemma 1 (the form with the norm).
    """

    radius: float = setting(0.1, "radius of the set of laws", low=0.0)
    least: float = setting(1e-3, "least multiplier", unit="return", low=0.0, low_open=True)

    shape: ClassVar[tuple[int, ...]] = (2,)

    __post_init__ = check_settings

    def __call__(self, value: Array, parameters: Array) -> Array:
        """`value[]` [return], `parameters[2]` (multiplier, cut) [return] -> `[]` [return]."""
        multiplier, cut = parameters
        excess = jnp.maximum(cut - value, 0.0)
        # The excess over the multiplier first: the square of a great value could overflow.
        return cut - multiplier * (1.0 + self.radius) - 0.25 * excess * (excess / multiplier)

    def estimate(self, value: Array, parameters: Array) -> Array:
        """The dual itself."""
        return self(value, parameters)

    def initial(self, value: Array, scale: Array | float = 1.0) -> Array:
        """The multiplier at `scale`, the cut two multipliers above the value seen."""
        multiplier = jnp.maximum(jnp.full_like(value, scale), self.least)
        return jnp.stack([multiplier, value + 2.0 * multiplier])

    def project(self, parameters: Array, value: Array) -> Array:
        """The multiplier at least `least`."""
        return jnp.stack([jnp.maximum(parameters[0], self.least), parameters[1]])


@struct.dataclass
class ExpectileDual:
    """What `Expectile(level)` maximises: d(v, e) = -1/2 |level - [v < e]| (v - e)^2.

    The expectile is the e at which E d is largest, not the value of that maximum. A form with
    F = max E d does not exist: such an F is convex in the law, and at level < 1/2 the expectile
    of a mixture can exceed the mixed expectiles, so that `estimate` is e itself.

    Attributes:
        level: in (0, 1); 1/2 is the mean, below it the lower tail weighs more.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> slope = jax.grad(ExpectileDual(0.25), argnums=1)
        >>> float(slope(jnp.array(1.0), jnp.array([3.0]))[0])  # down by 0.75 for each unit below
        -1.5

    Sources:
        Newey & Powell (1987), Asymmetric least squares estimation and testing, equation 2.1;
        Gneiting (2011), Making and evaluating point forecasts, section 3.
    """

    level: float = setting(0.1, "weight of gains against losses", low=0.0, high=1.0, low_open=True)

    shape: ClassVar[tuple[int, ...]] = (1,)

    __post_init__ = check_settings

    def __call__(self, value: Array, parameters: Array) -> Array:
        """`value[]` [return], `parameters[1]` [return] -> `[]` [return^2]."""
        error = value - parameters[0]
        return -0.5 * jnp.where(error < 0, 1.0 - self.level, self.level) * error**2

    def estimate(self, value: Array, parameters: Array) -> Array:
        """The parameter; the value seen does not enter."""
        return parameters[0]

    def initial(self, value: Array, scale: Array | float = 1.0) -> Array:
        """The value seen."""
        return jnp.stack([value])

    def project(self, parameters: Array, value: Array) -> Array:
        """Every parameter is feasible."""
        return parameters
