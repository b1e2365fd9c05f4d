"""Expected utility of the whole return, by dynamic programming over states and a stock."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.mdp import TabularMDP
from jaxrl.core.types import Array
from jaxrl.planning.episodes import (
    Episodes,
    check_episodes,
    check_stocks,
    choose_grid,
    episodes,
)

DOWN, UP, BETWEEN = "down", "up", "between"
SNAP = 1e-3  # as a share of the grid's step: nearer than this to a grid point is on it


@struct.dataclass
class StockPlan:
    """A value of the whole return, and the policy over (time, state, stock) that attains it.

    The stock starts at `initial_stock` and follows `jaxrl.returns.next_stock`: c' = (c + r) /
    discount, so that discount^t c_t + (return from t on) = c_0 + (whole return) on every path.
    `stock_return_law` gives the law of the whole return under this policy.
    """

    value: Array  # [] [return], or [utility]
    error_bound: Array  # [], bounds |value - exact value|, rounding included; inf: unknown
    initial_stock: Array  # [] [return], c_0, the best of `stocks`
    stocks: Array  # [B] [return], the initial stocks that were tried
    utilities: Array  # [B] [utility], the best expected utility from each
    first_action: Array  # [S] int32, at time 0
    table: Array  # [H - 1, S, M] int32, actions at times 1 to H - 1
    starts: Array  # [H - 1] [return], the least present value of the stock in the table
    steps: Array  # [H - 1] [return], its spacing
    weights: Array  # [H], discount^t
    lean: Array  # [], what is added before an index is rounded down: 1/2 rounds to the nearest
    # [H - 1, M] [return], increasing: the stocks in the table that `initial_stock` may lead to,
    # where they are few and on no grid; the nearest one counts.
    points: Array | None = None

    def action(self, time: Array | int, state: Array | int, stock: Array | float) -> Array:
        """The action `[]` int32 at `time` in `state` with stock c_t [return]."""
        time = jnp.asarray(time)
        return self.action_at(time, state, self.weights[time] * stock)

    def action_at(self, time: Array | int, state: Array | int, worth: Array | float) -> Array:
        """As `action`, by the stock's present value discount^t c_t [return]."""
        time, state = jnp.asarray(time), jnp.asarray(state)
        if self.table.shape[0] == 0:
            return self.first_action[state]
        row = jnp.maximum(time - 1, 0)
        if self.points is not None:
            between = (self.points[row, :-1] + self.points[row, 1:]) / 2
            later = self.table[row, state, jnp.searchsorted(between, worth)]
            return jnp.where(time == 0, self.first_action[state], later)
        place = (worth - self.starts[row]) / self.steps[row]
        place = jnp.where(jnp.isfinite(place), place, 0.0)  # nothing counts at discount 0
        index = jnp.clip(jnp.floor(place + self.lean), 0, self.table.shape[-1] - 1)
        later = self.table[row, state, index.astype(jnp.int32)]
        return jnp.where(time == 0, self.first_action[state], later)


@struct.dataclass
class StockTables:
    """What `solve_stocks` finds."""

    utilities: Array  # [modes, S, B] [utility], from each initial stock
    first_actions: Array  # [S, B] int32
    table: Array  # [H - 1, S, M] int32
    displacement: Array  # [], sum over time of the most that rounding moves a stock [return]
    on_grid: Array  # [] bool, every stock met before the end is a grid point
    aligned: Array  # [] bool, and the last ones are multiples of the step


