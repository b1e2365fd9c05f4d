"""Contracts of every functional in the tables: what they state, and what they must survive."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import hard_laws
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
import table
import table_ambiguity
import table_divergences
from references import reference

from jaxrl.core import list_settings
from jaxrl.functionals import (
    BurgBall,
    ChiSquareBall,
    DivergenceBall,
    Ellipsoid,
    KLBall,
    Wasserstein,
    WeightedL1,
)

NUM_LAWS, NUM_ATOMS = hard_laws.NUM_LAWS, 7
NUM_SLOPES = 12  # laws whose slopes are compared: each takes NumPy six values and more
FACTS = ("monotone", "translation_equivariant", "coherent", "time_consistent")
ORDER = np.array([3, 0, 6, 5, 1, 2, 4])
BAD = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf}
SCALES = (1e-30, 1.0, 1e30)
FACTORS = (1 - 1e-6, 1 + 1e-6)


OWN = table.FUNCTIONALS
FUNCTIONALS = {**OWN, **table_divergences.FUNCTIONALS, **table_ambiguity.FUNCTIONALS}
# The bodies of functionals are the same without jit; the examples in the docstrings are eager too.
EAGER = ("mean", "cvar_0.3")
# Of another support, conjugate or utility than a part that is not slow; each is a program.
SLOW = (
    "contamination_0.2_full",
    "oce_cvar",
    "weighted_l1_0.4_full",
    "l2_ball_0.25_full",
    "ellipsoid_0.3_full",
    "divergence_chi_square_2",
    "divergence_hellinger_0.1",
    "oce_quadratic",
    "shortfall_quadratic",
    "semideviation_0.5_order_2",
    "total_variation_0.3_full",
    "wasserstein_0.4_full",
)
# The gradients of these, and of others over the full support, are certified in float64 in
# test_{divergences,norms,wasserstein,ambiguity}.py.
CERTIFIED = (KLBall, BurgBall, ChiSquareBall, Wasserstein)
# At the ends of their ranges slopes are plain; test_slopes_are_those_of_numpy tries all.
ENDS = ("_0", "_100", "_1000", "cvar_1", "var_1", "contamination_1", "prospect_1", "variation_2")
WIDE = {
    jax.tree.structure(functional): name  # one of each program
    for name, functional in FUNCTIONALS.items()
    if not isinstance(functional, CERTIFIED)
    and not name.startswith("l2_ball")
    and name not in ("total_variation_0.3_full", "weighted_l1_0.4_full", "ellipsoid_0.3_full")
    and name not in ("divergence_chi_square_2", "divergence_hellinger_0.1")
    and not name.endswith(ENDS)
}.values()


# An infinite gain leaves no scale for the other values, which these then do not tell apart; the
# generic ball never sheds one.
BLINDED = (WeightedL1, Ellipsoid, Wasserstein, DivergenceBall)


@jax.jit
def measure(functional, probs, values, later):
    """Of `[L, NUM_ATOMS]` laws: the values, the gradients in own leaves, probs, values.

    The one program of all contracts: one compilation a class. Its values are computed inside, as
    those of an operator are.
    """

    def outcome(functional, probs, values, later):
        return functional(probs, values + np.float32(0.9) * later)

    call = jax.value_and_grad(outcome, argnums=(0, 1, 2), allow_int=True)
    return jax.vmap(call, in_axes=(None, 0, 0, 0))(functional, probs, values, later)


LATER = np.random.default_rng(2).normal(size=(NUM_LAWS, NUM_ATOMS)).astype(np.float32)


def random_laws(seed=0, ties=True, dtype=np.float32):
    """Laws with, unless told otherwise, impossible atoms and repeated values."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(NUM_ATOMS, 0.7), NUM_LAWS)
    if ties:
        probs[::2, 1] = 0.0
    else:
        probs = 0.8 * probs + 0.2 / NUM_ATOMS
    values = rng.normal(size=(NUM_LAWS, NUM_ATOMS))
    if ties:
        values[::2, 2] = values[::2, 3]
        values[::4, 1] -= 1.5  # often the least value has no probability
    probs = probs / probs.sum(1, keepdims=True)
    return probs.astype(dtype), values.astype(dtype)


