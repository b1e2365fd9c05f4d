"""Distances of laws against SciPy, and what a metric on laws of returns must obey."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import energy_distance, wasserstein_distance as scipy_wasserstein

from jaxrl import Law, cramer_distance, wasserstein_distance
from jaxrl.operators import Categorical

BOTH = [wasserstein_distance, cramer_distance]


def random_laws(seed, num_laws, num_atoms):
    """With repeated atoms, and impossible ones beyond all others."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(num_atoms), num_laws)
    atoms = np.round(rng.normal(size=(num_laws, num_atoms)) * 2 + rng.normal(), 1)
    probs[:, 0], atoms[:, 0] = 0.0, 50.0
    return probs / probs.sum(-1, keepdims=True), atoms


@pytest.mark.parametrize("sizes", [(2, 2), (5, 9), (30, 4)])
def test_they_are_those_of_scipy(sizes):
    with jax.enable_x64(True):
        (p, x), (q, y) = random_laws(0, 20, sizes[0]), random_laws(1, 20, sizes[1])
        laws = Law(jnp.asarray(p), jnp.asarray(x)), Law(jnp.asarray(q), jnp.asarray(y))
        moved, l2 = (np.asarray(jax.jit(distance)(*laws)) for distance in BOTH)
        for i in range(20):
            expected = scipy_wasserstein(x[i], y[i], p[i], q[i])
            np.testing.assert_allclose(moved[i], expected, rtol=1e-11)
            energy = energy_distance(x[i], y[i], p[i], q[i])
            np.testing.assert_allclose(2 * l2[i] ** 2, energy**2, rtol=1e-10)


@pytest.mark.parametrize("distance", BOTH)
def test_they_are_metrics_that_do_not_see_how_a_law_is_written(distance):
    with jax.enable_x64(True):
        first, second, third = (
            Law(*map(jnp.asarray, random_laws(seed, 8, 6))) for seed in range(3)
        )
        to_second = distance(first, second)
        np.testing.assert_allclose(distance(second, first), to_second, rtol=1e-12)
        assert jnp.all(to_second > 0.01)
        assert jnp.all(distance(first, third) <= to_second + distance(second, third) + 1e-12)
        order, half = np.arange(6)[::-1], jnp.concatenate([first.probs, first.probs], -1) / 2
        again = Law(half[:, np.r_[order, order + 6]], jnp.tile(first.atoms[:, order], 2))
        np.testing.assert_allclose(distance(first, again), 0.0, atol=1e-7)


@pytest.mark.parametrize(
    ("distance", "power"), [(wasserstein_distance, 1.0), (cramer_distance, 0.5)]
)
def test_a_discount_brings_laws_together_and_a_sure_number_is_as_far_as_it_is(distance, power):
    first, second = (Law(*map(jnp.asarray, random_laws(seed, 1, 6))) for seed in range(2))
    closer = distance(first.push(3.0, jnp.array(0.81)), second.push(3.0, jnp.array(0.81)))
    np.testing.assert_allclose(closer, 0.81**power * distance(first, second), rtol=1e-4)
    sure = [Law.of_samples(jnp.array([x])) for x in (-1.0, 8.0)]
    np.testing.assert_allclose(distance(*sure), 9.0**power, rtol=1e-6)


def test_the_categorical_projection_is_the_nearest_law_on_its_grid():
    """Moving some probability from one atom of the projection to another leads away."""
    head = Categorical(-2.0, 2.0, num_atoms=5)
    law = Law(jnp.array([0.3, 0.5, 0.2]), jnp.array([-1.4, 0.3, 1.8]))
    nearest = head.law(head.encode(law))
    least = float(cramer_distance(law, nearest))
    for giver in range(5):
        for taker in set(range(5)) - {giver}:
            share = 0.1 * nearest.probs[giver]
            probs = nearest.probs.at[giver].add(-share).at[taker].add(share)
            if share > 1e-4:
                assert float(cramer_distance(law, nearest.replace(probs=probs))) > least


@pytest.mark.parametrize("distance", BOTH)
def test_one_law_against_many_and_impossible_atoms_of_any_value(distance):
    one = Law(jnp.array([0.0, 0.25, 0.75]), jnp.array([jnp.inf, 1.0, 2.0]))
    many = Law(*map(jnp.asarray, random_laws(0, 4, 6)))
    together = distance(one, many)
    assert together.shape == (4,)
    alone = [distance(one, jax.tree.map(lambda x, i=i: x[i], many)) for i in range(4)]
    np.testing.assert_allclose(together, alone, rtol=1e-5)


@pytest.mark.parametrize("distance", BOTH)
def test_slopes_are_those_of_small_steps_and_finite_at_equal_laws(distance):
    with jax.enable_x64(True):
        first = Law(jnp.array([0.0, 0.2, 0.3, 0.5]), jnp.array([9.0, 1.3, -0.4, 0.2]))
        second = Law(jnp.array([0.4, 0.35, 0.25]), jnp.array([0.7, -1.1, 2.0]))
        far = lambda atoms: distance(first.replace(atoms=atoms), second)  # noqa: E731
        slopes = jax.grad(far)(first.atoms)
        for i in range(1, 4):
            step = 1e-5 * jnp.eye(4)[i]
            by_steps = (far(first.atoms + step) - far(first.atoms - step)) / 2e-5
            np.testing.assert_allclose(slopes[i], by_steps, atol=1e-6)
        assert slopes[0] == 0.0  # impossible
        same = jax.grad(lambda atoms: distance(first.replace(atoms=atoms), first))(first.atoms)
        assert jnp.all(jnp.isfinite(same))
