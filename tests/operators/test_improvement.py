"""Contracts of every improvement, and the programs that they say they solve."""

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq, minimize
from scipy.special import logsumexp

from jaxrl.operators.improvement import (
    Boltzmann,
    EpsilonGreedy,
    ExpectileMax,
    FixedPolicy,
    Greedy,
)
from jaxrl.operators.regularised import KLSoftmax, Mellowmax, MirrorDescent, Softmax
from jaxrl.operators.tsallis import Tsallis

pytestmark = pytest.mark.usefixtures("quick_compilation")

B, A = 32, 5
POLICY = jnp.array([0.1, 0.2, 0.3, 0.0, 0.4])
IMPROVEMENTS = {
    "greedy": Greedy(),
    "epsilon_greedy": EpsilonGreedy(0.3),
    "softmax": Softmax(0.5),
    "cold_softmax": Softmax(1e-3),
    "kl_softmax": KLSoftmax(0.5, POLICY),
    "mellowmax": Mellowmax(3.0),
    "nearly_mean": Mellowmax(1e-6),
    "mirror_descent": MirrorDescent(0.4, 0.2, log_reference=jnp.log(POLICY + 0.1)),
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


@pytest.fixture(params=IMPROVEMENTS.values(), ids=IMPROVEMENTS.keys())
def improvement(request):
    return request.param


def value_of(improvement, q_values, mask):
    probs, bonus = improvement(q_values, mask)
    return jnp.sum(probs * (jnp.where(probs > 0, q_values, 0.0) + bonus))


@jax.jit
def batch(improvement, q_values, mask):
    probs, bonus = jax.vmap(improvement)(q_values, mask)
    return probs, bonus, jax.vmap(lambda q, m: value_of(improvement, q, m))(q_values, mask)


@jax.jit
def slopes(improvement, q_values, mask):
    """Of V in the values and in every setting, `[B, ...]`."""
    return jax.vmap(lambda q, m: jax.grad(value_of, (0, 1))(improvement, q, m))(q_values, mask)


@jax.jit
def without_mask(improvement, q_values):
    return jax.vmap(improvement)(q_values)


def cases():
    q_values = jax.random.normal(jax.random.key(0), (B, A))
    mask = jax.random.bernoulli(jax.random.key(1), 0.6, (B, A)).at[:, 2].set(True)
    return q_values, mask


def test_probabilities_are_a_law_on_the_legal_actions(improvement):
    q_values, mask = cases()
    clean = batch(improvement, q_values, mask)
    for held in (-jnp.inf, 1e30, jnp.nan):
        probs, bonus, value = batch(improvement, jnp.where(mask, q_values, held), mask)
        np.testing.assert_allclose(jnp.sum(probs, 1), 1.0, rtol=1e-6)
        assert jnp.all(probs >= 0) and jnp.all(jnp.where(mask, 0.0, probs) == 0)
        assert jnp.all(jnp.where(mask, 0.0, bonus) == 0)
        np.testing.assert_array_equal(value, clean[2])
        assert jnp.all(jnp.isfinite(bonus))


def test_illegal_values_give_no_nan_in_gradients(improvement):
    q_values, mask = cases()
    held = jnp.where(mask, q_values, -jnp.inf)
    by_settings, by_values = slopes(improvement, held, mask)
    assert jnp.all(jnp.where(mask, 0.0, by_values) == 0)
    assert all(jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves((by_settings, by_values)))


def test_a_value_of_minus_infinity_is_an_illegal_action(improvement):
    if isinstance(improvement, (EpsilonGreedy, FixedPolicy)):
        return  # they take it with positive probability, and are worth minus infinity
    q_values, mask = cases()
    held, all_legal = jnp.where(mask, q_values, -jnp.inf), jnp.ones((B, A), bool)
    value = batch(improvement, held, all_legal)[2]
    np.testing.assert_allclose(value, batch(improvement, q_values, mask)[2], atol=1e-6)


def test_value_is_monotone_and_nonexpansive(improvement):
    if not improvement.nonexpansive:
        return
    q_values, mask = cases()
    other = q_values + jax.random.normal(jax.random.key(2), (B, A))
    value, other_value = (batch(improvement, q, mask)[2] for q in (q_values, other))
    gap = jnp.max(jnp.abs(jnp.where(mask, q_values - other, 0.0)), axis=1)
    assert jnp.all(jnp.abs(value - other_value) <= gap + 1e-5)
    more = batch(improvement, jnp.maximum(q_values, other), mask)[2]
    assert jnp.all(more >= jnp.maximum(value, other_value) - 1e-5)


def test_value_moves_with_a_constant(improvement):
    q_values, mask = cases()
    value = batch(improvement, q_values, mask)[2]
    np.testing.assert_allclose(batch(improvement, q_values + 3.0, mask)[2], value + 3.0, atol=1e-5)


@pytest.mark.parametrize("expansive", [Boltzmann(1.0), MirrorDescent(0.0, 1.0, False)])
def test_the_marked_ones_do_expand(expansive):
    """V = q e^q / (e^q + 1) on values (q, 0) has slope above 1 near q = 2.4 (its maximum 1.1)."""
    assert not expansive.nonexpansive
    q_values = jnp.array([[2.4, 0.0], [2.5, 0.0]])
    value = batch(expansive, q_values, jnp.ones((2, 2), bool))[2]
    assert value[1] - value[0] > 0.1 * 1.05
    # Nor monotone: the lower value rises, V falls.
    value = batch(expansive, jnp.array([[5.0, 0.0], [5.0, 0.5]]), jnp.ones((2, 2), bool))[2]
    assert value[1] < value[0]


def test_a_mask_of_all_is_no_mask(improvement):
    q_values, _ = cases()
    unmasked = without_mask(improvement, q_values)
    masked = batch(improvement, q_values, jnp.ones((B, A), bool))
    np.testing.assert_allclose(unmasked[0], masked[0], atol=1e-6)
    np.testing.assert_allclose(unmasked[1], masked[1], atol=1e-5)


def test_one_legal_action_takes_all(improvement):
    q_values, _ = cases()
    only = jnp.arange(A) == 2
    probs, bonus, value = batch(improvement, q_values, jnp.tile(only, (B, 1)))
    np.testing.assert_array_equal(probs, jnp.tile(only, (B, 1)))
    np.testing.assert_allclose(bonus, 0.0, atol=1e-6)
    np.testing.assert_allclose(value, q_values[:, 2], atol=1e-6)


def test_no_legal_action_still_has_a_law(improvement):
    q_values, mask = cases()
    probs, bonus, value = batch(improvement, q_values, jnp.zeros_like(mask))
    np.testing.assert_allclose(jnp.sum(probs, 1), 1.0, rtol=1e-6)
    assert jnp.all(probs >= 0) and jnp.all(bonus == 0) and jnp.all(jnp.isfinite(value))


def test_deterministic_improvements_select_their_action(improvement):
    q_values, mask = cases()
    probs, bonus, _ = batch(improvement, q_values, mask)
    if improvement.deterministic:
        index = jax.vmap(improvement.select)(q_values, mask)
        np.testing.assert_array_equal(probs, jax.nn.one_hot(index, A))
        assert jnp.all(bonus == 0)
    else:  # a tie must be shared
        tied = batch(improvement, jnp.zeros((B, A)), mask)[0]
        several = jnp.sum(mask & (POLICY > 0), 1) > 1
        assert jnp.all(jnp.where(several, jnp.sum(tied > 0, 1) > 1, True))


@pytest.mark.parametrize("name", REGULARISED)
def test_regularised_policies_are_the_gradient_of_their_value(name):
    q_values, mask = cases()
    by_values = slopes(IMPROVEMENTS[name], q_values, mask)[1]
    np.testing.assert_allclose(by_values, batch(IMPROVEMENTS[name], q_values, mask)[0], atol=1e-5)


@pytest.mark.parametrize("name", ["expectile", "epsilon_greedy", "greedy", "fixed"])
def test_policies_without_bonus_are_the_gradient_too(name):
    q_values, mask = cases()
    by_values = slopes(IMPROVEMENTS[name], q_values, mask)[1]
    np.testing.assert_allclose(by_values, batch(IMPROVEMENTS[name], q_values, mask)[0], atol=1e-6)


def test_gradients_in_the_settings_are_finite_differences():
    with jax.enable_x64(True):
        q_values, mask = (jnp.asarray(np.asarray(x)) for x in cases())
        q_values = q_values.astype(float)
        for improvement in (
            KLSoftmax(0.5, POLICY.astype(float)),
            Tsallis(0.5, 2.0),
            Tsallis(0.7, 1.4),
            Tsallis(0.7, 1.0),
            Tsallis(0.7, 0.5),
            Tsallis(2.0, 4.0),
            ExpectileMax(0.8),
        ):
            by_settings = slopes(improvement, q_values, mask)[0]
            leaves, structure = jax.tree.flatten(improvement)
            for i, ours in enumerate(jax.tree.leaves(by_settings)):
                if ours.ndim > 1:
                    continue

                def moved(step, i=i, leaves=leaves, structure=structure):
                    changed = [x + step * (i == j) for j, x in enumerate(leaves)]
                    made = jax.tree.unflatten(structure, changed)
                    return np.asarray(batch(made, q_values, mask)[2])

                step = 1e-5
                reference = (moved(step) - moved(-step)) / (2 * step)
                np.testing.assert_allclose(ours, reference, atol=1e-6)


# ---- each against a program or formula of its own ----------------------------------------------


def test_greedy_takes_the_first_of_the_best_legal():
    q_values = jnp.array([9.0, 2.0, 5.0, 5.0])
    mask = jnp.array([False, True, True, True])
    assert int(Greedy().select(q_values, mask)) == 2


def test_epsilon_greedy_by_hand():
    """Legal 1, 3, with epsilon 0.5: 0.5 * 3 + 0.5 * (1 + 3) / 2 = 2.5."""
    q_values, mask = jnp.array([[1.0, 9.0, 3.0]]), jnp.array([[True, False, True]])
    probs, _, value = batch(EpsilonGreedy(0.5), q_values, mask)
    assert probs.tolist() == [[0.25, 0.0, 0.75]]
    assert float(value[0]) == 2.5


def masked(q_values, mask):
    return np.where(np.asarray(mask), np.asarray(q_values, float), -np.inf)


def test_log_sum_exps():
    q_values, mask = cases()
    q = masked(q_values, mask)
    num_legal = np.isfinite(q).sum(1)
    soft = 0.5 * logsumexp(q / 0.5, axis=1)
    np.testing.assert_allclose(batch(Softmax(0.5), q_values, mask)[2], soft, atol=1e-5)
    mellow = (logsumexp(3.0 * q, axis=1) - np.log(num_legal)) / 3.0
    np.testing.assert_allclose(batch(Mellowmax(3.0), q_values, mask)[2], mellow, atol=1e-5)
    reference = np.where(np.asarray(mask), np.asarray(POLICY, float), 0.0)
    reference /= reference.sum(1, keepdims=True)
    near = 0.5 * logsumexp(q / 0.5, b=reference, axis=1)
    np.testing.assert_allclose(batch(KLSoftmax(0.5, POLICY), q_values, mask)[2], near, atol=1e-5)


@pytest.mark.filterwarnings("ignore:invalid value encountered in power")  # CVXPY's own points
def test_conic_programs_agree_with_the_policies():
    """<p, q> - penalty, maximised by CVXPY."""
    q = np.random.default_rng(0).normal(size=(3, A))
    reference = np.array([0.1, 0.2, 0.25, 0.15, 0.3])
    mask = jnp.ones((3, A), bool)
    p = cp.Variable(A)
    rows = [
        (Tsallis(0.5, 2.0), -0.5 * (cp.sum_squares(p) - 1)),
        (Tsallis(0.8, 3.0), -0.8 * (cp.sum(cp.power(p, 3)) - 1) / 2),
        (Tsallis(0.8, 1.5), -0.8 * (cp.sum(cp.power(p, 1.5)) - 1) / 0.5),
        (Tsallis(0.8, 0.5), -0.8 * (cp.sum(cp.power(p, 0.5)) - 1) / -0.5),
        (Tsallis(0.8, 1.0), 0.8 * cp.sum(cp.entr(p))),
        (KLSoftmax(0.7, jnp.array(reference)), -0.7 * cp.sum(cp.rel_entr(p, reference))),
        (
            MirrorDescent(0.4, 0.2, log_reference=jnp.log(jnp.array(reference))),
            -0.4 * cp.sum(cp.rel_entr(p, reference)) + 0.2 * cp.sum(cp.entr(p)),
        ),
    ]
    for improvement, penalty in rows:
        probs, _, value = batch(improvement, jnp.asarray(q, jnp.float32), mask)
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
        q_values = jnp.asarray(rng.normal(size=(32, 40)) * spread)
        probs = batch(Tsallis(0.7, order), q_values, jnp.ones((32, 40), bool))[0]
        probs, q = np.asarray(probs), np.asarray(q_values)
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
        q = np.random.default_rng(2).normal(size=(50, 300)) * np.logspace(-3, 3, 50)[:, None]
        ours = batch(Tsallis(0.5, 2.0), jnp.asarray(q), jnp.ones(q.shape, bool))[0]
        ranked = -np.sort(-q, axis=1)
        sums, count = np.cumsum(ranked, axis=1), np.arange(1, 301)
        size = np.sum(1 + count * ranked > sums, axis=1)
        threshold = (np.take_along_axis(sums, size[:, None] - 1, 1)[:, 0] - 1) / size
        reference = np.maximum(q - threshold[:, None], 0.0)
        np.testing.assert_allclose(ours, reference, atol=1e-12 * np.abs(q).max())


def test_tsallis_support_shrinks_with_the_order_and_the_cold():
    q_values = jnp.broadcast_to(jnp.linspace(0.0, 1.0, 9), (1, 9))
    mask = jnp.ones((1, 9), bool)

    def size(temperature, order):
        return int(jnp.sum(batch(Tsallis(temperature, order), q_values, mask)[0] > 0))

    by_order = [size(0.5, order) for order in (1.0, 1.2, 2.0, 4.0)]
    by_temperature = [size(t, 2.0) for t in (2.0, 0.5, 0.1, 0.01)]
    assert by_order == sorted(by_order, reverse=True) and by_order[0] == 9 > by_order[-1]
    assert by_temperature == sorted(by_temperature, reverse=True)
    assert by_temperature[-1] == 1


def test_expectile_solves_its_equation():
    q_values, mask = cases()
    for level in (0.5, 0.7, 0.9, 0.999):
        value = batch(ExpectileMax(level), q_values, mask)[2]
        for i in range(8):
            q = np.asarray(q_values, float)[i][np.asarray(mask)[i]]

            def balance(v, q=q, level=level):
                return level * np.maximum(q - v, 0).sum() - (1 - level) * np.maximum(v - q, 0).sum()

            root = brentq(balance, q.min() - 1, q.max() + 1)
            np.testing.assert_allclose(value[i], root, atol=1e-5)


def test_limits():
    q_values, mask = cases()
    greedy = batch(Greedy(), q_values, mask)[2]
    soft = batch(Softmax(0.5), q_values, mask)
    mean = np.nanmean(np.where(np.asarray(mask), np.asarray(q_values), np.nan), axis=1)
    rows = [
        (Softmax(1e-4), greedy),
        (EpsilonGreedy(0.0), greedy),
        (Mellowmax(1e5), greedy),
        (Mellowmax(1e-7), mean),
        (ExpectileMax(1.0), greedy),
        (ExpectileMax(0.5), mean),
        (Boltzmann(1e-4), greedy),
        (KLSoftmax(1e-4), greedy),
        (KLSoftmax(1e5), mean),
        (MirrorDescent(0.0, 0.0), greedy),
        (MirrorDescent(0.0, 0.5), soft[2]),
        (Tsallis(1e-4, 2.0), greedy),
        (Tsallis(0.5, 1.0), soft[2]),
        (Tsallis(0.5, 1.0 + 1e-6), soft[2]),
        (Tsallis(1.0, 1e4), greedy),
    ]
    for improvement, expected in rows:
        value = batch(improvement, q_values, mask)[2]
        np.testing.assert_allclose(value, expected, atol=3e-4, err_msg=str(improvement))
    np.testing.assert_allclose(
        batch(KLSoftmax(1.0, POLICY), 0 * q_values, jnp.ones_like(mask))[0][0], POLICY, atol=1e-6
    )


def test_a_reference_without_legal_actions_is_ignored():
    mask = jnp.array([[False, False, False, True, False]])
    probs, bonus, _ = batch(KLSoftmax(1.0, POLICY), jnp.ones((1, A)), mask)
    assert (probs[0].tolist(), float(jnp.max(jnp.abs(bonus)))) == ([0, 0, 0, 1, 0], 0.0)


@pytest.mark.parametrize("weights", [(0.4, 0.2), (0.4, 0.0), (0.0, 0.2), (0.0, 0.0)])
def test_mirror_descent_leaves_out_what_its_reference_never_takes(weights):
    """As if those actions were illegal; without weight on the reference, they are open again."""
    q_values, _ = cases()
    step = MirrorDescent(*weights, log_reference=jnp.log(POLICY))
    pulls = weights[0] > 0
    mask = jnp.tile(POLICY > 0 if pulls else jnp.ones(A, bool), (B, 1))
    plain = step.replace(log_reference=jnp.log(jnp.where(POLICY > 0, POLICY, 1.0)) * pulls)
    found = batch(step, q_values, jnp.ones((B, A), bool))
    for ours, expected in zip(found, batch(plain, q_values, mask), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5)
    assert all(jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(slopes(step, q_values, mask)[1]))


def test_fixed_policy_gradient_in_its_probabilities_is_q():
    q_values, mask = jnp.arange(5.0), jnp.array([True, True, True, False, True])
    slope = jax.grad(lambda p: value_of(FixedPolicy(p), q_values, mask))(POLICY)
    np.testing.assert_allclose(slope, jnp.where(mask, q_values, 0.0))


@jax.jit
def energies(step, order):
    """A function of the policy itself along a line, and its derivatives."""
    q_values, way = jnp.array([0.3, 0.1, 0.25, -2.0]), jnp.array([0.5, -1.0, 0.2, 0.3])

    def energy(step, order):
        return jnp.sum(Tsallis(1.0, order)(q_values + step * way)[0] ** 2)

    slope, by_order = jax.grad(energy), jax.grad(energy, 1)
    bend = jax.jvp(lambda s: slope(s, order), (step,), (1.0,))[1]
    return energy(step, order), slope(step, order), bend, by_order(step, order)


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
    q_values = jnp.tile(jnp.array([1e30, -1e30, 0.0, 1e29, 3.0]), (B, 1))
    for name, improvement in IMPROVEMENTS.items():
        probs, _, value = batch(improvement, q_values, jnp.ones((B, A), bool))
        assert jnp.all(jnp.isfinite(probs)) and jnp.isfinite(value[0]), name


def test_mixture_improvement_is_the_best_law_found_by_search():
    """SciPy's SLSQP over the simplex finds nothing better than the regularised value."""
    q = np.array([0.3, -0.2, 0.9, 0.1])
    mask = jnp.ones((1, 4), bool)
    for improvement, penalty in [
        (Tsallis(0.6, 2.7), lambda p: 0.6 * (np.sum(p**2.7) - 1) / 1.7),
        (Mellowmax(2.0), lambda p: np.sum(p * np.log(4 * np.maximum(p, 1e-300))) / 2.0),
    ]:
        value = float(batch(improvement, jnp.asarray(q, jnp.float32)[None], mask)[2][0])
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
        (FixedPolicy, "probs", jnp.array([0.5, 0.4])),
    ],
)
def test_settings_out_of_range_are_refused(kind, setting, value):
    with pytest.raises(ValueError, match=setting):
        kind(**{setting: value})


@pytest.mark.parametrize("kind", [Softmax, KLSoftmax, Mellowmax, Tsallis, ExpectileMax])
def test_settings_are_swept_without_retracing(kind):
    field = next(iter(kind.__dataclass_fields__))
    q_values, mask = cases()
    before = batch._cache_size()
    for value in (0.6, 0.7, 0.8):
        batch(kind(**{field: jnp.asarray(value)}), q_values, mask)
    assert batch._cache_size() <= before + 1
    several = jax.vmap(lambda x: batch(kind(**{field: x}), q_values, mask)[2])
    assert several(jnp.array([0.6, 0.9])).shape == (2, B)
