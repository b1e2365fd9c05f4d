"""s-rectangular worst cases: one budget of change, shared by the actions of a state.

Nature sees the policy of a state, not the action drawn, and spends its budget where that policy
is weak. The best policy then spreads the risk over several actions: it is randomised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.core import Struct
from jaxrl.core.protocols import FunctionalFacts
from jaxrl.core.settings import CheckedStruct, setting
from jaxrl.core.types import Array, Number
from jaxrl.functionals import worst_law
from jaxrl.functionals.ordering import atoms_at, finite_part, log_moment

_PAIRWISE = 32  # up to so many atoms, N^2 comparisons are faster than a sort
_MAX_STEPS = 64
_HALVINGS = 36  # of the logarithm of a tilt, before Newton's method takes over
_POLISHES = 3


def _of_one_action(functional: Any, probs: Array, values: Array) -> Array:
    """One action with the whole budget: `(probs[N], values[N]) -> []` [return]."""
    one = jnp.ones((1,), values.dtype)
    return functional.for_policy(one, probs[None], values[None])


class SharedL1(CheckedStruct):
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

    budget: Number = setting(0.1, "total L1 distance over the actions", low=0.0)
    support: str = setting("nominal", "atoms that nature may use", choices=worst_law.SUPPORTS)

    facts = FunctionalFacts(coherent=True, shared_over_actions=True)

    __call__ = _of_one_action

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
        held = worst_law.hold(self.support, probs, values, self.budget)
        parameters, reachable, (probs, values, budget) = held
        cells = _Cells.of(probs, values, _playable(values, reachable, mask))
        lows, gaps, reach = cells.lows, cells.gaps, cells.reach
        mass = 0.5 * budget
        means = jax.vmap(_clipped_means)(cells.probs, reach)  # [A, N]

        def needed(level: Array) -> tuple[Array, Array]:
            """Mass [A] that brings each action down to `level`, and the reach [A] it empties."""
            moves = (cells.probs > 0) & (reach > 0)
            above = means - (level - lows)[:, None]
            masses = jnp.where(moves, above / jnp.where(moves, reach, 1.0), 0.0)
            top = jnp.take_along_axis(reach, jnp.argmax(masses, 1)[:, None], 1)[:, 0]
            return jnp.where(cells.is_open, jnp.max(masses, 1), 0.0), top

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
        begin = (0, jnp.asarray(False), floor, jnp.zeros_like(lows), jnp.zeros_like(lows))
        _, _, level, rates, top = jax.lax.while_loop(_unfinished, approach, begin)
        total_rate = jnp.sum(rates)
        is_spent = ~(total_rate > 0)  # nature can do no more: the action with the best least value
        best = jnp.arange(lows.shape[0]) == jnp.argmax(jnp.where(cells.is_open, lows, -1.0))
        policy = jnp.where(is_spent, best, rates / jnp.where(is_spent, 1.0, total_rate))
        masses = jnp.where(is_spent, 2.0, jnp.maximum(needed(level)[0], 0.0))
        removed, _ = jax.vmap(_take_highest)(masses, cells.probs, gaps)
        laws = jax.vmap(_moved_to_least)(removed, cells.probs, cells.worst)

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
        held = worst_law.hold(self.support, probs, values, self.budget, policy)
        parameters, reachable, (probs, values, budget, policy) = held
        cells = _Cells.of(probs, values, reachable & (policy > 0)[:, None])
        gains = (
            policy[:, None] * cells.reach
        ).ravel()  # of moving mass from each atom to the least one
        capacity = cells.probs.ravel()
        removed, marginal = _take_highest(0.5 * budget, capacity, gains)
        removed = removed.reshape(probs.shape)
        laws = jax.vmap(_moved_to_least)(removed, cells.probs, cells.worst)

        by_probs = policy[:, None] * cells.lows[:, None]
        by_probs = by_probs + jnp.minimum(gains, marginal).reshape(probs.shape)
        value = worst_law.expectation(policy[:, None] * laws, cells.values, cells.reachable)
        means = jnp.sum(laws * finite_part(values), 1)
        slopes = (cells.spread * by_probs, policy[:, None] * laws, -0.5 * cells.spread * marginal)
        return cells.with_slopes(value, (*slopes, means), parameters)


class SharedKL(CheckedStruct):
    """Worst case over one law per action, within a common budget of relative entropy.

    F(p, v) = max_pi min_q sum_a pi_a q_a.v_a,  sum_a KL(q_a || p_a) <= budget
            = max_{y >= 0} (- budget - sum_a log sum_i p_ai exp(-y_a v_ai)) / sum_a y_a

    The policy is proportional to the best y, and nature's laws are q_ai ~ p_ai exp(-y_a v_ai).
    `budget = 0` is the greatest mean; a great budget the greatest of the actions' least values.
    Nature commits anew in every state: it is nested.

    Attributes:
        budget: greatest total relative entropy over the actions of a state [nats].

    Numerics:
        The tilts y_a by bisection and Newton's method, the value by a bracketed Newton's method
        about them; it is a dual value, and so an error in y enters it squared. Laws are rescaled
        to sum to one. First derivatives hold in `values`, `probs`, `budget` and, given a policy,
        in the policy; in a budget of zero the derivative is minus infinity, and here very great.

    Example:
        >>> import jax.numpy as jnp
        >>> probs, values = jnp.full((2, 2), 0.5), jnp.array([[0.0, 1.0], [0.0, 1.0]])
        >>> value, policy = SharedKL(10.0).over_actions(probs, values)
        >>> float(value)
        0.0

    Sources:
        Wiesemann, Kuhn & Rustem (2013), Robust Markov decision processes, section 4
        (s-rectangularity); Grand-Clement & Kroer (2021), Scalable first-order methods for robust
        MDPs (sets bounded by a Kullback-Leibler divergence).
    """

    budget: Number = setting(0.1, "total relative entropy over the actions", unit="nats", low=0.0)

    facts = FunctionalFacts(coherent=True, shared_over_actions=True)

    __call__ = _of_one_action

    def over_actions(
        self, probs: Array, values: Array, mask: Array | None = None
    ) -> tuple[Array, Array]:
        """As `SharedL1.over_actions`: value `[]` [return] and policy `[A]` of one state's game."""
        held = worst_law.hold("nominal", probs, values, self.budget)
        parameters, reachable, (probs, values, budget) = held
        cells = _Cells.of(probs, values, _playable(values, reachable, mask))
        means = jnp.sum(cells.probs * cells.reach, 1)
        eps = jnp.finfo(means.dtype).eps
        floor = jnp.max(jnp.where(cells.is_open, cells.lows, -1.0))
        ceiling = jnp.max(jnp.where(cells.is_open, cells.lows + means, -1.0))

        def at(level: Array) -> tuple[Array, Array]:
            """Relative entropy that brings all actions down to `level`, and their tilts [A]."""
            depth = level - cells.lows  # above the least value of each action

            def left(tilts: Array) -> tuple[Array, Array]:
                reached, variances = _tilted_moments(tilts, cells)
                return reached - depth, variances

            tilts = _where_nothing_is_left(left, jnp.zeros_like(depth))
            spent = _entropies(tilts, cells) + tilts * left(tilts)[0]  # dual, whatever the tilt
            pays = cells.is_open & (means > depth) & (spent > 0)
            return jnp.sum(jnp.where(pays, spent, 0.0)), jnp.where(pays, tilts, 0.0)

        def approach(state: tuple) -> tuple:
            steps, _, level, low, high, best, best_tilts = state
            spent, tilts = at(level)
            rate = jnp.sum(tilts)
            has_rate = rate > 0
            safe_rate = jnp.where(has_rate, rate, 1.0)
            bound = jnp.where(has_rate, level + (spent - budget) / safe_rate, -1.0)
            improves = bound > best
            best = jnp.where(improves, bound, best)
            best_tilts = jnp.where(improves, tilts, best_tilts)
            low = jnp.maximum(low, jnp.where(spent > budget, jnp.maximum(level, bound), bound))
            high = jnp.where(spent > budget, high, jnp.minimum(high, level))
            # Near the mean the entropy is a square, so that its root is the straighter line.
            root = jnp.sqrt(spent)
            further = level + 2.0 * root * (root - jnp.sqrt(budget)) / safe_rate
            stays = has_rate & (jnp.abs(further - level) <= 2 * eps * high)
            inside = has_rate & (further > low) & (further < high)
            further = jnp.where(inside, further, 0.5 * (low + high))
            is_done = stays | (high - low <= 2 * eps * high)
            return steps + 1, is_done, further, low, high, best, best_tilts

        begin = (0, jnp.asarray(False), floor, floor, ceiling)
        nothing = (jnp.full_like(floor, -1.0), jnp.zeros_like(cells.lows))
        best, tilts = jax.lax.while_loop(_unfinished, approach, (*begin, *nothing))[-2:]
        # The bound is flat at its best, and its tilts only half as exact as those at that level.
        spent, there = at(best)
        rate = jnp.sum(there)
        bound = best + (spent - budget) / jnp.where(rate > 0, rate, 1.0)
        is_better = (rate > 0) & (bound >= best - 4 * eps * ceiling)
        tilts = jnp.where(is_better, there, tilts)
        rate = jnp.sum(tilts)
        is_spent = (at(floor)[0] <= budget) | ~(rate > 0)
        level = jnp.where(is_spent, floor, jnp.maximum(best, floor))
        first = jnp.arange(tilts.shape[0]) == jnp.argmax(
            jnp.where(cells.is_open, cells.lows, -1.0) + jnp.where(rate > 0, 0.0, means)
        )
        policy = jnp.where(is_spent, first, tilts / jnp.where(rate > 0, rate, 1.0))
        _, slopes = _reply(policy, rate, is_spent, cells)
        return cells.with_slopes(cells.value_at(level), slopes, parameters), policy

    def for_policy(self, policy: Array, probs: Array, values: Array) -> Array:
        """As `SharedL1.for_policy`: value `[]` [return] of a policy `[A]`, nature replying."""
        held = worst_law.hold("nominal", probs, values, self.budget, policy)
        parameters, reachable, (probs, values, budget, policy) = held
        cells = _Cells.of(probs, values, reachable & (policy > 0)[:, None])
        matters = cells.is_open & jnp.any(cells.reach > 0, 1)
        worst = jnp.sum(jnp.where(cells.worst, cells.probs, 0.0), 1)
        most = -jnp.sum(jnp.where(matters, jnp.log(jnp.where(matters, worst, 1.0)), 0.0))
        is_spent = most <= budget

        def left(rate: Array) -> tuple[Array, Array]:
            """What nature's reply at this multiplier leaves of the budget, and its fall."""
            _, variances = _tilted_moments(rate * policy, cells)
            spent = jnp.sum(_entropies(rate * policy, cells))
            return budget - spent, rate * jnp.sum(policy**2 * variances)

        rate = _where_nothing_is_left(left, jnp.zeros_like(budget))
        laws, slopes = _reply(policy, rate, is_spent, cells)
        value = worst_law.expectation(policy[:, None] * laws, cells.values, cells.reachable)
        means = jnp.sum(laws * finite_part(values), 1)
        return cells.with_slopes(value, (*slopes, means), parameters)


