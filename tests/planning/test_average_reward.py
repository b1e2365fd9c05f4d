"""Gains against linear programs, stationary laws and eigenvalues; bounds that must hold."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from jaxrl import BellmanOperator, outcome_mdp, tabular_mdp
from jaxrl.envs import cycle, riverswim
from jaxrl.functionals import Entropic, MeanStd, PerPair, Scenarios, TotalVariation
from jaxrl.operators import FixedPolicy, Mapped, PerState
from jaxrl.planning import gain_and_bias, multichain_policy_iteration, relative_value_iteration


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


S, A = 5, 2  # of all models but the smallest, so that programs are shared


def unichain(seed):
    rng = np.random.default_rng(seed)
    transition = rng.dirichlet(np.ones(S), (S, A))
    return tabular_mdp(transition, rng.normal(size=(S, A)))


def multichain(seed):
    """Two closed cycles of different gain, a state that stays or leaves, and one that is left."""
    rng = np.random.default_rng(seed)
    transition = np.zeros((5, 2, 5))
    transition[0, :, 1] = transition[1, :, 0] = 1  # a cycle of two
    transition[2, :, 2] = 1
    transition[3, 0, 3], transition[3, 1] = 1, [0.5, 0, 0.5, 0, 0]
    transition[4, 0], transition[4, 1] = [0, 0.3, 0, 0.7, 0], [0, 0, 0.2, 0, 0.8]
    return tabular_mdp(transition, rng.normal(size=(5, 2)))


def cycle_of(period):
    """As `cycle`, with the states that are left over leading to its first."""
    transition, reward = np.zeros((S, A, S)), np.zeros((S, A))
    for state in range(S):
        transition[state, :, (state + 1) % period if state < period else 0] = 1
    reward[0, 1] = 1.0
    return tabular_mdp(transition, reward)


def stack(mdps):
    return jax.tree.map(lambda *x: np.stack(x), *mdps)


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, 0, 0))
def gains(mdp, max_iterations, damping):
    return relative_value_iteration(
        mdp, tolerance=1e-10, max_iterations=max_iterations, damping=damping
    )


PERIODS = (2, 3, 5)


@functools.cache
def solved():
    """Unichain models, cycles with and without damping, riverswim, multichain models and stops of
    the first model: all by one program. Name -> solution."""
    rows = {("unichain", seed): (unichain(seed), 100_000, 0.5) for seed in range(4)}
    for period in PERIODS:
        rows["cycle", period] = cycle_of(period), 100_000, 0.5
        rows["plain", period] = cycle_of(period), 200, 0.0
    rows["riverswim", 0] = tabular_mdp(*tables(riverswim(S))), 100_000, 0.5
    for seed in range(3):
        rows["multichain", seed] = multichain(seed), 500, 0.5
    for stop in range(1, 12):
        rows["stop", stop] = unichain(0), stop, 0.5
    mdps, stops, dampings = zip(*rows.values(), strict=True)
    found = jax.device_get(gains(stack(mdps), np.array(stops), np.array(dampings)))
    each = [jax.tree.map(lambda x, i=i: x[i], found) for i in range(len(rows))]
    return dict(zip(rows, each, strict=True))


def tables(mdp):
    """`P[S, A, S]` and `r[S, A]`, by NumPy, of a model that never ends."""
    kernel = np.zeros((mdp.num_states, mdp.num_actions, mdp.num_states))
    for (s, a, k), prob in np.ndenumerate(np.asarray(mdp.prob)):
        kernel[s, a, mdp.next_state[s, a, k]] += prob
    prob, reward = np.asarray(mdp.prob), np.asarray(mdp.reward)
    return kernel, (prob * reward).sum(-1)


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


@pytest.mark.parametrize("seed", range(4))
def test_the_gain_is_the_programs_and_the_best_policys(seed):
    mdp, found = unichain(seed), solved()["unichain", seed]
    assert bool(found.converged)
    kernel, reward = tables(mdp)
    exact = best_by_force(kernel[None], reward)
    np.testing.assert_allclose(optimal_gains(kernel, reward), exact, atol=1e-9)
    assert abs(found.gain - exact) <= float(found.error_bound) + 1e-13
    own = jax.device_get(gain_and_bias(mdp, found.policy))
    np.testing.assert_allclose(own.gain, exact, atol=1e-9)
    # The relative values solve gain + h = T h, and are the bias less its value in state 0.
    ahead = reward + kernel @ found.values
    np.testing.assert_allclose(
        ahead.max(1) - found.gain, found.values, atol=3 * found.residual + 1e-12
    )
    np.testing.assert_allclose(found.values, own.bias - own.bias[0], atol=1e-7)
    np.testing.assert_allclose(np.max(found.q_values, axis=1), found.values, atol=1e-9)


@pytest.mark.parametrize("period", PERIODS)
def test_periodic_chains_settle(period):
    found, plain = solved()["cycle", period], solved()["plain", period]
    assert bool(found.converged)
    np.testing.assert_allclose(found.gain, 1 / period, atol=1e-9)
    # Undamped it turns in circles; the bounds stay true and apart.
    assert not bool(plain.converged)
    assert abs(float(plain.gain) - 1 / period) <= float(plain.error_bound)


@pytest.mark.slow
def test_riverswim():
    kernel, reward = tables(riverswim(S))
    found = solved()["riverswim", 0]
    assert bool(found.converged)
    np.testing.assert_allclose(found.gain, best_by_force(kernel[None], reward), atol=1e-9)
    np.testing.assert_allclose(found.gain, optimal_gains(kernel, reward).mean(), atol=1e-8)
    exact = multichain_policies()["riverswim"]
    assert bool(exact.converged)
    assert float(exact.error_bound) < 1e-9
    np.testing.assert_allclose(exact.gain, found.gain, atol=1e-9)


@pytest.mark.slow
def test_riverswim_in_single_precision():
    kernel, reward = tables(riverswim(6))
    with jax.enable_x64(False):
        single = relative_value_iteration(riverswim(6), tolerance=1e-4)
    assert bool(single.converged)
    off = abs(float(single.gain) - best_by_force(kernel[None], reward))
    assert off <= float(single.error_bound)


def test_the_bounds_hold_wherever_it_stops():
    exact = best_by_force(tables(unichain(0))[0][None], tables(unichain(0))[1])
    stops = [solved()["stop", stop] for stop in range(1, 12)]
    bounds = np.array([found.error_bound for found in stops])
    assert np.all(np.abs([found.gain - exact for found in stops]) <= bounds)
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
    found = relative_value_iteration(mdp)
    np.testing.assert_allclose(found.gain, expected, atol=1e-6)
    assert abs(float(found.gain) - expected) <= float(found.error_bound) <= 1e-6
    np.testing.assert_allclose(multichain_policy_iteration(mdp).gain, expected, atol=1e-9)


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_fixed_policy_has_its_own_gain():
    mdp = unichain(1)
    policy = jnp.asarray(np.random.default_rng(1).dirichlet(np.ones(A), S))
    operator = BellmanOperator(improvement=PerState(FixedPolicy(policy)))
    found = relative_value_iteration(mdp, operator, tolerance=1e-9)
    np.testing.assert_allclose(found.gain, gain_and_bias(mdp, policy).gain, atol=1e-9)


@functools.cache
def multichain_policies():
    """Three multichain models and riverswim, by one program."""
    names = [0, 1, 2, "riverswim"]
    mdps = [
        tabular_mdp(*tables(riverswim(S))) if n == "riverswim" else multichain(n) for n in names
    ]
    found = jax.device_get(jax.jit(jax.vmap(multichain_policy_iteration))(stack(mdps)))
    return {n: jax.tree.map(lambda x, i=i: x[i], found) for i, n in enumerate(names)}


@pytest.mark.parametrize("seed", range(3))
def test_multichain_gains_are_the_programs(seed):
    expected = optimal_gains(*tables(multichain(seed)))
    found = multichain_policies()[seed]
    assert bool(found.converged)
    np.testing.assert_allclose(found.gain, expected, atol=1e-8)
    assert np.ptp(expected) > 0.1
    assert np.isinf(found.error_bound)
    # Bounds on one common gain cannot close here, and say so.
    common = solved()["multichain", seed]
    assert not bool(common.converged)
    assert np.all(np.abs(expected - float(common.gain)) <= float(common.error_bound) + 1e-9)


@pytest.mark.parametrize("seed", range(2))
def test_gain_bias_and_matrices_of_a_multichain_policy(seed):
    mdp = multichain(seed)
    policy = np.random.default_rng(seed).dirichlet(np.ones(2), 5)
    kernel, reward = tables(mdp)
    chain, earned = np.einsum("sa,sat->st", policy, kernel), (policy * reward).sum(1)
    found = jax.device_get(gain_and_bias(mdp, policy))
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
    np.testing.assert_allclose(value - found.gain * 1e6, found.bias, atol=1e-3)


@pytest.mark.slow
def test_batches_and_single_precision():
    for row in range(3):
        alone = multichain_policy_iteration(multichain(row))
        np.testing.assert_allclose(multichain_policies()[row].gain, alone.gain)
    exact = multichain_policies()[0].gain
    with jax.enable_x64(False):
        single = multichain_policy_iteration(multichain(0))
        assert single.gain.dtype == jnp.float32
    np.testing.assert_allclose(single.gain, exact, atol=1e-5)


@pytest.mark.slow
def test_the_derivative_of_the_gain_in_a_reward_is_the_time_spent_there():
    """And that of the relative values is the deviation matrix, less its first row."""
    mdp = unichain(2)

    def look(reward):
        found = relative_value_iteration(mdp.replace(reward=reward), tolerance=1e-11)
        return found.gain, found.values, found.policy

    pull = jax.jit(jax.jacrev(look))
    by_gain, by_values, _ = jax.device_get(pull(np.asarray(mdp.reward)))
    policy = solved()["unichain", 2].policy
    own = jax.device_get(gain_and_bias(mdp, policy))
    np.testing.assert_allclose(by_gain[..., 0], own.limit[0][:, None] * policy, atol=1e-9)
    relative = (own.deviation - own.deviation[0])[:, :, None] * policy
    np.testing.assert_allclose(by_values[..., 0], relative, atol=1e-7)


@pytest.mark.slow
def test_derivatives_are_difference_quotients():
    mdp = unichain(2)

    def look(radius, reward):
        operator = BellmanOperator(successor_functional=TotalVariation(radius))
        found = relative_value_iteration(mdp.replace(reward=reward), operator, tolerance=1e-11)
        return jnp.stack([found.gain, found.values[2], found.q_values[1, 0]])

    look, rewards = jax.jit(look), np.array(mdp.outcome_rewards)
    by_radius, by_reward = jax.device_get(jax.jit(jax.jacrev(look, argnums=(0, 1)))(0.2, rewards))
    step = 1e-5
    ahead, behind = (np.asarray(look(0.2 + s, rewards)) for s in (step, -step))
    np.testing.assert_allclose(by_radius, (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-6)
    policy = np.asarray(solved()["unichain", 2].policy)
    indices = [(0, np.argmax(policy[0]), 0), (1, np.argmax(policy[1]), 1)]
    for index in [*indices, (2, np.argmax(policy[2]), 3), (0, np.argmin(policy[0]), 0)]:
        moved = []
        for s in (step, -step):
            changed = rewards.copy()
            changed[index] += s
            moved.append(np.asarray(look(0.2, changed)))
        slope = (moved[0] - moved[1]) / (2 * step)
        np.testing.assert_allclose(by_reward[(slice(None), *index)], slope, atol=1e-6)
    assert np.all(np.abs(by_radius[:1]) > 0.01)


@pytest.mark.slow
def test_no_bounds_where_none_are_known():
    """The functional is not monotone: no bound; of one action, the gain solves g + h = T h."""
    transition = np.random.default_rng(0).dirichlet(np.ones(S), (S, A))
    transition[:, 1], reward = transition[:, 0], np.random.default_rng(1).normal(size=(S, 1))
    operator = BellmanOperator(successor_functional=MeanStd(0.5))
    mdp = tabular_mdp(transition, np.repeat(reward, A, 1))
    found = jax.device_get(relative_value_iteration(mdp, operator, tolerance=1e-10))
    assert np.isinf(found.error_bound)
    h, law = found.values, transition[:, 0]
    mean = law @ h
    std = np.sqrt(np.sum(law * (h - mean[:, None]) ** 2, axis=1))
    np.testing.assert_allclose(found.gain + h, reward[:, 0] + mean - 0.5 * std, atol=1e-8)


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
