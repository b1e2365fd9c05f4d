"""Distances of laws against SciPy, and what a metric on laws of returns must obey."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
from scipy.stats import energy_distance, wasserstein_distance as scipy_wasserstein

from jaxrl import Law, cramer_distance, wasserstein_distance
from jaxrl.operators import Categorical

BOTH = [wasserstein_distance, cramer_distance]
NUM_LAWS, MOST_ATOMS = 20, 30  # of everything that is compiled
JITTED = {distance: jax.jit(distance) for distance in BOTH}
SLOPES = {
    distance: jax.jit(jax.vmap(jax.grad(lambda x, law, other, d=distance: d(Law(law, x), other))))
    for distance in BOTH
}


def padded(probs, atoms):
    """`[NUM_LAWS, MOST_ATOMS]`: of one law or as many, the rest impossible atoms."""
    rows = np.zeros((2, NUM_LAWS, MOST_ATOMS))
    rows[1] = -60.0
    for held, given in zip(rows, (probs, atoms), strict=True):
        held[:, : np.shape(given)[-1]] = given
    return Law(*rows)


def apart(distance, law, other):
    """`[NUM_LAWS]`, in float64."""
    with jax.enable_x64(True):
        return np.asarray(JITTED[distance](law, other))


def scipys(distance, x, y, p, q):
    if distance is wasserstein_distance:
        return scipy_wasserstein(x, y, p, q)
    return energy_distance(x, y, p, q) / np.sqrt(2)


def random_laws(seed, num_laws, num_atoms):
    """With repeated atoms, and impossible ones beyond all others."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(num_atoms), num_laws)
    atoms = np.round(rng.normal(size=(num_laws, num_atoms)) * 2 + rng.normal(), 1)
    probs[:, 0], atoms[:, 0] = 0.0, 50.0
    return probs / probs.sum(-1, keepdims=True), atoms


@pytest.mark.parametrize("sizes", [(2, 2), (5, 9), (30, 4)])
def test_they_are_those_of_scipy(sizes):
    (p, x), (q, y) = (random_laws(seed, NUM_LAWS, size) for seed, size in enumerate(sizes))
    moved, l2 = (apart(distance, padded(p, x), padded(q, y)) for distance in BOTH)
    for i in range(NUM_LAWS):
        expected = scipy_wasserstein(x[i], y[i], p[i], q[i])
        np.testing.assert_allclose(moved[i], expected, rtol=1e-11)
        energy = energy_distance(x[i], y[i], p[i], q[i])
        np.testing.assert_allclose(2 * l2[i] ** 2, energy**2, rtol=1e-10)


@pytest.mark.parametrize("distance", BOTH)
def test_they_are_metrics_that_do_not_see_how_a_law_is_written(distance):
    given = [random_laws(seed, NUM_LAWS, 6) for seed in range(3)]
    first, second, third = (padded(*law) for law in given)
    to_second = apart(distance, first, second)
    np.testing.assert_allclose(apart(distance, second, first), to_second, rtol=1e-12)
    rows = zip(given[0][1], given[1][1], given[0][0], given[1][0], strict=True)
    expected = [scipys(distance, *row) for row in rows]
    np.testing.assert_allclose(to_second, expected, rtol=1e-10)
    around = to_second + apart(distance, second, third)
    assert np.all(apart(distance, first, third) <= around + 1e-12)
    probs, atoms = given[0]
    order = np.arange(6)[::-1]
    half = np.concatenate([probs, probs], -1) / 2
    again = padded(half[:, np.r_[order, order + 6]], np.tile(atoms[:, order], 2))
    np.testing.assert_allclose(apart(distance, first, again), 0.0, atol=1e-7)


