"""Risk measures against linear and conic programs, and against references of higher precision."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import reference
from scipy.optimize import linprog
from scipy.stats import norm

from jaxrl.functionals import (
    CumulativeProspect,
    CVaR,
    Entropic,
    EVaR,
    Expectile,
    ExponentialUtility,
    Mean,
    MeanSemideviation,
    MeanStd,
    OptimisedCertaintyEquivalent,
    PiecewiseLinear,
    PowerDistortion,
    QuadraticUtility,
    Shortfall,
    Spectral,
    VaR,
    Wang,
    worst_case,
)

Wide = np.longdouble
NUM_LAWS = 12
LEVELS = (1e-6, 1e-3, 0.05, 0.3, 0.5, 0.77, 0.999, 1.0)


@jax.jit
def evaluate(functional, probs, values):
    """One functional per row of its leaves: `[P]` leaves, laws `[L, N]` -> `[P, L]`."""
    over_laws = jax.vmap(lambda f, p, v: f(p, v), in_axes=(None, 0, 0))
    return jax.vmap(over_laws, in_axes=(0, None, None))(functional, probs, values)


@jax.jit
def both(functional, probs, values):
    """The value and the worst case of one law."""
    return jax.value_and_grad(lambda v: functional(probs, v))(values)


@functools.cache
def laws(num_atoms, dtype=np.float64):
    """Laws of 2 to `num_atoms` possible atoms: values x 1e-6 to 1e6, half offset by up to 1e5."""
    rng = np.random.default_rng(num_atoms)
    probs = rng.dirichlet(np.full(num_atoms, 0.3), NUM_LAWS) + 1e-30
    counts = np.geomspace(2, num_atoms, NUM_LAWS).round().astype(int)
    probs = np.where(np.arange(num_atoms) < rng.permuted(counts)[:, None], probs, 0.0)
    scale = 10.0 ** np.linspace(-6, 6, NUM_LAWS)[:, None]
    offset = np.where(np.arange(NUM_LAWS) % 2, rng.uniform(-1e5, 1e5, NUM_LAWS), 0.0)[:, None]
    values = rng.normal(size=(NUM_LAWS, num_atoms)) * scale + offset
    ties = rng.random((NUM_LAWS, num_atoms)) < 0.2
    values = np.where(ties, values[:, :1], values)
    order = rng.permuted(np.tile(np.arange(num_atoms), (NUM_LAWS, 1)), axis=1)
    probs, values = (np.take_along_axis(x, order, 1) for x in (probs, values))
    return (probs / probs.sum(1, keepdims=True)).astype(dtype), values.astype(dtype)


def turn(is_below, low, high):
    """Bisection in extended precision."""
    low, high = Wide(low), Wide(high)
    for _ in range(150):
        middle = (low + high) / 2
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return low


# Each takes the parameter and a law of possible atoms, in extended precision.


def cvar(level, p, v):
    return max(x - p @ np.maximum(x - v, 0) / level for x in v)


def entropic(aversion, p, v):
    gaps = v - v.min()
    return v.min() - np.log1p(p @ np.expm1(-aversion * gaps)) / aversion


def evar(level, p, v):
    gaps, spread = v - v.min(), np.ptp(v)
    if spread == 0 or level <= p[gaps == 0].sum():
        return v.min()
    x, radius = gaps / spread, -np.log(level)

    def log_moment(b):
        return np.log1p(p @ np.expm1(-b * x))

    def falls_short(log_rate):
        b = np.exp(log_rate)
        tilted = p * np.exp(-b * x)
        return -b * (tilted @ x) / tilted.sum() - log_moment(b) < radius

    b = np.exp(turn(falls_short, -60, 60))
    return v.min() - spread * (log_moment(b) + radius) / b


def expectile(level, p, v):
    def falls_short(x):
        return level * (p @ np.maximum(v - x, 0)) > (1 - level) * (p @ np.maximum(x - v, 0))

    return turn(falls_short, v.min(), v.max())


def semideviation(order):
    def reference(weight, p, v):
        m = p @ v
        return m - weight * (p @ np.maximum(m - v, 0) ** order) ** (Wide(1) / order)

    return reference


def mean_std(weight, p, v):
    return p @ v - weight * np.sqrt(p @ (v - p @ v) ** 2)


def quadratic(curvature, gains):
    gains = np.minimum(gains, 1 / curvature)
    return gains - curvature * gains**2 / 2


def oce_quadratic(curvature, p, v):
    gaps = v - v.min()
    x = turn(lambda x: p @ np.maximum(1 - curvature * (gaps - x), 0) < 1, 0, gaps.max())
    return v.min() + x + p @ quadratic(curvature, gaps - x)


def shortfall_quadratic(curvature, p, v):
    gaps = v - v.min()
    return v.min() + turn(lambda x: p @ quadratic(curvature, gaps - x) >= 0, 0, gaps.max())


def distorted(distortion):
    """From the values in order: the distorted probability of reaching each, less that before."""

    def reference(number, p, v):
        order = np.argsort(v)
        p, v = p[order], v[order]
        lower = np.concatenate([[0], np.cumsum(p)]).astype(Wide)
        upper = np.concatenate([np.cumsum(p[::-1])[::-1], [0]]).astype(Wide)
        reached = [distortion(number, u, w) for u, w in zip(lower, upper, strict=True)]
        return np.diff(np.array(reached, Wide)) @ v

    return reference


def wang(shift, u, w):
    return norm.cdf((norm.ppf(float(u)) if u < 0.5 else norm.isf(float(w))) + float(shift))


def power(exponent, u, w):
    return 1 - w**exponent


def prospect(exponent, u, w):
    return u**exponent / (u**exponent + w**exponent) ** (1 / exponent)


REFERENCES = {
    "cvar": (CVaR, LEVELS, cvar),
    "entropic": (Entropic, (1e-9, 1e-3, 1.0, 1e4), entropic),
    "evar": (EVaR, LEVELS, evar),
    "expectile": (Expectile, LEVELS[:-1], expectile),
    "semideviation_1": (MeanSemideviation, (0.0, 0.5, 1.0), semideviation(1)),
    "semideviation_3": (lambda w: MeanSemideviation(w, order=3), (0.5, 1.0), semideviation(3)),
    "mean_std": (MeanStd, (0.5, 3.0), mean_std),
    "oce_exponential": (
        lambda b: OptimisedCertaintyEquivalent(ExponentialUtility(b)),
        (1e-9, 1e-3, 1.0, 1e4),
        entropic,
    ),
    "oce_piecewise": (
        lambda slope: OptimisedCertaintyEquivalent(PiecewiseLinear(0.0, slope)),
        (1.0, 1.3, 3.0, 1e6),
        lambda slope, p, v: cvar(1 / slope, p, v),
    ),
    "oce_quadratic": (
        lambda c: OptimisedCertaintyEquivalent(QuadraticUtility(c)),
        (1e-4, 1.0, 1e3),
        oce_quadratic,
    ),
    "shortfall_exponential": (
        lambda b: Shortfall(ExponentialUtility(b)),
        (1e-9, 1e-3, 1.0, 1e4),
        entropic,
    ),
    "shortfall_piecewise": (
        lambda slope: Shortfall(PiecewiseLinear(slope, 1.0)),
        (1e-6, 0.1, 1.0),
        lambda slope, p, v: expectile(slope / (1 + slope), p, v),
    ),
    "shortfall_quadratic": (
        lambda c: Shortfall(QuadraticUtility(c)),
        (1e-4, 1.0, 1e3),
        shortfall_quadratic,
    ),
    "wang": (Wang, (-2.0, 0.5, 3.0), distorted(wang)),
    "power": (PowerDistortion, (0.3, 1.0, 2.5, 40.0), distorted(power)),
    "prospect": (CumulativeProspect, (0.28, 0.6, 1.0), distorted(prospect)),
}


# In float32 those that are solved for or cancel most; the others are within the same bound of
# NumPy's values in test_functionals.py.
SINGLE = ("cvar", "entropic", "evar", "expectile", "oce_quadratic", "shortfall_quadratic")
CASES = [pytest.param(name, np.float64, id=f"float64-{name}") for name in REFERENCES]
CASES += [pytest.param(name, np.float32, id=f"float32-{name}") for name in SINGLE]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_value_is_the_reference(name, dtype):
    """Within 1e-9 of the greatest value in float64, within 64 N u of it in float32."""
    make, numbers, reference = REFERENCES[name]
    num_atoms = 64
    probs, values = laws(num_atoms, dtype)
    with jax.enable_x64(dtype is np.float64):
        leaves = [jax.tree.map(lambda x: jnp.asarray(x, dtype), make(n)) for n in numbers]
        ours = np.asarray(evaluate(jax.tree.map(lambda *x: jnp.stack(x), *leaves), probs, values))
    unit = float(np.finfo(dtype).eps) / 2
    for (k, number), i in itertools.product(enumerate(numbers), range(NUM_LAWS)):
        possible = probs[i] > 0
        p, v = probs[i][possible].astype(Wide), values[i][possible].astype(Wide)
        expected = reference(Wide(dtype(number)), p / p.sum(), v)
        error = abs(float(ours[k, i] - expected))
        greatest = float(np.abs(v).max())
        assert error <= 64 * num_atoms * unit * greatest, (number, i)
        if dtype is np.float64:
            rounding = 4 * num_atoms * unit * greatest  # of sums that cancel
            assert error <= 1e-9 * abs(float(expected)) + rounding, (number, i)


# ---- linear and conic programs -----------------------------------------------------------------


def least(values, **constraints):
    names = ("primal_feasibility_tolerance", "dual_feasibility_tolerance")
    program = linprog(values, options=dict.fromkeys(names, 1e-10), **constraints)
    assert program.success
    return program.fun


def cvar_program(level, p, v):
    bounds = [(0, share) for share in p / level * (1 + 1e-13)]
    return least(v, A_eq=np.ones((1, p.size)), b_eq=[1.0], bounds=bounds)


def expectile_program(level, p, v):
    """min w v over laws whose densities lie within [s level, s (1 - level)] for some s >= 0."""
    rows = np.block(
        [[np.eye(p.size), -p[:, None] * (1 - level)], [-np.eye(p.size), p[:, None] * level]]
    )
    total = np.append(np.ones(p.size), 0.0)[None]
    return least(np.append(v, 0.0), A_ub=rows, b_ub=np.zeros(2 * p.size), A_eq=total, b_eq=[1.0])


def semideviation_program(weight, p, v):
    """min w v over w_i = p_i (1 + weight (h_i - p h)), 0 <= h <= 1."""
    costs = weight * p * (v - p @ v)
    return p @ v + least(costs, bounds=[(0, 1)] * p.size)


def oce_program(slopes, p, v):
    """max x + p u, u_i below both lines of the utility at v_i - x."""
    gain, loss = slopes
    rows = [np.hstack([np.full((p.size, 1), s), np.eye(p.size)]) for s in (gain, loss)]
    bounds = [(None, None)] * (p.size + 1)
    limits = np.concatenate([gain * v, loss * v])
    return -least(-np.append(1.0, p), A_ub=np.vstack(rows), b_ub=limits, bounds=bounds)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("functional", "program"),
    [
        (CVaR(1e-3), lambda p, v: cvar_program(1e-3, p, v)),
        (CVaR(0.37), lambda p, v: cvar_program(0.37, p, v)),
        (CVaR(1.0), lambda p, v: cvar_program(1.0, p, v)),
        (Expectile(0.02), lambda p, v: expectile_program(0.02, p, v)),
        (Expectile(0.2), lambda p, v: expectile_program(0.2, p, v)),
        (MeanSemideviation(0.8), lambda p, v: semideviation_program(0.8, p, v)),
        (
            Spectral((0.05, 0.4, 1.0), (0.2, 0.5, 0.3)),
            lambda p, v: (
                0.2 * cvar_program(0.05, p, v) + 0.5 * cvar_program(0.4, p, v) + 0.3 * (p @ v)
            ),
        ),
        (
            OptimisedCertaintyEquivalent(PiecewiseLinear(0.4, 6.0)),
            lambda p, v: oce_program((0.4, 6.0), p, v),
        ),
    ],
    ids=lambda row: type(row).__name__ if hasattr(row, "monotone") else "program",
)
def test_value_is_the_linear_program(functional, program):
    """In units of the spread, without tiny probabilities: the solver drops those below 1e-9."""
    probs, values = laws(16)
    probs = np.where(probs > 0, 0.9 * probs + 0.1 / 16, 0.0)
    probs = probs / probs.sum(1, keepdims=True)
    with jax.enable_x64(True):
        batch = jax.tree.map(lambda leaf: jnp.asarray(leaf, float)[None], functional)
        found = evaluate(batch, probs, values)[0]
        for i in range(0, NUM_LAWS, 4):
            ours = float(found[i])
            origin, spread = values[i].min(), np.ptp(values[i])
            expected = origin + spread * program(probs[i], (values[i] - origin) / spread)
            assert abs(ours - expected) <= 1e-9 * max(abs(expected), spread)


@pytest.mark.slow
def test_evar_is_the_conic_program():
    """min w v over the relative-entropy ball, by an interior-point method: to its tolerance."""
    cvxpy = pytest.importorskip("cvxpy")
    probs, values = laws(7)
    values = values - values.min(1, keepdims=True)
    values /= values.max(1, keepdims=True)
    levels = (0.9, 0.3, 0.05)
    found = evaluate(EVaR(jnp.array(levels)), np.float32(probs), np.float32(values))
    for i, (k, level) in itertools.product((2, 4), enumerate(levels)):
        p, v = probs[i][probs[i] > 0], values[i][probs[i] > 0]
        weights = cvxpy.Variable(p.size, nonneg=True)
        inside = cvxpy.sum(cvxpy.rel_entr(weights, p)) <= -np.log(level)
        program = cvxpy.Problem(cvxpy.Minimize(weights @ v), [cvxpy.sum(weights) == 1, inside])
        program.solve(solver="CLARABEL")
        assert abs(found[k, i] - program.value) < 5e-6


# ---- by hand, by brute force and by limits -----------------------------------------------------


@pytest.mark.slow
def test_power_distortion_is_the_expected_worst_draw():
    probs, values = np.array([0.2, 0.5, 0.3]), np.array([4.0, -1.0, 2.0])

    def worst_of(draws):
        every = [list(drawn) for drawn in itertools.product(range(3), repeat=draws)]
        return sum(np.prod(probs[drawn]) * values[drawn].min() for drawn in every)

    exponents = np.float32([1.0, 2.0, 3.0])
    ours = evaluate(PowerDistortion(exponents), np.float32(probs[None]), np.float32(values[None]))
    np.testing.assert_allclose(ours[:, 0], [worst_of(draws) for draws in (1, 2, 3)], atol=1e-6)


@pytest.mark.slow
def test_wang_of_a_normal_law_is_the_mean_less_shifted_deviations():
    """Equally likely quantiles of a normal law of mean 3 and deviation 2; also a law of many atoms,
    which is sorted and not compared."""
    num_atoms = 4000
    values = norm(3.0, 2.0).ppf((np.arange(num_atoms) + 0.5) / num_atoms)
    shifts = np.array([-1.0, 0.0, 0.5])
    ours = evaluate(
        Wang(jnp.asarray(shifts)),
        jnp.full((1, num_atoms), 1 / num_atoms),
        jnp.asarray(values)[None],
    )
    np.testing.assert_allclose(ours[:, 0], 3.0 - 2.0 * shifts, atol=2e-2)


def test_cvar_worst_case_by_hand():
    """Level 0.5 of (0.25: 1, 0.5: 3, 0.25: 9): all of the first atom, half of the second."""
    probs, values = np.float32([0.5, 0.25, 0.25]), np.float32([3.0, 1.0, 9.0])
    law = jax.jit(lambda p, v: worst_case(CVaR(0.5), p, v))(probs, values)
    np.testing.assert_allclose(law, [0.5, 0.5, 0.0])
    assert law @ values == 2.0


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])
def test_var_is_reached_at_the_level_and_not_before(dtype):
    """P(v < x) < level <= P(v <= x), relative to the nearer end of [0, 1]."""
    probs, values = laws(64, dtype)
    with jax.enable_x64(dtype is np.float64):
        found = np.asarray(evaluate(VaR(jnp.asarray(LEVELS, dtype)), probs, values))
    for (k, level), i in itertools.product(enumerate(LEVELS), range(NUM_LAWS)):
        level, p = Wide(dtype(level)), probs[i].astype(Wide) / probs[i].astype(Wide).sum()
        assert found[k, i] in values[i][p > 0]
        slack = 2 * p.size * float(np.finfo(dtype).eps) * min(level, 1 - level)
        assert p[values[i] < found[k, i]].sum() <= level + slack
        if level < 1:
            assert p[values[i] > found[k, i]].sum() <= 1 - level + slack
        else:
            assert found[k, i] == values[i][p > 0].max()


def test_var_is_the_lower_quantile():
    """P(v <= 1) = 0.3 + 0.2 by decimal fractions whose float sums round; flat until 0.5."""
    probs, values = np.zeros((2, 1, 10), np.float32)
    probs[0, :3], values[0, :3] = [0.3, 0.2, 0.5], [0.0, 1.0, 2.0]
    levels = np.resize(np.float32([0.3, 0.3001, 0.5, 0.5001, 1.0]), 10)
    found = evaluate(VaR(levels), probs, values)
    np.testing.assert_array_equal(found[:5, 0], [0.0, 1.0, 1.0, 2.0, 2.0])
    levels = (np.arange(1, 11) / 10).astype(np.float32)
    tenths = evaluate(
        VaR(levels), np.full((1, 10), 0.1, np.float32), np.arange(10, dtype=np.float32)[None]
    )
    np.testing.assert_array_equal(tenths[:, 0], np.arange(10))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [CVaR, VaR, EVaR, Expectile])
def test_level_limits(kind):
    probs, values = laws(7, np.float32)
    greatest = np.where(probs > 0, values, -np.inf).max(1)
    smallest = np.where(probs > 0, values, np.inf).min(1)
    average = np.sum(probs.astype(float) * values, 1)
    at_one, at_zero = evaluate(kind(jnp.array([1.0, 1e-38])), probs, values)
    top = greatest if kind in (VaR, Expectile) else average
    np.testing.assert_allclose(at_one, top, rtol=1e-5, atol=1e-6 * np.abs(values).max())
    np.testing.assert_allclose(at_zero, smallest, rtol=1e-6)


@pytest.mark.parametrize(
    "functional",
    [Expectile(0.2), pytest.param(PowerDistortion(3.0), marks=pytest.mark.slow)],
    ids=["expectile", "power"],
)
def test_more_atoms_are_sorted_and_agree(functional):
    """A law of 300 atoms, three of each value, against sums over all pairs."""
    rng = np.random.default_rng(0)
    probs, values = rng.dirichlet(np.ones(300)), np.tile(rng.normal(size=100), 3)
    along = np.stack([rng.normal(size=300) * probs, np.tile(rng.normal(size=100), 3)])
    call = jax.jit(jax.value_and_grad(functional, argnums=(0, 1)))
    found, slopes = call(np.float32(probs), np.float32(values))
    steps = np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]]) * 1e-5
    ends = reference(
        functional, probs + steps[:, :1] * along[0], values + steps[:, 1:] * along[1]
    ).astype(float)
    assert float(found) == pytest.approx(ends[0], abs=2e-6)
    # The reference divides by the sum of the probabilities, as the functional does.
    by_steps = [(ends[1] - ends[2]) / 2e-5, (ends[3] - ends[4]) / 2e-5]
    np.testing.assert_allclose([slopes[0] @ along[0], slopes[1] @ along[1]], by_steps, atol=2e-5)


@pytest.mark.slow
def test_utilities_give_the_named_measures():
    probs, values = laws(7, np.float32)
    mine = [jnp.asarray(probs[3]), jnp.asarray(values[3] / np.abs(values[3]).max())]
    certain, short = OptimisedCertaintyEquivalent, Shortfall
    for ours, named in (
        (certain(PiecewiseLinear(0.0, 4.0)), CVaR(0.25)),
        (certain(PiecewiseLinear(1.0, 1.0)), Mean()),
        (short(PiecewiseLinear(0.25, 0.75)), Expectile(0.25)),
        (certain(ExponentialUtility(0.0)), Mean()),
        (short(ExponentialUtility(0.0)), Mean()),
        (certain(QuadraticUtility(0.0)), Mean()),
    ):
        (value, weights), (expected, law) = both(ours, *mine), both(named, *mine)
        assert float(value) == pytest.approx(float(expected), abs=1e-6)
        np.testing.assert_allclose(weights, law, atol=1e-5)


@pytest.mark.slow
def test_quadratic_utility_is_the_mean_less_half_a_variance():
    probs, values = np.float32([0.5, 0.25, 0.25]), np.float32([0.0, 0.4, 0.8])
    utility = OptimisedCertaintyEquivalent(QuadraticUtility(1.0))  # mean 0.3, variance 0.11
    assert float(both(utility, probs, values)[0]) == pytest.approx(0.3 - 0.11 / 2, abs=1e-6)


def test_mean_std_prefers_less_where_more_spreads():
    """0 for sure beats 0 or 4 evenly, less 3 standard deviations: 2 - 6 = -4."""
    gamble, weights = both(MeanStd(3.0), np.float32([0.5, 0.5]), np.float32([0.0, 4.0]))
    assert float(gamble) == -4.0
    # One more at 4 brings 1/2 in the mean and takes 3/2 for the deviation.
    np.testing.assert_allclose(weights, [0.5 + 1.5, 0.5 - 1.5], rtol=1e-6)
    assert not MeanStd.monotone


@pytest.mark.slow
@pytest.mark.parametrize("kind", [OptimisedCertaintyEquivalent, Shortfall])
def test_a_bare_function_is_a_utility(kind):
    probs, values = jnp.array([0.25, 0.75, 0.0]), jnp.array([0.0, 1.0, 0.0])
    utility = lambda gain: 1 - jnp.exp(-gain)  # noqa: E731
    made = kind(utility)
    assert jax.tree.structure(made) == jax.tree.structure(kind(utility))  # one program
    (value, law), (expected, tilted) = both(made, probs, values), both(Entropic(1.0), probs, values)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(law, tilted, rtol=1e-5)
