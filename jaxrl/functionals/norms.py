"""Worst cases over laws within a norm of the nominal one: weighted L1 and L2."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.protocols import COHERENT, FunctionalFacts
from jaxrl.core.settings import check_settings, setting
from jaxrl.core.types import Array
from jaxrl.functionals.ambiguity import TotalVariation
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
class WeightedL1:
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

    radius: float = setting(0.1, "greatest weighted L1 distance", low=0.0)
    weights: Array | None = None  # [N]
    support: str = setting("nominal", "atoms that nature may use", choices=SUPPORTS)

    facts = FunctionalFacts(coherent=True, per_outcome="weights")

    __post_init__ = check_settings

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        if self.weights is None:  # eight times as fast, by mere comparisons
            return TotalVariation(0.5 * self.radius, self.support)(probs, values)
        parameters = as_floats(probs, values, self.radius, self.weights)
        probs, values, radius, weights = jax.lax.stop_gradient(parameters)
        reachable = reachable_atoms(probs, self.support)
        gaps, spread = unit_gaps(values, reachable)
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

        bought = best_purchase(plan, radius / unit)
        moves, targets = jax.vmap(movement)(jnp.stack([bought.dear_price, bought.cheap_price]))
        costs = jnp.sum(jnp.where(moves, sources * (fees + fees[targets][:, None]), 0.0), 1)
        share = costly_share(radius / unit, costs[0], costs[1])
        plans = jnp.stack([1.0 - share, share])
        sent = plans[:, None] * moves  # [2, N] share of each atom that goes to either target
        leaving = jnp.sum(sent, 0)
        arriving = jax.nn.one_hot(targets, values.shape[0], dtype=values.dtype)  # [2, N]
        law = sources * (1.0 - leaving) + (sent @ sources) @ arriving
        value = expectation(law, values, reachable)

        price = bought.price * spread / unit  # [return per unit of distance]
        known = jnp.where(reachable, finite_part(values), 0.0)
        ends = known[targets] + price * weights[targets]  # [2]
        by_probs = known * (1.0 - leaving) + price * weights * leaving + ends @ sent
        by_probs = jnp.where(reachable, by_probs, 0.0)
        by_weights = price * (sources * leaving + (sent @ sources) @ arriving)
        return envelope(value, parameters, (by_probs, law, -price, by_weights))


@struct.dataclass
class L2Ball:
    """Worst case over laws within a Euclidean distance of the nominal one.

    F(p, v) = min { q.v : sum_i (q_i - p_i)^2 <= radius^2, q a law }

    While no probability is driven to zero it is the mean minus radius * |v - mean of v|, the mean
    here being over atoms, not under p. `radius = 0` is the mean; sqrt(2) and beyond, the least
    value. It is (s,a)-rectangular and nested.

    Attributes:
        radius: greatest Euclidean distance of the laws.
        support: `"nominal"`: atoms with p = 0 keep none; `"full"`: any atom may get mass.

    Numerics:
        Solved in closed form on the atoms that keep mass. Those that the solution makes negative
        have none in the worst law, and are dropped until none is left: about three rounds, at
        most N. First derivatives hold in `values`, `probs` and `radius`.

    Example:
        >>> import jax.numpy as jnp
        >>> half = jnp.array([0.5, 0.5])
        >>> f"{float(L2Ball(0.1)(half, jnp.array([0.0, 1.0]))):.4f}"  # 0.5 - 0.1 / sqrt(2)
        '0.4293'

    Sources:
        Derman, Geist & Mannor (2021), Twice regularized MDPs, section 4 (without the sign
        constraint); Michelot (1986), A finite algorithm for finding the projection of a point
        onto the canonical simplex (the dropping).
    """

    radius: float = setting(0.1, "greatest Euclidean distance", low=0.0)
    support: str = setting("nominal", "atoms that nature may use", choices=SUPPORTS)

    facts = COHERENT

    __post_init__ = check_settings

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        parameters = as_floats(probs, values, self.radius)
        probs, values, radius = jax.lax.stop_gradient(parameters)
        reachable = reachable_atoms(probs, self.support)
        gaps, spread = unit_gaps(values, reachable)
        probs = jnp.where(probs > 0, probs, 0.0)
        noise = 4 * jnp.finfo(values.dtype).eps

        def on_kept(kept: Array) -> tuple[Array, Array, Array, Array]:
            """Law, mean gap, its deviation and the step towards it, with these atoms kept."""
            count = jnp.maximum(jnp.sum(kept), 1).astype(values.dtype)
            lost = jnp.where(kept, 0.0, probs)
            raised = jnp.sum(lost) / count
            mean = jnp.sum(jnp.where(kept, gaps, 0.0)) / count
            apart = jnp.where(kept, gaps - mean, 0.0)
            deviation = jnp.sqrt(jnp.sum(apart**2))
            deviation = jnp.where(deviation > noise * mean * jnp.sqrt(count), deviation, 0.0)
            left = radius**2 - jnp.sum(lost**2) - raised**2 * count
            safe = jnp.where(deviation > 0, deviation, 1.0)
            step = jnp.where(deviation > 0, jnp.sqrt(jnp.maximum(left, 0.0)) / safe, 0.0)
            law = jnp.where(kept, probs + raised - step * apart, 0.0)
            return law, mean, deviation, step

        def drop(state: tuple[Array, Array]) -> tuple[Array, Array]:
            kept, _ = state
            law, mean, deviation, _ = on_kept(kept)
            spent = (law < 0) | ((law == 0) & (gaps > mean) & (deviation > 0))
            return kept & ~spent, jnp.any(kept & spent)

        start = (reachable, jnp.ones((), bool))
        kept, _ = jax.lax.while_loop(lambda state: state[1], drop, start)
        law, mean, deviation, step = on_kept(kept)
        law = jnp.maximum(law, 0.0)
        value = expectation(law, values, reachable)

        slope = jnp.where(step > 0, 1.0 / jnp.where(step > 0, step, 1.0), 0.0)
        raised = jnp.sum(jnp.where(kept, 0.0, probs)) / jnp.maximum(jnp.sum(kept), 1)
        surplus = jnp.maximum(gaps - mean - (probs + raised) * slope, 0.0)  # multiplier of q >= 0
        surplus = jnp.where(kept, 0.0, surplus)
        by_probs = jnp.where(reachable, finite_part(values) - spread * surplus, 0.0)
        by_radius = -spread * jnp.where(step > 0, radius * slope, deviation)
        return envelope(value, parameters, (by_probs, law, by_radius))
