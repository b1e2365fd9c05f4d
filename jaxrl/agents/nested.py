"""A functional of functionals: risk within each group of outcomes, then over the groups."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.protocols import Functional
from jaxrl.core.types import Array


@struct.dataclass
class Nested:
    """`outer` over equal groups of `inner` over the outcomes of each.

    F(p, v) = G(m, F_1, ..., F_M),  m_g = sum_{i in g} p_i,  F_g = inner(p_i / m_g, v_i : i in g)

    Its gradient in the values is the product of both functionals' weights, a law when theirs are.
    `inner = outer = Mean()` is the mean; the worst group is `outer = CVaR(1 / M)` for groups of
    equal mass. A group without mass is not seen.

    Attributes:
        inner: over the outcomes of a group.
        outer: over the groups.
        num_groups: M; the N outcomes are M runs of N / M.

    Example:
        >>> from jaxrl.functionals import CVaR, Mean
        >>> worst_mean = Nested(Mean(), CVaR(0.5), num_groups=2)
        >>> float(worst_mean(jnp.full(4, 0.25), jnp.array([0.0, 8.0, 3.0, 3.0])))
        3.0

    Sources:
        Ruszczynski & Shapiro (2006), Conditional risk mappings, section 3 (the composition).
    """

    inner: Functional
    outer: Functional
    num_groups: int = struct.field(pytree_node=False)

    @property
    def needs_successors(self) -> bool:
        """Whether one of them does."""
        return self.inner.needs_successors or self.outer.needs_successors

    @property
    def monotone(self) -> bool:
        """Whether both are."""
        return self.inner.monotone and self.outer.monotone

    @property
    def translation_equivariant(self) -> bool:
        """Whether both are."""
        return self.inner.translation_equivariant and self.outer.translation_equivariant

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        probs, values = (x.reshape(self.num_groups, -1) for x in (probs, values))
        mass = jnp.sum(probs, axis=1)
        is_there = mass > 0
        even = jnp.full_like(probs, 1.0 / probs.shape[1])
        shares = jnp.where(is_there[:, None], probs / jnp.where(is_there, mass, 1.0)[:, None], even)
        inside = jax.vmap(self.inner)(shares, jnp.where(is_there[:, None], values, 0.0))
        return self.outer(mass, inside)
