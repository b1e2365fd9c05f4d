"""What every solver shares: its answer, its loop, what it refuses and what it warns of."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxrl.core import Struct
from jaxrl.core.mdp import TabularMDP
from jaxrl.core.schedules import has_schedule
from jaxrl.core.types import Array, is_traced
from jaxrl.operators.bellman import BellmanOperator, describe


class Solution(Struct):
    """Values, policy, and how far from the fixed point they may be.

    Under `vmap` every field gains a leading axis. Nothing is raised when an iteration does not
    converge: look at `converged` and `error_bound`.

    Two things end an iteration with `converged` true: an error bound within the tolerance where
    the operator has a certificate, a residual within it where it has none (`error_bound` is then
    inf, and how far the values are from the fixed point is not known). `certificates.py` says
    which operators have one.
    """

    values: Array  # [S] [return]
    q_values: Array  # [S, A] [return]; -inf where illegal
    policy: Array  # [S, A], probabilities
    residual: Array  # [], bounds the sup norm of one more sweep's change [return]
    error_bound: Array  # [], bounds max |values - exact values|, rounding included; inf: unknown
    num_iterations: Array  # [] int32, sweeps over all states and actions
    converged: Array  # [] bool, the error bound (without one: the residual) is in the tolerance
    gain: Array | None = None  # [] or [S] [return per step], of average-reward solvers
    params: Array | None = None  # [S, A, *head.shape], of distributional solvers


def repeat(
    step: Callable[[Any], Any], goes_on: Callable[[Any], Array], state: Any, most: Array | int
) -> tuple[Array, Any]:
    """`state -> step(state)` as long as it goes on, `most` times at most.

    Returns:
        How often it was stepped, `[]` int32, and the last state.
    """
    return jax.lax.while_loop(
        lambda now: (now[0] < most) & goes_on(now[1]),
        lambda now: (now[0] + 1, step(now[1])),
        (jnp.zeros((), jnp.int32), state),
    )


def until_stable(
    improve: Callable[[Array], Array], actions: Array, most: Array | int
) -> tuple[Array, Array, Array]:
    """`actions[S]` improved until none changes -> how often, the last ones, whether they stand."""

    def step(state: tuple) -> tuple:
        new = improve(state[0])
        return new, jnp.all(new == state[0])

    start = actions, jnp.zeros((), bool)
    count, (actions, stable) = repeat(step, lambda state: ~state[1], start, most)
    return count, actions, stable


def at_actions(table: Array, actions: Array) -> Array:
    """`table[s, actions[s]]`: `[S, A, ...]` -> `[S, ...]`."""
    return table[jnp.arange(actions.shape[0]), actions]


def is_stalled(solution: Solution, max_iterations: Any) -> Array:
    """Whether nothing but rounding can have stopped an iteration that did not converge."""
    return (solution.num_iterations < max_iterations) & jnp.isfinite(solution.residual)


def tell_of_rounding(
    mdp: TabularMDP, solution: Any, is_stalled: bool | Array, tolerance: Any
) -> None:
    """Warn where float32 is what stopped an iteration before the tolerance.

    Args:
        mdp: the model.
        solution: with `converged`.
        is_stalled: see `is_stalled`.
        tolerance: asked for [return].
    """
    if is_traced(solution, is_stalled, tolerance) or mdp.prob.dtype != np.float32:
        return
    if np.any(np.asarray(is_stalled) & ~np.asarray(solution.converged)):
        # The same words for the same tolerance, which Python repeats once for each place.
        warnings.warn(
            f"Rounding of float32 stops the iteration before tolerance={np.max(tolerance):.2g}; "
            "error_bound says how near it came. Ask for less, or make the model and plan inside "
            "`with jax.enable_x64(True):`.",
            stacklevel=3,
        )


def check_range(
    name: str, value: Any, low: float, high: float = math.inf, ends: str = "[]"
) -> None:
    """Raise `ValueError` on a concrete number, or several, out of range.

    Args:
        name: of the argument.
        value: of the argument.
        low: lower end.
        high: upper end.
        ends: square where the end itself is allowed, round where it is not: `[)`.
    """
    if is_traced(value):
        return
    numbers = np.asarray(value)
    above = numbers >= low if ends[0] == "[" else numbers > low
    below = numbers <= high if ends[1] == "]" else numbers < high
    if not np.all(above & below):
        raise ValueError(
            f"{name}={value} is out of range: give a value in {ends[0]}{low:g}, {high:g}{ends[1]}."
        )


def check_int(name: str, value: Any, low: int = 1) -> None:
    """Raise `ValueError` unless `value` is an integer of at least `low`."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < low:
        raise ValueError(f"{name}={value!r} must be an int of at least {low}.")


