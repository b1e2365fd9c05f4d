"""Contamination, total variation, intervals and scenarios: linear programs, limits, settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hard_laws import NUM_LAWS, least, measure, random_laws
from table_ambiguity import COST, COVARIANCE, FUNCTIONALS, WEIGHTS

from jaxrl.core import list_settings
from jaxrl.functionals import (
    Contamination,
    Ellipsoid,
    Interval,
    Scenarios,
    SharedKL,
    SharedL1,
    TotalVariation,
    Wasserstein,
    WeightedL1,
)


def round_ball(radius=0.1, support="nominal"):
    return Ellipsoid(radius, support=support)


KINDS = (Contamination, TotalVariation, WeightedL1, round_ball, Ellipsoid, Wasserstein)
OWN_ARRAYS = {  # for 7 atoms
    WeightedL1: {"weights": WEIGHTS},
    Ellipsoid: {"covariance": COVARIANCE},
    Wasserstein: {"cost": COST},
}
CASES = [(7, "nominal"), (7, "full"), (40, "nominal")]  # a sort beyond 32 atoms


def with_radii(kind, radii, support="nominal"):
    """One functional per law of 7 atoms, alike but for the radius."""
    arrays = {k: np.stack([x] * NUM_LAWS) for k, x in OWN_ARRAYS.get(kind, {}).items()}
    return kind(np.broadcast_to(radii, NUM_LAWS), **arrays, support=support)


def total_variation_program(probs, values, radius, support):
    """q = p + up - down, total up <= radius."""
    size = probs.size
    eye = np.eye(size)
    ups = np.full(size, np.inf) if support == "full" else np.where(probs > 0, np.inf, 0.0)
    bounds = np.zeros((3 * size, 2))
    bounds[:, 1] = np.concatenate([np.full(size, np.inf), ups, probs])
    equalities = np.block([[eye, -eye, eye], [np.ones(size), np.zeros(2 * size)]])
    budget = np.concatenate([np.zeros(size), np.ones(size), np.zeros(size)])[None]
    sums = np.append(probs, 1.0)
    return least(
        values, A_eq=equalities, b_eq=sums, A_ub=budget, b_ub=[min(radius, 1.0)], bounds=bounds
    )


@pytest.mark.slow
@pytest.mark.parametrize("size, support", CASES)
def test_total_variation_is_the_linear_program_and_certified(size, support):
    probs, values, radii = random_laws(size)
    functionals = TotalVariation(radii, support)
    results, (by_own, by_probs, laws) = measure(functionals, probs, values)
    scales = np.abs(values).max(1)
    assert np.all(laws >= 0) and np.allclose(np.sum(laws, 1), 1.0, atol=1e-14, rtol=0)
    assert np.all(0.5 * np.sum(np.abs(laws - probs), 1) <= radii + 1e-15)
    reachable = (probs > 0) | (support == "full")
    low = np.where(reachable, values, np.inf).min(1)
    cut = low - by_own.radius  # a feasible dual point, from the derivative in the radius
    bounds = np.sum(probs * np.minimum(values, cut[:, None]), 1) - radii * (cut - low)
    assert np.all(np.abs(np.sum(laws * values, 1) - bounds) <= 1e-12 * scales)
    assert np.all(np.abs(results - bounds) <= 1e-12 * scales)
    # The value is linear in the probs and the radius as long as the cut stays.
    linear = np.sum(by_probs * probs, 1) + by_own.radius * radii
    assert np.all(np.abs(linear - results) <= 1e-12 * scales)
    for i in range(0, NUM_LAWS, 4):
        expected = total_variation_program(probs[i], values[i], radii[i], support)
        assert abs(results[i] - expected) <= 1e-9 * scales[i]


@pytest.mark.slow
@pytest.mark.parametrize("support", ["nominal", "full"])
def test_contamination_is_its_set(support):
    """Every law of the set is (1 - radius) p + radius u: the best u is an atom."""
    probs, values, radii = random_laws(7)
    results, (_, _, laws) = measure(Contamination(radii, support), probs, values)
    radii = np.minimum(radii, 1.0)[:, None]
    corners = (1 - radii) * np.sum(probs * values, 1, keepdims=True) + radii * values
    expected = np.where((probs > 0) | (support == "full"), corners, np.inf).min(1)
    assert np.all(np.abs(results - expected) <= 1e-12 * np.abs(values).max(1))
    assert np.all(laws >= (1 - radii) * probs - 1e-15) and np.allclose(np.sum(laws, 1), 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("size, support", CASES)
def test_interval_is_the_linear_program(size, support):
    probs, values, _ = random_laws(size)
    rng = np.random.default_rng(size)
    possible = (probs > 0) | (support == "full")
    some = np.where(possible, rng.uniform(size=probs.shape), 0.0)
    some /= some.sum(1, keepdims=True)
    lower = some * rng.uniform(0, 1, (NUM_LAWS, 1)) ** rng.integers(0, 8, (NUM_LAWS, 1))
    upper = some + (1 - some) * rng.uniform(size=probs.shape) * rng.integers(0, 2, (NUM_LAWS, 1))
    results, (_, by_probs, laws) = measure(Interval(lower, upper, support), probs, values)
    assert np.all(by_probs == 0)
    assert np.all(laws >= lower - 1e-14) and np.all(laws <= np.where(possible, upper, 0) + 1e-14)
    np.testing.assert_allclose(np.sum(laws, 1), 1.0, rtol=1e-14)
    for i in range(0, NUM_LAWS, 4):
        bounds = np.stack([lower[i], np.where(possible[i], upper[i], 0.0)], 1)
        expected = least(values[i], A_eq=np.ones((1, size)), b_eq=[1.0], bounds=bounds)
        assert abs(results[i] - expected) <= 1e-9 * np.abs(values[i]).max()


def test_interval_limits_and_what_does_not_fit():
    probs, values = np.float32([0.2, 0.5, 0.3]), np.float32([4.0, 1.0, 2.0])
    zeros, ones = np.zeros(3, np.float32), np.ones(3, np.float32)
    apply = jax.jit(lambda interval: interval(probs, values))
    assert float(apply(Interval(probs, probs))) == pytest.approx(1.9, rel=1e-6)
    assert float(apply(Interval(zeros, ones))) == 1.0
    assert np.isnan(apply(Interval(zeros, 0.3 * ones)))  # 0.9 at most
    assert np.isnan(apply(Interval(0.4 * ones, ones)))  # 1.2 at least
    # By hand, bounds within 0.1 of p: 0.1 goes from the 4 to the 1.
    within = Interval(probs - np.float32(0.1), probs + np.float32(0.1))
    assert float(apply(within)) == pytest.approx(1.6)


def test_scenarios_are_the_worst_of_a_list():
    rng = np.random.default_rng(0)
    kernels = rng.dirichlet(np.ones(5), 4).astype(np.float32)
    values = rng.normal(size=5).astype(np.float32)
    means = kernels @ values
    kernels, means = kernels[np.argsort(means)], np.sort(means)  # the nominal law is the worst
    both = jax.jit(jax.value_and_grad(lambda f, p, v: f(p, v), argnums=2))
    for nominal in (True, False):
        found, law = both(Scenarios(kernels[1:], with_nominal=nominal), kernels[0], values)
        worst = 0 if nominal else 1
        assert float(found) == pytest.approx(means[worst], rel=1e-6)
        np.testing.assert_array_equal(law, kernels[worst])


@pytest.mark.slow
def test_total_variation_by_hand():
    """Radius 0.3 takes the 9 whole (0.25) and 0.05 of the 3; all of it goes to the 1."""
    probs, values = np.float32([0.5, 0.25, 0.25]), np.float32([3.0, 1.0, 9.0])
    law = jax.jit(jax.grad(TotalVariation(0.3), argnums=1))(probs, values)
    np.testing.assert_allclose(law, [0.45, 0.55, 0.0], rtol=1e-6)


@pytest.mark.parametrize("kind", [*KINDS, SharedL1, SharedKL], ids=lambda kind: kind.__name__)
def test_a_negative_radius_is_refused_by_name(kind):
    name = "radius" if kind in KINDS else "budget"
    assert name in [info.name for info in list_settings(kind())]
    with pytest.raises(ValueError, match=name):
        kind(-0.1)
    with pytest.raises(ValueError, match=name):
        kind(jnp.array([0.1, -0.1]))
    pair = np.zeros(2, np.float32)
    traced = jax.eval_shape(lambda radius: kind(radius)(pair, pair), 0.1)  # not a tracer
    assert traced.shape == () and traced.dtype == np.float32
    if kind is not SharedKL:
        with pytest.raises(ValueError, match="support"):
            kind(0.1, support="everywhere")


# ---- every set with a radius --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("support", ["nominal", "full"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_radius_zero_is_the_mean_and_a_great_one_the_least_value(kind, support):
    probs, values, _ = random_laws(7)
    values = values[:, ::-1].copy()
    reachable = (probs > 0) | (support == "full")
    lows = np.where(reachable, values, np.inf).min(1)
    for radius, expected in ((0.0, np.sum(probs * values, 1)), (1e3, lows), (1e9, lows)):
        functionals = with_radii(kind, radius, support)
        results, (by_own, by_probs, laws) = measure(functionals, probs, values)
        assert np.all(np.abs(results - expected) <= 1e-13 * np.abs(values).max(1))
        assert np.all(laws >= 0) and np.all(np.where(reachable, 0, laws) == 0)
        assert np.all(np.isfinite(by_own.radius)) and np.all(np.isfinite(by_probs))
        assert np.all(by_own.radius <= 0) and (radius == 0 or np.all(by_own.radius == 0))


ONE_PER_KIND = {type(functional): functional for functional in FUNCTIONALS.values()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ONE_PER_KIND, ids=lambda kind: kind.__name__)
def test_one_atom_is_its_value(kind):
    functional = ONE_PER_KIND[kind]
    size_one = {
        "weights": np.ones((1, 1)),
        "cost": np.zeros((1, 1, 1)),
        "covariance": np.ones((1, 1, 1)),
        "lower": np.zeros((1, 1)),
        "upper": np.ones((1, 1)),
        "kernels": np.ones((1, 2, 1)),
        "radius": np.full(1, 0.3),
    }
    changes = {key: held for key, held in size_one.items() if hasattr(functional, key)}
    given = functional.replace(**changes), np.ones((1, 1)), np.full((1, 1), 3.0)
    result, (_, by_probs, law) = measure(*given)
    assert result[0] == pytest.approx(3.0, rel=1e-15)  # mass moved and mass kept may round
    assert law[0, 0] == 1.0 and np.isfinite(by_probs[0, 0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_full_support_reaches_the_impossible_atoms(kind):
    """The least value has no probability: nature uses it, and so does -inf there."""
    probs = np.stack([[0.2, 0.0, 0.1, 0.3, 0.15, 0.05, 0.2]] * NUM_LAWS)
    values = np.stack([[1.0, -9.0, 2.0, 0.5, 0.5, 4.0, -0.2]] * NUM_LAWS)
    full, nominal = (with_radii(kind, 0.4, support) for support in ("full", "nominal"))
    result, (_, _, laws) = measure(full, probs, values)
    assert np.all(laws[:, 1] > 0)
    assert np.all(result < measure(nominal, probs, values)[0])
    values[:, 1] = -np.inf
    assert np.all(measure(full, probs, values)[0] == -np.inf)
