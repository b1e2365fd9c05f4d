"""Gains against linear programs, stationary laws and eigenvalues; bounds that must hold."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from jaxrl import BellmanOperator, outcome_mdp, stack_mdps, tabular_mdp
from jaxrl.envs import cycle, riverswim
from jaxrl.functionals.ambiguity import TotalVariation
from jaxrl.functionals.deviation import MeanStd
from jaxrl.functionals.per_pair import PerPair
from jaxrl.functionals.risk import Entropic
from jaxrl.functionals.scenarios import Scenarios
from jaxrl.operators.composition import Mapped
from jaxrl.operators.improvement import FixedPolicy
from jaxrl.operators.per_state import PerState
from jaxrl.planning.average_reward import multichain_policy_iteration, relative_value_iteration
from jaxrl.planning.long_run import gain_and_bias

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def unichain(seed, num_states=4, num_actions=3):
    rng = np.random.default_rng(seed)
    transition = rng.dirichlet(np.ones(num_states), (num_states, num_actions))
    return tabular_mdp(transition, rng.normal(size=(num_states, num_actions)))


def multichain(seed):
    """Two closed cycles of different gain, a state that stays or leaves, and one that is left."""
    rng = np.random.default_rng(seed)
    transition = np.zeros((5, 2, 5))
    transition[0, :, 1] = transition[1, :, 0] = 1  # a cycle of two
    transition[2, :, 2] = 1
    transition[3, 0, 3], transition[3, 1] = 1, [0.5, 0, 0.5, 0, 0]
    transition[4, 0], transition[4, 1] = [0, 0.3, 0, 0.7, 0], [0, 0, 0.2, 0, 0.8]
    return tabular_mdp(transition, rng.normal(size=(5, 2)))


def optimal_gains(kernel, reward):
    """The least g with g >= P_a g and g + h >= r_a + P_a h for all a: the multichain program."""
    num_states, num_actions, _ = kernel.shape
    eye = np.repeat(np.eye(num_states)[:, None], num_actions, axis=1)
    leave = (kernel - eye).reshape(-1, num_states)
    above = np.concatenate([leave, np.zeros_like(leave)], axis=1)
    ahead = np.concatenate([-eye.reshape(-1, num_states), leave], axis=1)
    limits = np.concatenate([np.zeros(len(leave)), -reward.reshape(-1)])
    costs = np.concatenate([np.ones(num_states), np.zeros(num_states)])
    rows = np.concatenate([above, ahead])
    return linprog(costs, rows, limits, bounds=(None, None)).x[:num_states]


def stationary_gain(chain, reward):
    """Of a unichain policy, by the left null vector."""
    system = np.vstack([chain.T - np.eye(len(chain)), np.ones(len(chain))])
    law = np.linalg.lstsq(system, np.append(np.zeros(len(chain)), 1.0), rcond=None)[0]
    return law @ reward


def best_by_force(kernels, reward):
    """max over deterministic policies of the least gain over kernels `[M, S, A, S]`."""
    num_states, num_actions = reward.shape
    states, gains = np.arange(num_states), []
    for policy in itertools.product(range(num_actions), repeat=num_states):
        earned = reward[states, policy]
        gains.append(min(stationary_gain(k[states, policy], earned) for k in kernels))
    return max(gains)


def test_the_gain_is_the_programs_and_the_best_policys():
    mdps = [unichain(seed) for seed in range(4)]
    found = jax.vmap(lambda mdp: relative_value_iteration(mdp, tolerance=1e-10))(stack_mdps(mdps))
    assert bool(jnp.all(found.converged))
    for row, mdp in enumerate(mdps):
        kernel, reward = (np.asarray(x) for x in mdp.dense())
        exact = best_by_force(kernel[None], reward)
        np.testing.assert_allclose(optimal_gains(kernel, reward), exact, atol=1e-9)
        assert abs(found.gain[row] - exact) <= float(found.error_bound[row]) + 1e-13
        own = gain_and_bias(mdp, found.policy[row])
        np.testing.assert_allclose(own.gain, exact, atol=1e-9)
        # The relative values solve gain + h = T h, and are the bias less its value in state 0.
        ahead = reward + kernel @ np.asarray(found.values[row])
        np.testing.assert_allclose(
            ahead.max(1) - found.gain[row], found.values[row], atol=3 * found.residual[row] + 1e-12
        )
        bias = np.asarray(own.bias)
        np.testing.assert_allclose(found.values[row], bias - bias[0], atol=1e-7)
        np.testing.assert_allclose(
            jnp.max(found.q_values[row], axis=1), found.values[row], atol=1e-9
        )


@pytest.mark.parametrize("period", [2, 3, 5])
def test_periodic_chains_settle(period):
    mdp = cycle(period)
    found = relative_value_iteration(mdp, tolerance=1e-9)
    assert bool(found.converged)
    np.testing.assert_allclose(found.gain, 1 / period, atol=1e-9)
    # Undamped it turns in circles; the bounds stay true and apart.
    plain = relative_value_iteration(mdp, tolerance=1e-9, damping=0.0, max_iterations=200)
    assert not bool(plain.converged)
    assert abs(float(plain.gain) - 1 / period) <= float(plain.error_bound)


def test_riverswim():
    mdp = riverswim(6)
    kernel, reward = (np.asarray(x) for x in mdp.dense())
    found = relative_value_iteration(mdp, tolerance=1e-9)
    assert bool(found.converged)
    np.testing.assert_allclose(found.gain, best_by_force(kernel[None], reward), atol=1e-9)
    np.testing.assert_allclose(found.gain, optimal_gains(kernel, reward).mean(), atol=1e-8)
    exact = multichain_policy_iteration(mdp)
    assert bool(exact.converged)
    assert float(exact.error_bound) < 1e-9
    np.testing.assert_allclose(exact.gain, found.gain, atol=1e-9)
    with jax.enable_x64(False):
        single = relative_value_iteration(riverswim(6), tolerance=1e-4)
    assert bool(single.converged)
    assert abs(float(single.gain) - float(found.gain)) <= float(single.error_bound)


def test_the_bounds_hold_wherever_it_stops():
    mdp = unichain(0)
    exact = float(relative_value_iteration(mdp, tolerance=1e-12).gain)
    stops = jax.vmap(lambda n: relative_value_iteration(mdp, max_iterations=n))(jnp.arange(1, 12))
    bounds = np.asarray(stops.error_bound)
    assert np.all(np.abs(np.asarray(stops.gain) - exact) <= bounds)
    assert np.all(np.diff(bounds) < 1e-12), "they never part again"
    assert bounds[-1] < bounds[0] / 2


def test_ends_begin_anew():
    rng = np.random.default_rng(5)
    terminal = rng.random((3, 2, 3)) * (rng.random((3, 2, 3)) < 0.5)  # probabilities
    prob, next_state = rng.dirichlet(np.ones(3), (3, 2)), rng.integers(3, size=(3, 2, 3))
    reward, initial = rng.normal(size=(3, 2, 3)), rng.dirichlet(np.ones(3))
    mdp = outcome_mdp(prob, next_state, reward, initial=initial, terminal=terminal)
    kernel = np.zeros((3, 2, 3))
    for (s, a, k), p in np.ndenumerate(prob):
        kernel[s, a, next_state[s, a, k]] += p * (1 - terminal[s, a, k])
        kernel[s, a] += p * terminal[s, a, k] * initial
    expected = best_by_force(kernel[None], (prob * reward).sum(-1))
    np.testing.assert_allclose(relative_value_iteration(mdp).gain, expected, atol=1e-6)
    np.testing.assert_allclose(multichain_policy_iteration(mdp).gain, expected, atol=1e-9)


def test_the_robust_gain_is_the_worst_kernels():
    rng = np.random.default_rng(6)
    kernels = rng.dirichlet(np.ones(3), (2, 3, 2))  # two laws for each pair
    reward = rng.normal(size=(3, 2))
    operator = BellmanOperator(
        successor_functional=PerPair(Scenarios(jnp.asarray(kernels[1:].transpose(1, 2, 0, 3))))
    )
    found = relative_value_iteration(tabular_mdp(kernels[0], reward), operator, tolerance=1e-10)
    rows, columns = np.indices((3, 2))
    corners = [
        kernels[np.reshape(pick, (3, 2)), rows, columns]
        for pick in itertools.product((0, 1), repeat=6)
    ]
    assert bool(found.converged)
    np.testing.assert_allclose(found.gain, best_by_force(corners, reward), atol=1e-9)


def test_the_entropic_gain_is_a_growth_rate():
    rng = np.random.default_rng(7)
    transition, reward, aversion = rng.dirichlet(np.ones(4), 4), rng.normal(size=4), 0.8
    # E exp(-b total) grows by the greatest eigenvalue of diag(exp(-b r)) P each step.
    tilted = np.exp(-aversion * reward)[:, None] * transition
    rate = -np.log(np.max(np.abs(np.linalg.eigvals(tilted)))) / aversion
    operator = BellmanOperator(successor_functional=Entropic(aversion))
    mdp = tabular_mdp(transition[:, None], reward[:, None])
    found = relative_value_iteration(mdp, operator, tolerance=1e-9)
    np.testing.assert_allclose(found.gain, rate, atol=1e-9)


def test_a_fixed_policy_has_its_own_gain():
    mdp = unichain(1)
    policy = jnp.asarray(np.random.default_rng(1).dirichlet(np.ones(3), 4))
    operator = BellmanOperator(improvement=PerState(FixedPolicy(policy)))
    found = relative_value_iteration(mdp, operator, tolerance=1e-9)
    np.testing.assert_allclose(found.gain, gain_and_bias(mdp, policy).gain, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_multichain_gains_are_the_programs(seed):
    mdp = multichain(seed)
    kernel, reward = (np.asarray(x) for x in mdp.dense())
    expected = optimal_gains(kernel, reward)
    found = multichain_policy_iteration(mdp)
    assert bool(found.converged)
    np.testing.assert_allclose(found.gain, expected, atol=1e-8)
    assert np.ptp(expected) > 0.1
    assert np.isinf(found.error_bound)
    # Bounds on one common gain cannot close here, and say so.
    common = relative_value_iteration(mdp, max_iterations=500)
    assert not bool(common.converged)
    assert np.all(np.abs(expected - float(common.gain)) <= float(common.error_bound) + 1e-9)


@pytest.mark.parametrize("seed", range(2))
def test_gain_bias_and_matrices_of_a_multichain_policy(seed):
    mdp = multichain(seed)
    policy = np.random.default_rng(seed).dirichlet(np.ones(2), 5)
    kernel, reward = (np.asarray(x) for x in mdp.dense())
    chain, earned = np.einsum("sa,sat->st", policy, kernel), (policy * reward).sum(1)
    found = gain_and_bias(mdp, jnp.asarray(policy))
    # The limit over steps of even and odd length, both: its period is two.
    power = np.linalg.matrix_power(chain, 2**12)
    limit = (power + power @ chain) / 2
    np.testing.assert_allclose(found.limit, limit, atol=1e-10)
    deviation = np.linalg.inv(np.eye(5) - chain + limit) - limit
    np.testing.assert_allclose(found.deviation, deviation, atol=1e-9)
    np.testing.assert_array_equal(found.recurrent, [True, True, True, False, False])
    np.testing.assert_allclose(found.gain, limit @ earned, atol=1e-10)
    np.testing.assert_allclose(found.bias, deviation @ earned, atol=1e-9)
    # The discounted value is gain / (1 - discount) + bias, nearly.
    discount = 1 - 1e-6
    value = np.linalg.solve(np.eye(5) - discount * chain, earned)
    np.testing.assert_allclose(value - np.asarray(found.gain) * 1e6, found.bias, atol=1e-3)


def test_batches_and_single_precision():
    mdps = [multichain(seed) for seed in range(3)]
    batch = jax.vmap(multichain_policy_iteration)(stack_mdps(mdps))
    for row, mdp in enumerate(mdps):
        np.testing.assert_allclose(batch.gain[row], multichain_policy_iteration(mdp).gain)
    exact = np.asarray(batch.gain[0])
    with jax.enable_x64(False):
        single = multichain_policy_iteration(multichain(0))
        assert single.gain.dtype == jnp.float32
    np.testing.assert_allclose(single.gain, exact, atol=1e-5)


def test_derivatives_are_difference_quotients():
    mdp = unichain(2)

    def look(radius, reward):
        operator = BellmanOperator(successor_functional=TotalVariation(radius))
        found = relative_value_iteration(mdp.replace(reward=reward), operator, tolerance=1e-11)
        return jnp.stack([found.gain, found.values[2], found.q_values[1, 0]])

    look, rewards = jax.jit(look), mdp.outcome_rewards
    by_radius, by_reward = jax.jit(jax.jacrev(look, argnums=(0, 1)))(0.2, rewards)
    step = 1e-5
    ahead, behind = look(0.2 + step, rewards), look(0.2 - step, rewards)
    np.testing.assert_allclose(by_radius, (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-6)
    for index in [(0, 2, 0), (1, 2, 1), (2, 2, 3), (0, 1, 0)]:  # the last is not taken
        ahead = look(0.2, rewards.at[index].add(step))
        behind = look(0.2, rewards.at[index].add(-step))
        slope = np.asarray(ahead - behind) / (2 * step)
        np.testing.assert_allclose(by_reward[(slice(None), *index)], slope, atol=1e-6)
    assert np.all(np.abs(np.asarray(by_radius)[:1]) > 0.01)


def test_no_bounds_where_none_are_known():
    operator = BellmanOperator(successor_functional=MeanStd(0.5))  # not monotone
    found = relative_value_iteration(unichain(0), operator, max_iterations=50)
    assert np.isinf(found.error_bound)
    assert np.isfinite(found.gain)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"damping": 1.0}, "damping=1.0"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"max_iterations": 0}, "max_iterations=0"),
        ({"operator": BellmanOperator(composition=Mapped())}, "no average reward"),
    ],
)
def test_what_is_wrong_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        relative_value_iteration(cycle(2), **arguments)
    with pytest.raises(ValueError, match="policy"):
        gain_and_bias(cycle(2), np.full((2, 2), 0.7))
