"""Contracts of every improvement, and the programs that they say they solve."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq, minimize
from scipy.special import logsumexp, softmax

from jaxrl.operators import (
    Boltzmann,
    EpsilonGreedy,
    ExpectileMax,
    FixedPolicy,
    Greedy,
    KLSoftmax,
    Mellowmax,
    MirrorDescent,
    Softmax,
    Tsallis,
)

B, A, ROWS = 32, 5, 512
POLICY = np.float32([0.1, 0.2, 0.3, 0.0, 0.4])
IMPROVEMENTS = {
    "greedy": Greedy(),
    "epsilon_greedy": EpsilonGreedy(0.3),
    "softmax": Softmax(0.5),
    "cold_softmax": Softmax(1e-3),
    "kl_softmax": KLSoftmax(0.5, POLICY),
    "mellowmax": Mellowmax(3.0),
    "nearly_mean": Mellowmax(1e-6),
    "mirror_descent": MirrorDescent(0.4, 0.2, log_reference=np.log(POLICY + np.float32(0.1))),
    "sparsemax": Tsallis(0.5, 2.0),
    "tsallis_gentle": Tsallis(0.5, 1.3),
    "tsallis_dense": Tsallis(0.5, 0.5),
    "tsallis_steep": Tsallis(2.0, 4.0),
    "expectile": ExpectileMax(0.9),
    "fixed": FixedPolicy(POLICY),
    "boltzmann": Boltzmann(0.5),
}
REGULARISED = [
    "softmax",
    "kl_softmax",
    "mellowmax",
    "nearly_mean",
    "mirror_descent",
    "sparsemax",
    "tsallis_gentle",
    "tsallis_dense",
    "tsallis_steep",
]


@pytest.fixture(params=IMPROVEMENTS)
def name(request):
    return request.param


def value_of(improvement, q_values, mask):
    probs, bonus = improvement(q_values, mask)
    return jnp.sum(probs * (jnp.where(probs > 0, q_values, 0.0) + bonus))


@jax.jit
def _batch(improvement, q_values, mask):
    probs, bonus = jax.vmap(improvement)(q_values, mask)
    return probs, bonus, jax.vmap(lambda q, m: value_of(improvement, q, m))(q_values, mask)


@jax.jit
def _slopes(improvement, q_values, mask):
    return jax.vmap(lambda q, m: jax.grad(value_of, (0, 1))(improvement, q, m))(q_values, mask)


def batch(improvement, q_values, mask=None):
    """Probabilities, bonuses and values of rows `[n, a]`, in the dtype of `q_values`.

    Rows are filled up to one size, and actions too, by illegal ones, so that all tests share one
    program for each class of improvements.
    """
    q_values = np.asarray(q_values)
    rows, size = q_values.shape
    full = np.zeros((ROWS, A) if rows <= ROWS and size <= A else q_values.shape, q_values.dtype)
    legal = np.zeros(full.shape, bool)
    full[:rows, :size], legal[:rows, :size] = q_values, True if mask is None else mask
    probs, bonus, value = jax.device_get(_batch(improvement, full, legal))
    return probs[:rows, :size], bonus[:rows, :size], value[:rows]


def slopes(improvement, q_values, mask):
    """Of V in the values and in every setting, `[n, ...]`, of rows filled up to `2 B`."""
    fill = 2 * B - len(q_values)
    given = (np.concatenate([x, np.repeat(x[:1], fill, 0)]) for x in (q_values, mask))
    found = jax.device_get(_slopes(improvement, *given))
    return jax.tree.map(lambda x: x[: len(q_values)], found)


@functools.cache
def cases():
    rng = np.random.default_rng(0)
    q_values, mask = rng.normal(size=(B, A)).astype(np.float32), rng.random((B, A)) < 0.6
    mask[:, 2] = True
    return q_values, mask


HELD = (-np.inf, 1e30, np.nan)
LARGE = np.tile(np.float32([1e30, -1e30, 0.0, 1e29, 3.0]), (B, 1))


@functools.cache
def inputs():
    """Every batch of values and masks that all improvements are tried on, by name."""
    q_values, mask = cases()
    rng, every = np.random.default_rng(2), np.ones((B, A), bool)
    other = q_values + rng.normal(size=(B, A)).astype(np.float32)
    only = np.tile(np.arange(A) == 2, (B, 1))
    found = {
        "clean": (q_values, mask),
        "minus_inf": (np.where(mask, q_values, np.float32(-np.inf)), every),
        "other": (other, mask),
        "more": (np.maximum(q_values, other), mask),
        "shifted": (q_values + np.float32(3.0), mask),
        "every": (q_values, every),
        "only": (q_values, only),
        "none": (q_values, np.zeros_like(mask)),
        "tied": (0 * q_values, mask),
        "large": (LARGE, every),
    }
    return found | {held: (np.where(mask, q_values, np.float32(held)), mask) for held in HELD}


@functools.cache
def measured(name):
    """Of one improvement: probabilities, bonuses and values on each of the `inputs`."""
    q_values, masks = (np.concatenate(x) for x in zip(*inputs().values(), strict=True))
    found = batch(IMPROVEMENTS[name], q_values, masks)
    split = (np.split(x, len(inputs())) for x in found)
    return dict(zip(inputs(), zip(*split, strict=True), strict=True))


@functools.cache
def measured_slopes(name):
    """In the settings and the values; of the clean cases, and with -inf where it is illegal."""
    (q_values, mask), (held, _) = inputs()["clean"], inputs()["minus_inf"]
    given = np.concatenate([q_values, held]), np.concatenate([mask, mask])
    found = slopes(IMPROVEMENTS[name], *given)
    return [jax.tree.map(lambda x, i=i: np.split(x, 2)[i], found) for i in (0, 1)]


def test_probabilities_are_a_law_on_the_legal_actions(name):
    _, mask = cases()
    clean = measured(name)["clean"]
    for held in HELD:
        probs, bonus, value = measured(name)[held]
        np.testing.assert_allclose(np.sum(probs, 1), 1.0, rtol=1e-6)
        assert np.all(probs >= 0) and np.all(probs[~mask] == 0)
        assert np.all(bonus[~mask] == 0)
        np.testing.assert_array_equal(value, clean[2])
        np.testing.assert_array_equal(bonus, clean[1])


def test_illegal_values_give_no_nan_in_gradients(name):
    _, mask = cases()
    (clean_settings, clean), (by_settings, by_values) = measured_slopes(name)
    assert np.all(by_values[~mask] == 0)
    np.testing.assert_array_equal(by_values, clean)
    for held, usual in zip(*map(jax.tree.leaves, (by_settings, clean_settings)), strict=True):
        assert np.all(np.isfinite(held))
        np.testing.assert_allclose(held, usual, atol=1e-6)


def test_a_value_of_minus_infinity_is_an_illegal_action(name):
    if name in ("epsilon_greedy", "fixed"):
        return  # they take it with positive probability, and are worth minus infinity
    found = measured(name)
    np.testing.assert_allclose(found["minus_inf"][2], found["clean"][2], atol=1e-6)


def test_value_is_monotone_and_nonexpansive(name):
    if not IMPROVEMENTS[name].facts.nonexpansive:
        return
    (q_values, mask), (other, _) = inputs()["clean"], inputs()["other"]
    value, other_value, best = (measured(name)[x][2] for x in ("clean", "other", "more"))
    gap = np.max(np.where(mask, np.abs(q_values - other), 0.0), axis=1)
    assert np.all(np.abs(value - other_value) <= gap + 1e-5)
    assert np.all(best >= np.maximum(value, other_value) - 1e-5)


def test_other_facts_are_as_stated(name):
    """Sublinear: of a sum no more than the sum, of twice the values twice as much; fixed: one
    policy, whatever the values."""
    part, (q_values, other) = IMPROVEMENTS[name], np.float32([cases()[0], inputs()["other"][0]])
    probs, bonus, value = batch(part, q_values)
    _, _, other_value = batch(part, other)
    is_sublinear = np.all(batch(part, q_values + other)[2] <= value + other_value + 1e-4)
    is_sublinear &= np.allclose(batch(part, 2 * q_values)[2], 2 * value, atol=1e-4)
    assert is_sublinear or not part.facts.sublinear
    is_fixed = np.allclose(batch(part, other)[0], probs, atol=1e-6) and not np.any(bonus)
    assert is_fixed == part.facts.fixed


def test_value_moves_with_a_constant(name):
    found = measured(name)
    np.testing.assert_allclose(found["shifted"][2], found["clean"][2] + 3.0, atol=1e-5)


@pytest.mark.parametrize("expansive", [Boltzmann(1.0), MirrorDescent(0.0, 1.0, False)])
def test_the_marked_ones_do_expand(expansive):
    """V = q e^q / (e^q + 1) on values (q, 0) has slope above 1 near q = 2.4 (its maximum 1.1)."""
    assert not expansive.facts.nonexpansive
    if isinstance(expansive, MirrorDescent):
        expansive = expansive.replace(log_reference=np.zeros(A, np.float32))
    q_values = np.float32([[2.4, 0.0], [2.5, 0.0], [5.0, 0.0], [5.0, 0.5]])
    value = batch(expansive, q_values)[2]
    exact = np.sum(softmax(q_values, axis=1) * q_values, axis=1)
    np.testing.assert_allclose(value, exact, rtol=1e-6)
    assert value[1] - value[0] > 0.1 * 1.05
    # Nor monotone: the lower value rises, V falls.
    assert value[3] < value[2]


@functools.cache
def without_mask():
    """Of every improvement, in one program; those of one class as a batch."""
    q_values, _ = cases()
    classes = {}
    for name, part in IMPROVEMENTS.items():
        classes.setdefault(type(part).__name__, {})[name] = part
    stacks = {
        kind: jax.tree.map(lambda *x: np.stack([np.float32(y) for y in x]), *parts.values())
        for kind, parts in classes.items()
    }

    @jax.jit
    def every(stacks, q_values):
        over_rows = lambda part: jax.vmap(part)(q_values)  # noqa: E731
        size = lambda kind: len(classes[kind])  # noqa: E731
        return {
            kind: jax.vmap(over_rows, axis_size=size(kind))(stack) for kind, stack in stacks.items()
        }

    found = jax.device_get(every(stacks, q_values))
    return {
        name: [x[i] for x in found[kind]]
        for kind, parts in classes.items()
        for i, name in enumerate(parts)
    }


@pytest.mark.slow
def test_a_mask_of_all_is_no_mask(name):
    masked, unmasked = measured(name)["every"], without_mask()[name]
    np.testing.assert_allclose(unmasked[0], masked[0], atol=1e-6)
    np.testing.assert_allclose(unmasked[1], masked[1], atol=1e-5)


def test_one_legal_action_takes_all(name):
    (q_values, only), (probs, bonus, value) = inputs()["only"], measured(name)["only"]
    np.testing.assert_array_equal(probs, only)
    np.testing.assert_allclose(bonus, 0.0, atol=1e-6)
    np.testing.assert_allclose(value, q_values[:, 2], atol=1e-6)


def test_no_legal_action_still_has_a_law(name):
    probs, bonus, value = measured(name)["none"]
    np.testing.assert_allclose(np.sum(probs, 1), 1.0, rtol=1e-6)
    assert np.all(probs >= 0) and np.all(bonus == 0)
    worth = np.sum(probs * np.where(probs > 0, cases()[0], 0.0), axis=1)
    np.testing.assert_allclose(value, worth, atol=1e-6)


def test_deterministic_improvements_select_their_action(name):
    q_values, mask = cases()
    probs, bonus, _ = measured(name)["clean"]
    if IMPROVEMENTS[name].facts.deterministic:
        index = jax.jit(jax.vmap(IMPROVEMENTS[name].select))(q_values, mask)
        np.testing.assert_array_equal(probs, np.eye(A)[np.asarray(index)])
        assert np.all(bonus == 0)
    else:  # a tie must be shared
        tied = measured(name)["tied"][0]
        several = np.sum(mask & (POLICY > 0), 1) > 1
        assert np.all((np.sum(tied > 0, 1) > 1)[several])


@pytest.mark.parametrize("name", REGULARISED)
def test_regularised_policies_are_the_gradient_of_their_value(name):
    by_values = measured_slopes(name)[0][1]
    np.testing.assert_allclose(by_values, measured(name)["clean"][0], atol=1e-5)


@pytest.mark.parametrize("name", ["expectile", "epsilon_greedy", "greedy", "fixed"])
def test_policies_without_bonus_are_the_gradient_too(name):
    by_values = measured_slopes(name)[0][1]
    np.testing.assert_allclose(by_values, measured(name)["clean"][0], atol=1e-6)


ROWS_OF_SETTINGS = [
    pytest.param(Tsallis(0.5, 2.0), marks=pytest.mark.slow),
    Tsallis(0.7, 1.4),
    Tsallis(0.7, 1.0),
    Tsallis(0.7, 0.5),
    Tsallis(2.0, 4.0),
    pytest.param(KLSoftmax(0.5, POLICY.astype(float)), marks=pytest.mark.slow),
    pytest.param(ExpectileMax(0.8), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("improvement", ROWS_OF_SETTINGS)
def test_gradients_in_the_settings_are_finite_differences(improvement):
    with jax.enable_x64(True):
        q_values, mask = cases()
        q_values = q_values.astype(float)
        by_settings = slopes(improvement, q_values, mask)[0]
        leaves, structure = jax.tree.flatten(improvement)
        for i, ours in enumerate(jax.tree.leaves(by_settings)):
            if ours.ndim > 1:
                continue

            def moved(step, i=i):
                changed = [x + step * (i == j) for j, x in enumerate(leaves)]
                return batch(jax.tree.unflatten(structure, changed), q_values, mask)[2]

            step = 1e-5
            reference = (moved(step) - moved(-step)) / (2 * step)
            np.testing.assert_allclose(ours, reference, atol=1e-6)


# ---- each against a program or formula of its own ----------------------------------------------


def test_greedy_takes_the_first_of_the_best_legal():
    q_values = np.float32([[9.0, 2.0, 5.0, 5.0]])
    probs, _, value = batch(Greedy(), q_values, np.array([[False, True, True, True]]))
    assert (probs.tolist(), value.tolist()) == ([[0, 0, 1, 0]], [5.0])


def test_epsilon_greedy_by_hand():
    """Legal 1, 3, with epsilon 0.5: 0.5 * 3 + 0.5 * (1 + 3) / 2 = 2.5."""
    q_values, mask = np.float32([[1.0, 9.0, 3.0]]), np.array([[True, False, True]])
    probs, _, value = batch(EpsilonGreedy(0.5), q_values, mask)
    assert probs.tolist() == [[0.25, 0.0, 0.75]]
    assert float(value[0]) == 2.5


def test_fixed_policy_shares_what_is_illegal_among_the_legal():
    """In proportion, 0.2 and 0.3 of 0.5; evenly where the legal have none; as given otherwise."""
    mask = np.array([[False, True, True, False, False], [False, False, False, True, False]])
    mask = np.concatenate([mask, np.ones((1, A), bool)])
    probs = batch(FixedPolicy(POLICY), np.zeros((3, A), np.float32), mask)[0]
    np.testing.assert_allclose(probs[0], [0, 0.4, 0.6, 0, 0], rtol=1e-6)
    np.testing.assert_array_equal(probs[1:], [[0, 0, 0, 1, 0], POLICY])


def masked(q_values, mask):
    return np.where(mask, np.asarray(q_values, float), -np.inf)


def test_log_sum_exps():
    q_values, mask = cases()
    q = masked(q_values, mask)
    num_legal = np.isfinite(q).sum(1)
    soft = 0.5 * logsumexp(q / 0.5, axis=1)
    np.testing.assert_allclose(measured("softmax")["clean"][2], soft, atol=2e-6)
    np.testing.assert_allclose(measured("softmax")["clean"][0], softmax(q / 0.5, axis=1), atol=1e-6)
    mellow = (logsumexp(3.0 * q, axis=1) - np.log(num_legal)) / 3.0
    np.testing.assert_allclose(measured("mellowmax")["clean"][2], mellow, atol=2e-6)
    reference = np.where(mask, POLICY.astype(float), 0.0)
    reference /= reference.sum(1, keepdims=True)
    near = 0.5 * logsumexp(q / 0.5, b=reference, axis=1)
    np.testing.assert_allclose(measured("kl_softmax")["clean"][2], near, atol=2e-6)
    boltzmann = np.sum(softmax(q / 0.5, axis=1) * np.where(mask, q, 0.0), axis=1)
    np.testing.assert_allclose(measured("boltzmann")["clean"][2], boltzmann, atol=2e-6)


@pytest.mark.filterwarnings("ignore:invalid value encountered in power")  # CVXPY's own points
def test_conic_programs_agree_with_the_policies():
    """<p, q> - penalty, maximised by CVXPY."""
    q = np.random.default_rng(0).normal(size=(3, A))
    reference = np.array([0.1, 0.2, 0.25, 0.15, 0.3])
    import cvxpy as cp  # here, for the second that it takes

    p = cp.Variable(A)
    rows = [
        (Tsallis(0.5, 2.0), -0.5 * (cp.sum_squares(p) - 1)),
        (Tsallis(0.8, 3.0), -0.8 * (cp.sum(cp.power(p, 3)) - 1) / 2),
        (Tsallis(0.8, 1.5), -0.8 * (cp.sum(cp.power(p, 1.5)) - 1) / 0.5),
        (Tsallis(0.8, 0.5), -0.8 * (cp.sum(cp.power(p, 0.5)) - 1) / -0.5),
        (Tsallis(0.8, 1.0), 0.8 * cp.sum(cp.entr(p))),
        (KLSoftmax(0.7, reference.astype(np.float32)), -0.7 * cp.sum(cp.rel_entr(p, reference))),
        (
            MirrorDescent(0.4, 0.2, log_reference=np.log(reference).astype(np.float32)),
            -0.4 * cp.sum(cp.rel_entr(p, reference)) + 0.2 * cp.sum(cp.entr(p)),
        ),
    ]
    for improvement, penalty in rows:
        probs, _, value = batch(improvement, q.astype(np.float32))
        for i in range(3):
            objective = p @ q[i] + penalty
            cp.Problem(cp.Maximize(objective), [cp.sum(p) == 1, p >= 0]).solve(solver=cp.CLARABEL)
            p.value = np.maximum(p.value, 0.0)  # a rounding below zero has no power of 1.5
            np.testing.assert_allclose(value[i], objective.value, atol=2e-5)
            np.testing.assert_allclose(probs[i], p.value, atol=2e-3)


@pytest.mark.parametrize("order", [0.3, 0.9999, 1.0, 1.0001, 1.5, 2.0, 3.0, 10.0])
def test_tsallis_meets_the_conditions_of_optimality(order):
    """At the maximum q - t (order p^(order - 1) - 1) / (order - 1) is one number on the support,
    and no less than q + t / (order - 1) off it."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        spread = np.repeat([1e-3, 0.3, 1.0, 30.0], 8)[:, None]
        q = rng.normal(size=(32, 40)) * spread
        probs = batch(Tsallis(0.7, order), q)[0]
        np.testing.assert_allclose(probs.sum(1), 1.0, rtol=1e-13)
        safe = np.where(probs > 0, probs, 1.0)
        if order == 1.0:
            pull = q - 0.7 * (np.log(safe) + 1.0)
        else:
            pull = q - 0.7 * (order * safe ** (order - 1) - 1.0) / (order - 1)
        inside = probs > 1e-200
        level = np.max(np.where(inside, pull, -np.inf), axis=1)
        low = np.min(np.where(inside, pull, np.inf), axis=1)
        np.testing.assert_allclose(low, level, rtol=1e-9, atol=1e-9 / min(1, abs(order - 1) or 1))
        if order > 1:
            outside = np.where(probs > 0, -np.inf, q + 0.7 / (order - 1))
            assert np.all(outside.max(1) <= level + 1e-9)
        if order > 1.2:
            assert np.any(probs == 0)


