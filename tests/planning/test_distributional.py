"""Distributional planners: means are the scalar planner's, laws are the enumerated ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import wasserstein_distance

from jaxrl import BellmanOperator, outcome_mdp, planning, stack_mdps
from jaxrl.functionals import CVaR, Entropic, PerPair
from jaxrl.operators import (
    Categorical,
    EnergyAtoms,
    EpsilonGreedy,
    Expectiles,
    Gaussian,
    MaxForm,
    MinForm,
    Quantile,
    Scalar,
    Softmax,
)
from jaxrl.planning import (
    categorical_fixed_point,
    distributional_policy_evaluation,
    distributional_value_iteration,
    return_law,
)

S, A, K = 4, 2, 3
GRID = Categorical(-6.0, 6.0, num_atoms=25)


def kind(value):
    return type(value).__name__


def random_mdp(seed, discount=0.8, mask=True):
    rng = np.random.default_rng(seed)
    shape = (S, A, K)
    legal = np.ones((S, A), bool)
    legal[1, 0] = not mask
    return outcome_mdp(
        rng.dirichlet(np.ones(K), (S, A)),
        rng.integers(S, size=shape),
        rng.uniform(-1, 1, shape),
        discount,
        terminal=rng.random(shape) < 0.2,
        mask=legal,
    )


@jax.jit
def scalar_values(mdp, operator):
    """A thousand plain sweeps."""
    once = lambda _, values: planning.backups.backup(mdp, operator, values)[0]  # noqa: E731
    return jax.lax.fori_loop(0, 1000, once, jnp.zeros((S,), mdp.prob.dtype))


OPERATORS = [
    BellmanOperator(),
    BellmanOperator(successor_functional=CVaR(0.4)),
    BellmanOperator(improvement=Softmax(0.3), successor_functional=Entropic(0.7)),
    BellmanOperator(
        improvement=EpsilonGreedy(0.2),
        successor_functional=PerPair(CVaR(np.linspace(0.2, 1.0, S * A).reshape(S, A))),
    ),
]


@pytest.mark.parametrize(
    ("head", "operators"),
    [
        pytest.param(Scalar(), OPERATORS[:1], marks=pytest.mark.slow),
        pytest.param(GRID, OPERATORS[3:], marks=pytest.mark.slow),
        pytest.param(Gaussian(), OPERATORS[1:2], marks=pytest.mark.slow),
        pytest.param(Expectiles(5), OPERATORS[:1], marks=pytest.mark.slow),
        pytest.param(GRID, OPERATORS[2:3], marks=pytest.mark.slow),
    ],
    ids=kind,
)
def test_means_are_the_scalar_fixed_point(head, operators):
    """For heads that keep the mean, whatever the operator; the bound covers the difference."""
    with jax.enable_x64(True):
        mdp = random_mdp(0)
        for operator in operators:
            found = distributional_value_iteration(mdp, operator.replace(head=head), tolerance=1e-8)
            exact = scalar_values(mdp, operator)
            assert found.converged and found.residual <= 1e-8
            # Gaussian laws reach the mean by a few atoms, expectiles by imputation.
            np.testing.assert_allclose(found.values, exact, atol=1e-6)
            assert jnp.max(jnp.abs(found.values - exact)) <= found.error_bound < 1e-4


@functools.cache
def plain_optimum():
    """Of the first model, by policy iteration in NumPy."""
    mdp = random_mdp(0)
    prob, reward, following = (np.asarray(x) for x in (mdp.prob, mdp.reward, mdp.next_state))
    going_on = 0.8 * (1.0 - np.asarray(mdp.terminal))
    rows, policy = np.arange(S), np.argmax(np.asarray(mdp.legal), axis=1)
    for _ in range(20):
        weights = prob[rows, policy] * going_on[rows, policy]
        chain = np.einsum("sk,skt->st", weights, np.eye(S)[following[rows, policy]])
        earned = np.sum(prob * reward, axis=-1)
        values = np.linalg.solve(np.eye(S) - chain, earned[rows, policy])
        q_values = earned + np.sum(prob * going_on * values[following], axis=-1)
        policy = np.where(np.asarray(mdp.legal), q_values, -np.inf).argmax(axis=1)
    return values


@pytest.mark.slow
@pytest.mark.parametrize(
    "head", [Quantile(8), pytest.param(EnergyAtoms(8), marks=pytest.mark.slow)], ids=kind
)
def test_a_head_that_loses_the_mean_gets_an_honest_bound(head):
    found = jax.device_get(distributional_value_iteration(random_mdp(0), BellmanOperator(head)))
    gap = np.max(np.abs(found.values - plain_optimum()))
    assert 1e-4 < gap <= found.error_bound < 2.0
    assert found.converged
    # A sweep in NumPy: of each pair, the mid-quantiles of the mixture over its outcomes.
    if isinstance(head, Quantile):
        mdp = jax.device_get(random_mdp(0))
        best = np.where(mdp.legal, found.params.mean(axis=-1), -np.inf).argmax(axis=1)
        after = found.params[np.arange(S), best]  # [S, 8]
        going_on = 0.8 * ~mdp.terminal[..., None]
        atoms = mdp.reward[..., None] + going_on * after[mdp.next_state]
        for s, a in np.argwhere(mdp.legal):
            weights = np.repeat(mdp.prob[s, a].astype(float) / 8, 8)
            levels = (2 * np.arange(8) + 1) / 16
            mid = np.quantile(atoms[s, a].ravel(), levels, weights=weights, method="inverted_cdf")
            np.testing.assert_allclose(found.params[s, a], mid, atol=1e-5)


@pytest.mark.slow
def test_no_certificate_without_a_contraction():
    mdp = random_mdp(0)
    careful = BellmanOperator(Quantile(8), return_functional=CVaR(0.2))
    least = BellmanOperator(Quantile(8), composition=MinForm())
    for operator in (careful, least):
        assert jnp.isinf(distributional_value_iteration(mdp, operator).error_bound)
    endless = outcome_mdp([[[1.0]]], [[[0]]], [[[1.0]]], 1.0)
    undiscounted = distributional_value_iteration(endless, BellmanOperator(), max_iterations=3)
    assert jnp.isinf(undiscounted.error_bound) and not undiscounted.converged
    assert undiscounted.num_iterations == 3


@pytest.mark.slow
def test_quantiles_approach_the_law_of_the_return():
    """Two hundred quantiles against all returns of twelve steps, in 1-Wasserstein distance."""
    mdp = random_mdp(1, discount=0.5)
    policy = np.array([[0.3, 0.7], [0.0, 1.0], [1.0, 0.0], [0.5, 0.5]])
    exact = return_law(mdp, policy, horizon=12, initial_state=2, num_atoms=2048)
    assert exact.error_bound < 5e-3
    found = distributional_policy_evaluation(mdp, policy, BellmanOperator(Quantile(200)))
    far = wasserstein_distance(found.params[2, 0], exact.law.atoms, None, exact.law.probs)
    assert far < 0.02
    np.testing.assert_array_equal(found.policy, policy.astype(np.float32))


# ---- categorical -----------------------------------------------------------------------------


def cramer(head, ours, theirs):
    """The greatest Cramér distance over pairs, of logits `[S, A, K]`."""
    cumulative = [np.cumsum(softmax(np.asarray(x), axis=-1), axis=-1) for x in (ours, theirs)]
    spacing = (head.high - head.low) / (head.num_atoms - 1)
    return np.sqrt(spacing * np.sum((cumulative[0] - cumulative[1]) ** 2, axis=-1)).max()


@pytest.mark.slow
def test_the_categorical_operator_contracts_by_the_root_of_the_discount():
    """One sweep of a policy, from pairs of random laws, far apart and near."""
    mdp, operator = random_mdp(2, discount=0.6, mask=False), BellmanOperator(GRID)
    policy = np.full((S, A), 0.5, np.float32)
    rng = np.random.default_rng(0)
    tables = 4.0 * rng.normal(size=(8, 2, S, A, GRID.num_atoms)).astype(np.float32)

    @jax.jit
    @jax.vmap
    def once(params):
        found = distributional_policy_evaluation(
            mdp, policy, operator, max_iterations=1, params=params
        )
        return found.params

    swept = np.asarray(once(tables.reshape(16, S, A, -1))).reshape(tables.shape)
    ratios = [cramer(GRID, *swept[i]) / cramer(GRID, *tables[i]) for i in range(8)]
    assert 0.0 < max(ratios) <= np.sqrt(0.6) + 1e-5


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_linear_solve_is_the_limit_of_the_sweeps(seed):
    with jax.enable_x64(True):
        mdp, policy = random_mdp(seed), np.array([[0.3, 0.7], [0.0, 1.0], [1.0, 0.0], [0.5, 0.5]])
        head = Categorical(-2.0, 1.5, num_atoms=15)  # returns leave the grid at both ends
        solved = categorical_fixed_point(mdp, policy, head)
        swept = distributional_policy_evaluation(
            mdp, policy, BellmanOperator(head), tolerance=1e-13
        )
        assert solved.converged
        probs = [softmax(np.asarray(x.params), axis=-1) for x in (solved, swept)]
        np.testing.assert_allclose(*probs, atol=1e-11)
        np.testing.assert_allclose(solved.values, swept.values, atol=1e-11)


@pytest.mark.slow
def test_the_linear_solve_of_episodes_that_end_without_a_discount():
    """A coin thrown until heads, reward 1 a throw, on the grid 0 to 4: mass beyond goes to 4."""
    mdp = outcome_mdp([[[0.5, 0.5]]], [[[0, 0]]], [[1.0]], 1.0, terminal=[[[True, False]]])
    found = categorical_fixed_point(mdp, [[1.0]], Categorical(0.0, 4.0, num_atoms=5))
    np.testing.assert_allclose(
        softmax(np.asarray(found.params)[0, 0]), [0, 1 / 2, 1 / 4, 1 / 8, 1 / 8], atol=1e-6
    )


# ---- min-form returns ------------------------------------------------------------------------


def enumerated_extreme(mdp, policy, horizon, reduce):
    """The expected least (greatest) reward of an episode, over every path of `horizon` steps."""
    prob, successor, reward, ends = map(
        np.asarray, (mdp.prob, mdp.next_state, mdp.reward, mdp.terminal)
    )

    def ahead(t, s, extreme):
        total = 0.0
        for a in np.flatnonzero(policy[s]):
            for k in range(K):
                held = reward[s, a, k] if extreme is None else reduce(extreme, reward[s, a, k])
                end = ends[s, a, k] or t + 1 == horizon
                later = held if end else ahead(t + 1, successor[s, a, k], held)
                total += policy[s, a] * prob[s, a, k] * later
        return total

    return np.array([ahead(0, s, None) for s in range(S)])


@pytest.mark.slow
@pytest.mark.parametrize(("composition", "reduce"), [(MinForm(), min), (MaxForm(), max)], ids=kind)
def test_extreme_returns_through_the_law(composition, reduce):
    """States 0 to 3 in a row with rewards on a grid; the mean alone gets it wrong."""
    rng = np.random.default_rng(0)
    successor = np.minimum(np.arange(S)[:, None, None] + 1, S - 1)
    mdp = outcome_mdp(
        rng.dirichlet(np.ones(K), (S, A)),
        np.broadcast_to(successor, (S, A, K)),
        rng.integers(1, 9, (S, A, K)) / 4.0,
        1.0,
        terminal=np.broadcast_to((np.arange(S) == S - 1)[:, None, None], (S, A, K)),
    )
    policy = rng.dirichlet(np.ones(A), S)
    operator = BellmanOperator(Categorical(0.0, 2.25, num_atoms=10), composition=composition)
    found = distributional_policy_evaluation(mdp, policy, operator, max_iterations=S + 1)
    exact = enumerated_extreme(mdp, policy, S, reduce)
    np.testing.assert_allclose(found.values, exact, atol=1e-5)
    assert found.converged

    values = np.zeros(S)  # the scalar recursion, to see that the law was needed
    for s in reversed(range(S)):
        after = values[min(s + 1, S - 1)]
        rest = mdp.reward[s] if s == S - 1 else np.vectorize(reduce)(mdp.reward[s], after)
        values[s] = np.sum(policy[s][:, None] * np.asarray(mdp.prob[s]) * rest)
    assert abs(values[0] - exact[0]) > 1e-3
    with pytest.raises(ValueError, match="stores a mean only"):
        distributional_policy_evaluation(mdp, policy, operator.replace(head=Scalar()))


# ---- machinery -------------------------------------------------------------------------------


@pytest.mark.slow
def test_vmap_over_models_and_settings():
    mdps = [random_mdp(seed) for seed in range(2)]
    levels = jnp.array([0.2, 1.0])
    operator = BellmanOperator(Quantile(6))
    call = lambda mdp, f: distributional_value_iteration(  # noqa: E731
        mdp, operator.replace(successor_functional=f), tolerance=1e-3
    )
    together = jax.jit(jax.vmap(call))(stack_mdps(mdps), CVaR(levels))
    for i in range(2):
        alone = call(mdps[i], CVaR(float(levels[i])))
        np.testing.assert_allclose(together.params[i], alone.params, atol=2e-5)
        assert together.num_iterations[i] == alone.num_iterations


@pytest.mark.slow  # compiles everything anew
def test_sweeping_states_in_blocks_changes_nothing(monkeypatch):
    mdp, operator = random_mdp(0), BellmanOperator(GRID, successor_functional=Entropic(0.5))
    whole = distributional_value_iteration(mdp, operator)
    monkeypatch.setattr("jaxrl.planning.distributional.LARGEST_BLOCK", 1)
    jax.clear_caches()
    np.testing.assert_allclose(
        distributional_value_iteration(mdp, operator).params, whole.params, atol=1e-4
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tolerance": 0.0}, "tolerance=0.0"),
        ({"max_iterations": 0}, "max_iterations=0"),
        ({"params": np.zeros((S, A))}, r"shape \[4, 2, 25\]; got \[4, 2\]"),
        ({"policy": np.full((S, A), 0.5)}, "illegal action"),
        ({"policy": np.full((S, A), 0.4)}, "summing to one"),
        ({"policy": np.zeros(S)}, r"shape \[4, 2\]"),
        ("a batch", "jax.vmap"),
    ],
    ids=str,
)
def test_bad_arguments(change, message):
    if change == "a batch":
        change = {"mdp": jax.tree.map(lambda x: np.asarray(x)[None], random_mdp(0))}
    call = distributional_value_iteration
    if "policy" in change:
        call = distributional_policy_evaluation
    arguments = {"mdp": random_mdp(0), "operator": BellmanOperator(GRID)} | change
    with pytest.raises(ValueError, match=message):
        call(**arguments)
