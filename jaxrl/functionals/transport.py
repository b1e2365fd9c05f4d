"""Worst cases over laws that nature reaches by moving mass at a bounded cost."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from jaxrl.core.protocols import FunctionalFacts
from jaxrl.core.settings import CheckedStruct, setting
from jaxrl.core.types import Array, Number
from jaxrl.functionals import worst_law
from jaxrl.functionals.ambiguity import TotalVariation
from jaxrl.functionals.ordering import finite_part

_MAX_TRIALS = 64


class Wasserstein(CheckedStruct):
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

    radius: Number = setting(0.1, "greatest mean cost of transport", low=0.0)
    cost: Array | None = None  # [N, N]
    support: str = setting("nominal", "atoms that nature may use", choices=worst_law.SUPPORTS)

    facts = FunctionalFacts(coherent=True, per_outcome="cost")

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        size = values.shape[0]
        cost = 1.0 - jnp.eye(size) if self.cost is None else self.cost
        held = worst_law.hold(self.support, probs, values, self.radius, cost)
        parameters, reachable, (probs, values, radius, cost) = held
        gaps, spread = worst_law.unit_gaps(values, reachable)
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

        unit_price, dear, cheap = _best_purchase(plan, radius / unit)
        few, many = targets(dear), targets(cheap)
        plans = jax.nn.one_hot(jnp.stack([few, many]), size, dtype=values.dtype)  # [2, N, N]
        costs = jnp.sum(sources[:, None] * plans * unit_cost, (1, 2))
        share = _costly_share(radius / unit, costs[0], costs[1])
        plans = (1.0 - share) * plans[0] + share * plans[1]
        law = sources @ plans

        price = unit_price * spread / unit  # [return / unit of cost]
        by_probs = plans @ jnp.where(reachable, finite_part(values), 0.0)
        by_probs = jnp.where(reachable, by_probs + price * jnp.sum(plans * cost, 1), 0.0)
        by_cost = price * sources[:, None] * plans
        return worst_law.value_of(law, reachable, parameters, by_probs, -price, by_cost)


class WeightedL1(CheckedStruct):
    """Worst case over laws within a weighted L1 distance of the nominal one.

    F(p, v) = min { q.v : sum_i weights_i |q_i - p_i| <= radius, q a law }
            = max_{y >= 0} sum_i p_i min(v_i, y w_i + min_j (v_j + y w_j)) - y radius

    Mass that leaves atom i for atom j costs w_i + w_j. `radius = 0` is the mean, a great radius
    the least value; equal weights w are `TotalVariation(radius / (2 w))`. It is
    (s,a)-rectangular and nested.

    Attributes:
        radius: greatest weighted L1 distance.
        weights: `[N]`, non-negative; when absent, ones: the L1 distance, and far faster.
        support: `"nominal"`: mass goes to atoms with p > 0; `"full"`: to any atom.

    Numerics:
        The dual is a concave broken line in y, searched from corner to corner (N a trial, about
        ten trials, at most 64); nature's law is a mixture of two plans that uses up the budget.
        First derivatives hold in `values`, `probs`, `radius` and `weights`.

    Example:
        >>> import jax.numpy as jnp
        >>> functional = WeightedL1(0.5, jnp.array([1.0, 1.0]))
        >>> float(functional(jnp.array([0.5, 0.5]), jnp.array([0.0, 4.0])))
        1.0

    Sources:
        Behzadian, Russel, Petrik & Ho (2021), Optimizing percentile criterion using robust MDPs
        (weighted sets); Ho, Petrik & Wiesemann (2018), Fast Bellman updates for robust MDPs,
        section 3 (the worst case as a broken line in the radius).
    """

    radius: Number = setting(0.1, "greatest weighted L1 distance", low=0.0)
    weights: Array | None = None  # [N]
    support: str = setting("nominal", "atoms that nature may use", choices=worst_law.SUPPORTS)

    facts = FunctionalFacts(coherent=True, per_outcome="weights")

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        if self.weights is None:  # eight times as fast, by mere comparisons
            return TotalVariation(0.5 * self.radius, self.support)(probs, values)
        held = worst_law.hold(self.support, probs, values, self.radius, self.weights)
        parameters, reachable, (probs, values, radius, weights) = held
        gaps, spread = worst_law.unit_gaps(values, reachable)
        sources = jnp.where(probs > 0, probs, 0.0)
        unit = jnp.max(jnp.where(reachable, weights, 0.0))
        unit = jnp.where(unit > 0, unit, 1.0)
        fees = weights / unit

        def movement(price: Array) -> tuple[Array, Array]:
            """`[N]`, which atoms' mass moves at this price, and the index of its target."""
            offers = jnp.where(reachable, gaps + price * fees, jnp.inf)
            target = jnp.argmin(offers)
            return gaps - price * fees > offers[target], target

        def plan(price: Array) -> tuple[Array, Array]:
            moves, target = movement(price)
            moved = jnp.where(moves, sources, 0.0)
            return jnp.sum(moved * (gaps - gaps[target])), jnp.sum(moved * (fees + fees[target]))

        unit_price, dear, cheap = _best_purchase(plan, radius / unit)
        moves, targets = jax.vmap(movement)(jnp.stack([dear, cheap]))
        costs = jnp.sum(jnp.where(moves, sources * (fees + fees[targets][:, None]), 0.0), 1)
        share = _costly_share(radius / unit, costs[0], costs[1])
        plans = jnp.stack([1.0 - share, share])
        sent = plans[:, None] * moves  # [2, N] share of each atom that goes to either target
        leaving = jnp.sum(sent, 0)
        arriving = jax.nn.one_hot(targets, values.shape[0], dtype=values.dtype)  # [2, N]
        law = sources * (1.0 - leaving) + (sent @ sources) @ arriving

        price = unit_price * spread / unit  # [return per unit of distance]
        known = jnp.where(reachable, finite_part(values), 0.0)
        ends = known[targets] + price * weights[targets]  # [2]
        by_probs = known * (1.0 - leaving) + price * weights * leaving + ends @ sent
        by_probs = jnp.where(reachable, by_probs, 0.0)
        by_weights = price * (sources * leaving + (sent @ sources) @ arriving)
        return worst_law.value_of(law, reachable, parameters, by_probs, -price, by_weights)


