"""Contracts of every functional, and the references of each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from jaxrl.core.settings import check_settings, list_settings
from jaxrl.functionals import CVaR, Entropic, Mean, worst_case

NUM_LAWS, NUM_ATOMS = 64, 7
UNIT = float(np.finfo(np.float32).eps) / 2

FUNCTIONALS = {
    "mean": Mean(),
    "cvar_0.001": CVaR(0.001),
    "cvar_0.3": CVaR(0.3),
    "cvar_1": CVaR(1.0),
    "entropic_0": Entropic(0.0),
    "entropic_1e-4": Entropic(1e-4),
    "entropic_2": Entropic(2.0),
    "entropic_1000": Entropic(1000.0),
    "entropic_-2": Entropic(-2.0),
}


@jax.jit
def evaluate(functional, probs, values):
    return jax.vmap(functional)(probs, values)


@jax.jit
def weights_of(functional, probs, values):
    return jax.vmap(lambda p, v: worst_case(functional, p, v))(probs, values)


@jax.jit
def gradients_of(functional, probs, values):
    """Of each law: in the functional's own leaves, in the probs, in the values."""
    return jax.vmap(jax.grad(lambda f, p, v: f(p, v), argnums=(0, 1, 2)), in_axes=(None, 0, 0))(
        functional, probs, values
    )


