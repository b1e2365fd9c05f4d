"""`outcome_mdp` refuses what is no MDP, and `dense` gives the tables of linear algebra."""

import jax
import numpy as np
import pytest
import scipy.sparse

from jaxrl.core import outcome_mdp, stack_mdps, tabular_mdp

PROB = [[[0.5, 0.5], [1.0, 0.0]], [[1.0, 0.0], [0.25, 0.75]]]
NEXT = [[[0, 1], [1, 1]], [[0, 0], [1, 0]]]
REWARD = [[[1.0, 3.0], [2.0, 0.0]], [[0.0, 0.0], [4.0, 8.0]]]
TERMINAL = [[[False, True], [False, False]], [[False, False], [False, False]]]


@jax.jit
def tables(mdp):
    return mdp.dense()


def build(**changes):
    given = {"prob": PROB, "next_state": NEXT, "reward": REWARD, "terminal": TERMINAL, **changes}
    return outcome_mdp(given.pop("prob"), given.pop("next_state"), given.pop("reward"), **given)


def test_dense_by_hand():
    table, reward = tables(build())
    # State 0, action 0: half a stay, half an end (which leaves the row); reward (1 + 3) / 2.
    # State 1, action 1: 1/4 stay, 3/4 to state 0; reward 4/4 + 8 * 3/4.
    expected = [[[0.5, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.75, 0.25]]]
    np.testing.assert_allclose(table, expected)
    np.testing.assert_allclose(reward, [[2.0, 2.0], [0.0, 7.0]])


def test_dense_adds_repeated_successors_and_vmaps():
    mdp = outcome_mdp([[[0.25, 0.75]]], [[[0, 0]]], [[[1.0, 1.0]]])
    np.testing.assert_allclose(tables(mdp)[0], [[[1.0]]])
    batch = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), build())
    found = jax.jit(jax.vmap(lambda one: one.dense()))(batch)
    for together, alone in zip(found, tables(build()), strict=True):
        np.testing.assert_array_equal(together, np.stack([alone, alone]))


def test_terminal_may_be_a_probability():
    terminal = np.where(np.array(TERMINAL), 0.5, 0.0)
    table, _ = tables(build(terminal=terminal))
    np.testing.assert_allclose(table[0, 0], [0.5, 0.25])


def test_a_transition_table():
    mdp = tabular_mdp(PROB, [[1.0, 2.0], [3.0, 4.0]])
    assert mdp.is_dense and mdp.is_endless
    np.testing.assert_allclose(tables(mdp)[0], PROB)
    np.testing.assert_allclose(tables(mdp)[1], [[1.0, 2.0], [3.0, 4.0]])


