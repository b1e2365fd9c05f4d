"""Contracts of every head, and the projections against independent references."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.core.law import Law
from jaxrl.operators import Categorical, Quantile, Scalar

HEADS = {
    "scalar": Scalar(),
    "categorical": Categorical(-3.0, 5.0, num_atoms=17),
    "quantile": Quantile(num_atoms=8),
    "one_quantile": Quantile(num_atoms=1),
}


@jax.jit
def roundtrip(head, law):
    params = head.encode(law)
    return params, head.law(params), head.mean(params)


@jax.jit
def slope(head, params, law):
    return jax.grad(head.loss)(params, law)


@pytest.fixture(params=HEADS.values(), ids=HEADS.keys())
def head(request):
    return request.param


def random_law(seed=0, num_atoms=12, spread=2.5):
    """Unsorted, with a repeat and an impossible atom."""
    rng = np.random.default_rng(seed)
    probs, atoms = rng.dirichlet(np.ones(num_atoms)), rng.uniform(-spread, spread, num_atoms)
    probs[2], atoms[5] = 0.0, atoms[6]
    return Law(jnp.asarray(probs / probs.sum(), jnp.float32), jnp.asarray(atoms, jnp.float32))


def project_by_loops(law, low, high, num_atoms):
    """C51's algorithm 1 in float64 loops: floor, ceiling, two shares."""
    grid, spacing = np.linspace(low, high, num_atoms), (high - low) / (num_atoms - 1)
    result = np.zeros(num_atoms)
    for p, z in zip(np.asarray(law.probs, float), np.asarray(law.atoms, float), strict=True):
        place = (min(max(z, low), high) - low) / spacing
        left = min(int(np.floor(place)), num_atoms - 2)
        result[left] += p * (left + 1 - place)
        result[left + 1] += p * (place - left)
    return grid, result


def test_parameters_stand_for_a_law_with_their_mean(head):
    params = jax.random.normal(jax.random.key(0), head.shape)
    law = head.law(params)
    np.testing.assert_allclose(jnp.sum(law.probs), 1.0, rtol=1e-6)
    assert jnp.all(law.probs >= 0)
    np.testing.assert_allclose(head.mean(params), law.mean(), rtol=1e-5, atol=1e-6)


def test_what_a_head_can_store_it_keeps(head):
    """encode is a projection: encode(law(encode(x))) stands for the same law."""
    params, law, _ = roundtrip(head, random_law())
    assert params.shape == head.shape
    again = roundtrip(head, law)[1]
    np.testing.assert_allclose(again.probs, law.probs, atol=2e-6)
    np.testing.assert_allclose(again.atoms, law.atoms, atol=2e-6)


def test_encoding_ignores_order_and_impossible_atoms(head):
    law = random_law()
    params = roundtrip(head, law)[0]
    order = jax.random.permutation(jax.random.key(1), 12)
    held = jnp.where(law.probs > 0, law.atoms, jnp.nan)
    shuffled = Law(law.probs[order], held[order])
    np.testing.assert_allclose(roundtrip(head, shuffled)[0], params, atol=1e-5)
    slopes = slope(head, params, shuffled)
    np.testing.assert_allclose(slopes, slope(head, params, law), atol=1e-6)
    assert jnp.all(jnp.isfinite(slopes))


def test_the_loss_is_least_at_the_encoding(head):
    """No small step from the encoding lowers the loss (kinks included)."""
    if isinstance(head, Quantile):
        head = head.replace(huber_threshold=0.0)  # a rounded kink has moved minimisers
    law = random_law(3)
    params = head.encode(law)
    loss = jax.jit(head.loss)
    steps = 0.05 * jax.random.normal(jax.random.key(2), (20, *head.shape))
    for step in steps:
        assert loss(params + step, law) >= loss(params, law) - 1e-6


def test_equal_atoms(head):
    mean = roundtrip(head, Law(jnp.full(12, 1 / 12), jnp.full(12, 1.25)))[2]
    np.testing.assert_allclose(mean, 1.25, rtol=1e-5)


