"""Losses against their definitions, minimisers and limits."""

import jax
import numpy as np
import pytest
from scipy.special import huber as scipy_huber
from scipy.stats import energy_distance, entropy, expectile, norm

from jaxrl.core import Law
from jaxrl.losses import (
    cross_entropy,
    energy_loss,
    expectile_loss,
    gaussian_cross_entropy,
    huber_loss,
    quantile_huber_loss,
)

K, N, NUM_ERRORS, NUM_CLASSES = 5, 11, 41, 6
LEVELS = np.linspace(0.1, 0.9, K).astype(np.float32)

# One program a loss: value and gradient, for estimates [K] and a law of N atoms.
huber_all = jax.jit(jax.vmap(jax.value_and_grad(huber_loss), (0, None, None)))
cross_entropy_both = jax.jit(jax.value_and_grad(cross_entropy))
quantile_both = jax.jit(jax.value_and_grad(quantile_huber_loss, argnums=(0, 1, 2)))
expectile_both = jax.jit(jax.value_and_grad(expectile_loss))
gaussian_both = jax.jit(jax.value_and_grad(gaussian_cross_entropy, (0, 1)))
energy_both = jax.jit(jax.value_and_grad(energy_loss))


def f32(*arrays):
    return tuple(np.asarray(array, np.float32) for array in arrays)


def as_law(probs, atoms):
    return Law(*f32(probs, atoms))


def random_case(seed=0):
    rng = np.random.default_rng(seed)
    probs, atoms = rng.dirichlet(np.ones(N)), rng.normal(size=N)
    return rng.normal(size=K), probs, atoms


def quantile_by_definition(estimates, probs, atoms, threshold):
    """sum_ij p_j |level_i - 1(u < 0)| huber(u) / threshold, u = z_j - estimate_i, in float64."""
    errors = atoms - np.asarray(estimates)[:, None]
    levels = (2 * np.arange(len(errors))[:, None] + 1) / (2 * len(errors))
    sizes = scipy_huber(threshold, errors) / threshold if threshold else np.abs(errors)
    return np.sum(probs * np.abs(levels - (errors < 0)) * sizes)


def expectile_by_definition(estimates, levels, probs, atoms):
    errors = atoms - np.asarray(estimates)[:, None]
    return np.sum(probs * np.abs(np.asarray(levels)[:, None] - (errors < 0)) * errors**2)


def gaussian_by_scipy(mean, scale, probs, atoms):
    return -probs @ norm.logpdf(atoms, mean, scale)


def energy_by_scipy(particles, probs, atoms):
    """SciPy's distance squared is 2 E|X - Z| - E|X - X'| - E|Z - Z'|."""
    within = probs @ np.abs(atoms[:, None] - atoms) @ probs
    return (energy_distance(particles, atoms, v_weights=probs) ** 2 + within) / 2


def slopes_by_steps(function, x, step=1e-6):
    """`[K]`: central differences in float64."""
    rows = step * np.eye(len(x))
    return np.array([function(x + row) - function(x - row) for row in rows]) / (2 * step)


@pytest.mark.parametrize("threshold", [0.3, 1.0, 4.0])
def test_huber_is_scipys(threshold):
    errors = np.linspace(-5, 5, NUM_ERRORS)
    values, slopes = huber_all(*f32(-errors, 0.0, threshold))
    np.testing.assert_allclose(values, scipy_huber(threshold, errors), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(slopes, -np.clip(errors, -threshold, threshold), atol=1e-6)


def test_huber_at_an_infinite_threshold_is_squared():
    values, slopes = huber_all(*f32(np.full(NUM_ERRORS, 1.0), 4.0, np.inf))
    assert (float(values[0]), float(slopes[0])) == (4.5, -3.0)


def test_cross_entropy_is_kl_plus_entropy():
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=NUM_CLASSES), rng.dirichlet(np.ones(NUM_CLASSES))
    prediction = np.exp(logits) / np.exp(logits).sum()
    ours, slope = cross_entropy_both(*f32(logits, target))
    np.testing.assert_allclose(ours, entropy(target, prediction) + entropy(target), rtol=1e-6)
    np.testing.assert_allclose(slope, prediction - target, atol=1e-6)


def test_cross_entropy_survives_impossible_classes():
    logits = np.where(np.arange(NUM_CLASSES) % 2, -np.inf, 0.0)
    target = np.where(np.arange(NUM_CLASSES) % 2, 0.0, 1 / 3)
    np.testing.assert_allclose(cross_entropy_both(*f32(logits, target))[0], np.log(3), rtol=1e-6)
    assert cross_entropy_both(*f32(logits, np.eye(NUM_CLASSES)[1]))[0] == np.inf


@pytest.mark.parametrize("threshold", [0.0, 0.2, 1.0, 5.0])
def test_quantile_loss_is_its_double_sum(threshold):
    estimates, probs, atoms = random_case()
    expected = quantile_by_definition(estimates, probs, atoms, threshold)
    ours = quantile_both(*f32(estimates), as_law(probs, atoms), *f32(threshold))[0]
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


