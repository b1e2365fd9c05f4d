"""A known Markov decision process as a list of outcomes: planned with and stepped alike."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxrl.core import struct
from jaxrl.core.settings import SettingInfo, check_value
from jaxrl.core.sparse_tables import is_sparse, sparse_outcomes
from jaxrl.core.types import Array, Number


class TabularMDP(struct.Struct):
    """A finite MDP: K weighted outcomes for each state and action.

    The outcome list keeps the *joint* law of reward, successor and end, which distributional, CVaR
    and entropic operators need and a dense `P, r` pair loses. It is sparse by nature and dense when
    K = S. A batch of MDPs is the same struct with a leading axis on every leaf.

    Build it with `tabular_mdp` from tables, or with `outcome_mdp` from outcome lists; both check,
    the constructor does not.
    """

    prob: Array  # [S, A, K], non-negative, summing to one over K
    next_state: Array  # [S, A, K] int32
    reward: Array  # [S, A, K], or [S, A, 1] when every outcome of a pair pays the same [return]
    terminal: Array  # [S, A, K] bool, or the probability of ending, in [0, 1]
    initial: Array  # [S], law of the first state
    legal: Array  # [S, A] bool, true where the action may be taken
    discount: Number  # gamma in [0, 1] [per step]
    # What a planner may rely on; false says nothing.
    is_dense: bool = struct.field(pytree_node=False, default=False)  # K = S, outcome k is state k
    is_endless: bool = struct.field(
        pytree_node=False, default=False
    )  # `terminal` is false everywhere

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

    @property
    def outcome_rewards(self) -> Array:
        """The reward of every outcome, `[S, A, K]` [return], however it is stored."""
        return jnp.broadcast_to(self.reward, self.prob.shape)

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
    transition: ArrayLike,
    reward: ArrayLike,
    discount: float = 0.99,
    *,
    initial: ArrayLike | None = None,
    terminal: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> TabularMDP:
    """A checked `TabularMDP` from a transition table: outcome k is state k.

    Args:
        transition: `[S, A, S]` probabilities of the next state; rows of legal pairs sum to one
            within 1e-4 and are then normalised. Or SciPy sparse: a list of A matrices `[S, S]`, or
            one `[S A, S]` whose row s A + a is that of state s and action a; the MDP then has as
            many outcomes as the fullest row. Where S = A a warning says how the axes were read.
        reward: `[S, A]` (or `[S, A, 1]`), or `[S, A, S]` when it depends on the next state
            [return], or sparse in the form of `transition`. -inf makes the action illegal.
        discount: gamma in [0, 1] [per step].
        initial: `[S]` law of the first state; default state 0.
        terminal: `[S]` bool, states at which the episode is over: entering one ends it, and their
            own rows are rewritten as staying put at reward 0. Or `[S, A, S]`, bool or the
            probability of ending with that transition. Default nowhere.
        mask: `[S, A]` bool, true where the action is legal; default everywhere. Every state needs
            a legal action.

    Raises:
        ValueError: a shape, a range or a sum is wrong; one line says which, and where first.

    Example:
        >>> mdp = tabular_mdp([[[0.5, 0.5]], [[0.0, 1.0]]], [[2.0], [0.0]], discount=0.5)
        >>> mdp.dense()[0][0, 0].tolist()
        [0.5, 0.5]
    """
    if is_sparse(transition):
        transition, next_state, reward, terminal = sparse_outcomes(transition, reward, terminal)
    else:
        transition = np.asarray(transition, np.float64)
        shape = transition.shape
        if len(set(shape)) == 1 and transition.ndim == 3 and transition.size > 1:
            warnings.warn(
                f"transition {list(shape)} is read as [state, action, next state]; for "
                "[action, state, next state] give np.moveaxis(transition, 0, 1).",
                stacklevel=2,
            )
        if transition.ndim != 3 or 0 in shape or shape[0] != shape[2]:
            raise ValueError(
                f"transition must have shape [S, A, S]; got {list(shape)}. For outcome "
                "lists [S, A, K] use outcome_mdp(prob, next_state, reward)."
            )
        next_state = np.broadcast_to(np.arange(shape[0], dtype=np.int32), shape)
    return _checked("transition", transition, next_state, reward, discount, initial, terminal, mask)


def outcome_mdp(
    prob: ArrayLike,
    next_state: ArrayLike,
    reward: ArrayLike,
    discount: float = 0.99,
    *,
    initial: ArrayLike | None = None,
    terminal: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> TabularMDP:
    """A checked `TabularMDP` from outcome lists, which keep the joint law of reward and successor.

    Illegal pairs need no outcomes: their rows are rewritten as staying put at reward 0, so that
    every row of the result is a law. Outcomes of probability 0 are padding, but for functionals
    whose adversary has full support: for those, pad with a copy of a possible outcome.

    Args:
        prob: `[S, A, K]` probabilities of the outcomes; rows of legal pairs sum to one within 1e-4
            and are then normalised.
        next_state: `[S, A, K]` integers in `[0, S)`.
        reward: `[S, A, K]`, or `[S, A]` when it does not depend on the outcome [return]. -inf with
            positive probability makes the action illegal.
        discount: gamma in [0, 1] [per step].
        initial: `[S]` law of the first state; default state 0.
        terminal: `[S, A, K]` bool, or probabilities of ending; or `[S]` bool, see `tabular_mdp`.
            Default nowhere.
        mask: `[S, A]` bool, true where the action is legal; default everywhere. Every state needs
            a legal action.

    Raises:
        ValueError: a shape, a range or a sum is wrong; one line says which, and where first.

    Example:
        >>> mdp = outcome_mdp([[[1.0]]], [[[0]]], [[[2.0]]], discount=0.5)
        >>> float(mdp.dense()[1][0, 0])
        2.0
    """
    prob = np.asarray(prob, np.float64)
    if prob.ndim != 3 or 0 in prob.shape:
        raise ValueError(f"prob must have shape [S, A, K]; got {list(prob.shape)}.")
    return _checked("prob", prob, next_state, reward, discount, initial, terminal, mask)


def _checked(
    name: str,
    prob: np.ndarray,
    next_state: ArrayLike,
    reward: ArrayLike,
    discount: float,
    initial: ArrayLike | None,
    terminal: ArrayLike | None,
    mask: ArrayLike | None,
) -> TabularMDP:
    """The MDP of outcome lists that may be wrong; `name` is what the caller calls `prob`."""
    shape, pairs, states = prob.shape, prob.shape[:2], np.arange(len(prob))
    first = np.asarray(states == 0 if initial is None else initial, np.float64)
    ends = np.broadcast_to(False, shape) if terminal is None else np.asarray(terminal)
    legal = np.ones(pairs, bool) if mask is None else np.asarray(mask)
    next_state, reward = np.asarray(next_state), np.asarray(reward, np.float64)
    given = {
        "next_state": (next_state, [shape]),
        "reward": (reward, [pairs, (*pairs, 1), shape]),
        "terminal": (ends, [states.shape, shape]),
        "initial": (first, [states.shape]),
        "mask": (legal, [pairs]),
    }
    for what, (value, shapes) in given.items():
        if value.shape not in shapes:
            either = " or ".join(str(list(one)) for one in shapes)
            raise ValueError(f"{what} must have shape {either}; got {list(value.shape)}.")
    if not np.issubdtype(next_state.dtype, np.integer):
        raise ValueError(f"next_state must hold integers; got {next_state.dtype}.")
    if not np.all((legal == 0) | (legal == 1)):
        raise ValueError("mask must be true or false for each state and action.")
    if not (np.all(first >= 0) and abs(first.sum() - 1.0) <= 1e-4):
        raise ValueError(f"initial must be a law over states; its sum is {first.sum():g}.")
    check_value(SettingInfo("discount", discount, low=0.0, high=1.0), float(discount))

    reward = reward[..., None] if reward.shape == pairs else reward
    legal, in_range = legal.astype(bool), (next_state >= 0) & (next_state < len(states))
    # Integers 0 and 1 mean no and yes; floats stay probabilities, whatever their values.
    is_sure = ends.dtype == np.bool_ or bool(np.all((ends == 0) | (ends == 1)))
    # The rows of illegal pairs and of states where it is over stay put at reward 0.
    is_dense = shape[2] == len(states) and bool(np.all(next_state == states))
    stay_prob = np.eye(len(states))[:, None] if is_dense else np.eye(1, shape[2])[None]
    stay_state = next_state if is_dense else states[:, None, None]
    if ends.shape == states.shape:
        if not is_sure:
            raise ValueError("terminal of shape [S] must be true or false for each state.")
        is_over = ends.astype(bool)
        over = is_over[:, None, None]
        ends = is_over[np.where(in_range, next_state, 0)] | over
        legal = legal | is_over[:, None]
        prob, reward = np.where(over, stay_prob, prob), np.where(over, 0.0, reward)
        next_state = np.where(over, stay_state, next_state)
    number = jnp.result_type(float)
    legal = legal & ~np.any((reward == -np.inf) & (prob > 0), axis=-1)
    used = legal[..., None]
    total = np.where(legal, np.maximum(prob, 0.0).sum(axis=-1), 1.0)
    lost = used & ~(np.abs(reward) <= float(jnp.finfo(number).max))  # NaN too
    wrong = [
        ("mask", ~legal.any(axis=1), "leaves no action in", "give every state a legal one"),
        ("next_state", used & ~in_range, "is outside [0, S) at", f"S = {len(states)}"),
        # 1 - 0.9 - 0.1 is -3e-17: what is negative by rounding alone is zero.
        (name, used & ~(prob >= -1e-12), "is negative or NaN at", "probabilities are >= 0"),
        (name, ~(np.abs(total - 1) <= 1e-4), "does not sum to 1 over outcomes at", "normalise"),
        ("reward", lost & (prob > 0), f"is not finite in {number} at", "use finite rewards"),
        ("terminal", used & ~((ends >= 0) & (ends <= 1)), "is outside [0, 1] at", ""),
    ]
    for what, where, problem, remedy in wrong:
        if where.any():
            _refuse(what, where, problem, remedy)
    prob = np.where(used, np.maximum(prob, 0.0) / total[..., None], stay_prob)
    next_state = np.where(used, next_state, stay_state)
    reward = np.where(used & ~lost, reward, 0.0)
    ends = np.where(used, ends, False)
    return TabularMDP(
        prob=jnp.asarray(prob, number),
        next_state=jnp.asarray(next_state, jnp.int32),
        # Where the probability is 0 the reward still counts: to adversaries with full support.
        reward=jnp.asarray(reward, number),
        terminal=jnp.asarray(ends, bool if is_sure and ends.dtype.kind in "bui" else number),
        initial=jnp.asarray(first / first.sum(), number),
        legal=jnp.asarray(legal),
        discount=jnp.asarray(discount, number),
        is_dense=is_dense,
        is_endless=not np.any(ends),
    )


def _refuse(name: str, wrong: np.ndarray, problem: str, remedy: str) -> None:
    """Raise `ValueError` naming the first index at which `wrong` holds."""
    index, places = np.argwhere(wrong)[0], ("state", "action", "outcome")
    where = ", ".join(f"{place} {i}" for place, i in zip(places, index, strict=False))
    more = f" ({int(wrong.sum())} such)" if wrong.sum() > 1 else ""
    raise ValueError(f"{name} {problem} {where}{more}{': ' + remedy if remedy else ''}.")


def stack_mdps(mdps: Sequence[TabularMDP]) -> TabularMDP:
    """MDPs of equal shapes as one batch `[M, ...]`, for `vmap`.

    What planners may rely on (`is_dense`, `is_endless`) holds for the batch when it holds for all.

    Raises:
        ValueError: no MDP, or shapes that differ.

    Example:
        >>> mdp = outcome_mdp([[[1.0]]], [[[0]]], [[[2.0]]], discount=0.5)
        >>> stack_mdps([mdp, mdp]).prob.shape
        (2, 1, 1, 1)
    """
    shapes = {mdp.prob.shape for mdp in mdps}
    if len(shapes) != 1:
        raise ValueError(f"stack_mdps needs MDPs of one shape [S, A, K]; got {sorted(shapes)}.")
    if len({mdp.reward.shape for mdp in mdps}) > 1:
        mdps = [mdp.replace(reward=mdp.outcome_rewards) for mdp in mdps]
    names = ("is_dense", "is_endless")
    facts = {name: all(getattr(mdp, name) for mdp in mdps) for name in names}
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(m.replace(**facts) for m in mdps))
