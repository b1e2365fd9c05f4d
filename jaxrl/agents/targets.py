"""Lagged copies of parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, PyTree


@struct.dataclass
class TargetUpdate:
    """Every `period` updates the copy moves a share `step_size` of the way to the parameters.

    `step_size = 1` copies (Mnih et al. 2015); `period = 1` with a small step is Polyak averaging
    (Lillicrap et al. 2016).

    Example:
        >>> float(TargetUpdate(step_size=0.25).move(jnp.array(0.0), jnp.array(8.0), 1))
        2.0
    """

    period: int = setting(1, "gradient steps between two moves", unit="updates", low=1)
    step_size: float = setting(
        0.005, "share of the way moved, 1 copies", low=0.0, high=1.0, low_open=True
    )

    def move(self, target: PyTree, params: PyTree, num_updates: Array) -> PyTree:
        """The copy after update number `num_updates` (from 1)."""
        step = jnp.where(num_updates % self.period == 0, self.step_size, 0.0)
        # `select` rather than arithmetic alone, so that a full step copies to the last bit.
        full = step >= 1.0
        return jax.tree.map(lambda t, p: jnp.where(full, p, t + step * (p - t)), target, params)
