"""Static risk: CVaR and value at risk of the whole return, optimised over all policies."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core.mdp import TabularMDP
from jaxrl.core.settings import check_settings
from jaxrl.core.types import Array, Number, is_traced
from jaxrl.functionals.risk import CVaR, VaR
from jaxrl.planning.episodes import Episodes, check_episodes, episodes, on_episodes
from jaxrl.planning.stock import (
    BETWEEN,
    BLOCK,
    DOWN,
    MOST_STOCKS,
    SNAP,
    UP,
    StockPlan,
    choose_grid,
    grid_steps,
    solve_stocks,
    with_own_value,
)


def static_cvar(
    mdp: TabularMDP,
    *,
    level: float | Array,
    horizon: int,
    initial_state: int | Array | None = None,
    num_stocks: int | None = None,
) -> StockPlan:
    """The best CVaR of the whole return, over all history-dependent policies.

        max over policies of CVaR_level(G) = max_b { b - V_0(s, b) / level },
        V_t(s, b) = min_a E V_{t+1}(s', b - discount^t r),  V_H(s, b) = max(b, 0)

    The best policy looks at the state, the time and what is still missing to the target b.
    `level = 1` is the best mean. This is *static* risk; nested and greedy CVaR are other
    objectives, see `nested_cvar` and
    `distributional_value_iteration`.

    Args:
        mdp: the model; a fractional `terminal` is the probability of ending.
        level: share of the lower tail, in (0, 1].
        horizon: H, steps.
        initial_state: where episodes start; default the law `mdp.initial`, whose draw is then part
            of the return's law.
        num_stocks: M, grid points of the stock. Default: the points of the reachable lattice when
            discounted rewards lie on one (as whole rewards do at discount 1, and over a few steps
            at 1/2), the numbers are concrete and at most 4096 points are enough, rounded up;
            otherwise 1025.

    Returns:
        `StockPlan` with c_0 = -b: its `utilities` are E min(c_0 + G, 0) for every target. Following
        it attains at least `value - error_bound`.

    Raises:
        ValueError: a concrete argument is out of range.

    Numerics:
        Exact up to rounding on a lattice, and where at most 4096 gains and returns are reachable
        and the numbers concrete: the plan is then of those, and its table holds only what
        `initial_stock` may lead to. Elsewhere stocks rounded down and up at every step bound
        the return of every path from below and above, hence its CVaR: `error_bound` is the distance
        from `value`, which interpolates, to the farther of the two, and shrinks like H range / M.
        Where following the plan gives each state at most 256 different stocks, `value` is what it
        attains, to rounding: the optimum wherever the plan is right.

    Example:
        >>> from jaxrl import outcome_mdp
        >>> half, stay = [0.5, 0.5], [0, 0]
        >>> mdp = outcome_mdp([[half, half]], [[stay, stay]], [[[0.0, 4.0], [1.0, 1.0]]], 1.0)
        >>> float(static_cvar(mdp, level=0.75, horizon=2).value)  # the coin, then what is missing
        3.0

    Sources:
        Bäuerle & Ott (2011), Markov decision processes with average-value-at-risk criteria;
        Wang, Kallus & Sun (2023), Near-minimax-optimal risk-sensitive reinforcement learning with
        CVaR, section 3; Pires et al. (2025) for the stock.
    """
    utility = lambda near: partial(np.minimum, 0.0)  # noqa: E731
    choose = partial(_best_cvar, level)
    return _plan(
        mdp, CVaR(level), _cvar_on_grid, utility, choose, horizon, initial_state, num_stocks
    )


def _cvar_on_grid(
    model: Episodes, level: Array, lattice: Array | None, num_stocks: int
) -> StockPlan:
    low, high = model.return_range()
    steps = grid_steps(model, low[:-1], high[:-1], num_stocks - 1, lattice)
    spacing = jnp.concatenate([steps[1:], steps[-1:]])
    index = jnp.arange(num_stocks, dtype=low.dtype)
    targets = low[0] + steps[0] * index  # [B], b
    modes = (DOWN, UP, BETWEEN)
    # Below -high no stock can be made up for, so that one unit less costs one unit.
    shortfall = partial(jnp.minimum, 0.0)
    found = solve_stocks(model, shortfall, -targets, -high[1:], spacing, num_stocks, modes, 1.0)
    expected = model.at_start(found.utilities)  # [3, B], of min(G - b, 0)
    objective = targets + expected / level
    best = jnp.argmax(objective[0])
    lower, upper, middle = jnp.max(objective, axis=1)
    # Between two targets: the shortfall neither falls nor rises faster than the target.
    short = -expected[1]
    rise = jnp.clip(short[1:] - short[:-1], 0.0, steps[0])
    between = targets[1:] - rise - short[:-1] / level
    upper = jnp.where(found.aligned, upper, jnp.maximum(upper, jnp.max(between)))
    value = jnp.clip(middle, lower, upper)
    spread = jnp.maximum(value - lower, upper - value)
    width, size = high[0] - low[0], jnp.max(jnp.abs(jnp.stack([low, high])))
    eps = jnp.finfo(low.dtype).eps
    rounding = eps * (model.horizon + 1) * ((model.prob.shape[-1] + 8) * width + 8 * size)
    snapped = jnp.where(found.on_grid, found.displacement, model.horizon * SNAP * jnp.max(steps))
    error_bound = spread + snapped + rounding
    return found.plan(model, best, value, error_bound, expected[0], SNAP)


def _best_cvar(level: Number, targets: np.ndarray, utilities: np.ndarray) -> tuple[int, float]:
    objective = targets + utilities / float(level)
    best = int(np.argmax(objective))
    return best, float(objective[best])


def _best_var(level: Number, targets: np.ndarray, utilities: np.ndarray) -> tuple[int, float]:
    # A probability within rounding of `level` has reached it, as on a grid.
    tie = 64 * float(jnp.finfo(jnp.result_type(float)).eps)
    best = int(np.flatnonzero(-utilities < float(level) - tie)[-1])
    return best, float(targets[best])


def static_var(
    mdp: TabularMDP,
    *,
    level: float | Array,
    horizon: int,
    initial_state: int | Array | None = None,
    num_stocks: int | None = None,
) -> StockPlan:
    """The best value at risk of the whole return, over all history-dependent policies.

        max over policies of VaR_level(G) = max { x : min over policies of P(G < x) < level }

    VaR is the *lower* quantile, inf { x : P(G <= x) >= level }. This is *static* risk.

    Args:
        mdp: the model; a fractional `terminal` is the probability of ending.
        level: of the quantile, in (0, 1].
        horizon: H, steps.
        initial_state: where episodes start; default the law `mdp.initial`.
        num_stocks: M, grid points of the stock; default as in `static_cvar`.

    Returns:
        `StockPlan` with c_0 = -x: its `utilities` are -P(G < x) for every target x. Following it
        attains at least `value` (off the lattice: never above the optimum).

    Raises:
        ValueError: a concrete argument is out of range.

    Numerics:
        A probability within rounding of `level` counts as having reached it. Exact where
        `static_cvar` is; elsewhere between the values with stocks rounded down (reported) and up,
        or what following the plan attains, as there. A quantile may jump, so that the bound need
        not shrink with the grid.

    Example:
        >>> from jaxrl import outcome_mdp
        >>> mdp = outcome_mdp([[[0.25, 0.75]]], [[[0, 0]]], [[[0.0, 1.0]]], 1.0)
        >>> float(static_var(mdp, level=0.5, horizon=2).value)  # 0, 1, 2: 1/16, 6/16, 9/16
        2.0

    Sources:
        Filar, Krass & Ross (1995), Percentile performance criteria for limiting average Markov
        decision processes; Wu & Lin (1999), Minimizing risk models in Markov decision processes
        with policies depending on target values.
    """
    utility = lambda near: lambda stock: -(stock < -near).astype(np.float64)  # noqa: E731
    choose = partial(_best_var, level)
    return _plan(mdp, VaR(level), _var_on_grid, utility, choose, horizon, initial_state, num_stocks)


def _var_on_grid(
    model: Episodes, level: Array, lattice: Array | None, num_stocks: int
) -> StockPlan:
    low, high = model.return_range()
    steps = grid_steps(model, low[:-1], high[:-1], num_stocks - 2, lattice)
    spacing = jnp.concatenate([steps[1:], steps[-1:]])
    starts = -high[1:] - spacing  # one point more below, where every path falls short
    eps, size = jnp.finfo(low.dtype).eps, jnp.max(jnp.abs(jnp.stack([low, high])))
    slack = 10 * SNAP * jnp.min(steps) + 4 * eps * size
    targets = low[0] + steps[0] * jnp.arange(num_stocks, dtype=low.dtype)  # [B], x
    falls_short = lambda stock: -jnp.where(stock < -slack, 1.0, 0.0).astype(low.dtype)  # noqa: E731
    found = solve_stocks(model, falls_short, -targets, starts, spacing, num_stocks, (DOWN, UP))
    expected = model.at_start(found.utilities)  # [2, B], -P(G < x)
    tie = eps * (model.horizon * (model.prob.shape[-1] + 2) + 8)
    holds = -expected[0] < level - tie
    best = jnp.argmax(jnp.where(holds, targets, -jnp.inf))
    fails = -expected[1] >= level + tie
    upper = jnp.minimum(jnp.min(jnp.where(fails, targets, jnp.inf)), high[0])
    reached = targets[best]
    value = jnp.where(found.aligned, reached, jnp.maximum(reached - slack, low[0]))
    rounding = 8 * eps * (model.horizon + 1) * size
    spread = jnp.where(found.aligned, 0.0, upper - value)
    return found.plan(model, best, value, spread + rounding, expected[0], SNAP)


def _plan(
    mdp: TabularMDP,
    functional: CVaR | VaR,
    on_grid: Callable[..., StockPlan],
    utility: Callable[[float], Callable[[np.ndarray], np.ndarray]],
    choose: Callable[[np.ndarray, np.ndarray], tuple[int, float]],
    horizon: int,
    initial_state: int | Array | None,
    num_stocks: int | None,
) -> StockPlan:
    """On the lattice where there is one, else over the reachable stocks if few, else on a grid.

    Args:
        mdp: the model.
        functional: of the whole return.
        on_grid: the plan on a grid.
        utility: see `_plan_exactly`.
        choose: see there.
        horizon: H.
        initial_state: where episodes start.
        num_stocks: what was asked for, or None.
    """
    check_settings(CVaR(functional.level))
    check_episodes(mdp, horizon, initial_state)
    count, lattice = choose_grid(mdp, horizon, initial_state, num_stocks)
    if num_stocks is None and lattice is None and not is_traced(mdp, initial_state, functional):
        plan = _plan_exactly(mdp, horizon, initial_state, utility, choose)
        if plan is not None:
            return plan
    numbers = functional.level, lattice
    plan = on_episodes(on_grid, mdp, horizon, initial_state, *numbers, sizes=(count,))
    return plan if lattice is not None else with_own_value(mdp, plan, initial_state, functional)


def _plan_exactly(
    mdp: TabularMDP,
    horizon: int,
    initial_state: int | Array | None,
    utility: Callable[[float], Callable[[np.ndarray], np.ndarray]],
    choose: Callable[[np.ndarray, np.ndarray], tuple[int, float]],
) -> StockPlan | None:
    """The best of all plans, for every return as the target, where few gains may be reached.

    Args:
        mdp: the model, of concrete numbers.
        horizon: H.
        initial_state: where episodes start.
        utility: of the distance at which returns count as equal: f, elementwise, of the return less
            the target.
        choose: from targets `[R]` and the best expected utility for each, `[R]`, which target, and
            the value of the plan for it.

    Returns:
        None when gains and returns are more than 4096.
    """
    model: Any = jax.tree.map(np.asarray, episodes(mdp, horizon, initial_state))
    possible = model.possible
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
    _, targets, place = _merged(np.zeros(all_ends.shape, int), all_ends, near)
    if sum(map(len, gains)) + targets.size > MOST_STOCKS:
        return None
    done = 0
    for time, (here, rows) in enumerate(zip(states, after, strict=False)):
        over = possible[here] & (model.over[here] | (time == horizon - 1))
        rows[over] = len(states[time + 1]) + place[done : done + over.sum()]
        done += over.sum()

    ended = utility(near)(targets[:, None] - targets)
    later, actions = np.zeros((0, targets.size)), []
    for here, rows in zip(states[:-1][::-1], after[::-1], strict=True):
        both = np.concatenate([later, ended])
        q_values = np.full((model.legal.shape[1], here.size, targets.size), -np.inf)
        for action, q_value in enumerate(q_values):
            legal = model.legal[here, action]
            probs = np.asarray(model.prob[here, action], np.float64)
            worth = (
                p[:, None] * both[row] for p, row in zip(probs.T, rows[:, action].T, strict=True)
            )
            q_value[legal] = np.asarray(sum(worth))[legal]
        actions.insert(0, np.argmax(q_values, axis=0))
        later = np.max(q_values, axis=0)
    utilities = np.asarray(model.initial, np.float64)[states[0]] @ later
    best, value = choose(targets, utilities)
    width = -(-max(1, *(here.size for here in states[:-1])) // BLOCK) * BLOCK
    first = np.argmax(model.legal, axis=1)
    points = np.full((horizon - 1, width), np.inf)
    table = np.broadcast_to(first[:, None], (horizon - 1, first.size, width)).copy()
    for row in range(1, horizon):
        known, which = np.unique(gains[row], return_inverse=True)
        points[row - 1, : known.size] = known - targets[best]
        table[row - 1, states[row], which] = actions[row][:, best]
    first[states[0]] = actions[0][:, best]
    dtype = model.prob.dtype
    size = np.max(np.abs(targets))
    rounding = float(np.finfo(dtype).eps) * 8 * (horizon + model.prob.shape[-1]) * size
    number = lambda x: jnp.asarray(x, dtype)  # noqa: E731
    return StockPlan(
        value=number(value),
        error_bound=number(horizon * near + rounding),
        initial_stock=number(-targets[best]),
        stocks=number(-targets),
        utilities=number(utilities),
        first_action=jnp.asarray(first, jnp.int32),
        table=jnp.asarray(table, jnp.int32),
        edges=number((points[:, :-1] + points[:, 1:]) / 2),
        weights=number(model.weights),
    )


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
