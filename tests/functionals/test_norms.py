"""Weighted L1, L2 and ellipsoids: certificates, linear and conic programs, limits."""

import numpy as np
import pytest
from hard_laws import NUM_LAWS, least, measure, random_laws

from jaxrl.functionals import Ellipsoid, TotalVariation, WeightedL1

CONIC = {"solver": "CLARABEL", "tol_gap_abs": 1e-11, "tol_gap_rel": 1e-11, "tol_feas": 1e-11}
SUPPORTS = ["nominal", "full"]


def assert_laws(laws, reachable):
    assert np.all(laws >= 0) and np.all(np.where(reachable, 0, laws) == 0)
    np.testing.assert_allclose(np.sum(laws, 1), 1.0, rtol=1e-13)


def weighted_l1_program(probs, values, radius, weights, support):
    """q = p + up - down, weights.(up + down) <= radius."""
    size = probs.size
    eye, none = np.eye(size), np.zeros(size)
    ups = np.full(size, np.inf) if support == "full" else np.where(probs > 0, np.inf, 0.0)
    bounds = np.zeros((3 * size, 2))
    bounds[:, 1] = np.concatenate([np.full(size, np.inf), ups, probs])
    return least(
        values,
        A_eq=np.block([[eye, -eye, eye], [np.ones(size), none, none]]),
        b_eq=np.append(probs, 1.0),
        A_ub=np.concatenate([none, weights, weights])[None] / radius,
        b_ub=[1.0],
        bounds=bounds,
    )


@pytest.mark.slow
@pytest.mark.parametrize("size, support", [(7, "nominal"), (7, "full"), (64, "nominal")])
def test_weighted_l1_is_the_linear_program_and_certified(size, support):
    probs, values, radii = random_laws(size)
    weights = np.random.default_rng(size).uniform(0.1, 3.0, probs.shape)
    weights[::5] *= 1e-3
    weights[::4, 0] = 0.0
    functionals = WeightedL1(radii, weights, support)
    results, (by_own, by_probs, laws) = measure(functionals, probs, values)
    scales, reachable = np.abs(values).max(1), (probs > 0) | (support == "full")
    assert_laws(laws, reachable)
    assert np.all(np.sum(weights * np.abs(laws - probs), 1) <= radii * (1 + 1e-10) + 1e-15)
    fees = -by_own.radius[:, None] * weights  # the multiplier makes a feasible dual point
    offers = np.where(reachable, values + fees, np.inf).min(1, keepdims=True)
    bounds = np.sum(probs * np.minimum(values, fees + offers), 1) + by_own.radius * radii
    assert np.all(np.abs(np.sum(laws * values, 1) - bounds) <= 1e-12 * scales)
    assert np.all(np.abs(results - bounds) <= 1e-12 * scales)
    linear = np.sum(by_probs * probs, 1) + by_own.radius * radii
    assert np.all(np.abs(linear - results) <= 1e-12 * scales)
    for i in range(0, NUM_LAWS, 8):
        expected = weighted_l1_program(probs[i], values[i], radii[i], weights[i], support)
        assert abs(results[i] - expected) <= 1e-9 * scales[i]


@pytest.mark.slow
def test_equal_weights_are_total_variation():
    probs, values, radii = random_laws(7)
    results = measure(WeightedL1(radii, np.full(probs.shape, 2.0)), probs, values)[0]
    expected = measure(TotalVariation(radii / 4.0), probs, values)[0]
    np.testing.assert_allclose(results, expected, rtol=0, atol=1e-13 * np.abs(values).max())


def conic_program(probs, values, radius, covariance, support):
    """Least of q.v with |factor^-1 (q - p)| <= radius; v rescaled for the solver."""
    import cvxpy as cp  # takes seconds

    low, spread = values.min(), max(np.ptp(values), 1e-300)
    step, law = cp.Variable(probs.size), cp.Variable(probs.size, nonneg=True)
    constraints = [
        law == probs + radius * np.linalg.cholesky(covariance) @ step,
        cp.norm(step) <= 1,
        cp.sum(law) == 1,
    ]
    if support == "nominal" and np.any(probs == 0):
        constraints.append(law[np.flatnonzero(probs == 0)] == 0)
    program = cp.Problem(cp.Minimize(law @ ((values - low) / spread)), constraints)
    return low + spread * program.solve(**CONIC)


@pytest.mark.slow
@pytest.mark.parametrize("size, support", [(7, "nominal"), (7, "full"), (40, "nominal")])
def test_l2_ball_is_certified(size, support):
    """Without q >= 0 the worst case has a closed form; its multipliers make a lower bound."""
    probs, values, radii = random_laws(size)
    results, (by_own, by_probs, laws) = measure(Ellipsoid(radii, support=support), probs, values)
    scales, reachable = np.abs(values).max(1), (probs > 0) | (support == "full")
    assert_laws(laws, reachable)
    assert np.all(np.linalg.norm(laws - probs, axis=1) <= radii * (1 + 1e-10) + 1e-15)
    multipliers = np.where(reachable, values - by_probs, 0.0)
    assert np.all(multipliers >= -1e-14 * scales[:, None])
    means = np.where(reachable, by_probs, 0).sum(1, keepdims=True) / reachable.sum(1, keepdims=True)
    deviations = np.linalg.norm(np.where(reachable, by_probs - means, 0.0), axis=1)
    bounds = np.sum(by_probs * probs, 1) - radii * deviations
    assert np.all(np.abs(np.sum(laws * values, 1) - bounds) <= 1e-12 * scales)
    assert np.all(np.abs(results - bounds) <= 1e-12 * scales)
    assert np.all(np.abs(by_own.radius + deviations) * radii <= 1e-12 * scales)


