"""Contracts of every functional in the tables: what they state, and what they must survive."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import table
import table_ambiguity
import table_divergences

from jaxrl.core.settings import list_settings
from jaxrl.functionals import BurgBall, ChiSquareBall, KLBall, L2Ball, Wasserstein

pytestmark = pytest.mark.usefixtures("quick_compilation")

NUM_LAWS, NUM_ATOMS = 64, 7
FACTS = ("monotone", "translation_equivariant", "coherent", "time_consistent")
ORDER = np.array([3, 0, 6, 5, 1, 2, 4])


OWN = table.FUNCTIONALS
FUNCTIONALS = {**OWN, **table_divergences.FUNCTIONALS, **table_ambiguity.FUNCTIONALS}
# Of each part that functionals share, one; the examples in the docstrings run all of them eagerly.
EAGER = ("mean", "cvar_0.3", "evar_0.3", "kl_0.2", "total_variation_0.3", "weighted_l1_0.4")
# In float64 each class is compiled again. The gradients of these, and of others over the full
# support, are certified in test_{divergences,norms,wasserstein,ambiguity}.py.
CERTIFIED = (KLBall, BurgBall, ChiSquareBall, L2Ball, Wasserstein)
WIDE = [
    name
    for name, functional in FUNCTIONALS.items()
    if not isinstance(functional, CERTIFIED)
    and name not in ("total_variation_0.3_full", "weighted_l1_0.4_full", "ellipsoid_0.3_full")
    and name not in ("divergence_chi_square_2", "divergence_hellinger_0.1")
]


@jax.jit
def measure(functional, probs, values):
    """Of `[NUM_LAWS, NUM_ATOMS]` laws: the values, the gradients in own leaves, probs, values.

    The one program of all contracts: one compilation a class and precision.
    """
    call = jax.value_and_grad(lambda f, p, v: f(p, v), argnums=(0, 1, 2), allow_int=True)
    return jax.vmap(call, in_axes=(None, 0, 0))(functional, probs, values)


def evaluate(functional, probs, values):
    return np.asarray(measure(functional, jnp.asarray(probs), jnp.asarray(values))[0], float)


def random_laws(seed=0, ties=True, dtype=np.float32):
    """Laws with, unless told otherwise, impossible atoms and repeated values."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(NUM_ATOMS, 0.7), NUM_LAWS)
    if ties:
        probs[:, 1] = np.where(rng.random(NUM_LAWS) < 0.5, 0.0, probs[:, 1])
    else:
        probs = 0.8 * probs + 0.2 / NUM_ATOMS
    values = rng.normal(size=(NUM_LAWS, NUM_ATOMS))
    if ties:
        values[::2, 2] = values[::2, 3]
    probs = probs / probs.sum(1, keepdims=True)
    return probs.astype(dtype), values.astype(dtype)


def is_nominal(functional):
    return getattr(functional, "support", "nominal") == "nominal"


def in_float64(functional):
    def widen(leaf):
        leaf = np.asarray(leaf)
        return jnp.asarray(leaf, float if np.issubdtype(leaf.dtype, np.floating) else leaf.dtype)

    return jax.tree.map(widen, functional)


@pytest.fixture(params=FUNCTIONALS.values(), ids=FUNCTIONALS.keys())
def functional(request):
    return request.param


# ---- what a functional states ------------------------------------------------------------------


def breaks_monotone(functional):
    """By raising all atoms, or the greatest alone."""
    probs, values = random_laws(ties=False)
    more = values + np.abs(np.random.default_rng(1).normal(size=values.shape))
    higher = values.copy()
    higher[np.arange(NUM_LAWS), values.argmax(1)] += 5.0
    base = evaluate(functional, probs, values)
    raised = [evaluate(functional, probs, v.astype(np.float32)) for v in (more, higher)]
    return max(np.max(base - after) for after in raised) > 2e-5


def breaks_translation_equivariance(functional):
    probs, values = random_laws()
    moved = evaluate(functional, probs, values + np.float32(3.0))
    return np.max(np.abs(moved - evaluate(functional, probs, values) - 3.0)) > 2e-5


