"""Duals of functionals on one sampled value: what a learner ascends when it sees no whole law.

A worst case or a tail mean of a law is no expectation, so that the functional of the one successor
seen is not an unbiased estimate of it. Each dual here is a concave function d(v, t) of some
parameters t with

F(p, v) = max_t E d(V, t)

so that d(v, t) and its gradient in t, at one sampled v, are unbiased. E d(V, t) <= F(p, v) at every
feasible t: an imperfect t only makes the estimate more careful. A learner holds t, or a network
that predicts it for each state and action, and alternates

t <- project(t + step * gradient of d(v, t), v)

Some hold a bound b below all possible values, which enters as it is: as large a b as is feasible is
best. One sample cannot show a b to be feasible, only to be infeasible; `project` lowers it then. A
known bound on the return, such as the value of a state that ends in failure, may be put in its
place and kept.

The expectile has no such form (it is not convex in the law), only a criterion that its value
maximises: see `ExpectileDual`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax.numpy as jnp

from jaxrl.core import Struct, struct
from jaxrl.core.settings import CheckedStruct, setting
from jaxrl.core.types import Array, Number


class SampleDual(Protocol):
    """A dual of a functional on one sampled value."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the parameters: a class attribute will do."""
        ...

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


@runtime_checkable
class HasDual(Protocol):
    """A functional that is the maximum of a mean."""

    def dual(self, least: float) -> SampleDual:
        """The per-sample dual; a multiplier that divides is at least `least` [return]."""
        ...


class UtilityDual(Struct):
    """Dual of `OptimisedCertaintyEquivalent(utility)`: d(v, x) = x + u(v - x).

    `CVaR`, `Entropic` and the penalties of divergences have it too, each with its utility. For
    CVaR the best x is the lower quantile of that level. Where u(t) is minus infinity at t < 0, x
    is a bound below all values: `Contamination` has d(v, x) = (1 - radius) v + radius x, x <= v.

    Attributes:
        utility: u, concave; a struct whose floats are leaves.
        is_bound: whether x must be at most every possible value.

    Numerics:
        An exponential utility is not bounded: keep x within a few 1 / risk_aversion of the values.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxrl.functionals import CVaR
        >>> float(CVaR(0.5).dual(least=0.1)(jnp.array(1.0), jnp.array([3.0])))
        -1.0

    Sources:
        Rockafellar & Uryasev (2000), Optimization of conditional value-at-risk, theorem 1; Ben-Tal
        & Teboulle (2007), An old-new concept of convex risk measures: the optimized certainty
        equivalent, definition 2.1 and example 2.1; Wang & Zou (2021), Online robust reinforcement
        learning with model uncertainty, section 3 (contamination).
    """

    utility: Callable[[Array], Array]
    is_bound: bool = struct.field(pytree_node=False, default=False)

    shape = (1,)

    def __call__(self, value: Array, parameters: Array) -> Array:
        """`value[]` [return], `parameters[1]` [return] -> `[]` [return]."""
        refused = self.is_bound & (parameters[0] > value)
        return jnp.where(refused, -jnp.inf, self.estimate(value, parameters))

    def estimate(self, value: Array, parameters: Array) -> Array:
        """The dual itself, where a bound is taken to be feasible."""
        return parameters[0] + self.utility(value - parameters[0])

    def initial(self, value: Array, scale: Array | float = 1.0) -> Array:
        """The value seen."""
        return jnp.stack([value])

    def project(self, parameters: Array, value: Array) -> Array:
        """A bound at most the value; anything else as it is."""
        return jnp.minimum(parameters, value) if self.is_bound else parameters


