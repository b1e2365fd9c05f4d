"""Optimistic ascent-descent: a constrained MDP as a game whose last iterate settles."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.mdp import TabularMDP
from jaxrl.core.types import Array
from jaxrl.planning.constrained import ConstrainedSolution, Tables, certified, constrained_tables
from jaxrl.planning.occupancy import shares


@struct.dataclass
class Game:
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
    tables = constrained_tables(mdp, costs, limits)
    if not isinstance(num_iterations, int) or num_iterations < 1:
        raise ValueError(f"num_iterations={num_iterations!r} must be an int of at least 1.")
    for name, value in (
        ("policy_step", policy_step),
        ("multiplier_step", multiplier_step),
        ("optimism", optimism),
        ("tolerance", tolerance),
    ):
        if not isinstance(value, jax.core.Tracer) and jnp.ndim(value) == 0 and not value >= 0:
            raise ValueError(f"{name}={value} must be at least 0.")
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
        return certified(tables, policy, bound, multipliers, count, tolerance)

    last = solution(policy_of(logits), multipliers)
    average = solution(shares(legal, measure), price / num_iterations)
    return Game(last, average, *path)
