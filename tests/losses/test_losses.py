"""Losses against their definitions, minimisers and limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import huber as scipy_huber
from scipy.stats import energy_distance, entropy, expectile, norm

from jaxrl.core.law import Law
from jaxrl.losses import (
    cross_entropy,
    energy_loss,
    expectile_loss,
    gaussian_cross_entropy,
    huber_loss,
    quantile_huber_loss,
    quantile_levels,
    squared_loss,
)

K, N = 5, 11
quantile_jit = jax.jit(quantile_huber_loss)
quantile_grad = jax.jit(jax.grad(quantile_huber_loss, argnums=(0, 1, 2)))


def random_case(seed=0):
    rng = np.random.default_rng(seed)
    probs, atoms = rng.dirichlet(np.ones(N)), rng.normal(size=N)
    return rng.normal(size=K), probs, atoms


@pytest.mark.parametrize("threshold", [0.3, 1.0, 4.0])
def test_huber_is_scipys(threshold):
    errors = np.linspace(-5, 5, 41)
    np.testing.assert_allclose(
        huber_loss(jnp.zeros(41), jnp.asarray(errors), threshold),
        scipy_huber(threshold, errors),
        rtol=1e-5,
        atol=1e-6,
    )
    slopes = jax.vmap(jax.grad(huber_loss), in_axes=(0, None, None))(
        -jnp.asarray(errors, jnp.float32), 0.0, threshold
    )
    np.testing.assert_allclose(slopes, -np.clip(errors, -threshold, threshold), atol=1e-6)


def test_huber_at_an_infinite_threshold_is_squared():
    for loss in (squared_loss, lambda p, t: huber_loss(p, t, jnp.inf)):
        value, slope = jax.value_and_grad(loss)(1.0, 4.0)
        assert (float(value), float(slope)) == (4.5, -3.0)


def test_cross_entropy_is_kl_plus_entropy():
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=6), rng.dirichlet(np.ones(6))
    prediction = np.exp(logits) / np.exp(logits).sum()
    ours, slope = jax.value_and_grad(cross_entropy)(jnp.asarray(logits), jnp.asarray(target))
    np.testing.assert_allclose(ours, entropy(target, prediction) + entropy(target), rtol=1e-5)
    np.testing.assert_allclose(slope, prediction - target, atol=1e-6)


def test_cross_entropy_survives_impossible_classes():
    logits, target = jnp.array([0.0, -jnp.inf, 0.0]), jnp.array([0.5, 0.0, 0.5])
    np.testing.assert_allclose(cross_entropy(logits, target), np.log(2.0), rtol=1e-6)
    assert cross_entropy(logits, jnp.array([0.0, 1.0, 0.0])) == jnp.inf


@pytest.mark.parametrize("threshold", [0.0, 0.2, 1.0, 5.0])
def test_quantile_loss_is_its_double_sum(threshold):
    estimates, probs, atoms = random_case()
    expected = 0.0
    for i, estimate in enumerate(estimates):
        level = (2 * i + 1) / (2 * K)
        for p, z in zip(probs, atoms, strict=True):
            u = z - estimate
            size = scipy_huber(threshold, u) / threshold if threshold else abs(u)
            expected += p * abs(level - (u < 0)) * size
    law = Law(jnp.asarray(probs, jnp.float32), jnp.asarray(atoms, jnp.float32))
    ours = quantile_jit(jnp.asarray(estimates, jnp.float32), law, threshold)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


@pytest.mark.parametrize("threshold", [0.2, 1.0])
def test_quantile_loss_derivatives_are_finite_differences(threshold):
    """The closed-form rule against central differences of the loss along random directions."""
    estimates, probs, atoms = random_case(1)
    rng = np.random.default_rng(9)

    def at(step, d):
        law = Law(jnp.asarray(probs + step * d[1]), jnp.asarray(atoms + step * d[2]))
        return float(
            quantile_jit(jnp.asarray(estimates + step * d[0]), law, threshold + step * d[3])
        )

    law = Law(jnp.asarray(probs), jnp.asarray(atoms))
    grads = quantile_grad(jnp.asarray(estimates), law, threshold)
    for part in range(4):
        d = [np.zeros(K), np.zeros(N), np.zeros(N), 0.0]
        d[part] = rng.normal(size=np.shape(d[part]))
        slope = (at(5e-3, d) - at(-5e-3, d)) / 1e-2
        found = grads[0] @ d[0] + grads[1].probs @ d[1] + grads[1].atoms @ d[2] + grads[2] * d[3]
        assert abs(float(found) - slope) < 1e-2 * max(1.0, abs(slope))


def test_quantile_loss_has_a_hessian():
    """Inside the smooth zone the loss is slope e^2 / (2 threshold): curvature slope / threshold."""
    law = Law(jnp.ones(1), jnp.array([0.5]))
    curvature = jax.jit(jax.hessian(lambda q: quantile_huber_loss(q, law, 2.0)))(jnp.zeros(1))
    np.testing.assert_allclose(curvature, [[0.5 / 2.0]])


def test_quantile_loss_is_flat_at_the_quantiles():
    """2 K equal atoms: any point between atoms 2 i and 2 i + 1 is a (2 i + 1) / (2 K) quantile."""
    atoms = jnp.asarray(np.random.default_rng(2).permutation(np.arange(2.0 * K)), jnp.float32)
    middles = 2.0 * jnp.arange(K) + 0.5
    law = Law.of_samples(atoms)
    np.testing.assert_allclose(quantile_grad(middles, law, 0.0)[0], 0.0, atol=1e-6)
    # A step to either side past an atom changes the sign of the slope.
    assert jnp.all(quantile_grad(middles + 1.0, law, 0.0)[0] > 0.05)
    assert jnp.all(quantile_grad(middles - 1.0, law, 0.0)[0] < -0.05)


def test_quantile_loss_ignores_impossible_atoms():
    law = Law(jnp.array([0.5, 0.0, 0.5]), jnp.array([0.0, jnp.nan, 4.0]))
    clean = Law.of_samples(jnp.array([0.0, 4.0]))
    estimates = jnp.array([1.0, 2.0])
    np.testing.assert_allclose(quantile_jit(estimates, law), quantile_jit(estimates, clean))
    assert jnp.all(jnp.isfinite(quantile_grad(estimates, law, 1.0)[0]))


def test_quantile_levels_are_mid_points():
    np.testing.assert_allclose(quantile_levels(4), [1 / 8, 3 / 8, 5 / 8, 7 / 8])


def as_law(probs, atoms):
    return Law(jnp.asarray(probs, jnp.float32), jnp.asarray(atoms, jnp.float32))


def test_expectile_loss_is_its_double_sum_and_vanishes_at_scipys_expectiles():
    estimates, probs, atoms = random_case(2)
    levels = np.linspace(0.1, 0.9, K)
    expected = sum(
        p * abs(level - (z < e)) * (z - e) ** 2
        for e, level in zip(estimates, levels, strict=True)
        for p, z in zip(probs, atoms, strict=True)
    )
    law = as_law(probs, atoms)
    ours = expectile_loss(jnp.asarray(estimates, jnp.float32), jnp.asarray(levels), law)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    best = jnp.asarray([expectile(atoms, level, weights=probs) for level in levels], jnp.float32)
    slope = jax.grad(expectile_loss)(best, jnp.asarray(levels, jnp.float32), law)
    np.testing.assert_allclose(slope, 0.0, atol=1e-6)


def test_gaussian_cross_entropy_is_scipys_and_least_at_the_moments():
    _, probs, atoms = random_case(3)
    law = as_law(probs, atoms)
    expected = -probs @ norm.logpdf(atoms, 0.3, 1.7)
    np.testing.assert_allclose(gaussian_cross_entropy(0.3, 1.7, law), expected, rtol=1e-5)
    mean = probs @ atoms
    scale = np.sqrt(probs @ (atoms - mean) ** 2)
    slopes = jax.grad(gaussian_cross_entropy, (0, 1))(jnp.float32(mean), jnp.float32(scale), law)
    np.testing.assert_allclose(slopes, 0.0, atol=2e-6)


def test_energy_loss_is_scipys_distance_up_to_a_constant_of_the_law():
    """SciPy's distance squared is 2 E|X - Z| - E|X - X'| - E|Z - Z'|."""
    particles, probs, atoms = random_case(4)
    within = probs @ np.abs(atoms[:, None] - atoms) @ probs
    expected = (energy_distance(particles, atoms, v_weights=probs) ** 2 + within) / 2
    ours = energy_loss(jnp.asarray(particles, jnp.float32), as_law(probs, atoms))
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_new_losses_ignore_impossible_atoms():
    estimates, probs, atoms = (jnp.asarray(x, jnp.float32) for x in random_case(5))
    levels = jnp.linspace(0.1, 0.9, K)
    padded = Law(jnp.append(probs, 0.0), jnp.append(atoms, jnp.nan))
    clean = Law(probs, atoms)
    for loss in (
        lambda x, law: expectile_loss(x, levels, law),
        lambda x, law: gaussian_cross_entropy(x[0], jnp.exp(x[1]), law),
        energy_loss,
    ):
        np.testing.assert_allclose(loss(estimates, padded), loss(estimates, clean), rtol=1e-6)
        assert jnp.all(jnp.isfinite(jax.grad(loss)(estimates, padded)))