class DivergenceDual(CheckedStruct):
    """Dual of a ball in an f-divergence: d(v, (l, c)) = c - l radius - l f*((c - v) / l), l > 0.

    f* is the convex conjugate of f, as in `DivergenceBall`; exp(y) - 1 for `KLBall`. For one q,
    sum_i q_i v_i + l (D(q, p) - radius) + c (1 - sum_i q_i) is least at
    q_i = p_i f*'((c - v_i) / l), where it is E d; by strong duality the maximum over (l, c) is F.
    Maximising over c first leaves, for KL, -l log E exp(-V / l) - l radius, which is no
    expectation: at one sample its gradient is biased.

    The second parameter is c + `offset` l. For `ChiSquareBall`, at offset 2, it is a cut a:
    d = a - l (1 + radius) - ((a - v)^+)^2 / (4 l), to which values above it do not matter.

    Attributes:
        radius: of the set, at least 0, in the unit of f; for KL [nats].
        least: of the multiplier l, above 0; small against the spread of the values [return].
        conjugate: f*, finite everywhere.
        offset: of the second parameter above c, in multipliers.

    Numerics:
        The exponent of KL is not bounded: keep c within a few l of the values seen, or clip
        gradients.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxrl.functionals import ChiSquareBall, KLBall
        >>> float(KLBall(0.25).dual(1e-3)(jnp.array(3.0), jnp.array([2.0, 3.0])))
        2.5
        >>> float(ChiSquareBall(0.5).dual(1e-3)(jnp.array(2.0), jnp.array([1.0, 4.0])))  # 4 - 2.5
        1.5

    Sources:
        Ben-Tal et al. (2013), Robust solutions of optimization problems affected by uncertain
        probabilities, theorem 1; Duchi & Namkoong (2021), Learning models with uniform performance
        via distributionally robust optimization, lemma 1 (chi-square).
    """

    radius: Number = setting(0.1, "radius of the set of laws", low=0.0)
    least: Number = setting(1e-3, "least multiplier", unit="return", low=0.0, low_open=True)
    conjugate: Callable[[Array], Array] = setting(jnp.expm1, "convex conjugate f* of f")
    offset: Number = setting(0.0, "of the second parameter, in multipliers")

    shape = (2,)

    def __call__(self, value: Array, parameters: Array) -> Array:
        """`value[]` [return], `parameters[2]` (multiplier, shift) [return] -> `[]` [return]."""
        multiplier, shift = parameters
        grown = self.conjugate((shift - value) / multiplier - self.offset)
        return shift - multiplier * (self.offset + self.radius + grown)

    estimate = __call__

    def initial(self, value: Array, scale: Array | float = 1.0) -> Array:
        """The multiplier at `scale`, c at the value seen."""
        multiplier = jnp.maximum(jnp.full_like(value, scale), self.least)
        return jnp.stack([multiplier, value + self.offset * multiplier])

    def project(self, parameters: Array, value: Array) -> Array:
        """The multiplier at least `least`."""
        return jnp.stack([jnp.maximum(parameters[0], self.least), parameters[1]])


class ExpectileDual(CheckedStruct):
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

    level: Number = setting(0.1, "weight of gains against losses", low=0.0, high=1.0, low_open=True)

    shape = (1,)

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


class TotalVariationDual(CheckedStruct):
    """Dual of `TotalVariation(radius)`: d(v, (a, b)) = min(v, a) - radius (a - b), b <= v.

    Mass `radius` is taken from the values above a and put at b. Where v < b, d is -inf: such a b is
    not feasible.

    Attributes:
        radius: half the L1 distance, in [0, 1]; more counts as 1.

    Example:
        >>> import jax.numpy as jnp
        >>> float(TotalVariationDual(0.25)(jnp.array(5.0), jnp.array([4.0, 0.0])))
        3.0

    Sources:
        Iyengar (2005), Robust dynamic programming, section 4; Panaganti, Xu, Kalathil &
        Ghavamzadeh (2022), Robust reinforcement learning using offline data, proposition 1.
    """

    radius: Number = setting(0.1, "share of the mass that may move", low=0.0)

    shape = (2,)

    def __call__(self, value: Array, parameters: Array) -> Array:
        """`value[]` [return], `parameters[2]` (cut, bound) [return] -> `[]` [return]."""
        return jnp.where(parameters[1] <= value, self.estimate(value, parameters), -jnp.inf)

    def estimate(self, value: Array, parameters: Array) -> Array:
        """The dual itself, where the bound is taken to be feasible."""
        cut, bound = parameters
        return jnp.minimum(value, cut) - self.radius * (cut - bound)

    def initial(self, value: Array, scale: Array | float = 1.0) -> Array:
        """Cut and bound at the value seen."""
        return jnp.stack([value, value])

    def project(self, parameters: Array, value: Array) -> Array:
        """The bound at most the value, the cut at least the bound."""
        cut, bound = parameters
        bound = jnp.minimum(bound, value)
        return jnp.stack([jnp.maximum(cut, bound), bound])
