"""Nature's kernel: a law of the set against which a plan is worth what the operator says."""

import jax
import numpy as np
import pytest

from jaxrl import BellmanOperator, planning, tabular_mdp
from jaxrl.functionals import CVaR, Entropic, MeanStd, PerPair, SharedL1

DISCOUNT, LEVEL, BUDGET = 0.9, 0.4, 0.6


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def random_mdp(seed):
    rng = np.random.default_rng(seed)
    prob = rng.dirichlet(np.ones(4), (4, 3))
    return tabular_mdp(prob, rng.normal(size=(4, 3, 4)), DISCOUNT)


def value_against(kernel, mdp, policy):
    """Of the policy where nature follows the kernel, by a linear system."""
    law = np.einsum("sa,sak->sk", policy, kernel)
    earned = np.einsum("sa,sak,sak->s", policy, kernel, np.asarray(mdp.reward))
    return np.linalg.solve(np.eye(4) - DISCOUNT * law, earned)


FUNCTIONALS = {
    "cvar": lambda: CVaR(LEVEL),
    "per pair": lambda: PerPair(CVaR(np.linspace(0.2, 1.0, 12).reshape(4, 3))),
    "shared": lambda: SharedL1(BUDGET),
}


@pytest.mark.parametrize(
    "name", ["cvar", *(pytest.param(n, marks=pytest.mark.slow) for n in ("per pair", "shared"))]
)
def test_a_plan_is_worth_its_robust_value_against_the_kernel(name):
    mdp = random_mdp(0)
    operator = BellmanOperator(successor_functional=FUNCTIONALS[name]())
    found = planning.value_iteration(mdp, operator, tolerance=1e-10)
    kernel = np.asarray(
        planning.worst_case_kernel(mdp, operator, found.values, found.policy), float
    )
    prob, policy = np.asarray(mdp.prob), np.asarray(found.policy)
    np.testing.assert_allclose(kernel.sum(axis=-1), 1.0, atol=1e-9)
    assert kernel.min() > -1e-12
    np.testing.assert_allclose(value_against(kernel, mdp, policy), found.values, atol=1e-8)
    assert np.any(value_against(prob, mdp, policy) > found.values + 0.1)  # nature does harm
    if name == "cvar":
        assert np.all(kernel <= prob / LEVEL + 1e-12)
    if name == "shared":
        moved = np.abs(kernel - prob).sum(axis=-1)
        assert np.all(moved.sum(axis=1) <= BUDGET + 1e-9)
        np.testing.assert_array_equal(moved[policy == 0], 0.0)


def test_entropic_risk_tilts_the_law():
    mdp = random_mdp(1)
    operator = BellmanOperator(successor_functional=Entropic(2.0))
    values = np.arange(4.0)
    kernel = planning.worst_case_kernel(mdp, operator, values, np.full((4, 3), 1 / 3))
    tilted = np.asarray(mdp.prob) * np.exp(-2.0 * (np.asarray(mdp.reward) + DISCOUNT * values))
    np.testing.assert_allclose(kernel, tilted / tilted.sum(axis=-1, keepdims=True), rtol=1e-9)


def test_a_slope_that_is_no_law_leaves_the_model_s():
    mdp = random_mdp(2)
    operator = BellmanOperator(successor_functional=MeanStd(1.0))
    kernel = planning.worst_case_kernel(mdp, operator, np.arange(4.0), np.full((4, 3), 1 / 3))
    np.testing.assert_array_equal(kernel, mdp.prob)
