"""Per-sample duals: bounds everywhere, equal at the best parameters, reached by sampled ascent."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq, linprog, minimize, minimize_scalar

from jaxrl.functionals import (
    ChiSquareBall,
    ChiSquarePenalty,
    Contamination,
    CVaR,
    DivergenceBall,
    Entropic,
    EVaR,
    Expectile,
    KLBall,
    TotalVariation,
)

NUM_ATOMS, NUM_LAWS = 6, 8


def cvar(level, p, v):
    """The mean of the lower tail, as a linear program over the weights."""
    return linprog(v, A_eq=[np.ones(len(p))], b_eq=[1], bounds=[(0, x / level) for x in p]).fun


def entropic(aversion, p, v):
    return -np.log(p @ np.exp(-aversion * v)) / aversion


def tilted_worst(ratio, distance, radius, p, v):
    """The family of laws p ratio(t, v), at the distance given, found by SciPy."""

    def law(t):
        weights = p * ratio(t, v - v.min())
        return weights / weights.sum()

    if distance(law(np.exp(9)), p) < radius:
        return v.min()
    t = np.exp(brentq(lambda s: distance(law(np.exp(s)), p) - radius, -12, 9, xtol=1e-13))
    return law(t) @ v


def kl(radius, p, v):
    def distance(q, p):
        return np.sum(q * np.log(np.maximum(q, 1e-300) / p))

    return tilted_worst(lambda t, x: np.exp(-t * x), distance, radius, p, v)


def chi_square(radius, p, v):
    def distance(q, p):
        return np.sum((q - p) ** 2 / p)

    return tilted_worst(lambda t, x: np.maximum(1 - t * x, 0), distance, radius, p, v)


def total_variation(radius, p, v):
    """Mass taken from the top, one atom after the other."""
    left, value = radius, p @ v
    for i in np.argsort(-v):
        moved = min(left, p[i])
        left, value = left - moved, value - moved * (v[i] - v.min())
    return value


def contamination(radius, p, v):
    return (1 - radius) * (p @ v) + radius * v.min()


def expectile(level, p, v):
    def balance(e):
        return level * (p @ np.maximum(v - e, 0)) - (1 - level) * (p @ np.maximum(e - v, 0))

    return brentq(balance, v.min(), v.max(), xtol=1e-14)


def chi_square_penalty(weight, p, v):
    """The least of q v + weight chi-square over the laws that a clipped affine tilt reaches."""

    def price(log_t):
        weights = p * np.maximum(1 - np.exp(log_t) * (v - v.min()), 0)
        q = weights / weights.sum()
        return q @ v + weight * np.sum((q - p) ** 2 / p)

    grid = np.linspace(-9, 5, 200)  # beyond the greatest tilt of interest it is level
    best = grid[np.argmin([price(log_t) for log_t in grid])]
    near = (best - 0.1, best + 0.1)
    return minimize_scalar(price, bounds=near, method="bounded", options={"xatol": 1e-10}).fun


def chi_square_conjugate(point):
    return jnp.where(point > -2.0, point + 0.25 * point**2, -1.0)


# Dual, the functional in closed form or by SciPy, and the first step of the ascent.
ROWS = {
    "cvar_0.3": (CVaR(0.3).dual(0.05), partial(cvar, 0.3), 0.5),
    "entropic_0.8": (Entropic(0.8).dual(0.05), partial(entropic, 0.8), 0.5),
    "kl_0.1": (KLBall(0.1).dual(0.05), partial(kl, 0.1), 0.5),
    "evar_0.9": (EVaR(0.9).dual(0.05), partial(kl, -np.log(0.9)), 0.5),
    "divergence_0.3": (
        DivergenceBall(0.3, chi_square_conjugate).dual(0.05),
        partial(chi_square, 0.3),
        0.5,
    ),
    "chi_square_penalty_0.4": (
        ChiSquarePenalty(0.4).dual(0.05),
        partial(chi_square_penalty, 0.4),
        0.5,
    ),
    "chi_square_0.3": (ChiSquareBall(0.3).dual(0.05), partial(chi_square, 0.3), 0.5),
    "chi_square_1": (ChiSquareBall(1.0).dual(0.1), partial(chi_square, 1.0), 0.3),
    "total_variation_0.25": (TotalVariation(0.25).dual(0.05), partial(total_variation, 0.25), 0.5),
    "contamination_0.2": (Contamination(0.2).dual(0.05), partial(contamination, 0.2), 0.5),
    "expectile_0.2": (Expectile(0.2).dual(0.05), partial(expectile, 0.2), 1.0),
}
SUP_ROWS = {name: row for name, row in ROWS.items() if not name.startswith("expectile")}


def laws(seed=0):
    rng = np.random.default_rng(seed)
    probs = 0.7 * rng.dirichlet(np.ones(NUM_ATOMS), NUM_LAWS) + 0.3 / NUM_ATOMS
    return probs, rng.normal(size=(NUM_LAWS, NUM_ATOMS))


def mean_dual(dual, probs, values, parameters):
    return probs @ jax.vmap(dual, in_axes=(0, None))(values, parameters)


mean_and_slope = jax.jit(jax.value_and_grad(mean_dual, argnums=3))
HAVE_BOUNDS = ("total_variation_0.25", "contamination_0.2")
HAVE_MULTIPLIERS = ("kl_0.1", "evar_0.9", "divergence_0.3", "chi_square_0.3", "chi_square_1")
PIECEWISE_LINEAR = ("cvar_0.3", "total_variation_0.25")


@jax.jit
def start(dual, value):
    return dual.initial(value, 1.0)


@pytest.mark.parametrize("name", SUP_ROWS)
def test_maximum_of_the_mean_is_the_functional(name):
    dual, exact, _ = ROWS[name]
    probs, values = laws()
    with jax.enable_x64(True):
        for p, v in zip(probs[:4], values[:4], strict=True):
            first = v.min() if name in HAVE_BOUNDS else p @ v
            initial = np.asarray(start(dual, first))
            bounds = [(1e-9 if name in HAVE_MULTIPLIERS else None, None)]
            bounds += [(None, None)] * (dual.shape[0] - 1)
            if name in HAVE_BOUNDS:
                bounds[-1] = (None, v.min())

            def loss(theta, p=p, v=v):
                value, slope = mean_and_slope(dual, p, v, theta)
                return -float(value), -np.asarray(slope)

            found = minimize(loss, initial, jac=True, bounds=bounds, options={"ftol": 1e-15})
            best = -found.fun
            if name in PIECEWISE_LINEAR:  # at an atom
                rest = initial[1:]
                best = max(-loss(np.concatenate([[x], rest]))[0] for x in v)
            assert best == pytest.approx(exact(p, v), abs=1e-7)


def test_the_expectile_is_where_its_dual_is_level():
    """The mean slope is level E[(v - e)^+] - (1 - level) E[(e - v)^+], which falls through zero."""
    dual, exact, _ = ROWS["expectile_0.2"]
    with jax.enable_x64(True):
        for p, v in zip(*laws(), strict=True):
            best = exact(p, v)
            for at in (best - 0.3, best, best + 0.3):
                slope = mean_and_slope(dual, p, v, np.array([at]))[1]
                expected = 0.2 * p @ np.maximum(v - at, 0) - 0.8 * p @ np.maximum(at - v, 0)
                np.testing.assert_allclose(slope, [expected], atol=1e-12)
            assert jax.eval_shape(dual.estimate, v[0], np.array([best])).shape == ()


@jax.jit
def means_of_feasible(dual, probs, values, parameters):
    """`[L, S]`: the mean duals of parameters [L, S, K] projected by every value of the law."""

    def one(probs, values, parameters):
        def see(parameters, value):
            return jax.vmap(dual.project, in_axes=(0, None))(parameters, value), None

        feasible = jax.lax.scan(see, parameters, values)[0]
        over_values = jax.vmap(dual.estimate, in_axes=(0, None))
        return jax.vmap(lambda theta: over_values(values, theta) @ probs)(feasible)

    return jax.vmap(one)(probs, values, parameters)


@pytest.mark.parametrize("name", SUP_ROWS)
def test_no_parameters_exceed_the_functional(name):
    dual, exact, _ = ROWS[name]
    probs, values = laws(seed=1)
    rng = np.random.default_rng(2)
    spread = rng.normal(size=(200, *dual.shape)) * np.exp(rng.normal(size=(200, 1)))
    with jax.enable_x64(True):
        given = values.mean(1)[:, None, None] + spread
        means = np.asarray(means_of_feasible(dual, probs, values, given))
    assert np.all(np.isfinite(means))
    expected = [exact(p, v) for p, v in zip(probs, values, strict=True)]
    assert np.all(means.max(1) <= np.array(expected) + 1e-12)


@partial(jax.jit, static_argnums=4)
def ascend(dual, key, probs, values, num_steps, step):
    """Projected ascent on one sampled value a time, with steps as 1 / sqrt(n); the late mean."""

    def one(key, probs, values):
        start_key, walk_key = jax.random.split(key)
        drawn = jax.random.choice(walk_key, values, (num_steps,), p=probs)
        first = dual.initial(jax.random.choice(start_key, values, p=probs), 1.0)

        def move(carry, inputs):
            parameters, mean = carry
            n, value = inputs
            slope = jax.grad(dual, argnums=1)(value, parameters)
            slope = slope / jnp.maximum(1.0, jnp.linalg.norm(slope) / 50.0)  # rarely, or it biases
            parameters = dual.project(parameters + step / jnp.sqrt(n + 25.0) * slope, value)
            late = jnp.maximum(n - 0.5 * num_steps, 0.0)
            return (parameters, mean + (parameters - mean) * (late > 0) / (late + 1.0)), None

        inputs = jnp.arange(num_steps, dtype=float), drawn
        (last, mean), _ = jax.lax.scan(move, (first, first), inputs)
        return last, mean

    return jax.vmap(one)(jax.random.split(key, NUM_LAWS), probs, values)


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_sampled_ascent_reaches_the_functional(name):
    """What a learner does: one value seen at a time, never the law."""
    dual, exact, step = ROWS[name]
    probs, values = laws(seed=3)
    p32, v32 = np.float32(probs), np.float32(values)
    _, mean = ascend(dual, jax.random.key(0), p32, v32, 30_000, step)
    estimate = jax.jit(jax.vmap(lambda p, v, t: p @ jax.vmap(lambda x: dual.estimate(x, t))(v)))
    mean = np.array(mean)
    if name in HAVE_BOUNDS:
        mean[:, -1] = np.minimum(mean[:, -1], v32.min(1))  # of bounds, most of them feasible
    reached = np.asarray(estimate(p32, v32, mean))
    expected = np.array([exact(p, v) for p, v in zip(probs, values, strict=True)])
    nominal = np.sum(probs * values, 1)
    assert np.max(np.abs(reached - expected)) < 0.03
    assert np.min(nominal - expected) > 0.05  # so that this tells the functional from the mean


def test_the_one_parameter_form_of_kl_is_biased_and_the_dual_is_not():
    """At one sample, -l log exp(-v / l) - l radius has slope -radius in l, whatever the law."""
    probs, values = laws(seed=4)
    p, v, radius, at = probs[0], values[0], 0.1, 1.5
    tilted = p * np.exp(-v / at)
    log_moment = np.log(tilted.sum())
    shift = -at * log_moment  # the best shift for this multiplier
    # By hand, d/dl of -l log E exp(-v / l) - l radius: what the whole law says.
    whole = -log_moment - (tilted @ v) / tilted.sum() / at - radius
    with jax.enable_x64(True):
        slope = mean_and_slope(KLBall(radius).dual(1e-3), p, v, np.array([at, shift]))[1]
    np.testing.assert_allclose(slope, [whole, 0.0], atol=1e-12)
    assert abs(whole + radius) > 0.05


def test_the_expectile_is_not_convex_in_the_law():
    """So that it is no maximum of means: an even mixture of two laws lies above both halves."""
    values = np.array([-9.0, 0.0, 1.0, 30.0])
    first = np.array([0.027, 0.0, 0.973, 0.0])
    second = np.array([0.0, 0.9, 0.0, 0.1])
    apart = [expectile(0.1, law, values) for law in (first, second)]
    assert expectile(0.1, (first + second) / 2, values) > np.mean(apart) + 0.01


def test_least_value_duals_refuse_a_bound_above_a_value_seen():
    for dual, parameters, allowed in (
        (TotalVariation(0.1).dual(0.05), np.float32([2.0, 1.0]), [2.0, 0.5]),
        (
            TotalVariation(0.1).dual(0.05),
            np.float32([0.2, 1.0]),
            [0.5, 0.5],
        ),  # a cut below the bound
        (Contamination(0.1).dual(0.05), np.float32([1.0]), [0.5]),
    ):
        value = np.float32(0.5)
        refused, projected = jax.jit(lambda d, v, t: (d(v, t), d.project(t, v)))(
            dual, value, parameters
        )
        assert refused == -np.inf
        assert projected.tolist() == allowed


def test_entropic_without_aversion_is_the_value():
    dual = Entropic(0.0).dual(0.05)
    value, slope = jax.jit(jax.value_and_grad(dual, argnums=1))(np.float32(3.0), np.float32([1.0]))
    assert float(value) == 3.0 and slope.tolist() == [0.0]


@pytest.mark.parametrize(
    ("kind", "name", "wrong"),
    [
        (lambda level: CVaR(level).dual(0.05), "level", 0.0),
        (lambda risk_aversion: Entropic(risk_aversion).dual(0.05), "risk_aversion", -1.0),
        (lambda radius: KLBall(radius).dual(0.05), "radius", -0.1),
        (lambda least: KLBall(0.1).dual(least), "least", 0.0),
        (lambda least: ChiSquareBall(0.1).dual(least), "least", -0.1),
        (lambda level: Expectile(level).dual(0.05), "level", 1.5),
    ],
)
def test_settings_are_checked(kind, name, wrong):
    with pytest.raises(ValueError, match=name):
        kind(**{name: wrong})


def test_a_divergence_whose_conjugate_ends_has_no_dual_of_one_sample():
    with pytest.raises(ValueError, match="finite everywhere"):
        DivergenceBall(0.1, lambda point: -jnp.log1p(-point)).dual(0.05)
