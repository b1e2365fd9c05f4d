"""Rooms and mazes: find the way to a goal."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core import Array, Key, TabularMDP, outcome_mdp
from jaxrl.core.arguments import check_prob
from jaxrl.core.types import is_traced
from jaxrl.envs.grid_moves import MOVES, cells_beside, goal_mdp

FOUR_ROOMS = (
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
EAST_HALLWAY = (7, 9)  # row, column of `FOUR_ROOMS`


def four_rooms(
    goals: Sequence[tuple[int, int]] = (EAST_HALLWAY,),
    slip_prob: float = 1.0 / 3.0,
    discount: float = 0.9,
) -> TabularMDP:
    """Four rooms joined by four hallways: the gridworld of options.

    Actions are up 0, right 1, down 2, left 3. The chosen move happens with probability
    `1 - slip_prob`, each of the other three with `slip_prob / 3`; a move into a wall stays put.
    Entering a goal pays 1 and ends, all else pays 0. The first state is uniform over the cells
    that are no goals. Outcome k is move k, so that K is 4.

    States are the 104 cells of `FOUR_ROOMS` without walls, numbered row by row.

    Args:
        goals: (row, column) of each goal in `FOUR_ROOMS`, at least one; no walls. `EAST_HALLWAY`
            is state 62.
        slip_prob: probability of going astray, in [0, 1] [per step].
        discount: gamma in [0, 1] [per step].

    Raises:
        ValueError: no goal, a goal that is no cell of the floor, or a bad probability.

    Sources: Sutton, Precup and Singh (1999), "Between MDPs and semi-MDPs", Artificial Intelligence
    112, section 3.1 and figure 2, for the dynamics and the discount. Map and numbering are as
    public re-implementations give them; we did not check them against the figure.

    Example:
        >>> mdp = four_rooms(slip_prob=0.0)
        >>> mdp.num_states, int(mdp.next_state[0, 1, 1]), int(mdp.next_state[0, 2, 2])
        (104, 1, 10)
    """
    check_prob("slip_prob", slip_prob)
    is_floor = np.array([list(row) for row in FOUR_ROOMS]) == "."
    cells = np.argwhere(is_floor)  # [S, 2]
    state_of = np.full(is_floor.shape, -1)
    state_of[is_floor] = np.arange(len(cells))
    is_goal = np.zeros(len(cells), bool)
    for goal in goals:
        if tuple(goal) not in set(map(tuple, cells.tolist())):
            raise ValueError(f"goal {goal} is no cell of the floor: see FOUR_ROOMS.")
        is_goal[state_of[tuple(goal)]] = True
    if not 0 < is_goal.sum() < len(cells):
        raise ValueError("four_rooms needs at least one goal, and a cell that is none.")
    beside = cells[:, None, :] + np.array(MOVES[:4])  # the outer wall keeps it on the map
    reached = state_of[beside[..., 0], beside[..., 1]]  # [S, 4], -1 in a wall
    reached = np.where(reached < 0, np.arange(len(cells))[:, None], reached)
    shape = (len(cells), 4, 4)
    next_state = np.broadcast_to(reached[:, None, :], shape)
    chance = np.where(np.eye(4) == 1, 1 - slip_prob, slip_prob / 3)
    return outcome_mdp(
        np.broadcast_to(chance, shape),
        next_state,
        is_goal[next_state],
        discount,
        initial=~is_goal / (~is_goal).sum(),
        terminal=is_goal,
    )


def random_maze(
    key: Key,
    height: int = 8,
    width: int = 8,
    slip_prob: float | Array = 0.0,
    loop_prob: float | Array = 0.0,
    start: int | Array = 0,
    goal: int | Array = -1,
    discount: float | Array = 0.99,
) -> TabularMDP:
    """A random maze, always with a way to the goal: a pure function of its key.

    A digger starts in the cell `start`. It breaks the wall to a uniformly chosen neighbour that it
    has not visited and moves there; where there is none, it goes back the way it came, until every
    cell is visited: a spanning tree with long corridors. Then every wall left between two cells
    falls with probability `loop_prob`, which makes loops.

    Actions are up 0, right 1, down 2, left 3. The chosen move happens with probability
    `1 - slip_prob`, each of the other three with `slip_prob / 3`; a move against a wall stays put.
    Entering the goal pays 1 and ends, all else pays 0: without slips the best value is
    discount^(d - 1) at d steps from the goal. Outcome k is move k, so that K is 4.

    It runs inside `jit`, and `vmap` over keys is a batch of mazes, for a sweep or as tasks:
    every argument but the sizes may be traced.

    Args:
        key: PRNG key.
        height: rows, at least 1; static.
        width: columns, at least 1; static. There are height width states, at least 2, numbered
            row by row.
        slip_prob: probability of going astray, in [0, 1] [per step].
        loop_prob: probability that a wall of the tree falls, in [0, 1]; 1 leaves an open field.
        start: the first state; negative counts from the end.
        goal: the state that ends, other than `start`; negative counts from the end.
        discount: gamma in [0, 1] [per step].

    Raises:
        ValueError: a size is too small, or a concrete number is out of range.

    Numerics:
        2 (height width - 1) short steps in a row; what an accelerator likes is many keys at once.

    Sources: depth-first search with random choices (Tarjan, 1972, for the search), known as the
    recursive backtracker among makers of mazes. Its trees are not uniform.

    Example:
        >>> keys = jax.random.split(jax.random.key(0), 3)
        >>> mazes = jax.vmap(lambda key: random_maze(key, 4, 5))(keys)
        >>> mazes.prob.shape
        (3, 20, 4, 4)
    """
    num_cells = height * width
    if min(height, width) < 1 or num_cells < 2:
        raise ValueError(f"random_maze needs at least 2 cells; got {height} x {width}.")
    for name, value in (("slip_prob", slip_prob), ("loop_prob", loop_prob), ("discount", discount)):
        check_prob(name, value)
    if not is_traced(start, goal):
        if not all(-num_cells <= int(cell) < num_cells for cell in (start, goal)):
            raise ValueError(
                f"start={start} or goal={goal} is outside [-{num_cells}, {num_cells})."
            )
        if (int(start) - int(goal)) % num_cells == 0:
            raise ValueError(f"start={start} and goal={goal} are one cell: choose two.")
    first, last = (jnp.asarray(cell, jnp.int32) % num_cells for cell in (start, goal))
    number = jnp.result_type(float)
    numbers = (jnp.asarray(x, number) for x in (slip_prob, loop_prob, discount))
    return _maze(key, (first, last), tuple(numbers), (height, width))


@partial(jax.jit, static_argnames="shape")
def _maze(
    key: Key, ends: tuple[Array, Array], numbers: tuple[Array, ...], shape: tuple[int, int]
) -> TabularMDP:
    (height, width), (slip_prob, loop_prob, discount) = shape, numbers
    is_open = dig(key, height, width, ends[0], loop_prob)
    cells = jnp.arange(height * width, dtype=jnp.int32)[:, None]
    reached = jnp.where(is_open, cells_beside(height, width, MOVES[:4], -1), cells)  # [S, 4]
    reached = jnp.broadcast_to(reached[:, None, :], (*reached.shape, 4))
    chance = jnp.where(jnp.eye(4, dtype=bool), 1 - slip_prob, slip_prob / 3)
    return goal_mdp(chance, reached, *ends, discount)


def dig(key: Key, height: int, width: int, start: Array, loop_prob: Array) -> Array:
    """Open sides `[S, 4]` of a random maze: a depth-first tree from `start`, and loops."""
    num_cells = height * width
    tree_key, loop_key = jax.random.split(key)
    beside = jnp.asarray(cells_beside(height, width, MOVES[:4], -1))
    inside = beside >= 0
    sides = jnp.arange(4)

    def move(_: int, digger: tuple[Array, ...]) -> tuple[Array, ...]:
        key, cell, came_from, is_open = digger
        key, side_key = jax.random.split(key)
        is_new = inside[cell] & (came_from[beside[cell]] < 0)
        draw = jnp.where(is_new, jax.random.uniform(side_key, (4,)), -1.0)
        side = jnp.argmax(draw)
        digs = jnp.any(is_new)
        after = jnp.where(digs, beside[cell, side], came_from[cell])
        came_from = came_from.at[after].set(jnp.where(digs, cell, came_from[after]))
        is_open = is_open.at[cell].set(is_open[cell] | (digs & (sides == side)))
        back = (sides + 2) % 4 == side
        is_open = is_open.at[after].set(is_open[after] | (digs & back))
        return key, after, came_from, is_open

    came_from = jnp.full((num_cells,), -1, jnp.int32).at[start].set(start)
    digger = (tree_key, start, came_from, jnp.zeros((num_cells, 4), bool))
    # Every passage is walked twice: once to dig it, once on the way back.
    is_open = jax.lax.fori_loop(0, 2 * (num_cells - 1), move, digger)[-1]
    # Walls to the right and below are drawn; left and up are those of the neighbours.
    falls = jax.random.uniform(loop_key, (num_cells, 2), loop_prob.dtype) < loop_prob
    right, down = (falls & inside[:, 1:3]).T
    closed = jnp.zeros((num_cells,), bool)
    left, up = closed.at[beside[:, 1]].max(right), closed.at[beside[:, 2]].max(down)
    return is_open | jnp.stack([up, right, down, left], axis=1)
