"""Divergence penalties against their formulas in extended precision, programs and limits."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
from hard_laws import measure
from scipy.optimize import linprog, minimize_scalar

from jaxrl.functionals import ChiSquarePenalty, KLPenalty, TotalVariationPenalty

NUM_LAWS, NUM_ATOMS = 96, 12
WIDE = np.longdouble
KINDS = (KLPenalty, TotalVariationPenalty, ChiSquarePenalty)


def apply(kind, weights, probs, values, dtype=float, **settings):
    """Values, slopes in the weight and the probs, worst laws."""
    value, (own, by_probs, law) = measure(kind(weights, **settings), probs, values, dtype)
    return tuple(np.asarray(a, float) for a in (value, own.weight, by_probs, law))


def varied_laws(seed=0):
    """Scales of 1e-6 to 1e6, an offset, impossible atoms, ties; with weights about the scale."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(NUM_ATOMS, 0.5), NUM_LAWS) + 1e-9
    probs[:, 3] = np.where(rng.random(NUM_LAWS) < 0.5, 0.0, probs[:, 3])
    probs /= probs.sum(1, keepdims=True)
    scale = 10.0 ** rng.uniform(-6, 6, (NUM_LAWS, 1))
    values = rng.normal(size=(NUM_LAWS, NUM_ATOMS))
    values[::2, 1] = values[::2, 2]
    offset = rng.choice([0.0, 1e5], (NUM_LAWS, 1))
    return probs, scale * values + offset, scale[:, 0] * 10.0 ** rng.uniform(-3, 3, NUM_LAWS)


def least_of(probs, values):
    return np.min(np.where(probs > 0, values, np.inf), 1)


def size_of(probs, values):
    return np.max(np.where(probs > 0, np.abs(values), 0), 1)


@pytest.mark.slow
def test_kl_penalty_is_its_formula():
    probs, values, weights = varied_laws()
    value, by_weight, _, law = apply(KLPenalty, weights, probs, values)
    low = least_of(probs, values)
    p, x, w = probs.astype(WIDE), (values - low[:, None]).astype(WIDE), weights.astype(WIDE)
    p = p / p.sum(1, keepdims=True)
    terms = p * np.exp(-np.where(p > 0, x, 0) / w[:, None])
    gibbs = terms / terms.sum(1, keepdims=True)
    expected = -w * np.log(terms.sum(1))
    assert np.all(np.abs(value - low - expected) <= 1e-13 * size_of(probs, values))
    np.testing.assert_allclose(law, gibbs.astype(float), atol=1e-12)
    ratio = np.where(gibbs > 0, gibbs / np.where(p > 0, p, 1), 1)
    entropy = np.sum(gibbs * np.log(ratio), 1).astype(float)
    np.testing.assert_allclose(by_weight, entropy, atol=1e-12)  # envelope: the divergence


@pytest.mark.slow
@pytest.mark.parametrize("support", ["nominal", "full"])
def test_total_variation_penalty_is_the_linear_program(support):
    """min q v + weight / 2 sum (up + down) with q = p + up - down, all not negative."""
    probs, values, weights = varied_laws(seed=1)
    values[:, 3] -= 2.0 * weights
    value, by_weight, _, law = apply(TotalVariationPenalty, weights, probs, values, support=support)
    for i in range(0, NUM_LAWS, 4):
        allowed = (probs[i] > 0) | (support == "full")
        p, v, w = probs[i][allowed], values[i][allowed], weights[i]
        scale = np.ptp(v) + w
        v, w, base = (v - v.min()) / scale, w / scale, v.min()
        size = len(p)
        program = linprog(
            np.concatenate([v + w / 2, w / 2 - v]),
            A_eq=[np.concatenate([np.ones(size), -np.ones(size)])],
            b_eq=[0.0],
            bounds=[(0, None)] * size + [(0, mass) for mass in p],
        )
        assert program.success
        expected = scale * (program.fun + p @ v) + base
        assert abs(value[i] - expected) <= 1e-9 * max(np.abs(values[i][allowed]).max(), scale)
    np.testing.assert_allclose(law.sum(1), 1.0, atol=1e-12)
    assert np.all(law >= 0)
    moved = 0.5 * np.sum(np.abs(law - probs), 1)
    np.testing.assert_allclose(by_weight, moved, atol=1e-12)  # envelope: the mass moved
    assert (support == "full") == bool(np.any(law[probs == 0] > 0))