def breaks_coherence(functional):
    """Not monotone, not translation equivariant, not homogeneous, or not superadditive."""
    if breaks_monotone(functional) or breaks_translation_equivariance(functional):
        return True
    probs, values = random_laws()
    scaled = 7.0 * evaluate(functional, probs, values)
    if np.max(np.abs(evaluate(functional, probs, np.float32(7.0) * values) - scaled)) > 1e-4:
        return True
    other = np.flip(values, 0)
    apart = evaluate(functional, probs, values) + evaluate(functional, probs, other)
    return np.max(apart - evaluate(functional, probs, values + other)) > 1e-4


def breaks_time_consistency(functional):
    """F(X) is not F(F(X | Y)), Y telling the first three atoms from the others."""
    probs, values = random_laws(ties=False)
    parts = [
        np.where(np.arange(NUM_ATOMS) < 3, probs, 0),
        np.where(np.arange(NUM_ATOMS) < 3, 0, probs),
    ]
    chances = np.stack([part.sum(1) for part in parts], 1)
    inner = [evaluate(functional, (part / part.sum(1, keepdims=True)), values) for part in parts]
    outer_probs, outer_values = np.zeros_like(probs), np.zeros_like(values)
    outer_probs[:, :2], outer_values[:, :2] = chances, np.stack(inner, 1)
    nested = evaluate(functional, outer_probs, outer_values)
    return np.max(np.abs(nested - evaluate(functional, probs, values))) > 1e-4


BREAKS = {
    "monotone": breaks_monotone,
    "translation_equivariant": breaks_translation_equivariance,
    "coherent": breaks_coherence,
    "time_consistent": breaks_time_consistency,
}


@pytest.mark.parametrize("fact", FACTS)
def test_stated_facts_hold(functional, fact):
    if getattr(functional, fact):
        assert not BREAKS[fact](functional)


@pytest.mark.parametrize("fact", FACTS)
@pytest.mark.parametrize(
    "kind", dict.fromkeys(map(type, FUNCTIONALS.values())), ids=lambda k: k.__name__
)
def test_a_fact_denied_fails_for_some_instance(kind, fact):
    if not getattr(kind, fact):
        instances = [f for f in FUNCTIONALS.values() if type(f) is kind]
        assert any(BREAKS[fact](instance) for instance in instances)


def test_worst_case_is_a_law(functional):
    """Monotone: no weight is negative; translation equivariant: they sum to one; coherent: they
    give the value; law invariant: none on impossible atoms."""
    probs, values = random_laws()
    result, (_, _, weights) = measure(functional, probs, values)
    if functional.monotone:
        assert jnp.all(weights >= -1e-6)
    if functional.translation_equivariant:
        np.testing.assert_allclose(jnp.sum(weights, 1), 1.0, atol=1e-5)
    if functional.coherent:
        np.testing.assert_allclose(jnp.sum(weights * values, 1), result, atol=1e-5)
    if is_nominal(functional):
        assert jnp.all(jnp.where(probs == 0, weights, 0.0) == 0)


def test_lies_within_the_values(functional):
    if not functional.monotone:
        pytest.skip("only a monotone functional must")
    probs, values = random_laws()
    counts = (probs > 0) | (not is_nominal(functional))
    result = evaluate(functional, probs, values)
    assert np.all(result >= np.min(np.where(counts, values, np.inf), 1) - 1e-5)
    assert np.all(result <= np.max(np.where(counts, values, -np.inf), 1) + 1e-5)


@pytest.mark.parametrize("name", OWN)
def test_the_order_of_the_atoms_does_not_matter(name):
    probs, values = random_laws()
    result = evaluate(OWN[name], probs, values)
    other = evaluate(OWN[name], probs[:, ORDER], values[:, ORDER])
    np.testing.assert_allclose(other, result, atol=5e-6)


