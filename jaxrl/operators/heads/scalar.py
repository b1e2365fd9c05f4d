"""A return stored as its mean."""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.law import Law
from jaxrl.core.settings import check_settings, setting
from jaxrl.core.types import Array
from jaxrl.losses.formulas import huber_loss


@struct.dataclass
class Scalar:
    """One number for each action: the expected return.

    Its law is a single atom, so that risk measures of the return law see only the mean.

    Attributes:
        huber_threshold: where the loss turns linear, > 0 [return]; infinite for the squared error.

    Example:
        >>> import jax.numpy as jnp
        >>> float(Scalar().encode(Law.of_samples(jnp.array([1.0, 5.0]))))
        3.0

    Sources:
        Watkins & Dayan (1992), Q-learning; Mnih et al. (2015) for the clipped error.
    """

    huber_threshold: float = setting(
        1.0,
        "error at which the loss turns linear",
        unit="return",
        low=0.0,
        low_open=True,
        infinite=True,
    )

    stores_law: ClassVar[bool] = False
    mean_preserving: ClassVar[bool] = True

    __post_init__ = check_settings

    @property
    def shape(self) -> tuple[int, ...]:
        """`()`: one parameter for each action."""
        return ()

    def law(self, params: Array) -> Law:
        """`params[]` [return] -> the law of one atom, `[1]`."""
        return Law.of_samples(jnp.asarray(params)[None])

    def encode(self, law: Law) -> Array:
        """Law of `[N]` atoms -> its mean `[]` [return]."""
        return law.mean()

    def loss(self, params: Array, target: Law) -> Array:
        """Huber loss `[]` [return^2] of `params[]` against the mean of the target."""
        return huber_loss(params, target.mean(), self.huber_threshold)

    def mean(self, params: Array) -> Array:
        """`params[]` -> `[]` [return]."""
        return jnp.asarray(params)
