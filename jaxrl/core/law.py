"""A finite law: the currency between heads, models, functionals and operators."""

from __future__ import annotations

import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.types import Array


class Law(struct.Struct):
    """A law on finitely many real numbers.

    Atoms may repeat and stand in any order; atoms of zero probability carry no meaning.

    Example:
        >>> law = Law.of_samples([1.0, 2.0, 6.0])
        >>> float(law.push(1.0, 0.5).mean())  # 1 + 3 / 2
        2.5
    """

    probs: Array  # [..., N], non-negative, summing to one
    atoms: Array  # [..., N] [return]

    @classmethod
    def of_samples(cls, samples: Array) -> Law:
        """The empirical law of `samples[..., N]`, each with probability 1/N."""
        samples = jnp.asarray(samples)
        return cls(jnp.full(samples.shape, 1.0 / samples.shape[-1], samples.dtype), samples)

    def mean(self) -> Array:
        """Expectation `[...]`; atoms of zero probability are ignored even when not finite."""
        return jnp.sum(self.probs * jnp.where(self.probs > 0, self.atoms, 0.0), axis=-1)

    def push(self, shift: Array, scale: Array) -> Law:
        """The law of `shift + scale * X`; `shift` and `scale` broadcast against `[...]`."""
        shift, scale = jnp.asarray(shift), jnp.asarray(scale)
        return self.replace(atoms=shift[..., None] + scale[..., None] * self.atoms)