@pytest.mark.parametrize("name", OWN)
def test_one_atom_is_its_value(name):
    probs, values = random_laws()
    probs = np.eye(NUM_ATOMS, dtype=np.float32)[np.arange(NUM_LAWS) % NUM_ATOMS]
    result = evaluate(OWN[name], probs, values)
    np.testing.assert_allclose(result, np.sum(probs * values, 1), rtol=1e-6)


def test_a_law_of_length_one_is_its_value():
    @jax.jit
    def apply(functionals):
        return [functional(jnp.ones(1), jnp.full(1, 3.0)) for functional in functionals]

    found = apply(list({type(f): f for f in OWN.values()}.values()))
    np.testing.assert_allclose(found, 3.0, rtol=1e-6)


# ---- what it must survive ----------------------------------------------------------------------


def assert_finite_gradients(functional, probs, values):
    _, (_, by_probs, by_values) = measure(functional, jnp.asarray(probs), jnp.asarray(values))
    assert jnp.all(jnp.isfinite(by_probs))
    assert jnp.all(jnp.isfinite(by_values))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_impossible_atoms_may_hold_anything(functional, bad):
    if not is_nominal(functional):
        pytest.skip("over the full support no atom is impossible")
    probs, values = random_laws()
    held = np.where(probs > 0, values, np.float32(bad))
    filled = np.where(probs > 0, values, np.float32(0.0))
    expected = evaluate(functional, probs, filled)
    np.testing.assert_allclose(evaluate(functional, probs, held), expected, atol=1e-6)
    assert_finite_gradients(functional, probs, held)


def test_a_possible_nan_is_reported(functional):
    probs, values = random_laws()
    values[np.arange(NUM_LAWS), probs.argmax(1)] = np.nan
    assert np.all(np.isnan(evaluate(functional, probs, values)))


def test_a_possible_catastrophe_counts(functional):
    """A value of -inf is the limit of large losses, and no gradient is NaN."""
    probs, values = random_laws(ties=False)
    values[:, 0] = -1e30
    limit = evaluate(functional, probs, values)
    values[:, 0] = -np.inf
    result, (_, by_probs, by_values) = measure(functional, probs, values)
    is_lost = limit < -1e15
    assert np.all(np.where(is_lost, np.asarray(result) == -np.inf, True))
    np.testing.assert_allclose(np.where(is_lost, 0, result), np.where(is_lost, 0, limit), atol=1e-5)
    assert not jnp.any(jnp.isnan(by_probs)) and not jnp.any(jnp.isnan(by_values))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_equal_values_and_scales(functional, scale):
    probs, values = random_laws()
    same = np.full_like(values, -2.5 * scale)
    np.testing.assert_allclose(evaluate(functional, probs, same), same[:, 0], rtol=1e-6)
    assert_finite_gradients(functional, probs, same)
    scaled = values * np.float32(scale)
    assert np.all(np.isfinite(evaluate(functional, probs, scaled)))
    assert_finite_gradients(functional, probs, scaled)


def test_probabilities_that_sum_almost_to_one(functional):
    probs, values = random_laws()
    exact = evaluate(functional, probs, values)
    for factor in (1 - 1e-6, 1 + 1e-6):
        almost = (probs * factor).astype(np.float32)
        np.testing.assert_allclose(evaluate(functional, almost, values), exact, atol=1e-5)
        assert_finite_gradients(functional, almost, values)


# ---- machinery ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EAGER)
def test_eager_is_jit_of_vmap(name):
    functional = FUNCTIONALS[name]
    probs, values = random_laws()
    eager = functional(jnp.asarray(probs[0]), jnp.asarray(values[0]))
    np.testing.assert_allclose(eager, evaluate(functional, probs, values)[0], atol=2e-6)


def test_a_changed_float_does_not_retrace(functional):
    probs, values = random_laws()
    evaluate(functional, probs, values)
    before = measure._cache_size()
    evaluate(jax.tree.map(lambda leaf: leaf * 0.75, functional), probs, values)
    assert measure._cache_size() == before


