"""Derivatives through the fixed point: against differences and the closed form."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl.functionals import CVaR, KLBall
from jaxrl.operators import Softmax
from jaxrl.planning import policy_evaluation, value_iteration

NUM_STATES, NUM_ACTIONS, NUM_OUTCOMES = 4, 2, 3


def random_mdp(seed: int = 0, num_states: int = NUM_STATES) -> jaxrl.TabularMDP:
    rng = np.random.default_rng(seed)
    shape = (num_states, NUM_ACTIONS, NUM_OUTCOMES)
    return jaxrl.outcome_mdp(
        rng.dirichlet(np.ones(NUM_OUTCOMES), shape[:2]),
        rng.integers(0, num_states, shape),
        rng.normal(size=shape),
        0.9,
        terminal=rng.choice([0.0, 0.1], shape),
        mask=np.arange(NUM_ACTIONS) <= (np.arange(num_states) % 3 > 0)[:, None],
    )


def going_on(mdp: jaxrl.TabularMDP) -> np.ndarray:
    """`P[S, A, S]`, less what ends."""
    table = np.zeros((*mdp.legal.shape, mdp.num_states))
    rows, columns = (x[..., None] for x in np.indices(mdp.legal.shape))
    share = np.asarray(mdp.prob) * (1.0 - np.asarray(mdp.terminal))
    np.add.at(table, (rows, columns, np.asarray(mdp.next_state)), share)
    return table


OPERATORS = {
    "kl": jaxrl.BellmanOperator(successor_functional=KLBall(0.1)),
    "cvar-softmax": jaxrl.BellmanOperator(
        successor_functional=CVaR(0.45), improvement=Softmax(0.3)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATORS)
def test_derivatives_match_differences(name) -> None:
    """In reward, probabilities, discount, ends, and the settings of the operator."""
    with jax.enable_x64(True):
        mdp, operator = random_mdp(), OPERATORS[name]
        floats, rest = jax.tree.flatten((mdp, operator))
        moves = [jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in floats]
        held = [None if moving else leaf for leaf, moving in zip(floats, moves, strict=True)]
        weights = np.random.default_rng(1).normal(size=NUM_STATES)

        @jax.jit
        def worth(moving: list) -> jax.Array:
            pool = iter(moving)
            leaves = [next(pool) if leaf is None else leaf for leaf in held]
            model, op = jax.tree.unflatten(rest, leaves)
            solution = value_iteration(model, op, tolerance=1e-11)
            q = jnp.where(model.legal, solution.q_values, 0.0)
            return weights @ solution.values + jnp.sum(q**2)

        numbers = [np.asarray(x, np.float64) for x, m in zip(floats, moves, strict=True) if m]
        both = jax.jit(jax.value_and_grad(worth))
        slopes = jax.device_get(both(numbers)[1])
        rng, prob = np.random.default_rng(2), np.asarray(mdp.prob)
        step = 1e-6
        for place, number in enumerate(numbers):
            direction = np.asarray(rng.normal(size=number.shape))
            if number.shape == mdp.prob.shape:
                # Within the simplex; and no end becomes impossible, or sure.
                direction = direction - np.mean(direction, axis=-1, keepdims=True)
                direction = np.where(number > 0, direction, 0.0)
            if place == 0:
                direction = direction * prob
                direction = direction - prob * direction.sum(-1, keepdims=True)

            def along(size: float, place=place, direction=direction) -> float:
                moved = list(numbers)
                moved[place] = moved[place] + size * direction
                return float(both(moved)[0])

            difference = (along(step) - along(-step)) / (2 * step)
            expected = float(np.sum(slopes[place] * direction))
            scale = 1e-4 * (1.0 + abs(expected))
            assert abs(difference - expected) < scale, place
        some = [np.asarray(rng.normal(size=number.shape)) for number in numbers]
        forward = jax.jvp(worth, (numbers,), (some,))[1]
        backward = sum(np.sum(a * b) for a, b in zip(slopes, some, strict=True))
        np.testing.assert_allclose(forward, backward, rtol=1e-9)


@pytest.mark.parametrize(
    "num_states",
    [NUM_STATES, pytest.param(600, marks=pytest.mark.slow)],
    ids=["factorised", "iterated"],
)
def test_linear_evaluation_has_the_closed_form(num_states) -> None:
    """d(c.v)/dr = c (1 - gamma P)^-1, times the policy and the probabilities."""
    with jax.enable_x64(True):
        mdp = random_mdp(3, num_states)
        rng = np.random.default_rng(4)
        policy = rng.dirichlet(np.ones(NUM_ACTIONS), num_states)
        policy = np.where(mdp.legal, policy, 0.0)
        policy = policy / policy.sum(axis=1, keepdims=True)
        weights = rng.normal(size=num_states)

        def worth(reward: jax.Array, chosen: jax.Array) -> jax.Array:
            model = mdp.replace(reward=reward)
            return weights @ policy_evaluation(model, chosen, tolerance=1e-9).values

        slopes, by_policy = jax.jit(jax.grad(worth, argnums=(0, 1)))(np.asarray(mdp.reward), policy)
        table = np.einsum("sa,sat->st", policy, going_on(mdp))
        visits = np.linalg.solve((np.eye(num_states) - 0.9 * table).T, weights)
        expected = visits[:, None, None] * policy[..., None] * np.asarray(mdp.prob)
        np.testing.assert_allclose(slopes, expected, atol=1e-9)
        # dv/dpolicy(s, a) = visits(s) q(s, a), on the legal actions; of a law given as it stands.
        earned = np.sum(np.asarray(mdp.prob) * np.asarray(mdp.reward), axis=-1)
        values = np.linalg.solve(np.eye(num_states) - 0.9 * table, np.sum(policy * earned, 1))
        q_values = earned + 0.9 * going_on(mdp) @ values
        by_hand = visits[:, None] * q_values
        np.testing.assert_allclose(
            np.asarray(by_policy)[policy > 0], by_hand[policy > 0], atol=1e-9
        )


@pytest.mark.slow
def test_the_policy_of_an_evaluation_has_a_derivative() -> None:
    """dv/dpolicy(s, a) = visits(s) q(s, a)."""
    with jax.enable_x64(True):
        mdp = random_mdp(5)
        mdp = mdp.replace(legal=jnp.ones_like(mdp.legal))
        policy = jnp.full((NUM_STATES, NUM_ACTIONS), 0.5)
        solution = policy_evaluation(mdp, policy)
        slopes = jax.grad(lambda p: policy_evaluation(mdp, p).values[0])(policy)
        table = np.einsum("sa,sat->st", policy, np.asarray(mdp.dense()[0]))
        visits = np.linalg.solve((np.eye(NUM_STATES) - 0.9 * table).T, np.eye(NUM_STATES)[0])
        np.testing.assert_allclose(slopes, visits[:, None] * solution.q_values, rtol=1e-6)


@pytest.mark.slow
def test_where_it_started_has_no_derivative() -> None:
    mdp = random_mdp(6)
    start = jnp.ones(NUM_STATES)
    slopes = jax.grad(
        lambda v: value_iteration(mdp, tolerance=1e-3, initial_values=v).values.sum()
    )(start)
    np.testing.assert_array_equal(slopes, 0.0)
