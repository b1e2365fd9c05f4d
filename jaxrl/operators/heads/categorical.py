"""A return stored as probabilities on a fixed grid (C51)."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core import struct
from jaxrl.core.law import Law
from jaxrl.core.settings import check_settings, setting
from jaxrl.core.types import Array
from jaxrl.losses.formulas import cross_entropy

_MANY = 1 << 18  # distances, above which a scatter is cheaper


@struct.dataclass
class Categorical:
    """Logits of `num_atoms` equally spaced returns from `low` to `high`.

    Encoding is the Cramér projection: each atom shares its probability between its two neighbours
    on the grid in proportion to nearness, which keeps the mean inside [low, high]; mass beyond an
    end goes to that end.

    Attributes:
        low: least return of the grid [return].
        high: greatest return of the grid, > low [return].
        num_atoms: K, at least 2.

    Example:
        >>> import jax.numpy as jnp
        >>> head = Categorical(0.0, 2.0, num_atoms=3)
        >>> head.project(Law(jnp.array([0.5, 0.5]), jnp.array([9.0, 0.5]))).tolist()
        [0.25, 0.25, 0.5]

    Sources:
        Bellemare, Dabney & Munos (2017), A distributional perspective on reinforcement learning,
        equation 7; Rowland et al. (2018), An analysis of categorical distributional reinforcement
        learning (it is the projection in Cramér distance).
    """

    low: float = setting(-10.0, "least return of the grid", unit="return")
    high: float = setting(10.0, "greatest return of the grid", unit="return")
    num_atoms: int = setting(51, "points of the grid", low=2)

    stores_law: ClassVar[bool] = True
    mean_preserving: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse concrete settings out of their range, and a grid that does not increase."""
        check_settings(self)
        check_grid(self.low, self.high)

    @property
    def shape(self) -> tuple[int, ...]:
        """`(num_atoms,)`."""
        return (self.num_atoms,)

    def support(self, dtype: jnp.dtype = jnp.float32) -> Array:
        """The grid `[K]` [return], increasing."""
        return even_grid(self.low, self.high, self.num_atoms, dtype)

    def law(self, params: Array) -> Law:
        """Logits `params[K]` -> the law on the grid, `[K]`."""
        return Law(jax.nn.softmax(params), self.support(params.dtype))

    def project(self, law: Law) -> Array:
        """Law of `[N]` atoms, in any order and with repeats -> probabilities `[K]` on the grid."""
        return project_on_grid(law, self.low, self.high, self.num_atoms)

    def encode(self, law: Law) -> Array:
        """Law of `[N]` atoms -> logits `[K]` of its projection, finite where it has no mass."""
        return finite_logs(self.project(law))

    def loss(self, params: Array, target: Law) -> Array:
        """Cross-entropy `[]` [nats] of logits `params[K]` against the target's projection."""
        return cross_entropy(params, self.project(target))

    def mean(self, params: Array) -> Array:
        """Logits `params[K]` -> `[]` [return]."""
        return jnp.sum(jax.nn.softmax(params) * self.support(params.dtype))


def project_on_grid(law: Law, low: float, high: float, num_atoms: int) -> Array:
    """Share each atom between its neighbours on an even grid.

    Args:
        law: of `[N]` atoms [return], in any order and with repeats; they may be infinite.
        low: least point of the grid [return].
        high: greatest point of the grid [return].
        num_atoms: K, at least 2.

    Returns:
        `[K]` probabilities.

    Numerics:
        All K N distances, neither sort nor scatter; a scatter where those are very many. Atoms of
        zero probability may hold any value.
    """
    atoms = jnp.where(law.probs > 0, law.atoms, low)
    spacing = (high - low) / (num_atoms - 1)
    places = (jnp.clip(atoms, low, high) - low) / spacing  # [N], in [0, K - 1]
    if places.shape[0] * num_atoms <= _MANY:
        grid = jnp.arange(num_atoms, dtype=places.dtype)
        nearness = jnp.maximum(1.0 - jnp.abs(places[None, :] - grid[:, None]), 0.0)  # [K, N]
        return jnp.sum(law.probs[None, :] * nearness, axis=1)
    left = jnp.clip(jnp.floor(places), 0, num_atoms - 2)
    share = jnp.clip(places - left, 0.0, 1.0)  # of the right neighbour
    index = left.astype(jnp.int32)
    result = jnp.zeros((num_atoms,), places.dtype).at[index].add(law.probs * (1.0 - share))
    return result.at[index + 1].add(law.probs * share)


def even_grid(low: float | Array, high: float | Array, num_atoms: int, dtype: jnp.dtype) -> Array:
    """`num_atoms` equally spaced points `[K]` [return] from `low` to `high`."""
    steps = jnp.arange(num_atoms, dtype=dtype) / (num_atoms - 1)
    return (low + (high - low) * steps).astype(dtype)


def finite_logs(probs: Array) -> Array:
    """Log-probabilities `[K]`, finite where there is no mass."""
    return jnp.log(jnp.maximum(probs, jnp.finfo(probs.dtype).tiny))


def check_grid(low: float | Array, high: float | Array) -> None:
    """Raise `ValueError` on concrete ends of a grid that does not increase."""
    if isinstance(low, jax.core.Tracer) or isinstance(high, jax.core.Tracer):
        return
    if not np.all(np.asarray(low) < np.asarray(high)):
        raise ValueError(f"low={low} is not below high={high}: give a grid that increases.")