def test_sparsemax_is_the_projection_by_sorting():
    with jax.enable_x64(True):
        q = np.random.default_rng(2).normal(size=(32, 40)) * np.logspace(-3, 3, 32)[:, None]
        ours = batch(Tsallis(0.5, 2.0), q)[0]
        ranked = -np.sort(-q, axis=1)
        sums, count = np.cumsum(ranked, axis=1), np.arange(1, 41)
        size = np.sum(1 + count * ranked > sums, axis=1)
        threshold = (np.take_along_axis(sums, size[:, None] - 1, 1)[:, 0] - 1) / size
        reference = np.maximum(q - threshold[:, None], 0.0)
        np.testing.assert_allclose(ours, reference, atol=1e-12 * np.abs(q).max())


def test_tsallis_support_shrinks_with_the_order_and_the_cold():
    q_values = np.linspace(0.0, 1.0, A, dtype=np.float32)[None]

    def size(temperature, order):
        return int(np.sum(batch(Tsallis(temperature, order), q_values)[0] > 0))

    by_order = [size(0.3, order) for order in (1.0, 1.2, 2.0, 4.0)]
    by_temperature = [size(t, 2.0) for t in (2.0, 0.5, 0.2, 0.01)]
    # Of order 2 by hand: k actions while 1 + k q_k / t > sum of the first k, gaps 1/4.
    assert by_temperature == [5, 3, 2, 1]
    assert by_order == sorted(by_order, reverse=True) and by_order[0] == A > by_order[-1]


