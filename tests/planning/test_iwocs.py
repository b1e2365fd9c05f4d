"""Worst-case search: equal to robust value iteration, from both sides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import BellmanOperator, outcome_mdp, stack_mdps, tabular_mdp
from jaxrl.functionals import CVaR, Entropic, PerPair, Scenarios, SharedL1, TotalVariation
from jaxrl.operators import Softmax
from jaxrl.planning import iwocs

TOLERANCE = 1e-8


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def random_mdp(seed):
    rng = np.random.default_rng(seed)
    mask = np.ones((4, 3), bool)
    mask[0, 0] = False
    shape = (4, 3, 3)
    return outcome_mdp(
        rng.dirichlet(np.ones(3), shape[:2]),
        rng.integers(4, size=shape),
        rng.normal(size=shape),
        0.9,
        terminal=rng.random(shape) < 0.1,
        mask=mask,
    )


WORST = BellmanOperator(successor_functional=TotalVariation(0.3))
NESTED = BellmanOperator(successor_functional=CVaR(0.4))


NUM_MODELS = 8
search = jax.jit(jax.vmap(lambda mdp: iwocs(mdp, WORST, tolerance=TOLERANCE, max_models=8)))


def outcomes(mdp, values):
    """What each outcome is worth, `[S, A, K]`, by NumPy."""
    return mdp.reward + 0.9 * (1.0 - mdp.terminal) * values[mdp.next_state]


def optimum(mdp, backup):
    """The fixed point of max over legal actions of `backup(values)[S, A]`, and its table."""
    values = np.zeros(4)
    for _ in range(260):  # 0.9^260 is 1e-12
        q_values = np.where(mdp.legal, backup(values), -np.inf)
        values = q_values.max(axis=1)
    return values, q_values


def least_mean(prob, worth, radius):
    """Over laws within `radius` in total variation: so much mass goes from the best outcomes to the
    worst one."""
    order = np.argsort(-worth, axis=-1)
    prob, worth = (np.take_along_axis(x, order, -1) for x in (prob, worth))
    before = np.cumsum(prob, axis=-1) - prob
    taken = np.clip(radius - before, 0.0, prob)
    return np.sum((prob - taken) * worth, axis=-1) + taken.sum(axis=-1) * worth[..., -1]


def cvar(prob, worth, level):
    """The mean of the worst outcomes of mass `level`."""
    order = np.argsort(worth, axis=-1)
    prob, worth = (np.take_along_axis(x, order, -1) for x in (prob, worth))
    before = np.cumsum(prob, axis=-1) - prob
    return np.sum(np.clip(level - before, 0.0, prob) * worth, axis=-1) / level


@pytest.fixture(scope="module")
def searched():
    """Eight models, what was found, and the robust optima."""
    with jax.enable_x64(True):
        mdps = [random_mdp(seed).replace(is_endless=False) for seed in range(NUM_MODELS)]
        mdps = [jax.tree.map(np.asarray, mdp) for mdp in mdps]
        found = jax.device_get(search(jax.tree.map(lambda *x: np.stack(x), *mdps)))
    robust = [optimum(m, lambda v, m=m: least_mean(m.prob, outcomes(m, v), 0.3)) for m in mdps]
    return mdps, found, robust


def test_it_finds_the_robust_optimum_in_a_few_static_solutions(searched):
    _, found, robust = searched
    assert np.all(found.converged)
    assert np.max(found.num_models) <= 5
    exact = np.stack([values for values, _ in robust])
    policies = np.stack([np.eye(3)[q_values.argmax(axis=1)] for _, q_values in robust])
    np.testing.assert_allclose(found.values, exact, atol=TOLERANCE)
    np.testing.assert_array_equal(found.policy, policies)
    assert np.all(np.abs(found.values - exact) <= found.error_bound[:, None] + 1e-11)
    upper, lower = found.upper_values, found.lower_values
    assert np.all(np.diff(upper, axis=1) <= 0), "the bound from above falls"
    assert np.all(upper >= exact[:, None] - TOLERANCE)
    assert np.all(lower <= exact[:, None] + TOLERANCE)
    assert np.max(upper[:, 0] - exact) > 0.1, "the nominal optimum is well above"


def test_the_models_found_are_laws_in_the_set_and_make_the_bound(searched):
    mdps, found, _ = searched
    for row, mdp in enumerate(mdps):
        kernels, count = found.kernels[row], found.num_models[row]
        np.testing.assert_array_equal(kernels[0], mdp.prob)
        np.testing.assert_array_equal(kernels[count:], 0.0)
        laws = kernels[:count]
        np.testing.assert_allclose(laws.sum(-1), 1.0, atol=1e-12)
        assert np.all(laws >= 0)
        moved = 0.5 * np.abs(laws - mdp.prob).sum(-1)
        assert np.all(moved <= WORST.successor_functional.radius + 1e-12)
        static = [
            optimum(mdp, lambda v, law=law, mdp=mdp: np.sum(law * outcomes(mdp, v), axis=-1))[1]
            for law in laws
        ]
        least = np.min(static, axis=0)
        np.testing.assert_allclose(found.q_values[row][mdp.legal], least[mdp.legal], atol=1e-8)


@pytest.mark.slow
def test_the_search_goes_on_where_the_published_one_stands_still():
    """Deterministic laws make ties of policies with the same worst model again and again."""
    rng = np.random.default_rng(1)
    corners = np.eye(4)

    def scenario():
        nominal = corners[rng.integers(4, size=(4, 3))]
        mdp = tabular_mdp(nominal, rng.normal(size=(4, 3)), 0.9)
        return mdp, nominal, corners[rng.integers(4, size=(4, 3, 2))]

    mdps, nominal, laws = zip(*[scenario() for _ in range(200)], strict=True)

    @jax.jit
    @jax.vmap
    def solve(mdp, kernels):
        operator = BellmanOperator(successor_functional=PerPair(Scenarios(kernels)))
        return iwocs(mdp, operator, tolerance=TOLERANCE, max_models=12)

    batch = jax.device_get(stack_mdps(mdps))
    found = jax.device_get(solve(batch, np.array(laws)))
    every = np.concatenate([np.array(nominal)[:, :, :, None], laws], axis=3)  # [M, S, A, 3, S]
    robust = np.zeros((200, 4))
    for _ in range(260):  # 0.9^260 is 1e-12
        least = np.min(np.einsum("msakt,mt->msak", every, robust), axis=-1)
        robust = np.max(np.sum(batch.prob * batch.reward, axis=-1) + 0.9 * least, axis=-1)
    assert np.all(found.converged)
    np.testing.assert_allclose(found.values, robust, atol=TOLERANCE)
    np.testing.assert_allclose(found.policy_values, robust, atol=TOLERANCE)


@pytest.mark.slow
def test_too_few_models_are_reported_with_bounds_that_hold():
    mdp = jax.device_get(random_mdp(0))
    exact, _ = optimum(mdp, lambda v: cvar(mdp.prob, outcomes(mdp, v), 0.4))
    with jax.enable_x64(False):
        found = iwocs(random_mdp(0), NESTED, tolerance=1e-2, max_models=1)
        assert found.values.dtype == jnp.float32
    assert not bool(found.converged)
    assert int(found.num_models) == 1
    assert np.all(found.policy_values <= exact + 1e-2)
    assert np.all(exact <= found.values + 1e-2)
    assert np.max(found.values - exact) <= float(found.error_bound)


@pytest.mark.parametrize(
    ("operator", "arguments", "message"),
    [
        (BellmanOperator(successor_functional=Entropic(1.0)), {}, "Entropic"),
        (BellmanOperator(successor_functional=SharedL1(0.1)), {}, "SharedL1"),
        (BellmanOperator(improvement=Softmax(1.0)), {}, "Greedy"),
        (NESTED, {"max_models": 0}, "max_models=0"),
        (NESTED, {"tolerance": -1.0}, "tolerance"),
    ],
)
def test_what_is_wrong_is_named(operator, arguments, message):
    with pytest.raises(ValueError, match=message):
        iwocs(random_mdp(0), operator, **arguments)
