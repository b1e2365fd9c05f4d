"""Occupancies, and constrained MDPs against the linear program over them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from jaxrl import outcome_mdp, tabular_mdp
from jaxrl.envs import cycle
from jaxrl.planning import constrained, occupancy, occupancy_policy, optimistic_ascent_descent


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def random_mdp(seed, discount=0.9, num_states=4, num_actions=3):
    """Sparse, with ends, a fractional end, and an action that is not legal."""
    rng = np.random.default_rng(seed)
    shape = (num_states, num_actions, 2)
    mask = np.ones(shape[:2], bool)
    mask[1, 2] = False
    terminal = (rng.random(shape) < 0.15) * 1.0
    terminal[:, :, 1] += 0.1
    return outcome_mdp(
        rng.dirichlet(np.ones(2), shape[:2]),
        rng.integers(num_states, size=shape),
        rng.normal(size=shape),
        discount,
        initial=rng.dirichlet(np.ones(num_states)),
        terminal=np.minimum(terminal, 1.0),
        mask=mask,
    )


def random_policy(mdp, seed):
    weights = np.random.default_rng(seed).exponential(size=mdp.legal.shape) * np.asarray(mdp.legal)
    return weights / weights.sum(axis=1, keepdims=True)


def tables(mdp):
    """`P[S, A, S]`, less what ends, and `r[S, A]`, by NumPy."""
    prob, reward = np.asarray(mdp.prob), np.asarray(mdp.reward)
    kernel = np.zeros((*mdp.legal.shape, mdp.num_states))
    for (s, a, k), share in np.ndenumerate(prob * (1.0 - np.asarray(mdp.terminal))):
        kernel[s, a, mdp.next_state[s, a, k]] += share
    return kernel, (prob * reward).sum(-1)


def program(mdp, costs, limits):
    """Optimum over occupancies by SciPy: value and multipliers, or None when out of reach."""
    kernel, reward = tables(mdp)
    num_states, num_actions, _ = kernel.shape
    inflow = float(mdp.discount) * kernel.reshape(-1, num_states).T
    outflow = np.repeat(np.eye(num_states), num_actions, axis=1)
    bounds = [(0, None if legal else 0) for legal in np.asarray(mdp.legal).ravel()]
    found = linprog(
        -reward.ravel(),
        costs.reshape(len(costs), -1),
        limits,
        outflow - inflow,
        np.asarray(mdp.initial),
        bounds,
    )
    return (-found.fun, -found.ineqlin.marginals) if found.success else None


@pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
def test_an_occupancy_flows_and_pays(discount):
    mdp = random_mdp(0, discount)
    policy = random_policy(mdp, 0)
    measure = np.asarray(occupancy(mdp, policy))
    kernel, reward = tables(mdp)
    arrives = np.asarray(mdp.initial) + discount * np.einsum("sa,sat->t", measure, kernel)
    np.testing.assert_allclose(measure.sum(1), arrives, atol=1e-12)
    chain, earned = np.einsum("sa,sat->st", policy, kernel), (policy * reward).sum(1)
    # The sum over time, step by step.
    law, value = np.asarray(mdp.initial), 0.0
    for time in range(3000):
        value += discount**time * law @ earned
        law = law @ chain
    np.testing.assert_allclose((measure * reward).sum(), value, atol=1e-10)
    np.testing.assert_allclose(jax.jit(occupancy_policy)(mdp, measure), policy, atol=1e-12)


@functools.cache
def occupancy_slopes():
    """Of the expected return in each reward; the discount is traced."""

    def worth(reward, mdp, policy):
        model = mdp.replace(reward=reward)
        return jnp.sum(occupancy(model, policy) * model.dense()[1])

    return jax.jit(jax.grad(worth))


@pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
def test_the_slope_of_the_return_in_a_reward_is_the_occupancy(discount):
    mdp = jax.device_get(random_mdp(0, discount))
    policy = random_policy(mdp, 0)
    slope = np.asarray(occupancy_slopes()(mdp.reward, mdp, policy))
    measure = np.asarray(occupancy(mdp, policy))
    np.testing.assert_allclose(slope, measure[..., None] * mdp.prob, atol=1e-12)


def test_an_occupancy_sums_to_the_time_there_is():
    mdp = random_mdp(0)
    endless = mdp.replace(terminal=np.zeros(mdp.prob.shape))
    np.testing.assert_allclose(np.sum(occupancy(endless, random_policy(mdp, 0))), 10.0, rtol=1e-12)
    with pytest.raises(ValueError, match="infinite"):
        occupancy(cycle(3, discount=1.0), np.full((3, 2), 0.5))
    with pytest.raises(ValueError, match="summing to one"):
        occupancy(mdp, np.full((4, 3), 0.6))
    with pytest.raises(ValueError, match="shape"):
        occupancy(mdp, np.ones(3))
    illegal = random_mdp(0)
    with pytest.raises(ValueError, match="state 1, action 2"):
        occupancy(illegal, np.full((4, 3), 1 / 3))


SOLVE = jax.jit(jax.vmap(lambda mdp, c, d: constrained(mdp, c, d, tolerance=1e-9)))
NUM = 8


@functools.cache
def bound_problems(num_costs):
    """Eight models with limits that some policy keeps with little to spare, so that they bind; then
    the first one with limits that do not bind, with limits out of reach, and with the reward that
    is the first of those costs, negated."""
    rng = np.random.default_rng(num_costs)
    mdps = [jax.device_get(random_mdp(seed)) for seed in range(NUM)]
    costs = rng.exponential(size=(NUM, num_costs, 4, 3)) * 10.0 ** rng.integers(
        -2, 3, (NUM, num_costs, 1, 1)
    )
    limits = np.empty((NUM, num_costs))
    for row, mdp in enumerate(mdps):
        measure = np.asarray(occupancy(mdp, random_policy(mdp, row)))
        limits[row] = (costs[row] * measure).sum((1, 2)) * (0.95 if row % 2 else 1.0)
    far = np.ones((num_costs, 4, 3))
    far[0] = np.random.default_rng(0).uniform(1, 2, (4, 3))
    paid = np.broadcast_to(-far[0, :, :, None], (4, 3, 2))
    mdps += [mdps[0], mdps[0], mdps[0].replace(reward=paid)]
    wide, narrow = np.full(num_costs, 1e3), np.full(num_costs, 1e3)
    narrow[0] = 0.5
    costs = np.concatenate([costs, np.stack([far] * 3)])
    limits = np.concatenate([limits, [wide, narrow, wide]])
    stacked = jax.tree.map(lambda *x: np.stack(x), *mdps)
    return mdps, costs, limits, jax.device_get(SOLVE(stacked, costs, limits))


@pytest.mark.parametrize(
    "num_costs",
    [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)],
)
def test_a_constrained_optimum_is_the_programs(num_costs):
    mdps, costs, limits, found = bound_problems(num_costs)
    num_random = 0
    for row, mdp in enumerate(mdps[:NUM]):
        reference = program(mdp, costs[row], limits[row])
        if reference is None:
            assert not bool(found.converged[row])
            assert float(found.violation[row]) > 1e-6
            continue
        np.testing.assert_allclose(found.value[row], reference[0], atol=1e-7)
        np.testing.assert_allclose(found.upper_bound[row], reference[0], atol=1e-7)
        np.testing.assert_allclose(found.multipliers[row], reference[1], rtol=1e-6, atol=1e-7)
        assert float(found.violation[row]) < 1e-9 * max(1.0, limits[row].max())
        measure = np.asarray(occupancy(mdp, found.policy[row]))
        np.testing.assert_allclose((costs[row] * measure).sum((1, 2)), found.costs[row], rtol=1e-9)
        num_random += bool(np.any((found.policy[row] > 1e-6) & (found.policy[row] < 1 - 1e-6)))
    assert num_random >= 2, "limits that bind make policies random"


def test_limits_that_do_not_bind_change_nothing():
    mdps, costs, limits, found = bound_problems(2)
    reference = program(mdps[NUM], costs[NUM], limits[NUM])[0]
    np.testing.assert_allclose(found.value[NUM], reference, atol=1e-9)
    np.testing.assert_array_equal(found.multipliers[NUM], 0.0)
    assert bool(found.converged[NUM])


def test_limits_out_of_reach_are_reported():
    """The least that the cost can be is the most of minus it: the policy that is given has that."""
    _, _, _, found = bound_problems(2)
    assert not bool(found.converged[NUM + 1])
    least = -found.value[NUM + 2]
    np.testing.assert_allclose(found.costs[NUM + 1, 0], least, rtol=1e-6)
    np.testing.assert_allclose(found.violation[NUM + 1], least - 0.5, rtol=1e-6)


@pytest.mark.slow
def test_single_precision_is_near():
    costs = np.random.default_rng(3).exponential(size=(2, 4, 3))
    mdp = random_mdp(2)
    limits = (costs * np.asarray(occupancy(mdp, random_policy(mdp, 2)))).sum((1, 2))
    reference = program(mdp, costs, limits)[0]
    with jax.enable_x64(False):
        found = constrained(random_mdp(2), costs, limits, tolerance=1e-4)
    assert found.value.dtype == jnp.float32
    assert bool(found.converged)
    np.testing.assert_allclose(found.value, reference, atol=1e-4)


def mixed_problem():
    """Two states; the paid action costs, and the limit allows it less than half of the time."""
    transition = np.zeros((2, 2, 2))
    transition[:, 0] = [[0.2, 0.8], [0.7, 0.3]]
    transition[:, 1] = [[0.6, 0.4], [0.4, 0.6]]
    mdp = tabular_mdp(transition, [[1.0, 0.0], [1.5, 0.0]], 0.8, initial=[0.5, 0.5])
    return mdp, np.array([[[1.0, 0.0], [1.0, 0.0]]]), np.array([2.4])


@pytest.mark.slow
def test_the_last_iterate_settles_where_plain_descent_ascent_circles():
    mdp, costs, limits = mixed_problem()
    value, multipliers = program(mdp, costs, limits)
    solve = jax.jit(
        jax.vmap(
            lambda optimism: optimistic_ascent_descent(
                mdp,
                costs,
                limits,
                policy_step=0.1,
                multiplier_step=0.1,
                optimism=optimism,
                num_iterations=4000,
            )
        )
    )
    both = jax.device_get(solve(np.array([1.0, 0.0])))
    last = jax.tree.map(lambda x: x[0], both.last)
    np.testing.assert_allclose(last.value, value, atol=1e-3)
    np.testing.assert_allclose(last.multipliers, multipliers, atol=1e-3)
    assert float(last.violation) < 1e-3
    assert bool(last.converged)
    assert np.min(last.policy[1]) > 0.1 or np.min(last.policy[0]) > 0.1
    # The plain one swings for good, and only its average is near.
    swings = np.ptp(both.costs[:, -500:, 0], axis=1)
    assert swings[0] < 1e-3
    assert swings[1] > 0.5
    assert not bool(both.last.converged[1])
    np.testing.assert_allclose(both.average.value, value, atol=0.05)
    np.testing.assert_allclose(both.average.costs[:, 0], limits[0], atol=0.05)


@pytest.mark.parametrize(
    ("costs", "limits", "message"),
    [
        (np.ones((2, 4, 3)), 1.0, "costs must have shape"),
        (np.full((1, 4, 3), np.nan), 1.0, "finite"),
        (np.ones((4, 3)), np.inf, "finite"),
    ],
)
def test_what_is_wrong_is_named(costs, limits, message):
    for verb in (constrained, optimistic_ascent_descent):
        with pytest.raises(ValueError, match=message):
            verb(random_mdp(0), costs, limits)
    with pytest.raises(ValueError, match="tolerance"):
        constrained(random_mdp(0), np.ones((4, 3)), 1.0, tolerance=0.0)
    with pytest.raises(ValueError, match="num_iterations"):
        optimistic_ascent_descent(random_mdp(0), np.ones((4, 3)), 1.0, num_iterations=0)
