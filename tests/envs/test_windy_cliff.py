"""The windy cliff: gymnasium's without wind, and the place where operators part with it."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import BellmanOperator, envs, planning
from jaxrl.functionals import CVaR

START, EDGE = 21, 14  # of 4 x 7 cells
EDGE_ROUTE, RIGHT = [14, 15, 16, 17, 18, 19], 1


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def test_without_wind_it_is_gymnasium_s_table():
    mdp = envs.windy_cliff(4, 12, wind=0.0, cliff_cost=100.0)
    table = gymnasium.make("CliffWalking-v1", is_slippery=False).unwrapped.P
    possible = np.asarray(mdp.prob) > 0
    np.testing.assert_array_equal(possible.sum(axis=-1), 1)
    for name, column in (("prob", 0), ("next_state", 1), ("reward", 2), ("terminal", 3)):
        ours = np.asarray(getattr(mdp, name))[possible].reshape(48, 4)
        theirs = [[table[s][a][0][column] for a in range(4)] for s in range(48)]
        np.testing.assert_array_equal(ours, theirs, err_msg=name)
    assert int(np.argmax(mdp.initial)) == 36


def test_a_gust_by_hand():
    # 4 x 7 cells. From (1, 3), state 10: up to (0, 3), a gust down from there is (1, 3) again; from
    # the top row up is clipped after the gust, to the cell itself and the one below.
    mdp = jax.device_get(envs.windy_cliff(wind=0.25, cliff_cost=7.0))
    assert mdp.next_state[10].tolist() == [[3, 10], [11, 18], [17, 24 - 3], [9, 16]]
    assert mdp.next_state[3, 0].tolist() == [3, 3]
    np.testing.assert_allclose(mdp.prob[10, 2], [0.75, 0.25])
    assert mdp.reward[10, 2].tolist() == [-1.0, -7.0]  # down by a gust: over the edge to the start
    # Above the goal, (2, 6): down reaches it, gust or not; right bumps, and a gust reaches it.
    assert mdp.next_state[20, 2].tolist() == [27, 27] and mdp.terminal[20, 2].all()
    assert mdp.next_state[20, 1].tolist() == [20, 27]
    assert mdp.terminal[20, 1].tolist() == [False, True]
    assert mdp.reward[20, 1].tolist() == [-1.0, -1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_columns": 2}, "3 columns"),
        ({"wind": 1.5}, "wind=1.5"),
        ({"cliff_cost": -1.0}, "cliff_cost=-1.0"),
    ],
)
def test_bad_numbers_give_one_clear_line(arguments, message):
    with pytest.raises(ValueError, match=message):
        envs.windy_cliff(**arguments)


def walks_the_edge(policy):
    return all(int(np.argmax(policy[state])) == RIGHT for state in EDGE_ROUTE)


def law_of_return(mdp, policy, horizon):
    """Probability of each undiscounted return of a Markov policy `[S]`, path by path."""
    prob, reward = np.asarray(mdp.prob), np.asarray(mdp.reward)
    next_state, terminal = np.asarray(mdp.next_state), np.asarray(mdp.terminal)
    alive, done = {(START, 0): 1.0}, {}
    for _ in range(horizon):
        following = {}
        for (state, total), weight in alive.items():
            action = policy[state]
            for k in range(prob.shape[-1]):
                after = total + int(reward[state, action, k])
                mass = weight * prob[state, action, k]
                if terminal[state, action, k]:
                    done[after] = done.get(after, 0.0) + mass
                else:
                    place = (int(next_state[state, action, k]), after)
                    following[place] = following.get(place, 0.0) + mass
        alive = {place: mass for place, mass in following.items() if mass > 1e-15}
    for (_, total), mass in alive.items():
        done[total] = done.get(total, 0.0) + mass
    values = np.array(sorted(done))
    return values, np.array([done[value] for value in sorted(done)])


def cvar(values, probs, level):
    """Mean of the lower `level` tail of a law on sorted values."""
    before = np.cumsum(probs) - probs
    return float(values @ np.clip(level - before, 0.0, probs)) / level


@pytest.mark.slow
def test_mean_keeps_to_the_edge_and_cvar_makes_the_detour():
    mdp = envs.windy_cliff()
    # CVaR at level 1 is the mean: one program for both.
    neutral, nested = (
        planning.value_iteration(mdp, BellmanOperator(successor_functional=CVaR(jnp.array(level))))
        for level in (1.0, 0.1)
    )
    assert neutral.converged and neutral.error_bound <= 1e-6
    assert nested.converged and nested.error_bound <= 1e-6
    assert walks_the_edge(neutral.policy) and not walks_the_edge(nested.policy)
    gap = neutral.q_values[EDGE, RIGHT] - neutral.q_values[EDGE, 0]
    assert gap > 0.3  # no near tie: 5% of the value
    assert nested.q_values[EDGE, 0] - nested.q_values[EDGE, RIGHT] > 0.3

    # The same two policies by the laws of their whole returns, without a planner.
    edge, detour = (np.argmax(s.policy, axis=1) for s in (neutral, nested))
    laws = {name: law_of_return(mdp, p, 80) for name, p in (("edge", edge), ("detour", detour))}
    means = {name: float(values @ probs) for name, (values, probs) in laws.items()}
    tails = {name: cvar(*law, 0.1) for name, law in laws.items()}
    assert means["edge"] > means["detour"] + 0.3
    assert tails["edge"] < tails["detour"] - 5.0

    # Static CVaR is exact on integers; its optimum is no worse than either Markov policy.
    whole = mdp.replace(discount=jnp.asarray(1.0))
    plan = planning.static_cvar(whole, level=0.1, horizon=60)
    assert float(plan.error_bound) < 1e-6
    assert float(plan.value) >= tails["detour"] - 1e-6
    # Even without a gust the detour takes ten steps.
    assert tails["edge"] + 5.0 < float(plan.value) <= -10.0
    assert int(plan.first_action[START]) == 0
    at_edge = plan.action(1, EDGE, plan.initial_stock - 1.0)
    assert int(at_edge) == 0  # up again, away from the edge
