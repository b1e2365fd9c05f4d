"""Rooms and mazes: every way in the table is one on the map, and every goal can be reached."""

import functools

import jax
import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components, shortest_path
from scipy.stats import chisquare

from jaxrl import envs, outcome_mdp, planning

MOVES = [(-1, 0), (0, 1), (1, 0), (0, -1)]


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def graph(next_state):
    """Undirected graph of the cells from `next_state[S, 4, K]`, whose outcome k is move k.

    What is over stays put, so that a passage to the goal is seen from one side only.
    """
    reached = np.asarray(next_state)[:, 0, :]
    size = len(reached)
    table = np.zeros((size, size), int)
    table[np.arange(size)[:, None], reached] = 1
    np.fill_diagonal(table, 0)
    return csr_matrix(np.maximum(table, table.T))


# Four rooms


ROOMS = (
    "#############",
    "#.....#.....#",
    "#.....#.....#",
    "#...........#",
    "#.....#.....#",
    "#.....#.....#",
    "##.####.....#",
    "#.....###.###",
    "#.....#.....#",
    "#.....#.....#",
    "#...........#",
    "#.....#.....#",
    "#############",
)


def room_graph():
    """Cells of the map in order, and which lie side by side."""
    cells = [(r, c) for r in range(13) for c in range(13) if ROOMS[r][c] == "."]
    beside = [[abs(a - c) + abs(b - d) == 1 for c, d in cells] for a, b in cells]
    return cells, csr_matrix(np.array(beside, int))


def test_rooms_are_those_of_the_map():
    cells, beside = room_graph()
    mdp = jax.device_get(envs.four_rooms())
    assert mdp.num_states == len(cells) == 104  # the number of the literature
    assert cells.index((7, 9)) == 62  # the east hallway is goal 62 of public implementations
    assert (graph(mdp.next_state) != beside).nnz == 0
    for state in (0, 40, 103):
        for action, (down, right) in enumerate(MOVES):
            row, column = cells[state]
            cell = (row + down, column + right)
            expected = cells.index(cell) if cell in cells else state
            assert int(mdp.next_state[state, action, action]) == expected


def test_slips_go_to_the_other_three_directions():
    mdp = envs.four_rooms()
    expected = np.full((4, 4), 1 / 9)
    np.fill_diagonal(expected, 2 / 3)
    going_on = np.arange(104) != 62
    np.testing.assert_allclose(
        np.asarray(mdp.prob)[going_on], np.broadcast_to(expected, (103, 4, 4))
    )
    np.testing.assert_allclose(mdp.initial, going_on / 103)


@pytest.mark.slow
def test_rooms_without_slips_are_as_far_as_the_graph_says():
    cells, beside = room_graph()
    goals = [(7, 9), (1, 1)]
    mdp = envs.four_rooms(goals, slip_prob=0.0)
    indices = [cells.index(goal) for goal in goals]
    away = shortest_path(beside, unweighted=True, indices=indices).min(axis=0)
    expected = np.where(away == 0, 0.0, 0.9 ** np.maximum(away - 1, 0))
    solution = planning.value_iteration(mdp, tolerance=1e-10)
    np.testing.assert_allclose(solution.values, expected, atol=1e-9)


def test_rooms_with_slips_have_the_value_of_the_linear_program():
    mdp = envs.four_rooms()
    table, reward = jax.device_get(jax.jit(lambda mdp: mdp.dense())(mdp))
    rows = 0.9 * table - np.eye(104)[:, None, :]  # v >= r + 0.9 P v
    found = linprog(
        np.ones(104), A_ub=rows.reshape(-1, 104), b_ub=-reward.ravel(), bounds=(None, None)
    )
    values = planning.value_iteration(mdp, tolerance=1e-10).values
    np.testing.assert_allclose(values, found.x, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"goals": [(0, 0)]}, "no cell of the floor"),
        ({"goals": []}, "at least one goal"),
        ({"slip_prob": 1.2}, "slip_prob=1.2"),
    ],
)
def test_bad_rooms_give_one_clear_line(arguments, message):
    with pytest.raises(ValueError, match=message):
        envs.four_rooms(**arguments)


