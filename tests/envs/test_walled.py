"""Walled grids: their steps against a map, their ways against a graph, their levels' laws."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components, shortest_path
from scipy.stats import chisquare

from jaxrl import planning
from jaxrl.envs import DugWalls, GridLevel, ScatteredWalls, WalledGrid, make

OFFSETS = [(-1, 0), (0, 1), (1, 0), (0, -1)]
SCATTERED = ScatteredWalls(fewest=5.0, most=20.0, height=6, width=7)
NUM_LEVELS, NUM_LOOKED_AT = 1024, 128


@jax.jit
def draw_all(generator, keys):
    return jax.vmap(generator.draw)(keys)


@functools.cache
def levels():
    """Levels `[1024]` of 6 x 7 cells, on this side of the device."""
    keys = jax.random.split(jax.random.key(0), NUM_LEVELS)
    return jax.device_get(draw_all(SCATTERED, keys))


solvable = jax.jit(jax.vmap(GridLevel.is_solvable))


def take(batch, index):
    return jax.tree.map(lambda leaf: leaf[index], batch)


def graph(walls):
    """Which free cells lie side by side."""
    row, column = np.indices(walls.shape).reshape(2, -1)
    apart = abs(row[:, None] - row) + abs(column[:, None] - column)
    free = ~walls.reshape(-1)
    return csr_matrix((apart == 1) & free & free[:, None])


@pytest.mark.slow
def test_distances_are_those_of_the_graph():
    found = np.asarray(jax.vmap(GridLevel.distances)(levels()))
    for index in range(NUM_LOOKED_AT):
        level = take(levels(), index)
        expected = shortest_path(graph(level.walls), unweighted=True, indices=int(level.goal))
        expected = np.where(np.isinf(expected), -1, expected)
        np.testing.assert_array_equal(found[index].reshape(-1), expected)
    assert np.any(found == -1)


@pytest.mark.slow
def test_every_level_can_be_solved():
    """By a graph of ours, and by the library's own flood."""
    assert np.all(jax.device_get(solvable(levels())))
    for index in range(NUM_LOOKED_AT):
        level = take(levels(), index)
        groups = connected_components(graph(level.walls), directed=False)[1]
        assert groups[level.start] == groups[level.goal] and level.start != level.goal
        assert not level.walls.reshape(-1)[[level.start, level.goal]].any()


def test_unsolvable_levels_are_told_apart():
    walls = jnp.array([[False, True, False]])
    cut = GridLevel(walls, jnp.int32(0), jnp.int32(2))
    inside = cut.replace(goal=jnp.int32(1))  # the goal is in a wall
    opened = cut.replace(walls=jnp.zeros((1, 3), bool))
    assert [bool(level.is_solvable()) for level in (cut, inside, opened)] == [False, False, True]


def test_walls_are_as_many_as_asked_for_and_anywhere():
    generator = ScatteredWalls(fewest=2.0, most=5.0, height=6, width=7)
    keys = jax.random.split(jax.random.key(1), NUM_LEVELS)
    drawn = jax.device_get(draw_all(generator, keys))
    counts = np.bincount(drawn.walls.sum((1, 2)), minlength=6)
    # A start walled in loses a wall; with so few walls that is one level in a thousand or fewer.
    assert counts[0] == 0 and counts[1] <= 6 and len(counts) == 6
    assert chisquare(counts[2:]).pvalue > 1e-3
    assert chisquare(np.bincount(drawn.start, minlength=42)).pvalue > 1e-3
    assert chisquare(drawn.walls.sum(0).reshape(-1)).pvalue > 1e-3
    free = ScatteredWalls(fewest=0.0, most=0.0, height=6, width=7)
    open_field = jax.device_get(draw_all(free, keys))
    assert not open_field.walls.any()
    steps = (open_field.goal - open_field.start) % 42
    assert chisquare(np.bincount(steps, minlength=42)[1:]).pvalue > 1e-3


def test_a_start_walled_in_gets_a_goal_beside_it():
    full = ScatteredWalls(fewest=100.0, most=100.0, height=6, width=7)
    drawn = jax.device_get(draw_all(full, jax.random.split(jax.random.key(2), NUM_LEVELS)))
    assert np.all(jax.device_get(solvable(drawn)))
    assert np.all(drawn.walls.sum((1, 2)) >= 39)


