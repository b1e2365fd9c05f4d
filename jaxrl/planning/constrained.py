"""Constrained MDPs: the best return among policies whose expected costs keep within limits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core import struct
from jaxrl.core.mdp import TabularMDP
from jaxrl.core.types import Array
from jaxrl.operators.bellman import BellmanOperator
from jaxrl.planning.occupancy import flow, shares
from jaxrl.planning.value_iteration import check_problem


@struct.dataclass
class ConstrainedSolution:
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


@struct.dataclass
class Tables:
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
            chain = jnp.take_along_axis(self.kernel, action[:, None, None], axis=1)[:, 0]
            earned = jnp.take_along_axis(reward, action[:, None], axis=1)[:, 0]
            values = jnp.linalg.solve(eye - self.discount * chain, earned)
            q_values = reward + self.discount * (self.kernel @ values)
            q_values = jnp.where(self.legal, q_values, -jnp.inf)
            gained = jnp.max(q_values, axis=1) - values
            size = jnp.max(jnp.abs(values)) + jnp.max(jnp.abs(reward))
            slack = 64 * jnp.finfo(values.dtype).eps * size  # or ties might alternate for ever
            return jnp.where(gained > slack, jnp.argmax(q_values, axis=1), action)

        def step(state: tuple) -> tuple:
            count, action, _ = state
            new = improve(action)
            return count + 1, new, jnp.all(new == action)

        first = jnp.argmax(jnp.where(self.legal, reward, -jnp.inf), axis=1)
        start = jnp.zeros((), jnp.int32), first, jnp.zeros((), bool)
        _, action, _ = jax.lax.while_loop(lambda x: ~x[2] & (x[0] < 1000), step, start)
        return jax.nn.one_hot(action, reward.shape[1], dtype=reward.dtype)


@struct.dataclass
class Basis:
    """M + 1 columns of the program: each is a policy, or the slack or excess of a limit."""

    columns: Array  # [M + 1, M + 1], one a row: costs and 1
    worths: Array  # [M + 1] [return]
    measures: Array  # [M + 1, S, A] [steps], zero unless a policy


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
    tables = constrained_tables(mdp, costs, limits)
    for name, value in (("tolerance", tolerance), ("price_limit", price_limit)):
        if not isinstance(value, jax.core.Tracer) and jnp.ndim(value) == 0 and not value > 0:
            raise ValueError(f"{name}={value} must be > 0.")
    return _constrained(tables, tolerance, max_iterations, price_limit)


def constrained_tables(mdp: TabularMDP, costs: Array, limits: Array) -> Tables:
    """Dense tables of a constrained MDP, after its shapes and numbers have been checked."""
    check_problem(mdp, BellmanOperator(), 1.0, 1, None)
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
        if not isinstance(value, jax.core.Tracer) and not np.all(np.isfinite(value)):
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

    def goes_on(state: tuple) -> Array:
        return ~state[-1] & (state[0] < max_iterations)

    def pivot(state: tuple) -> tuple:
        count, basis, least, multipliers, _ = state
        price = jnp.linalg.solve(basis.columns, basis.worths)
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
        enters = Basis(
            jnp.where(is_unit, unit, column),
            jnp.where(is_unit, unit_worth, value),
            jnp.where(is_unit, 0.0, measure),
        )
        amounts = jnp.linalg.solve(basis.columns.T, target)
        uses = jnp.linalg.solve(basis.columns.T, enters.columns)
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
        return count + 1, basis, least, multipliers, is_best

    column, value, measure = of_policy(tables.best(tables.reward))
    exceeds = column[:-1] > tables.limits
    basis = Basis(
        jnp.concatenate([jnp.where(exceeds[:, None], -units, units), column[None]]),
        jnp.concatenate([jnp.where(exceeds, -ceiling, 0.0), value[None]]),
        jnp.concatenate([jnp.zeros((num_costs, *measure.shape), dtype), measure[None]]),
    )
    start = jnp.zeros((), jnp.int32), basis, value, jnp.zeros_like(ceiling), jnp.zeros((), bool)
    count, basis, least, multipliers, _ = jax.lax.while_loop(goes_on, pivot, start)
    amounts = jnp.maximum(jnp.linalg.solve(basis.columns.T, target), 0.0)
    mixture = jnp.tensordot(amounts, basis.measures, 1)
    policy = shares(tables.legal, mixture)
    return certified(tables, policy, least, multipliers, count, tolerance)


def certified(
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
