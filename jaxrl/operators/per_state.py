"""Settings of an improvement that differ between states, such as a policy."""

from __future__ import annotations

import jax

from jaxrl.core import struct
from jaxrl.core.protocols import Improvement
from jaxrl.core.types import Array


@struct.dataclass
class PerState:
    """An improvement whose every leaf has a leading axis `[S]`: one setting for each state.

    Planners map over it; it cannot be applied at a single state.

    Attributes:
        improvement: its leaves are `[S, ...]`, such as `FixedPolicy(probs)` with `probs[S, A]`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxrl.operators.improvement import FixedPolicy
        >>> policy = jnp.array([[0.5, 0.5], [0.25, 0.75]])
        >>> mask = jnp.array([[True, True], [True, False]])
        >>> over_states(PerState(FixedPolicy(policy)), jnp.zeros((2, 2)), mask)[0].tolist()
        [[0.5, 0.5], [1.0, 0.0]]
    """

    improvement: Improvement

    @property
    def deterministic(self) -> bool:
        """As the improvement."""
        return self.improvement.deterministic

    @property
    def nonexpansive(self) -> bool:
        """As the improvement."""
        return self.improvement.nonexpansive

    def __call__(self, q_values: Array, mask: Array | None = None) -> tuple[Array, Array]:
        """Refused.

        Raises:
            ValueError: always; the call names no state.
        """
        raise ValueError(
            "PerState has settings for each state, and this call names none. Plan on a TabularMDP, "
            "or apply the improvement of one state."
        )


def over_states(improvement: Improvement, q_values: Array, mask: Array) -> tuple[Array, Array]:
    """The improvement at every state.

    Args:
        improvement: an improvement, or `PerState`.
        q_values: `[S, A]` [return].
        mask: `[S, A]` bool, true where legal.

    Returns:
        `probs[S, A]` and `bonus[S, A]` [return].
    """
    if isinstance(improvement, PerState):
        return jax.vmap(lambda i, q, m: i(q, m))(improvement.improvement, q_values, mask)
    return jax.vmap(improvement)(q_values, mask)