@pytest.mark.slow
@pytest.mark.parametrize("loop_prob", [0.0, 1.0])
def test_dug_levels_are_trees_of_corridors(loop_prob):
    keys = jax.random.split(jax.random.key(3), 32)
    drawn = jax.device_get(draw_all(DugWalls(loop_prob, 7, 9), keys))
    num_rooms, num_sides = 4 * 5, 4 * 4 + 3 * 5
    for index in range(32):
        level = take(drawn, index)
        free = ~level.walls
        assert free[::2, ::2].all() and not free[1::2, 1::2].any()
        # A tree over the rooms has one passage fewer than rooms.
        assert free.sum() == num_rooms + (num_rooms - 1 if loop_prob == 0.0 else num_sides)
        groups = connected_components(graph(level.walls), directed=False)[1]
        assert len(set(groups[free.reshape(-1)])) == 1
        for cell in (level.start, level.goal):
            assert (cell // 9) % 2 == 0 and (cell % 9) % 2 == 0
    assert np.all(drawn.start != drawn.goal)
    assert len(np.unique(drawn.start)) > 10 and len(np.unique(drawn.goal)) > 10


@jax.jit
def play(env, actions, key):
    state, first = env.reset(key)

    def body(state, action):
        return env.step(key, state, action)

    return first, jax.lax.scan(body, state, actions)[1]


def see(level, cell, view):
    """Walls and goal round a cell, by padding and cutting."""
    row, column = divmod(int(cell), level.walls.shape[1])
    goal = np.zeros(level.walls.shape, bool)
    goal.reshape(-1)[level.goal] = True
    seen = [
        np.pad(plane, view, constant_values=beyond)[
            row : row + 2 * view + 1, column : column + 2 * view + 1
        ]
        for plane, beyond in ((level.walls, True), (goal, False))
    ]
    return np.stack(seen).astype(np.float32).reshape(-1)


@pytest.mark.parametrize("view", [0, 2])
def test_steps_are_those_on_the_map(view):
    batch = take(levels(), slice(0, 16))
    actions = np.random.default_rng(0).integers(0, 4, (16, 80))
    env = WalledGrid(batch, np.full(16, 30.0, np.float32), view)
    play_each = jax.jit(jax.vmap(play, (0, 0, None)))
    first, steps = jax.device_get(play_each(env, actions, jax.random.key(0)))
    for index in range(16):
        level = take(batch, index)
        cell = int(level.start)
        assert np.array_equal(first[index], see(level, cell, view) if view else cell)
        for time in range(80):
            row, column = np.array(divmod(cell, 7)) + OFFSETS[actions[index, time]]
            if 0 <= row < 6 and 0 <= column < 7 and not level.walls[row, column]:
                cell = int(row * 7 + column)
            at_goal = cell == level.goal
            assert steps.reward[index, time] == (1.0 if at_goal else 0.0)
            assert steps.terminated[index, time] == at_goal
            assert steps.truncated[index, time] == (time + 1 >= 30 and not at_goal)
            seen = see(level, cell, view) if view else cell
            assert np.array_equal(steps.observation[index, time], seen)
    assert steps.terminated.any()


@pytest.mark.slow
def test_best_value_is_the_length_of_the_way():
    batch = jax.tree.map(jnp.asarray, take(levels(), slice(0, 16)))
    env = WalledGrid(batch, jnp.full(16, 100.0))

    @jax.jit
    @jax.vmap
    def value(env):
        mdp = env.as_mdp(0.9)
        return mdp.initial @ planning.value_iteration(mdp, tolerance=1e-6).values

    for index, found in enumerate(value(env)):
        level = take(levels(), index)
        away = shortest_path(graph(level.walls), unweighted=True, indices=int(level.goal))
        assert float(found) == pytest.approx(0.9 ** (away[level.start] - 1), abs=1e-5)


def test_levels_are_taken_from_a_buffer_by_index_without_a_retrace():
    traces = []

    @jax.jit
    def first_step(buffer, index, time_limit):
        traces.append(1)
        env = WalledGrid(take(buffer, index), time_limit)
        return env.step(jax.random.key(0), env.reset(jax.random.key(0))[0], 1)[1].observation

    buffer = jax.tree.map(jnp.asarray, levels())
    for index in (0, 7, 200):
        level = take(levels(), index)
        env = WalledGrid(level, 100.0)
        _, alone = play(env, jnp.array([1]), jax.random.key(0))
        assert int(first_step(buffer, index, 10.0 + index)) == int(alone.observation[0])
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": ["S.", "G"]}, "one length"),
        ({"rows": []}, "one length"),
        ({"rows": ["S?G"]}, "'\\?'"),
        ({"rows": ["S.."]}, "one S and one G"),
        ({"rows": ["SSG"]}, "one S and one G"),
        ({"rows": ["S#G"]}, "no way"),
        ({"view": -1}, "view=-1"),
        ({"time_limit": math.nan}, "time_limit"),
    ],
)
def test_bad_drawings_give_one_clear_line(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        make("WalledGrid", **arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("generator", "message"),
    [
        (ScatteredWalls(height=1, width=1), "at least 2 cells"),
        (DugWalls(height=4, width=5), "odd sizes"),
        (DugWalls(height=1, width=1), "2 rooms"),
    ],
)
def test_bad_sizes_of_levels_give_one_clear_line(generator, message):
    with pytest.raises(ValueError, match=message):
        generator.draw(jax.random.key(0))