def test_expectile_solves_its_equation():
    q_values, mask = cases()
    for level in (0.5, 0.7, 0.9, 0.999):
        value = batch(ExpectileMax(level), q_values, mask)[2]
        for i in range(8):
            q = q_values[i][mask[i]].astype(float)

            def balance(v, q=q, level=level):
                return level * np.maximum(q - v, 0).sum() - (1 - level) * np.maximum(v - q, 0).sum()

            root = brentq(balance, q.min() - 1, q.max() + 1)
            np.testing.assert_allclose(value[i], root, atol=1e-5)


def test_limits():
    q_values, mask = cases()
    greedy = masked(q_values, mask).max(axis=1)
    soft = 0.5 * logsumexp(masked(q_values, mask) / 0.5, axis=1)
    mean = np.nanmean(np.where(mask, q_values, np.nan), axis=1)
    blank = np.zeros(A, np.float32)
    rows = [
        (Softmax(1e-4), greedy),
        (EpsilonGreedy(0.0), greedy),
        (Mellowmax(1e5), greedy),
        (Mellowmax(1e-7), mean),
        (ExpectileMax(1.0), greedy),
        (ExpectileMax(0.5), mean),
        (Boltzmann(1e-4), greedy),
        (KLSoftmax(1e-4, blank + 0.2), greedy),
        (KLSoftmax(1e5, blank + 0.2), mean),
        (MirrorDescent(0.0, 0.0, log_reference=blank), greedy),
        (MirrorDescent(0.0, 0.5, log_reference=blank), soft),
        (Tsallis(1e-4, 2.0), greedy),
        (Tsallis(0.5, 1.0), soft),
        (Tsallis(0.5, 1.0 + 1e-6), soft),
        (Tsallis(1.0, 1e4), greedy),
    ]
    for improvement, expected in rows:
        value = batch(improvement, q_values, mask)[2]
        np.testing.assert_allclose(value, expected, atol=3e-4, err_msg=str(improvement))
    np.testing.assert_allclose(batch(KLSoftmax(1.0, POLICY), 0 * q_values)[0][0], POLICY, atol=1e-6)


