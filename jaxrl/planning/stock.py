"""Expected utility of the whole return, by dynamic programming over states and a stock."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core import Struct
from jaxrl.core.mdp import TabularMDP
from jaxrl.core.types import Array, is_traced
from jaxrl.planning.episodes import Episodes, check_episodes, on_episodes
from jaxrl.planning.return_laws import ReturnLaw, law_of_plan
from jaxrl.planning.solution import check_int, check_range, check_shape

MOST_STOCKS = 4096  # the finest lattice that is chosen without being asked for
BLOCK = 64  # lattices are as large as a multiple of this, so that few programs are compiled
# Of a stock off the grid: its share of the upper neighbour.
DOWN, UP, BETWEEN = jnp.floor, jnp.ceil, jnp.asarray
SNAP = 1e-3  # as a share of the grid's step: nearer than this to a grid point is on it


_search = jnp.vectorize(partial(jnp.searchsorted, side="right"), signature="(m),()->()")


class StockPlan(Struct):
    """A value of the whole return, and the policy over (time, state, stock) that attains it.

    The stock starts at `initial_stock` and follows `jaxrl.returns.next_stock`: c' = (c + r) /
    discount, so that discount^t c_t + (return from t on) = c_0 + (whole return) on every path.
    `return_law` gives the law of the whole return under this policy.
    """

    value: Array  # [] [return], or [utility]
    error_bound: Array  # [], bounds |value - exact value|, rounding included; inf: unknown
    initial_stock: Array  # [] [return], c_0, the best of `stocks`
    stocks: Array  # [B] [return], the initial stocks that were tried
    utilities: Array  # [B] [utility], the best expected utility from each
    first_action: Array  # [S] int32, at time 0
    table: Array  # [H - 1, S, M] int32, actions at times 1 to H - 1
    # [H - 1, M - 1] [return], present values of the stock: from each on, the next column counts.
    edges: Array
    weights: Array  # [H], discount^t

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
        column = _search(self.edges[row], worth)
        later = self.table[row, state, column]
        return jnp.where(time == 0, self.first_action[state], later)

    def return_law(
        self,
        mdp: TabularMDP,
        *,
        initial_state: int | Array | None = None,
        num_atoms: int = 512,
    ) -> ReturnLaw:
        """The law of G = sum_{t < H} discount^t r_t under this policy.

            P_0(s, w) = initial(s) at w = c_0,   w = discount^t c_t = c_0 + what was gained so far
            P_{t+1}(s', w + discount^t r) = sum over (s, w) of P_t(s, w) prob(r, s' | s, a_t(s, w))
            G = w - c_0 where the episode is over or time H is reached

        Unlike `jaxrl.planning.return_law` it goes forward in time: the policy asks what was gained,
        not only when. Equal stocks of a state are merged as they arise. The law is exact, and says
        so, as long as no state has more than `num_atoms` different stocks at a time, nor the ended
        episodes more different returns. The plan's number of stocks is enough when discount = 1 and
        rewards lie on a lattice.

        Args:
            mdp: the model that was planned on.
            initial_state: where episodes start, as given to the planner; default `mdp.initial`.
            num_atoms: N, stocks kept for each state, and returns.

        Returns:
            `ReturnLaw`. Beyond `num_atoms`, near atoms are merged to their mean: of returns, whose
            distance moved is in `error_bound`; of stocks too, but another stock may mean another
            action, so that `error_bound` is then infinite.

        Raises:
            ValueError: a concrete argument is out of range, or the plan is of another model's size.

        Numerics:
            Stocks within 16 units of rounding of the largest one count as equal.

        Example:
            >>> from jaxrl import outcome_mdp
            >>> from jaxrl.planning import static_cvar
            >>> half, stay = [0.5, 0.5], [0, 0]
            >>> mdp = outcome_mdp([[half, half]], [[stay, stay]], [[[0.0, 4.0], [1.0, 1.0]]], 1.0)
            >>> plan = static_cvar(mdp, level=0.75, horizon=2)
            >>> law = plan.return_law(mdp, num_atoms=4).law
            >>> law.atoms.tolist(), law.probs.tolist()  # the coin; then again after 0, or a sure 1
            ([0.0, 4.0, 5.0, 5.0], [0.25, 0.25, 0.5, 0.0])

        Sources:
            Bäuerle & Ott (2011), Markov decision processes with average-value-at-risk criteria
            (the stock as a state).
        """
        check_int("num_atoms", num_atoms)
        if self.first_action.shape != (mdp.num_states,):
            raise ValueError(
                f"The plan is of {self.first_action.shape[-1]} states, the model of "
                f"{mdp.num_states}: give the model that was planned on, and jax.vmap over batches."
            )
        horizon = self.weights.shape[-1]
        return on_episodes(law_of_plan, mdp, horizon, initial_state, self, sizes=(num_atoms,))


class StockTables(Struct):
    """What `solve_stocks` finds, and where."""

    stocks: Array  # [B] [return], at time 0
    starts: Array  # [H] [return], first grid points of times 1 to H
    steps: Array  # [H] [return]
    utilities: Array  # [modes, S, B] [utility], from each initial stock
    first_actions: Array  # [S, B] int32
    table: Array  # [H - 1, S, M] int32
    displacement: Array  # [], sum over time of the most that rounding moves a stock [return]
    on_grid: Array  # [] bool, every stock met before the end is a grid point
    aligned: Array  # [] bool, and the last ones are multiples of the step

    def plan(
        self,
        model: Episodes,
        best: Array,
        value: Array,
        error_bound: Array,
        utilities: Array,
        lean: float,
    ) -> StockPlan:
        """The plan from the initial stock of number `best`."""
        # Rounded to the nearest grid point, or down but for rounding.
        columns = jnp.arange(1, self.table.shape[-1]) - jnp.asarray(lean, value.dtype)
        return StockPlan(
            value=value,
            error_bound=error_bound,
            initial_stock=self.stocks[best],
            stocks=self.stocks,
            utilities=utilities,
            first_action=self.first_actions[:, best],
            table=self.table,
            edges=self.starts[:-1, None] + columns * self.steps[:-1, None],
            weights=model.weights,
        )


def solve_stocks(
    model: Episodes,
    utility: Callable[[Array], Array],
    points: Array,
    starts: Array,
    steps: Array,
    num_stocks: int,
    modes: tuple[Callable[[Array], Array], ...],
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
    by_outcome = tuple(
        jnp.moveaxis(x, -1, 0) for x in (model.prob, model.next_state, model.reward, model.over)
    )

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
                part = mode(share)
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
    facts = jnp.sum(moved), on_grid, on_grid & jnp.all(aligned)
    return StockTables(points, starts, steps, utilities, first, table, *facts)


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


def _stock_width(model: Episodes, stocks: Array | None) -> Array:
    """The greatest range `[]` [return] of a stock at one time: what may follow, when `stocks` is
    None, or from those at time 0 what has been gained."""
    low, high = model.return_range() if stocks is None else model.gained_range()
    return jnp.max(high - low) + (0.0 if stocks is None else jnp.ptp(stocks))


def choose_grid(
    mdp: TabularMDP,
    horizon: int,
    initial_state: int | Array | None,
    num_stocks: int | None,
    stocks: Array | None = None,
) -> tuple[int, float | None]:
    """How many grid points of the stock, and the step of their lattice when one is evident.

    Args:
        mdp: the model.
        horizon: H.
        initial_state: where episodes start.
        num_stocks: what was asked for, or None.
        stocks: initial stocks, of `_stock_width`.
    """
    if num_stocks is not None:
        check_int("num_stocks", num_stocks, 3)
        return num_stocks, None
    step = lattice_step(mdp, horizon, stocks)
    if step is None or is_traced(initial_state):
        return 1025, None
    width = on_episodes(_stock_width, mdp, horizon, initial_state, stocks)
    count = round(float(width) / step) + 2
    if count > MOST_STOCKS:
        return 1025, None
    return -(-count // BLOCK) * BLOCK, step


def lattice_step(mdp: TabularMDP, horizon: int, also: Array | None = None) -> float | None:
    """The step of a lattice that holds every return; None when none is evident.

    It can only be found from concrete numbers: under `jit` and `vmap` there is none.

    Args:
        mdp: the model.
        horizon: H; with a discount below 1 the lattice is finer the longer it is.
        also: further numbers whose differences lie on the lattice, such as initial stocks.
    """
    leaves = [mdp.prob, mdp.reward, mdp.terminal, mdp.legal, mdp.discount, also]
    if is_traced(leaves):
        return None
    possible = (np.asarray(mdp.prob) > 0) & np.asarray(mdp.legal)[:, :, None]
    rewards = np.unique(np.asarray(mdp.outcome_rewards, np.float64)[possible])
    ends = np.any(np.asarray(mdp.terminal, np.float64)[possible] > 0)
    gaps = np.unique(np.abs(rewards if ends else rewards - rewards[0]))
    if (discount := float(mdp.discount)) != 1.0:
        # The step divides the last reward's worth.
        if discount ** (horizon - 1) < 1.0 / MOST_STOCKS or horizon * gaps.size > 16 * MOST_STOCKS:
            return None
        gaps = np.outer(gaps, discount ** np.arange(horizon)).reshape(-1)
    if also is not None:
        others = np.asarray(also, np.float64).reshape(-1)
        gaps = np.concatenate([gaps, np.abs(others - others[0])])
    scale = float(gaps.max(initial=0.0))
    if scale == 0.0:
        return 1.0
    gaps = gaps[gaps > 4 * float(jnp.finfo(mdp.prob.dtype).eps) * scale]  # the others are rounding
    step, tolerance = 0.0, 1e-5 * scale
    for gap in gaps:
        step, gap = max(step, float(gap)), min(step, float(gap))
        while gap > tolerance:  # Euclid's algorithm
            step, gap = gap, math.fmod(step, gap)
            gap = 0.0 if step - gap <= tolerance else gap
    step = scale / round(scale / step)  # without the remainders' rounding
    counts = gaps / step
    whole = np.maximum(np.round(counts), 1.0)
    return step if np.all(np.abs(counts - whole) <= 1e-4) else None


_FEW = 256  # different stocks of a state, and returns, for which the law of a plan is small


def with_own_value(
    mdp: TabularMDP,
    plan: StockPlan,
    initial_state: int | Array | None,
    functional: Callable[[Array, Array], Array],
) -> StockPlan:
    """A plan of rounded stocks, worth what following it attains where its law is small.

    Args:
        mdp: the model that was planned on.
        plan: with a bound on the best value from above, `value + error_bound`.
        initial_state: as given to the planner.
        functional: what is planned for, of `probs[N]` and `atoms[N]`.
    """
    if mdp.num_states * mdp.prob.shape[-1] * _FEW > 1_000_000:
        return plan
    found = plan.return_law(mdp, initial_state=initial_state, num_atoms=_FEW)
    value = functional(found.law.probs, found.law.atoms)
    missed = jnp.maximum(plan.value + plan.error_bound - value, found.error_bound)
    return plan.replace(
        value=jnp.where(found.is_exact, value, plan.value),
        error_bound=jnp.where(found.is_exact, missed, plan.error_bound),
    )


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
    stocks = jnp.atleast_1d(jnp.asarray(initial_stock, mdp.prob.dtype))
    check_shape("initial_stock", stocks, (stocks.size,))
    if lipschitz is not None:
        check_range("lipschitz", lipschitz, 0)
    num_stocks, lattice = choose_grid(mdp, horizon, initial_state, num_stocks, stocks)
    # A struct has leaves that may be traced; a plain function is a static part of the program.
    functions = [
        f if f is None or hasattr(f, "replace") else jax.tree_util.Partial(f)
        for f in (utility, outer)
    ]
    numbers = *functions, stocks, lattice, lipschitz
    return on_episodes(_stock_augmented, mdp, horizon, initial_state, *numbers, sizes=(num_stocks,))


def _stock_augmented(
    model: Episodes,
    utility: Callable,
    outer: Callable | None,
    stocks: Array,
    lattice: Array | None,
    lipschitz: Array | None,
    num_stocks: int,
) -> StockPlan:
    horizon = model.horizon
    low, high = model.gained_range()
    low, high = low + jnp.min(stocks), high + jnp.max(stocks)
    steps = grid_steps(model, low, high, num_stocks - 1, lattice)
    following = lambda x: jnp.concatenate([x[1:], x[-1:]])  # noqa: E731
    starts, spacing = following(low), following(steps)
    found = solve_stocks(model, utility, stocks, starts, spacing, num_stocks, (BETWEEN,))
    expected = model.at_start(found.utilities[0])  # [B]
    objective = expected if outer is None else outer(stocks, expected)
    best = jnp.argmax(objective)
    eps = jnp.finfo(expected.dtype).eps
    size = jnp.max(jnp.abs(expected))
    rounding = eps * (horizon + 1) * (model.prob.shape[-1] + 4) * size
    if lipschitz is None or outer is not None:
        moved = jnp.where(found.on_grid, 0.0, jnp.inf)
    else:
        moved = lipschitz * (found.displacement + 4 * horizon * eps * jnp.max(jnp.abs(low) + high))
    return found.plan(model, best, objective[best], rounding + moved, expected, 0.5)
