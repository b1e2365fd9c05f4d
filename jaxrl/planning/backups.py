"""One backup of every state of a known model under a Bellman operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.core import Struct
from jaxrl.core.mdp import TabularMDP
from jaxrl.core.protocols import Functional
from jaxrl.core.types import Array
from jaxrl.functionals.per_pair import PerPair, over_pairs
from jaxrl.operators.bellman import BellmanOperator
from jaxrl.operators.improvement import over_states

CHUNK = 1 << 14  # numbers: with what a functional makes of them they fit a second-level cache


def discounts(mdp: TabularMDP) -> Array:
    """gamma (1 - terminal) of every outcome, `[S, A, K]`, or `[1, 1, 1]` when nothing ends."""
    if mdp.is_endless:
        return jnp.reshape(mdp.discount, (1, 1, 1))
    return mdp.discount * (1.0 - jnp.asarray(mdp.terminal, mdp.prob.dtype))


def successor_values(mdp: TabularMDP, values: Array) -> Array:
    """`values[S]` at the successor of every outcome, `[S, A, K]`; `[1, 1, S]` in a dense model."""
    return values[None, None, :] if mdp.is_dense else look_up(values, mdp.next_state)


def look_up(values: Array, states: Array) -> Array:
    """`values[S, ...]` at states, which are taken to be in range."""
    # Plain indexing first rewrites negative indices: another array of the model's size.
    return values.at[states].get(mode="promise_in_bounds", wrap_negative_indices=False)


def outcome_values(mdp: TabularMDP, operator: BellmanOperator, values: Array) -> Array:
    """What each outcome is worth: `values[S]` [return] -> `[S, A, K]` [return]."""
    return operator.composition(mdp.reward, discounts(mdp), successor_values(mdp, values))


def action_values(mdp: TabularMDP, operator: BellmanOperator, values: Array) -> Array:
    """What each action is worth: `values[S]` [return] -> `q[S, A]` [return]."""
    if is_large(mdp) and not operator.successor_functional.facts.is_expectation:
        return pair_by_pair(mdp, operator, values, lambda functional, p, x: functional(p, x))
    outcomes = outcome_values(mdp, operator, values)
    return over_pairs(operator.successor_functional, mdp.prob, outcomes)


def is_large(mdp: TabularMDP) -> bool:
    """Whether the outcomes of a model leave the cache of a processor that has one."""
    return mdp.prob.size > 16 * CHUNK and jax.default_backend() == "cpu"


def pair_by_pair(
    mdp: TabularMDP,
    operator: BellmanOperator,
    values: Array,
    function: Callable[[Functional, Array, Array], Any],
) -> Any:
    """`function(functional, probs[K], outcomes[K])` of every pair, in chunks that fit the cache.

    What a functional does in many passes then runs several times faster than pass by pass over the
    whole model, and a search ends with the slowest row of its chunk, not of all.
    """
    one, pairs, size = _pairs(mdp, operator, values, function)
    found = jax.lax.map(one, pairs, batch_size=size)
    return jax.tree.map(lambda x: jnp.reshape(x, (*mdp.legal.shape, *x.shape[1:])), found)


def worst_laws(mdp: TabularMDP, operator: BellmanOperator, values: Array) -> Array:
    """The slope of the functional in each outcome of every pair, `[S, A, K]`."""
    return pair_by_pair(mdp, operator, values, lambda f, p, x: jax.grad(f, argnums=1)(p, x))


def some_pairs(
    mdp: TabularMDP, operator: BellmanOperator, values: Array, chosen: Array, rest: Array
) -> Array:
    """What the chosen actions are worth, at the price of as many; `rest` stays where it is.

    Args:
        mdp: the model.
        operator: of any functional for single pairs.
        values: `[S]` [return].
        chosen: `[S, A]` bool.
        rest: `[S, A]` [return], for the others.
    """
    one, pairs, size = _pairs(mdp, operator, values, lambda functional, p, x: functional(p, x))
    num_pairs = chosen.size
    order = jnp.nonzero(jnp.ravel(chosen), size=num_pairs, fill_value=num_pairs)[0]
    count = jnp.sum(chosen)

    def chunk(state: tuple[Array, Array]) -> tuple[Array, Array]:
        start, found = state
        here = jax.lax.dynamic_slice_in_dim(order, start, size)
        rows = jax.tree.map(lambda x: x.at[here].get(mode="clip"), pairs)
        new = jax.vmap(one)(rows).astype(found.dtype)
        return start + size, found.at[here].set(new, mode="drop")

    begin = (jnp.zeros((), count.dtype), jnp.ravel(rest))
    found = jax.lax.while_loop(lambda state: state[0] < count, chunk, begin)[1]
    return jnp.reshape(found, rest.shape)


def _pairs(
    mdp: TabularMDP,
    operator: BellmanOperator,
    values: Array,
    function: Callable[[Functional, Array, Array], Any],
) -> tuple[Callable[[tuple], Any], tuple, int]:
    """`function` of one pair, the pairs with a leading axis, and how many fit the cache."""
    shape = mdp.prob.shape
    functional = operator.successor_functional
    inner = functional.functional if isinstance(functional, PerPair) else None

    def flat(leaf: Array) -> Array:
        return jnp.reshape(leaf, (shape[0] * shape[1], *jnp.shape(leaf)[2:]))

    def one(pair: tuple) -> Any:
        prob, next_state, reward, terminal, own = pair
        going_on: Any = 1.0 if terminal is None else 1.0 - jnp.asarray(terminal, prob.dtype)
        successors = values if next_state is None else look_up(values, next_state)
        outcomes = operator.composition(reward, mdp.discount * going_on, successors)
        # Found once, not again in every pass of the functional.
        outcomes = jax.lax.optimization_barrier(outcomes)
        return function(functional if own is None else own, prob, outcomes)

    next_state = None if mdp.is_dense else mdp.next_state
    terminal = None if mdp.is_endless else mdp.terminal
    pairs = jax.tree.map(flat, (mdp.prob, next_state, mdp.reward, terminal, inner))
    return one, pairs, min(max(CHUNK // shape[2], 1), shape[0] * shape[1])


def state_values(
    mdp: TabularMDP, operator: BellmanOperator, q_values: Array
) -> tuple[Array, Array, Array]:
    """What each state is worth: `q[S, A]` -> `values[S]`, the `q[S, A]` themselves and the
    `policy[S, A]`."""
    policy, bonus = over_states(operator.improvement, q_values, mdp.legal)
    counts = (policy > 0) | jnp.isfinite(q_values)
    values = jnp.sum(policy * (jnp.where(counts, q_values, 0.0) + bonus), axis=1)
    return values, q_values, policy


def is_shared(operator: BellmanOperator) -> bool:
    """Whether nature's budget is shared by the actions of a state (s-rectangular)."""
    return operator.successor_functional.facts.shared_over_actions