def random_laws(seed=0, ties=True):
    """`[NUM_LAWS, NUM_ATOMS]` laws with impossible atoms and repeated values."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(NUM_ATOMS, 0.7), NUM_LAWS)
    if ties:
        probs[:, 1] = np.where(rng.random(NUM_LAWS) < 0.5, 0.0, probs[:, 1])
    values = rng.normal(size=(NUM_LAWS, NUM_ATOMS))
    if ties:
        values[::2, 2] = values[::2, 3]
    probs = probs / probs.sum(1, keepdims=True)
    return jnp.asarray(probs, jnp.float32), jnp.asarray(values, jnp.float32)


@pytest.fixture(params=FUNCTIONALS.values(), ids=FUNCTIONALS.keys())
def functional(request):
    return request.param


def test_monotone(functional):
    assert functional.monotone
    probs, values = random_laws()
    more = values + jnp.abs(jax.random.normal(jax.random.key(0), values.shape))
    assert jnp.all(evaluate(functional, probs, values) <= evaluate(functional, probs, more) + 1e-6)


def test_translation_equivariant(functional):
    assert functional.translation_equivariant
    probs, values = random_laws()
    moved = evaluate(functional, probs, values + 3.0)
    np.testing.assert_allclose(moved, evaluate(functional, probs, values) + 3.0, atol=3e-6)


def test_coherent_exactly_when_stated(functional):
    probs, values = random_laws()
    scaled = 7.0 * evaluate(functional, probs, values)
    homogeneous = np.allclose(evaluate(functional, probs, 7.0 * values), scaled, atol=2e-5)
    other = jnp.flip(values, 0)
    apart = evaluate(functional, probs, values) + evaluate(functional, probs, other)
    together = evaluate(functional, probs, values + other)
    superadditive = bool(jnp.all(together >= apart - 1e-5))
    if functional.coherent:
        assert homogeneous and superadditive
    elif abs(functional.risk_aversion) > 1.0:  # at b near 0 it is the mean to this accuracy
        assert not (homogeneous and superadditive)


def test_time_consistent_exactly_when_stated(functional):
    """F(X) = F(F(X | Y)) on two-stage laws with 4 values of Y."""
    rng = np.random.default_rng(1)
    outer = jnp.asarray(rng.dirichlet(np.ones(4), 8), jnp.float32)
    inner = jnp.asarray(rng.dirichlet(np.ones(5), (8, 4)), jnp.float32)
    values = jnp.asarray(rng.normal(size=(8, 4, 5)), jnp.float32)
    nested = evaluate(
        functional,
        outer,
        evaluate(functional, inner.reshape(32, 5), values.reshape(32, 5)).reshape(8, 4),
    )
    joint = (outer[..., None] * inner).reshape(8, -1)
    static = evaluate(functional, joint, values.reshape(8, -1))
    if functional.time_consistent:
        np.testing.assert_allclose(nested, static, atol=2e-6)
    elif 0.01 < functional.level < 1.0:  # at either end it is the least value or the mean
        assert jnp.max(jnp.abs(nested - static)) > 0.01


def test_worst_case_is_a_law_on_the_possible_atoms(functional):
    probs, values = random_laws()
    weights = weights_of(functional, probs, values)
    assert jnp.all(weights >= 0) and jnp.all(jnp.where(probs == 0, weights, 0.0) == 0)
    np.testing.assert_allclose(jnp.sum(weights, 1), 1.0, atol=2e-6)
    if functional.coherent:
        value = evaluate(functional, probs, values)
        np.testing.assert_allclose(jnp.sum(weights * values, 1), value, atol=2e-6)


def test_lies_within_the_possible_values_and_ignores_order(functional):
    probs, values = random_laws()
    result = evaluate(functional, probs, values)
    assert jnp.all(result >= jnp.min(jnp.where(probs > 0, values, jnp.inf), 1) - 1e-6)
    assert jnp.all(result <= jnp.max(jnp.where(probs > 0, values, -jnp.inf), 1) + 1e-6)
    order = jnp.array([3, 0, 6, 5, 1, 2, 4])
    np.testing.assert_allclose(
        evaluate(functional, probs[:, order], values[:, order]), result, atol=2e-6
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_impossible_atoms_may_hold_anything(functional, bad):
    probs, values = random_laws()
    held = jnp.where(probs > 0, values, bad)
    np.testing.assert_array_equal(
        evaluate(functional, probs, held),
        evaluate(functional, probs, jnp.where(probs > 0, values, 0.0)),
    )
    _, by_probs, by_values = gradients_of(functional, probs, held)
    assert jnp.all(jnp.isfinite(by_probs)) and jnp.all(jnp.isfinite(by_values))


def test_a_possible_nan_is_reported(functional):
    probs, values = random_laws()
    index = jnp.argmax(probs, axis=1)
    values = values.at[jnp.arange(NUM_LAWS), index].set(jnp.nan)
    assert jnp.all(jnp.isnan(evaluate(functional, probs, values)))


def test_a_possible_catastrophe_counts(functional):
    """-inf with positive probability: minus infinity, unless the functional seeks risk."""
    probs, values = random_laws(ties=False)
    result = evaluate(functional, probs, values.at[:, 0].set(-jnp.inf))
    if functional == FUNCTIONALS["entropic_-2"]:
        assert jnp.all(jnp.isfinite(result))
    else:
        assert jnp.all(result == -jnp.inf)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_equal_values_and_scales(functional, scale):
    probs, values = random_laws()
    same = jnp.full_like(values, -2.5 * scale)
    np.testing.assert_allclose(evaluate(functional, probs, same), same[:, 0], rtol=1e-6)
    assert jnp.all(jnp.isfinite(evaluate(functional, probs, values * scale)))
    assert jnp.all(jnp.isfinite(weights_of(functional, probs, values * scale)))


def test_one_atom_is_its_value(functional):
    assert float(functional(jnp.ones(1), jnp.array([3.0]))) == 3.0


def test_probabilities_that_sum_almost_to_one(functional):
    probs, values = random_laws()
    exact = evaluate(functional, probs, values)
    for factor in (1 - 1e-6, 1 + 1e-6):
        np.testing.assert_allclose(evaluate(functional, probs * factor, values), exact, atol=5e-6)


def test_eager_is_jit_is_vmap(functional):
    probs, values = random_laws()
    eager = functional(probs[0], values[0])
    np.testing.assert_allclose(eager, evaluate(functional, probs, values)[0], atol=1e-6)


@pytest.mark.parametrize("kind", [CVaR, Entropic])
def test_a_changed_float_does_not_retrace(kind):
    traces = []

    @jax.jit
    def call(functional, probs, values):
        traces.append(1)
        return functional(probs, values)

    for number in (0.1, 0.2, 0.9):
        call(kind(number), jnp.ones(2) / 2, jnp.arange(2.0))
    assert len(traces) == 1


def test_settings_are_described_and_checked():
    assert [info.name for info in list_settings(CVaR())] == ["level"]
    for level in (0.0, -0.1, 1.5):
        with pytest.raises(ValueError, match="level"):
            check_settings(CVaR(level))
    check_settings(CVaR(1.0))


# ---- CVaR ------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [1e-3, 0.05, 0.37, 0.9, 1.0])
def test_cvar_is_the_linear_program(level):
    probs, values = random_laws(seed=3)
    ours = np.asarray(evaluate(CVaR(level), probs, values))
    level = float(np.float32(level))
    for i in range(0, NUM_LAWS, 4):
        p, v = np.asarray(probs[i], float), np.asarray(values[i], float)
        p = p / p.sum()
        program = linprog(
            v,
            A_eq=np.ones((1, NUM_ATOMS)),
            b_eq=[1.0],
            bounds=[(0, bound) for bound in p / level * (1 + 1e-12)],
            options={"primal_feasibility_tolerance": 1e-10},
        )
        assert program.success
        assert abs(ours[i] - program.fun) <= 64 * NUM_ATOMS * UNIT * np.abs(v).max()


def test_cvar_limits():
    probs, values = random_laws()
    mean = evaluate(Mean(), probs, values)
    np.testing.assert_allclose(evaluate(CVaR(1.0), probs, values), mean, atol=1e-6)
    least = jnp.min(jnp.where(probs > 0, values, jnp.inf), axis=1)
    for level in (1e-9, 0.0):
        np.testing.assert_array_equal(evaluate(CVaR(level), probs, values), least)


def test_cvar_worst_case_by_hand():
    """Level 0.5 of (0.25: 1, 0.5: 3, 0.25: 9): all of the first atom, half of the second."""
    probs, values = jnp.array([0.5, 0.25, 0.25]), jnp.array([3.0, 1.0, 9.0])
    np.testing.assert_allclose(worst_case(CVaR(0.5), probs, values), [0.5, 0.5, 0.0])
    assert float(CVaR(0.5)(probs, values)) == 2.0


def cvar_dual(level, probs, values):
    """The maximum form, in float64: it is reached at one of the atoms."""
    return max(x - probs @ np.maximum(x - values, 0.0) / level for x in values)


def test_cvar_gradients_in_level_and_probs():
    """Against central differences of the dual; `probs` along a direction within the simplex."""
    probs, values = random_laws(seed=5, ties=False)
    by_own, by_probs, _ = gradients_of(CVaR(0.4), probs, values)
    by_level, by_probs = np.asarray(by_own.level), np.asarray(by_probs, float)
    direction, step = np.zeros(NUM_ATOMS), 1e-7
    direction[:2] = 1.0, -1.0
    for i in range(8):
        p, v = np.asarray(probs[i], float), np.asarray(values[i], float)
        slope = (cvar_dual(0.4 + step, p, v) - cvar_dual(0.4 - step, p, v)) / (2 * step)
        assert abs(by_level[i] - slope) < 1e-4
        up, down = (cvar_dual(0.4, p + s * step * direction, v) for s in (1, -1))
        assert abs(by_probs[i] @ direction - (up - down) / (2 * step)) < 1e-4


# ---- Entropic --------------------------------------------------------------------------------


def entropic_direct(aversion, probs, values):
    shifted = -aversion * np.asarray(values, np.longdouble)
    top = shifted.max()
    return float(-(top + np.log(np.sum(probs * np.exp(shifted - top)))) / aversion)


@pytest.mark.parametrize("aversion", [-30.0, -0.5, 1e-3, 0.1, 1.0, 50.0])
@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_entropic_is_its_formula(aversion, offset):
    probs, values = random_laws(seed=2)
    values = values + offset
    ours = np.asarray(evaluate(Entropic(aversion), probs, values), float)
    for i in range(NUM_LAWS):
        p, v = np.asarray(probs[i], np.longdouble), np.asarray(values[i], np.longdouble)
        expected = entropic_direct(np.longdouble(np.float32(aversion)), p / p.sum(), v)
        assert abs(ours[i] - expected) <= 64 * NUM_ATOMS * UNIT * np.abs(v).max()


def test_entropic_limits():
    probs, values = random_laws()
    mean = evaluate(Mean(), probs, values)
    for aversion in (0.0, 1e-12, 1e-7, -1e-7):
        np.testing.assert_allclose(evaluate(Entropic(aversion), probs, values), mean, atol=2e-6)
    least = jnp.min(jnp.where(probs > 0, values, jnp.inf), axis=1)
    np.testing.assert_allclose(evaluate(Entropic(1e8), probs, values), least, atol=1e-6)
    greatest = jnp.max(jnp.where(probs > 0, values, -jnp.inf), axis=1)
    np.testing.assert_allclose(evaluate(Entropic(-1e8), probs, values), greatest, atol=1e-6)


@pytest.mark.parametrize("aversion", [0.0, 1e-9, 0.3, 3.0])
def test_entropic_gradients(aversion):
    """In the aversion, also at zero where it is minus half the variance; in the values, Gibbs."""
    probs, values = random_laws(seed=5, ties=False)
    by_own, _, weights = gradients_of(Entropic(aversion), probs, values)
    by_aversion = np.asarray(by_own.risk_aversion)
    for i in range(8):
        p, v = np.asarray(probs[i], float), np.asarray(values[i], float)
        if aversion < 1e-6:
            slope = -0.5 * (p @ v**2 - (p @ v) ** 2)
        else:
            up, down = (entropic_direct(aversion * (1 + s * 1e-4), p, v) for s in (1, -1))
            slope = (up - down) / (2e-4 * aversion)
        assert abs(by_aversion[i] - slope) < 2e-4
        gibbs = p * np.exp(-aversion * (v - v.min()))
        np.testing.assert_allclose(weights[i], gibbs / gibbs.sum(), atol=1e-5)