def _playable(values: Array, reachable: Array, mask: Array | None) -> Array:
    """`[A, N]`: the reachable atoms of legal actions that cannot lose without bound."""
    is_safe = ~jnp.any(reachable & (values == -jnp.inf), 1)
    is_open = is_safe if mask is None else is_safe & mask.astype(bool)
    return reachable & is_open[:, None]


def _unfinished(state: tuple) -> Array:
    return (state[0] < _MAX_STEPS) & ~state[1]


class _Cells(Struct):
    """The atoms of all actions of a state on one scale, gaps above the least of them."""

    probs: Array  # [A, N] laws that sum to one; zero in closed rows
    values: Array  # [A, N] [return]
    totals: Array  # [A] what the given laws summed to
    gaps: Array  # [A, N] in [0, 1], zero where unreachable
    lows: Array  # [A] least reachable gap
    reach: Array  # [A, N] gaps above the least of the action
    low: Array  # [] [return]
    spread: Array  # [] [return]
    reachable: Array  # [A, N]
    is_open: Array  # [A] actions that can be played

    @classmethod
    def of(cls, probs: Array, values: Array, reachable: Array) -> _Cells:
        """From laws `[A, N]` and the atoms that nature may use, none of actions left out."""
        is_open = jnp.any(reachable, 1)
        gaps, spread = worst_law.unit_gaps(values, reachable)
        low = jnp.min(jnp.where(reachable, values, jnp.inf))
        probs = jnp.where(reachable & (probs > 0), probs, 0.0)
        totals = jnp.sum(probs, 1)
        totals = jnp.where(totals > 0, totals, 1.0)
        lows = jnp.where(is_open, jnp.min(jnp.where(reachable, gaps, 1.0), 1), 0.0)
        reach = jnp.maximum(gaps - lows[:, None], 0.0)
        probs = probs / totals[:, None]
        return cls(probs, values, totals, gaps, lows, reach, low, spread, reachable, is_open)

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
        return worst_law.envelope(value, parameters, (by_probs, *others))


