"""Few reachable stocks, wherever they lie: the recursion of static risk over them alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core import struct
from jaxrl.core.mdp import TabularMDP
from jaxrl.core.types import Array
from jaxrl.planning.episodes import BLOCK, MOST_STOCKS, Episodes, episodes
from jaxrl.planning.stock import StockPlan


@struct.dataclass
class Reachable:
    """What may have been gained by every time and state, `N_t` points at time t, and at the end."""

    model: Episodes  # of NumPy arrays
    states: list[np.ndarray]  # [N_t] each
    gains: list[np.ndarray]  # [N_t] each, present values [return]
    # [N_t, A, K] each: the point after each outcome; from N_{t+1} on, the return it ends with.
    after: list[np.ndarray]
    returns: np.ndarray  # [R], increasing [return]
    near: float  # what is nearer counts as equal [return]


def reachable_stocks(
    mdp: TabularMDP, horizon: int, initial_state: int | Array | None, *others: Any
) -> Reachable | None:
    """Every gain that may be reached; None when they are more than 4096, or numbers are traced.

    Args:
        mdp: the model.
        horizon: H.
        initial_state: where episodes start.
        others: numbers that must be concrete too.
    """
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((mdp, initial_state, others))):
        return None
    model: Any = jax.tree.map(np.asarray, episodes(mdp, horizon, initial_state))
    possible = (model.prob > 0) & model.legal[:, :, None]
    weights, reward = (np.asarray(x, np.float64) for x in (model.weights, model.reward))
    size = np.sum(weights) * np.max(np.abs(reward), where=possible, initial=0.0)
    near = 4 * float(np.finfo(model.prob.dtype).eps) * float(size)
    (start,) = np.nonzero(model.initial > 0)
    states, gains, ends, after = [start], [np.zeros(start.shape)], [np.zeros(0)], []
    for time in range(horizon):
        here = states[-1]
        counts = possible[here]
        gained = gains[-1][:, None, None] + weights[time] * reward[here]
        over = counts & (model.over[here] | (time == horizon - 1))
        owners = model.next_state[here][counts & ~over]
        index, later, place = _merged(owners, gained[counts & ~over], near)
        states.append(owners[index])
        gains.append(later)
        ends.append(gained[over])
        after.append(np.zeros(counts.shape, np.int64))
        after[-1][counts & ~over] = place
        if sum(map(len, gains)) > MOST_STOCKS or sum(map(len, ends)) > 64 * MOST_STOCKS:
            return None
    all_ends = np.concatenate(ends)
    _, returns, place = _merged(np.zeros(all_ends.shape, int), all_ends, near)
    if sum(map(len, gains)) + len(returns) > MOST_STOCKS:
        return None
    done = 0
    for time, (here, rows) in enumerate(zip(states, after, strict=False)):
        over = possible[here] & (model.over[here] | (time == horizon - 1))
        rows[over] = len(states[time + 1]) + place[done : done + over.sum()]
        done += over.sum()
    return Reachable(model, states[:-1], gains[:-1], after, returns, near)


def _merged(
    owners: np.ndarray, values: np.ndarray, near: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values of each owner without repetition -> places of the first of each, they themselves in
    order of owner and size, and which of them every value is."""
    order = np.lexsort((values, owners))
    new = np.ones(order.shape, bool)
    new[1:] = (np.diff(owners[order]) != 0) | (np.diff(values[order]) > near)
    place = np.zeros(order.shape, np.int64)
    place[order] = np.cumsum(new) - 1
    return order[new], values[order[new]], place


def plan_exactly(
    found: Reachable,
    utility: Callable[[np.ndarray], np.ndarray],
    choose: Callable[[np.ndarray, np.ndarray], tuple[int, float]],
) -> StockPlan:
    """The best of all plans, for every return as the target.

    Args:
        found: what may be reached.
        utility: f, elementwise, of the return less the target.
        choose: from targets `[R]` and the best expected utility for each, `[R]`, which target, and
            the value.
    """
    model, horizon, targets = found.model, len(found.after), found.returns
    ended = utility(targets[:, None] - targets)
    later, actions = np.zeros((0, targets.size)), []
    for here, rows in zip(found.states[::-1], found.after[::-1], strict=True):
        both = np.concatenate([later, ended])
        q_values = np.full((model.legal.shape[1], here.size, targets.size), -np.inf)
        for action, q_value in enumerate(q_values):
            legal = model.legal[here, action]
            probs = np.asarray(model.prob[here, action], np.float64)
            total = sum(probs[:, k, None] * both[rows[:, action, k]] for k in range(probs.shape[1]))
            q_value[legal] = total[legal]
        actions.insert(0, np.argmax(q_values, axis=0))
        later = np.max(q_values, axis=0)
    utilities = np.asarray(model.initial, np.float64)[found.states[0]] @ later
    best, value = choose(targets, utilities)
    width = -(-max(1, *(here.size for here in found.states)) // BLOCK) * BLOCK
    first = np.argmax(model.legal, axis=1)
    points = np.full((horizon - 1, width), np.inf)
    table = np.broadcast_to(first[:, None], (horizon - 1, first.size, width)).copy()
    for row in range(1, horizon):
        known, which = np.unique(found.gains[row], return_inverse=True)
        points[row - 1, : known.size] = known - targets[best]
        table[row - 1, found.states[row], which] = actions[row][:, best]
    first[found.states[0]] = actions[0][:, best]
    dtype = model.prob.dtype
    size = np.max(np.abs(targets))
    rounding = float(np.finfo(dtype).eps) * 8 * (horizon + model.prob.shape[-1]) * size
    number = lambda x: jnp.asarray(x, dtype)  # noqa: E731
    return StockPlan(
        value=number(value),
        error_bound=number(horizon * found.near + rounding),
        initial_stock=number(-targets[best]),
        stocks=number(-targets),
        utilities=number(utilities),
        first_action=jnp.asarray(first, jnp.int32),
        table=jnp.asarray(table, jnp.int32),
        starts=number(points[:, 0]),
        steps=number(np.ones(horizon - 1)),
        weights=number(model.weights),
        lean=number(0.5),
        points=number(points),
    )
