"""A known Markov decision process as a list of outcomes: planned with and stepped alike."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxrl.core import struct
from jaxrl.core.types import Array


@struct.dataclass
class TabularMDP:
    """A finite MDP: K weighted outcomes for each state and action.

    The outcome list keeps the *joint* law of reward, successor and end, which distributional, CVaR
    and entropic operators need and a dense `P, r` pair loses. It is sparse by nature and dense when
    K = S. A batch of MDPs is the same struct with a leading axis on every leaf.

    Build it with `tabular_mdp`, which checks; the constructor does not.
    """

    prob: Array  # [S, A, K], non-negative, summing to one over K
    next_state: Array  # [S, A, K] int32
    reward: Array  # [S, A, K] [return]
    terminal: Array  # [S, A, K] bool, or the probability of ending, in [0, 1]
    initial: Array  # [S], law of the first state
    legal: Array  # [S, A] bool, which actions may be taken
    discount: float  # gamma in [0, 1] [per step]

    @property
    def num_states(self) -> int:
        """S."""
        return self.prob.shape[-3]

    @property
    def num_actions(self) -> int:
        """A."""
        return self.prob.shape[-2]

    @property
    def num_outcomes(self) -> int:
        """K, outcomes stored for each state and action."""
        return self.prob.shape[-1]

    def dense(self) -> tuple[Array, Array]:
        """Transition and reward tables of one MDP (`vmap` it over a batch).

            P[s, a, s'] = sum_k prob_k (1 - terminal_k) [next_state_k = s']
            r[s, a]     = sum_k prob_k reward_k

        A row of P sums to the probability of going on: what ends the episode leaves it, so that
        q = r + gamma P v holds as it stands.

        Returns:
            `P[S, A, S]` and `r[S, A]` [return].
        """
        num_states, num_actions = self.num_states, self.num_actions
        state, action = jnp.arange(num_states)[:, None, None], jnp.arange(num_actions)[:, None]
        going_on = self.prob * (1.0 - jnp.asarray(self.terminal, self.prob.dtype))
        table = jnp.zeros((num_states, num_actions, num_states), self.prob.dtype)
        table = table.at[state, action, self.next_state].add(going_on)
        return table, jnp.sum(self.prob * self.reward, axis=-1)


def tabular_mdp(
    prob: ArrayLike,
    next_state: ArrayLike | None,
    reward: ArrayLike,
    *,
    terminal: ArrayLike | None = None,
    initial: ArrayLike | None = None,
    legal: ArrayLike | None = None,
    discount: float = 0.99,
) -> TabularMDP:
    """A checked `TabularMDP`.

    Illegal pairs need no outcomes: their rows are rewritten as staying put at reward 0, so that
    every row of the result is a law.

    Args:
        prob: `[S, A, K]` probabilities of the outcomes; rows of legal pairs sum to one within 1e-4.
        next_state: `[S, A, K]` integers in `[0, S)`; `None` when K = S and outcome k is state k.
        reward: `[S, A, K]`, or `[S, A]` when it does not depend on the outcome [return].
        terminal: `[S, A, K]` bool or probabilities of ending; default nowhere.
        initial: `[S]` law of the first state; default state 0.
        legal: `[S, A]` bool; default all. Every state needs a legal action.
        discount: gamma in [0, 1] [per step].

    Raises:
        ValueError: a shape, a range or a sum is wrong; one line says which, and where first.

    Example:
        >>> mdp = tabular_mdp([[[1.0]]], [[[0]]], [[[2.0]]], discount=0.5)
        >>> float(mdp.dense()[1][0, 0])
        2.0
    """
    prob = np.asarray(prob, np.float64)
    if prob.ndim != 3 or 0 in prob.shape:
        raise ValueError(f"prob must have shape [S, A, K]; got {list(prob.shape)}.")
    num_states, _, num_outcomes = shape = prob.shape
    if next_state is None:
        if num_outcomes != num_states:
            raise ValueError(
                f"next_state=None needs K = S; prob has K = {num_outcomes} and S = {num_states}."
            )
        next_state = np.broadcast_to(np.arange(num_states), shape)
    next_state, reward = np.asarray(next_state), np.asarray(reward, np.float64)
    reward = np.broadcast_to(reward[..., None], shape) if reward.shape == shape[:2] else reward
    terminal = np.zeros(shape, bool) if terminal is None else np.asarray(terminal)
    first = np.eye(num_states)[0] if initial is None else np.asarray(initial, np.float64)
    legal = np.ones(shape[:2], bool) if legal is None else np.asarray(legal, bool)
    expected = {
        "next_state": (next_state, shape),
        "reward": (reward, shape),
        "terminal": (terminal, shape),
        "initial": (first, (num_states,)),
        "legal": (legal, shape[:2]),
    }
    for name, (value, wanted) in expected.items():
        if value.shape != wanted:
            raise ValueError(f"{name} must have shape {list(wanted)}; got {list(value.shape)}.")
    if not np.issubdtype(next_state.dtype, np.integer):
        raise ValueError(f"next_state must hold integers; got {next_state.dtype}.")
    _check_where("legal", ~legal.any(axis=1), "leaves no action in", "give every state one")
    used = legal[..., None]
    in_range = (next_state >= 0) & (next_state < num_states)
    _check_where("next_state", used & ~in_range, "is outside [0, S) at", f"S = {num_states}")
    _check_where("prob", used & ~(prob >= 0), "is negative or NaN at", "probabilities are >= 0")
    off = np.abs(prob.sum(axis=-1) - 1.0) > 1e-4
    _check_where("prob", legal & off, "does not sum to 1 over outcomes at", "normalise the row")
    _check_where("reward", used & ~np.isfinite(reward), "is not finite at", "use finite rewards")
    share = terminal.astype(np.float64)
    _check_where("terminal", used & ~((share >= 0) & (share <= 1)), "is outside [0, 1] at", "")
    if not (np.all(first >= 0) and abs(first.sum() - 1.0) <= 1e-4):
        raise ValueError(f"initial must be a law over states; its sum is {first.sum():g}.")
    if not 0.0 <= float(discount) <= 1.0:
        raise ValueError(f"discount={discount} is out of range: give a value in [0, 1].")

    stay = np.broadcast_to(np.arange(num_states)[:, None, None], shape)
    certain = np.broadcast_to(np.eye(num_outcomes)[0], shape)
    end_dtype = bool if terminal.dtype == np.bool_ else jnp.result_type(float)
    return TabularMDP(
        prob=jnp.asarray(np.where(used, prob, certain), jnp.result_type(float)),
        next_state=jnp.asarray(np.where(used, next_state, stay), jnp.int32),
        reward=jnp.asarray(np.where(used, reward, 0.0), jnp.result_type(float)),
        terminal=jnp.asarray(np.where(used, terminal, 0), end_dtype),
        initial=jnp.asarray(first, jnp.result_type(float)),
        legal=jnp.asarray(legal),
        discount=jnp.asarray(discount, jnp.result_type(float)),
    )


def _check_where(name: str, wrong: np.ndarray, problem: str, remedy: str) -> None:
    """Raise `ValueError` naming the first index at which `wrong` holds."""
    if wrong.any():
        index = [int(i) for i in np.argwhere(wrong)[0]]
        places = ("state", "action", "outcome")
        where = ", ".join(f"{place} {i}" for place, i in zip(places, index, strict=False))
        more = f" ({int(wrong.sum())} such)" if wrong.sum() > 1 else ""
        raise ValueError(f"{name} {problem} {where}{more}{': ' + remedy if remedy else ''}.")
