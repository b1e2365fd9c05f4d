"""A known model seen as episodes of a fixed length, for objectives on the whole return."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxrl.core import struct
from jaxrl.core.mdp import TabularMDP
from jaxrl.core.types import Array

MOST_STOCKS = 4096  # the finest lattice that is chosen without being asked for
BLOCK = 64  # lattices are as large as a multiple of this, so that few programs are compiled


@struct.dataclass
class Episodes:
    """A model, its clock, and where its episodes start.

    A fractional `terminal` is the probability of ending: its outcome becomes two, one that ends
    and one that goes on.
    """

    prob: Array  # [S, A, K]
    next_state: Array  # [S, A, K] int32
    reward: Array  # [S, A, K] [return]
    over: Array  # [S, A, K] bool, the episode ends with this outcome
    legal: Array  # [S, A] bool
    initial: Array  # [S], law of the first state
    weights: Array  # [H], discount^t: what a reward at time t counts

    @property
    def horizon(self) -> int:
        """H, steps of an episode that does not end before."""
        return self.weights.shape[0]

    @property
    def possible(self) -> Array:
        """`[S, A, K]` bool, true where an outcome of a legal action has positive probability."""
        return (self.prob > 0) & self.legal[:, :, None]

    def return_range(self) -> tuple[Array, Array]:
        """The least and the greatest present value of what may follow, over states and policies.

        Returns:
            `low[H + 1]`, `high[H + 1]` [return]: of the rewards from time t on, zero at time H.
        """

        def back(bounds: tuple[Array, Array], weight: Array):
            low, high = bounds
            gained = weight * self.reward
            least = gained + jnp.where(self.over, 0.0, low[self.next_state])
            most = gained + jnp.where(self.over, 0.0, high[self.next_state])
            low = jnp.min(jnp.where(self.possible, least, jnp.inf), axis=(1, 2))
            high = jnp.max(jnp.where(self.possible, most, -jnp.inf), axis=(1, 2))
            return (low, high), (jnp.min(low), jnp.max(high))

        nothing = jnp.zeros_like(self.initial)
        _, (low, high) = jax.lax.scan(back, (nothing, nothing), self.weights, reverse=True)
        end = jnp.zeros((1,), low.dtype)
        return jnp.concatenate([low, end]), jnp.concatenate([high, end])

    def gained_range(self) -> tuple[Array, Array]:
        """The least and the greatest present value gained so far, while the episode goes on.

        Returns:
            `low[H]`, `high[H]` [return]: of the rewards before time t, zero at time 0 and wherever
            no episode goes on.
        """

        def forth(bounds: tuple[Array, Array], weight: Array):
            goes_on = self.possible & ~self.over
            gained = weight * self.reward
            least = jnp.where(goes_on, bounds[0][:, None, None] + gained, jnp.inf)
            most = jnp.where(goes_on, bounds[1][:, None, None] + gained, -jnp.inf)
            low = jnp.full_like(bounds[0], jnp.inf).at[self.next_state].min(least)
            high = jnp.full_like(bounds[1], -jnp.inf).at[self.next_state].max(most)
            return (low, high), (jnp.min(bounds[0]), jnp.max(bounds[1]))

        start = jnp.where(self.initial > 0, 0.0, jnp.inf)
        _, (low, high) = jax.lax.scan(forth, (start, -start), self.weights)
        reached = jnp.isfinite(low)
        return jnp.where(reached, low, 0.0), jnp.where(reached, high, 0.0)


def episodes(mdp: TabularMDP, horizon: int, initial_state: int | Array | None = None) -> Episodes:
    """Episodes of `horizon` steps from `initial_state`, or from the model's own initial law."""
    initial = mdp.initial
    if initial_state is not None:
        initial = jax.nn.one_hot(initial_state, mdp.num_states, dtype=initial.dtype)
    clock = jnp.arange(horizon, dtype=mdp.prob.dtype)
    weights = jnp.power(jnp.asarray(mdp.discount, mdp.prob.dtype), clock)
    prob, successor, reward = mdp.prob, mdp.next_state, mdp.outcome_rewards
    if mdp.is_endless:
        over = jnp.zeros(mdp.prob.shape, bool)
    elif mdp.terminal.dtype == jnp.bool_:
        over = mdp.terminal
    else:
        prob = jnp.concatenate([prob * (1.0 - mdp.terminal), prob * mdp.terminal], axis=-1)
        successor, reward = (jnp.concatenate([x, x], axis=-1) for x in (successor, reward))
        over = jnp.broadcast_to(jnp.arange(prob.shape[-1]) >= mdp.num_outcomes, prob.shape)
    return Episodes(prob, successor, reward, over, mdp.legal, initial, weights)