@pytest.mark.parametrize("name", WIDE)
def test_float32_is_near_float64(name):
    functional = FUNCTIONALS[name]
    probs, values = random_laws()
    narrow = evaluate(functional, probs, values)
    with jax.enable_x64(True):
        wide = evaluate(in_float64(functional), probs.astype(float), values.astype(float))
    assert np.max(np.abs(narrow - wide)) < 2e-5


def slope(call, step):
    """One-sided, of second order: a parameter may stand at the end of its range."""
    return (3 * call(0.0) - 4 * call(-step) + call(-2 * step)) / (2 * step)


@pytest.mark.parametrize("name", WIDE)
def test_gradients_are_differences(name):
    """In float64: in values, in probs along the simplex, in the functional's own numbers."""
    probs, values = random_laws(seed=5, ties=False, dtype=float)
    rng = np.random.default_rng(6)
    by, along = rng.normal(size=values.shape), rng.normal(size=probs.shape)
    along -= along.mean(1, keepdims=True)
    with jax.enable_x64(True):
        functional = in_float64(FUNCTIONALS[name])
        _, (by_own, by_probs, by_values) = measure(functional, probs, values)

        def own(step):
            return jax.tree.map(lambda leaf: leaf * (1 + step), functional)

        checks = {
            "values": (
                np.sum(by_values * by, 1),
                lambda s: evaluate(functional, probs, values + s * by),
            ),
            "probs": (
                np.sum(by_probs * along, 1),
                lambda s: evaluate(functional, probs + s * along, values),
            ),
            "own": (
                sum(
                    (
                        np.sum(np.reshape(g, (NUM_LAWS, -1)) * np.reshape(x, (1, -1)), 1)
                        for g, x in zip(
                            jax.tree.leaves(by_own), jax.tree.leaves(functional), strict=True
                        )
                    ),
                    np.zeros(NUM_LAWS),
                ),
                lambda s: evaluate(own(s), probs, values),
            ),
        }
        for what, (ours, call) in checks.items():
            if what == "own" and np.max(np.abs(ours)) > 1e6:
                continue  # where the true derivative is infinite
            expected = slope(call, 1e-6)
            error = np.abs(ours - expected) / (1 + np.abs(expected))
            # A kink within the step spoils the difference, in few of the laws.
            assert np.mean(error < 1e-5) >= 0.9, what
            assert np.median(error) < 1e-6, what


# ---- settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", dict.fromkeys(map(type, OWN.values())), ids=lambda k: k.__name__)
def test_a_level_out_of_range_is_refused(kind):
    for info in list_settings(kind()):
        if "." in info.name or not np.isfinite(info.low):
            continue
        for wrong in (info.low - 0.1, info.high + 0.1, info.low if info.low_open else np.nan):
            if not np.isinf(wrong):
                with pytest.raises(ValueError, match=info.name):
                    kind(**{info.name: wrong})
                with pytest.raises(ValueError, match=info.name):
                    dataclasses.replace(kind(), **{info.name: wrong})


def test_settings_of_utilities_and_spectra_are_checked():
    with pytest.raises(ValueError, match="risk_aversion"):
        table.ExponentialUtility(-1.0)
    with pytest.raises(ValueError, match="levels"):
        table.Spectral((0.0, 0.5), (0.5, 0.5))
    with pytest.raises(ValueError, match="weights"):
        table.Spectral((0.1, 0.5), (0.5, -0.5))
    with pytest.raises(ValueError, match="lengths 2 and 1"):
        table.Spectral((0.1, 0.5), (1.0,))


def test_traced_and_swept_settings_are_not_checked():
    levels = jnp.array([0.1, 0.5, 1.0])
    probs, values = jnp.ones(4) / 4, jnp.arange(4.0)
    swept = jax.vmap(lambda level: table.CVaR(level)(probs, values))(levels)
    np.testing.assert_allclose(swept, [0.0, 0.5, 1.5])
    np.testing.assert_allclose(jax.vmap(lambda f: f(probs, values))(table.CVaR(levels)), swept)
