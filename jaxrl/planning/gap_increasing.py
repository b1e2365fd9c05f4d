"""Value iteration that widens the gap between the best action and the others."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core.mdp import TabularMDP
from jaxrl.core.types import Array
from jaxrl.functionals.per_pair import over_pairs
from jaxrl.operators.bellman import BellmanOperator, describe
from jaxrl.operators.gap import advantage_learning, persistent
from jaxrl.operators.improvement import Greedy
from jaxrl.planning.certificates import bound, certify
from jaxrl.planning.ends import with_ends
from jaxrl.planning.solution import Solution
from jaxrl.planning.sweeps import action_values, discounts, prepare, state_values
from jaxrl.planning.value_iteration import check_problem, tell_of_rounding


def gap_increasing_value_iteration(
    mdp: TabularMDP,
    operator: BellmanOperator | None = None,
    *,
    weight: float | Array = 0.5,
    spare_repeated: bool | Array = False,
    tolerance: float | Array = 1e-6,
    max_iterations: int = 100_000,
) -> Solution:
    """Advantage learning on a known model: the optimum, with wider gaps.

        q <- T q - weight (max_b q_b - q_a)                        (advantage learning)
        q <- max(that, r + discount E q(s', a))     (persistent: with `spare_repeated`)

    T is the operator. Both keep the optimal values and actions: max_a q tends to v*. Gaps of the
    first grow to 1 / (1 - weight) times those of q*; those of the second lie between, because it
    spares an action that would be taken again at the successor. Wide gaps keep the greedy action
    right under errors of approximation.

    Args:
        mdp: the model.
        operator: with the greedy improvement, a scalar head and any functional over successors;
            default risk-neutral.
        weight: share of the gap taken away in a sweep, in [0, 1); 0 is value iteration.
        spare_repeated: a truth value; traced.
        tolerance: greatest error of `values`, and about the greatest of `q_values` [return].
        max_iterations: sweeps at most; some log(tolerance) / log(max(discount, weight)) are needed.

    Returns:
        `Solution`: `values` are max_a q. `error_bound` compares them with one plain sweep, and so
        holds whatever the gaps do (discount < 1; infinite for an operator without such a bound);
        `residual` is the last change of `q_values`.

    Raises:
        ValueError: a concrete argument is out of range, or the operator does not fit.

    Example:
        >>> from jaxrl import tabular_mdp
        >>> mdp = tabular_mdp([[[1.0], [1.0]]], [[1.0, 0.0]], discount=0.5)  # q* is 2 and 1
        >>> found = gap_increasing_value_iteration(mdp, weight=0.5)
        >>> [f"{q:.3f}" for q in found.q_values[0].tolist()]
        ['2.000', '0.000']

    Sources:
        Bellemare et al. (2016), Increasing the action gap: new operators for reinforcement
        learning, sections 4.1 and 4.2 (both operators), theorem 1 (optimality preserved); Baird
        (1999), Reinforcement learning through gradient descent, chapter 5.
    """
    operator = BellmanOperator() if operator is None else operator
    check_problem(mdp, operator, tolerance, max_iterations, None)
    functional = operator.successor_functional
    shared = functional.facts.shared_over_actions
    if shared or not isinstance(operator.improvement, Greedy):
        part = functional if shared else operator.improvement
        raise ValueError(
            f"{describe(part)} makes policies random: gaps of actions need Greedy() and a "
            "functional of single actions."
        )
    if not isinstance(weight, jax.core.Tracer) and not np.all(
        (np.asarray(weight) >= 0) & (np.asarray(weight) < 1)
    ):
        raise ValueError(f"weight={weight} is out of range: give a value in [0, 1).")
    solved = _iterate(mdp, operator, weight, spare_repeated, tolerance, max_iterations)
    tell_of_rounding(mdp, solved, solved.num_iterations < max_iterations, tolerance)
    return with_ends(mdp, operator, solved, tolerance, max_iterations)


@jax.jit
def _iterate(
    mdp: TabularMDP,
    operator: BellmanOperator,
    weight: Array,
    spare_repeated: Array,
    tolerance: Array,
    max_iterations: Array,
) -> Solution:
    legal = mdp.legal
    actions = jnp.arange(mdp.num_actions)

    @jax.vmap
    def shrink(targets: Array, repeated: Array, q_values: Array, mask: Array) -> Array:
        def of_action(target: Array, again: Array, action: Array) -> Array:
            plain = advantage_learning(target, q_values, action, weight, mask)
            spared = persistent(target, again, q_values, action, weight, mask)
            return jnp.where(spare_repeated, spared, plain)

        return jax.vmap(of_action)(targets, repeated, actions)

    def repeat(q_values: Array) -> Array:
        """The worth of each action when it is taken again at the successor, `[S, A]`."""
        if mdp.is_dense:
            later = jnp.broadcast_to(q_values.T[None], mdp.prob.shape)
        else:
            later = q_values[mdp.next_state, actions[:, None]]
        # Where the action is not legal at the successor, it cannot be taken again: nothing spared.
        can = legal[mdp.next_state, actions[:, None]] | (discounts(mdp) == 0)
        outcomes = operator.composition(mdp.reward, discounts(mdp), later)
        worth = over_pairs(operator.successor_functional, mdp.prob, outcomes)
        return jnp.where(jnp.all(can | (mdp.prob == 0), axis=2), worth, -jnp.inf)

    def look(q_values: Array) -> tuple[Array, Array, Array]:
        values, policy = state_values(mdp, operator, q_values)
        targets = action_values(mdp, operator, values)
        return values, targets, policy

    def step(state: tuple) -> tuple:
        count, q_values, _ = state
        _, targets, _ = look(q_values)
        new = jnp.where(legal, shrink(targets, repeat(q_values), q_values, legal), 0.0)
        return count + 1, new, jnp.max(jnp.abs(new - q_values))

    def goes_on(state: tuple) -> Array:
        count, q_values, moved = state
        size = jnp.finfo(moved.dtype).eps * jnp.max(jnp.abs(q_values))
        near = tolerance * (1.0 - jnp.maximum(mdp.discount, weight))
        return (moved > jnp.maximum(near, 4 * size)) & (count < max_iterations)

    zero = jnp.zeros(legal.shape, mdp.prob.dtype)
    start = jnp.zeros((), jnp.int32), zero, jnp.full((), jnp.inf, zero.dtype)
    count, q_values, moved = jax.lax.while_loop(goes_on, step, start)
    values, targets, policy = look(q_values)
    certificate = certify(prepare(mdp, operator))
    ahead, _ = state_values(mdp, operator, targets)
    found = bound(certificate, values, ahead)
    # The bound is of `ahead` moved by its shift.
    error = found.error_bound + jnp.max(jnp.abs(ahead + found.shift - values))
    return Solution(
        values=values,
        q_values=jnp.where(legal, q_values, -jnp.inf),
        policy=policy,
        residual=moved,
        error_bound=error,
        num_iterations=count,
        converged=jnp.where(certificate.exists, error, moved) <= tolerance,
    )