@functools.cache
def cases():
    """The laws of all contracts by name, each `[NUM_LAWS, NUM_ATOMS]`, in float32."""
    (probs, values), (even, plain) = random_laws(), random_laws(ties=False)
    rows, one = np.arange(NUM_LAWS), np.ones(NUM_ATOMS)
    higher, lost, unknown = plain.copy(), plain.copy(), values.copy()
    higher[rows, plain.argmax(1)] += 5.0
    lost[:, 0] = -np.inf
    gained = -lost
    unknown[rows, probs.argmax(1)] = np.nan
    scales = 10.0 ** np.linspace(-6, 6, NUM_LAWS)[:, None]
    offsets = np.where(rows % 2, 1e4 * np.cos(rows), 0.0)[:, None]
    known = {
        "varied": (probs, scales * values + offsets),
        "base": (probs, values),
        "computed": (probs, values - 0.9 * LATER),
        "plain": (even, plain),
        "more": (even, plain + np.abs(np.random.default_rng(1).normal(size=plain.shape))),
        "higher": (even, higher),
        "moved": (probs, values + np.float32(3.0)),
        "sevenfold": (probs, np.float32(7.0) * values),
        "flipped": (probs, np.flip(values, 0)),
        "sum": (probs, values + np.flip(values, 0)),
        "ordered": (probs[:, ORDER], values[:, ORDER]),
        "sure": (np.eye(NUM_ATOMS)[rows % NUM_ATOMS], values),
        "filled": (probs, np.where(probs > 0, values, 0.0)),
        "unknown": (probs, unknown),
        "nearly lost": (even, np.where(np.isinf(lost), -1e30, lost)),
        "lost": (even, lost),
        "without bound": (even, gained),
    }
    for k in range(2):
        part = np.where((np.arange(NUM_ATOMS) < 3) == (k == 0), even, 0.0)
        known["part", k] = (part / part.sum(1, keepdims=True), plain)
    for name, bad in BAD.items():
        known["impossible", name] = (probs, np.where(probs > 0, values, bad))
    for scale in SCALES:
        known["same", scale] = (probs, np.full_like(values, -2.5 * scale))
        known["scaled", scale] = (probs, values * np.float32(scale))
    for factor in FACTORS:
        known["almost", factor] = (probs * factor, values)
    shape = (NUM_LAWS, NUM_ATOMS)
    wide = lambda x: np.broadcast_to(x * one, shape).astype(np.float32)  # noqa: E731
    return {name: (wide(p), wide(v)) for name, (p, v) in known.items()}


def measure_cases(functional, laws):
    """One call for many named laws: values, own slopes, those in the probs and the values."""
    probs, values = (np.concatenate([law[k] for law in laws.values()]) for k in range(2))
    later = np.concatenate([LATER * (name == "computed") for name in laws])
    found = jax.device_get(measure(functional, probs, values, later))
    rows = {name: slice(i * NUM_LAWS, (i + 1) * NUM_LAWS) for i, name in enumerate(laws)}
    return {name: jax.tree.map(lambda x, at=at: x[at], found) for name, at in rows.items()}


@functools.cache
def measured(name):
    return measure_cases(FUNCTIONALS[name], cases())


def value(name, case):
    return measured(name)[case][0].astype(float)


@functools.cache
def nested(name):
    """F(F(X | Y)), Y telling the first three atoms from the others."""
    even = cases()["plain"][0]
    is_first = np.arange(NUM_ATOMS) < 3
    probs, values = np.zeros_like(even), np.zeros_like(even)
    probs[:, 0], probs[:, 1] = even[:, is_first].sum(1), even[:, ~is_first].sum(1)
    values[:, 0], values[:, 1] = value(name, ("part", 0)), value(name, ("part", 1))
    laws = dict.fromkeys(cases(), (probs, values))  # the shape that is compiled
    return measure_cases(FUNCTIONALS[name], laws)["base"][0].astype(float)


def is_nominal(name):
    return getattr(FUNCTIONALS[name], "support", "nominal") == "nominal"


KINDS = {kind.__name__: kind for kind in map(type, FUNCTIONALS.values())}
NOMINAL = [name for name in FUNCTIONALS if is_nominal(name)]
FULL = [name for name in FUNCTIONALS if not is_nominal(name)]


