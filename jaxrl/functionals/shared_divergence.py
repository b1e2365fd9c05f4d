"""s-rectangular worst cases within one budget of relative entropy, shared by the actions."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrl.core.protocols import FunctionalFacts
from jaxrl.core.settings import checked_struct, setting
from jaxrl.core.types import Array
from jaxrl.functionals.ordering import finite_part
from jaxrl.functionals.shared_budget import SharedCells
from jaxrl.functionals.tilting import log_moment
from jaxrl.functionals.worst_law import as_floats, expectation

_HALVINGS = 36  # of the logarithm of a tilt, before Newton's method takes over
_POLISHES = 3
_MAX_STEPS = 48


@checked_struct
class SharedKL:
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

    budget: float = setting(0.1, "total relative entropy over the actions", unit="nats", low=0.0)

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
        cells = SharedCells.of(probs, values, mask, "nominal")
        reach = jnp.maximum(cells.gaps - cells.lows[:, None], 0.0)
        means = jnp.sum(cells.probs * reach, 1)
        eps = jnp.finfo(reach.dtype).eps
        floor = jnp.max(jnp.where(cells.is_open, cells.lows, -1.0))
        ceiling = jnp.max(jnp.where(cells.is_open, cells.lows + means, -1.0))

        def at(level: Array) -> tuple[Array, Array]:
            """Relative entropy that brings all actions down to `level`, and their tilts [A]."""
            depth = level - cells.lows  # above the least value of each action
            tilts = _tilts_to(depth, cells.probs, reach)
            short = _tilted_moments(tilts, cells.probs, reach)[0] - depth
            spent = jnp.sum(cells.probs * _excess(_tilted_logs(tilts, cells.probs, reach)), 1)
            spent = spent + tilts * short  # the dual value, whatever the tilt
            pays = cells.is_open & (means > depth) & (spent > 0)
            return jnp.sum(jnp.where(pays, spent, 0.0)), jnp.where(pays, tilts, 0.0)

        def unfinished(state: tuple) -> Array:
            return (state[0] < _MAX_STEPS) & ~state[1]

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

        begin = (jnp.zeros((), jnp.int32), jnp.zeros((), bool), floor, floor, ceiling)
        nothing = (jnp.full_like(floor, -1.0), jnp.zeros_like(cells.lows))
        state = jax.lax.while_loop(unfinished, approach, (*begin, *nothing))
        best, tilts = state[-2:]
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
        _, slopes = _reply(policy, rate, is_spent, cells, reach)
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
        cells = SharedCells.of(probs, values, policy > 0, "nominal", keep=True)
        reach = jnp.maximum(cells.gaps - cells.lows[:, None], 0.0)
        matters = cells.is_open & jnp.any(reach > 0, 1)
        worst = jnp.sum(jnp.where(cells.worst, cells.probs, 0.0), 1)
        most = -jnp.sum(jnp.where(matters, jnp.log(jnp.where(matters, worst, 1.0)), 0.0))
        is_spent = most <= budget

        def left(rate: Array) -> tuple[Array, Array]:
            """What nature's reply at this multiplier leaves of the budget, and its fall."""
            tilts = rate * policy
            _, variances = _tilted_moments(tilts, cells.probs, reach)
            spent = jnp.sum(cells.probs * _excess(_tilted_logs(tilts, cells.probs, reach)))
            return budget - spent, rate * jnp.sum(policy**2 * variances)

        rate = _where_nothing_is_left(left, jnp.zeros_like(budget))
        laws, slopes = _reply(policy, rate, is_spent, cells, reach)
        value = expectation(policy[:, None] * laws, cells.values, cells.reachable)
        means = jnp.sum(laws * finite_part(values), 1)
        return cells.with_slopes(value, (*slopes, means), parameters)


def _reply(
    policy: Array, rate: Array, is_spent: Array, cells: SharedCells, reach: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    """Nature's laws `[A, N]` against a policy; slopes in the probs, the values and the budget."""
    safe_rate = jnp.where(is_spent | ~(rate > 0), 1.0, rate)
    tilts = safe_rate * policy
    logs = _tilted_logs(tilts, cells.probs, reach)
    tilted = cells.probs * jnp.exp(logs)
    least = jnp.where(cells.worst, cells.probs, 0.0)
    laws = jnp.where(is_spent, least, tilted)
    total = jnp.sum(laws, 1, keepdims=True)
    laws = laws / jnp.where(total > 0, total, 1.0)
    by_probs = jnp.where(is_spent, 0.0, -cells.spread * jnp.expm1(logs) / safe_rate)
    by_budget = jnp.where(is_spent, 0.0, -cells.spread / safe_rate)
    by_budget = jnp.maximum(by_budget, jnp.finfo(reach.dtype).min)
    return laws, (by_probs, policy[:, None] * laws, by_budget)


def _excess(logs: Array) -> Array:
    """z log z - z + 1 at z = exp(logs), without cancellation about z = 1."""
    is_near = jnp.abs(logs) < 0.01
    near = jnp.where(is_near, logs, 0.0)
    series = near**2 * (1 / 2 + near * (1 / 3 + near * (1 / 8 + near * (1 / 30 + near / 144))))
    return jnp.where(is_near, series, logs * jnp.exp(logs) - jnp.expm1(logs))


def _tilted_logs(tilts: Array, probs: Array, reach: Array) -> Array:
    """`[A, N]`: log q_ai / p_ai = -y_a x_ai - log sum_i p_ai exp(-y_a x_ai), of the tilted laws."""
    exponents = -tilts[:, None] * reach
    return exponents - jax.vmap(log_moment)(probs, exponents)[:, None]


def _tilted_moments(tilts: Array, probs: Array, reach: Array) -> tuple[Array, Array]:
    """`[A]` means and variances of the gaps under the tilted laws."""
    weights = probs * jnp.exp(-tilts[:, None] * reach)
    total = jnp.sum(weights, 1)
    weights = weights / jnp.where(total > 0, total, 1.0)[:, None]
    means = jnp.sum(weights * reach, 1)
    return means, jnp.sum(weights * (reach - means[:, None]) ** 2, 1)


def _tilts_to(depths: Array, probs: Array, reach: Array) -> Array:
    """`[A]`: the tilts at which the means of the gaps come down to `depths[A]`."""

    def left(tilts: Array) -> tuple[Array, Array]:
        means, variances = _tilted_moments(tilts, probs, reach)
        return means - depths, variances

    return _where_nothing_is_left(left, jnp.zeros_like(depths))


def _where_nothing_is_left(left: Callable[[Array], tuple[Array, Array]], zeros: Array) -> Array:
    """The tilts at which a falling function comes to zero, for gaps in [0, 1].

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
