"""Random MDPs."""

from __future__ import annotations

import jax
import numpy as np

from jaxrl.core import Key, TabularMDP, outcome_mdp


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
    if min(num_states, num_actions) < 1 or not 1 <= num_outcomes <= num_states:
        raise ValueError(
            "garnet needs num_states >= 1, num_actions >= 1 and num_outcomes in [1, num_states]; "
            f"got {num_states}, {num_actions} and {num_outcomes}."
        )
    order_key, gap_key, reward_key = jax.random.split(key, 3)
    shape = (num_states, num_actions)
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