def each(*tables):
    """Makes of a check of one row a test of all of them that names the rows which fail.

    The rows are the products of the tables. Those of a functional in SLOW are a second, slow test.
    """

    def decorate(check):
        def test(rows):
            failed = {}
            for row in rows:
                try:
                    check(*row)
                except (Exception, pytest.fail.Exception) as error:
                    failed["-".join(map(str, row))] = error
            assert not failed, "\n".join(f"{row}: {error!r}" for row, error in failed.items())

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        every = list(itertools.product(*tables))
        cases = []
        for when, marks in {"default": [], "slow": [pytest.mark.slow]}.items():
            rows = [row for row in every if (row[0] in SLOW) == (when == "slow")]
            held = pytest.mark.held_for(*("-".join(map(str, row)) for row in rows))
            if rows:
                cases.append(pytest.param(rows, id=when, marks=[*marks, held]))
        return pytest.mark.parametrize("rows", cases)(test)

    return decorate


# ---- what a functional states ------------------------------------------------------------------


def breaks_monotone(name):
    """By raising all atoms, or the greatest alone."""
    base = value(name, "plain")
    return max(np.max(base - value(name, case)) for case in ("more", "higher")) > 2e-5


def breaks_translation_equivariance(name):
    return np.max(np.abs(value(name, "moved") - value(name, "base") - 3.0)) > 2e-5


def breaks_coherence(name):
    """Not monotone, not translation equivariant, not homogeneous, or not superadditive."""
    if breaks_monotone(name) or breaks_translation_equivariance(name):
        return True
    base = value(name, "base")
    if np.max(np.abs(value(name, "sevenfold") - 7.0 * base)) > 1e-4:
        return True
    return np.max(base + value(name, "flipped") - value(name, "sum")) > 1e-4


def breaks_time_consistency(name):
    """F(X) is not F(F(X | Y))."""
    return np.max(np.abs(nested(name) - value(name, "plain"))) > 1e-4


BREAKS = {
    "monotone": breaks_monotone,
    "translation_equivariant": breaks_translation_equivariance,
    "coherent": breaks_coherence,
    "time_consistent": breaks_time_consistency,
}


@each(FUNCTIONALS, FACTS)
def test_stated_facts_hold(name, fact):
    if getattr(FUNCTIONALS[name], fact):
        assert not BREAKS[fact](name)


@each(KINDS, FACTS)
def test_a_fact_denied_fails_for_some_instance(kind, fact):
    kind = KINDS[kind]
    if not getattr(kind, fact):
        quick = [name for name, f in FUNCTIONALS.items() if type(f) is kind and name not in SLOW]
        assert any(BREAKS[fact](name) for name in quick)


@each(FUNCTIONALS)
def test_worst_case_is_a_law(name):
    """Monotone: no weight is negative; translation equivariant: they sum to one; coherent: they
    give the value; law invariant: none on impossible atoms."""
    functional = FUNCTIONALS[name]
    probs, values = cases()["base"]
    result, (_, _, weights) = measured(name)["base"]
    if functional.monotone:
        assert np.all(weights >= -1e-6)
    if functional.translation_equivariant:
        np.testing.assert_allclose(np.sum(weights, 1), 1.0, atol=1e-5)
    if functional.coherent:
        np.testing.assert_allclose(np.sum(weights * values, 1), result, atol=1e-5)
    if is_nominal(name):
        assert np.all(np.where(probs == 0, weights, 0.0) == 0)


@each([name for name, functional in FUNCTIONALS.items() if functional.monotone])
def test_lies_within_the_values(name):
    probs, values = cases()["base"]
    counts = (probs > 0) | (not is_nominal(name))
    assert np.all(value(name, "base") >= np.min(np.where(counts, values, np.inf), 1) - 1e-5)
    assert np.all(value(name, "base") <= np.max(np.where(counts, values, -np.inf), 1) + 1e-5)


@each(OWN)
def test_the_order_of_the_atoms_does_not_matter(name):
    np.testing.assert_allclose(value(name, "ordered"), value(name, "base"), atol=5e-6)


@each(OWN)
def test_one_atom_is_its_value(name):
    probs, values = cases()["sure"]
    np.testing.assert_allclose(value(name, "sure"), np.sum(probs * values, 1), rtol=1e-6)


@pytest.mark.slow
def test_a_law_of_length_one_is_its_value():
    @jax.jit
    def apply(functionals):
        return [functional(jnp.ones(1), jnp.full(1, 3.0)) for functional in functionals]

    found = apply(list({type(f): f for f in OWN.values()}.values()))
    np.testing.assert_allclose(found, 3.0, rtol=1e-6)


# ---- what it must be: references in NumPy and SciPy --------------------------------------------


