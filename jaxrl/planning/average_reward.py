"""Average reward per step: relative value iteration and multichain policy iteration.

The model's discount is not used. Where an episode ends, the next begins at once from `initial`:
what is averaged is the reward per step of one endless run of episodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from jaxrl.core import Struct
from jaxrl.core.mdp import TabularMDP
from jaxrl.core.types import Array
from jaxrl.operators.bellman import BellmanOperator, describe
from jaxrl.planning.backups import backup, prepare
from jaxrl.planning.certificates import rounding_unit
from jaxrl.planning.solution import (
    Solution,
    at_actions,
    check_policy,
    check_problem,
    check_range,
    is_stalled,
    repeat,
    tell_of_rounding,
    until_stable,
)


def relative_value_iteration(
    mdp: TabularMDP,
    operator: BellmanOperator | None = None,
    *,
    tolerance: float | Array = 1e-6,
    max_iterations: int = 100_000,
    damping: float | Array = 0.5,
) -> Solution:
    """The best average reward per step, between two bounds that meet.

        h <- h + (1 - damping) (T h - h),  then h <- h - h(0)
        min_s (T h - h)(s) <= gain <= max_s (T h - h)(s)

    T is the operator at discount 1. The bounds hold for every h, and for the gain of every state,
    whenever T is monotone and translation equivariant; they close where all states have one gain
    (unichain and communicating models). The damping, an aperiodicity transform, leaves the gain as
    it is and keeps periodic chains from oscillating. A worst-case functional gives the robust
    average reward, `Entropic` the risk-sensitive one, `Softmax` the entropy-regularised one.

    Where gains differ between states (multichain) the bounds stay apart and `converged` is false:
    use `multichain_policy_iteration`.

    Args:
        mdp: the model; its discount is not used, and where an episode ends the next begins from
            `initial`.
        operator: with a scalar head; default the risk-neutral optimum. A fixed policy as the
            improvement gives the gain of that policy.
        tolerance: greatest error of the gain, > 0 [return per step].
        max_iterations: sweeps at most.
        damping: share of the old values kept in a sweep, in [0, 1); 0 oscillates on periodic
            chains.

    Returns:
        `Solution`. `gain` `[]` [return per step] lies between the bounds, and `error_bound` is of
        the gain, rounding included (infinite for an operator with no such bounds). `values` are
        relative, zero in state 0, and solve `gain + values = T values` within `residual`, the
        distance of the bounds; `q_values` are less the gain. The policy's own gain is no lower than
        the lower bound.

    Raises:
        ValueError: a concrete argument is out of range, or the composition is not the sum of
            rewards.

    Numerics:
        Gain, values and q-values have derivatives in every number of the model and the operator, by
        linear equations `[S, S]` at the solution; of unichain models.

    Example:
        >>> from jaxrl import tabular_mdp
        >>> mdp = tabular_mdp([[[0.0, 1.0]], [[1.0, 0.0]]], [[0.0], [1.0]])  # a cycle of two
        >>> float(relative_value_iteration(mdp).gain)
        0.5

    Sources:
        White (1963), Dynamic programming, Markov chains, and the method of successive
        approximations; Odoni (1969), On finding the maximal gain (the bounds); Schweitzer (1971),
        Iterative solution of the functional equations of undiscounted Markov renewal programming
        (the transform); Wang et al. (2023), Robust average-reward Markov decision processes.
    """
    operator = check_problem(mdp, operator, tolerance, max_iterations)
    if not operator.composition.facts.linear:
        raise ValueError(
            f"{describe(operator.composition)} has no average reward: use DiscountedSum()."
        )
    check_range("damping", damping, 0, 1, "[)")
    solved = _relative_value_iteration(mdp, operator, tolerance, max_iterations, damping)
    tell_of_rounding(mdp, solved, is_stalled(solved, max_iterations), tolerance)
    return solved


@jax.jit
def _relative_value_iteration(
    mdp: TabularMDP,
    operator: BellmanOperator,
    tolerance: Array,
    max_iterations: Array,
    damping: Array,
) -> Solution:
    fixed = jax.lax.stop_gradient((mdp, operator, tolerance, damping))
    live, (mdp, operator, tolerance, damping) = (mdp, operator), fixed
    step_of = _undiscounted(mdp, operator)
    if mdp.is_endless:  # faster, but `prepare` has no derivative
        step_of = prepare(mdp.replace(discount=jnp.ones_like(mdp.discount)), operator).backup

    def look(h: Array) -> tuple[Array, ...]:
        rise = step_of(h)[0] - h
        return h, rise, jnp.min(rise), jnp.max(rise)

    def goes_on(state: tuple) -> Array:
        h, _, low, high = state
        error = _rounding(mdp, operator, h)
        return ((high - low) / 2 + error > tolerance) & (high - low > error / 4)

    def step(state: tuple) -> tuple:
        h = state[0] + (1.0 - damping) * state[1]
        return look(h - h[0])

    start = look(jnp.zeros_like(mdp.initial))
    count, (h, _, low, high) = repeat(step, goes_on, start, max_iterations - 1)
    gain_change, change = _implicit(_undiscounted(*live)(h)[0], h, mdp, operator)
    gain, values = (low + high) / 2 + gain_change, h + change
    _, q_values, policy = _undiscounted(*live)(values)
    bound = (high - low) / 2 + _rounding(mdp, operator, h)
    bound = bound if operator.contracts else jnp.full_like(bound, jnp.inf)
    return Solution(
        values=values,
        q_values=jnp.where(mdp.legal, q_values - gain, -jnp.inf),
        policy=policy,
        residual=high - low,
        error_bound=bound,
        num_iterations=count + 2,
        converged=(bound if operator.contracts else high - low) <= tolerance,
        gain=gain,
    )


@jax.custom_jvp
def _implicit(
    ahead: Array, h: Array, mdp: TabularMDP, operator: BellmanOperator
) -> tuple[Array, Array]:
    """Zeros that carry the derivatives of gain and relative values with that of T h in anything.

    With the policy and nature's law held fixed, a change of T h is one of the rewards of a chain.
    """
    return jnp.zeros((), h.dtype), jnp.zeros_like(h)


@_implicit.defjvp
def _implicit_jvp(primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    ahead, h, mdp, operator = primals
    chain = jax.jacrev(lambda x: _undiscounted(mdp, operator)(x)[0])(h)
    bias, limit, _, _ = long_run(chain, tangents[0][:, None])
    change = mdp.initial @ (limit @ tangents[0]), bias[:, 0] - bias[0, 0]
    return _implicit(ahead, h, mdp, operator), change


def _undiscounted(mdp: TabularMDP, operator: BellmanOperator) -> Callable:
    """A sweep at discount 1 with restarts: `values[S]` -> what `sweep` returns."""
    model = mdp.replace(discount=jnp.ones_like(mdp.discount))

    def restarting(values: Array) -> tuple[Array, Array, Array]:
        if mdp.is_endless:
            return backup(model, operator, values)
        reward = model.reward + model.terminal * (model.initial @ values)
        return backup(model.replace(reward=reward), operator, values)

    return restarting


def _rounding(mdp: TabularMDP, operator: BellmanOperator, h: Array) -> Array:
    """Bounds what rounding adds to one sweep at `h`, and to the difference from it."""
    eps = jnp.finfo(h.dtype).eps
    size = jnp.max(jnp.abs(h))
    # Two numbers more for a restart; a law off by rounding counts as much.
    unit = 2 * rounding_unit(mdp, operator) + 2 * eps
    return unit * (jnp.max(jnp.abs(mdp.reward)) + 2 * size)


def multichain_policy_iteration(mdp: TabularMDP, *, max_iterations: int = 1000) -> Solution:
    """The best average reward of every first state, by policy iteration.

        gain = max_a P gain,  gain + bias = max { r + P bias : a keeps the gain }

    Actions are improved by the gain they lead to, and by the bias where no gain can be improved.
    Risk-neutral; for other operators see `relative_value_iteration`.

    Args:
        mdp: the model; its discount is not used, and where an episode ends the next begins from
            `initial`.
        max_iterations: policies at most.

    Returns:
        `Solution` with `gain` `[S]`: the policy's, which is optimal when `converged`. `values` are
        its bias, `q_values` are less the gain, `residual` is by how much the equations above fail.
        `error_bound` is of the gain: the bound of `relative_value_iteration` where all states have
        one gain, infinite where they do not, because a multichain gain is not continuous in the
        probabilities: no bound outlives their rounding.

    Raises:
        ValueError: `max_iterations` is below 1.

    Numerics:
        Actions that tie within rounding are kept, or the iteration might not end.

    Example:
        >>> from jaxrl import tabular_mdp
        >>> stay = [[[1.0, 0.0]], [[0.0, 1.0]]]
        >>> multichain_policy_iteration(tabular_mdp(stay, [[1.0], [2.0]])).gain.tolist()
        [1.0, 2.0]

    Sources:
        Howard (1960), Dynamic programming and Markov processes, chapter 6; Puterman (1994), Markov
        Decision Processes, section 9.2.
    """
    check_problem(mdp, max_iterations=max_iterations)
    return _multichain(mdp, max_iterations)


@jax.jit
def _multichain(mdp: TabularMDP, max_iterations: Array) -> Solution:
    kernel, reward = restarting_tables(mdp)
    legal = mdp.legal
    slack = 8 * jnp.finfo(reward.dtype).eps

    def improve(action: Array) -> tuple[Array, tuple]:
        chain, earned = at_actions(kernel, action), at_actions(reward, action)
        bias, limit, _, time = long_run(chain, earned[:, None])
        gain, bias = limit @ earned, bias[:, 0]
        leads_to = jnp.where(legal, kernel @ gain, -jnp.inf)
        ahead = jnp.where(legal, reward + kernel @ bias, -jnp.inf)
        spread = jnp.max(gain) - jnp.min(gain)
        gain_slack = slack * (jnp.max(jnp.abs(gain)) + time * spread)
        size = jnp.max(jnp.abs(earned)) + jnp.max(jnp.abs(bias))
        bias_slack = slack * (1.0 + time) * size

        most = jnp.max(leads_to, axis=1)
        better = most - at_actions(leads_to, action)
        keeps = leads_to >= (most - gain_slack)[:, None]
        kept = jnp.where(keeps, ahead, -jnp.inf)
        ahead_by = jnp.max(kept, axis=1) - at_actions(ahead, action)
        by_gain = jnp.where(better > gain_slack, jnp.argmax(leads_to, axis=1), action)
        by_bias = jnp.where(ahead_by > bias_slack, jnp.argmax(kept, axis=1), action)
        new = jnp.where(jnp.any(better > gain_slack), by_gain, by_bias)
        residual = jnp.maximum(jnp.max(better), jnp.max(ahead_by))
        return new, (gain, bias, ahead, residual, gain_slack, bias_slack)

    first = jnp.argmax(jnp.where(legal, reward, -jnp.inf), axis=1)
    count, action, stable = until_stable(lambda now: improve(now)[0], first, max_iterations)
    _, (gain, bias, ahead, residual, gain_slack, bias_slack) = improve(action)
    one_gain = jnp.max(gain) - jnp.min(gain) <= gain_slack
    highest = jnp.max(jnp.max(ahead, axis=1) - bias)
    return Solution(
        values=bias,
        q_values=ahead - gain[:, None],
        policy=jax.nn.one_hot(action, legal.shape[1], dtype=bias.dtype),
        residual=residual,
        error_bound=jnp.where(one_gain, highest - jnp.min(gain) + bias_slack, jnp.inf),
        num_iterations=count,
        converged=stable,
        gain=gain,
    )


class GainAndBias(Struct):
    """The long run of one policy, for every first state."""

    gain: Array  # [S] [return per step], limit gain_s = sum limit[s, :] r
    bias: Array  # [S] [return], deviation r: what starting in s adds to n gain, in the mean over n
    limit: Array  # [S, S], share of time spent in each state; rows sum to one
    deviation: Array  # [S, S] [steps], (I - P + limit)^-1 - limit
    recurrent: Array  # [S] bool, the states that are met for ever once they are


def gain_and_bias(mdp: TabularMDP, policy: Array) -> GainAndBias:
    """Gain and bias of one policy, exactly, for any number of classes and any period.

        gain = P gain,  gain + bias = r + P bias,  limit bias = 0

    with P and r the chain and the reward of the policy. The bias is the limit of the discounted
    value less gain / (1 - discount), as the discount tends to 1.

    Args:
        mdp: the model; its discount is not used, and where an episode ends the next begins from
            `initial`.
        policy: `[S, A]` probabilities.

    Returns:
        `GainAndBias`.

    Raises:
        ValueError: the policy is not one.

    Numerics:
        The classes are read off the pattern of zeros, and one linear system is solved; so a
        probability of 1e-12 is a way out and one of 0 is none. In a class, the error grows with
        the time it takes to forget the first state.

    Example:
        >>> from jaxrl import tabular_mdp
        >>> mdp = tabular_mdp([[[0.0, 1.0]], [[1.0, 0.0]]], [[0.0], [1.0]])  # a cycle of two
        >>> found = gain_and_bias(mdp, jnp.ones((2, 1)))
        >>> found.gain.tolist(), found.bias.tolist()
        ([0.5, 0.5], [-0.25, 0.25])

    Sources:
        Puterman (1994), Markov Decision Processes, sections 8.2 and 9.1 and appendix A; Veinott
        (1969), Discrete dynamic programming with sensitive discount optimality criteria.
    """
    return _gain_and_bias(mdp, check_policy(mdp, policy))


@jax.jit
def _gain_and_bias(mdp: TabularMDP, policy: Array) -> GainAndBias:
    kernel, reward = restarting_tables(mdp)
    chain = jnp.einsum("sa,sat->st", policy, kernel)
    eye = jnp.eye(chain.shape[0], dtype=chain.dtype)
    deviation, limit, recurrent, _ = long_run(chain, eye)
    earned = jnp.sum(policy * jnp.where(policy > 0, reward, 0.0), axis=1)
    return GainAndBias(limit @ earned, deviation @ earned, limit, deviation, recurrent)


def restarting_tables(mdp: TabularMDP) -> tuple[Array, Array]:
    """`P[S, A, S]`, whose rows sum to one because what ends begins anew, and `r[S, A]`."""
    kernel, reward = mdp.dense()
    if mdp.is_endless:
        return kernel, reward
    ends = jnp.sum(mdp.prob * mdp.terminal, axis=-1, keepdims=True)
    return kernel + ends * mdp.initial, reward


def long_run(chain: Array, rewards: Array) -> tuple[Array, Array, Array, Array]:
    """What M reward vectors `[S, M]` come to under one policy's chain `[S, S]`.

    In each closed class the first state's relative value is set to zero and its column taken by the
    gain, which leaves a square system; transient states then follow by another.

    Returns:
        biases `[S, M]`, the limiting matrix `[S, S]`, the recurrent states `[S]`, and the time
        scale `[]` [steps]: by how much the systems magnify rounding.
    """
    num_states, dtype = chain.shape[0], chain.dtype
    eye = jnp.eye(num_states, dtype=bool)
    reach = eye | (chain > 0)
    for _ in range(math.ceil(math.log2(num_states))):
        reach = (reach.astype(dtype) @ reach.astype(dtype)) > 0.5
    recurrent = jnp.all(~reach | reach.T, axis=1)
    first = jnp.argmax(reach, axis=1)  # of the class, where recurrent
    is_first = recurrent & (first == jnp.arange(num_states))
    of_class = jnp.arange(num_states)[None, :] == first[:, None]

    # Both systems as one of two blocks: nothing but its own class follows a recurrent state.
    stays = jnp.where(recurrent[:, None] == recurrent[None, :], eye - chain, 0.0)
    system = jnp.where(recurrent[:, None] & of_class, 1.0, stays)
    solve = partial(jax.scipy.linalg.lu_solve, jax.scipy.linalg.lu_factor(system))
    within = recurrent[:, None]
    time = jnp.max(jnp.sum(jnp.abs(solve(eye.astype(dtype))), axis=1))

    shares = jnp.maximum(solve(is_first.astype(dtype), trans=1), 0.0)
    limit = jnp.where(within & reach, shares, 0.0)
    limit = limit / jnp.where(within, jnp.sum(limit, axis=1, keepdims=True), 1.0)
    limit = limit + jnp.maximum(solve(jnp.where(within, 0.0, chain @ limit)), 0.0)
    limit = limit / jnp.sum(limit, axis=1, keepdims=True)
    gain = limit @ rewards
    bias = jnp.where(within & ~is_first[:, None], solve(jnp.where(within, rewards, 0.0)), 0.0)
    bias = bias - jnp.where(within, limit @ bias, 0.0)
    bias = bias + solve(jnp.where(within, 0.0, rewards - gain + chain @ bias))
    return bias, limit, recurrent, time
