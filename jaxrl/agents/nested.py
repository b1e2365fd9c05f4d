"""A functional of functionals: risk within each group of outcomes, then over the groups."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.protocols import Functional, FunctionalFacts
from jaxrl.core.types import Array
from jaxrl.operators import BellmanOperator
from jaxrl.operators.bellman import describe


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
    def facts(self) -> FunctionalFacts:
        """What is passed on when both have it; successors are needed when one needs them."""
        inner, outer = self.inner.facts, self.outer.facts
        return FunctionalFacts(
            monotone=inner.monotone and outer.monotone,
            translation_equivariant=inner.translation_equivariant and outer.translation_equivariant,
            needs_successors=inner.needs_successors or outer.needs_successors,
        )

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        probs, values = (x.reshape(self.num_groups, -1) for x in (probs, values))
        mass = jnp.sum(probs, axis=1)
        is_there = mass > 0
        even = jnp.full_like(probs, 1.0 / probs.shape[1])
        shares = jnp.where(is_there[:, None], probs / jnp.where(is_there, mass, 1.0)[:, None], even)
        inside = jax.vmap(self.inner)(shares, jnp.where(is_there[:, None], values, 0.0))
        return self.outer(mass, inside)


def over_own_models(source: Any, operator: BellmanOperator) -> BellmanOperator:
    """`operator` of sources with models: with `over_models` over equal groups of outcomes round its
    own functional; where that is None, one functional over all of them."""
    if source.over_models is None:
        return operator
    nested = Nested(operator.successor_functional, source.over_models, source.num_models)
    return operator.replace(successor_functional=nested)


def check_draws(
    operator: BellmanOperator,
    outer: Functional | None,
    num_samples: int,
    num_groups: int,
    source: str,
    groups: str,
) -> None:
    """Raise `ValueError` where `operator` or `outer` ranges over a single outcome or group.

    Args:
        operator: as the agent has it.
        outer: over groups; None for one functional over all outcomes.
        num_samples: outcomes in each group.
        num_groups: groups.
        source: what draws the outcomes.
        groups: what the groups are, and how to have more.
    """
    functional = operator.successor_functional
    num_outcomes = num_samples * (num_groups if outer is None else 1)
    if functional.facts.needs_successors and num_outcomes == 1:
        raise ValueError(
            f"{describe(functional)} ranges over successors, but {source}(num_samples=1) gives it "
            "1: set num_samples to 2 or more."
        )
    if outer is not None and num_groups == 1 and outer.facts.needs_successors:
        raise ValueError(
            f"over_models={describe(outer)} ranges over {groups}, but num_models=1: raise it."
        )
    operator.require_successors(num_outcomes, exact=True)
