"""Worst case over laws within a transport distance of the nominal one."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.protocols import FunctionalFacts
from jaxrl.core.settings import check_settings, setting
from jaxrl.core.types import Array
from jaxrl.functionals.cost_budget import best_purchase, costly_share
from jaxrl.functionals.ordering import finite_part
from jaxrl.functionals.worst_law import (
    SUPPORTS,
    as_floats,
    envelope,
    expectation,
    reachable_atoms,
    unit_gaps,
)


@struct.dataclass
class Wasserstein:
    """Worst case over laws that nature reaches by transporting mass at a bounded mean cost.

    F(p, v) = min { q.v : q_j = sum_i p_i t_ij, sum_ij p_i t_ij c_ij <= radius, t_i laws }
            = max_{y >= 0} sum_i p_i min_j (v_j + y c_ij) - y radius

    `radius = 0` is the mean (if no transport is free); from the cost of sending everything to the
    least value on, it is that value. With cost 1 between any two atoms it is total variation. The
    cost is between atoms as the caller knows them, such as distances of successor states, not
    between their values. It is (s,a)-rectangular and nested.

    Attributes:
        radius: greatest mean cost of transport [unit of cost].
        cost: `[N, N]`, non-negative, zero on the diagonal, from row to column; 1 between any two
            atoms when absent.
        support: `"nominal"`: mass goes to atoms with p > 0; `"full"`: to any atom.

    Numerics:
        The dual is a concave broken line in y, searched from corner to corner (N^2 a trial, about
        ten trials, at most 64); nature's law is a mixture of two plans that uses up the budget.
        First derivatives hold in `values`, `probs`, `radius` and `cost`.

    Example:
        >>> import jax.numpy as jnp
        >>> cost = jnp.array([[0.0, 2.0], [2.0, 0.0]])
        >>> half = jnp.array([0.5, 0.5])
        >>> float(Wasserstein(0.5, cost)(half, jnp.array([0.0, 4.0])))  # a quarter moves
        1.0

    Sources:
        Mohajerin Esfahani & Kuhn (2018), Data-driven distributionally robust optimization using
        the Wasserstein metric, theorem 4.2; Yang (2017), A convex optimization approach to
        distributionally robust Markov decision processes with Wasserstein distance, section III.
    """

    radius: float = setting(0.1, "greatest mean cost of transport", low=0.0)
    cost: Array | None = None  # [N, N]
    support: str = setting("nominal", "atoms that nature may use", choices=SUPPORTS)

    facts = FunctionalFacts(coherent=True, per_outcome="cost")

    __post_init__ = check_settings

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        size = values.shape[0]
        cost = 1.0 - jnp.eye(size) if self.cost is None else self.cost
        parameters = as_floats(probs, values, self.radius, cost)
        probs, values, radius, cost = jax.lax.stop_gradient(parameters)
        reachable = reachable_atoms(probs, self.support)
        gaps, spread = unit_gaps(values, reachable)
        sources = jnp.where(probs > 0, probs, 0.0)
        unit = jnp.max(jnp.where((probs > 0)[:, None] & reachable[None, :], cost, 0.0))
        unit = jnp.where(unit > 0, unit, 1.0)
        unit_cost = cost / unit
        rows = jnp.arange(size)

        def targets(price: Array) -> Array:
            """`[N]`: where each atom's mass goes at this price of transport."""
            offers = jnp.where(reachable[None, :], gaps[None, :] + price * unit_cost, jnp.inf)
            best = jnp.argmin(offers, 1)
            stays = offers[rows, rows] <= offers[rows, best]
            return jnp.where(stays, rows, best)

        def plan(price: Array) -> tuple[Array, Array]:
            to = targets(price)
            return jnp.sum(sources * (gaps - gaps[to])), jnp.sum(sources * unit_cost[rows, to])

        bought = best_purchase(plan, radius / unit)
        few, many = targets(bought.dear_price), targets(bought.cheap_price)
        plans = jax.nn.one_hot(jnp.stack([few, many]), size, dtype=values.dtype)  # [2, N, N]
        costs = jnp.sum(sources[:, None] * plans * unit_cost, (1, 2))
        share = costly_share(radius / unit, costs[0], costs[1])
        plans = (1.0 - share) * plans[0] + share * plans[1]
        law = sources @ plans
        value = expectation(law, values, reachable)

        price = bought.price * spread / unit  # [return / unit of cost]
        by_probs = plans @ jnp.where(reachable, finite_part(values), 0.0)
        by_probs = jnp.where(reachable, by_probs + price * jnp.sum(plans * cost, 1), 0.0)
        by_cost = price * sources[:, None] * plans
        return envelope(value, parameters, (by_probs, law, -price, by_cost))