def _clipped_means(probs: Array, gaps: Array) -> Array:
    """`[N]`: sum_i p_i min(x_i, x_k) for each k."""
    if gaps.shape[0] <= _PAIRWISE:
        return jnp.minimum(gaps[None, :], gaps[:, None]) @ probs
    order = jnp.argsort(gaps)
    probs, gaps = probs[order], gaps[order]
    clipped = jnp.cumsum(probs * gaps) + gaps * (jnp.sum(probs) - jnp.cumsum(probs))
    return clipped[jnp.argsort(order)]


def _moved_to_least(removed: Array, probs: Array, worst: Array) -> Array:
    """The law after the removed mass has gone to the least reachable atoms."""
    kept = jnp.maximum(probs - removed, 0.0)
    return kept + worst_law.evenly(jnp.sum(removed), worst)


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


def _reply(
    policy: Array, rate: Array, is_spent: Array, cells: _Cells
) -> tuple[Array, tuple[Array, Array, Array]]:
    """Nature's laws `[A, N]` against a policy; slopes in the probs, the values and the budget."""
    safe_rate = jnp.where(is_spent | ~(rate > 0), 1.0, rate)
    tilts = safe_rate * policy
    logs = _tilted_logs(tilts, cells)
    tilted = cells.probs * jnp.exp(logs)
    least = jnp.where(cells.worst, cells.probs, 0.0)
    laws = jnp.where(is_spent, least, tilted)
    total = jnp.sum(laws, 1, keepdims=True)
    laws = laws / jnp.where(total > 0, total, 1.0)
    by_probs = jnp.where(is_spent, 0.0, -cells.spread * jnp.expm1(logs) / safe_rate)
    by_budget = jnp.where(is_spent, 0.0, -cells.spread / safe_rate)
    by_budget = jnp.maximum(by_budget, jnp.finfo(laws.dtype).min)
    return laws, (by_probs, policy[:, None] * laws, by_budget)


