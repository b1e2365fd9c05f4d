"""Tables in gymnasium's form: ours are equal to gymnasium's, and any of them can be read."""

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.envs.toy_text.frozen_lake import MAPS

from jaxrl import envs
from jaxrl.envs import gymnasium_mdp

LAKE_8X8 = MAPS["8x8"]
SLIPPERY, SURE = {"is_slippery": True}, {"is_slippery": False}
# id and arguments of gymnasium, and our MDP
EQUAL = {
    "lake 4x4": ("FrozenLake-v1", SLIPPERY, envs.frozen_lake),
    "lake 4x4 sure": ("FrozenLake-v1", SURE, lambda: envs.frozen_lake(slip_prob=0.0)),
    "lake 8x8": ("FrozenLake8x8-v1", SLIPPERY, lambda: envs.frozen_lake(LAKE_8X8)),
    "lake 8x8 sure": (
        "FrozenLake8x8-v1",
        SURE,
        lambda: envs.frozen_lake(LAKE_8X8, slip_prob=0.0),
    ),
    "cliff": ("CliffWalking-v1", SURE, envs.cliff_walking),
    "slippery cliff": ("CliffWalking-v1", SLIPPERY, lambda: envs.cliff_walking(slip_prob=2 / 3)),
}


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def outcomes(mdp, state, action):
    """The possible outcomes of a pair, in order, as gymnasium lists them."""
    parts = (mdp.prob, mdp.next_state, mdp.reward, mdp.terminal)
    rows = zip(*(np.asarray(part)[state, action].tolist() for part in parts), strict=True)
    return [row for row in rows if row[0] > 0]


def assert_lists(mdp, table):
    assert (mdp.num_states, mdp.num_actions) == (len(table), len(table[0]))
    found = [outcomes(mdp, s, a) for s in range(mdp.num_states) for a in range(mdp.num_actions)]
    listed = [table[s][a] for s in range(len(table)) for a in range(len(table[0]))]
    assert [len(pair) for pair in found] == [len(pair) for pair in listed]
    np.testing.assert_allclose(
        np.array([row for pair in found for row in pair], float),
        np.array([row for pair in listed for row in pair], float),
        rtol=0,
        atol=1e-15,
    )


@pytest.mark.parametrize("name", EQUAL)
def test_ours_is_gymnasium_s_table_outcome_by_outcome(name):
    env_id, arguments, build = EQUAL[name]
    env = gymnasium.make(env_id, **arguments).unwrapped
    mdp = build()
    assert_lists(mdp, env.P)
    np.testing.assert_allclose(mdp.initial, env.initial_state_distrib)


@pytest.mark.parametrize("env_id", ["FrozenLake-v1", "CliffWalking-v1", "Taxi-v4"])
def test_reading_an_environment_and_its_table(env_id):
    env = gymnasium.make(env_id)  # wrapped
    table = env.unwrapped.P
    mdp = gymnasium_mdp(env, discount=0.9)
    assert_lists(mdp, table)
    assert float(mdp.discount) == 0.9 and mdp.legal.all() and mdp.terminal.dtype == bool
    np.testing.assert_allclose(mdp.initial, env.unwrapped.initial_state_distrib)
    as_lists = [[table[s][a] for a in table[s]] for s in table]
    np.testing.assert_array_equal(gymnasium_mdp(as_lists).next_state, mdp.next_state)
    assert float(gymnasium_mdp(as_lists).initial[0]) == 1.0


@pytest.mark.slow
def test_frozen_lake_is_worth_what_value_iteration_on_gymnasium_s_table_says():
    table = gymnasium.make("FrozenLake8x8-v1").unwrapped.P
    value = np.zeros(64)
    for _ in range(1500):
        value = np.array(
            [
                max(
                    sum(p * (r + 0.99 * (not end) * value[n]) for p, n, r, end in table[s][a])
                    for a in range(4)
                )
                for s in range(64)
            ]
        )
    transition, reward = (np.asarray(part) for part in envs.frozen_lake(LAKE_8X8).dense())
    ours = np.zeros(64)
    for _ in range(1500):
        ours = (reward + 0.99 * transition @ ours).max(axis=1)
    np.testing.assert_allclose(ours, value, atol=1e-12)
    assert 0.4 < value[0] < 0.5


def test_short_lists_are_filled_with_their_first_outcome_and_missing_actions_are_illegal():
    first = [(0.25, 1, 2.0, False), (0.25, 1, 3.0, False), (0.5, 0, 0.0, True)]
    table = {0: {0: first, 1: [(1.0, 1, 5.0, True)]}, 1: {1: [(1.0, 0, 0.0, False)]}}
    mdp = jax.device_get(gymnasium_mdp(table))
    assert mdp.prob.shape == (2, 2, 3)  # equal successors stay apart
    assert mdp.reward[0, 0].tolist() == [2.0, 3.0, 0.0]
    assert mdp.prob[0, 1].tolist() == [1.0, 0.0, 0.0]
    assert mdp.next_state[0, 1].tolist() == [1, 1, 1]
    assert mdp.reward[0, 1].tolist() == [5.0, 5.0, 5.0] and mdp.terminal[0, 1].all()
    assert mdp.legal.tolist() == [[True, True], [False, True]]


def test_the_end_may_be_a_probability_and_the_first_law_given():
    mdp = gymnasium_mdp([[[(1.0, 1, 0.0, 0.25)]], [[(1.0, 0, 0.0, 1)]]], initial=[0.5, 0.5])
    assert mdp.terminal.tolist() == [[[0.25]], [[1.0]]]
    assert mdp.initial.tolist() == [0.5, 0.5]


GOOD = [(1.0, 0, 0.0, False)]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (gymnasium.make("Blackjack-v1"), "BlackjackEnv has no transition table P"),
        (3, "int has no transition table P"),
        ({}, "the transition table is empty"),
        ({0: {}}, "the transition table is empty"),
        ({0: {0: GOOD}, 2: {0: GOOD}}, "states must be numbered 0, 1, ... without a gap"),
        ({"a": {0: GOOD}}, "states must be numbered 0, 1, ...; got 'a'"),
        ({0: {"left": GOOD}}, "actions of state 0 must be numbered"),
        ({0: 5}, "actions of state 0 must be a dict or a list; got int"),
        ({0: {0: 5}}, r"P\[0\]\[0\] must be a list of outcomes; got int"),
        ({0: {0: [(1.0, 0, 0.0)]}}, r"P\[0\]\[0\] must hold \(prob, next_state"),
        ({0: {0: [(1.0, 0.5, 0.0, False)]}}, "integer next_state"),
        ({0: {0: [(0.7, 0, 0.0, False)]}}, "does not sum to 1 over outcomes at state 0, action 0"),
        ({0: {0: [(1.0, 9, 0.0, False)]}}, "next_state is outside"),
        ({0: {0: GOOD}, 1: {0: []}}, "no action in state 1"),
    ],
)
def test_bad_tables_are_refused_with_their_place(table, message):
    with pytest.raises(ValueError, match=message) as error:
        gymnasium_mdp(table)
    assert "\n" not in str(error.value)
