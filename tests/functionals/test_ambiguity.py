"""Contamination, total variation, intervals and scenarios: linear programs, limits, settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hard_laws import NUM_LAWS, least, measure, random_laws
from table_ambiguity import COST, COVARIANCE, FUNCTIONALS, WEIGHTS

from jaxrl.core.settings import list_settings
from jaxrl.functionals.ambiguity import Contamination, Interval, TotalVariation
from jaxrl.functionals.ellipsoid import Ellipsoid
from jaxrl.functionals.norms import L2Ball, WeightedL1
from jaxrl.functionals.scenarios import Scenarios
from jaxrl.functionals.shared_budget import SharedL1
from jaxrl.functionals.shared_divergence import SharedKL
from jaxrl.functionals.wasserstein import Wasserstein

pytestmark = pytest.mark.usefixtures("quick_compilation")

KINDS = (Contamination, TotalVariation, WeightedL1, L2Ball, Ellipsoid, Wasserstein)
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
    probs, values = jnp.array([0.2, 0.5, 0.3]), jnp.array([4.0, 1.0, 2.0])
    assert float(Interval(probs, probs)(probs, values)) == pytest.approx(1.9, rel=1e-6)
    assert float(Interval(jnp.zeros(3), jnp.ones(3))(probs, values)) == 1.0
    assert jnp.isnan(Interval(jnp.zeros(3), jnp.full(3, 0.3))(probs, values))  # 0.9 at most
    assert jnp.isnan(Interval(jnp.full(3, 0.4), jnp.ones(3))(probs, values))  # 1.2 at least
    # By hand, bounds within 0.1 of p: 0.1 goes from the 4 to the 1.
    assert float(Interval(probs - 0.1, probs + 0.1)(probs, values)) == pytest.approx(1.6)


def test_scenarios_are_the_worst_of_a_list():
    rng = np.random.default_rng(0)
    kernels = rng.dirichlet(np.ones(5), 4).astype(np.float32)
    probs, values = kernels[0], rng.normal(size=5).astype(np.float32)
    means = kernels @ values
    alone = Scenarios(jnp.asarray(kernels[1:]), with_nominal=False)
    assert float(alone(probs, values)) == pytest.approx(means[1:].min(), rel=1e-5)
    among = Scenarios(jnp.asarray(kernels[1:]))
    assert float(among(probs, values)) == pytest.approx(means.min(), rel=1e-5)
    law = jax.grad(among, argnums=1)(jnp.asarray(probs), jnp.asarray(values))
    np.testing.assert_array_equal(law, kernels[means.argmin()])


def test_total_variation_by_hand():
    """Radius 0.3 takes the 9 whole (0.25) and 0.05 of the 3; all of it goes to the 1."""
    probs, values = jnp.array([0.5, 0.25, 0.25]), jnp.array([3.0, 1.0, 9.0])
    law = jax.grad(TotalVariation(0.3), argnums=1)(probs, values)
    np.testing.assert_allclose(law, [0.45, 0.55, 0.0], rtol=1e-6)


@pytest.mark.parametrize("kind", [*KINDS, SharedL1, SharedKL], ids=lambda kind: kind.__name__)
def test_a_negative_radius_is_refused_by_name(kind):
    name = "radius" if kind in KINDS else "budget"
    assert name in [info.name for info in list_settings(kind())]
    with pytest.raises(ValueError, match=name):
        kind(-0.1)
    with pytest.raises(ValueError, match=name):
        kind(jnp.array([0.1, -0.1]))
    jax.jit(lambda radius: kind(radius)(jnp.ones(2) / 2, jnp.arange(2.0)))(0.1)  # not a tracer
    if kind is not SharedKL:
        with pytest.raises(ValueError, match="support"):
            kind(0.1, support="everywhere")


# ---- every set with a radius --------------------------------------------------------------------


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


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_float32_is_within_its_rounding(kind):
    """64 N u max|v|, at all radii; float64 with the same numbers is the reference."""
    probs, values, radii = random_laws(7, seed=4)
    probs, values, radii = (np.asarray(x, np.float32) for x in (probs, values, radii))
    functionals = with_radii(kind, radii)
    results, (_, _, laws) = measure(functionals, probs, values, dtype=np.float32)
    narrow = jax.tree.map(lambda x: np.asarray(x, np.float32), functionals)
    expected = measure(narrow, probs, values)[0]
    unit = np.finfo(np.float32).eps / 2
    assert results.dtype == np.float32 and np.all(laws >= 0)
    assert np.all(np.abs(results - expected) <= 64 * 7 * unit * np.abs(values).max(1))


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
