"""At discount 1 a policy earns the values it comes with, or is not called converged."""

import functools

import gymnasium
import jax
import numpy as np
import pytest

import jaxrl
from jaxrl import planning
from jaxrl.core import Law
from jaxrl.envs import gymnasium_mdp
from jaxrl.functionals import CVaR, SharedL1
from jaxrl.operators import Categorical, Greedy, PerState


def by_laws(mdp):
    """Returns of the lake are 0 or 1: two atoms hold their laws."""
    operator = jaxrl.BellmanOperator(Categorical(0.0, 1.0, num_atoms=2))
    return planning.distributional_value_iteration(mdp, operator, tolerance=1e-7)


def by_tails(mdp):
    """The best tail is the best chance here, and leaves the same ties."""
    head = Categorical(0.0, 1.0, num_atoms=2)
    operator = jaxrl.BellmanOperator(head, return_functional=CVaR(0.5))
    return planning.distributional_value_iteration(mdp, operator, tolerance=1e-7)


def by_sweeps(mdp):
    """Modified policy iteration that never ends its inner sweeps early."""
    return planning.value_iteration(mdp, acceleration=planning.FrozenSweeps(20, 0.0))


def by_state(mdp):
    """Greedy in every state, said state by state."""
    operator = jaxrl.BellmanOperator(improvement=PerState(Greedy()))
    return planning.value_iteration(mdp, operator)


slow = functools.partial(pytest.param, marks=pytest.mark.slow)
SOLVERS = [
    planning.value_iteration,
    planning.policy_iteration,
    slow(by_sweeps),
    planning.gap_increasing_value_iteration,
    slow(by_laws),
    by_state,
]


def earned(mdp, policy, num_steps):
    """What a policy gets in so many steps, in plain NumPy, `[S]`."""
    prob, next_state = np.asarray(mdp.prob, float), np.asarray(mdp.next_state)
    reward, going_on = np.asarray(mdp.outcome_rewards), 1.0 - np.asarray(mdp.terminal, float)
    worth = np.zeros(len(prob))
    for _ in range(num_steps):
        q_values = np.sum(prob * (reward + going_on * worth[next_state]), axis=-1)
        worth = np.sum(np.asarray(policy) * q_values, axis=-1)
    return worth


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("slippery", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_frozen_lakes_are_crossed(solver, slippery):
    """Without discounting the value is the chance to cross, 14/17 on ice by the equations."""
    mdp = gymnasium_mdp(gymnasium.make("FrozenLake-v1", is_slippery=slippery), discount=1.0)
    solution = solver(mdp)
    worth = earned(mdp, solution.policy, 4000)
    assert bool(solution.converged)
    np.testing.assert_allclose(worth, solution.values, atol=2e-5)
    assert worth[0] == pytest.approx(14 / 17 if slippery else 1.0, abs=1e-5)


@pytest.mark.slow  # the default one below holds where nobody earns the tail
def test_a_tail_mean_is_reached_too():
    mdp = gymnasium_mdp(gymnasium.make("FrozenLake-v1", is_slippery=False), discount=1.0)
    solution = by_tails(mdp)
    assert bool(solution.converged) and float(solution.values[0]) == 1.0
    np.testing.assert_allclose(earned(mdp, solution.policy, 4000), solution.values, atol=2e-5)


@pytest.mark.parametrize("pays", [pytest.param(0.0, marks=pytest.mark.slow), 1.0])
def test_tails_that_nobody_earns_are_not_converged(pays):
    """Begun at a return of 1, a circle without end keeps it, and earns 0."""
    mdp = jaxrl.outcome_mdp(np.ones((1, 1, 1)), np.zeros((1, 1, 1), int), [[[0.0]]], 1.0)
    head = Categorical(0.0, 1.0, num_atoms=2)
    operator = jaxrl.BellmanOperator(head, return_functional=CVaR(0.5))
    params = head.encode(Law(np.ones(1, np.float32), np.array([pays], np.float32)))
    solution = planning.distributional_value_iteration(mdp, operator, params=params[None, None])
    assert float(solution.values[0]) == pays and bool(solution.converged) == (pays == 0)


@pytest.mark.slow
def test_every_maze_with_circles_is_left():
    """Random graphs without step costs: many ties, one paying end far away."""
    rng = np.random.default_rng(0)
    S, A = 12, 3
    next_state = rng.integers(0, S - 1, (40, S, A, 1))
    next_state[:, np.arange(S - 1), 0, 0] = np.arange(1, S)  # a way to the end
    order = np.argsort(rng.random((40, S, A)), axis=2)
    next_state = np.take_along_axis(next_state, order[..., None], axis=2)
    reward = 1.0 * (next_state == S - 1)
    mdps = jaxrl.stack_mdps(
        [
            jaxrl.outcome_mdp(np.ones((S, A, 1)), n, r, 1.0, terminal=np.arange(S) == S - 1)
            for n, r in zip(next_state, reward, strict=True)
        ]
    )
    solutions = jax.jit(jax.vmap(planning.value_iteration))(mdps)
    assert np.all(solutions.converged)
    for index in range(40):
        mdp = jax.tree.map(lambda leaf, i=index: leaf[i], mdps)
        worth = earned(mdp, solutions.policy[index], S)
        np.testing.assert_array_equal(worth[:-1], np.ones(S - 1))


def test_values_that_nobody_earns_are_not_converged():
    """State 0 may stay for nothing or leave at a cost of 1: begun at 1, the sweeps stay there."""
    mdp = jaxrl.tabular_mdp(
        [[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0]] * 2],
        [[0.0, -1.0], [0.0, 0.0]],
        1.0,
        terminal=[False, True],
    )
    promised = planning.value_iteration(mdp, initial_values=np.array([1.0, 0.0], np.float32))
    assert float(promised.values[0]) == 1.0 and not bool(promised.converged)
    assert bool(planning.value_iteration(mdp).converged)