def is_linear(operator: BellmanOperator) -> bool:
    """Whether action values are linear in the values of the successors."""
    return operator.successor_functional.facts.is_expectation and operator.composition.facts.linear


def backup(mdp: TabularMDP, operator: BellmanOperator, values: Array) -> tuple[Array, Array, Array]:
    """One application of the operator.

    Args:
        mdp: the model.
        operator: with a scalar head.
        values: `[S]` [return].

    Returns:
        `values[S]`, `q[S, A]` [return] and `policy[S, A]`. A functional with a budget shared over
        actions plays against the operator's `FixedPolicy`, and otherwise against the best policy,
        which it returns; its q are those of each action alone with the whole budget.
    """
    functional: Any = operator.successor_functional
    if is_shared(operator):
        outcomes = outcome_values(mdp, operator, values)
        q_values = over_pairs(functional, mdp.prob, outcomes)
        if operator.improvement.facts.fixed:
            policy, _ = over_states(operator.improvement, q_values, mdp.legal)
            value = jax.vmap(functional.for_policy)(policy, mdp.prob, outcomes)
        else:
            value, policy = jax.vmap(functional.over_actions)(mdp.prob, outcomes, mdp.legal)
        return value, q_values, policy
    return state_values(mdp, operator, action_values(mdp, operator, values))


