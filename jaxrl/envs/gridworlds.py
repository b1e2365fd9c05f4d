"""Walks on grids: frozen lake, cliffs, and two kinds of wind.

Cells are numbered row by row from the top left: state = row * num_columns + column.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxrl.core import TabularMDP, outcome_mdp
from jaxrl.core.arguments import check_number, check_prob
from jaxrl.envs.grid_moves import MOVES, landings

LAKE_4X4 = ("SFFF", "FHFH", "FFFH", "HFFG")
LAKE_8X8 = (
    "SFFFFFFF",
    "FFFFFFFF",
    "FFFHFFFF",
    "FFFFFHFF",
    "FFFHFFFF",
    "FHHFFFHF",
    "FHFFHFHF",
    "FFFHFFFG",
)
WIND_OF_COLUMNS = (0, 0, 0, 1, 1, 1, 2, 2, 1, 0)  # Sutton and Barto, example 6.5 [cells]


def frozen_lake(
    lake: Sequence[str] = LAKE_4X4, slip_prob: float = 2.0 / 3.0, discount: float = 0.99
) -> TabularMDP:
    """Cross the ice from S to G without falling into a hole H.

    Actions are left 0, down 1, right 2, up 3. The chosen move happens with probability
    `1 - slip_prob`, each of the two moves at right angles to it with `slip_prob / 2`; a move off
    the lake stays put. Reaching G pays 1 and ends, a hole ends, all else pays 0. The table is that
    of gymnasium's `FrozenLake-v1`, outcome by outcome (`slip_prob=0` is `is_slippery=False`; there
    K is 1, elsewhere 3).

    Args:
        lake: rows of equal length of the letters S (start; the first state is uniform over them),
            F (ice), H (hole) and G (goal). `LAKE_4X4` and `LAKE_8X8` are gymnasium's.
        slip_prob: probability of going astray, in [0, 1] [per step].
        discount: gamma in [0, 1] [per step].

    Raises:
        ValueError: rows of unequal length, an unknown letter, no start, or a bad probability.

    Sources: gymnasium, `toy_text/frozen_lake`.

    Example:
        >>> mdp = frozen_lake(slip_prob=0.0)
        >>> int(mdp.next_state[0, 1, 0])  # down from the first cell
        4
    """
    if len({len(row) for row in lake}) != 1 or set("".join(lake)) - set("SFHG"):
        raise ValueError(f"lake must be equal rows of the letters S, F, H and G; got {list(lake)}.")
    cells = np.array([list(row) for row in lake])
    starts = (cells == "S").ravel()
    if not starts.any():
        raise ValueError("lake has no start: put at least one S.")
    target = landings(cells.shape, MOVES[3::-1])
    prob, next_state = slipping(target, slip_prob)
    is_goal, is_over = (cells == "G").ravel(), np.isin(cells, ["G", "H"]).ravel()
    # Gymnasium's end cells stay put: one outcome, which ends and pays nothing.
    over = is_over[:, None, None]
    prob = np.where(over, np.arange(prob.shape[-1]) == 0, prob)
    next_state = np.where(over, np.arange(cells.size)[:, None, None], next_state)
    return outcome_mdp(
        prob,
        next_state,
        np.where(over, 0.0, is_goal[next_state]),
        discount,
        initial=starts / starts.sum(),
        terminal=is_over[next_state],
    )


def cliff_walking(
    num_rows: int = 4, num_columns: int = 12, slip_prob: float = 0.0, discount: float = 1.0
) -> TabularMDP:
    """Walk from the bottom left to the bottom right past the cliff between them.

    Actions are up 0, right 1, down 2, left 3. Every step pays -1; one that ends on the cliff (the
    bottom row but for its corners) pays -100 and puts the walker back at the start; the bottom
    right ends. With the default numbers the table is that of gymnasium's `CliffWalking-v1`
    (`slip_prob=2/3` is `is_slippery=True`). The best return without slips is
    `-(num_columns + 1)`, along the edge: -13.

    Args:
        num_rows: height, at least 2.
        num_columns: width, at least 3.
        slip_prob: probability of moving at right angles to the action, in [0, 1] [per step].
        discount: gamma in [0, 1] [per step].

    Raises:
        ValueError: a size or a probability is out of range.

    Sources: Sutton and Barto (2018), "Reinforcement Learning: An Introduction", example 6.6.
    """
    start, goal = ends_of_row("cliff_walking", num_rows, num_columns)
    prob, landing = slipping(landings((num_rows, num_columns)), slip_prob)
    return _climbed(start, goal, prob, landing, 100.0, discount)


def windy_cliff(
    num_rows: int = 4,
    num_columns: int = 7,
    wind: float = 0.02,
    cliff_cost: float = 10.0,
    discount: float = 0.99,
) -> TabularMDP:
    """Cliff walking under gusts: how far from the edge should one walk?

        landing = clip(position + move + (gust, 0)),   gust = 1 cell down with probability wind

    Start, goal, cliff and actions are those of `cliff_walking`. Every step costs 1; one that lands
    on the cliff costs `cliff_cost` instead and puts the walker back at the start; reaching the
    goal ends. With `wind=0`, 4 x 12 cells and `cliff_cost=100` the table is that of gymnasium's
    `CliffWalking-v1`.

    With the default numbers the best mean is along the edge, where every gust is a fall: the two
    steps saved outweigh the falls. The best CVaR at level 0.1 is by the detour, for the CVaR of
    the whole return (*static* risk) and for that inside the backup (*nested* risk).
    `mdp.replace(discount=1.0)` makes returns integers, on which static CVaR is exact.

    Args:
        num_rows: height, at least 2.
        num_columns: width, at least 3.
        wind: probability of a gust, in [0, 1] [per step].
        cliff_cost: cost of a step that falls, at least 0 [return].
        discount: gamma in [0, 1] [per step].

    Raises:
        ValueError: a size or a number is out of range.

    Sources: a variant of Sutton and Barto (2018), example 6.6 (the map) and exercise 6.10 (wind by
    chance); the numbers are ours.

    Example:
        >>> mdp = windy_cliff(num_columns=5, wind=0.25)
        >>> mdp.next_state[10, 1].tolist(), mdp.reward[10, 1].tolist()  # along the edge
        ([11, 15], [-1.0, -10.0])
    """
    start, goal = ends_of_row("windy_cliff", num_rows, num_columns)
    check_prob("wind", wind)
    check_number("cliff_cost", cliff_cost)
    landing = landings((num_rows, num_columns), push=np.arange(2))
    prob = np.broadcast_to([1 - wind, wind], landing.shape)
    return _climbed(start, goal, prob, landing, cliff_cost, discount)


def windy_gridworld(
    gust_prob: float = 0.0, kings_moves: bool = False, discount: float = 1.0
) -> TabularMDP:
    """A 7 x 10 grid whose columns blow the walker upward.

        row' = clip(row + move - wind[column] + gust),   gust in {-1, 0, 1}
        column' = clip(column + move)

    The wind is that of the column which the walker leaves, 0 0 0 1 1 1 2 2 1 0; where it is not 0,
    it is one stronger or one weaker with probability `gust_prob / 2` each. Actions are up 0,
    right 1, down 2, left 3, then with `kings_moves` up-right 4, down-right 5, down-left 6,
    up-left 7. Every step pays -1; from (3, 0) to (3, 7), which ends. Without gusts the best return
    is -15, and -7 with the king's moves.

    Args:
        gust_prob: probability that the wind is off its mean, in [0, 1]; 2/3 in exercise 6.10
            [per step].
        kings_moves: allow the four diagonal moves too (exercise 6.9).
        discount: gamma in [0, 1] [per step].

    Raises:
        ValueError: a bad probability.

    Sources: Sutton and Barto (2018), "Reinforcement Learning: An Introduction", example 6.5 and
    exercises 6.9 and 6.10.
    """
    check_prob("gust_prob", gust_prob)
    shape, start, goal = (7, len(WIND_OF_COLUMNS)), 3 * 10, 3 * 10 + 7
    moves = MOVES[:4] + (MOVES[5:] if kings_moves else ())
    wind = np.broadcast_to(WIND_OF_COLUMNS, shape).ravel()
    gusts = np.array([0, -1, 1])  # outcomes: the mean wind, one cell stronger, one cell weaker
    push = np.where(wind[:, None] > 0, gusts - wind[:, None], 0)[:, None, :]
    next_state = landings(shape, moves, push)
    chance = np.where(
        (wind > 0)[:, None], [1 - gust_prob, gust_prob / 2, gust_prob / 2], [1.0, 0, 0]
    )
    return outcome_mdp(
        np.broadcast_to(chance[:, None, :], next_state.shape),
        next_state,
        np.full(next_state.shape[:2], -1.0),
        discount,
        initial=np.arange(next_state.shape[0]) == start,
        terminal=np.arange(next_state.shape[0]) == goal,
    )


def windy_walk(
    num_rows: int = 5,
    num_columns: int = 8,
    wind: float = 0.2,
    hazard_cost: float = 50.0,
    goal_reward: float = 0.0,
    discount: float = 0.95,
) -> TabularMDP:
    """A short way along a hazard or a long way round, under gusts toward the hazard.

        landing = clip(position + move + (gust, 0)),   gust = 0, 1, 2 cells down
        with probability 1 - wind, wind (1 - wind), wind^2

    The bottom row, but for the start at its left and the goal at its right, is the hazard: landing
    there ends the walk and costs `hazard_cost`. Reaching the goal ends it and pays `goal_reward`.
    Every step costs 1 besides. Actions are up 0, right 1, down 2, left 3. Without wind the best
    return at discount 1 is `goal_reward - (num_columns + 1)`. The more wind, or the more averse
    the planner is to risk or to an uncertain kernel, the higher the row along which it walks: made
    to show operators apart. `hazard_cost` should exceed the steps of a walk, or falling is a short
    cut.

    Args:
        num_rows: height with the hazard row, at least 2.
        num_columns: width, at least 3.
        wind: probability of a gust, in [0, 1] [per step].
        hazard_cost: cost of the hazard [return].
        goal_reward: reward of the goal [return].
        discount: gamma in [0, 1] [per step].

    Raises:
        ValueError: a size or a probability is out of range.

    Sources: a variant of Sutton and Barto (2018), example 6.6 with the wind of exercise 6.10; the
    numbers are ours.

    Example:
        >>> mdp = windy_walk(wind=0.1)
        >>> [round(float(p), 3) for p in mdp.prob[0, 0]]
        [0.9, 0.09, 0.01]
    """
    start, goal = ends_of_row("windy_walk", num_rows, num_columns)
    check_prob("wind", wind)
    next_state = landings((num_rows, num_columns), push=np.arange(3))
    states = np.arange(goal + 1)
    is_hazard, is_goal = (states > start) & (states < goal), states == goal
    return outcome_mdp(
        np.broadcast_to([1 - wind, wind * (1 - wind), wind**2], next_state.shape),
        next_state,
        -1.0 - hazard_cost * is_hazard[next_state] + goal_reward * is_goal[next_state],
        discount,
        initial=states == start,
        terminal=is_hazard | is_goal,
    )


def ends_of_row(name: str, num_rows: int, num_columns: int) -> tuple[int, int]:
    """The cells at both ends of the bottom row, start and goal; between them is the cliff."""
    if num_rows < 2 or num_columns < 3:
        raise ValueError(
            f"{name} needs at least 2 rows and 3 columns; got {num_rows} and {num_columns}."
        )
    return (num_rows - 1) * num_columns, num_rows * num_columns - 1


def _climbed(
    start: int, goal: int, prob: np.ndarray, landing: np.ndarray, fall_cost: float, discount: float
) -> TabularMDP:
    """The walk in which who lands on the cliff, `landing[S, A, K]`, is back at the start."""
    falls = (landing > start) & (landing < goal)
    next_state = np.where(falls, start, landing)
    return outcome_mdp(
        prob,
        next_state,
        np.where(falls, -float(fall_cost), -1.0),
        discount,
        initial=np.arange(goal + 1) == start,
        terminal=next_state == goal,
    )


def slipping(target: np.ndarray, slip_prob: float) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes when four moves in circular order slip to their neighbours.

    `target[S, 4, 1]` -> `prob[S, 4, K]`, `next_state[S, 4, K]`; K is 1 without slips, else 3 in
    the order: the move before, the move, the move after.
    """
    check_prob("slip_prob", slip_prob)
    if slip_prob == 0.0:
        return np.ones(target.shape), target
    next_state = np.concatenate([np.roll(target, 1, axis=1), target, np.roll(target, -1, 1)], -1)
    chance = [slip_prob / 2, 1 - slip_prob, slip_prob / 2]
    return np.broadcast_to(chance, next_state.shape), next_state
