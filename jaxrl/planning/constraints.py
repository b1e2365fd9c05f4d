"""Constrained MDPs: the best return among policies whose expected costs keep within limits.

By linear programming over occupancy measures, or as a game of a policy and of prices.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core import Struct
from jaxrl.core.mdp import TabularMDP
from jaxrl.core.types import Array, is_traced
from jaxrl.planning.solution import (
    at_actions,
    check_int,
    check_policy,
    check_problem,
    check_range,
    repeat,
    tell_of_rounding,
    until_stable,
)


def occupancy(mdp: TabularMDP, policy: Array) -> Array:
    """The discounted state-action occupancy of a policy, by one linear solve.

        mu(s, a) = sum_t discount^t Pr(s_t = s, a_t = a, still going on),  s_0 ~ initial

    Not normalised: the expected discounted return is sum mu r as it stands, and mu sums to the
    expected discounted number of steps, 1 / (1 - discount) where nothing ends. It is the one
    solution, for the policy, of the flow equations

        sum_a mu(s, a) = initial(s) + discount sum_{s', a'} P(s | s', a') mu(s', a')

    and the occupancies of all policies are the polytope of its solutions mu >= 0, over which the
    return and every expected cost are linear.

    Args:
        mdp: the model; with `discount` 1 every episode must end, and mu counts visits.
        policy: `[S, A]` probabilities.

    Returns:
        `[S, A]`, non-negative [steps].

    Raises:
        ValueError: the policy is not one, or nothing ends and the discount is 1.

    Example:
        >>> from jaxrl import tabular_mdp
        >>> mdp = tabular_mdp([[[0.0, 1.0]], [[0.0, 1.0]]], [[1.0], [2.0]], discount=0.5)
        >>> occupancy(mdp, jnp.ones((2, 1))).tolist()
        [[1.0], [1.0]]

    Sources:
        d'Epenoux (1963), A probabilistic production and inventory problem; Puterman (1994), Markov
        Decision Processes, section 6.9.
    """
    policy = check_policy(mdp, policy)
    endless = mdp.is_endless and not is_traced(mdp.discount)
    if endless and np.any(mdp.discount == 1):
        raise ValueError(
            "discount=1 and nothing ends: the occupancy is infinite. For the share of time spent "
            "in each state use gain_and_bias(mdp, policy).limit."
        )
    return _occupancy(mdp, policy)


@jax.jit
def _occupancy(mdp: TabularMDP, policy: Array) -> Array:
    return flow(mdp.dense()[0], policy, mdp.initial, mdp.discount)


def flow(kernel: Array, policy: Array, initial: Array, discount: Array | float) -> Array:
    """Occupancy `[S, A]` from `kernel[S, A, S]`, `policy[S, A]` and `initial[S]`."""
    chain = jnp.einsum("sa,sat->st", policy, kernel)
    visits = jnp.linalg.solve(
        jnp.eye(chain.shape[0], dtype=chain.dtype) - discount * chain.T, initial
    )
    # Of states that are never reached only rounding is left, of either sign.
    return jnp.maximum(visits, 0.0)[:, None] * policy


def occupancy_policy(mdp: TabularMDP | Tables, measure: Array) -> Array:
    """The policy that has a given occupancy: each state's share of its actions.

    Args:
        mdp: the model; where the measure is zero the policy is even over the legal actions.
        measure: `[S, A]`, non-negative, a solution of the flow equations.

    Returns:
        `[S, A]` probabilities.

    Example:
        >>> from jaxrl import tabular_mdp
        >>> mdp = tabular_mdp([[[1.0], [1.0]]], [[1.0, 3.0]], discount=0.5)
        >>> occupancy_policy(mdp, jnp.array([[0.5, 1.5]])).tolist()
        [[0.25, 0.75]]
    """
    legal = mdp.legal
    measure = jnp.where(legal, measure, 0.0)
    total = jnp.sum(measure, axis=1, keepdims=True)
    even = legal / jnp.sum(legal, axis=1, keepdims=True).astype(measure.dtype)
    return jnp.where(total > 0, measure / jnp.where(total > 0, total, 1.0), even)


class ConstrainedSolution(Struct):
    """A policy of a constrained MDP, and how far from the best it may be.

    The optimum is at most `upper_bound`, whatever the policy, and `value` is below it by
    `duality_gap`. A policy that violates nothing is therefore within the gap of the optimum.
    """

    policy: Array  # [S, A], probabilities
    occupancy: Array  # [S, A] [steps], of the policy
    multipliers: Array  # [M], the price of each cost [return / cost]
    value: Array  # [] [return], expected from `initial`
    costs: Array  # [M], expected discounted costs
    violation: Array  # [], greatest excess of a cost over its limit, at least 0 [cost]
    upper_bound: Array  # [] [return], the least Lagrangian bound met
    duality_gap: Array  # [] [return], upper_bound - value; below 0 where limits are violated
    num_iterations: Array  # [] int32
    converged: Array  # [] bool


class Tables(Struct):
    """A constrained MDP as dense tables."""

    kernel: Array  # [S, A, S], rows sum to the probability of going on
    reward: Array  # [S, A] [return]
    costs: Array  # [M, S, A] [cost]
    limits: Array  # [M] [cost]
    legal: Array  # [S, A] bool
    initial: Array  # [S]
    discount: Array  # []

    def priced(self, multipliers: Array) -> Array:
        """`[S, A]`, reward less the price of the costs."""
        return self.reward - jnp.tensordot(multipliers, self.costs, 1)

    def occupancy(self, policy: Array) -> Array:
        """`[S, A]` [steps] of a policy `[S, A]`."""
        return flow(self.kernel, policy, self.initial, self.discount)

    def totals(self, measure: Array) -> tuple[Array, Array]:
        """Return `[]` and costs `[M]` of an occupancy."""
        counts = jnp.where(self.legal, measure, 0.0)
        return jnp.sum(counts * self.reward), jnp.sum(counts * self.costs, axis=(1, 2))

    def bound(self, multipliers: Array) -> tuple[Array, Array]:
        """The Lagrangian bound of multipliers >= 0, `[]` [return], and a policy that attains it.

        Greatest return less the price of the costs, plus the price of the limits: at least the
        return of every policy that keeps the limits.
        """
        policy = self.best(self.priced(multipliers))
        value, costs = self.totals(self.occupancy(policy))
        return value + jnp.sum(multipliers * (self.limits - costs)), policy

    def best(self, reward: Array) -> Array:
        """An optimal deterministic policy `[S, A]` for another reward, by policy iteration."""
        eye = jnp.eye(self.kernel.shape[0], dtype=reward.dtype)

        def improve(action: Array) -> Array:
            chain = at_actions(self.kernel, action)
            values = jnp.linalg.solve(eye - self.discount * chain, at_actions(reward, action))
            q_values = reward + self.discount * (self.kernel @ values)
            q_values = jnp.where(self.legal, q_values, -jnp.inf)
            gained = jnp.max(q_values, axis=1) - values
            size = jnp.max(jnp.abs(values)) + jnp.max(jnp.abs(reward))
            slack = 64 * jnp.finfo(values.dtype).eps * size  # or ties might alternate for ever
            return jnp.where(gained > slack, jnp.argmax(q_values, axis=1), action)

        first = jnp.argmax(jnp.where(self.legal, reward, -jnp.inf), axis=1)
        _, action, _ = until_stable(improve, first, 1000)
        return jax.nn.one_hot(action, reward.shape[1], dtype=reward.dtype)


def constrained(
    mdp: TabularMDP,
    costs: Array,
    limits: Array,
    *,
    tolerance: float | Array = 1e-6,
    max_iterations: int = 200,
    price_limit: float | Array = 1e4,
) -> ConstrainedSolution:
    """The best policy under limits on expected discounted costs: an exact solution.

        max over mu of  sum mu r  subject to  sum mu c_m <= limit_m,  mu an occupancy

    The simplex method on the occupancies of deterministic policies: the multipliers of the M + 1
    policies in hand price the costs, policy iteration finds the best policy at those prices, and it
    takes the place of one of them; where no policy is worth more, the mixture is optimal. Every
    price gives a bound on the optimum (Lagrangian duality), and the least is kept. The best policy
    is in general random: it has the occupancy of the mixture, not a draw at the start.

    Args:
        mdp: the model; expected values are from `initial`. With `discount` 1 every policy must end.
        costs: `[M, S, A]`, or `[S, A]` for one.
        limits: `[M]`, or one number: greatest expected discounted sum of each cost, in the scale of
            a return [cost].
        tolerance: greatest violation and duality gap [return or cost].
        max_iterations: policies tried at most.
        price_limit: greatest multiplier, in units of max |r| / max |c_m|; a limit that is still
            exceeded at that price is taken to be out of reach.

    Returns:
        `ConstrainedSolution`. Where the limits cannot be kept, `violation` is positive and
        `converged` false, and the policy exceeds them as little as the price limit makes it.

    Raises:
        ValueError: a shape is wrong or a number is not finite.

    Example:
        >>> from jaxrl import tabular_mdp
        >>> mdp = tabular_mdp([[[1.0], [1.0]]], [[1.0, 0.0]], discount=0.5)
        >>> found = constrained(mdp, jnp.array([[1.0, 0.0]]), 0.5)  # of at most 2
        >>> found.policy[0].tolist(), float(found.value), float(found.multipliers[0])
        ([0.25, 0.75], 0.5, 1.0)

    Sources:
        Altman (1999), Constrained Markov Decision Processes, chapters 3 and 8; Dantzig & Wolfe
        (1960), Decomposition principle for linear programs.
    """
    tables = _constrained_tables(mdp, costs, limits)
    check_range("tolerance", tolerance, 0, ends="(]")
    check_range("price_limit", price_limit, 0, ends="(]")
    found = _constrained(tables, tolerance, max_iterations, price_limit)
    # What rounding makes of the value and of the price of the costs.
    finest = jnp.abs(found.value) + found.multipliers @ jnp.abs(found.costs)
    is_stalled = 64 * jnp.finfo(finest.dtype).eps * finest > tolerance
    tell_of_rounding(mdp, found, is_stalled, tolerance)
    return found


def _constrained_tables(mdp: TabularMDP, costs: Array, limits: Array) -> Tables:
    """Dense tables of a constrained MDP, after its shapes and numbers have been checked."""
    check_problem(mdp)
    dtype = mdp.prob.dtype
    costs, limits = jnp.asarray(costs, dtype), jnp.atleast_1d(jnp.asarray(limits, dtype))
    costs = costs[None] if costs.ndim == 2 else costs
    shape = (*limits.shape, *mdp.legal.shape)
    if limits.ndim != 1 or costs.shape != shape:
        raise ValueError(
            f"costs must have shape [M, S, A] = {list(shape)} for limits of shape "
            f"{list(limits.shape)}; got {list(costs.shape)}."
        )
    for name, value in (("costs", costs), ("limits", limits)):
        if not is_traced(value) and not np.all(np.isfinite(value)):
            raise ValueError(f"{name} must be finite.")
    kernel, reward = mdp.dense()
    reward, costs = jnp.where(mdp.legal, reward, 0.0), jnp.where(mdp.legal, costs, 0.0)
    return Tables(kernel, reward, costs, limits, mdp.legal, mdp.initial, jnp.asarray(mdp.discount))


@jax.jit
def _constrained(
    tables: Tables, tolerance: Array, max_iterations: Array, price_limit: Array
) -> ConstrainedSolution:
    num_costs, dtype = tables.limits.shape[0], tables.reward.dtype
    eps = jnp.finfo(dtype).eps
    size = jnp.max(jnp.abs(tables.reward))
    cost_sizes = jnp.max(jnp.abs(tables.costs), axis=(1, 2))
    unit_price = jnp.where(size > 0, size, 1.0) / jnp.where(cost_sizes > 0, cost_sizes, 1.0)
    ceiling = price_limit * unit_price
    target = jnp.concatenate([tables.limits, jnp.ones((1,), dtype)])
    units = jnp.eye(num_costs + 1, dtype=dtype)[:num_costs]

    def of_policy(policy: Array) -> tuple[Array, Array, Array]:
        measure = tables.occupancy(policy)
        value, costs = tables.totals(measure)
        return jnp.concatenate([costs, jnp.ones((1,), dtype)]), value, measure

    def pivot(state: tuple) -> tuple:
        basis, least, multipliers, _ = state
        columns, worths, _ = basis
        price = jnp.linalg.solve(columns, worths)
        allowed = jnp.clip(price[:-1], 0.0, ceiling)
        bound, policy = tables.bound(allowed)
        multipliers = jnp.where(bound < least, allowed, multipliers)
        least = jnp.minimum(bound, least)

        # A price outside its range lets a slack or an excess in; a policy enters when none is.
        column, value, measure = of_policy(policy)
        gain = value - column @ price
        below, above = -price[:-1] / unit_price, (price[:-1] - ceiling) / unit_price
        outside = jnp.concatenate([below, above])
        worst = jnp.argmax(outside)
        is_unit = outside[worst] > 64 * eps * jnp.max(1.0 + jnp.abs(price[:-1]) / unit_price)
        unit = jnp.concatenate([units, -units])[worst]
        unit_worth = jnp.concatenate([jnp.zeros_like(ceiling), -ceiling])[worst]
        enters = (
            jnp.where(is_unit, unit, column),
            jnp.where(is_unit, unit_worth, value),
            jnp.where(is_unit, 0.0, measure),
        )
        amounts = jnp.linalg.solve(columns.T, target)
        uses = jnp.linalg.solve(columns.T, enters[0])
        is_used = uses > 64 * eps * jnp.max(jnp.abs(uses))
        ratios = jnp.where(
            is_used, jnp.maximum(amounts, 0.0) / jnp.where(is_used, uses, 1.0), jnp.inf
        )
        leaves = jnp.argmin(ratios)
        enough = jnp.maximum(
            tolerance / 2, 64 * eps * (jnp.abs(value) + jnp.abs(price) @ jnp.abs(column))
        )
        is_best = ~is_unit & (gain <= enough)
        swapped = jax.tree.map(lambda held, new: held.at[leaves].set(new), basis, enters)
        basis = jax.tree.map(lambda old, new: jnp.where(is_best, old, new), basis, swapped)
        return basis, least, multipliers, is_best

    column, value, measure = of_policy(tables.best(tables.reward))
    exceeds = column[:-1] > tables.limits
    # M + 1 columns of the program, one a row: costs and 1, the worth [return], and the occupancy,
    # zero unless it is a policy but the slack or the excess of a limit.
    basis = (
        jnp.concatenate([jnp.where(exceeds[:, None], -units, units), column[None]]),
        jnp.concatenate([jnp.where(exceeds, -ceiling, 0.0), value[None]]),
        jnp.concatenate([jnp.zeros((num_costs, *measure.shape), dtype), measure[None]]),
    )
    start = basis, value, jnp.zeros_like(ceiling), jnp.zeros((), bool)
    goes_on = lambda state: ~state[-1]  # noqa: E731
    count, ((columns, _, measures), least, multipliers, _) = repeat(
        pivot, goes_on, start, max_iterations
    )
    amounts = jnp.maximum(jnp.linalg.solve(columns.T, target), 0.0)
    policy = occupancy_policy(tables, jnp.tensordot(amounts, measures, 1))
    return _certified(tables, policy, least, multipliers, count, tolerance)


def _certified(
    tables: Tables,
    policy: Array,
    upper_bound: Array,
    multipliers: Array,
    num_iterations: Array,
    tolerance: Array,
) -> ConstrainedSolution:
    """The solution that a policy and a Lagrangian bound make, with what the policy really does."""
    measure = tables.occupancy(policy)
    value, costs = tables.totals(measure)
    violation = jnp.maximum(jnp.max(costs - tables.limits), 0.0)
    gap = upper_bound - value
    return ConstrainedSolution(
        policy=policy,
        occupancy=measure,
        multipliers=multipliers,
        value=value,
        costs=costs,
        violation=violation,
        upper_bound=upper_bound,
        duality_gap=gap,
        num_iterations=num_iterations,
        converged=(violation <= tolerance) & (jnp.abs(gap) <= tolerance),
    )


class Game(Struct):
    """How an ascent-descent went: where it stands, its average, and its path."""

    last: ConstrainedSolution
    average: ConstrainedSolution  # of the occupancies and multipliers of all iterations
    values: Array  # [K] [return], of each policy
    costs: Array  # [K, M], expected discounted costs of each policy
    multipliers: Array  # [K, M] [return / cost]


def optimistic_ascent_descent(
    mdp: TabularMDP,
    costs: Array,
    limits: Array,
    *,
    policy_step: float | Array = 0.1,
    multiplier_step: float | Array = 0.1,
    optimism: float | Array = 1.0,
    num_iterations: int = 2000,
    tolerance: float | Array = 1e-3,
) -> Game:
    """ReLOAD: both players of the Lagrangian game step along extrapolated gradients.

        max over policies, min over multipliers l >= 0 of  return - sum_m l_m (cost_m - limit_m)

        g_k = q_k - sum_m l_k,m c_k,m          (action values of reward and costs, kept apart)
        d_k = cost_k - limit
        policy  ~ policy * exp(policy_step ((1 + optimism) g_k - optimism g_{k-1}))
        l       = max(0, l + multiplier_step ((1 + optimism) d_k - optimism d_{k-1}))

    With `optimism` 1 the last iterate converges; with 0 it is plain descent-ascent, which circles a
    random optimum and only converges on average. Critics are exact. The multipliers are clipped
    after extrapolation, so that the gradients themselves are never clipped.

    Args:
        mdp: the model; expected values are from `initial`.
        costs: `[M, S, A]`, or `[S, A]` for one.
        limits: `[M]`, or one number, in the scale of a return [cost].
        policy_step: step of the logits [1 / return].
        multiplier_step: step of the multipliers [return / cost^2].
        optimism: weight of the extrapolation, in both players, in [0, 1].
        num_iterations: K, steps.
        tolerance: greatest violation and duality gap of what counts as converged.

    Returns:
        `Game`. Its solutions carry the Lagrangian bound of their own multipliers, by an exact inner
        solution.

    Raises:
        ValueError: a shape is wrong or a number is out of range.

    Example:
        >>> from jaxrl import tabular_mdp
        >>> mdp = tabular_mdp([[[1.0], [1.0]]], [[1.0, 0.0]], discount=0.5)
        >>> costs = jnp.array([[1.0, 0.0]])
        >>> found = optimistic_ascent_descent(mdp, costs, 0.5, policy_step=0.5, multiplier_step=0.5)
        >>> f"{float(found.last.policy[0, 0]):.3f}", f"{float(found.last.multipliers[0]):.3f}"
        ('0.250', '1.000')

    Sources:
        Moskovitz et al. (2023), ReLOAD: Reinforcement learning with optimistic ascent-descent for
        last-iterate convergence in constrained MDPs, algorithm 1.
    """
    tables = _constrained_tables(mdp, costs, limits)
    check_int("num_iterations", num_iterations)
    steps = {"policy_step": policy_step, "multiplier_step": multiplier_step}
    for name, value in {**steps, "optimism": optimism, "tolerance": tolerance}.items():
        check_range(name, value, 0)
    return _ascent_descent(
        tables, policy_step, multiplier_step, optimism, tolerance, num_iterations
    )


@partial(jax.jit, static_argnames="num_iterations")
def _ascent_descent(
    tables: Tables,
    policy_step: Array,
    multiplier_step: Array,
    optimism: Array,
    tolerance: Array,
    num_iterations: int,
) -> Game:
    legal, limits, dtype = tables.legal, tables.limits, tables.reward.dtype
    eye = jnp.eye(legal.shape[0], dtype=dtype)
    paid = jnp.concatenate([tables.reward[None], tables.costs])  # [1 + M, S, A]

    def policy_of(logits: Array) -> Array:
        return jax.nn.softmax(jnp.where(legal, logits, -jnp.inf), axis=1)

    def look(logits: Array, multipliers: Array) -> tuple[Array, Array, tuple]:
        """Both gradients, and what the policy does."""
        policy = policy_of(logits)
        chain = jnp.einsum("sa,sat->st", policy, tables.kernel)
        earned = jnp.sum(policy * paid, axis=2)  # [1 + M, S]
        values = jnp.linalg.solve(eye - tables.discount * chain, earned.T).T
        q_values = paid + tables.discount * jnp.einsum("sat,mt->msa", tables.kernel, values)
        totals = values @ tables.initial
        ascent = q_values[0] - jnp.tensordot(multipliers, q_values[1:], 1)
        return ascent, totals[1:] - limits, (totals[0], totals[1:])

    def step(state: tuple, _: None) -> tuple[tuple, tuple]:
        logits, multipliers, old_ascent, old_excess, measure, price = state
        ascent, excess, (value, costs) = look(logits, multipliers)
        measure = measure + tables.occupancy(policy_of(logits))
        price = price + multipliers
        further = ascent + optimism * (ascent - old_ascent)
        logits = logits + policy_step * further
        logits = logits - jnp.max(jnp.where(legal, logits, -jnp.inf), axis=1, keepdims=True)
        moved = multipliers + multiplier_step * (excess + optimism * (excess - old_excess))
        state = logits, jnp.maximum(moved, 0.0), ascent, excess, measure, price
        return state, (value, costs, multipliers)

    logits, multipliers = jnp.zeros(legal.shape, dtype), jnp.zeros_like(limits)
    ascent, excess, _ = look(logits, multipliers)
    start = logits, multipliers, ascent, excess, jnp.zeros_like(logits), jnp.zeros_like(multipliers)
    state, path = jax.lax.scan(step, start, None, length=num_iterations)
    logits, multipliers, _, _, measure, price = state

    def solution(policy: Array, multipliers: Array) -> ConstrainedSolution:
        bound, _ = tables.bound(multipliers)
        count = jnp.asarray(num_iterations, jnp.int32)
        return _certified(tables, policy, bound, multipliers, count, tolerance)

    last = solution(policy_of(logits), multipliers)
    average = solution(occupancy_policy(tables, measure), price / num_iterations)
    return Game(last, average, *path)