def test_a_reference_without_legal_actions_is_ignored():
    mask = np.array([[False, False, False, True, False]])
    probs, bonus, value = batch(KLSoftmax(1.0, POLICY), np.ones((1, A), np.float32), mask)
    assert (probs[0].tolist(), np.max(np.abs(bonus)), value[0]) == ([0, 0, 0, 1, 0], 0.0, 1.0)


@pytest.mark.parametrize("weights", [(0.4, 0.2), (0.4, 0.0), (0.0, 0.2), (0.0, 0.0)])
def test_mirror_descent_leaves_out_what_its_reference_never_takes(weights):
    """As if those actions were illegal; without weight on the reference, they are open again."""
    q_values, _ = cases()
    safe = np.log(np.where(POLICY > 0, POLICY, np.float32(1.0)))
    pulls = weights[0] > 0
    step = MirrorDescent(*weights, log_reference=np.where(POLICY > 0, safe, np.float32(-np.inf)))
    mask = np.tile(POLICY > 0 if pulls else np.ones(A, bool), (B, 1))
    plain = step.replace(log_reference=safe * np.float32(pulls))
    found = batch(step, q_values)
    for ours, expected in zip(found, batch(plain, q_values, mask), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5)
    every = np.ones((B, A), bool)
    by_values = slopes(step, q_values, every)[1]
    np.testing.assert_allclose(by_values, found[0], atol=1e-5)  # the gradient is the policy


