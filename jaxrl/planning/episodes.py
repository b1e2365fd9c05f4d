"""A known model seen as episodes of a fixed length, for objectives on the whole return."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core import Struct
from jaxrl.core.mdp import TabularMDP
from jaxrl.core.types import Array, is_traced
from jaxrl.planning.solution import check_int, check_model


class Episodes(Struct):
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

    def at_start(self, values: Array) -> Array:
        """The mean of `values[..., S, B]` over the first state, `[..., B]`."""
        chance = self.initial[:, None]
        return jnp.sum(chance * jnp.where(chance > 0, values, 0.0), axis=-2)

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


def on_episodes(
    function: Callable[..., Any],
    mdp: TabularMDP,
    horizon: int,
    initial_state: int | Array | None,
    *numbers: Any,
    sizes: tuple[int, ...] = (),
) -> Any:
    """`function(model, *numbers, *sizes)` of checked `episodes`, as one program.

    Args:
        function: of the top of a module: the program is kept for it.
        mdp: the model.
        horizon: H, steps; static.
        initial_state: where episodes start; None: the model's own initial law.
        numbers: pytrees of arrays.
        sizes: static.

    Raises:
        ValueError: see `check_episodes`.
    """
    check_episodes(mdp, horizon, initial_state)
    return _on_episodes(function, mdp, horizon, initial_state, numbers, sizes)


@partial(jax.jit, static_argnames=("function", "horizon", "sizes"))
def _on_episodes(
    function: Any, mdp: TabularMDP, horizon: int, initial_state: Any, numbers: tuple, sizes: tuple
) -> Any:
    return function(episodes(mdp, horizon, initial_state), *numbers, *sizes)


def check_episodes(mdp: TabularMDP, horizon: int, initial_state: int | Array | None = None) -> None:
    """Raise `ValueError` when concrete arguments make no episodes.

    Args:
        mdp: one model; batches go through `vmap`.
        horizon: steps, at least 1.
        initial_state: in `[0, S)`, or None.
    """
    check_model(mdp)
    check_int("horizon", horizon)
    if initial_state is None or is_traced(initial_state):
        return
    state = np.asarray(initial_state)
    if state.ndim or not np.issubdtype(state.dtype, np.integer):
        raise ValueError(f"initial_state={initial_state!r} must be one state's index.")
    if not 0 <= state < mdp.num_states:
        raise ValueError(f"initial_state={state} is outside [0, {mdp.num_states}).")
