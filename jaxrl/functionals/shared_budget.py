"""s-rectangular worst cases: one budget of change, shared by the actions of a state.

Nature sees the policy of a state, not the action drawn, and spends its budget where that policy
is weak. The best policy then spreads the risk over several actions: it is randomised.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.protocols import FunctionalFacts
from jaxrl.core.settings import checked_struct, setting
from jaxrl.core.types import Array
from jaxrl.functionals.ordering import finite_part
from jaxrl.functionals.worst_law import (
    PAIRWISE,
    SUPPORTS,
    as_floats,
    atoms_at,
    envelope,
    evenly,
    expectation,
    reachable_atoms,
    unit_gaps,
)

_MAX_STEPS = 64


@checked_struct
class SharedL1:
    """Worst case over one law per action, within a common budget of L1 distance.

    F(p, v) = max_pi min_q sum_a pi_a q_a.v_a,  sum_a sum_i |q_ai - p_ai| <= budget, q_a laws

    With c_a(u) the least distance that brings action a down to u, the value is the least u with
    sum_a c_a(u) <= budget, but never below max_a min_i v_ai; the policy is proportional to the
    slopes of c_a there. `budget = 0` is the greatest mean. One action alone has
    `TotalVariation(budget / 2)`. Nature commits anew in every state: it is nested.

    Attributes:
        budget: greatest total L1 distance over the actions of a state.
        support: `"nominal"`: mass moves to atoms with p > 0; `"full"`: to any atom.

    Numerics:
        Every c_a is a broken line, known in closed form; Newton's method meets the budget in
        finitely many steps (some ten; at most 64). Laws are rescaled to sum to one. First
        derivatives hold in `values`, `probs`, `budget` and, given a policy, in the policy.

    Example:
        >>> import jax.numpy as jnp
        >>> probs, values = jnp.full((2, 2), 0.5), jnp.array([[0.0, 1.0], [0.0, 1.0]])
        >>> value, policy = SharedL1(0.4).over_actions(probs, values)  # half the budget each
        >>> f"{float(value):.2f}", policy.tolist()
        ('0.40', [0.5, 0.5])

    Sources:
        Wiesemann, Kuhn & Rustem (2013), Robust Markov decision processes, section 4
        (s-rectangularity); Ho, Petrik & Wiesemann (2018), Fast Bellman updates for robust MDPs,
        section 4 (the sum of inverse functions).
    """

    budget: float = setting(0.1, "total L1 distance over the actions", low=0.0)
    support: str = setting("nominal", "atoms that nature may use", choices=SUPPORTS)

    facts = FunctionalFacts(coherent=True, shared_over_actions=True)

    def __call__(self, probs: Array, values: Array) -> Array:
        """One action with the whole budget: `(probs[N], values[N]) -> []` [return]."""
        one = jnp.ones((1,), values.dtype)
        return self.for_policy(one, probs[None], values[None])

    def over_actions(
        self, probs: Array, values: Array, mask: Array | None = None
    ) -> tuple[Array, Array]:
        """Value and policy of the game of one state.

        Args:
            probs: `[A, N]`, the nominal law of each action.
            values: `[A, N]` [return]; an action with a possible -inf is not taken.
            mask: `[A]`, the legal actions; all when absent.

        Returns:
            The value `[]` [return] and a best policy `[A]`, which carries no derivative.
        """
        parameters = as_floats(probs, values, self.budget)
        probs, values, budget = jax.lax.stop_gradient(parameters)
        cells = SharedCells.of(probs, values, mask, self.support)
        lows, gaps = cells.lows, cells.gaps
        mass = 0.5 * budget
        reach = jnp.maximum(gaps - lows[:, None], 0.0)  # [A, N] above the action's least value
        means = jax.vmap(_clipped_means)(cells.probs, reach)  # [A, N]

        def needed(level: Array) -> tuple[Array, Array]:
            """Mass [A] that brings each action down to `level`, and the reach [A] it empties."""
            moves = (cells.probs > 0) & (reach > 0)
            above = means - (level - lows)[:, None]
            masses = jnp.where(moves, above / jnp.where(moves, reach, 1.0), 0.0)
            top = jnp.take_along_axis(reach, jnp.argmax(masses, 1)[:, None], 1)[:, 0]
            return jnp.where(cells.is_open, jnp.max(masses, 1), 0.0), top

        def unfinished(state: tuple) -> Array:
            return (state[0] < _MAX_STEPS) & ~state[1]

        def approach(state: tuple) -> tuple:
            steps, _, level, rates, top = state
            masses, new_top = needed(level)
            total = jnp.sum(masses)
            new_rates = jnp.where(masses > 0, 1.0 / jnp.where(new_top > 0, new_top, 1.0), 0.0)
            climbs = total > mass
            rise = (total - mass) / jnp.where(climbs, jnp.sum(new_rates), 1.0)
            further = jnp.where(climbs, level + rise, level)
            rates = jnp.where(climbs, new_rates, rates)
            top = jnp.where(climbs, new_top, top)
            return steps + 1, ~(further > level), further, rates, top

        floor = jnp.max(jnp.where(cells.is_open, lows, -1.0))
        begin = (jnp.zeros((), jnp.int32), jnp.zeros((), bool), floor)
        begin = (*begin, jnp.zeros_like(lows), jnp.zeros_like(lows))
        _, _, level, rates, top = jax.lax.while_loop(unfinished, approach, begin)
        total_rate = jnp.sum(rates)
        is_spent = ~(total_rate > 0)  # nature can do no more: the action with the best least value
        best = jnp.arange(lows.shape[0]) == jnp.argmax(jnp.where(cells.is_open, lows, -1.0))
        policy = jnp.where(is_spent, best, rates / jnp.where(is_spent, 1.0, total_rate))
        masses = jnp.where(is_spent, 2.0, jnp.maximum(needed(level)[0], 0.0))
        laws = jax.vmap(_lowered)(masses, cells.probs, gaps, cells.worst)

        margin = jnp.where(is_spent, lows, lows + top)[:, None]
        by_budget = jnp.where(is_spent, 0.0, -0.5 / jnp.where(is_spent, 1.0, total_rate))
        by_probs = policy[:, None] * jnp.minimum(gaps, margin)
        slopes = (cells.spread * by_probs, policy[:, None] * laws, cells.spread * by_budget)
        return cells.with_slopes(cells.value_at(level), slopes, parameters), policy

    def for_policy(self, policy: Array, probs: Array, values: Array) -> Array:
        """Value of a fixed policy against nature's best reply.

        Args:
            policy: `[A]`, non-negative, summing to one.
            probs: `[A, N]`, the nominal law of each action.
            values: `[A, N]` [return].

        Returns:
            `[]` [return].
        """
        parameters = as_floats(probs, values, self.budget, policy)
        probs, values, budget, policy = jax.lax.stop_gradient(parameters)
        cells = SharedCells.of(probs, values, policy > 0, self.support, keep=True)
        gains = jnp.where(cells.reachable, cells.gaps - cells.lows[:, None], 0.0)
        gains = (policy[:, None] * gains).ravel()  # of moving mass from each atom to the least one
        capacity = cells.probs.ravel()
        removed, marginal = _take_highest(0.5 * budget, capacity, gains)
        removed = removed.reshape(probs.shape)
        laws = jax.vmap(_moved_to_least)(removed, cells.probs, cells.worst)

        by_probs = policy[:, None] * cells.lows[:, None]
        by_probs = by_probs + jnp.minimum(gains, marginal).reshape(probs.shape)
        value = expectation(policy[:, None] * laws, cells.values, cells.reachable)
        means = jnp.sum(laws * finite_part(values), 1)
        slopes = (cells.spread * by_probs, policy[:, None] * laws, -0.5 * cells.spread * marginal)
        return cells.with_slopes(value, (*slopes, means), parameters)


@struct.dataclass
class SharedCells:
    """The atoms of all actions of a state on one scale, gaps above the least of them."""

    probs: Array  # [A, N] laws that sum to one; zero in closed rows
    values: Array  # [A, N] [return]
    totals: Array  # [A] what the given laws summed to
    gaps: Array  # [A, N] in [0, 1], zero where unreachable
    lows: Array  # [A] least reachable gap
    low: Array  # [] [return]
    spread: Array  # [] [return]
    reachable: Array  # [A, N]
    is_open: Array  # [A] actions that can be played

    @classmethod
    def of(
        cls, probs: Array, values: Array, mask: Array | None, support: str, keep: bool = False
    ) -> SharedCells:
        """From laws `[A, N]`; rows with a reachable -inf are closed unless `keep`."""
        reachable = reachable_atoms(probs, support)
        is_open = jnp.ones(probs.shape[:1], bool) if mask is None else mask.astype(bool)
        if not keep:
            is_open &= ~jnp.any(reachable & (values == -jnp.inf), 1)
        reachable &= is_open[:, None]
        gaps, spread = unit_gaps(values, reachable)
        low = jnp.min(jnp.where(reachable, values, jnp.inf))
        probs = jnp.where(reachable & (probs > 0), probs, 0.0)
        totals = jnp.sum(probs, 1)
        totals = jnp.where(totals > 0, totals, 1.0)
        return cls(
            probs=probs / totals[:, None],
            values=values,
            totals=totals,
            gaps=gaps,
            lows=jnp.where(is_open, jnp.min(jnp.where(reachable, gaps, 1.0), 1), 0.0),
            low=low,
            spread=spread,
            reachable=reachable,
            is_open=is_open,
        )

    @property
    def worst(self) -> Array:
        """`[A, N]`: the least reachable atoms of each action."""
        least = jnp.min(jnp.where(self.reachable, self.values, jnp.inf), 1)
        return jax.vmap(atoms_at)(least, self.values, self.reachable)

    def value_at(self, level: Array) -> Array:
        """The value `[]` [return] at a `level` in gaps; -inf where no action can be played."""
        value = self.low + self.spread * level
        value = jnp.where(jnp.any(self.reachable & jnp.isnan(self.values)), jnp.nan, value)
        return jnp.where(jnp.any(self.is_open), value, -jnp.inf)

    def with_slopes(
        self, value: Array, slopes: tuple[Array, ...], parameters: tuple[Array, ...]
    ) -> Array:
        """`value[]` with its derivatives in the rescaled probs, the values and what follows."""
        by_probs, *others = slopes
        by_probs = by_probs - jnp.sum(self.probs * by_probs, 1, keepdims=True)
        by_probs = jnp.where(self.reachable, by_probs / self.totals[:, None], 0.0)
        return envelope(value, parameters, (by_probs, *others))


def _clipped_means(probs: Array, gaps: Array) -> Array:
    """`[N]`: sum_i p_i min(x_i, x_k) for each k."""
    if gaps.shape[0] <= PAIRWISE:
        return jnp.minimum(gaps[None, :], gaps[:, None]) @ probs
    order = jnp.argsort(gaps)
    probs, gaps = probs[order], gaps[order]
    clipped = jnp.cumsum(probs * gaps) + gaps * (jnp.sum(probs) - jnp.cumsum(probs))
    return clipped[jnp.argsort(order)]


def _moved_to_least(removed: Array, probs: Array, worst: Array) -> Array:
    """The law after the removed mass has gone to the least reachable atoms."""
    kept = jnp.maximum(probs - removed, 0.0)
    return kept + evenly(jnp.sum(removed), worst)


def _lowered(mass: Array, probs: Array, gaps: Array, worst: Array) -> Array:
    """The law after `mass` has gone from the greatest values to the least."""
    return _moved_to_least(_take_highest(mass, probs, gaps)[0], probs, worst)


def _take_highest(amount: Array, capacity: Array, gains: Array) -> tuple[Array, Array]:
    """What is taken from each atom, the greatest gains first, and the gain where it ends.

    By order alone: the gains are computed, and a compiler may round them twice, differently.
    """
    order = jnp.argsort(-gains)
    reached = jnp.cumsum(capacity[order])
    before = jnp.concatenate([jnp.zeros((1,), reached.dtype), reached[:-1]])
    taken = jnp.clip(amount - before, 0.0, capacity[order])
    is_whole = reached <= amount
    marginal = jnp.max(jnp.where(is_whole, 0.0, gains[order]))
    return jnp.zeros_like(capacity).at[order].set(taken), marginal