class Prepared(Struct):
    """A model and an operator made ready for many sweeps: what they share is computed once."""

    mdp: TabularMDP
    operator: BellmanOperator
    reward: Array | None  # [S, A] [return], expected, where action values are linear
    weights: Any  # [S, A, K], probability times discount, where also something ends
    mass: Array  # [S, A], the sum of the probabilities
    reward_size: Array  # [], the greatest |reward| [return]

    def backup(self, values: Array) -> tuple[Array, Array, Array]:
        """As `backup`, for the model and the operator."""
        if self.reward is None:
            return backup(self.mdp, self.operator, values)
        mdp = self.mdp
        weights = mdp.prob if self.weights is None else self.weights
        if mdp.is_dense:
            rest = jnp.reshape(weights, (-1, weights.shape[-1])) @ values
            rest = jnp.reshape(rest, self.reward.shape)
        else:
            rest = jnp.sum(weights * look_up(values, mdp.next_state), axis=-1)
        q_values = self.reward + (mdp.discount * rest if self.weights is None else rest)
        return state_values(mdp, self.operator, q_values)

    @property
    def knows_zero(self) -> bool:
        """Whether the backup of values of 0 costs nothing: all outcomes of a pair are worth the
        same, or action values are linear."""
        functional, composition = self.operator.successor_functional, self.operator.composition
        is_same = functional.facts.translation_equivariant and composition.facts.linear
        one_reward = self.mdp.reward.shape[-1] == 1 and is_same and not is_shared(self.operator)
        return self.reward is not None or one_reward

    def backup_of_zero(self) -> tuple[Array, Array, Array]:
        """The backup of values of 0, where `knows_zero`."""
        q_values = self.mdp.reward[..., 0] if self.reward is None else self.reward
        return state_values(self.mdp, self.operator, q_values)


def prepare(mdp: TabularMDP, operator: BellmanOperator) -> Prepared:
    """Compute what all sweeps share, in one pass over the model."""
    if mdp.reward.shape[-1] == 1:
        ones = jnp.ones((mdp.num_outcomes,), mdp.prob.dtype)
        mass = jnp.reshape(jnp.reshape(mdp.prob, (-1, ones.size)) @ ones, mdp.legal.shape)
        reward, size = mass * mdp.reward[..., 0], jnp.abs(mdp.reward)
    else:
        reward, mass, size = _sums(mdp.prob, mdp.reward)
    weights = None
    if not is_linear(operator):
        reward = None
    elif not mdp.is_endless:
        weights = mdp.prob * discounts(mdp)
    return Prepared(mdp, operator, reward, weights, mass, extremes(size)[1])


def _sums(prob: Array, reward: Array) -> tuple[Array, Array, Array]:
    """Over the last axis: the mean of the reward, the mass, and the greatest |reward|."""
    zero = jnp.zeros((), prob.dtype)

    def gather(x: tuple, y: tuple) -> tuple:
        return x[0] + y[0], x[1] + y[1], jnp.maximum(x[2], y[2])

    # One reduction of three numbers; three reductions would read the model three times.
    parts = prob * reward, prob, jnp.abs(reward)
    return jax.lax.reduce(parts, (zero, zero, zero), gather, (prob.ndim - 1,))


def extremes(array: Array) -> tuple[Array, Array]:
    """The least and the greatest entry, in one pass; NaN when there is one."""
    inf = jnp.asarray(jnp.inf, array.dtype)

    def widen(x: tuple, y: tuple) -> tuple:
        return jnp.minimum(x[0], y[0]), jnp.maximum(x[1], y[1])

    return jax.lax.reduce((array, array), (inf, -inf), widen, tuple(range(array.ndim)))
