"""Tables of others as a `TabularMDP`: gymnasium's toy texts, steps that last several unit steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxrl.core import TabularMDP, outcome_mdp


def gymnasium_mdp(
    table_or_env: Any, discount: float = 0.99, *, initial: ArrayLike | None = None
) -> TabularMDP:
    """The `TabularMDP` of a gymnasium table `P[s][a] = [(prob, next_state, reward, terminated)]`.

    Every outcome is kept as it stands and in its order: equal successors are not merged, for their
    rewards may differ. Shorter lists are filled up to the longest, K, with their own first outcome
    at probability 0. An action that a state does not list is illegal there.

    Args:
        table_or_env: the table, as dicts or lists; or an environment (wrapped or not) that has one
            as `P`, and perhaps its first law as `initial_state_distrib`.
        discount: gamma in [0, 1] [per step].
        initial: `[S]` law of the first state; default that of the environment, else state 0.

    Raises:
        ValueError: no table, states or actions that are not numbered from 0, or an outcome that is
            no such tuple (each said with its place); and what `outcome_mdp` refuses.

    Sources: gymnasium, the toy-text environments.

    Example:
        >>> table = [[[(0.5, 0, 0.0, False), (0.5, 1, 1.0, True)]], [[(1.0, 1, 0.0, True)]]]
        >>> gymnasium_mdp(table).prob.tolist()
        [[[0.5, 0.5]], [[1.0, 0.0]]]
    """
    table = table_or_env
    if not isinstance(table, Mapping | Sequence):
        env = getattr(table_or_env, "unwrapped", table_or_env)
        table = getattr(env, "P", None)
        if not isinstance(table, Mapping | Sequence):
            raise ValueError(
                f"{type(env).__name__} has no transition table P: give a table "
                "P[s][a] = [(prob, next_state, reward, terminated), ...] or a toy-text environment."
            )
        if initial is None:
            initial = getattr(env, "initial_state_distrib", None)
    rows = _numbered(table, "states", every=True)
    actions = [_numbered(row, f"actions of state {s}", every=False) for s, row in rows.items()]
    num_actions = 1 + max((a for row in actions for a in row), default=-1)
    lists = {(s, a): row[a] for s, row in enumerate(actions) for a in row}
    told = {place: _outcomes(place, found) for place, found in lists.items()}
    outcomes = {place: found for place, found in told.items() if found}
    if not outcomes:
        raise ValueError("the transition table is empty: it needs a state, an action, an outcome.")
    shape = (len(actions), num_actions, max(map(len, outcomes.values())))
    filled = np.zeros((*shape, 4))
    mask = np.zeros(shape[:2], bool)
    for (state, action), found in outcomes.items():
        filled[state, action] = (0.0, *found[0][1:])
        filled[state, action, : len(found)] = found
        mask[state, action] = True
    prob, next_state, reward, terminated = np.moveaxis(filled, -1, 0)
    return outcome_mdp(
        prob,
        next_state.astype(np.int64),
        reward,
        discount,
        initial=initial,
        terminal=terminated.astype(bool) if np.isin(terminated, (0, 1)).all() else terminated,
        mask=mask,
    )


def semi_markov_mdp(
    prob: ArrayLike,
    next_state: ArrayLike,
    reward: ArrayLike,
    duration: ArrayLike,
    discount: float = 0.99,
    *,
    initial: ArrayLike | None = None,
    terminal: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> TabularMDP:
    """An outcome list whose outcomes last tau unit steps each.

        q(s, a) = sum_k p_k (r_k + discount^tau_k (1 - terminal_k) max_b q(s'_k, b))

    The table says it by probabilities of ending, 1 - discount^(tau - 1) (1 - terminal), which every
    planner and every agent of the same discount takes as factors of what follows. Episodes sampled
    from it end where `terminal` is 1, and nowhere else.

    Args:
        prob: `[S, A, K]`, see `outcome_mdp`.
        next_state: `[S, A, K]`, after the whole step.
        reward: `[S, A, K]` or `[S, A]`, of the whole step, discounted to its beginning [return].
        duration: tau, broadcast to `[S, A, K]`, at least 1; need not be whole [unit steps].
        discount: gamma in (0, 1] [per unit step].
        initial: `[S]` law of the first state.
        terminal: `[S, A, K]` bool or probability.
        mask: `[S, A]` bool, true where the action is legal.

    Raises:
        ValueError: as `outcome_mdp`; a duration below 1, or a discount of 0.

    Example:
        >>> mdp = semi_markov_mdp([[[1.0]]], [[[0]]], [[[3.0]]], 2.0, discount=0.5)
        >>> from jaxrl.planning import value_iteration
        >>> f"{float(value_iteration(mdp).values[0]):.3f}"  # 3 / (1 - 1/4)
        '4.000'

    Sources:
        Puterman (1994), Markov Decision Processes, chapter 11; Bradtke & Duff (1995), Reinforcement
        learning methods for continuous-time Markov decision problems.
    """
    prob = np.asarray(prob, np.float64)
    duration = np.asarray(duration, np.float64)
    if not np.all(duration >= 1):
        raise ValueError(f"duration must be at least 1 unit step; the least is {duration.min()}.")
    if not 0.0 < float(discount) <= 1.0:
        raise ValueError(f"discount={discount} is out of range: give a value in (0, 1].")
    ends = np.zeros(prob.shape) if terminal is None else np.asarray(terminal, np.float64)
    survival = np.broadcast_to(discount ** (duration - 1.0), prob.shape) * (1.0 - ends)
    return outcome_mdp(
        prob, next_state, reward, discount, initial=initial, terminal=1.0 - survival, mask=mask
    )


def _numbered(rows: Any, what: str, every: bool) -> dict[int, Any]:
    """Rows of a dict or a list by number; with `every`, numbers leave no gap."""
    if not isinstance(rows, Mapping | Sequence) or isinstance(rows, str):
        raise ValueError(f"the {what} must be a dict or a list; got {type(rows).__name__}.")
    found = dict(rows) if isinstance(rows, Mapping) else dict(enumerate(rows))
    if not all(isinstance(key, int | np.integer) and key >= 0 for key in found):
        raise ValueError(f"the {what} must be numbered 0, 1, ...; got {_few(found)}.")
    if every and set(found) != set(range(len(found))):
        raise ValueError(f"the {what} must be numbered 0, 1, ... without a gap; got {_few(found)}.")
    return {int(key): found[key] for key in sorted(found)}


def _outcomes(place: tuple[int, int], found: Any) -> list[tuple[float, int, float, bool]]:
    """Outcomes of one pair; a clear error when one is not (prob, next_state, reward, end)."""
    where = f"P[{place[0]}][{place[1]}]"
    if not isinstance(found, Sequence) or isinstance(found, str):
        raise ValueError(f"{where} must be a list of outcomes; got {type(found).__name__}.")
    for outcome in found:
        good = isinstance(outcome, Sequence) and len(outcome) == 4
        if not good or not isinstance(outcome[1], int | np.integer):
            raise ValueError(
                f"{where} must hold (prob, next_state, reward, terminated) with an integer "
                f"next_state; got {outcome!r}."
            )
    return [tuple(outcome) for outcome in found]


def _few(keys: Mapping[Any, Any]) -> str:
    shown = [repr(key) for key in list(keys)[:4]]
    return ", ".join([*shown, "..."] if len(keys) > 4 else shown)
