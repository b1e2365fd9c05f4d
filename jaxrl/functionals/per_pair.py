"""Settings of a functional that differ between states and actions."""

from __future__ import annotations

import dataclasses

import jax

from jaxrl.core import Struct
from jaxrl.core.protocols import Functional, FunctionalFacts
from jaxrl.core.types import Array


class PerPair(Struct):
    """A functional whose every leaf has leading axes `[S, A]`: one setting for each pair.

    Planners map over it; it cannot be applied to a single law.

    Attributes:
        functional: its leaves are `[S, A, ...]`, such as `KLBall(radius)` with `radius[S, A]`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxrl.functionals import CVaR
        >>> levels = PerPair(CVaR(jnp.array([[0.5, 1.0]])))
        >>> laws = jnp.full((1, 2, 2), 0.5), jnp.array([[[0.0, 4.0], [0.0, 4.0]]])
        >>> over_pairs(levels, *laws).tolist()
        [[0.0, 2.0]]
    """

    functional: Functional

    @property
    def facts(self) -> FunctionalFacts:
        """As the functional, which sees each pair by itself."""
        return dataclasses.replace(self.functional.facts, shared_over_actions=False)

    def __call__(self, probs: Array, values: Array) -> Array:
        """Refused.

        Raises:
            ValueError: always; a single law belongs to no pair.
        """
        raise ValueError(
            "PerPair has settings for each state and action, and this call names none. Plan on a "
            "TabularMDP, or apply the functional of one pair: jax.tree.map(lambda x: x[s, a], "
            "per_pair.functional)."
        )


def over_pairs(functional: Functional, probs: Array, values: Array) -> Array:
    """The functional of every state and action.

    Args:
        functional: a functional, or `PerPair`.
        probs: `[S, A, N]`.
        values: `[S, A, N]` [return].

    Returns:
        `[S, A]` [return].
    """
    if isinstance(functional, PerPair):
        return jax.vmap(jax.vmap(lambda f, p, v: f(p, v)))(functional.functional, probs, values)
    return jax.vmap(jax.vmap(functional))(probs, values)