def solve_stocks(
    model: Episodes,
    utility: Callable[[Array], Array],
    points: Array,
    starts: Array,
    steps: Array,
    num_stocks: int,
    modes: tuple[str, ...],
    slope: float = 0.0,
) -> StockTables:
    """The stock recursion in present values w = discount^t c_t, which do not grow.

    W_H(s, w) = f(w),  W_t(s, w) = max_a E[f(w + g^t r) if over, else W_{t+1}(s', w + g^t r)]

    Later stocks live on grids. A stock off the grid is rounded down or up (bounds from below and
    above when f does not decrease), or shared between its neighbours, which moves the return by at
    most half a step in the mean.

    Args:
        model: the episodes.
        utility: f, elementwise.
        points: `[B]` stocks at time 0.
        starts: `[H]` first grid point of times 1 to H; the last one is not used.
        steps: `[H]` spacing, > 0.
        num_stocks: M, points of each grid.
        modes: how stocks are rounded; actions are those of the first.
        slope: of W below the grid; above it, and elsewhere below, W is constant.
    """
    by_outcome = [
        jnp.moveaxis(x, -1, 0) for x in (model.prob, model.next_state, model.reward, model.over)
    ]

    def backup(later: Array, weight: Array, points: Array, start: Array, step: Array, last: Array):
        def add(sums: tuple[Array, ...], outcome: tuple[Array, ...]):
            q_values, displacement, on_grid, aligned = sums
            prob, successor, reward, over = (x[:, :, None] for x in outcome)
            over, counts = over | last, (prob > 0) & model.legal[:, :, None]
            stock = points + weight * reward  # [S, A, P]
            place = (stock - start) / step
            off = jnp.abs(place - jnp.round(place))
            near = off <= SNAP
            place = jnp.where(near, jnp.round(place), place)
            index = jnp.clip(jnp.floor(place), 0, num_stocks - 2)
            share = jnp.clip(place - index, 0.0, 1.0)  # of the upper neighbour
            below = slope * step * jnp.minimum(place, 0.0)
            index = index.astype(jnp.int32)
            ended = utility(stock)
            rows = []
            for mode, table in zip(modes, later, strict=True):
                part = {DOWN: jnp.floor(share), UP: jnp.ceil(share), BETWEEN: share}[mode]
                lower, upper = table[successor, index], table[successor, index + 1]
                held = (1.0 - part) * lower + part * upper + below
                rows.append(jnp.where(counts, prob * jnp.where(over, ended, held), 0.0))
            goes_on = counts & ~over
            moved = jnp.where(near, off, 2.0 * share * (1.0 - share)) * step
            displacement = jnp.maximum(displacement, jnp.max(jnp.where(goes_on, moved, 0.0)))
            on_grid &= jnp.all(near | ~goes_on)
            ends_near = jnp.abs(stock / step - jnp.round(stock / step)) <= SNAP
            aligned &= jnp.all(ends_near | ~(counts & over))
            return (q_values + jnp.stack(rows), displacement, on_grid, aligned), None

        shape = (len(modes), *model.legal.shape, points.shape[0])
        sums = jnp.zeros(shape, later.dtype), jnp.zeros((), later.dtype), True, True
        (q_values, *facts), _ = jax.lax.scan(add, jax.tree.map(jnp.asarray, sums), by_outcome)
        q_values = jnp.where(model.legal[:, :, None], q_values, -jnp.inf)
        actions = jnp.argmax(q_values[0], axis=1).astype(jnp.int32)  # [S, P]
        return jnp.max(q_values, axis=2), actions, *facts

    def sweep(later: Array, time: tuple[Array, ...]):
        weight, here, spacing, start, step, last = time
        grid = here + spacing * jnp.arange(num_stocks, dtype=later.dtype)
        table, *rest = backup(later, weight, grid, start, step, last)
        return table, tuple(rest)

    horizon = model.horizon
    last = jnp.arange(horizon) == horizon - 1
    times = (model.weights[1:], starts[:-1], steps[:-1], starts[1:], steps[1:], last[1:])
    end = jnp.zeros((len(modes), model.legal.shape[0], num_stocks), model.prob.dtype)
    later, (table, *facts) = jax.lax.scan(sweep, end, times, reverse=True)
    utilities, first, *first_facts = backup(
        later, model.weights[0], points, starts[0], steps[0], last[0]
    )
    moved, on_grid, aligned = (
        jnp.concatenate([x[None], y]) for x, y in zip(first_facts, facts, strict=True)
    )
    on_grid = jnp.all(on_grid)
    return StockTables(utilities, first, table, jnp.sum(moved), on_grid, on_grid & jnp.all(aligned))


def grid_steps(
    model: Episodes, low: Array, high: Array, num_cells: int, lattice: Array | None
) -> Array:
    """Spacing `[H]` of grids that cover `[low, high]` `[H]`: one for all times when undiscounted;
    that of the `lattice` when there is one."""
    if lattice is not None:
        return jnp.full_like(low, lattice)
    width = high - low
    width = jnp.where(model.weights[-1] == 1.0, jnp.max(width), width)
    return jnp.where(width > 0, width / num_cells, 1.0)


@struct.dataclass
class _Plain:
    """A plain function as a static part of a program."""

    function: Callable = struct.field(pytree_node=False)

    def __call__(self, *arguments: Array) -> Array:
        return self.function(*arguments)


