"""The risk-neutral functional."""

from __future__ import annotations

import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.protocols import FunctionalFacts
from jaxrl.core.types import Array


@struct.dataclass
class Mean:
    """Expectation: the risk-neutral functional, under which the backup is the classical one.

    F(p, v) = sum_i p_i v_i

    Atoms of zero probability are ignored, even when their values are not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> float(Mean()(jnp.array([0.25, 0.75]), jnp.array([4.0, 8.0])))
        7.0

    Sources:
        Bellman (1957), Dynamic Programming, chapter III.
    """

    facts = FunctionalFacts(
        coherent=True, time_consistent=True, needs_successors=False, is_expectation=True
    )

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        # A finite value keeps its gradient in `probs` at p = 0; an infinite one must not make NaN.
        counts = (probs > 0) | jnp.isfinite(values)
        return jnp.sum(probs * jnp.where(counts, values, 0.0))
