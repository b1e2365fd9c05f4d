"""Small MDPs: chains with known answers (a river, a slippery chain, a deep sea), random ones."""

from __future__ import annotations

import jax
import numpy as np

from jaxrl.core import Key, TabularMDP, outcome_mdp
from jaxrl.core.arguments import check_prob, check_whole


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
    num_states = check_whole("num_states", num_states, 2)
    state, last = np.arange(num_states), num_states - 1
    # Outcomes are: back, stay, up. Action 0 is the sure drift back.
    prob = np.tile([[1.0, 0.0, 0.0], [0.05, 0.60, 0.35]], (num_states, 1, 1))
    prob[0, 1], prob[last, 1] = [0.0, 0.4, 0.6], [0.4, 0.6, 0.0]
    next_state = np.clip(state[:, None, None] + np.array([-1, 0, 1]), 0, last)
    reward = np.zeros((num_states, 2))
    reward[0, 0], reward[last, 1] = 0.005, 1.0
    return outcome_mdp(prob, np.broadcast_to(next_state, prob.shape), reward, discount)


def chain(
    num_states: int = 5,
    slip_prob: float = 0.2,
    small_reward: float = 2.0,
    large_reward: float = 10.0,
    discount: float = 0.99,
) -> TabularMDP:
    """A chain with a small sure reward at hand and a large one at its end.

    Action 0 advances: it pays nothing, but `large_reward` in the last state, which it keeps.
    Action 1 returns to state 0 and pays `small_reward`. With probability `slip_prob` the other
    action happens, reward and all. Starts in state 0; never ends. Always advancing gains

        (1 - slip_prob)^num_states large_reward + slip_prob small_reward   per step,

    3.677 with the defaults, which is optimal there.

    Args:
        num_states: length of the chain, at least 2.
        slip_prob: probability of the other action, in [0, 1] [per step].
        small_reward: paid by returning [return].
        large_reward: paid by advancing in the last state [return].
        discount: gamma in [0, 1] [per step].

    Raises:
        ValueError: fewer than two states, or a bad probability.

    Sources: Strens (2000), "A Bayesian framework for reinforcement learning", section 6.1; the
    NChain environment of gym.

    Example:
        >>> [float(r) for r in chain(slip_prob=0.0).dense()[1][4]]
        [10.0, 2.0]
    """
    num_states = check_whole("num_states", num_states, 2)
    check_prob("slip_prob", slip_prob)
    state, last = np.arange(num_states), num_states - 1
    outcomes = np.stack([np.minimum(state + 1, last), np.zeros_like(state)], axis=-1)
    rewards = np.stack([large_reward * (state == last), np.full(num_states, small_reward)], axis=-1)
    shape = (num_states, 2, 2)
    prob = [[1 - slip_prob, slip_prob], [slip_prob, 1 - slip_prob]]
    return outcome_mdp(
        np.broadcast_to(prob, shape),
        np.broadcast_to(outcomes[:, None, :], shape),
        np.broadcast_to(rewards[:, None, :], shape),
        discount,
    )


def cycle(num_states: int = 3, discount: float = 0.99) -> TabularMDP:
    """A deterministic cycle: periodic under every policy, which makes plain averages oscillate.

    Both actions lead from s to s + 1 modulo `num_states`; action 1 pays 1 in state 0, all else
    pays 0. Starts in state 0; never ends. The optimum takes action 1 in state 0:

        gain = 1 / num_states,
        bias(s) = (num_states - 1) / (2 num_states) - ((-s) mod num_states) / num_states,
        v(s) = discount^((-s) mod num_states) / (1 - discount^num_states).

    Args:
        num_states: the period, at least 1.
        discount: gamma in [0, 1] [per step].

    Raises:
        ValueError: no state.

    Sources: Puterman (1994), "Markov Decision Processes", section 8.2, on periodic chains.

    Example:
        >>> cycle(3).next_state[:, 0, 0].tolist()
        [1, 2, 0]
    """
    num_states = check_whole("num_states", num_states, 1)
    state = np.arange(num_states)
    following = np.broadcast_to(((state + 1) % num_states)[:, None, None], (num_states, 2, 1))
    reward = (state[:, None] == 0) & (np.arange(2) == 1)
    return outcome_mdp(np.ones((num_states, 2, 1)), following, reward, discount)


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
    size = check_whole("size", size)
    right_action = np.ones((size, size), bool)
    if key is not None:
        right_action = np.asarray(jax.random.bernoulli(key, 0.5, (size, size)))
    row, column = np.divmod(np.arange(size * size)[:, None], size)
    is_right = right_action.reshape(-1, 1) == np.arange(2)  # [S, A]
    aside = np.clip(column + np.where(is_right, 1, -1), 0, size - 1)
    next_state = np.minimum(row + 1, size - 1) * size + aside
    reward = np.where(is_right, (column == size - 1) - move_cost / size, 0.0)
    shape = (size * size, 2, 1)
    return outcome_mdp(
        np.ones(shape),
        next_state.reshape(shape),
        reward.reshape(shape),
        discount,
        terminal=np.broadcast_to(row[..., None] == size - 1, shape),
    )


def garnet(
    key: Key,
    num_states: int = 20,
    num_actions: int = 4,
    num_outcomes: int = 3,
    discount: float = 0.95,
) -> TabularMDP:
    """A random MDP with a fixed branching factor.

    For each state and action, `num_outcomes` distinct successors are drawn without replacement;
    their probabilities are the gaps between sorted uniform draws; rewards are standard normal per
    state and action. The first state is uniform; nothing ends.

    Args:
        key: PRNG key.
        num_states: S, at least 1.
        num_actions: A, at least 1.
        num_outcomes: K, the branching factor, in [1, S].
        discount: gamma in [0, 1] [per step].

    Raises:
        ValueError: a size is out of range.

    Sources: Archibald, McKinnon and Thomas (1995), "On the generation of Markov decision
    processes"; Bhatnagar et al. (2009), "Natural actor-critic algorithms", section 6.
    """
    shape = check_whole("num_states", num_states), check_whole("num_actions", num_actions)
    num_outcomes = check_whole("num_outcomes", num_outcomes, high=num_states)
    order_key, gap_key, reward_key = jax.random.split(key, 3)
    order = np.argsort(jax.random.uniform(order_key, (*shape, num_states)), axis=-1)
    cuts = np.sort(jax.random.uniform(gap_key, (*shape, num_outcomes - 1)), axis=-1)
    prob = np.diff(cuts.astype(np.float64), axis=-1, prepend=0.0, append=1.0)
    return outcome_mdp(
        prob,
        order[..., :num_outcomes].astype(np.int32),
        np.asarray(jax.random.normal(reward_key, shape)),
        initial=np.full(num_states, 1.0 / num_states),
        discount=discount,
    )