def stock_augmented(
    mdp: TabularMDP,
    utility: Callable[[Array], Array],
    *,
    horizon: int,
    initial_stock: Array | float = 0.0,
    outer: Callable[[Array, Array], Array] | None = None,
    initial_state: int | Array | None = None,
    num_stocks: int | None = None,
    lipschitz: float | Array | None = None,
) -> StockPlan:
    """The best expected utility of stock plus return, over all history-dependent policies.

        max over c_0 of  outer(c_0, max over policies of E f(c_0 + G)),
        G = sum_{t < H} discount^t r_t

    This is *static* risk: on the whole return. One recursion over (time, state, stock) serves every
    initial stock. f(x) = x is the risk-neutral optimum; f(x) = -x^2 keeps the return near -c_0;
    f(x) = min(x, 0) with outer(c, u) = u / level - c is `static_cvar`. The utility acts on present
    values, so that no f needs to be indifferent to the discount.

    Args:
        mdp: the model; a fractional `terminal` is the probability of ending.
        utility: f, elementwise on `[return]`: a function, or a struct whose leaves are swept.
        horizon: H, steps.
        initial_stock: c_0, `[]` or `[B]` to choose from [return].
        outer: what is maximised over the initial stocks, of `stocks[B]` and `utilities[B]`;
            default the utility.
        initial_state: where episodes start; default the law `mdp.initial`.
        num_stocks: M, grid points of the stock. Default: the points of the reachable lattice when
            discounted rewards lie on one (as whole rewards do at discount 1, and over a few steps
            at 1/2), the numbers are concrete and at most 4096 points are enough, rounded up;
            otherwise 1025.
        lipschitz: a Lipschitz constant of f where c_0 + G may fall [utility / return], for the
            error bound off the lattice.

    Returns:
        `StockPlan`; `value` is that of `outer`. Off the lattice, `error_bound` is of the utility
        and infinite unless `lipschitz` is given and `outer` is not.

    Raises:
        ValueError: a concrete argument is out of range.

    Numerics:
        Off the lattice a stock is shared between two grid points, which moves the return by at most
        half a step a time in the mean. The table of actions is looked up at the nearest point.

    Example:
        >>> from jaxrl import tabular_mdp
        >>> mdp = tabular_mdp([[[1.0], [1.0]]], [[1.0, 3.0]], discount=1.0)
        >>> plan = stock_augmented(mdp, lambda x: -((x - 4.0) ** 2), horizon=2)
        >>> float(plan.value)  # 1 + 3
        0.0

    Sources:
        Pires et al. (2025), Optimizing return distributions with distributional dynamic
        programming; Bäuerle & Ott (2011), Markov decision processes with average-value-at-risk
        criteria.
    """
    check_episodes(mdp, horizon, initial_state)
    check_stocks(num_stocks)
    stocks = jnp.atleast_1d(jnp.asarray(initial_stock, mdp.prob.dtype))
    if stocks.ndim != 1:
        raise ValueError(
            f"initial_stock must be one number or a list; its shape is {stocks.shape}."
        )
    if lipschitz is not None and not isinstance(lipschitz, jax.core.Tracer) and lipschitz < 0:
        raise ValueError(f"lipschitz={lipschitz} is negative.")
    num_stocks, lattice = choose_grid(mdp, horizon, initial_state, num_stocks, stocks)
    as_struct = lambda f: f if f is None or hasattr(f, "replace") else _Plain(f)  # noqa: E731
    return _stock_augmented(
        mdp,
        as_struct(utility),
        as_struct(outer),
        stocks,
        (initial_state, lattice, lipschitz),
        horizon,
        num_stocks,
    )


@partial(jax.jit, static_argnames=("horizon", "num_stocks"))
def _stock_augmented(
    mdp: TabularMDP,
    utility: Callable,
    outer: Callable | None,
    stocks: Array,
    numbers: tuple[Array | None, ...],
    horizon: int,
    num_stocks: int,
) -> StockPlan:
    initial_state, lattice, lipschitz = numbers
    model = episodes(mdp, horizon, initial_state)
    low, high = model.gained_range()
    low, high = low + jnp.min(stocks), high + jnp.max(stocks)
    steps = grid_steps(model, low, high, num_stocks - 1, lattice)
    following = lambda x: jnp.concatenate([x[1:], x[-1:]])  # noqa: E731
    starts, spacing = following(low), following(steps)
    found = solve_stocks(model, utility, stocks, starts, spacing, num_stocks, (BETWEEN,))
    counts = model.initial[:, None] > 0
    values = jnp.where(counts, found.utilities[0], 0.0)
    expected = jnp.sum(model.initial[:, None] * values, axis=0)  # [B]
    objective = expected if outer is None else outer(stocks, expected)
    best = jnp.argmax(objective)
    eps = jnp.finfo(values.dtype).eps
    size = jnp.max(jnp.abs(expected))
    rounding = eps * (horizon + 1) * (model.prob.shape[-1] + 4) * size
    if lipschitz is None or outer is not None:
        moved = jnp.where(found.on_grid, 0.0, jnp.inf)
    else:
        moved = lipschitz * (found.displacement + 4 * horizon * eps * jnp.max(jnp.abs(low) + high))
    return StockPlan(
        value=objective[best],
        error_bound=rounding + moved,
        initial_stock=stocks[best],
        stocks=stocks,
        utilities=expected,
        first_action=found.first_actions[:, best],
        table=found.table,
        starts=starts[:-1],
        steps=spacing[:-1],
        weights=model.weights,
        lean=jnp.asarray(0.5, values.dtype),
    )