def test_illegal_rows_become_staying_put():
    prob = np.array(PROB)
    prob[0, 1] = np.nan
    mdp = build(prob=prob, mask=[[True, False], [True, True]])
    table, reward = tables(mdp)
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
        (
            {"reward": [1.0, 2.0]},
            r"reward must have shape \[2, 2\] or \[2, 2, 1\] or \[2, 2, 2\]; got \[2\]",
        ),
        ({"reward": np.full((2, 2), np.nan)}, "reward is not finite"),
        ({"mask": [[True, np.nan], [True, True]]}, "mask must be true or false"),
        ({"terminal": np.full((2, 2, 2), 1.5)}, "terminal is outside"),
        ({"initial": [0.5, 0.6]}, "initial must be a law"),
        ({"mask": [[False, False], [True, True]]}, "no action in state 0"),
        ({"discount": 1.5}, "discount=1.5"),
        ({"terminal": [0.0, 0.5]}, "true or false for each state"),
    ],
)
def test_bad_input_gives_one_clear_line(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        build(**changes)
    assert "\n" not in str(error.value)


def test_entering_a_terminal_state_ends_and_its_own_row_does_not_matter():
    transition = np.array(PROB)
    transition[1] = np.nan
    mdp = tabular_mdp(transition, [[1.0, 2.0], [7.0, 7.0]], terminal=[False, True])
    table, reward = tables(mdp)
    np.testing.assert_allclose(table[0], [[0.5, 0.0], [1.0, 0.0]])  # what ends leaves the row
    assert np.all(table[1] == 0) and np.all(reward[1] == 0) and mdp.is_dense
    lists = outcome_mdp(PROB, NEXT, REWARD, terminal=[False, True])
    np.testing.assert_allclose(tables(lists)[0][0], [[0.5, 0.0], [0.0, 0.0]])


def test_minus_infinite_reward_makes_an_action_illegal():
    mdp = tabular_mdp(PROB, [[1.0, -np.inf], [3.0, 4.0]])
    assert mdp.legal.tolist() == [[True, False], [True, True]] and mdp.is_dense
    np.testing.assert_allclose(tables(mdp)[0][0, 1], [1.0, 0.0])
    with pytest.raises(ValueError, match="no action in state 0"):
        tabular_mdp(PROB, [[-np.inf, -np.inf], [3.0, 4.0]])


def test_a_batch_relies_only_on_what_holds_for_all():
    ending, endless = build(), build(terminal=None)
    batch = stack_mdps([ending, endless])
    assert batch.prob.shape == (2, 2, 2, 2) and not batch.is_endless
    with pytest.raises(ValueError, match="one shape"):
        stack_mdps([ending, outcome_mdp([[[1.0]]], [[[0]]], [[[1.0]]])])


def test_rewards_of_impossible_outcomes_are_kept_for_full_support():
    # State 0, action 0 leads to state 0 for sure, but an adversary may send it to state 1.
    mdp = tabular_mdp([[[1.0, 0.0]], [[0.0, 1.0]]], [[-3.0], [0.0]])
    np.testing.assert_array_equal(mdp.outcome_rewards[0, 0], [-3.0, -3.0])
    lists = outcome_mdp([[[1.0, 0.0]]], [[[0, 0]]], [[[1.0, np.nan]]])
    np.testing.assert_array_equal(lists.reward[0, 0], [1.0, 0.0])


def test_integers_say_no_and_yes_and_floats_stay_probabilities():
    whole = np.array(TERMINAL).astype(int)
    assert build(terminal=whole).terminal.dtype == bool
    assert build(terminal=whole.astype(float)).terminal.dtype == build().prob.dtype


def test_many_states_need_no_square_table():
    # A square of 100,000 states would take 75 GiB.
    num_states = 100_000
    ones = np.ones((num_states, 1, 1))
    mdp = outcome_mdp(ones, np.zeros((num_states, 1, 1), int), ones)
    assert float(mdp.initial[0]) == 1.0 and float(mdp.initial.sum()) == 1.0


def test_probabilities_negative_by_rounding_are_zero():
    left = 1 - 0.9 - 0.1
    assert -1e-15 < left < 0
    mdp = tabular_mdp([[[left, 1.0]], [[0.0, 1.0]]], [[0.0], [0.0]])
    assert mdp.prob[0, 0].tolist() == [0.0, 1.0]
    with pytest.raises(ValueError, match="negative"):
        tabular_mdp([[[-1e-6, 1.0]], [[0.0, 1.0]]], [[0.0], [0.0]])


def test_sparse_tables_are_the_dense_ones():
    """A list of [S, S], one [S A, S], rewards dense or sparse, ends by state."""
    rng = np.random.default_rng(0)
    S, A = 6, 3
    table = rng.random((S, A, S)) * (rng.random((S, A, S)) < 0.4)
    table[..., 0] += 0.1
    table /= table.sum(axis=-1, keepdims=True)
    reward = rng.normal(size=(S, A, S))
    over = np.arange(S) == S - 1
    dense = tabular_mdp(table, reward, 0.9, terminal=over)
    listed = [scipy.sparse.csr_matrix(table[:, a]) for a in range(A)]
    rewards = [scipy.sparse.csr_matrix(reward[:, a]) for a in range(A)]
    stacked = scipy.sparse.coo_array(table.reshape(S * A, S))
    for found in (
        tabular_mdp(listed, reward, 0.9, terminal=over),
        tabular_mdp(listed, rewards, 0.9, terminal=over),
        tabular_mdp(stacked, reward, 0.9, terminal=over),
        tabular_mdp(stacked, scipy.sparse.csr_array(reward.reshape(S * A, S)), 0.9, terminal=over),
    ):
        assert found.num_outcomes < S
        for ours, theirs in zip(found.dense(), dense.dense(), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
    for bad in ([listed[0], listed[1][:2]], [], scipy.sparse.csr_array(table[0])):
        with pytest.raises(ValueError, match=r"transition must"):
            tabular_mdp(bad, reward)


@pytest.mark.slow
def test_sparse_tables_may_be_empty_and_stay_as_they_are():
    """An action that is illegal everywhere has no entries; entries given twice count together."""
    twice = scipy.sparse.csr_matrix(([0.5, 0.5, 1.0], [0, 0, 0], [0, 2, 3]), shape=(2, 2))
    nothing = scipy.sparse.csr_matrix((2, 2))
    mask = [[True, False], [True, False]]
    mdp = tabular_mdp([twice, nothing], np.zeros((2, 2)), 0.9, mask=mask)
    np.testing.assert_array_equal(mdp.dense()[0][:, 0], [[1.0, 0.0], [1.0, 0.0]])
    assert twice.nnz == 3


def test_the_order_of_axes_is_said_where_it_cannot_be_seen():
    same = np.full((3, 3, 3), 1 / 3)
    with pytest.warns(UserWarning, match=r"read as \[state, action, next state\].*moveaxis"):
        tabular_mdp(same, np.zeros((3, 3)))
