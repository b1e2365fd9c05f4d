"""Divergence balls against extended-precision duals, conic programs and their stated limits."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hard_laws import measure
from table_divergences import burg_conjugate, chi_square_conjugate

from jaxrl.functionals import BurgBall, ChiSquareBall, DivergenceBall, KLBall

WIDE = np.longdouble
MAX_ATOMS = 64
NUM_LAWS = 192
BALLS = {"kl": KLBall, "burg": BurgBall, "chi_square": ChiSquareBall}


def apply(kind, radii, probs, values, dtype=float, **settings):
    """Values, slopes in the radius and the probs, worst laws."""
    value, (own, by_probs, law) = measure(kind(radii, **settings), probs, values, dtype)
    return tuple(np.asarray(a, float) for a in (value, own.radius, by_probs, law))


def varied_laws(seed=0):
    """`[NUM_LAWS, MAX_ATOMS]`: 2 to 64 atoms, values of 1e-6 to 1e6, offsets to 1e5, some ties.

    Absent atoms stand at random places and hold NaN.
    """
    rng = np.random.default_rng(seed)
    probs, values = np.zeros((2, NUM_LAWS, MAX_ATOMS))
    values += np.nan
    for i in range(NUM_LAWS):
        size = rng.choice([2, 3, 7, 16, 64])
        at = rng.permutation(MAX_ATOMS)[:size]
        raw = rng.normal(size=size)
        if i % 3 == 1:  # gaps of many sizes within one law
            raw = np.exp(4.0 * raw)
        if i % 5 == 2:
            raw = np.round(raw)
        scale, offset = 10.0 ** rng.uniform(-6, 6), rng.choice([0.0, 1.0, -1e5])
        probs[i, at] = rng.dirichlet(np.full(size, rng.choice([0.3, 1.0, 5.0]))) + 1e-9
        values[i, at] = scale * raw + offset
    return probs / probs.sum(1, keepdims=True), values


def clean(probs, values):
    """Extended precision, with absent atoms at the least value of the law."""
    low = np.min(np.where(probs > 0, values, np.inf), 1, keepdims=True)
    held = np.where(probs > 0, values, low).astype(WIDE)
    probs = probs.astype(WIDE)
    return probs / probs.sum(1, keepdims=True), held - low, low[:, 0].astype(WIDE)


def sure_mass(probs, gaps):
    return np.sum(np.where(gaps == 0, probs, 0), 1)


def some_radii(kind, probs, values, seed=1):
    """A third small, a third up to saturation, a third so near it that almost nothing is left."""
    rng = np.random.default_rng(seed)
    sure = np.minimum(sure_mass(*clean(probs, values)[:2]).astype(float), 1 - 1e-6)
    reach = {"kl": -np.log(sure), "chi_square": 1 / sure - 1, "burg": np.full(NUM_LAWS, 3.0)}[kind]
    small, part = 10.0 ** rng.uniform(-8, 0, NUM_LAWS), rng.uniform(0, 1, NUM_LAWS)
    near = 1 - 10.0 ** rng.uniform(-8, -2, NUM_LAWS)
    pick = np.arange(NUM_LAWS) % 3
    return np.where(pick == 0, small, reach * np.where(pick == 1, part, near))


def tilted(kind, probs, gaps, t):
    """The law of KKT multiplier 1 / t, and its divergence: written from the definitions."""
    if kind == "kl":
        law = probs * np.exp(-t * gaps)
    elif kind == "burg":
        law = probs / (1 + t * gaps)
    else:
        law = probs * np.maximum(1 - t * gaps, 0)
    law = law / law.sum(1, keepdims=True)
    return law, divergence(kind, law, probs)


def divergence(kind, law, probs):
    possible = probs > 0
    ratio = np.where(possible, law / np.where(possible, probs, 1), 1)
    if kind == "chi_square":
        return np.sum(probs * (ratio - 1) ** 2, 1)
    positive = np.where(ratio > 0, ratio, 1)
    if kind == "kl":
        return np.sum(probs * np.where(ratio > 0, ratio * np.log(positive) - ratio + 1, 1), 1)
    return np.sum(probs * (ratio - 1 - np.log(positive)), 1)


def bounds(kind, probs, gaps, radii):
    """Bisection of the KKT condition in extended precision; returns a value that a law in the set
    has, and a value that weak duality forbids any law in the set to undercut."""
    top = np.max(gaps, 1, keepdims=True)
    top = np.where(top > 0, top, 1)
    gaps, radii = gaps / top, radii.astype(WIDE)
    low, high = np.full(len(radii), -60, WIDE), np.full(len(radii), 400, WIDE)

    def at(log_t):
        t = np.exp(log_t)[:, None]
        return t, *tilted(kind, probs, gaps, t)

    for _ in range(100):
        middle = (low + high) / 2
        below = at(middle)[2] < radii
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    t, law, reached = at(low)
    primal = np.sum(law * gaps, 1)
    if kind == "kl":
        dual = -(np.log(np.sum(probs * np.exp(-t * gaps), 1)) + radii) / t[:, 0]
    elif kind == "burg":
        dual = np.expm1(np.sum(probs * np.log1p(t * gaps), 1) - radii) / t[:, 0]
    else:
        cut = np.maximum(1 / t - gaps, 0)
        dual = 1 / t[:, 0] - np.sqrt((1 + radii) * np.sum(probs * cut**2, 1))
    assert np.all(reached <= radii)
    return primal * top[:, 0], dual * top[:, 0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", BALLS)
def test_value_and_law_are_certified(kind):
    """The value lies between a feasible law's and weak duality's bound; so does nature's law."""
    probs, values = varied_laws()
    radii = some_radii(kind, probs, values)
    value, by_radius, by_probs, law = apply(BALLS[kind], radii, probs, values)
    wide, gaps, low = clean(probs, values)
    size = np.maximum(np.max(gaps, 1), np.abs(low)).astype(float)
    size = np.where(size > 0, size, 1.0)
    above, below = bounds(kind, wide, gaps, radii)
    sure = 1 - sure_mass(wide, gaps) < 1e-15  # one value only
    found = value - low
    assert np.all(np.where(sure, 0, above - below) <= 1e-10 * size)  # else they say little
    assert np.all(np.where(sure, 0, found - above) <= 1e-10 * size)
    assert np.all(np.where(sure, 0, below - found) <= 1e-10 * size)

    assert np.all(law >= 0) and np.all(law[probs == 0] == 0)
    np.testing.assert_allclose(law.sum(1), 1.0, atol=1e-12)
    slack = divergence(kind, law.astype(WIDE), wide) - radii
    assert np.all(slack <= 1e-7 * radii)
    np.testing.assert_allclose(np.sum(law * gaps, 1) / size, found / size, atol=1e-9)
    assert np.all(by_radius <= 0) and np.all(np.isfinite(by_radius))
    assert np.all(np.isfinite(by_probs))


