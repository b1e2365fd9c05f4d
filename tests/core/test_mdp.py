"""`tabular_mdp` refuses what is no MDP, and `dense` gives the tables of linear algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.core.mdp import tabular_mdp

PROB = [[[0.5, 0.5], [1.0, 0.0]], [[1.0, 0.0], [0.25, 0.75]]]
NEXT = [[[0, 1], [1, 1]], [[0, 0], [1, 0]]]
REWARD = [[[1.0, 3.0], [2.0, 0.0]], [[0.0, 0.0], [4.0, 8.0]]]
TERMINAL = [[[False, True], [False, False]], [[False, False], [False, False]]]


def build(**changes):
    given = {"prob": PROB, "next_state": NEXT, "reward": REWARD, "terminal": TERMINAL, **changes}
    return tabular_mdp(given.pop("prob"), given.pop("next_state"), given.pop("reward"), **given)


def test_dense_by_hand():
    table, reward = build().dense()
    # State 0, action 0: half a stay, half an end (which leaves the row); reward (1 + 3) / 2.
    # State 1, action 1: 1/4 stay, 3/4 to state 0; reward 4/4 + 8 * 3/4.
    expected = [[[0.5, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.75, 0.25]]]
    np.testing.assert_allclose(table, expected)
    np.testing.assert_allclose(reward, [[2.0, 2.0], [0.0, 7.0]])


def test_dense_adds_repeated_successors_and_vmaps():
    mdp = tabular_mdp([[[0.25, 0.75]]], [[[0, 0]]], [[[1.0, 1.0]]])
    np.testing.assert_allclose(mdp.dense()[0], [[[1.0]]])
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), build())
    tables, _ = jax.vmap(lambda one: one.dense())(batch)
    assert tables.shape == (2, 2, 2, 2)


def test_terminal_may_be_a_probability():
    terminal = np.where(np.array(TERMINAL), 0.5, 0.0)
    table, _ = build(terminal=terminal).dense()
    np.testing.assert_allclose(table[0, 0], [0.5, 0.25])


def test_none_next_state_means_dense():
    mdp = tabular_mdp(PROB, None, [[1.0, 2.0], [3.0, 4.0]])
    np.testing.assert_allclose(mdp.dense()[0], PROB)
    np.testing.assert_allclose(mdp.dense()[1], [[1.0, 2.0], [3.0, 4.0]])


def test_illegal_rows_become_staying_put():
    prob = np.array(PROB)
    prob[0, 1] = np.nan
    mdp = build(prob=prob, legal=[[True, False], [True, True]])
    table, reward = mdp.dense()
    np.testing.assert_allclose(table[0, 1], [1.0, 0.0])
    assert reward[0, 1] == 0.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prob": [0.5, 0.5]}, "shape"),
        ({"prob": np.array(PROB) * 0.5}, "state 0, action 0.*4 such"),
        ({"prob": np.array(PROB) - 1.0}, "negative"),
        ({"next_state": np.array(NEXT) + 1}, "state 0, action 0, outcome 1"),
        ({"next_state": np.array(NEXT, float)}, "integers"),
        ({"next_state": NEXT[0]}, "next_state must have shape"),
        ({"reward": np.full((2, 2, 2), np.inf)}, "reward is not finite"),
        ({"reward": [1.0, 2.0]}, "reward must have shape"),
        ({"terminal": np.full((2, 2, 2), 1.5)}, "terminal is outside"),
        ({"initial": [0.5, 0.6]}, "initial must be a law"),
        ({"legal": [[False, False], [True, True]]}, "no action in state 0"),
        ({"discount": 1.5}, "discount=1.5"),
    ],
)
def test_bad_input_gives_one_clear_line(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        build(**changes)
    assert "\n" not in str(error.value)
