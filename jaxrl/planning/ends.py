"""Policies that come to an end: what greedy ties hide at discount 1."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core.mdp import TabularMDP
from jaxrl.core.types import Array
from jaxrl.operators.bellman import BellmanOperator
from jaxrl.operators.improvement import FixedPolicy, PerState
from jaxrl.planning.backups import backup, is_shared, look_up
from jaxrl.planning.solution import Solution, is_traced, repeat


def with_ends(
    mdp: TabularMDP,
    operator: BellmanOperator,
    solution: Solution,
    tolerance: float | Array,
    max_iterations: int | Array,
) -> Solution:
    """A solution whose greedy policy earns its values, or is not called converged.

    At discount 1 an action that leads round in a circle, for a reward of 0, is worth as much as
    the best one. A policy of such actions never gets what it promises. Among actions whose values
    differ by no more than the sweep's own error, states whose greedy action leads to no end take
    the first that does (a search backwards from the ends, then from states of value 0). States
    that still reach no end are evaluated under the policy: where that is not their value,
    `converged` is false.

    Args:
        mdp: the model; below discount 1 every policy earns its values, and nothing is done.
        operator: nothing is done either unless its improvement is greedy, or where nature's
            budget is shared over actions, against which the best policy may be a mixture.
        solution: of a solver.
        tolerance: of the values [return].
        max_iterations: sweeps of the evaluation at most.
    """
    if not may_circle(mdp, operator):
        return solution
    fixed = jax.lax.stop_gradient((mdp, operator, solution, tolerance))
    policy, earned = _settle(*fixed, max_iterations)
    return solution.replace(policy=policy, converged=solution.converged & earned)


def may_circle(mdp: TabularMDP, operator: BellmanOperator) -> bool:
    """Whether a solver's policy could be greedy for a way that leads to no end."""
    chooses = operator.improvement.facts.deterministic and not is_shared(operator)
    return chooses and (is_traced(mdp.discount) or not np.all(mdp.discount < 1))


@jax.jit
def _settle(
    mdp: TabularMDP,
    operator: BellmanOperator,
    solution: Solution,
    tolerance: Any,
    max_iterations: Any,
) -> tuple[Array, Array]:
    """The policy `[S, A]`, and whether it earns the values, `[]` bool."""
    values, needed = solution.values, mdp.discount >= 1
    policy, ended, width = ending_policy(mdp, solution, solution.q_values)
    under = operator.replace(improvement=PerState(FixedPolicy(policy)))

    def evaluate(state: tuple) -> tuple:
        worth, _ = state
        after = jnp.where(ended, values, backup(mdp, under, worth)[0].astype(values.dtype))
        return after, jnp.max(jnp.abs(after - worth))

    asked = needed & ~jnp.all(ended)
    first = jnp.where(asked, jnp.inf, 0.0).astype(values.dtype)
    start = jnp.where(ended, values, 0.0), first
    goes_on = lambda state: state[1] > 1e-3 * tolerance  # noqa: E731
    _, (worth, _) = repeat(evaluate, goes_on, start, max_iterations)
    return policy, ~asked | jnp.all(jnp.abs(worth - values) <= tolerance + width)


@jax.jit
def ending_policy(mdp: TabularMDP, solution: Solution, scores: Array) -> tuple[Array, Array, Array]:
    """The policy `[S, A]` that comes to an end where a tie allows it.

    Args:
        mdp: the model.
        solution: of a solver.
        scores: `[S, A]`, by which actions are chosen [return]. Tied are those of the best score
            that are worth, in `solution.q_values`, what the greedy one is.

    Returns:
        The policy; `[S]` bool, the states from which it may end; and `[]` [return], by how much
        tied actions may differ.
    """
    values, needed = solution.values, mdp.discount >= 1
    finite = jnp.where(mdp.legal, jnp.abs(solution.q_values), 0.0)
    width = 2.0 * solution.residual + 8.0 * jnp.finfo(values.dtype).eps * jnp.max(finite)
    tied = mdp.legal & (scores >= jnp.max(scores, axis=1, keepdims=True) - width)
    taken = jnp.argmax(solution.policy, axis=1)
    worth = jnp.take_along_axis(solution.q_values, taken[:, None], axis=1)
    tied &= jnp.abs(solution.q_values - worth) <= width
    possible = mdp.prob > 0
    ends = jnp.any(possible & (jnp.asarray(mdp.terminal, mdp.prob.dtype) > 0), axis=2)
    greedy = solution.policy > 0

    def grow(state: tuple, allowed: Array) -> tuple:
        """States from which an allowed action leads to one that is reached, one step at a time."""

        def step(state: tuple) -> tuple:
            reached, chosen, _ = state
            leads = ends | jnp.any(possible & look_up(reached, mdp.next_state), axis=2)
            usable = allowed & leads
            joins = ~reached & jnp.any(usable, axis=1)
            chosen = jnp.where(joins, jnp.argmax(usable, axis=1), chosen)
            return reached | joins, chosen, jnp.any(joins)

        return jax.lax.while_loop(lambda s: s[2], step, (*state, needed))[:2]

    def stage(number: Array, state: tuple) -> tuple:
        reached, chosen, ended = state
        reached = reached | ((number == 2) & (jnp.abs(values) <= width))
        reached, chosen = grow((reached, chosen), jnp.where(number % 2 == 0, greedy, tied))
        return reached, chosen, jnp.where(number == 1, reached, ended)

    nowhere = jnp.zeros(mdp.num_states, bool)
    start = nowhere, taken, nowhere
    _, chosen, ended = jax.lax.fori_loop(0, 4, stage, start)
    policy = jax.nn.one_hot(chosen, mdp.num_actions, dtype=solution.policy.dtype)
    return jnp.where(needed, policy, solution.policy), ended, width
