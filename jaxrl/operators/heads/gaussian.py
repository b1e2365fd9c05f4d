"""A return stored as a mean and a spread."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri

from jaxrl.core import struct
from jaxrl.core.law import Law
from jaxrl.core.settings import check_settings, setting
from jaxrl.core.types import Array
from jaxrl.losses.formulas import gaussian_cross_entropy, quantile_levels


@struct.dataclass
class Gaussian:
    """A mean and a standard deviation: `params = (mean, raw)`, scale = min_scale + softplus(raw).

    Encoding takes the two moments. The law has `num_atoms` equal atoms at the normal quantiles of
    the mid-levels, stretched so that mean and variance are exactly the stored ones; a backup of
    moments is therefore exact, while tails beyond the outermost atoms are not seen.

    Attributes:
        num_atoms: of the law, at least 2.
        min_scale: least standard deviation, >= 0 [return]; it bounds the likelihood of nearly
            certain returns. 0 for tables that store the variance of deterministic returns.

    Example:
        >>> import jax.numpy as jnp
        >>> head = Gaussian(num_atoms=4, min_scale=0.0)
        >>> law = head.law(head.encode(Law.of_samples(jnp.array([0.0, 6.0]))))
        >>> f"{float(law.mean()):.4f} {float(jnp.std(law.atoms)):.4f}"
        '3.0000 3.0000'

    Sources:
        Duan et al. (2021), Distributional soft actor-critic (the head, there on samples); Sobel
        (1982), The variance of discounted Markov decision processes (the recursion of moments).
    """

    num_atoms: int = setting(8, "atoms of the law", low=2)
    min_scale: float = setting(1e-3, "least standard deviation", unit="return", low=0.0)

    stores_law: ClassVar[bool] = True
    mean_preserving: ClassVar[bool] = True

    __post_init__ = check_settings

    @property
    def shape(self) -> tuple[int, ...]:
        """`(2,)`."""
        return (2,)

    def scale(self, params: Array) -> Array:
        """`params[2]` -> the standard deviation `[]` [return]."""
        return self.min_scale + jax.nn.softplus(params[1])

    def law(self, params: Array) -> Law:
        """`params[2]` -> the law of `[num_atoms]` equal atoms with these two moments."""
        quantiles = ndtri(quantile_levels(self.num_atoms, params.dtype))
        quantiles = 0.5 * (quantiles - quantiles[::-1])  # exactly symmetric
        units = quantiles / jnp.sqrt(jnp.mean(jnp.square(quantiles)))
        probs = jnp.full(units.shape, 1.0 / self.num_atoms, params.dtype)
        return Law(probs, params[0] + self.scale(params) * units)

    def encode(self, law: Law) -> Array:
        """Law of `[N]` atoms -> its mean and raw spread `[2]`, finite where it has none."""
        mean = law.mean()
        centred = jnp.where(law.probs > 0, law.atoms - mean, 0.0)
        variance = jnp.sum(law.probs * jnp.square(centred))
        tiny = jnp.finfo(variance.dtype).tiny
        is_spread = variance > tiny
        scale = jnp.where(is_spread, jnp.sqrt(jnp.where(is_spread, variance, 1.0)), 0.0)
        excess = jnp.maximum(scale - self.min_scale, tiny)
        raw = excess + jnp.log(-jnp.expm1(-excess))  # the inverse of softplus
        return jnp.stack([mean, raw])

    def loss(self, params: Array, target: Law) -> Array:
        """Cross-entropy `[]` [nats] of the Gaussian density against the target law."""
        return gaussian_cross_entropy(params[0], self.scale(params), target)

    def mean(self, params: Array) -> Array:
        """`params[2]` -> `[]` [return]."""
        return params[0]
