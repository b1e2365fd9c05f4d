"""A return stored as equally likely atoms without an order (moment matching)."""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.law import Law
from jaxrl.core.settings import check_settings, setting
from jaxrl.core.types import Array
from jaxrl.losses.formulas import energy_loss
from jaxrl.operators.heads.quantile import mid_quantiles


@struct.dataclass
class Particles:
    """`num_atoms` returns of probability 1/K each, fitted together by the energy distance.

    Unlike those of `Quantile`, no particle is tied to a level: the loss is a distance of laws, and
    any order of the parameters has the same. The nearest K particles to a law, in energy distance
    as in 1-Wasserstein distance, are its mid-level quantiles, so that both heads encode alike.

    Attributes:
        num_atoms: K, at least 1.

    Example:
        >>> import jax.numpy as jnp
        >>> law = Law(jnp.array([0.5, 0.25, 0.25]), jnp.array([3.0, 9.0, 1.0]))
        >>> Particles(num_atoms=2).encode(law).tolist()
        [1.0, 3.0]

    Sources:
        Nguyen-Tang, Gupta & Venkatesh (2021), Distributional reinforcement learning via moment
        matching; Bellemare et al. (2017), The Cramér distance as a solution to biased Wasserstein
        gradients.
    """

    num_atoms: int = setting(64, "equally likely atoms", low=1)

    stores_law: ClassVar[bool] = True
    mean_preserving: ClassVar[bool] = False

    __post_init__ = check_settings

    @property
    def shape(self) -> tuple[int, ...]:
        """`(num_atoms,)`."""
        return (self.num_atoms,)

    def law(self, params: Array) -> Law:
        """`params[K]` [return], in any order -> the law of K equal atoms."""
        return Law(jnp.full(params.shape, 1.0 / self.num_atoms, params.dtype), params)

    def encode(self, law: Law) -> Array:
        """Law of `[N]` atoms, in any order -> its quantiles `[K]` [return], increasing."""
        return mid_quantiles(law, self.num_atoms)

    def loss(self, params: Array, target: Law) -> Array:
        """Energy loss `[]` [return] of `params[K]`; see `jaxrl.losses.energy_loss`."""
        return energy_loss(params, target)

    def mean(self, params: Array) -> Array:
        """`params[K]` -> `[]` [return]."""
        return jnp.mean(params)