@pytest.mark.parametrize("threshold", [0.2, 1.0])
def test_quantile_loss_derivatives_are_finite_differences(threshold):
    """The closed-form rule against central differences of the definition, in float64."""
    given = (*random_case(1), np.array([threshold]))
    _, (slopes, law, by_threshold) = quantile_both(
        *f32(given[0]), as_law(*given[1:3]), *f32(threshold)
    )
    for part, ours in enumerate((slopes, law.probs, law.atoms, np.reshape(by_threshold, 1))):

        def at(x, part=part):
            moved = [x if k == part else y for k, y in enumerate(given)]
            return quantile_by_definition(*moved[:3], moved[3][0])

        np.testing.assert_allclose(ours, slopes_by_steps(at, given[part]), rtol=1e-5, atol=2e-6)


def test_quantile_loss_has_a_hessian():
    """Inside the smooth zone the loss is slope e^2 / (2 threshold): curvature slope / threshold."""
    law = as_law([1.0], [0.5])
    curvature = jax.jit(jax.hessian(lambda q: quantile_huber_loss(q, law, 2.0)))(
        np.zeros(1, np.float32)
    )
    np.testing.assert_allclose(curvature, [[0.5 / 2.0]])


def test_quantile_loss_is_flat_at_the_quantiles():
    """2 K equal atoms: any point between atoms 2 i and 2 i + 1 is a (2 i + 1) / (2 K) quantile."""
    atoms = np.random.default_rng(2).permutation(np.arange(2.0 * K))
    middles = 2.0 * np.arange(K) + 0.5
    law = as_law(np.append(np.full(2 * K, 0.5 / K), 0.0), np.append(atoms, np.nan))
    # A step past an atom to either side adds, or takes, its probability.
    for step, slope in ((0.0, 0.0), (1.0, 0.5 / K), (-1.0, -0.5 / K)):
        ours = quantile_both(*f32(middles + step), law, *f32(0.0))[1][0]
        np.testing.assert_allclose(ours, slope, atol=1e-6)


def holed(probs, atoms):
    """A law whose fourth atom is impossible and NaN, and what is left of it."""
    probs = np.where(np.arange(N) == 3, 0.0, probs)
    probs, rest = probs / probs.sum(), np.arange(N) != 3
    return as_law(probs, np.where(rest, atoms, np.nan)), (probs[rest], atoms[rest])


def test_quantile_loss_ignores_impossible_atoms():
    estimates, probs, atoms = random_case(6)
    law, clean = holed(probs, atoms)
    value, (slopes, *_) = quantile_both(*f32(estimates), law, *f32(1.0))
    np.testing.assert_allclose(value, quantile_by_definition(estimates, *clean, 1.0), rtol=1e-6)
    expected = slopes_by_steps(lambda x: quantile_by_definition(x, *clean, 1.0), estimates)
    np.testing.assert_allclose(slopes, expected, atol=1e-6)


def test_expectile_loss_is_its_double_sum_and_vanishes_at_scipys_expectiles():
    estimates, probs, atoms = random_case(2)
    law = as_law(probs, atoms)
    ours = expectile_both(*f32(estimates), LEVELS, law)[0]
    expected = expectile_by_definition(estimates, LEVELS, probs, atoms)
    np.testing.assert_allclose(ours, expected, rtol=1e-6)
    best = [expectile(atoms, level, weights=probs) for level in LEVELS.astype(float)]
    np.testing.assert_allclose(expectile_both(*f32(best), LEVELS, law)[1], 0.0, atol=1e-6)


def test_gaussian_cross_entropy_is_scipys_and_least_at_the_moments():
    _, probs, atoms = random_case(3)
    law = as_law(probs, atoms)
    expected = gaussian_by_scipy(0.3, 1.7, probs, atoms)
    np.testing.assert_allclose(gaussian_both(*f32(0.3, 1.7), law)[0], expected, rtol=1e-6)
    mean = probs @ atoms
    scale = np.sqrt(probs @ (atoms - mean) ** 2)
    np.testing.assert_allclose(gaussian_both(*f32(mean, scale), law)[1], 0.0, atol=2e-6)


def test_energy_loss_is_scipys_distance_up_to_a_constant_of_the_law():
    particles, probs, atoms = random_case(4)
    expected = energy_by_scipy(particles, probs, atoms)
    ours = energy_both(*f32(particles), as_law(probs, atoms))[0]
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_new_losses_ignore_impossible_atoms():
    """Values and slopes are those of the law without them."""
    estimates, probs, atoms = random_case(5)
    law, clean = holed(probs, atoms)
    normal = np.array([0.3, 1.7])
    for (value, slopes), definition, x in (
        (
            expectile_both(*f32(estimates), LEVELS, law),
            lambda x: expectile_by_definition(x, LEVELS, *clean),
            estimates,
        ),
        (gaussian_both(*f32(*normal), law), lambda x: gaussian_by_scipy(*x, *clean), normal),
        (energy_both(*f32(estimates), law), lambda x: energy_by_scipy(x, *clean), estimates),
    ):
        np.testing.assert_allclose(value, definition(x), rtol=1e-6)
        np.testing.assert_allclose(slopes, slopes_by_steps(definition, x), rtol=1e-5, atol=1e-5)
