"""Policy iteration and evaluation against brute force and linear programs."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

import jaxrl
from jaxrl.functionals import SharedL1, TotalVariation
from jaxrl.operators import Softmax
from jaxrl.planning import (
    FrozenSweeps,
    policy_evaluation,
    policy_iteration,
    value_iteration,
)

NUM_STATES, NUM_ACTIONS, NUM_OUTCOMES = 4, 2, 3
ROBUST = jaxrl.BellmanOperator(successor_functional=TotalVariation(0.2))
SHARED = jaxrl.BellmanOperator(successor_functional=SharedL1(0.4))


def random_mdp(seed: int, discount: float = 0.9) -> jaxrl.TabularMDP:
    rng = np.random.default_rng(seed)
    shape = (NUM_STATES, NUM_ACTIONS, NUM_OUTCOMES)
    return jaxrl.outcome_mdp(
        rng.dirichlet(np.ones(NUM_OUTCOMES), shape[:2]),
        rng.integers(0, NUM_STATES, shape),
        rng.normal(size=shape),
        discount,
        terminal=rng.random(shape) < 0.1,
    )


def stack(mdps: list[jaxrl.TabularMDP]) -> jaxrl.TabularMDP:
    is_endless = all(mdp.is_endless for mdp in mdps)
    return jax.tree.map(lambda *x: np.stack(x), *(m.replace(is_endless=is_endless) for m in mdps))


def linear_values(mdp: jaxrl.TabularMDP, policy: np.ndarray) -> np.ndarray:
    prob, terminal = np.asarray(mdp.prob, np.float64), np.asarray(mdp.terminal)
    there = np.eye(NUM_STATES)[np.asarray(mdp.next_state)]
    table = np.einsum("sak,sakt->sat", prob * ~terminal, there)
    reward = np.sum(prob * np.asarray(mdp.reward), axis=-1)
    kernel = np.einsum("sa,sat->st", policy, table)
    system = np.eye(NUM_STATES) - float(mdp.discount) * kernel
    return np.linalg.solve(system, np.sum(policy * reward, axis=1))


def test_policy_iteration_finds_the_best_of_all_policies() -> None:
    with jax.enable_x64(True):
        models = [random_mdp(seed, 0.99) for seed in range(8)]
        found = jax.device_get(jax.jit(jax.vmap(policy_iteration))(stack(models)))
        assert np.all(np.asarray(found.converged))
        assert np.all(np.asarray(found.num_iterations) <= 8)
        for i, mdp in enumerate(models):
            choices = itertools.product(range(NUM_ACTIONS), repeat=NUM_STATES)
            every = np.stack(
                [linear_values(mdp, np.eye(NUM_ACTIONS)[list(choice)]) for choice in choices]
            )
            np.testing.assert_allclose(found.values[i], every.max(axis=0), atol=1e-8)
            # The policy returned is as good as the values say.
            np.testing.assert_allclose(
                linear_values(mdp, np.asarray(found.policy[i])), found.values[i], atol=1e-8
            )


@pytest.mark.slow
def test_modified_policy_iteration_agrees_for_any_number_of_inner_sweeps() -> None:
    with jax.enable_x64(True):
        mdp = random_mdp(3)
        exact = policy_iteration(mdp, tolerance=1e-10)
        sweeps = []
        for num_inner in (0, 5):
            found = value_iteration(mdp, acceleration=FrozenSweeps(num_inner, 0.0))
            assert bool(found.converged)
            assert np.max(np.abs(found.values - exact.values)) <= found.error_bound + 1e-10
            sweeps.append(int(found.num_iterations))
        assert sweeps[1] < sweeps[0]
    with pytest.raises(ValueError, match="num_sweeps"):
        FrozenSweeps(-1)


def test_evaluation_is_a_linear_solve() -> None:
    with jax.enable_x64(True):
        policies = np.random.default_rng(0).dirichlet(np.ones(NUM_ACTIONS), (4, NUM_STATES))
        for seed, policy in enumerate(policies):
            mdp = random_mdp(seed).replace(is_endless=False)
            found = policy_evaluation(mdp, policy)
            np.testing.assert_allclose(found.values, linear_values(mdp, policy), atol=1e-10)
            np.testing.assert_allclose(found.policy, policy)
            assert int(found.num_iterations) == 2  # from 0, and at the solution


def test_evaluation_of_integer_actions_and_refusals() -> None:
    with jax.enable_x64(True):
        mdp = random_mdp(0).replace(is_endless=False)
        found = policy_evaluation(mdp, np.array([0, 1, 1, 0]))
        expected = linear_values(mdp, np.eye(2)[[0, 1, 1, 0]])
        np.testing.assert_allclose(found.values, expected, atol=1e-10)
        with pytest.raises(ValueError, match="policy must have shape"):
            policy_evaluation(mdp, np.full((3, 2), 0.5))
        with pytest.raises(ValueError, match="no policy"):
            policy_evaluation(mdp, np.ones((NUM_STATES, NUM_ACTIONS)))


def worst_mean(prob: np.ndarray, worth: np.ndarray, weight: np.ndarray, budget: float) -> float:
    """min sum_a weight_a q_a.worth_a over laws q_a with sum_a |q_a - prob_a| <= budget.

    Args: rows `[A, N]`; the budget is in L1 distance, shared by the rows.
    """
    size = prob.size
    cost = np.concatenate([(weight[:, None] * worth).ravel(), np.zeros(size)])
    distance = np.concatenate([np.zeros(size), np.ones(size)])
    eye = np.eye(size)
    above, below = np.hstack([eye, -eye]), np.hstack([-eye, -eye])
    sums = np.hstack(
        [np.kron(np.eye(len(prob)), np.ones(prob.shape[1])), np.zeros((len(prob), size))]
    )
    result = linprog(
        cost,
        A_ub=np.vstack([above, below, distance]),
        b_ub=np.concatenate([prob.ravel(), -prob.ravel(), [budget]]),
        A_eq=sums,
        b_eq=np.ones(len(prob)),
    )
    assert result.success
    return result.fun


def outcome_worth(mdp: jaxrl.TabularMDP, values: np.ndarray) -> np.ndarray:
    going_on = float(mdp.discount) * (1.0 - np.asarray(mdp.terminal, np.float64))
    return np.asarray(mdp.reward) + going_on * np.asarray(values)[np.asarray(mdp.next_state)]


@pytest.mark.slow
def test_robust_evaluation_is_the_fixed_point_of_a_linear_program() -> None:
    with jax.enable_x64(True):
        mdp = random_mdp(5)
        policy = np.random.default_rng(1).dirichlet(np.ones(NUM_ACTIONS), NUM_STATES)
        found = policy_evaluation(mdp, policy, ROBUST, tolerance=1e-9)
        worth, prob = outcome_worth(mdp, found.values), np.asarray(mdp.prob)
        for s in range(NUM_STATES):  # half the L1 distance is at most 0.2, for each action
            one = np.ones(1)
            q = [worst_mean(prob[s, [a]], worth[s, [a]], one, 0.4) for a in range(NUM_ACTIONS)]
            assert abs(policy[s] @ q - float(found.values[s])) < 1e-8


@pytest.mark.slow
def test_shared_budget_plays_against_the_policy_as_a_whole() -> None:
    with jax.enable_x64(True):
        mdp = random_mdp(6)
        policy = np.random.default_rng(2).dirichlet(np.ones(NUM_ACTIONS), NUM_STATES)
        found = policy_evaluation(mdp, policy, SHARED, tolerance=1e-9)
        worth, prob = outcome_worth(mdp, found.values), np.asarray(mdp.prob)
        for s in range(NUM_STATES):
            expected = worst_mean(prob[s], worth[s], policy[s], 0.4)
            assert abs(expected - float(found.values[s])) < 1e-8
    with pytest.raises(ValueError, match="finds the policy"):
        value_iteration(random_mdp(6), SHARED.replace(improvement=Softmax(1.0)))


@pytest.mark.slow
def test_against_a_shared_budget_the_best_policy_is_random() -> None:
    """Actions of equal worth and unlike risks: the best policy spreads the risk."""
    with jax.enable_x64(True):
        mdp = random_mdp(6)
        policy = np.random.default_rng(2).dirichlet(np.ones(NUM_ACTIONS), NUM_STATES)
        mdp = mdp.replace(reward=mdp.reward - jnp.mean(mdp.reward, axis=(1, 2), keepdims=True))
        level = jnp.sum(mdp.prob * mdp.reward, axis=2, keepdims=True)
        mdp = mdp.replace(reward=mdp.reward - level)
        found = policy_evaluation(mdp, policy, SHARED, tolerance=1e-9)
        best = value_iteration(mdp, SHARED, tolerance=1e-9)
        kept = policy_evaluation(mdp, best.policy, SHARED, tolerance=1e-9)
        np.testing.assert_allclose(kept.values, best.values, atol=1e-7)
        assert np.all(np.asarray(best.values) >= np.asarray(found.values) - 1e-8)
        assert np.any((np.asarray(best.policy) > 0.01).sum(axis=1) > 1)  # randomised


@pytest.mark.slow
def test_robust_policy_iteration_is_robust_value_iteration() -> None:
    with jax.enable_x64(True):
        mdp = random_mdp(7, 0.99)
        newton = policy_iteration(mdp, ROBUST)
        swept = value_iteration(mdp, ROBUST, acceleration=FrozenSweeps(0))
        assert bool(newton.converged)
        assert bool(swept.converged)
        assert int(newton.num_iterations) < int(swept.num_iterations)
        gap = np.max(np.abs(newton.values - swept.values))
        assert gap <= float(newton.error_bound + swept.error_bound)
