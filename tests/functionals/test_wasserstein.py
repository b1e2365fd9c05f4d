"""The transport ball: certificate, linear program over plans, limits."""

import numpy as np
import pytest
from hard_laws import NUM_LAWS, measure, random_laws
from scipy.optimize import linprog

from jaxrl.functionals import TotalVariation, Wasserstein

TIGHT = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}


def random_costs(size, seed=0):
    """Distances of points at many scales, and costs that are none; one transport is free."""
    rng = np.random.default_rng(seed)
    places = rng.normal(size=(NUM_LAWS, size, 2))
    costs = np.linalg.norm(places[:, :, None] - places[:, None, :], axis=-1)
    costs *= 10 ** rng.uniform(-3, 3, (NUM_LAWS, 1, 1))
    costs[::4] = rng.uniform(size=costs[::4].shape) * (1 - np.eye(size))
    costs[1::4, 0, 1] = 0.0
    return costs


def transport_program(probs, values, radius, cost, support):
    """Over plans p_i t_ij: rows sum to p, total cost within the radius."""
    size = probs.size
    low, spread = values.min(), max(np.ptp(values), 1e-300)
    open_to = (probs > 0) | (support == "full")
    solved = linprog(
        np.tile((values - low) / spread, size),
        A_eq=np.kron(np.eye(size), np.ones((1, size))),
        b_eq=probs,
        A_ub=cost.ravel()[None] / radius,
        b_ub=[1.0],
        bounds=[(0, None if ok else 0) for _ in range(size) for ok in open_to],
        options=TIGHT,
    )
    assert solved.success, solved.message
    return low + spread * solved.fun


@pytest.mark.slow
@pytest.mark.parametrize("size, support", [(7, "nominal"), (7, "full"), (40, "nominal")])
def test_is_the_linear_program_and_certified(size, support):
    probs, values, radii = random_laws(size)
    costs = random_costs(size)
    radii = radii * costs.max((1, 2))
    functionals = Wasserstein(radii, costs, support)
    results, (by_own, by_probs, laws) = measure(functionals, probs, values)
    scales, reachable = np.abs(values).max(1), (probs > 0) | (support == "full")
    assert np.all(laws >= 0) and np.all(np.where(reachable, 0, laws) == 0)
    np.testing.assert_allclose(np.sum(laws, 1), 1.0, rtol=1e-13)
    prices = -by_own.radius
    offers = values[:, None, :] + prices[:, None, None] * costs
    offers = np.where(reachable[:, None, :], offers, np.inf).min(2)
    bounds = np.sum(probs * offers, 1) - prices * radii
    assert np.all(np.abs(np.sum(laws * values, 1) - bounds) <= 1e-12 * scales)
    assert np.all(np.abs(results - bounds) <= 1e-12 * scales)
    linear = np.sum(by_probs * probs, 1) - prices * radii
    assert np.all(np.abs(linear - results) <= 1e-12 * scales)
    # Where the budget binds, the derivative in the cost is the price times the plan.
    binds = prices > 0
    assert np.any(binds)
    plans = by_own.cost[binds] / prices[binds, None, None]
    np.testing.assert_allclose(plans.sum(1), laws[binds], atol=1e-12)
    np.testing.assert_allclose(np.sum(plans * costs[binds], (1, 2)), radii[binds], rtol=1e-7)
    for i in range(0, NUM_LAWS, 13 if size > 7 else 4):
        expected = transport_program(probs[i], values[i], radii[i], costs[i], support)
        assert abs(results[i] - expected) <= 1e-9 * scales[i]


@pytest.mark.slow
def test_unit_costs_are_total_variation():
    probs, values, radii = random_laws(7)
    costs = np.stack([1.0 - np.eye(7)] * NUM_LAWS)
    results = measure(Wasserstein(radii, costs), probs, values)[0]
    expected = measure(TotalVariation(radii), probs, values)[0]
    assert np.all(np.abs(results - expected) <= 1e-13 * np.abs(values).max(1))
    absent = measure(Wasserstein(radii), probs, values)[0]
    np.testing.assert_array_equal(absent, results)


@pytest.mark.slow
def test_free_transport_needs_no_radius():
    """Cost 0 from the second atom to the first: at radius 0 all its mass goes there."""
    costs = np.array([[[0.0, 1.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]])
    probs, values = np.array([[0.25, 0.25, 0.5]]), np.array([[0.0, 4.0, 8.0]])
    result, (_, _, laws) = measure(Wasserstein(np.zeros(1), costs), probs, values)
    assert result[0] == pytest.approx(4.0) and laws[0, 0] == pytest.approx(0.5)