@pytest.mark.slow
@pytest.mark.parametrize("kind", BALLS)
def test_is_the_conic_program(kind):
    cp = pytest.importorskip("cvxpy")
    rng = np.random.default_rng(4)
    size, num = 6, 4
    probs = np.zeros((NUM_LAWS, MAX_ATOMS))
    values = np.zeros((NUM_LAWS, MAX_ATOMS))
    probs[:, :size] = rng.dirichlet(np.ones(size), NUM_LAWS)
    values[:, :size] = rng.normal(size=(NUM_LAWS, size))
    radii = 10.0 ** rng.uniform(-3, 0, NUM_LAWS)
    ours = apply(BALLS[kind], radii, probs, values)[0]
    for i in range(num):
        p, v, q = probs[i, :size], values[i, :size], cp.Variable(size)
        distance = {
            "kl": lambda p=p, q=q: cp.sum(cp.kl_div(q, p)),
            "burg": lambda p=p, q=q: cp.sum(cp.kl_div(p, q)),
            "chi_square": lambda p=p, q=q: cp.sum(cp.multiply(1 / p, cp.square(q - p))),
        }[kind]()
        program = cp.Problem(cp.Minimize(v @ q), [cp.sum(q) == 1, q >= 0, distance <= radii[i]])
        program.solve(solver=cp.CLARABEL)
        assert abs(program.value - ours[i]) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("kind", BALLS)
def test_radius_zero_is_the_mean(kind):
    probs, values = varied_laws(seed=5)
    value, by_radius, by_probs, law = apply(BALLS[kind], np.zeros(NUM_LAWS), probs, values)
    wide, gaps, low = clean(probs, values)
    mean = np.sum(wide * gaps, 1)
    size = np.maximum(np.max(gaps, 1), np.abs(low))
    assert np.all(np.abs(value - low - mean) <= 1e-14 * size)
    np.testing.assert_allclose(law, probs, atol=1e-9)
    # The slope in a probability, along the simplex, is the value there.
    centred = np.where(probs > 0, gaps - mean[:, None], 0)
    assert np.all(np.abs(by_probs - centred) <= 1e-6 * size[:, None])
    assert np.all(np.isfinite(by_radius))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kl", "chi_square"])