def random_covariances(size):
    factors = np.random.default_rng(size).normal(size=(NUM_LAWS, size, size + 2))
    return factors @ factors.swapaxes(1, 2) / size


@pytest.mark.slow
@pytest.mark.parametrize("size, support", [(7, "nominal"), (7, "full"), (40, "nominal")])
def test_ellipsoid_is_certified(size, support):
    """As for the ball, under the covariance conditioned on the sum and the impossible atoms."""
    probs, values, radii = random_laws(size)
    covariances = random_covariances(size)
    functionals = Ellipsoid(radii, covariances, support)
    results, (by_own, by_probs, laws) = measure(functionals, probs, values)
    scales, reachable = np.abs(values).max(1), (probs > 0) | (support == "full")
    assert_laws(laws, reachable)
    steps = laws - probs
    lengths = np.sqrt(np.einsum("bi,bij,bj->b", steps, np.linalg.inv(covariances), steps))
    assert np.all(lengths <= radii * (1 + 1e-10) + 1e-13)
    assert np.all(np.where(reachable, values - by_probs, 0.0) >= -1e-13 * scales[:, None])
    for i in range(NUM_LAWS):
        held = np.concatenate([np.eye(size)[~reachable[i]], np.ones((1, size))])
        shared = covariances[i] @ held.T
        inner = covariances[i] - shared @ np.linalg.solve(held @ shared, shared.T)
        slope = np.where(reachable[i], by_probs[i] - by_probs[i] @ probs[i], 0.0)
        bound = by_probs[i] @ probs[i] - radii[i] * np.sqrt(max(slope @ inner @ slope, 0.0))
        assert abs(laws[i] @ values[i] - bound) <= 1e-11 * scales[i]
        assert abs(results[i] - bound) <= 1e-11 * scales[i]
    linear = np.sum(by_probs * probs, 1) + by_own.radius * radii
    assert np.all(np.abs(linear - results) <= 1e-11 * scales)


@pytest.mark.slow
@pytest.mark.parametrize("support", SUPPORTS)
def test_both_are_the_conic_program(support):
    probs, values, _ = random_laws(7)
    radii = np.geomspace(0.01, 3.0, NUM_LAWS)
    covariances = random_covariances(7)
    balls = measure(Ellipsoid(radii, support=support), probs, values)[0]
    ellipsoids = measure(Ellipsoid(radii, covariances, support), probs, values)[0]
    for i in range(0, NUM_LAWS, 5):
        scale = np.abs(values[i]).max()
        expected = conic_program(probs[i], values[i], radii[i], np.eye(7), support)
        assert abs(balls[i] - expected) <= 1e-9 * scale
        expected = conic_program(probs[i], values[i], radii[i], covariances[i], support)
        assert abs(ellipsoids[i] - expected) <= 1e-9 * scale


@pytest.mark.slow
@pytest.mark.parametrize("support", SUPPORTS)
def test_the_unit_ellipsoid_is_the_ball(support):
    probs, values, radii = random_laws(7)
    units = np.stack([np.eye(7)] * NUM_LAWS)
    result, (by_own, by_probs, laws) = measure(Ellipsoid(radii, units, support), probs, values)
    ball, (by_radius, by_ball_probs, ball_laws) = measure(
        Ellipsoid(radii, support=support), probs, values
    )
    scales = np.abs(values).max(1)
    assert np.all(np.abs(result - ball) <= 1e-13 * scales)
    np.testing.assert_allclose(laws, ball_laws, atol=1e-12)
    np.testing.assert_allclose(by_own.radius, by_radius.radius, rtol=1e-6, atol=1e-9)
    assert np.all(np.abs(by_probs - by_ball_probs) <= 1e-6 * scales[:, None])


@pytest.mark.slow
def test_a_multinomial_covariance_is_a_scaled_deviation():
    """(diag(p) - p p') is singular; within it the worst case is mean - radius * std, while q > 0.

    d = -radius C v / sqrt(v' C v) by hand, C v = p (v - mean) and v' C v = variance.
    """
    probs, values = np.array([0.2, 0.5, 0.3]), np.array([1.0, 2.0, 4.0])
    covariance = np.diag(probs) - np.outer(probs, probs)
    mean = probs @ values
    std = np.sqrt(probs @ (values - mean) ** 2)
    functionals = Ellipsoid(np.full(1, 0.1), covariance[None])
    result, (_, _, laws) = measure(functionals, probs[None], values[None])
    assert result[0] == pytest.approx(mean - 0.1 * std, rel=1e-12)
    np.testing.assert_allclose(laws[0], probs - 0.1 * probs * (values - mean) / std, rtol=1e-12)


@pytest.mark.slow
def test_l2_ball_by_hand():
    """p = (1/2, 1/2), v = (0, 1): the step is radius (1, -1) / sqrt 2."""
    halves, values = np.full((NUM_LAWS, 2), 0.5), np.tile([0.0, 1.0], (NUM_LAWS, 1))
    laws = measure(Ellipsoid(np.full(NUM_LAWS, 0.2)), halves, values)[1][2]
    np.testing.assert_allclose(laws[0], 0.5 + 0.2 / np.sqrt(2) * np.array([1, -1]), rtol=1e-12)