def check_shape(name: str, array: Any, shape: tuple[int, ...]) -> None:
    """Raise `ValueError` unless `array` has the shape."""
    if jnp.shape(array) != shape:
        raise ValueError(f"{name} must have shape {list(shape)}; got {list(jnp.shape(array))}.")


def check_model(mdp: TabularMDP) -> None:
    """Raise `ValueError` for a batch of models, and for numbers wider than those in use."""
    if mdp.prob.ndim != 3:
        raise ValueError(
            f"mdp.prob must have shape [S, A, K]; got {list(mdp.prob.shape)}. Map the solver over "
            "a batch of models: jax.vmap(value_iteration)(mdps)."
        )
    if mdp.prob.dtype == np.float64 != jnp.result_type(float):
        raise ValueError(
            f"mdp holds {mdp.prob.dtype} numbers, but 64-bit numbers are off here: plan inside "
            "`with jax.enable_x64(True):`, where the model was made."
        )


def check_policy(mdp: TabularMDP, policy: ArrayLike, horizon: int | None = None) -> Array:
    """A policy as an array, after checking it.

    Args:
        mdp: the model.
        policy: probabilities `[S, A]`, or also `[H, S, A]` when there is a horizon.
        horizon: H.

    Raises:
        ValueError: its shape is wrong, or concrete rows are no law over legal actions.
    """
    check_model(mdp)
    if horizon is not None:
        check_int("horizon", horizon)
    policy = jnp.asarray(policy, mdp.prob.dtype)
    shape = mdp.legal.shape
    shapes = [shape] if horizon is None else [shape, (horizon, *shape)]
    if policy.shape not in shapes:
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        raise ValueError(
            f"policy must have shape {wanted}, probabilities; got {list(policy.shape)}."
        )
    if is_traced(policy, mdp.legal):
        return policy
    rows = np.asarray(policy)
    if not (np.all(rows >= 0) and np.allclose(rows.sum(axis=-1), 1.0, atol=1e-4)):
        raise ValueError("policy must hold probabilities: each row >= 0 and summing to one.")
    wrong = np.argwhere((rows > 0) & ~np.asarray(mdp.legal))
    if wrong.size:
        state, action = wrong[0][-2:]
        raise ValueError(f"policy takes an illegal action: state {state}, action {action}.")
    return policy


def check_problem(
    mdp: TabularMDP,
    operator: BellmanOperator | None = None,
    tolerance: Any = 1.0,
    max_iterations: Any = 1,
) -> BellmanOperator:
    """Refuse concrete arguments that are out of range, and operators that tables cannot hold.

    Returns:
        The operator; None is the risk-neutral optimum.
    """
    operator = BellmanOperator() if operator is None else operator
    check_model(mdp)
    if operator.head.shape != ():
        raise ValueError(
            f"{describe(operator.head)} stores more than a value. Use BellmanOperator(head="
            "Scalar(), ...) here, or distributional_value_iteration for laws of returns."
        )
    operator.require_successors(mdp.num_outcomes, exact=True)
    if has_schedule(operator):
        raise ValueError(
            "A number of the operator is a schedule, which only training has a use for: give a "
            "plan the number itself."
        )
    functional, chosen = operator.successor_functional, operator.improvement.facts
    if functional.facts.shared_over_actions and not (chosen.fixed or chosen.deterministic):
        raise ValueError(
            f"{describe(functional)} finds the policy of a state itself: use Greedy() or "
            f"FixedPolicy, not {describe(operator.improvement)}."
        )
    check_range("tolerance", tolerance, 0, ends="(]")
    check_range("max_iterations", max_iterations, 1)
    return operator
