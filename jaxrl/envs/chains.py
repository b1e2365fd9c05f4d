"""Small exploration problems with known answers: river swim and the deep sea."""

from __future__ import annotations

import jax
import numpy as np

from jaxrl.core.mdp import TabularMDP, tabular_mdp
from jaxrl.core.types import Key


def riverswim(num_states: int = 6, discount: float = 0.99) -> TabularMDP:
    """A chain whose small near reward is sure and whose large far reward lies upstream.

    Action 0 drifts left for certain and pays 0.005 in state 0. Action 1 swims right: 0.35 up, 0.60
    stay, 0.05 back in the middle; 0.6 up and 0.4 stay at the left end; 0.6 stay and 0.4 back at the
    right end, where it pays 1. Starts in state 0; never ends.

    Args:
        num_states: length of the chain, at least 2.
        discount: gamma in [0, 1] [per step].

    Raises:
        ValueError: fewer than two states.

    Sources: Strehl and Littman (2008), "An analysis of model-based interval estimation for Markov
    decision processes", section 4, for the chain.
    """
    if num_states < 2:
        raise ValueError(f"riverswim needs at least 2 states; got num_states={num_states}.")
    last = num_states - 1
    prob = np.zeros((num_states, 2, 3))
    next_state = np.zeros((num_states, 2, 3), np.int32)
    reward = np.zeros((num_states, 2))
    for state in range(num_states):
        # Outcomes are: back, stay, up. Action 0 is the sure drift back.
        next_state[state] = [max(state - 1, 0), state, min(state + 1, last)]
        prob[state, 0] = [1.0, 0.0, 0.0]
        prob[state, 1] = [0.05, 0.60, 0.35]
    prob[0, 1] = [0.0, 0.4, 0.6]
    prob[last, 1] = [0.4, 0.6, 0.0]
    reward[0, 0], reward[last, 1] = 0.005, 1.0
    return tabular_mdp(prob, next_state, reward, discount=discount)


def deep_sea(
    size: int = 8, discount: float = 1.0, move_cost: float = 0.01, key: Key | None = None
) -> TabularMDP:
    """A grid in which only `size` moves right in a row reach the treasure.

    The diver sinks one row per step and ends after `size` steps. A move right costs
    `move_cost / size`; a move right in the last column pays 1. Always right returns
    `1 - move_cost`, every other deterministic policy at most 0.

    Args:
        size: rows and columns, at least 1.
        discount: gamma in [0, 1] [per step].
        move_cost: cost of `size` moves right together [return].
        key: draws for each cell which action means right; `None` makes it action 1 everywhere.

    Raises:
        ValueError: `size` below 1.

    Sources: Osband et al. (2020), "Behaviour suite for reinforcement learning", deep sea.
    """
    if size < 1:
        raise ValueError(f"deep_sea needs size >= 1; got size={size}.")
    right_action = np.ones((size, size), np.int32)
    if key is not None:
        right_action = np.asarray(jax.random.bernoulli(key, 0.5, (size, size)), np.int32)
    num_states = size * size
    next_state = np.zeros((num_states, 2, 1), np.int32)
    reward = np.zeros((num_states, 2, 1))
    terminal = np.zeros((num_states, 2, 1), bool)
    for row in range(size):
        for column in range(size):
            state, right = row * size + column, right_action[row, column]
            below = min(row + 1, size - 1) * size
            next_state[state, right, 0] = below + min(column + 1, size - 1)
            next_state[state, 1 - right, 0] = below + max(column - 1, 0)
            reward[state, right, 0] = float(column == size - 1) - move_cost / size
            terminal[state, :, 0] = row == size - 1
    return tabular_mdp(
        np.ones((num_states, 2, 1)), next_state, reward, terminal=terminal, discount=discount
    )