@pytest.mark.parametrize("kind", [Scalar(1.0), Quantile(4, 1.0), Categorical(-1.0, 1.0, 4)])
def test_a_changed_float_does_not_retrace(kind):
    traces = []

    @jax.jit
    def call(head, params, law):
        traces.append(1)
        return head.loss(params, law)

    first = call(kind, jnp.zeros(kind.shape), random_law())
    second = call(jax.tree.map(lambda x: 0.5 * x, kind), jnp.zeros(kind.shape), random_law())
    assert len(traces) == 1
    if not isinstance(kind, Categorical):
        assert first != second


# ---- categorical -----------------------------------------------------------------------------


def test_categorical_projection_by_hand():
    """Grid 0, 1, 2. Half at 0.25: 3/4 of it to 0, 1/4 to 1. A quarter at -7 to 0, one at 9 to 2."""
    law = Law(jnp.array([0.25, 0.5, 0.25]), jnp.array([9.0, 0.25, -7.0]))
    np.testing.assert_allclose(Categorical(0.0, 2.0, 3).project(law), [0.625, 0.125, 0.25])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spread", [2.5, 30.0])
def test_categorical_projection_is_the_algorithm(seed, spread):
    law = random_law(seed, spread=spread)
    head = HEADS["categorical"]
    grid, expected = project_by_loops(law, -3.0, 5.0, 17)
    np.testing.assert_allclose(head.support(), grid, atol=1e-6)
    np.testing.assert_allclose(head.project(law), expected, atol=2e-6)
    if spread < 3.0:  # inside the grid the mean stays
        np.testing.assert_allclose(head.mean(head.encode(law)), law.mean(), atol=5e-6)


def test_categorical_with_infinite_returns_puts_them_at_the_ends():
    law = Law(jnp.array([0.25, 0.75]), jnp.array([-jnp.inf, jnp.inf]))
    np.testing.assert_allclose(Categorical(-1.0, 1.0, 3).project(law), [0.25, 0.0, 0.75])


def test_categorical_projection_contracts_the_cramer_distance():
    """Projected laws are no further apart than the laws: the property behind C51's convergence."""
    grid_step = 8.0 / 16
    head, fine = HEADS["categorical"], np.linspace(-30, 30, 20001)

    def squared_distance(first, second):
        def cdf(law):
            return (np.asarray(law.probs) * (np.asarray(law.atoms) <= fine[:, None])).sum(1)

        return np.sum((cdf(first) - cdf(second)) ** 2) * (fine[1] - fine[0])

    for seed in range(3):
        first, second = random_law(seed), random_law(seed + 10)
        gap = np.cumsum(np.asarray(head.project(first) - head.project(second)))
        assert np.sum(gap**2) * grid_step <= squared_distance(first, second) + 1e-2


# ---- quantile --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_quantile_encoding_is_numpys_weighted_quantile(seed):
    law = random_law(seed)
    expected = np.quantile(
        np.asarray(law.atoms, float),
        (2 * np.arange(8) + 1) / 16,
        weights=np.asarray(law.probs, float),
        method="inverted_cdf",
    )
    np.testing.assert_allclose(HEADS["quantile"].encode(law), expected, rtol=1e-6)


def test_quantile_stores_its_own_samples():
    samples = jnp.array([3.0, -1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0])
    np.testing.assert_array_equal(
        HEADS["quantile"].encode(Law.of_samples(samples)), jnp.sort(samples)
    )


def test_scalar_loss_by_hand():
    """Mean 3 against 1: error 2; squared 2, Huber with threshold 1: 1 (2 - 1/2)."""
    law = Law.of_samples(jnp.array([1.0, 5.0]))
    assert float(Scalar(np.inf).loss(jnp.array(1.0), law)) == 2.0
    assert float(Scalar(1.0).loss(jnp.array(1.0), law)) == 1.5