# Mazes

HEIGHT, WIDTH, NUM_MAZES = 5, 6, 64
NUM_CELLS, NUM_SIDES = HEIGHT * WIDTH, HEIGHT * (WIDTH - 1) + WIDTH * (HEIGHT - 1)


@jax.jit
def mazes_of(keys, slip_prob, loop_prob, start, goal):
    numbers = (slip_prob, loop_prob, start, goal)
    return jax.vmap(lambda key: envs.random_maze(key, HEIGHT, WIDTH, *numbers))(keys)


def many(keys, slip_prob=0.0, loop_prob=0.0, start=0, goal=-1):
    """Mazes of 5 x 6 cells, one per key."""
    return jax.device_get(mazes_of(keys, slip_prob, loop_prob, start, goal))


@functools.cache
def batch(loop_prob=0.0):
    return many(jax.random.split(jax.random.key(3), NUM_MAZES), loop_prob=loop_prob)


@pytest.mark.slow
def test_every_maze_is_a_spanning_tree_on_the_grid():
    row, column = np.divmod(np.arange(NUM_CELLS), WIDTH)
    apart = abs(row[:, None] - row) + abs(column[:, None] - column)
    mazes = batch()
    for next_state in mazes.next_state:
        ways = graph(next_state)
        assert connected_components(ways, directed=False)[0] == 1
        assert ways.nnz == 2 * (NUM_CELLS - 1)
        assert np.all(apart[ways.nonzero()] == 1)
        reached = np.asarray(next_state)[:-1, 0, :]
        for move, (down, right) in enumerate(MOVES):
            cell = row[:-1] * WIDTH + column[:-1]
            goes = reached[:, move] != cell
            np.testing.assert_array_equal(reached[goes, move], cell[goes] + down * WIDTH + right)
            back = np.asarray(next_state)[reached[goes, move], 0, (move + 2) % 4]
            at_goal = reached[goes, move] == NUM_CELLS - 1
            assert np.all((back == cell[goes]) | at_goal)  # no door opens one way only
    assert len({np.asarray(x).tobytes() for x in mazes.next_state}) == NUM_MAZES


@pytest.mark.slow
def test_walls_fall_at_their_rate_and_open_fields_have_none():
    extra = np.array([graph(x).nnz / 2 - (NUM_CELLS - 1) for x in batch(0.3).next_state])
    walls = NUM_SIDES - (NUM_CELLS - 1)
    assert abs(extra.mean() - 0.3 * walls) < 4 * np.sqrt(0.3 * 0.7 * walls / NUM_MAZES)
    assert all(connected_components(graph(x))[0] == 1 for x in batch(0.3).next_state)
    row, column = np.divmod(np.arange(NUM_CELLS), WIDTH)
    to_goal = (HEIGHT - 1 - row) + (WIDTH - 1 - column)
    away = shortest_path(graph(batch(1.0).next_state[0]), unweighted=True)[-1]
    np.testing.assert_array_equal(away, to_goal)


@pytest.mark.slow
def test_mazes_are_valued_by_the_length_of_the_way():
    mazes = batch()
    solutions = jax.jit(jax.vmap(functools.partial(planning.value_iteration, tolerance=1e-9)))(
        mazes
    )
    assert np.all(solutions.converged)
    for next_state, values in zip(mazes.next_state, solutions.values, strict=True):
        away = shortest_path(graph(next_state), unweighted=True)[-1]
        expected = np.where(away == 0, 0.0, 0.99 ** np.maximum(away - 1, 0))
        np.testing.assert_allclose(values, expected, atol=1e-8)


@pytest.mark.slow
def test_tables_are_what_the_checked_builder_makes_of_them():
    keys = jax.random.split(jax.random.key(0), NUM_MAZES)
    maze = jax.tree.map(lambda leaf: leaf[0], many(keys, slip_prob=0.25))
    parts = (maze.prob, maze.next_state, maze.reward, float(maze.discount))
    checked = outcome_mdp(*parts, initial=maze.initial, terminal=maze.terminal)
    assert jax.tree.structure(maze) == jax.tree.structure(checked)  # static facts are true
    for ours, theirs in zip(jax.tree.leaves(maze), jax.tree.leaves(checked), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=1e-15)
    expected = np.full((4, 4), 0.25 / 3) + (0.75 - 0.25 / 3) * np.eye(4)
    np.testing.assert_allclose(maze.prob, np.broadcast_to(expected, (NUM_CELLS, 4, 4)))