def test_what_is_collected_before_a_rest_without_end_is_collected():
    """Nothing ends: leaving pays 1, staying 0, and both are worth 1."""
    transition = [[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0]] * 2]
    mdp = jaxrl.outcome_mdp(
        np.asarray(transition), np.broadcast_to([0, 1], (2, 2, 2)), [[0.0, 1.0], [0.0, 0.0]], 1.0
    )
    solution = planning.value_iteration(mdp)
    assert bool(solution.converged) and solution.policy[0].tolist() == [0.0, 1.0]


def test_a_better_action_is_never_given_up_for_an_end():
    """The end pays 1 and the circle 0.25 in each of four rounds at most: 2 by the circle."""
    S = 6  # 0 .. 3 count the rounds, 4 has none left, 5 is over
    next_state = np.array([[min(s + 1, 4), 5] for s in range(4)] + [[5, 5], [5, 5]])[..., None]
    reward = np.array([[0.25, 1.0]] * 4 + [[1.0, 1.0], [0.0, 0.0]])
    mdp = jaxrl.outcome_mdp(
        np.ones((S, 2, 1)), next_state, reward, 1.0, terminal=np.arange(S) == S - 1
    )
    solution = planning.value_iteration(mdp)
    assert np.argmax(solution.policy[:4], axis=1).tolist() == [0] * 4
    assert float(solution.values[0]) == 2.0


def test_a_mixture_against_a_shared_budget_stays_one():
    """Two actions that end for a coin each, opposite sides: half of each cannot be made worse."""
    mdp = jaxrl.outcome_mdp(
        np.full((1, 2, 2), 0.5), np.zeros((1, 2, 2), int), [[[1.0, 0.0], [0.0, 1.0]]], 1.0,
        terminal=np.ones((1, 2, 2), bool),
    )  # fmt: skip
    operator = jaxrl.BellmanOperator(successor_functional=SharedL1(0.2))
    policy = planning.value_iteration(mdp, operator, tolerance=1e-4).policy[0]
    np.testing.assert_allclose(policy, 0.5, atol=1e-3)
