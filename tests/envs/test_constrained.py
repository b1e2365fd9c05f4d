"""Environments with costs: the grid's optimum by another solver, and the point and the pendulum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from jaxrl import envs, planning

KEY = jax.random.key(0)


@jax.jit
def go(env, state, action):
    """A step that spends the one key."""
    return env.step(KEY, state, action)


def test_the_planner_finds_the_grids_optimum():
    """The linear program over occupancies, by SciPy."""
    env = envs.make("HazardGrid")
    kernel, reward = (np.asarray(table, np.float64) for table in env.mdp.dense())
    num_states, num_actions = reward.shape
    discount, initial = float(env.mdp.discount), np.asarray(env.mdp.initial)
    inflow = discount * kernel.reshape(-1, num_states).T
    outflow = np.repeat(np.eye(num_states), num_actions, axis=1)
    costs = np.asarray(env.costs).reshape(1, -1)
    found = linprog(-reward.ravel(), costs, env.limits, outflow - inflow, initial)
    best = planning.constrained(env.mdp, env.costs, env.limits)
    assert bool(best.converged)
    np.testing.assert_allclose(best.value, -found.fun, rtol=1e-5)
    np.testing.assert_allclose(best.costs[0], 0.5, rtol=1e-5)
    start = np.asarray(best.policy)[np.argmax(initial)]
    assert 0.1 < start[0] < 0.9 and 0.1 < start[1] < 0.9  # up and right, at random


def test_a_step_costs_what_the_table_says():
    env = envs.make("HazardGrid", slip_prob=0.0, one_hot=False)
    state, _ = env.reset(KEY)
    total = 0.0
    for action in (1, 0, 1, 1, 2):  # into the hazard and out of it, along, and down to the goal
        state, step = go(env, state, np.array(action))
        total += float(step.cost[0])
    assert total == 1.0 and float(step.reward) == 10.0 and bool(step.terminated)


def test_one_table_is_one_cost_and_another_shape_is_refused():
    env = envs.make("HazardGrid")
    state, _ = env.reset(KEY)
    flat = env.replace(costs=env.costs[0])
    assert go(flat, state, np.array(1))[1].cost.shape == (1,)
    both = env.replace(costs=jnp.concatenate([env.costs, 2 * env.costs]))
    cost = go(both, state, np.array(1))[1].cost
    np.testing.assert_allclose(cost, [0.9, 1.8], rtol=1e-6)  # but where it slips
    with pytest.raises(ValueError, match="as planning"):
        env.replace(costs=env.costs[:, :3]).step(KEY, state, jnp.array(1))


def test_the_straight_way_leads_through_the_hazard():
    """Pushed right from (-1, 0): the depth at every place, and the way round costs nothing."""
    env = envs.make("PointMass", initial_spread=0.0)
    for push, crosses in (((1.0, 0.0), True), ((0.7, 0.7), False)):
        state, _ = env.reset(KEY)
        total = 0.0
        for _ in range(20):
            state, step = go(env, state, np.array(push))
            depth = max(0.0, 1 - np.hypot(*np.asarray(state.position, np.float64)) / 0.4)
            np.testing.assert_allclose(step.cost[0], depth, atol=1e-6)
            assert 0.0 <= float(step.reward) <= 1.0
            total += float(step.cost[0])
        assert (total > 0) == crosses


def test_a_push_moves_as_newton_says():
    """From rest by 2 x 0.1, with a tenth of the speed lost a step: 0.2 then 0.38, times 0.1."""
    env = envs.make("PointMass", initial_spread=0.0)
    state, _ = env.reset(KEY)
    for speed, place in ((0.2, -0.98), (0.38, -0.942)):
        state, step = go(env, state, np.array([1.0, -5.0]))
        np.testing.assert_allclose(step.observation, [place, -1 - place, speed, -speed], rtol=1e-5)


def test_a_pendulum_costs_what_its_speed_exceeds():
    env = envs.make("PendulumSpeedLimit", speed_limit=2.0, gravity=5.0)
    assert env.env.gravity == 5.0
    plain, limited = envs.make("Pendulum", gravity=5.0), env
    state, first = limited.reset(KEY)
    np.testing.assert_array_equal(first, plain.reset(KEY)[1])
    for _ in range(12):
        _, other = go(plain, state, np.ones(1))
        state, step = go(limited, state, np.ones(1))
        np.testing.assert_array_equal(step.observation, other.observation)
        assert float(step.reward) == float(other.reward)
        expected = max(0.0, abs(float(step.observation[2])) - 2.0)
        np.testing.assert_allclose(step.cost[0], expected, atol=1e-6)


def test_bad_numbers_are_refused_by_name():
    for name, bad in (("PendulumSpeedLimit", "speed_limit"), ("PointMass", "hazard_radius")):
        with pytest.raises(ValueError, match=bad):
            envs.make(name, **{bad: -1.0})
    with pytest.raises(ValueError, match="hazard_grid needs"):
        envs.make("HazardGrid", num_columns=2)