@pytest.mark.parametrize("goal", [1, 17, -1])
def test_ends_of_the_way_may_be_traced(goal):
    mazes = many(jax.random.split(jax.random.key(1), NUM_MAZES), start=8, goal=goal)
    assert np.all(np.argmax(mazes.initial, axis=-1) == 8)
    np.testing.assert_array_equal(mazes.terminal, mazes.next_state == goal % NUM_CELLS)
    assert np.all(mazes.reward[:, goal] == 0) and np.all(mazes.next_state[:, goal] == goal % 30)
    for next_state in mazes.next_state[:8]:
        assert connected_components(graph(next_state))[0] == 1
        assert graph(next_state).nnz == 2 * (NUM_CELLS - 1)


def digging_law(height, width):
    """Probability of each tree (a set of passages) of the digger from cell 0, by recursion."""
    law = {}

    def dig(path, visited, passages, chance):
        if not path:
            law[passages] = law.get(passages, 0.0) + chance
            return
        row, column = divmod(path[-1], width)
        beside = [(row + down, column + right) for down, right in MOVES]
        inside = [r * width + c for r, c in beside if 0 <= r < height and 0 <= c < width]
        new = [cell for cell in inside if cell not in visited]
        if not new:
            dig(path[:-1], visited, passages, chance)
        for cell in new:
            passage = frozenset([frozenset([path[-1], cell])])
            dig([*path, cell], visited | {cell}, passages | passage, chance / len(new))

    dig([0], frozenset([0]), frozenset(), 1.0)
    return law


@pytest.mark.slow
def test_trees_follow_the_law_of_the_digger():
    law = digging_law(3, 3)
    assert len(set(np.round(list(law.values()), 9))) > 1 and sum(law.values()) == pytest.approx(1.0)
    keys = jax.random.split(jax.random.key(2), 4096)
    mazes = jax.jit(jax.vmap(lambda key: envs.random_maze(key, 3, 3).next_state))(keys)
    counts = dict.fromkeys(law, 0)
    drawn, repeats = np.unique(np.asarray(mazes), axis=0, return_counts=True)
    for next_state, repeat in zip(drawn, repeats, strict=True):
        pairs = zip(*graph(next_state).nonzero(), strict=True)
        counts[frozenset(frozenset(map(int, pair)) for pair in pairs)] += repeat
    trees = list(law)
    expected = [4096 * law[tree] for tree in trees]
    assert chisquare([counts[tree] for tree in trees], expected).pvalue > 1e-3


@pytest.mark.slow
def test_a_corridor_by_hand():
    corridor = envs.random_maze(jax.random.key(0), 1, 4)
    assert corridor.next_state[:3, 0].tolist() == [[0, 1, 0, 0], [1, 2, 1, 0], [2, 3, 2, 1]]


def test_mazes_are_pure():
    build = lambda key: envs.random_maze(key, 3, 3)  # noqa: E731
    assert "callback" not in str(jax.make_jaxpr(build)(jax.random.key(0)))
    with jax.enable_x64(False):
        single = jax.eval_shape(build, jax.random.key(0))
        assert {leaf.dtype.itemsize for leaf in jax.tree.leaves(single)} <= {1, 4}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"height": 1, "width": 1}, "at least 2 cells"),
        ({"slip_prob": -0.5}, "slip_prob=-0.5"),
        ({"loop_prob": 2.0}, "loop_prob=2.0"),
        ({"goal": 64}, "outside"),
        ({"start": -1}, "are one cell"),
    ],
)
def test_bad_mazes_give_one_clear_line(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        envs.random_maze(jax.random.key(0), **arguments)
    assert "\n" not in str(error.value)
