"""Risk of the whole return that a policy over time and state attains: entropic, nested CVaR."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core import Struct
from jaxrl.core.law import Law
from jaxrl.core.mdp import TabularMDP
from jaxrl.core.protocols import Functional
from jaxrl.core.settings import check_settings
from jaxrl.core.types import Array
from jaxrl.functionals.per_pair import over_pairs
from jaxrl.functionals.risk import CVaR, Entropic
from jaxrl.planning.episodes import Episodes, on_episodes
from jaxrl.planning.solution import check_int

NUM_CELLS = 64


class TimedPlan(Struct):
    """A value of the whole return, and the policy over (time, state) that attains it."""

    value: Array  # [] [return]
    error_bound: Array  # [], bounds |value - exact value|, rounding included [return]
    policy: Array  # [H, S, A], probabilities
    risk_aversion: Array | None = None  # [] [1 / return], at time 0, of exponential objectives


def static_entropic(
    mdp: TabularMDP,
    *,
    risk_aversion: float | Array,
    horizon: int,
    initial_state: int | Array | None = None,
) -> TimedPlan:
    """The best entropic risk of the whole return, over all history-dependent policies.

        max over policies of -1/b log E exp(-b G),  b = risk_aversion
        L_t(s) = max_a F_b(discount^t r + L_{t+1}(s')),  F_b = Entropic(b),  L_H = 0

    In the return from t on, that is Entropic(b discount^t): a level that varies in time, which a
    fixed `Entropic` in a Bellman operator does not have (that is *nested* risk, another objective
    unless discount = 1). The best policy is Markov, but depends on time when discount < 1.

    Args:
        mdp: the model; a fractional `terminal` is the probability of ending.
        risk_aversion: b [1 / return]; 0 is the mean, negative seeks risk.
        horizon: H, steps.
        initial_state: where episodes start; default the law `mdp.initial`, whose draw is then part
            of the return's law.

    Raises:
        ValueError: a concrete argument is out of range.

    Example:
        >>> from jaxrl import outcome_mdp
        >>> mdp = outcome_mdp([[[0.5, 0.5]]], [[[0, 0]]], [[[0.0, 1000.0]]], 1.0)
        >>> f"{float(static_entropic(mdp, risk_aversion=1.0, horizon=3).value):.4f}"  # -3 log 0.5
        '2.0794'

    Sources:
        Howard & Matheson (1972), Risk-sensitive Markov decision processes; Hau, Petrik &
        Ghavamzadeh (2023), Entropic risk optimization in discounted MDPs, theorem 3.3.
    """
    risk_aversion = jnp.asarray(risk_aversion, mdp.prob.dtype)
    check_settings(Entropic(risk_aversion))
    plan = on_episodes(_plan, mdp, horizon, initial_state, Entropic(risk_aversion))
    return plan.replace(risk_aversion=risk_aversion)


def _plan(model: Episodes, functional: Functional) -> TimedPlan:
    value, policy = _solve(model, functional)
    return TimedPlan(value, _rounding_bound(model), policy)


def _solve(model: Episodes, functional: Functional) -> tuple[Array, Array]:
    """The best value `[]` of a functional at every step and over the first state, and the policy
    `[H, S, A]`."""

    def back(later: Array, weight: Array):
        outcomes = weight * model.reward + jnp.where(model.over, 0.0, later[model.next_state])
        q_values = over_pairs(functional, model.prob, outcomes)
        q_values = jnp.where(model.legal, q_values, -jnp.inf)
        return jnp.max(q_values, axis=1), jnp.argmax(q_values, axis=1)

    first, actions = jax.lax.scan(back, jnp.zeros_like(model.initial), model.weights, reverse=True)
    policy = jax.nn.one_hot(actions, model.legal.shape[1], dtype=first.dtype)
    return functional(model.initial, first), policy


def _rounding_bound(model: Episodes) -> Array:
    """What rounding may have done to a value [return]."""
    size = jnp.max(jnp.abs(jnp.stack(model.return_range())))
    return jnp.finfo(size.dtype).eps * (model.horizon + 1) * (model.prob.shape[-1] + 16) * size


def static_evar(
    mdp: TabularMDP,
    *,
    level: float | Array,
    horizon: int,
    initial_state: int | Array | None = None,
    num_rounds: int = 16,
) -> TimedPlan:
    """The best entropic value at risk of the whole return, over all history-dependent policies.

        max over policies of EVaR_level(G) = sup_{T > 0} g(T) + T log(level),
        g(T) = max over policies of -T log E exp(-G / T)          (`static_entropic` at b = 1/T)

    `level = 1` is the best mean, `level -> 0` the best worst case; never above `static_cvar` at the
    same level. The search over T is global and certified. This is *static* risk.

    Args:
        mdp: the model; a fractional `terminal` is the probability of ending.
        level: in (0, 1].
        horizon: H, steps.
        initial_state: where episodes start; default the law `mdp.initial`.
        num_rounds: of branch and bound, 32 entropic solutions each.

    Returns:
        `TimedPlan`: following its policy attains at least `value` up to rounding; `risk_aversion`
        is 1/T.

    Raises:
        ValueError: a concrete argument is out of range.

    Numerics:
        On a cell [T1, T2], with h(T) = g(T) + T log(level): g does not decrease, hence
        h <= g(T2) + T1 log(level); and each policy's entropic risk has a second derivative of at
        least -range^2 / (4 T^3), hence h <= max(h(T1), h(T2)) + range^2 (T2 - T1)^2 / (32 T1^3).
        Each round halves the 32 of 64 cells with the greatest bounds.

    Example:
        >>> from jaxrl import outcome_mdp
        >>> mdp = outcome_mdp([[[0.5, 0.5]]], [[[0, 0]]], [[[0.0, 8.0]]], 1.0)
        >>> float(static_evar(mdp, level=1.0, horizon=3).value)
        12.0

    Sources:
        Ahmadi-Javid (2012), Entropic value-at-risk, definition 3.1; Hau, Petrik & Ghavamzadeh
        (2023), Entropic risk optimization in discounted MDPs, section 4 (a grid, first order).
    """
    check_settings(CVaR(level))
    check_int("num_rounds", num_rounds, 0)
    return on_episodes(_static_evar, mdp, horizon, initial_state, level, sizes=(num_rounds,))


def _static_evar(model: Episodes, level: Array, num_rounds: int) -> TimedPlan:
    dtype = model.prob.dtype
    low, high = model.return_range()
    width = high[0] - low[0]
    slope = -jnp.log(jnp.asarray(level, dtype))  # h(T) = g(T) - T slope
    is_mean = slope <= 0
    # Above the last temperature h is at most the least return.
    most = jnp.where(width > 0, width, 1.0) / jnp.where(is_mean, 1.0, slope)
    risk = jax.vmap(lambda temperature: _solve(model, Entropic(1.0 / temperature))[0])

    def bound(left: Array, right: Array, at_left: Array, at_right: Array) -> Array:
        """Of h on cells; `at_left` and `at_right` are g there."""
        first = at_right - left * slope
        safe = jnp.where(left > 0, left, 1.0)
        bend = (width / safe) ** 2 * (right - left) ** 2 / (32.0 * safe)
        ends = jnp.maximum(at_left - left * slope, at_right - right * slope)
        return jnp.where(left > 0, jnp.minimum(first, ends + bend), first)

    edges = most * 2.0 ** (-0.5 * jnp.arange(NUM_CELLS - 1, -1, -1, dtype=dtype))
    values = risk(edges)
    before = lambda x: jnp.concatenate([jnp.zeros((1,), dtype), x[:-1]])  # noqa: E731
    cells = (before(edges), edges, before(values), values)
    scores = values - edges * slope
    found = jnp.argmax(scores)
    start = (cells, scores[found], edges[found], jnp.asarray(-jnp.inf, dtype))

    def halve(_, state):
        cells, best, where, dropped = state
        bounds = bound(*cells)
        order = jnp.argsort(-bounds)
        dropped = jnp.maximum(dropped, bounds[order[NUM_CELLS // 2]])
        left, right, at_left, at_right = (x[order[: NUM_CELLS // 2]] for x in cells)
        middle = 0.5 * (left + right)
        at_middle = risk(middle)
        scores = at_middle - middle * slope
        index = jnp.argmax(scores)
        where = jnp.where(scores[index] > best, middle[index], where)
        halves = ((left, middle), (middle, right), (at_left, at_middle), (at_middle, at_right))
        cells = tuple(jnp.concatenate(pair) for pair in halves)
        return cells, jnp.maximum(best, scores[index]), where, dropped

    cells, best, where, dropped = jax.lax.fori_loop(0, num_rounds, halve, start)
    upper = jnp.maximum(jnp.maximum(jnp.max(bound(*cells)), dropped), low[0])
    aversion = jnp.where(is_mean, 0.0, 1.0 / where)
    value, policy = _solve(model, Entropic(aversion))
    value = jnp.where(is_mean, value, best)
    gap = jnp.where(is_mean, 0.0, jnp.maximum(upper - best, 0.0))
    return TimedPlan(value, gap + _rounding_bound(model), policy, aversion)


def nested_cvar(
    mdp: TabularMDP,
    *,
    level: float | Array,
    horizon: int,
    initial_state: int | Array | None = None,
) -> TimedPlan:
    """The best *nested* CVaR: CVaR anew at every step, of what that step leads to.

        V_t(s) = max_a CVaR_level(r + discount V_{t+1}(s')),  V_H = 0

    Also called iterated. It is time-consistent, but not the CVaR of the whole return: for a policy
    it lies between the CVaR of the return at level^H and the mean, and may be on either side of
    that at `level`; it tends to shrink towards the worst case as H grows. `level = 1` is the mean.
    For the whole return see `static_cvar`.

    Args:
        mdp: the model; a fractional `terminal` is the probability of ending.
        level: share of the lower tail, in (0, 1].
        horizon: H, steps.
        initial_state: where episodes start; default the law `mdp.initial`, over which CVaR is
            taken once more.

    Returns:
        `TimedPlan`, in present values.

    Raises:
        ValueError: a concrete argument is out of range.

    Example:
        >>> from jaxrl import outcome_mdp
        >>> mdp = outcome_mdp([[[0.5, 0.5]]], [[[0, 0]]], [[[0.0, 8.0]]], 1.0)
        >>> float(nested_cvar(mdp, level=0.5, horizon=2).value)  # the whole return's is 4
        0.0

    Sources:
        Ruszczyński (2010), Risk-averse dynamic programming for Markov decision processes; Chen, Du
        et al. (2024), Provably efficient iterated CVaR reinforcement learning, section 3.
    """
    check_settings(CVaR(level))
    plan = on_episodes(_plan, mdp, horizon, initial_state, CVaR(level))
    # A probability may be off by rounding, and the tail divides by the level.
    return plan.replace(error_bound=plan.error_bound / level)


def chow_cvar_upper_bound(
    mdp: TabularMDP,
    *,
    level: float | Array,
    horizon: int,
    initial_state: int | Array | None = None,
    num_levels: int = 101,
) -> Array:
    """INEXACT: an upper bound on `static_cvar`, by the recursion over states and risk levels.

        V_t(s, y) = max_a min { E[xi (r + discount V_{t+1}(s', y xi))] : 0 <= xi <= 1/y, E xi = 1 }

    Published as exact; it is for a fixed policy, but in control it exchanges a maximum and a
    minimum the wrong way and over-estimates, in general however fine the levels. It offers a bound
    and no policy. Use `static_cvar`.

    Args:
        mdp: the model; a fractional `terminal` is the probability of ending.
        level: share of the lower tail, in (0, 1].
        horizon: H, steps.
        initial_state: where episodes start; default the law `mdp.initial`.
        num_levels: equal steps of y from 0 to 1; `level` is added. Between them y V(., y), which is
            convex, is interpolated, which can only raise it.

    Returns:
        `[]` [return].

    Raises:
        ValueError: a concrete argument is out of range.

    Numerics:
        y V(s, y) is the integral of a quantile function up to y. The inner minimum of the sum over
        successors merges those quantile functions: it is the tail of a mixture of laws. Rounding is
        of the order of num_levels units of the largest return.

    Sources:
        Chow, Tamar, Mannor & Pavone (2015), Risk-sensitive and robust decision-making, theorem 4;
        Hau, Delage, Ghavamzadeh & Petrik (2023), On dynamic programming decompositions of static
        risk measures in Markov decision processes, section 3 (why it over-estimates).
    """
    check_settings(CVaR(level))
    check_int("num_levels", num_levels, 2)
    return on_episodes(_chow, mdp, horizon, initial_state, level, sizes=(num_levels,))


def _chow(model: Episodes, level: Array, num_levels: int) -> Array:
    dtype = model.prob.dtype
    equal = jnp.linspace(0.0, 1.0, num_levels, dtype=dtype)
    levels = jnp.sort(jnp.concatenate([equal, jnp.asarray(level, dtype)[None]]))
    widths = jnp.diff(levels)  # [L], the probabilities of the slopes of y V(s, y)

    def tails(law: Law) -> Array:
        """`y V(y)` at the levels above 0, `[L]`, of a law of `[N]` atoms."""
        order = jnp.argsort(law.atoms)
        probs, atoms = law.probs[order], law.atoms[order]
        reached = jnp.cumsum(probs)
        inside = jnp.clip(levels[1:, None] - (reached - probs)[None, :], 0.0, probs[None, :])
        return inside @ atoms

    def back(slopes: Array, weight: Array):
        def of_pair(prob: Array, successor: Array, reward: Array, over: Array) -> Array:
            later = jnp.where(over[:, None], 0.0, slopes[successor])  # [K, L]
            atoms = weight * reward[:, None] + later
            return tails(Law((prob[:, None] * widths).reshape(-1), atoms.reshape(-1)))

        rows = model.prob, model.next_state, model.reward, model.over
        integrals = jax.lax.map(lambda row: jax.vmap(of_pair)(*row), rows)  # [S, A, L]
        best = jnp.max(jnp.where(model.legal[:, :, None], integrals, -jnp.inf), axis=1)
        rise = jnp.diff(best, axis=1, prepend=0.0)
        return jnp.where(widths > 0, rise / jnp.where(widths > 0, widths, 1.0), 0.0), None

    start = jnp.zeros((model.legal.shape[0], num_levels), dtype)
    slopes, _ = jax.lax.scan(back, start, model.weights, reverse=True)
    mixed = Law((model.initial[:, None] * widths).reshape(-1), slopes.reshape(-1))
    return CVaR(jnp.asarray(level, dtype))(mixed.probs, mixed.atoms)