def test_beyond_saturation_is_the_least_value(kind):
    probs, values = varied_laws(seed=6)
    sure = sure_mass(*clean(probs, values)[:2]).astype(float)
    reach = -np.log(sure) if kind == "kl" else 1 / sure - 1
    for radii in (reach * (1 + 1e-9) + 1e-12, np.full(NUM_LAWS, 1e12)):
        value, by_radius, _, law = apply(BALLS[kind], radii, probs, values)
        least = np.min(np.where(probs > 0, values, np.inf), 1)
        np.testing.assert_array_equal(value, least)
        lowest = np.where((probs > 0) & (values == least[:, None]), probs, 0.0)
        np.testing.assert_allclose(law, lowest / lowest.sum(1, keepdims=True), atol=1e-12)
        np.testing.assert_array_equal(by_radius, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", BALLS)
def test_slopes_in_radius_and_probs_are_differences(kind):
    """Of the extended-precision bound; `probs` along a direction within the simplex."""
    rng = np.random.default_rng(7)
    probs, values = np.zeros((2, NUM_LAWS, MAX_ATOMS))
    probs[:, :5], values[:, :5] = (
        rng.dirichlet(np.full(5, 2.0), NUM_LAWS),
        rng.normal(size=(NUM_LAWS, 5)),
    )
    radii = rng.uniform(0.01, 0.3, NUM_LAWS)
    _, by_radius, by_probs, _ = apply(BALLS[kind], radii, probs, values)
    direction = np.zeros(MAX_ATOMS)
    direction[:2] = 1.0, -1.0

    def difference(radius_step, probs_step):
        ends = []
        for sign in (1, -1):
            wide, gaps, low = clean(probs + sign * probs_step * direction, values)
            ends.append(low + bounds(kind, wide, gaps, radii + sign * radius_step)[1])
        return (ends[0] - ends[1]) / 2e-5

    np.testing.assert_allclose(by_radius, np.asarray(difference(1e-5, 0), float), rtol=1e-4)
    np.testing.assert_allclose(
        by_probs @ direction, np.asarray(difference(0, 1e-5), float), rtol=1e-4, atol=1e-5
    )


def repeated_law(probs, values):
    """One law, repeated to the shape that is compiled."""
    rows = np.zeros((2, NUM_LAWS, MAX_ATOMS))
    rows[0, :, : len(probs)], rows[1, :, : len(values)] = probs, values
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("kind", BALLS)
def test_gains_without_bound_are_shed_when_the_radius_allows(kind):
    """P(V = inf) = 0.25: to shed it costs -log 0.75 nats, or 1 / 0.75 - 1 in chi-square."""
    rows = repeated_law([0.5, 0.25, 0.25], [0.0, 1.0, np.inf])
    least = {"kl": -np.log(0.75), "chi_square": 1 / 3, "burg": np.inf}[kind]
    radii = np.linspace(0.05, 0.55, NUM_LAWS)
    value = apply(BALLS[kind], radii, *rows)[0]
    np.testing.assert_array_equal(np.isinf(value), radii < least)
    if kind != "burg":
        part = repeated_law([2 / 3, 1 / 3], [0.0, 1.0])
        left = radii - least if kind == "kl" else (1 + radii) * 0.75 - 1
        expected = apply(BALLS[kind], np.maximum(left, 0), *part)[0]
        np.testing.assert_allclose(value[radii > least], expected[radii > least], atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", BALLS)
def test_two_atoms_by_hand(kind):
    """Values 0 and 1 with p = 1/2: the value is the q with the stated divergence from 1/2."""
    value = apply(BALLS[kind], np.linspace(1e-8, 0.6, NUM_LAWS), *repeated_law([0.5] * 2, [0, 1]))
    q = value[0].astype(WIDE)
    pair, half = np.stack([1 - q, q], 1), np.full((NUM_LAWS, 2), WIDE(0.5))
    reached = divergence(kind, pair, half)
    np.testing.assert_allclose(
        np.asarray(reached, float), np.linspace(1e-8, 0.6, NUM_LAWS), rtol=1e-7
    )


# ---- the full support of BurgBall ----------------------------------------------------------------


@pytest.mark.slow
def test_burg_over_the_full_support():
    """max over h >= 0 of exp(E log(v + h) - radius) - h, v above the least value of all atoms."""
    rng = np.random.default_rng(8)
    probs, values = np.zeros((2, NUM_LAWS, MAX_ATOMS))
    probs[:, 2:7] = rng.dirichlet(np.ones(5), NUM_LAWS)
    values[:, 1:7] = rng.normal(size=(NUM_LAWS, 6))
    values[:, 1] -= 10.0 ** rng.uniform(-4, 1, NUM_LAWS)
    values[:, 7:] = 9.0
    values[:, 8], values[:, 9], values[:, 10] = np.nan, np.inf, -np.inf
    radii = 10.0 ** rng.uniform(-6, 0.5, NUM_LAWS)
    value, by_radius, _, law = apply(BurgBall, radii, probs, values, support="full")

    low = values[:, :8].min(1)
    p, x = probs[:, 2:7].astype(WIDE), (values[:, 2:7] - low[:, None]).astype(WIDE)
    grid = np.exp(np.linspace(-40, 25, 4001, dtype=WIDE))[:, None, None]

    def dual(h):
        logs = np.log(np.maximum(x + h, 1e-300))
        return np.exp(np.sum(p * logs, -1) - radii) - h[..., 0]

    best = np.argmax(dual(grid), 0)
    ends = [np.log(grid[np.clip(best + s, 0, 4000), 0, 0]) for s in (-1, 1)]
    for _ in range(80):  # golden section of a concave function of h
        inner = [ends[0] + r * (ends[1] - ends[0]) for r in (0.382, 0.618)]
        first, second = (dual(np.exp(end)[:, None]) for end in inner)
        ends = [
            np.where(first < second, inner[0], ends[0]),
            np.where(first < second, ends[1], inner[1]),
        ]
    expected = np.maximum(dual(np.exp(ends[0])[:, None]), dual(np.zeros((NUM_LAWS, 1), WIDE)))
    np.testing.assert_allclose(value - low, np.asarray(expected, float), atol=1e-9)

    np.testing.assert_allclose(law.sum(1), 1.0, atol=1e-12)
    assert (
        np.all(law >= 0)
        and np.all(law[:, 7:] == 0)
        and np.all(law[:, 0] * (values[:, 0] > low) == 0)
    )
    held = np.where(law > 0, values, 0.0)
    np.testing.assert_allclose(np.sum(law * held, 1), value, atol=1e-8)
    reached = np.sum(probs * np.log(np.where(probs > 0, probs / np.where(law > 0, law, 1), 1)), 1)
    assert np.all(reached <= radii * (1 + 1e-7))
    assert np.any(law[:, 1] > 0.01)  # the impossible atom is used
    assert np.all(np.isfinite(by_radius))


@pytest.mark.slow
def test_burg_of_one_possible_value_over_the_full_support():
    """All mass at 1, an impossible atom at -3: mass 1 - exp(-radius) moves there."""
    rows = repeated_law([1.0, 0.0], [1.0, -3.0])
    rows[1, :, 2:] = 5.0
    radii = np.linspace(0.0, 4.0, NUM_LAWS)
    value, by_radius, _, law = apply(BurgBall, radii, *rows, support="full")
    np.testing.assert_allclose(value, 1.0 - 4.0 * (1.0 - np.exp(-radii)), atol=1e-12)
    np.testing.assert_allclose(law[1:, 0], np.exp(-radii[1:]), atol=1e-12)
    np.testing.assert_allclose(law[1:, 1], 1.0 - np.exp(-radii[1:]), atol=1e-12)
    np.testing.assert_allclose(by_radius[1:], -4.0 * np.exp(-radii[1:]), atol=1e-9)


# ---- the generic ball ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "conjugate", "atol"),
    [
        ("kl", jnp.expm1, 1e-10),
        ("chi_square", chi_square_conjugate, 1e-10),
        ("burg", burg_conjugate, 1e-9),
    ],
)
def test_the_generic_ball_is_the_special_one(kind, conjugate, atol):
    rng = np.random.default_rng(9)
    probs, values = np.zeros((2, NUM_LAWS, MAX_ATOMS))
    probs[:, :7] = rng.dirichlet(np.ones(7), NUM_LAWS)
    values[:, :7] = rng.normal(size=(NUM_LAWS, 7))
    radii = 10.0 ** rng.uniform(-8, 0.8, NUM_LAWS)
    radii[:2] = 0.0, 1e6
    if kind == "burg":
        radii = np.minimum(radii, 1.0)
    special = apply(BALLS[kind], radii, probs, values)
    generic = apply(DivergenceBall, radii, probs, values, conjugate=conjugate)
    np.testing.assert_allclose(generic[0], special[0], atol=atol)
    np.testing.assert_allclose(generic[3], special[3], atol=1e-4)


def test_settings_are_checked():
    for kind in (*BALLS.values(), DivergenceBall):
        for radius in (-1e-9, np.nan, jnp.array([0.1, -0.1])):
            with pytest.raises(ValueError, match="radius"):
                kind(radius)
    with pytest.raises(ValueError, match="support='whole' is not one of: nominal, full"):
        BurgBall(0.1, support="whole")
    with pytest.raises(ValueError, match=r"conjugate has value 0\.367879 and slope 0\.367879 at 0"):
        DivergenceBall(0.1, lambda y: jnp.exp(y - 1))
