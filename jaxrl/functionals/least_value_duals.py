"""Per-sample duals of functionals in which the least possible value stands by itself.

They hold a bound b below all possible values, which enters as it is: as large a b as is feasible is
best. One sample cannot show a b to be feasible, only to be infeasible; `project` lowers it then. A
known bound on the return, such as the value of a state that ends in failure, may be put in its
place and kept.
"""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.settings import check_settings, setting
from jaxrl.core.types import Array


@struct.dataclass
class TotalVariationDual:
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

    radius: float = setting(0.1, "share of the mass that may move", low=0.0)

    shape: ClassVar[tuple[int, ...]] = (2,)

    __post_init__ = check_settings

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


@struct.dataclass
class ContaminationDual:
    """Dual of `Contamination(radius)`: d(v, b) = (1 - radius) v + radius b, b <= v.

    Where v < b, d is -inf: such a b is not feasible.

    Attributes:
        radius: share of the mass that nature puts where it likes, in [0, 1]; more counts as 1.

    Example:
        >>> import jax.numpy as jnp
        >>> float(ContaminationDual(0.25)(jnp.array(4.0), jnp.array([0.0])))
        3.0

    Sources:
        Wang & Zou (2021), Online robust reinforcement learning with model uncertainty, section 3.
    """

    radius: float = setting(0.1, "share of the mass that nature places", low=0.0)

    shape: ClassVar[tuple[int, ...]] = (1,)

    __post_init__ = check_settings

    def __call__(self, value: Array, parameters: Array) -> Array:
        """`value[]` [return], `parameters[1]` [return] -> `[]` [return]."""
        return jnp.where(parameters[0] <= value, self.estimate(value, parameters), -jnp.inf)

    def estimate(self, value: Array, parameters: Array) -> Array:
        """The dual itself, where the bound is taken to be feasible."""
        share = jnp.minimum(self.radius, 1.0)
        return (1.0 - share) * value + share * parameters[0]

    def initial(self, value: Array, scale: Array | float = 1.0) -> Array:
        """The value seen."""
        return jnp.stack([value])

    def project(self, parameters: Array, value: Array) -> Array:
        """At most the value."""
        return jnp.minimum(parameters, value)
