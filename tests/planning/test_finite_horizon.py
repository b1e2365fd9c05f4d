"""Backward induction against every time-dependent policy of tiny models, and against quantecon."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import BellmanOperator, outcome_mdp, stack_mdps, tabular_mdp
from jaxrl.functionals import CVaR, PerPair, Scenarios, SharedL1
from jaxrl.operators import MinForm, Quantile, Softmax
from jaxrl.planning import finite_horizon, value_iteration

H = 3


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def random_mdp(seed, discount=0.9, num_states=2, num_actions=2):
    """Sparse, with ends, a fractional end and an action that is not legal."""
    rng = np.random.default_rng(seed)
    shape = (num_states, num_actions, 2)
    mask = np.ones(shape[:2], bool)
    mask[0, 1] = False
    terminal = (rng.random(shape) < 0.3) * 1.0
    terminal[-1, -1, 0] = 0.4
    return outcome_mdp(
        rng.dirichlet(np.ones(2), shape[:2]),
        rng.integers(num_states, size=shape),
        rng.normal(size=shape),
        discount,
        terminal=terminal,
        mask=mask,
    )


def roll_back(mdp, terminal_values, policies, kernels=None):
    """Values at time 0 of deterministic policies, one for each time; `kernels` likewise."""
    prob, reward, after = (np.asarray(x) for x in (mdp.prob, mdp.reward, mdp.terminal))
    states, values = np.arange(prob.shape[0]), np.asarray(terminal_values)
    for time in reversed(range(len(policies))):
        law = prob if kernels is None else kernels[time]
        outcomes = reward + float(mdp.discount) * (1 - after) * values[np.asarray(mdp.next_state)]
        values = (law * outcomes).sum(-1)[states, policies[time]]
    return values


def all_policies(mdp, horizon):
    legal = [np.flatnonzero(row) for row in np.asarray(mdp.legal)]
    return itertools.product(map(list, itertools.product(*legal)), repeat=horizon)


def stack(mdps):
    return jax.tree.map(lambda *x: np.stack(x), *mdps)


def end_of(seed):
    return np.random.default_rng(seed).normal(size=2)


@functools.cache
def solved():
    """Three models from the values of `end_of`, then from zero."""
    mdps = [random_mdp(seed, discount=1.0 if seed == 0 else 0.9) for seed in range(3)] * 2
    ends = np.stack([*map(end_of, range(3)), *np.zeros((3, 2))])
    call = lambda mdp, end: finite_horizon(mdp, horizon=H, terminal_values=end)  # noqa: E731
    return jax.device_get(jax.jit(jax.vmap(call))(stack(mdps), ends))


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_best_of_all_time_dependent_policies(seed):
    mdp = random_mdp(seed, discount=1.0 if seed == 0 else 0.9)
    for row, end in ((seed, end_of(seed)), (3 + seed, np.zeros(2))):
        found = jax.tree.map(lambda x, row=row: x[row], solved())
        each = np.array([roll_back(mdp, end, policies) for policies in all_policies(mdp, H)])
        np.testing.assert_allclose(found.values[0], each.max(axis=0), rtol=1e-12)
        own = roll_back(mdp, end, np.argmax(found.policy, axis=2))
        np.testing.assert_allclose(own, found.values[0], rtol=1e-12)
        np.testing.assert_array_equal(found.values[-1], end)
        assert np.all(found.q_values[:, ~np.asarray(mdp.legal)] == -np.inf)
        np.testing.assert_allclose(found.q_values.max(axis=2), found.values[:-1], rtol=1e-12)


@pytest.mark.slow
def test_it_is_quantecons_backward_induction():
    from quantecon.markov import DiscreteDP, backward_induction  # compiles for seconds

    rng = np.random.default_rng(0)
    transition, reward = rng.dirichlet(np.ones(5), (5, 3)), rng.normal(size=(5, 3))
    end = rng.normal(size=5)
    reference, actions = backward_induction(DiscreteDP(reward, transition, 0.8), 6, end)
    mdp = tabular_mdp(transition, reward, 0.8)
    found = finite_horizon(mdp, horizon=6, terminal_values=end)
    np.testing.assert_allclose(found.values, reference, rtol=1e-12)
    np.testing.assert_array_equal(np.argmax(found.policy, axis=2), actions)


def test_the_robust_one_is_the_game_over_all_sequences_of_laws():
    mdp, horizon = random_mdp(1), 2
    rng = np.random.default_rng(2)
    laws = rng.dirichlet(np.ones(2), (2, 2, 1))  # a second law for each pair, beside the nominal
    operator = BellmanOperator(successor_functional=PerPair(Scenarios(laws)))
    found = finite_horizon(mdp, operator, horizon=horizon)
    picks = np.array(list(itertools.product((0, 1), repeat=4 * horizon))).reshape(-1, horizon, 2, 2)
    choices = np.stack([np.asarray(mdp.prob), laws[:, :, 0]])  # [2, S, A, K]
    rows, columns = np.indices((2, 2))
    kernels = [[choices[pick, rows, columns] for pick in sequence] for sequence in picks]
    worst = [
        np.min([roll_back(mdp, np.zeros(2), policies, kernel) for kernel in kernels], axis=0)
        for policies in all_policies(mdp, horizon)
    ]
    np.testing.assert_allclose(found.values[0], np.max(worst, axis=0), rtol=1e-12)
    nominal = [roll_back(mdp, np.zeros(2), policies) for policies in all_policies(mdp, horizon)]
    assert np.all(found.values[0] <= np.max(nominal, axis=0) + 1e-12)


OPERATORS = {
    "soft": BellmanOperator(improvement=Softmax(0.3)),
    "nested CVaR": BellmanOperator(successor_functional=CVaR(0.4)),
    "shared budget": BellmanOperator(successor_functional=SharedL1(1.0)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATORS)
def test_a_long_horizon_meets_the_discounted_fixed_point(name):
    rng = np.random.default_rng(3)
    mdp = tabular_mdp(rng.dirichlet(np.ones(3), (3, 2)), rng.normal(size=(3, 2, 3)), 0.5)
    found = finite_horizon(mdp, OPERATORS[name], horizon=60)
    fixed = value_iteration(mdp, OPERATORS[name], tolerance=1e-10)
    np.testing.assert_allclose(found.values[0], fixed.values, atol=2e-10)
    np.testing.assert_allclose(jnp.sum(found.policy, axis=2), 1.0, rtol=1e-12)
    if name == "shared budget":  # nature sees the policy, which is random then
        assert float(jnp.max(jnp.min(found.policy[0], axis=1))) > 0.01


@pytest.mark.slow
def test_jit_vmap_and_single_precision_agree():
    mdps = [random_mdp(seed) for seed in range(3)]
    batch = jax.vmap(lambda mdp: finite_horizon(mdp, horizon=H))(stack_mdps(mdps))
    for row, mdp in enumerate(mdps):
        np.testing.assert_allclose(batch.values[row], finite_horizon(mdp, horizon=H).values)
    levels = jnp.array([0.2, 1.0])

    def solve(level):
        operator = BellmanOperator(successor_functional=CVaR(level))
        return finite_horizon(mdps[0], operator, horizon=H).values[0]

    swept = jax.jit(jax.vmap(solve))(levels)
    np.testing.assert_allclose(swept[1], finite_horizon(mdps[0], horizon=H).values[0])
    exact = np.asarray(batch.values[0])
    with jax.enable_x64(False):
        single = finite_horizon(random_mdp(0), horizon=H).values
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, exact, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_derivative_in_the_reward_is_a_difference_quotient():
    mdp = random_mdp(1)

    def total(reward):
        return finite_horizon(mdp.replace(reward=reward), horizon=H).values[0, 0]

    slope, step = jax.grad(total)(mdp.reward), 1e-6
    for index in [(0, 0, 0), (1, 0, 1), (1, 1, 0)]:
        ahead = total(mdp.reward.at[index].add(step)) - total(mdp.reward.at[index].add(-step))
        np.testing.assert_allclose(slope[index], ahead / (2 * step), atol=1e-8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"horizon": 0}, "horizon=0"),
        ({"horizon": 2.0}, "must be an int"),
        ({"horizon": 2, "terminal_values": np.zeros(3)}, "terminal_values"),
        ({"horizon": 2, "operator": BellmanOperator(composition=MinForm())}, "MinForm"),
        ({"horizon": 2, "operator": BellmanOperator(Quantile(4))}, "Quantile"),
    ],
)
def test_what_is_wrong_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        finite_horizon(random_mdp(0), **arguments)


def test_a_batch_of_models_is_refused():
    with pytest.raises(ValueError, match="vmap"):
        finite_horizon(stack([random_mdp(0)] * 2), horizon=H)