def test_fixed_policy_gradient_in_its_probabilities_is_q():
    q_values, mask = np.arange(5, dtype=np.float32), np.array([True, True, True, False, True])
    given = np.tile(q_values, (B, 1)), np.tile(mask, (B, 1))
    by_probs = jax.tree.leaves(slopes(FixedPolicy(POLICY), *given)[0])[0]
    np.testing.assert_allclose(by_probs[0], np.where(mask, q_values, 0.0))


@jax.jit
def energies(step, order):
    """A function of the policy itself along a line, and its derivatives."""
    q_values, way = jnp.array([0.3, 0.1, 0.25, -2.0]), jnp.array([0.5, -1.0, 0.2, 0.3])

    def energy(step, order):
        return jnp.sum(Tsallis(1.0, order)(q_values + step * way)[0] ** 2)

    slope, by_order = jax.grad(energy), jax.grad(energy, 1)
    bend = jax.jvp(lambda s: slope(s, order), (step,), (1.0,))[1]
    return energy(step, order), slope(step, order), bend, by_order(step, order)


@pytest.mark.slow
def test_the_policy_itself_can_be_differentiated_twice():
    with jax.enable_x64(True):
        for order in (1.5, 2.0, 2.5, 1.0, 0.6):
            up, down = (energies(step, order) for step in (1e-5, -1e-5))
            _, slope, bend, by_order = energies(0.0, order)
            np.testing.assert_allclose(slope, (up[0] - down[0]) / 2e-5, rtol=1e-6)
            np.testing.assert_allclose(bend, (up[1] - down[1]) / 2e-5, rtol=1e-6)
            up, down = (energies(0.0, order + step) for step in (1e-5, -1e-5))
            np.testing.assert_allclose(by_order, (up[0] - down[0]) / 2e-5, rtol=1e-5, atol=1e-9)


