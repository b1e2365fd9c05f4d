"""A return stored as probabilities on a fixed grid (C51)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.law import Law
from jaxrl.core.settings import setting
from jaxrl.core.types import Array
from jaxrl.losses.classification import cross_entropy


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

    @property
    def shape(self) -> tuple[int, ...]:
        """`(num_atoms,)`."""
        return (self.num_atoms,)

    def support(self, dtype: jnp.dtype = jnp.float32) -> Array:
        """The grid `[K]` [return], increasing."""
        steps = jnp.arange(self.num_atoms, dtype=dtype) / (self.num_atoms - 1)
        return (self.low + (self.high - self.low) * steps).astype(dtype)

    def law(self, params: Array) -> Law:
        """Logits `params[K]` -> the law on the grid, `[K]`."""
        return Law(jax.nn.softmax(params), self.support(params.dtype))

    def project(self, law: Law) -> Array:
        """Law of `[N]` atoms, in any order and with repeats -> probabilities `[K]` on the grid.

        Numerics:
            All K N distances, neither sort nor scatter. Atoms of zero probability may hold any
            value.
        """
        atoms = jnp.where(law.probs > 0, law.atoms, self.low)
        spacing = (self.high - self.low) / (self.num_atoms - 1)
        places = (jnp.clip(atoms, self.low, self.high) - self.low) / spacing  # [N], in [0, K - 1]
        grid = jnp.arange(self.num_atoms, dtype=places.dtype)
        nearness = jnp.maximum(1.0 - jnp.abs(places[None, :] - grid[:, None]), 0.0)  # [K, N]
        return jnp.sum(law.probs[None, :] * nearness, axis=1)

    def encode(self, law: Law) -> Array:
        """Law of `[N]` atoms -> logits `[K]` of its projection, finite where it has no mass."""
        probs = self.project(law)
        return jnp.log(jnp.maximum(probs, jnp.finfo(probs.dtype).tiny))

    def loss(self, params: Array, target: Law) -> Array:
        """Cross-entropy `[]` [nats] of logits `params[K]` against the target's projection."""
        return cross_entropy(params, self.project(target))

    def mean(self, params: Array) -> Array:
        """Logits `params[K]` -> `[]` [return]."""
        return jnp.sum(jax.nn.softmax(params) * self.support(params.dtype))
