"""Occupancy measures: how often a policy meets each state and action."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core.mdp import TabularMDP
from jaxrl.core.types import Array


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
    check_policy(mdp, policy)
    discount = mdp.discount
    if mdp.is_endless and not isinstance(discount, jax.core.Tracer) and np.any(discount == 1):
        raise ValueError(
            "discount=1 and nothing ends: the occupancy is infinite. For the share of time spent "
            "in each state use gain_and_bias(mdp, policy).limit."
        )
    return _occupancy(mdp, jnp.asarray(policy, mdp.prob.dtype))


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


def occupancy_policy(mdp: TabularMDP, measure: Array) -> Array:
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
    return shares(mdp.legal, measure)


def shares(legal: Array, measure: Array) -> Array:
    """Each state's share of its legal actions, `[S, A]`; even shares where `measure` is zero."""
    measure = jnp.where(legal, measure, 0.0)
    total = jnp.sum(measure, axis=1, keepdims=True)
    even = legal / jnp.sum(legal, axis=1, keepdims=True).astype(measure.dtype)
    return jnp.where(total > 0, measure / jnp.where(total > 0, total, 1.0), even)


def check_policy(mdp: TabularMDP, policy: Array) -> None:
    """Refuse what is not a policy `[S, A]` of the model."""
    if mdp.prob.ndim != 3:
        raise ValueError(
            f"this is a batch of models (prob has shape {list(mdp.prob.shape)}): map over it with "
            "jax.vmap."
        )
    shape = jnp.shape(policy)
    if shape != mdp.legal.shape:
        raise ValueError(f"policy must have shape {list(mdp.legal.shape)}; got {list(shape)}.")
    if isinstance(policy, jax.core.Tracer) or isinstance(mdp.legal, jax.core.Tracer):
        return
    table = np.asarray(policy)
    if not (np.all(table >= 0) and np.all(np.abs(table.sum(axis=1) - 1.0) <= 1e-4)):
        raise ValueError(
            "policy must hold non-negative probabilities that sum to one over actions."
        )
    if np.any((table > 0) & ~np.asarray(mdp.legal)):
        state, action = np.argwhere((table > 0) & ~np.asarray(mdp.legal))[0]
        raise ValueError(f"policy takes an illegal action: state {state}, action {action}.")