def _tilted_logs(tilts: Array, cells: _Cells) -> Array:
    """`[A, N]`: log q_ai / p_ai = -y_a x_ai - log sum_i p_ai exp(-y_a x_ai), of the tilted laws."""
    exponents = -tilts[:, None] * cells.reach
    return exponents - jax.vmap(log_moment)(cells.probs, exponents)[:, None]


def _entropies(tilts: Array, cells: _Cells) -> Array:
    """`[A]`: sum of p (z log z - z + 1) at z = q / p, without cancellation about z = 1."""
    logs = _tilted_logs(tilts, cells)
    is_near = jnp.abs(logs) < 0.01
    near = jnp.where(is_near, logs, 0.0)
    series = near**2 * (1 / 2 + near * (1 / 3 + near * (1 / 8 + near * (1 / 30 + near / 144))))
    excess = jnp.where(is_near, series, logs * jnp.exp(logs) - jnp.expm1(logs))
    return jnp.sum(cells.probs * excess, 1)


def _tilted_moments(tilts: Array, cells: _Cells) -> tuple[Array, Array]:
    """`[A]` means and variances of the gaps under the tilted laws."""
    weights = cells.probs * jnp.exp(-tilts[:, None] * cells.reach)
    total = jnp.sum(weights, 1)
    weights = weights / jnp.where(total > 0, total, 1.0)[:, None]
    means = jnp.sum(weights * cells.reach, 1)
    return means, jnp.sum(weights * (cells.reach - means[:, None]) ** 2, 1)


def _where_nothing_is_left(left: Callable[[Array], tuple[Array, Array]], zeros: Array) -> Array:
    """The tilts at which a falling function comes to zero, for gaps in [0, 1].

    All actions at once, by bisection of the logarithm and then Newton's method: less than half the
    time of bisection to the last bit.

    Args:
        left: tilts `[...]` -> its value and minus its derivative, elementwise.
        zeros: `[...]`, of the shape and dtype of the tilts.
    """
    log_eps = jnp.log(jnp.asarray(jnp.finfo(zeros.dtype).eps, zeros.dtype))

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = 0.5 * (ends[0] + ends[1])
        is_low = left(jnp.exp(middle))[0] > 0
        return jnp.where(is_low, middle, ends[0]), jnp.where(is_low, ends[1], middle)

    def polish(_: int, tilts: Array) -> Array:
        value, fall = left(tilts)
        further = tilts + value / jnp.where(fall > 0, fall, 1.0)
        near = (fall > 0) & (further > 0.9 * tilts) & (further < 1.1 * tilts)
        return jnp.where(near, further, tilts)

    ends = jax.lax.fori_loop(0, _HALVINGS, halve, (zeros + 1.5 * log_eps, zeros + 4.0 - log_eps))
    return jax.lax.fori_loop(0, _POLISHES, polish, jnp.exp(0.5 * (ends[0] + ends[1])))