@pytest.mark.parametrize(
    ("distance", "power"), [(wasserstein_distance, 1.0), (cramer_distance, 0.5)]
)
def test_a_discount_brings_laws_together_and_a_sure_number_is_as_far_as_it_is(distance, power):
    first, second = (padded(*random_laws(seed, NUM_LAWS, 6)) for seed in range(2))
    pushed = [Law(law.probs, 3.0 + 0.81 * law.atoms) for law in (first, second)]
    far = apart(distance, first, second)
    np.testing.assert_allclose(apart(distance, *pushed), 0.81**power * far, rtol=1e-10)
    sure = [padded([1.0], [x]) for x in (-1.0, 8.0)]
    np.testing.assert_allclose(apart(distance, *sure), 9.0**power, rtol=1e-12)


def test_the_categorical_projection_is_the_nearest_law_on_its_grid():
    """Moving some probability from one atom of the projection to another leads away."""
    head = Categorical(-2.0, 2.0, num_atoms=5)
    law = Law(np.float32([0.3, 0.5, 0.2]), np.float32([-1.4, 0.3, 1.8]))
    nearest = jax.device_get(jax.jit(lambda law: head.law(head.encode(law)))(law))
    # By hand: 0.6 of the 0.3 at -1.4 to -1, 0.3 of the 0.5 at 0.3 to 1, 0.8 of the 0.2 to 2.
    np.testing.assert_allclose(nearest.probs, [0.12, 0.18, 0.35, 0.19, 0.16], atol=1e-6)
    np.testing.assert_allclose(nearest.atoms, np.arange(-2.0, 3.0), atol=1e-6)
    probs = nearest.probs.astype(float)
    moved = [probs]
    for giver, taker in itertools.permutations(range(5), 2):
        moved.append(probs + 0.1 * probs[giver] * (np.eye(5)[taker] - np.eye(5)[giver]))
    far = []
    for start in range(0, len(moved), NUM_LAWS):
        rows = np.stack((moved[start:] + [probs] * NUM_LAWS)[:NUM_LAWS])
        atoms = np.tile(np.arange(-2.0, 3.0), (NUM_LAWS, 1))
        far.extend(apart(cramer_distance, padded(law.probs, law.atoms), padded(rows, atoms)))
    assert np.all(np.array(far[1 : len(moved)]) > far[0] + 1e-6)


@pytest.mark.parametrize("distance", BOTH)
def test_one_law_against_many_and_impossible_atoms_of_any_value(distance):
    one = Law(np.array([0.0, 0.25, 0.75]), np.array([np.inf, 1.0, 2.0]))
    given = random_laws(0, 4, 6)
    with jax.enable_x64(True):
        together = np.asarray(JITTED[distance](one, Law(*given)))
    assert together.shape == (4,)
    expected = [
        scipys(distance, [1.0, 2.0], x, [0.25, 0.75], q) for q, x in zip(*given, strict=True)
    ]
    np.testing.assert_allclose(together, expected, rtol=1e-10)


@pytest.mark.parametrize("distance", BOTH)
def test_slopes_are_those_of_small_steps_and_finite_at_equal_laws(distance):
    """Steps of SciPy's distance. At equal laws moving an atom by h costs at most p h, and the
    slope of the root is 0 by choice."""
    p, x = np.array([0.0, 0.2, 0.3, 0.5]), np.array([9.0, 1.3, -0.4, 0.2])
    q, y = np.array([0.4, 0.35, 0.25]), np.array([0.7, -1.1, 2.0])
    first, second = padded(p, x), padded(q, y)
    with jax.enable_x64(True):
        slopes, same = (
            np.asarray(SLOPES[distance](first.atoms, first.probs, other))
            for other in (second, first)
        )
    for i in range(1, 4):
        step = 1e-6 * np.eye(4)[i]
        ends = [scipys(distance, x + sign * step, y, p, q) for sign in (1, -1)]
        np.testing.assert_allclose(slopes[0, i], (ends[0] - ends[1]) / 2e-6, atol=1e-7)
    assert slopes[0, 0] == 0.0  # impossible
    limit = first.probs if distance is wasserstein_distance else np.zeros_like(first.probs)
    assert np.all(np.abs(same) <= limit + 1e-12)