@each(FUNCTIONALS)
def test_value_is_that_of_numpy(name):
    """With impossible atoms, ties and probabilities near zero, and without."""
    for case in ("base", "plain"):
        expected = reference(FUNCTIONALS[name], *cases()[case]).astype(float)
        solved = ~np.isnan(expected)
        assert np.sum(solved) >= 3
        np.testing.assert_allclose(value(name, case)[solved], expected[solved], atol=1e-5)


@each(FUNCTIONALS)
def test_values_computed_in_the_same_program_are_as_good(name):
    """The compiler may compute and round them twice; the least is the least of its own copy."""
    found, expected = (measured(name)[case] for case in ("computed", "base"))
    np.testing.assert_allclose(found[0], expected[0], atol=1e-5)
    assert not any(np.isnan(leaf).any() for leaf in jax.tree.leaves(found[1][1:]))


def test_the_generic_divergence_ball_keeps_a_shift_that_is_exact():
    """Laws on which the shift comes out exact after a step too short for Newton's to be taken."""
    rng = np.random.default_rng(0)
    probs, values = rng.dirichlet(np.ones(NUM_ATOMS), 20_000), rng.normal(size=(20_000, NUM_ATOMS))
    radii = (10 ** rng.uniform(-3, 0, 20_000)).astype(np.float32)
    for i in (5178, 11669, 13558, 15110):
        law = [np.tile(np.float32(x[i]), (NUM_LAWS, 1)) for x in (probs, values)]
        ball = FUNCTIONALS["divergence_kl_0.2"].replace(radius=float(radii[i]))
        found = measure_cases(ball, dict.fromkeys(cases(), law))["base"][0][0]
        expected = reference(KLBall(radii[i]), probs[i : i + 1], values[i : i + 1])[0]
        assert float(found) == pytest.approx(float(expected), abs=1e-5)


def test_shortfall_threshold():
    """u(c - x) = threshold for a sure c: 1 - exp(-(c - x)) = 1/2 at x = c - log 2."""
    law = np.float32(np.eye(NUM_ATOMS)[:1]), np.full((1, NUM_ATOMS), 5.0, np.float32)
    law = [np.tile(x, (NUM_LAWS, 1)) for x in law]
    # For -1 more than c may be taken; 2 is never reached.
    for threshold, expected in ((0.5, 5 - np.log(2.0)), (-1.0, 5 + np.log(2.0)), (2.0, -np.inf)):
        shortfall = table.Shortfall(table.ExponentialUtility(1.0), threshold)
        found = measure_cases(shortfall, dict.fromkeys(cases(), law))["base"][0]
        np.testing.assert_allclose(found, expected, atol=1e-6)


@each(FUNCTIONALS)
def test_float32_is_within_its_rounding(name):
    """64 N u max|v|, at scales of 1e-6 to 1e6 and offsets."""
    probs, values = cases()["varied"]
    expected = reference(FUNCTIONALS[name], probs, values).astype(float)
    solved = ~np.isnan(expected)
    unit = np.finfo(np.float32).eps / 2
    greatest = np.where((probs > 0) | (not is_nominal(name)), np.abs(values), 0.0).max(1)
    error = np.abs(value(name, "varied") - expected)
    assert np.all(error[solved] <= 64 * NUM_ATOMS * unit * greatest[solved])


def slope(call, step):
    """One-sided, of second order: a parameter may stand at the end of its range."""
    return (3 * call(0.0) - 4 * call(-step) + call(-2 * step)) / (2 * step)


def with_leaf(functional, k, change):
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, functional))
    leaves[k] = change(leaves[k].astype(references.Wide))
    return jax.tree.unflatten(structure, leaves)


def differences(functional, probs, values, evaluate, step):
    """By name, `(by, slopes)`: a direction in the values, the probs (along the simplex) or an own
    number, and the slope of `evaluate` along it by differences."""
    rng = np.random.default_rng(6)
    by, along = rng.normal(size=values.shape), rng.normal(size=probs.shape)
    along -= along.mean(1, keepdims=True)
    yield "values", by, slope(lambda s: evaluate(functional, probs, values + s * by), step)
    yield "probs", along, slope(lambda s: evaluate(functional, probs + s * along, values), step)
    for k, leaf in enumerate(jax.tree.leaves(functional)):
        by = np.asarray(leaf) if np.any(leaf) else np.ones_like(leaf, float)

        def own(s, k=k, by=by):
            return evaluate(with_leaf(functional, k, lambda x: x + s * by), probs, values)

        yield k, by, slope(own, step if np.any(leaf) else -step)  # 0 is the least radius


