"""Value iteration that remembers: the last policy, or the gaps between actions."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jaxrl.core import Struct
from jaxrl.core.mdp import TabularMDP
from jaxrl.core.protocols import Functional
from jaxrl.core.types import Array
from jaxrl.functionals.per_pair import over_pairs
from jaxrl.functionals.risk import Mean
from jaxrl.operators.bellman import BellmanOperator, describe
from jaxrl.operators.improvement import Greedy, MirrorDescent, gap_bonus, softmax_of_legal
from jaxrl.planning.backups import action_values, discounts, state_values
from jaxrl.planning.certificates import error_of
from jaxrl.planning.fixed_point import with_ends
from jaxrl.planning.solution import (
    Solution,
    check_int,
    check_problem,
    check_range,
    check_shape,
    is_stalled,
    repeat,
    tell_of_rounding,
)


class MirrorDescentSolution(Struct):
    """Where mirror-descent value iteration stands after K iterations."""

    values: Array  # [S] [return], of `policy` in `q_values`, regularised when the evaluation is
    q_values: Array  # [S, A] [return], q_K; -inf where illegal
    policy: Array  # [S, A], pi_{K+1}, the step from q_K
    log_policy: Array  # [S, A] [nats]; exact where the probability underflows; -inf where illegal
    average_q_values: Array  # [S, A] [return], mean of q_0, ..., q_K; -inf where illegal
    residual: Array  # [] [return], sup norm of q_K - q_{K-1}


def mirror_descent_value_iteration(
    mdp: TabularMDP,
    *,
    kl_weight: float | Array,
    entropy_weight: float | Array = 0.0,
    regularised_evaluation: float | bool | Array = True,
    num_iterations: int = 100,
    errors: Array | None = None,
    successor_functional: Functional | None = None,
) -> MirrorDescentSolution:
    """MD-VI: value iteration whose policy is drawn to the last one and to randomness.

        pi_{k+1} = argmax <pi, q_k> - kl_weight KL(pi || pi_k) + entropy_weight H(pi)
        q_{k+1}  = r + discount P (<pi_{k+1}, q_k> - kl_weight KL(pi_{k+1} || pi_k)
                                   + entropy_weight H(pi_{k+1})) + error_{k+1}

    from q_0 = 0 and pi_0 uniform. Without `regularised_evaluation` the two penalties are left out
    of q, not of pi. One scheme, by the weights (l = kl_weight, t = entropy_weight):

    | l | t | it is |
    |---|---|---|
    | 0 | 0 | value iteration |
    | 0 | t | soft value iteration of temperature t |
    | l | 0 | dynamic policy programming (DPP): pi_{k+1} = softmax of the *sum* of all q_j / l |
    | l | t | conservative value iteration (CVI), in other variables |

    With a = l / (l + t), the policies are those of Munchausen value iteration of bonus weight a and
    temperature l + t, whose q is q_k + l log pi_k. As both weights vanish the limit depends on
    their ratio: it is advantage learning of weight a, and value iteration when a vanishes too.

    With t = 0 errors average out: q* - q_{pi_{k+1}} is at most

        2 / (1 - discount) |mean of the errors| + 4 v_max / ((1 - discount) k),

    v_max = (max |r| + l log A) / (1 - discount), where that of value iteration is
    2 / (1 - discount)^2 times the greatest error. A positive t never averages over all the past,
    and finds the entropy-regularised optimum.

    Args:
        mdp: the model.
        kl_weight: l >= 0, to the last policy [return / nat].
        entropy_weight: t >= 0 [return / nat].
        regularised_evaluation: share of the penalties kept in the evaluation, a truth value or a
            number in [0, 1]; traced, so that both variants are one program.
        num_iterations: K, sweeps.
        errors: `[K, S, A]`, added to each new q [return]; default none.
        successor_functional: over outcomes; default the mean.

    Returns:
        `MirrorDescentSolution`.

    Raises:
        ValueError: a concrete argument is out of range.

    Numerics:
        The last policy is kept as log-probabilities, which do not underflow.

    Example:
        >>> from jaxrl import tabular_mdp
        >>> mdp = tabular_mdp([[[1.0], [1.0]]], [[1.0, 0.0]], discount=0.5)
        >>> found = mirror_descent_value_iteration(mdp, kl_weight=1.0, num_iterations=50)
        >>> [f"{p:.4f}" for p in found.policy[0].tolist()]
        ['1.0000', '0.0000']

    Sources:
        Vieillard et al. (2020), Leverage the average: an analysis of KL regularization in RL,
        equation 1, theorems 1 and 2, section 4; Vieillard, Pietquin & Geist (2020), Munchausen
        reinforcement learning, theorem 1; Azar, Gómez & Kappen (2012), Dynamic policy programming;
        Kozuno, Uchibe & Doya (2019), Theoretical analysis of efficiency and robustness of softmax
        and gap-increasing operators in reinforcement learning.
    """
    check_problem(mdp)
    check_int("num_iterations", num_iterations)
    dtype = mdp.prob.dtype
    if errors is not None:
        errors = jnp.asarray(errors, dtype)
        check_shape("errors", errors, (num_iterations, *mdp.legal.shape))
    MirrorDescent(kl_weight, entropy_weight)  # refuses settings out of their range
    check_range("regularised_evaluation", regularised_evaluation, 0, 1)
    weights = [jnp.asarray(x, dtype) for x in (kl_weight, entropy_weight, regularised_evaluation)]
    functional = Mean() if successor_functional is None else successor_functional
    if functional.facts.shared_over_actions:
        raise ValueError(
            "successor_functional shares its budget over actions: it chooses the policy by itself."
        )
    return _mirror_descent(mdp, *weights, errors, functional, num_iterations)


@partial(jax.jit, static_argnames="num_iterations")
def _mirror_descent(
    mdp: TabularMDP,
    kl_weight: Array,
    entropy_weight: Array,
    evaluation_weight: Array,
    errors: Array | None,
    functional: Functional,
    num_iterations: int,
) -> MirrorDescentSolution:
    operator, legal = BellmanOperator(successor_functional=functional), mdp.legal
    temperature = kl_weight + entropy_weight

    @jax.vmap
    def improve(q_values: Array, log_policy: Array, legal: Array) -> tuple[Array, Array, Array]:
        step = MirrorDescent(kl_weight, entropy_weight, log_reference=log_policy)
        probs, bonus = step(q_values, legal)
        value = jnp.sum(probs * (q_values + evaluation_weight * bonus))
        tempered = (q_values + kl_weight * log_policy) / jnp.where(temperature > 0, temperature, 1)
        _, new = softmax_of_legal(tempered, legal)
        return value, probs, jnp.where(temperature > 0, new, 0.0)

    def step(state: tuple, error: Array | None) -> tuple[tuple, None]:
        q_values, log_policy, total, _ = state
        values, _, log_policy = improve(q_values, log_policy, legal)
        new = action_values(mdp, operator, values)
        new = jnp.where(legal, new if error is None else new + error, 0.0)
        residual = jnp.max(jnp.abs(new - q_values))
        return (new, log_policy, total + new, residual), None

    zero = jnp.zeros(legal.shape, mdp.prob.dtype)
    start = zero, zero, zero, jnp.zeros((), zero.dtype)
    state, _ = jax.lax.scan(step, start, errors, length=num_iterations)
    q_values, log_policy, total, residual = state
    values, policy, log_policy = improve(q_values, log_policy, legal)
    log_policy = jnp.where(temperature > 0, log_policy, jnp.log(policy))
    shown = [jnp.where(legal, x, -jnp.inf) for x in (q_values, log_policy)]
    average = jnp.where(legal, total / (num_iterations + 1), -jnp.inf)
    return MirrorDescentSolution(values, shown[0], policy, shown[1], average, residual)


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
    operator = check_problem(mdp, operator, tolerance, max_iterations)
    functional = operator.successor_functional
    shared = functional.facts.shared_over_actions
    if shared or not operator.improvement.facts.deterministic:
        part = functional if shared else operator.improvement
        raise ValueError(
            f"{describe(part)} makes policies random: gaps of actions need Greedy() and a "
            "functional of single actions."
        )
    check_range("weight", weight, 0, 1, "[)")
    solved = _iterate(mdp, operator, weight, spare_repeated, tolerance, max_iterations)
    tell_of_rounding(mdp, solved, is_stalled(solved, max_iterations), tolerance)
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
    def gaps(q_values: Array, mask: Array) -> Array:
        bonus = lambda a: gap_bonus(Greedy(), q_values, a, weight, mask=mask)  # noqa: E731
        return jax.vmap(bonus)(actions)

    def again(q_values: Array) -> Array:
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

    def step(state: tuple) -> tuple:
        q_values, _ = state
        targets = action_values(mdp, operator, state_values(mdp, operator, q_values)[0])
        new = targets + gaps(q_values, legal)
        new = jnp.where(spare_repeated, jnp.maximum(again(q_values), new), new)
        new = jnp.where(legal, new, 0.0)
        return new, jnp.max(jnp.abs(new - q_values))

    def goes_on(state: tuple) -> Array:
        q_values, moved = state
        size = jnp.finfo(moved.dtype).eps * jnp.max(jnp.abs(q_values))
        near = tolerance * (1.0 - jnp.maximum(mdp.discount, weight))
        return moved > jnp.maximum(near, 4 * size)

    zero = jnp.zeros(legal.shape, mdp.prob.dtype)
    start = zero, jnp.full((), jnp.inf, zero.dtype)
    count, (q_values, moved) = repeat(step, goes_on, start, max_iterations)
    values, _, policy = state_values(mdp, operator, q_values)
    targets = action_values(mdp, operator, values)
    error = error_of(mdp, operator, values, state_values(mdp, operator, targets)[0])
    return Solution(
        values=values,
        q_values=jnp.where(legal, q_values, -jnp.inf),
        policy=policy,
        residual=moved,
        error_bound=error,
        num_iterations=count,
        converged=jnp.where(jnp.isfinite(error), error, moved) <= tolerance,
    )