def test_large_scales_stay_finite():
    """1e30 is the best by far: for those that are not told how to mix it is worth itself."""
    for name in IMPROVEMENTS:
        probs, _, value = measured(name)["large"]
        np.testing.assert_allclose(np.sum(probs, 1), 1.0, rtol=1e-6, err_msg=name)
        worth = np.sum(probs[0].astype(float) * LARGE[0].astype(float))
        np.testing.assert_allclose(value[0], worth, rtol=1e-6, err_msg=name)
        if name not in ("epsilon_greedy", "nearly_mean", "expectile", "fixed"):
            np.testing.assert_allclose(value[0], 1e30, rtol=1e-6, err_msg=name)


def test_mixture_improvement_is_the_best_law_found_by_search():
    """SciPy's SLSQP over the simplex finds nothing better than the regularised value."""
    q = np.array([0.3, -0.2, 0.9, 0.1])
    for improvement, penalty in [
        (Tsallis(0.6, 2.7), lambda p: 0.6 * (np.sum(p**2.7) - 1) / 1.7),
        (Mellowmax(2.0), lambda p: np.sum(p * np.log(4 * np.maximum(p, 1e-300))) / 2.0),
    ]:
        value = batch(improvement, q.astype(np.float32)[None])[2][0]
        found = minimize(
            lambda p, penalty=penalty: penalty(p) - p @ q,
            np.full(4, 0.25),
            bounds=[(0, 1)] * 4,
            constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
            options={"ftol": 1e-12},
        )
        np.testing.assert_allclose(value, -found.fun, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "setting", "value"),
    [
        (EpsilonGreedy, "epsilon", 1.1),
        (Softmax, "temperature", 0.0),
        (KLSoftmax, "temperature", -1.0),
        (Mellowmax, "omega", 0.0),
        (Tsallis, "order", 0.0),
        (ExpectileMax, "level", 0.3),
        (Boltzmann, "temperature", float("nan")),
        (MirrorDescent, "kl_weight", -0.1),
        (FixedPolicy, "probs", np.array([0.5, 0.4])),
    ],
)
def test_settings_out_of_range_are_refused(kind, setting, value):
    with pytest.raises(ValueError, match=setting):
        kind(**{setting: value})