def along(gradients, what, by):
    """`[L]`: the slopes that the gradients give along a direction."""
    by_own, by_probs, by_values = gradients
    named = {"values": by_values, "probs": by_probs}
    found = named[what] if what in named else jax.tree.leaves(by_own)[what]
    return np.sum(np.reshape(found * by, (len(found), -1)), 1)


@each(FUNCTIONALS)
def test_slopes_are_those_of_numpy(name):
    functional = FUNCTIONALS[name]
    first = slice(NUM_SLOPES)
    probs, values = (x[first].astype(references.Wide) for x in cases()["plain"])
    probs = probs / probs.sum(1, keepdims=True)
    gradients = jax.tree.map(lambda x: x[first], measured(name)["plain"][1])
    for what, by, expected in differences(functional, probs, values, reference, 1e-4):
        ours = along(gradients, what, by)
        solved = ~np.isnan(expected.astype(float))
        ours, expected = ours[solved], expected[solved].astype(float)
        if what not in ("values", "probs") and np.max(np.abs(ours)) > 1e6:
            continue  # where the true derivative is infinite
        error = np.abs(ours - expected) / (1 + np.abs(expected))
        # A kink within the step spoils the difference, in few of the laws.
        assert np.mean(error < 1e-3) >= (0.8 if len(error) > 3 else 0.6), (what, error)
        assert np.median(error) < 1e-4, (what, error)


# ---- what it must survive ----------------------------------------------------------------------


def assert_finite_gradients(name, case):
    _, (_, by_probs, by_values) = measured(name)[case]
    assert np.all(np.isfinite(by_probs))
    assert np.all(np.isfinite(by_values))


@each(NOMINAL, BAD)
def test_impossible_atoms_may_hold_anything(name, bad):
    case = "impossible", bad
    np.testing.assert_allclose(value(name, case), value(name, "filled"), atol=1e-6)
    assert_finite_gradients(name, case)


@each(FUNCTIONALS)
def test_a_possible_nan_is_reported(name):
    assert np.all(np.isnan(value(name, "unknown")))


@each(FUNCTIONALS)
def test_a_possible_catastrophe_counts(name):
    """A value of -inf is the limit of large losses, and no gradient is NaN."""
    limit = value(name, "nearly lost")
    result, (_, by_probs, by_values) = measured(name)["lost"]
    is_lost = limit < -1e15
    assert np.all(np.where(is_lost, result == -np.inf, True))
    np.testing.assert_allclose(np.where(is_lost, 0, result), np.where(is_lost, 0, limit), atol=1e-5)
    assert not np.any(np.isnan(by_probs)) and not np.any(np.isnan(by_values))


@each(FUNCTIONALS)
def test_a_possible_gain_without_bound_is_the_limit(name):
    """A value of inf is the limit of large gains, and no gradient is NaN."""
    probs, values = cases()["without bound"]
    large, larger = (
        reference(FUNCTIONALS[name], probs, np.where(np.isinf(values), gain, values))
        for gain in (1e6, 1e7)
    )
    is_won = (larger == np.inf) | (larger - large > 0.5)
    is_shed = np.abs(np.where(is_won, 1.0, larger - large)) < 2e-3
    limit, result = larger.astype(float), value(name, "without bound")
    if isinstance(FUNCTIONALS[name], BLINDED):
        assert np.all(result[is_shed] >= limit[is_shed] - 2e-3)
    else:
        np.testing.assert_array_equal(result[is_won], np.inf)
        np.testing.assert_allclose(result[is_shed], limit[is_shed], rtol=1e-6, atol=1e-5)
    _, (_, by_probs, by_values) = measured(name)["without bound"]
    assert not np.any(np.isnan(by_probs)) and not np.any(np.isnan(by_values))


@each(FULL)
def test_full_support_reaches_the_impossible_atoms(name):
    """The least value has no probability: nature uses it, and a loss without bound there counts."""
    probs, values = cases()["base"]
    is_shut = probs[:, 1] == 0
    least = is_shut & (values.argmin(1) == 1)
    assert np.sum(least) >= 5
    law = measured(name)["base"][1][2]
    assert np.mean(law[least, 1] > 0.02) >= 0.6  # for the others it is too far to move to
    for bad, expected in (("-inf", -np.inf), ("nan", np.nan)):
        np.testing.assert_array_equal(value(name, ("impossible", bad))[is_shut], expected)
    gained = value(name, ("impossible", "inf"))[is_shut]
    must_gain = name == "interval_full"  # as every law of the set has mass there
    assert np.all(gained == np.inf if must_gain else np.isfinite(gained))
    assert np.all(gained >= value(name, "base")[is_shut] - 1e-6)


