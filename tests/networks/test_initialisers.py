"""Initialisers: orthonormal to rounding, uniform on the orthogonal matrices, safe under vmap."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxrl.networks.initialisers import lecun, orthogonal

SHAPES = [(8, 8), (32, 5), (5, 32), (1, 7), (3, 3, 1, 16)]
FURTHER = [(64, 64), (7, 1), (1, 1)]  # a program of -m slow
LECUN = {(64, 200): 64, (3, 3, 4, 300): 36}  # shape: fan-in


SCALE = 2**0.5


@functools.cache
def drawn():
    """Kernels of every shape, 400 of one shape in lanes, three of two keys, and two of lecun."""

    @jax.jit
    def run(key, keys, pair):
        lecuns = {shape: lecun(1.5)(key, shape, jnp.float32) for shape in LECUN}
        kernels = {shape: orthogonal(SCALE)(key, shape, jnp.float32) for shape in SHAPES}
        many = jax.vmap(lambda key: orthogonal()(key, (8, 8)))(keys)
        three = jax.vmap(lambda key: orthogonal()(key, (6, 4)))(pair)
        return kernels, many, three, lecuns

    key = jax.random.key(0)
    seeds = jax.random.wrap_key_data(np.uint32([[0, 0], [0, 0], [0, 1]]))
    return jax.device_get(run(key, jax.random.split(jax.random.key(1), 400), seeds))


@functools.cache
def further():
    @jax.jit
    def run(key):
        return {shape: orthogonal(SCALE)(key, shape, jnp.float32) for shape in FURTHER}

    return jax.device_get(run(jax.random.key(0)))


@pytest.mark.parametrize(
    "shape", [*SHAPES, *(pytest.param(shape, marks=pytest.mark.slow) for shape in FURTHER)]
)
@pytest.mark.parametrize("scale", [SCALE])
def test_rows_or_columns_are_orthonormal(shape, scale):
    """W^T W = scale^2 I when tall, W W^T = scale^2 I when wide, both when square."""
    kernel = further()[shape] if shape in FURTHER else drawn()[0][shape]
    assert kernel.shape == shape and kernel.dtype == jnp.float32
    matrix = kernel.astype(np.float64).reshape(-1, shape[-1])
    rows, columns = matrix.shape
    if rows >= columns:
        np.testing.assert_allclose(matrix.T @ matrix, scale**2 * np.eye(columns), atol=2e-4)
    if rows <= columns:
        np.testing.assert_allclose(matrix @ matrix.T, scale**2 * np.eye(rows), atol=2e-4)


@pytest.fixture(scope="module")
def many():
    return drawn()[1]


def test_every_lane_of_a_vmapped_program_is_orthogonal(many):
    gram = np.einsum("nij,nik->njk", many, many)
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(8), gram.shape), atol=1e-3)


def test_matrices_are_uniform_on_the_orthogonal_group(many):
    """Haar: an entry's square is Beta(1/2, (n - 1) / 2), signs are even, both determinants occur.

    A row is a uniform direction: its entries have mean 0 and variance 1/8, and entries of
    different matrices are independent, so each entry's sample of 400 is tested on its own.
    """
    squares = scipy.stats.beta(0.5, 3.5)
    for row, column in [(0, 0), (0, 7), (3, 4), (7, 0), (7, 7)]:
        entries = many[:, row, column]
        assert scipy.stats.kstest(entries**2, squares.cdf).pvalue > 1e-3
        assert scipy.stats.binomtest(int((entries > 0).sum()), 400).pvalue > 1e-3
    np.testing.assert_allclose(many.mean(), 0.0, atol=5 * (0.125 / many.size) ** 0.5)
    positive = int((np.linalg.det(many) > 0).sum())
    assert scipy.stats.binomtest(positive, 400).pvalue > 1e-3


@pytest.mark.parametrize("shape, fan_in", LECUN.items())
def test_lecun_variance_is_scale_squared_over_fan_in(shape, fan_in):
    weights = drawn()[3][shape].ravel()
    variance = 1.5**2 / fan_in
    error = variance * (2.0 / weights.size) ** 0.5  # of a sample variance, at most the normal's
    np.testing.assert_allclose(weights.var(), variance, atol=5 * error)
    np.testing.assert_allclose(weights.mean(), 0.0, atol=5 * (variance / weights.size) ** 0.5)
    # A normal cut at two standard deviations, stretched back to the stated variance.
    assert np.abs(weights).max() <= 2.0 * variance**0.5 / 0.8796 + 1e-4


def test_same_key_same_weights():
    first, again, other = drawn()[2]
    np.testing.assert_array_equal(first, again)
    assert np.all(first != other)
