"""A return stored as equally likely atoms (QR-DQN)."""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.law import Law
from jaxrl.core.settings import check_settings, setting
from jaxrl.core.types import Array
from jaxrl.losses.formulas import quantile_huber_loss, quantile_levels

_MANY = 1 << 16  # comparisons, above which a binary search is cheaper


@struct.dataclass
class Quantile:
    """`num_atoms` returns of probability 1/K each: estimates of the mid-level quantiles.

    Encoding takes the quantiles at levels (2 i + 1) / (2 K): the nearest K equal atoms in
    1-Wasserstein distance. It does not keep the mean of a law that it cannot store.

    Attributes:
        num_atoms: K, at least 1.
        huber_threshold: where the loss turns linear, >= 0 [return]; 0 is the plain quantile loss.

    Example:
        >>> import jax.numpy as jnp
        >>> law = Law(jnp.array([0.5, 0.25, 0.25]), jnp.array([3.0, 9.0, 1.0]))
        >>> Quantile(num_atoms=2).encode(law).tolist()  # levels 1/4 and 3/4
        [1.0, 3.0]

    Sources:
        Dabney et al. (2018), Distributional reinforcement learning with quantile regression,
        lemma 2 and algorithm 1.
    """

    num_atoms: int = setting(200, "equally likely atoms", low=1)
    huber_threshold: float = setting(
        1.0, "error at which the loss turns linear", unit="return", low=0.0
    )

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
        """Quantile Huber loss `[]` [return] of `params[K]` against the target's own atoms."""
        return quantile_huber_loss(params, target, self.huber_threshold)

    def mean(self, params: Array) -> Array:
        """`params[K]` -> `[]` [return]."""
        return jnp.mean(params)


def mid_quantiles(law: Law, num_atoms: int) -> Array:
    """The quantiles of a law at the mid-points of equal shares of probability.

    Args:
        law: of `[N]` atoms [return], in any order; impossible ones may hold any value.
        num_atoms: K, at least 1.

    Returns:
        `[K]` [return], increasing: atoms of the law. A NaN stands among the greatest.
    """
    possible = law.probs > 0
    # Impossible atoms last, behind possible ones of +inf or NaN as well.
    most = jnp.finfo(law.atoms.dtype).max
    keys = jnp.where(law.atoms < most, law.atoms, most)
    order = jnp.argsort(jnp.where(possible, keys, jnp.inf))
    reached = jnp.cumsum(law.probs[order])
    levels = quantile_levels(num_atoms, reached.dtype) * reached[-1]
    method = "compare_all" if num_atoms * reached.shape[0] <= _MANY else "scan"
    index = jnp.searchsorted(reached, levels, method=method)
    return law.atoms[order[jnp.minimum(index, jnp.sum(possible) - 1)]]