@each(FUNCTIONALS, SCALES)
def test_equal_values_and_scales(name, scale):
    same = cases()["same", scale][1]
    np.testing.assert_allclose(value(name, ("same", scale)), same[:, 0], rtol=1e-6)
    assert_finite_gradients(name, ("same", scale))
    found = value(name, ("scaled", scale))
    assert np.all(np.isfinite(found))
    if FUNCTIONALS[name].coherent:  # homogeneous
        np.testing.assert_allclose(found / scale, value(name, "base"), rtol=1e-4, atol=1e-5)
    assert_finite_gradients(name, ("scaled", scale))


@each(FUNCTIONALS)
def test_probabilities_that_sum_almost_to_one(name):
    for factor in FACTORS:
        almost = value(name, ("almost", factor))
        np.testing.assert_allclose(almost, value(name, "base"), atol=1e-5)
        assert_finite_gradients(name, ("almost", factor))


# ---- machinery ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [n if n == "mean" else pytest.param(n, marks=pytest.mark.slow) for n in EAGER]
)
def test_eager_is_jit_of_vmap(name):
    probs, values = (jnp.asarray(x[0]) for x in cases()["base"])
    eager = FUNCTIONALS[name](probs, values)
    np.testing.assert_allclose(eager, value(name, "base")[0], atol=2e-6)


@each(FUNCTIONALS)
def test_a_changed_float_does_not_retrace(name):
    """Every number is a leaf, and a changed one keeps the program."""
    functional = FUNCTIONALS[name]
    measured(name)
    before = measure._cache_size()
    changed = jax.tree.map(lambda leaf: leaf * 0.75, functional)
    measure_cases(changed, cases())
    assert measure._cache_size() == before
    named = [info for info in list_settings(functional) if "." not in info.name]
    for setting in [info.name for info in named if isinstance(info.value, float)]:
        other = functional.replace(**{setting: 0.5 * getattr(functional, setting) + 0.125})
        assert jax.tree.structure(other) == jax.tree.structure(functional), setting


def evaluate_wide(functional, probs, values):
    functionals = jax.tree.map(
        lambda leaf: np.broadcast_to(leaf, (NUM_LAWS, *np.shape(leaf))), functional
    )
    return hard_laws.measure(functionals, probs, values)


@pytest.mark.slow
@pytest.mark.parametrize("name", WIDE)
def test_gradients_are_differences(name):
    """In float64: in values, in probs along the simplex, in the functional's own numbers."""
    probs, values = random_laws(seed=5, ties=False, dtype=float)
    functional = FUNCTIONALS[name]
    gradients = evaluate_wide(functional, probs, values)[1]

    def evaluate(functional, probs, values):
        return evaluate_wide(functional, probs, values)[0]

    for what, by, expected in differences(functional, probs, values, evaluate, 1e-6):
        ours = along(gradients, what, by)
        if what not in ("values", "probs") and np.max(np.abs(ours)) > 1e6:
            continue  # where the true derivative is infinite
        error = np.abs(ours - expected) / (1 + np.abs(expected))
        # A kink within the step spoils the difference, in few of the laws.
        assert np.mean(error < 1e-5) >= 0.9, what
        assert np.median(error) < 1e-6, what


# ---- settings ----------------------------------------------------------------------------------


@each(dict.fromkeys(type(functional).__name__ for functional in OWN.values()))
def test_a_level_out_of_range_is_refused(kind):
    kind = KINDS[kind]
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
    levels, law = np.float32([0.1, 0.5, 1.0]), np.full(4, 0.25, np.float32)
    values = np.arange(4, dtype=np.float32)
    for build in (table.CVaR, lambda held: table.CVaR(0.5).replace(level=held)):
        swept = jax.jit(jax.vmap(lambda level, build=build: build(level)(law, values)))(levels)
        np.testing.assert_allclose(swept, [0.0, 0.5, 1.5])
    over_structs = jax.jit(jax.vmap(lambda f: f(law, values)))(table.CVaR(levels))
    np.testing.assert_allclose(over_structs, swept)
