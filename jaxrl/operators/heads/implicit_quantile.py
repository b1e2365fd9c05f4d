"""A return stored as a quantile function that takes the level as an input (IQN)."""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.law import Law
from jaxrl.core.settings import check_settings, setting
from jaxrl.core.types import Array
from jaxrl.losses.formulas import quantile_huber_loss, quantile_levels
from jaxrl.operators.heads.quantile import mid_quantiles


@struct.dataclass
class ImplicitQuantile:
    """Returns at `num_atoms` levels that travel with them: rows (value, level) of a function.

    The network of an agent is a function of observation and level, see `ImplicitQNetwork`. Asked
    for no levels it gives the mid-levels (2 i + 1) / (2 K), and what it stores is then read as
    `Quantile` reads its parameters: K atoms of probability 1/K. So laws, means, scores and targets
    need no random numbers, and every return functional (a distortion risk measure among them) sees
    the same law. Regression is at fresh random levels, one drawn from each of K equal shares of [0,
    1], and so fits the whole function; a table, which cannot be asked, keeps the mid-levels.

    Levels are given and not learned: the loss has no slope in them, and is least over the values.

    Differs from the published agent in that targets and scores are at the mid-levels instead of at
    levels drawn (the mean over draws, up to the step between levels), and that the levels of the
    regression are stratified (the same expectation, less noise).

    Attributes:
        num_atoms: K, at least 1.
        num_cosines: cosines of the level that the network embeds.
        huber_threshold: where the loss turns linear, >= 0 [return]; 0 is the plain quantile loss.

    Example:
        >>> import jax.numpy as jnp
        >>> law = Law(jnp.array([0.5, 0.25, 0.25]), jnp.array([3.0, 9.0, 1.0]))
        >>> ImplicitQuantile(num_atoms=2).encode(law).tolist()  # (value, level) of each
        [[1.0, 0.25], [3.0, 0.75]]

    Sources:
        Dabney, Ostrovski, Silver & Munos (2018), Implicit quantile networks for distributional
        reinforcement learning, section 3 and equation 4, whose cosines count from 0 (those of
        google/dopamine count from 1).
    """

    num_atoms: int = setting(32, "levels at which returns are read and fitted", low=1)
    num_cosines: int = setting(64, "cosines of the level that the network embeds", low=1)
    huber_threshold: float = setting(
        1.0, "error at which the loss turns linear", unit="return", low=0.0
    )

    stores_law: ClassVar[bool] = True
    mean_preserving: ClassVar[bool] = False

    __post_init__ = check_settings

    @property
    def shape(self) -> tuple[int, ...]:
        """`(num_atoms, 2)`."""
        return (self.num_atoms, 2)

    def law(self, params: Array) -> Law:
        """`params[K, 2]`, at the mid-levels or at levels drawn -> the law of K equal atoms."""
        return Law(jnp.full(params.shape[:-1], 1.0 / self.num_atoms, params.dtype), params[..., 0])

    def encode(self, law: Law) -> Array:
        """Law of `[N]` atoms, in any order -> its quantiles at the mid-levels, `[K, 2]`."""
        values = mid_quantiles(law, self.num_atoms)
        return jnp.stack([values, quantile_levels(self.num_atoms, values.dtype)], axis=-1)

    def loss(self, params: Array, target: Law) -> Array:
        """Quantile Huber loss `[]` [return] of `params[K, 2]`, each value at its own level."""
        return quantile_huber_loss(params[..., 0], target, self.huber_threshold, params[..., 1])

    def mean(self, params: Array) -> Array:
        """`params[K, 2]` -> `[]` [return]."""
        return jnp.mean(params[..., 0])
