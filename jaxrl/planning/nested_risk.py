"""CVaR objectives that are not the CVaR of the whole return, under names that say so."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jaxrl.core.law import Law
from jaxrl.core.mdp import TabularMDP
from jaxrl.core.protocols import Head
from jaxrl.core.settings import check_settings
from jaxrl.core.types import Array
from jaxrl.functionals.per_pair import over_pairs
from jaxrl.functionals.risk import CVaR
from jaxrl.operators.bellman import BellmanOperator
from jaxrl.planning.distributional import distributional_value_iteration
from jaxrl.planning.episodes import check_episodes, episodes
from jaxrl.planning.exponential_risk import TimedPlan, rounding_bound
from jaxrl.planning.solution import Solution


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
    check_episodes(mdp, horizon, initial_state)
    return _nested_cvar(mdp, CVaR(level), initial_state, horizon)


@partial(jax.jit, static_argnames="horizon")
def _nested_cvar(
    mdp: TabularMDP, functional: CVaR, initial_state: Array | None, horizon: int
) -> TimedPlan:
    model = episodes(mdp, horizon, initial_state)

    def back(later: Array, weight: Array):
        outcomes = weight * model.reward + jnp.where(model.over, 0.0, later[model.next_state])
        q_values = over_pairs(functional, model.prob, outcomes)
        q_values = jnp.where(model.legal, q_values, -jnp.inf)
        return jnp.max(q_values, axis=1), jnp.argmax(q_values, axis=1)

    first, actions = jax.lax.scan(back, jnp.zeros_like(model.initial), model.weights, reverse=True)
    policy = jax.nn.one_hot(actions, model.legal.shape[1], dtype=first.dtype)
    # A probability may be off by rounding, and the tail divides by the level.
    bound = rounding_bound(model) / jnp.asarray(functional.level, first.dtype)
    return TimedPlan(functional(model.initial, first), bound, policy)


def greedy_on_cvar(
    mdp: TabularMDP, head: Head, *, level: float | Array, **limits: float | int
) -> Solution:
    """Distributional value iteration that is greedy on the CVaR of each action's return law.

        a*(s) = argmax_a CVaR_level(law of Z(s, a)),  Z(s, a) = r + discount Z(s', a*(s'))

    A common heuristic, optimal for neither static nor nested CVaR; it need not converge. `values`
    are means. For the CVaR of the whole return see `static_cvar`.

    Args:
        mdp: the model.
        head: stores the laws, such as `Quantile(64)`.
        level: share of the lower tail, in (0, 1].
        limits: `tolerance` and `max_iterations` of `distributional_value_iteration`.

    Raises:
        ValueError: a concrete argument is out of range.

    Sources:
        Bellemare, Dabney & Rowland (2023), Distributional Reinforcement Learning, section 7.7;
        Lim & Malik (2022), Distributional reinforcement learning for risk-sensitive policies (what
        is wrong with it).
    """
    operator = BellmanOperator(head, return_functional=CVaR(level))
    return distributional_value_iteration(mdp, operator, **limits)


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
    check_episodes(mdp, horizon, initial_state)
    if not isinstance(num_levels, int) or num_levels < 2:
        raise ValueError(f"num_levels={num_levels!r} must be an int of at least 2.")
    return _chow(mdp, level, initial_state, horizon, num_levels)


@partial(jax.jit, static_argnames=("horizon", "num_levels"))
def _chow(
    mdp: TabularMDP, level: Array, initial_state: Array | None, horizon: int, num_levels: int
) -> Array:
    model = episodes(mdp, horizon, initial_state)
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
