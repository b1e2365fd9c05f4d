"""Backward induction: the best time-dependent policy over a fixed number of steps."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.mdp import TabularMDP
from jaxrl.core.types import Array
from jaxrl.operators.bellman import BellmanOperator
from jaxrl.planning.backups import backup
from jaxrl.planning.solution import check_int, check_problem, check_shape


@struct.dataclass
class FiniteHorizonSolution:
    """Values and policy at each time: row t is for the steps t, t + 1, ..., H - 1."""

    values: Array  # [H + 1, S] [return], of what follows from time t; row H is `terminal_values`
    q_values: Array  # [H, S, A] [return]; -inf where illegal
    policy: Array  # [H, S, A], probabilities


def finite_horizon(
    mdp: TabularMDP,
    operator: BellmanOperator | None = None,
    *,
    horizon: int,
    terminal_values: Array | None = None,
) -> FiniteHorizonSolution:
    """The best time-dependent policy over `horizon` steps, by backward induction.

        V_H = terminal_values,  V_t = T V_{t+1},  t = H - 1, ..., 0

    with T the operator: any functional (robust and risk-averse ones are then *nested*, chosen anew
    at every step), improvement and composition. Values at time t are counted from time t on:
    `mdp.discount` acts once a step, and 1 gives the plain sum. As H grows, row 0 tends to the
    discounted fixed point when the operator contracts.

    Args:
        mdp: the model. What ends the episode is worth its reward and no terminal value.
        operator: with a scalar head; default the risk-neutral optimum.
        horizon: H, steps, at least 1.
        terminal_values: `[S]`, worth of the state at time H [return]; default zero.

    Returns:
        `FiniteHorizonSolution`. For a functional whose budget is shared by the actions of a state,
        q-values are those of each action alone with the whole budget.

    Raises:
        ValueError: the horizon or a shape is wrong, or the operator needs the law of returns.

    Numerics:
        H sweeps; exact but for the rounding of each, which the later ones discount. Compiled once
        for each horizon.

    Example:
        >>> from jaxrl import tabular_mdp
        >>> mdp = tabular_mdp([[[1.0], [1.0]]], [[1.0, 3.0]], discount=1.0)
        >>> finite_horizon(mdp, horizon=2).values[:, 0].tolist()
        [6.0, 3.0, 0.0]

    Sources:
        Bellman (1957), Dynamic Programming, chapter III; Puterman (1994), Markov Decision
        Processes, section 4.5; Iyengar (2005), Robust dynamic programming, section 2 (robust).
    """
    operator = check_problem(mdp, operator)
    check_int("horizon", horizon)
    if terminal_values is None:
        terminal_values = jnp.zeros_like(mdp.initial)
    terminal_values = jnp.asarray(terminal_values, mdp.prob.dtype)
    check_shape("terminal_values", terminal_values, (mdp.num_states,))
    return _finite_horizon(mdp, operator, terminal_values, horizon)


@partial(jax.jit, static_argnames="horizon")
def _finite_horizon(
    mdp: TabularMDP, operator: BellmanOperator, terminal_values: Array, horizon: int
) -> FiniteHorizonSolution:
    def back(later: Array, _: None):
        values, q_values, policy = backup(mdp, operator, later)
        return values, (values, jnp.where(mdp.legal, q_values, -jnp.inf), policy)

    _, rows = jax.lax.scan(back, terminal_values, None, length=horizon, reverse=True)
    values = jnp.concatenate([rows[0], terminal_values[None]])
    return FiniteHorizonSolution(values, *rows[1:])