def check_episodes(mdp: TabularMDP, horizon: int, initial_state: int | Array | None = None) -> None:
    """Raise `ValueError` when concrete arguments make no episodes.

    Args:
        mdp: one model; batches go through `vmap`.
        horizon: steps, at least 1.
        initial_state: in `[0, S)`, or None.
    """
    if jnp.ndim(mdp.prob) != 3:
        raise ValueError(
            f"The model has {jnp.ndim(mdp.prob)} axes instead of [S, A, K]; for a batch of models "
            "use jax.vmap over the call."
        )
    if not isinstance(horizon, (int, np.integer)) or isinstance(horizon, bool) or horizon < 1:
        raise ValueError(f"horizon={horizon!r} must be an int of at least 1: a number of steps.")
    if initial_state is None or isinstance(initial_state, jax.core.Tracer):
        return
    state = np.asarray(initial_state)
    if state.ndim or not np.issubdtype(state.dtype, np.integer):
        raise ValueError(f"initial_state={initial_state!r} must be one state's index.")
    if not 0 <= state < mdp.num_states:
        raise ValueError(f"initial_state={state} is outside [0, {mdp.num_states}).")


def check_policy(mdp: TabularMDP, policy: ArrayLike, horizon: int | None = None) -> Array:
    """A policy as an array, after checking it.

    Args:
        mdp: the model.
        policy: probabilities `[S, A]`, or also `[H, S, A]` when there is a horizon.
        horizon: H.

    Raises:
        ValueError: its shape is wrong, or concrete rows are no law over legal actions.
    """
    policy = jnp.asarray(policy, mdp.prob.dtype)
    shapes = (
        [mdp.legal.shape] if horizon is None else [mdp.legal.shape, (horizon, *mdp.legal.shape)]
    )
    if policy.shape not in shapes:
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        raise ValueError(
            f"policy must have shape {wanted}, probabilities; got {list(policy.shape)}."
        )
    if not any(isinstance(x, jax.core.Tracer) for x in (policy, mdp.legal)):
        rows = np.asarray(policy)
        if not (np.all(rows >= 0) and np.allclose(rows.sum(axis=-1), 1.0, atol=1e-4)):
            raise ValueError("policy must hold probabilities: each row >= 0 and summing to one.")
        if np.any(np.where(np.asarray(mdp.legal), 0.0, rows) > 0):
            raise ValueError("policy takes an illegal action with positive probability.")
    return policy


def check_stocks(num_stocks: int | None) -> None:
    """Raise `ValueError` unless `num_stocks` is None or an int of at least 3."""
    if num_stocks is not None and (not isinstance(num_stocks, int) or num_stocks < 3):
        raise ValueError(f"num_stocks={num_stocks!r} must be an int of at least 3, or None.")


@partial(jax.jit, static_argnames="horizon")
def stock_width(
    mdp: TabularMDP, horizon: int, initial_state: Array | None, stocks: Array | None
) -> Array:
    """The greatest range `[]` [return] of a stock at one time: what may follow, when `stocks` is
    None, or from those at time 0 what has been gained."""
    model = episodes(mdp, horizon, initial_state)
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
        stocks: initial stocks, of `stock_width`.
    """
    if num_stocks is not None:
        return num_stocks, None
    step = lattice_step(mdp, horizon, stocks)
    if step is None or isinstance(initial_state, jax.core.Tracer):
        return 1025, None
    count = round(float(stock_width(mdp, horizon, initial_state, stocks)) / step) + 2
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
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
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
