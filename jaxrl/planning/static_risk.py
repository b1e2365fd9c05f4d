"""Static risk: CVaR and value at risk of the whole return, optimised over all policies."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core.mdp import TabularMDP
from jaxrl.core.settings import check_settings
from jaxrl.core.types import Array
from jaxrl.functionals.risk import CVaR, VaR
from jaxrl.planning.episodes import (
    check_episodes,
    check_stocks,
    choose_grid,
    episodes,
)
from jaxrl.planning.few_stocks import plan_exactly, reachable_stocks
from jaxrl.planning.stock import (
    BETWEEN,
    DOWN,
    SNAP,
    UP,
    StockPlan,
    StockTables,
    grid_steps,
    solve_stocks,
)
from jaxrl.planning.stock_laws import with_own_value


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
    objectives, see `nested_cvar` and `greedy_on_cvar`.

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
    check_settings(CVaR(level))
    check_episodes(mdp, horizon, initial_state)
    check_stocks(num_stocks)
    count, lattice = choose_grid(mdp, horizon, initial_state, num_stocks)
    is_free = num_stocks is None and lattice is None
    found = reachable_stocks(mdp, horizon, initial_state, level) if is_free else None
    if found is not None:
        return plan_exactly(found, partial(np.minimum, 0.0), partial(_best_cvar, float(level)))
    plan = _static_cvar(mdp, level, (initial_state, lattice), horizon, count)
    return plan if lattice is not None else with_own_value(mdp, plan, initial_state, CVaR(level))


@partial(jax.jit, static_argnames=("horizon", "num_stocks"))
def _static_cvar(
    mdp: TabularMDP,
    level: Array,
    numbers: tuple[Array | None, ...],
    horizon: int,
    num_stocks: int,
) -> StockPlan:
    initial_state, lattice = numbers
    model = episodes(mdp, horizon, initial_state)
    low, high = model.return_range()
    steps = grid_steps(model, low[:-1], high[:-1], num_stocks - 1, lattice)
    spacing = jnp.concatenate([steps[1:], steps[-1:]])
    index = jnp.arange(num_stocks, dtype=low.dtype)
    targets = low[0] + steps[0] * index  # [B], b
    modes = (DOWN, UP, BETWEEN)
    # Below -high no stock can be made up for, so that one unit less costs one unit.
    shortfall = partial(jnp.minimum, 0.0)
    found = solve_stocks(model, shortfall, -targets, -high[1:], spacing, num_stocks, modes, 1.0)
    expected = _from_initial(model.initial, found.utilities)  # [3, B], of min(G - b, 0)
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
    rounding = eps * (horizon + 1) * ((model.prob.shape[-1] + 8) * width + 8 * size)
    snapped = jnp.where(found.on_grid, found.displacement, horizon * SNAP * jnp.max(steps))
    return _plan(
        model.weights,
        value,
        spread + snapped + rounding,
        -targets,
        best,
        expected[0],
        found,
        (-high[1:-1], spacing[:-1]),
    )


def _best_cvar(level: float, targets: np.ndarray, utilities: np.ndarray) -> tuple[int, float]:
    objective = targets + utilities / level
    best = int(np.argmax(objective))
    return best, float(objective[best])


def _falls_short(near: float, stock: np.ndarray) -> np.ndarray:
    return -(stock < -near).astype(np.float64)


def _best_var(level: float, targets: np.ndarray, utilities: np.ndarray) -> tuple[int, float]:
    # A probability within rounding of `level` has reached it, as on a grid.
    tie = 64 * float(jnp.finfo(jnp.result_type(float)).eps)
    best = int(np.flatnonzero(-utilities < level - tie)[-1])
    return best, float(targets[best])


def _from_initial(initial: Array, values: Array) -> Array:
    """`values[modes, S, B]` in expectation over the first state."""
    counts = initial[:, None] > 0
    return jnp.sum(initial[:, None] * jnp.where(counts, values, 0.0), axis=1)


def _plan(
    weights: Array,
    value: Array,
    error_bound: Array,
    stocks: Array,
    best: Array,
    utilities: Array,
    found: StockTables,
    grids: tuple[Array, Array],
) -> StockPlan:
    """The plan whose stocks are rounded down."""
    return StockPlan(
        value=value,
        error_bound=error_bound,
        initial_stock=stocks[best],
        stocks=stocks,
        utilities=utilities,
        first_action=found.first_actions[:, best],
        table=found.table,
        starts=grids[0],
        steps=grids[1],
        weights=weights,
        lean=jnp.asarray(SNAP, stocks.dtype),
    )


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
    check_settings(CVaR(level))
    check_episodes(mdp, horizon, initial_state)
    check_stocks(num_stocks)
    count, lattice = choose_grid(mdp, horizon, initial_state, num_stocks)
    is_free = num_stocks is None and lattice is None
    found = reachable_stocks(mdp, horizon, initial_state, level) if is_free else None
    if found is not None:
        return plan_exactly(
            found, partial(_falls_short, found.near), partial(_best_var, float(level))
        )
    plan = _static_var(mdp, level, (initial_state, lattice), horizon, count)
    return plan if lattice is not None else with_own_value(mdp, plan, initial_state, VaR(level))


@partial(jax.jit, static_argnames=("horizon", "num_stocks"))
def _static_var(
    mdp: TabularMDP,
    level: Array,
    numbers: tuple[Array | None, ...],
    horizon: int,
    num_stocks: int,
) -> StockPlan:
    initial_state, lattice = numbers
    model = episodes(mdp, horizon, initial_state)
    low, high = model.return_range()
    steps = grid_steps(model, low[:-1], high[:-1], num_stocks - 2, lattice)
    spacing = jnp.concatenate([steps[1:], steps[-1:]])
    starts = -high[1:] - spacing  # one point more below, where every path falls short
    eps, size = jnp.finfo(low.dtype).eps, jnp.max(jnp.abs(jnp.stack([low, high])))
    slack = 10 * SNAP * jnp.min(steps) + 4 * eps * size
    targets = low[0] + steps[0] * jnp.arange(num_stocks, dtype=low.dtype)  # [B], x
    falls_short = lambda stock: -jnp.where(stock < -slack, 1.0, 0.0).astype(low.dtype)  # noqa: E731
    found = solve_stocks(model, falls_short, -targets, starts, spacing, num_stocks, (DOWN, UP))
    expected = _from_initial(model.initial, found.utilities)  # [2, B], -P(G < x)
    tie = eps * (horizon * (model.prob.shape[-1] + 2) + 8)
    holds = -expected[0] < level - tie
    best = jnp.argmax(jnp.where(holds, targets, -jnp.inf))
    fails = -expected[1] >= level + tie
    upper = jnp.minimum(jnp.min(jnp.where(fails, targets, jnp.inf)), high[0])
    reached = targets[best]
    value = jnp.where(found.aligned, reached, jnp.maximum(reached - slack, low[0]))
    rounding = 8 * eps * (horizon + 1) * size
    spread = jnp.where(found.aligned, 0.0, upper - value)
    grids = (starts[:-1], spacing[:-1])
    return _plan(model.weights, value, spread + rounding, -targets, best, expected[0], found, grids)
