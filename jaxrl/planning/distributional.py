"""Distributional value iteration and policy evaluation, for every head."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
from numpy.typing import ArrayLike

from jaxrl.core.distances import wasserstein_distance
from jaxrl.core.law import Law
from jaxrl.core.mdp import TabularMDP
from jaxrl.core.types import Array, PyTree
from jaxrl.functionals.per_pair import PerPair
from jaxrl.operators.bellman import BellmanOperator, describe
from jaxrl.operators.grid_heads import Categorical
from jaxrl.operators.improvement import FixedPolicy, PerState, over_states
from jaxrl.operators.statistic_heads import Scalar
from jaxrl.planning.backups import backup, discounts
from jaxrl.planning.certificates import error_of
from jaxrl.planning.fixed_point import ending_policy, may_circle, with_ends
from jaxrl.planning.solution import (
    Solution,
    check_model,
    check_policy,
    check_range,
    check_shape,
    repeat,
    tell_of_rounding,
)

LARGEST_BLOCK = 1 << 22  # numbers held at once by a sweep, about


def distributional_value_iteration(
    mdp: TabularMDP,
    operator: BellmanOperator,
    *,
    tolerance: float | Array = 1e-4,
    max_iterations: int = 1000,
    params: Array | None = None,
) -> Solution:
    """Sweep the distributional operator over all pairs until the return laws stop moving.

    Every sweep takes, for each state once, the law of the return under the improvement, and for
    each pair the mixture over outcomes that the operator makes of them, stored by the head. The
    successor functional reweights that mixture (*nested* risk or robustness); a return functional
    other than the mean chooses actions by the laws (*greedy on the return law*), and then the
    iteration need not converge.

    Args:
        mdp: the model. A fractional `terminal` scales what follows, as in every Bellman operator;
            give an outcome that ends where the law itself must show the chance of ending.
        operator: with any head.
        tolerance: greatest 1-Wasserstein distance that a return law moves by in the last sweep,
            > 0 [return].
        max_iterations: sweeps at most.
        params: `[S, A, *head.shape]` to start from; default what the head makes of a return of 0.

    Returns:
        `Solution` with `params`; `values` and `q_values` are means, `residual` is the distance
        above. `error_bound` is of `values` against the exact expected values of the same operator:
        the certificate of scalar value iteration, which holds whatever the head loses. Heads that
        do not keep means (`Quantile`) leave a bound that no number of sweeps closes. It is infinite
        where the scalar operator has no such certificate.

    Raises:
        ValueError: a concrete argument is out of range, or the operator does not fit.

    Example:
        >>> from jaxrl import Lookahead, outcome_mdp
        >>> from jaxrl.operators import Quantile
        >>> mdp = outcome_mdp([[[0.5, 0.5]]], [[[0, 0]]], [[[0.0, 1.0]]], 0.0)
        >>> found = distributional_value_iteration(mdp, BellmanOperator(Quantile(4)))
        >>> found.params[0, 0].tolist(), float(found.values[0])
        ([0.0, 0.0, 1.0, 1.0], 0.5)

    Sources:
        Bellemare, Dabney & Munos (2017), A distributional perspective on reinforcement learning;
        Rowland et al. (2018), proposition 2 (the categorical operator contracts by sqrt(discount)
        in Cramér distance); Bellemare, Dabney & Rowland (2023), Distributional Reinforcement
        Learning, chapters 5 and 7.
    """
    _check(mdp, operator)
    check_range("tolerance", tolerance, 0, ends="(]")
    check_range("max_iterations", max_iterations, 1)
    if params is not None:
        check_shape("params", params, (mdp.num_states, mdp.num_actions, *operator.head.shape))
    solved = _iterate(mdp, operator, tolerance, params, max_iterations)
    finest = 4.0 * jnp.finfo(solved.values.dtype).eps * jnp.max(jnp.abs(solved.values))
    tell_of_rounding(mdp, solved, finest > tolerance, tolerance)
    if operator.contracts and operator.composition.facts.linear:
        return with_ends(mdp, operator.replace(head=Scalar()), solved, tolerance, max_iterations)
    if not may_circle(mdp, operator):
        return solved
    # No scalar operator tells what the policy earns: its laws do, from no return where none ends.
    scores = jnp.where(mdp.legal, jax.vmap(operator.scores)(solved.params), -jnp.inf)
    policy, ended, width = ending_policy(mdp, solved, scores)
    under = operator.replace(improvement=PerState(FixedPolicy(policy)))
    known = ended.reshape(-1, *(1,) * (solved.params.ndim - 1))
    params = jnp.where(known, solved.params, _no_return(mdp, operator))
    own = _iterate(mdp, under, tolerance, params, max_iterations)
    earned = jnp.all(jnp.abs(own.values - solved.values) <= tolerance + width)
    earned |= mdp.discount < 1  # which may be traced
    return solved.replace(policy=policy, converged=solved.converged & earned)


def distributional_policy_evaluation(
    mdp: TabularMDP,
    policy: ArrayLike,
    operator: BellmanOperator,
    *,
    tolerance: float | Array = 1e-4,
    max_iterations: int = 1000,
    params: Array | None = None,
) -> Solution:
    """The return laws of one policy; see `distributional_value_iteration`.

    Args:
        mdp: the model.
        policy: `[S, A]` probabilities; it stands in for the operator's improvement.
        operator: with any head.
        tolerance: greatest 1-Wasserstein distance moved in the last sweep, > 0 [return].
        max_iterations: sweeps at most.
        params: `[S, A, *head.shape]` to start from.

    Returns:
        `Solution` with `params`.

    Raises:
        ValueError: a concrete argument is out of range, or the operator does not fit.
    """
    operator = operator.replace(improvement=_fixed(mdp, policy))
    return distributional_value_iteration(
        mdp, operator, tolerance=tolerance, max_iterations=max_iterations, params=params
    )


def categorical_fixed_point(mdp: TabularMDP, policy: ArrayLike, head: Categorical) -> Solution:
    """The fixed point of the projected operator of one policy, by one linear solve.

    With m[s] the probabilities of the return law at s on the head's grid, policy evaluation is
    m = B m, affine once the last probability is one minus the others, and (I - B) has an inverse
    because the projected operator contracts in Cramér distance. Equal to the limit of
    `distributional_policy_evaluation`, in O((S K)^3) operations.

    Args:
        mdp: the model, discount < 1, or such that every episode ends.
        policy: `[S, A]` probabilities.
        head: the grid.

    Returns:
        `Solution` with `params`, logits, as the head stores them.

    Raises:
        ValueError: a concrete argument is out of range.

    Sources:
        Rowland et al. (2018), An analysis of categorical distributional reinforcement learning,
        propositions 2 and 3; Rowland et al. (2024), Near-minimax-optimal distributional
        reinforcement learning with a generative model, section 4 (the linear system).
    """
    operator = BellmanOperator(head, improvement=_fixed(mdp, policy))
    _check(mdp, operator)
    return _categorical_fixed_point(mdp, operator)


@jax.jit
def _categorical_fixed_point(mdp: TabularMDP, operator: PyTree) -> Solution:
    head, dtype = operator.head, mdp.prob.dtype
    num_states, num_atoms = mdp.num_states, head.num_atoms
    grid = head.support(dtype)
    rates = jnp.broadcast_to(discounts(mdp), mdp.prob.shape)
    certain = jnp.eye(num_atoms, dtype=dtype)

    def projection(reward: Array, rate: Array) -> Array:
        """`[K, K]`: column j is where atom j goes."""
        return jax.vmap(lambda row: head.project(Law(row, reward + rate * grid)), out_axes=1)(
            certain
        )

    def of_state(actions: Array, prob: Array, successor: Array, reward: Array, rate: Array):
        maps = jax.vmap(jax.vmap(projection))(reward, rate)  # [A, N, K, K]
        there = jax.nn.one_hot(successor, num_states, dtype=dtype)
        return jnp.einsum("a,an,anij,ant->itj", actions, prob, maps, there)

    policy = operator.improvement.improvement.probs
    tables = policy, mdp.prob, mdp.next_state, mdp.outcome_rewards, rates
    whole = jax.lax.map(lambda row: of_state(*row), tables)  # [S, K, S, K]
    last = whole[:, :-1, :, -1:]
    size = num_states * (num_atoms - 1)
    reduced = (whole[:, :-1, :, :-1] - last).reshape(size, size)
    inhomogeneous = jnp.sum(last[..., 0], axis=-1).reshape(size)
    most = jnp.linalg.solve(jnp.eye(size, dtype=dtype) - reduced, inhomogeneous)
    most = most.reshape(num_states, num_atoms - 1)
    probs = jnp.concatenate([most, 1.0 - jnp.sum(most, axis=1, keepdims=True)], axis=1)
    probs = jnp.maximum(probs, 0.0)
    laws = Law(probs / jnp.sum(probs, axis=1, keepdims=True), jnp.tile(grid, (num_states, 1)))
    params = _backup(mdp, operator, laws)
    moved = _distance(mdp, operator, params, _sweep(mdp, operator, params))
    tolerance = 1e3 * jnp.finfo(dtype).eps * (head.high - head.low)
    return _solution(mdp, operator, params, moved, jnp.array(1, jnp.int32), tolerance)


def _check(mdp: TabularMDP, operator: BellmanOperator) -> None:
    """Raise `ValueError` when the operator cannot be swept over the model."""
    check_model(mdp)
    operator.require_successors(mdp.num_outcomes, exact=True)
    functional = operator.successor_functional
    if functional.facts.shared_over_actions:
        raise ValueError(
            f"{describe(functional)} shares its budget over actions, so that no pair has a law of "
            "its own: plan with value_iteration and a scalar head."
        )


def _fixed(mdp: TabularMDP, policy: ArrayLike) -> PerState:
    """The improvement that holds `policy[S, A]`, checked."""
    return PerState(FixedPolicy(check_policy(mdp, policy)))


@partial(jax.jit, static_argnames="max_iterations")
def _iterate(
    mdp: TabularMDP,
    operator: BellmanOperator,
    tolerance: Array,
    params: Array | None,
    max_iterations: int,
) -> Solution:
    dtype = mdp.prob.dtype
    params = _no_return(mdp, operator) if params is None else params

    def step(state: tuple[Array, Array]) -> tuple[Array, Array]:
        swept = _sweep(mdp, operator, state[0])
        return swept, _distance(mdp, operator, state[0], swept)

    start = params.astype(dtype), jnp.asarray(jnp.inf, dtype)
    goes_on = lambda state: state[1] > tolerance  # noqa: E731
    count, (found, moved) = repeat(step, goes_on, start, max_iterations)
    return _solution(mdp, operator, found, moved, count, tolerance)


def _no_return(mdp: TabularMDP, operator: BellmanOperator) -> Array:
    """`[S, A, *head.shape]`: what the head makes of a return of 0."""
    dtype = mdp.prob.dtype
    zero = operator.head.encode(Law(jnp.ones((1,), dtype), jnp.zeros((1,), dtype)))
    return jnp.broadcast_to(zero, (*mdp.legal.shape, *operator.head.shape))


def _sweep(mdp: TabularMDP, operator: BellmanOperator, params: Array) -> Array:
    """One backup of every pair, `[S, A, *head.shape]`."""
    return _backup(mdp, operator, _state_laws(mdp, operator, params))


def _state_laws(mdp: TabularMDP, operator: BellmanOperator, params: Array) -> Law:
    """The law of the return at every state, `[S, M]`."""
    if isinstance(operator.improvement, PerState):
        at_state = lambda i, p, m: operator.replace(improvement=i).state_law(p, m)  # noqa: E731
        return jax.vmap(at_state)(operator.improvement.improvement, params, mdp.legal)
    return jax.vmap(operator.state_law)(params, mdp.legal)


def _backup(mdp: TabularMDP, operator: BellmanOperator, laws: Law) -> Array:
    """What the head stores for every pair, from the laws `[S, M]` of the successors."""
    functional, head = operator.successor_functional, operator.head
    own = functional.functional if isinstance(functional, PerPair) else None

    def of_pair(row: tuple) -> Array:
        own, prob, successor, reward, rate = row
        here = operator.replace(successor_functional=functional if own is None else own)
        after = jax.tree.map(lambda x: x[successor], laws)
        return head.encode(here.outcome_law(prob, reward, rate, after))

    rates = jnp.broadcast_to(discounts(mdp), mdp.prob.shape)
    rows = own, mdp.prob, mdp.next_state, mdp.outcome_rewards, rates
    for_one = (
        mdp.num_actions * mdp.num_outcomes * laws.atoms.shape[1] * max(math.prod(head.shape), 1)
    )
    block = min(max(LARGEST_BLOCK // for_one, 1), mdp.num_states)
    return jax.lax.map(jax.vmap(of_pair), rows, batch_size=block)


def _distance(mdp: TabularMDP, operator: BellmanOperator, params: Array, others: Array) -> Array:
    """The greatest 1-Wasserstein distance `[]` [return] between laws of legal pairs."""
    law = jax.vmap(jax.vmap(operator.head.law))
    distances = wasserstein_distance(law(params), law(others))
    return jnp.max(jnp.where(mdp.legal, distances, 0.0))


def _solution(
    mdp: TabularMDP,
    operator: BellmanOperator,
    params: Array,
    moved: Array,
    count: Array,
    tolerance: Array,
) -> Solution:
    """The answer, with the certificate of the scalar operator."""
    means = jax.vmap(jax.vmap(operator.head.mean))(params)
    scores = jax.vmap(operator.scores)(params)
    policy, _ = over_states(operator.improvement, scores, mdp.legal)
    values = _state_laws(mdp, operator, params).mean()
    error_bound = jnp.asarray(jnp.inf, values.dtype)
    if operator.contracts and operator.composition.facts.linear:
        scalar = operator.replace(head=Scalar())
        error_bound = error_of(mdp, scalar, values, backup(mdp, scalar, values)[0])
    return Solution(
        values=values,
        q_values=jnp.where(mdp.legal, means, -jnp.inf),
        policy=policy,
        residual=moved,
        error_bound=error_bound,
        num_iterations=count,
        converged=moved <= tolerance,
        params=params,
    )