def _best_purchase(
    plan: Callable[[Array], tuple[Array, Array]], budget: Array
) -> tuple[Array, Array, Array]:
    """Maximise the gain of a mixture of plans whose mean cost is at most `budget`.

    `plan(price)` returns gain and cost of a plan that maximises gain - price * cost; there are
    finitely many. Gain against cost is then a concave broken line, of which two of its corners,
    one on either side of the budget, are known. The plan at the price which makes both equally
    good is a corner between them, or else they are neighbours and the optimum is on their chord.

    Args:
        plan: `price [] -> (gain [], cost [])`, both non-negative and of order one.
        budget: `[]`, non-negative.

    Returns:
        The gain that one more unit of budget buys, the price of the plan that costs at most the
        budget, and that of the one that costs at least the budget, if any does.

    Numerics:
        Ends at the first chord that no plan betters by more than rounding, at a price at which
        the corners are a discrete Newton sequence; at most 64 trials. Not to be differentiated.

    Sources:
        Radzik (1998), Fractional combinatorial optimization, section 3 (Newton's method on a
        broken line and the number of its steps).
    """
    info = jnp.finfo(budget.dtype)
    dear = jnp.asarray(info.max, budget.dtype) ** 0.5
    none = jnp.zeros_like(budget)

    def chord(cheap: tuple, costly: tuple) -> Array:
        """Price at which both corners are equally good."""
        extra = costly[2] - cheap[2]
        return jnp.where(extra > 0, (costly[1] - cheap[1]) / jnp.where(extra > 0, extra, 1.0), 0.0)

    def refine(state: tuple) -> tuple:
        trials, _, cheap, costly = state
        price = chord(cheap, costly)
        found = (price, *plan(price))
        above = (found[1] - cheap[1]) - price * (found[2] - cheap[2])
        is_done = ~(above > 16 * info.eps * costly[1])
        spends = found[2] > budget
        cheap = jax.tree.map(partial(jnp.where, ~is_done & ~spends), found, cheap)
        costly = jax.tree.map(partial(jnp.where, ~is_done & spends), found, costly)
        return trials + 1, is_done, cheap, costly

    cheap, costly = (dear, *plan(dear)), (none, *plan(none))
    affordable = costly[2] <= budget
    _, _, cheap, costly = jax.lax.while_loop(
        lambda state: (state[0] < _MAX_TRIALS) & ~state[1], refine, (0, affordable, cheap, costly)
    )
    return jnp.where(affordable, 0.0, chord(cheap, costly)), cheap[0], costly[0]


def _costly_share(budget: Array, cheap_cost: Array, costly_cost: Array) -> Array:
    """Weight in [0, 1] of the costlier plan in a mixture of two that uses up the budget.

    The costs are to be those of the very plans that are mixed: made again from its price, a plan
    may break a tie otherwise than during the search.
    """
    extra = costly_cost - cheap_cost
    share = jnp.clip((budget - cheap_cost) / jnp.where(extra > 0, extra, 1.0), 0.0, 1.0)
    return jnp.where(costly_cost <= budget, 1.0, share)