@pytest.mark.slow
def test_chi_square_penalty_is_its_dual():
    """max_a E[min(V, a)] - Var[min(V, a)] / (4 weight), by a search of its own."""
    probs, values, weights = varied_laws(seed=2)
    value, by_weight, _, law = apply(ChiSquarePenalty, weights, probs, values)
    low = least_of(probs, values)
    gaps = np.where(probs > 0, values - low[:, None], 0.0)
    divergence = np.sum(
        np.where(probs > 0, (law - probs) ** 2 / np.where(probs > 0, probs, 1), 0), 1
    )
    for i in range(NUM_LAWS):
        p, x, top = probs[i], gaps[i] / gaps[i].max(), gaps[i].max()

        def loss(cut, p=p, x=x, price=weights[i] / top):
            held = np.minimum(x, cut)
            mean = p @ held
            return (p @ (held - mean) ** 2) / (4 * price) - mean

        knots = np.unique(x)  # concave between neighbours
        ends = itertools.pairwise(knots)
        tight = {"xatol": 1e-12}
        found = [minimize_scalar(loss, bounds=end, method="bounded", options=tight) for end in ends]
        dual = -min([search.fun for search in found] + [loss(knot) for knot in knots])
        size = max(np.abs(values[i]).max(), weights[i])
        assert abs(value[i] - low[i] - top * dual) <= 1e-10 * size
    # The primal at nature's law closes the gap: neither can be improved upon.
    primal = np.sum(law * gaps, 1) + weights * divergence
    assert np.all(np.abs(value - low - primal) <= 1e-10 * size_of(probs, values))
    np.testing.assert_allclose(law.sum(1), 1.0, atol=1e-12)
    assert np.all(law >= 0)
    np.testing.assert_allclose(by_weight, divergence, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_limits_of_the_weight(kind):
    probs, values, weights = varied_laws(seed=4)
    low, size = least_of(probs, values), size_of(probs, values)
    value, by_weight, by_probs, law = apply(kind, np.zeros(NUM_LAWS), probs, values)
    np.testing.assert_array_equal(value, low)
    assert np.all(np.isfinite(by_weight)) and np.all(np.isfinite(by_probs))
    np.testing.assert_allclose(np.sum(law * (values == low[:, None]), 1), 1.0, atol=1e-12)
    mean = np.sum(probs * values, 1)
    for great in (1e13 * size, np.full(NUM_LAWS, np.inf)):
        value, by_weight, by_probs, law = apply(kind, great, probs, values)
        assert np.all(np.abs(value - mean) <= 1e-11 * size)
        np.testing.assert_allclose(law, probs, atol=1e-11)
        assert np.all(np.isfinite(by_weight)) and np.all(np.isfinite(by_probs))
    # The dearer the departure, the greater the value.
    steps = [apply(kind, factor * weights, probs, values)[0] for factor in (0.1, 1.0, 10.0)]
    assert np.all(steps[0] <= steps[1] + 1e-12 * size)
    assert np.all(steps[1] <= steps[2] + 1e-12 * size)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_gain_without_bound_is_given_up_at_a_price(kind):
    """The limit of ever larger gains; at weight 1 every penalty sheds them."""
    probs, values, weights = np.full((NUM_LAWS, NUM_ATOMS), 1 / NUM_ATOMS), np.zeros(NUM_ATOMS), 1.0
    values = np.tile(np.arange(NUM_ATOMS) / 10, (NUM_LAWS, 1))
    weights = np.full(NUM_LAWS, weights)
    values[:, -1] = 1e9
    limit = apply(kind, weights, probs, values)[0]
    values[:, -1] = np.inf
    value, by_weight, _, law = apply(kind, weights, probs, values)
    np.testing.assert_allclose(value, limit, atol=1e-6)
    np.testing.assert_array_equal(law[:, -1], 0.0)
    assert np.all(np.isfinite(by_weight))


def test_total_variation_penalty_by_hand():
    """Weight 2: the mass 1/4 at 8 goes to 1 for 2; the tie at 3 stays where it is."""
    functional = TotalVariationPenalty(2.0)
    probs, values = np.float32([0.25, 0.5, 0.25]), np.float32([1.0, 3.0, 8.0])
    value, law = jax.jit(jax.value_and_grad(functional, argnums=1))(probs, values)
    assert float(value) == 0.25 * 1 + 0.5 * 3 + 0.25 * (1 + 2)
    assert law.tolist() == [0.5, 0.5, 0.0]


@pytest.mark.parametrize("kind", KINDS)
def test_settings_are_checked(kind):
    with pytest.raises(ValueError, match="weight"):
        kind(-0.5)