def test_what_an_impossible_action_is_worth_stays_out_of_the_slope():
    """exp(100) is infinite, and no slope may be 0 times that."""
    reference = jnp.array([0.2, 0.8, 0.0])
    for mask, worth in ((None, 100.0), (jnp.array([True, True, False]), 0.0)):
        improvement = KLSoftmax(1.0, reference if mask is None else jnp.array([0.2, 0.8, 0.5]))
        q_values = jnp.array([worth - 100.0] * 2 + [100.0])
        slope = jax.jit(jax.grad(value_of, argnums=1))(improvement, q_values, mask)
        np.testing.assert_allclose(slope, reference, atol=1e-6)


@pytest.mark.parametrize(
    "kind",
    [
        Softmax,
        Tsallis,
        *(pytest.param(k, marks=pytest.mark.slow) for k in (KLSoftmax, Mellowmax, ExpectileMax)),
    ],
)
def test_settings_are_swept_without_retracing(kind):
    field = next(iter(kind.__dataclass_fields__))
    settings, (q_values, mask) = np.float32([0.6, 0.7, 0.9]), cases()
    reference = {"reference": np.full(A, 0.2, np.float32)} if kind is KLSoftmax else {}
    make = lambda x: kind(**{field: x}, **reference)  # noqa: E731
    singly = [batch(make(float(settings[0])), q_values, mask)[2]]
    before = _batch._cache_size()
    singly += [batch(make(float(x)), q_values, mask)[2] for x in settings[1:]]
    assert _batch._cache_size() == before
    rows = jax.vmap(value_of, (None, 0, 0))
    swept = jax.jit(jax.vmap(lambda x: rows(make(x), q_values, mask)))(settings)
    np.testing.assert_allclose(swept, singly, atol=1e-6)
