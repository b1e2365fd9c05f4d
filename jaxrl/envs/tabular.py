"""A `TabularMDP` as an environment."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core import Array, Box, Discrete, Key, Space, Struct, TabularMDP, TimeStep, struct
from jaxrl.core.types import is_traced
from jaxrl.envs.clock import clocked


class TabularState(Struct):
    """Where the process is, and for how long it has run."""

    index: Array  # [] int32, state of the MDP
    time: Array  # [] int32 [steps]


class TabularEnv(Struct):
    """Steps a `TabularMDP`.

    The whole MDP is a leaf of the environment, so `vmap` over a batch of MDPs is an uncertainty set
    or a set of tasks. The MDP's own `discount` is for planners; the environment does not use it. An
    action that is not `legal` does what its row of the MDP says; `info["legal"]`, `[A]` bool, tells
    which actions are in the state that was reached. Where some pair of the MDP is not, the
    environment has `legal(state)`, which agents obey.

    Example:
        >>> from jaxrl.envs import riverswim
        >>> env = TabularEnv(riverswim(num_states=6), time_limit=20.0)
        >>> state, observation = env.reset(jax.random.key(0))
        >>> int(observation)
        0
    """

    mdp: TabularMDP
    time_limit: float = float("inf")  # truncates after so many steps [steps]
    one_hot: bool = struct.field(pytree_node=False, default=False)  # observe `[S]` instead of `[]`
    # Whether `legal` is there: seen from the MDP unless that is traced; then it is to be said.
    masked: bool = struct.field(pytree_node=False, default=False, metadata={"derived": True})

    def __post_init__(self) -> None:
        """See whether every action is legal."""
        legal = self.mdp.legal
        if isinstance(legal, np.ndarray | jax.Array) and not is_traced(legal):
            object.__setattr__(self, "masked", not np.all(np.asarray(legal)))

    @property
    def legal(self) -> Callable[[TabularState], Array]:
        """`legal(state) -> [A]` bool; an `AttributeError` where every action always is."""
        if not self.masked:
            raise AttributeError("every action of this MDP is legal.")
        return lambda state: self.mdp.legal[state.index]

    @property
    def observation_space(self) -> Space:
        """`Discrete(S)`, or `Box[S]` of one-hot float32 rows."""
        num_states = self.mdp.num_states
        if self.one_hot:
            return Box(jnp.zeros(()), jnp.ones(()), (num_states,))
        return Discrete(num_states)

    @property
    def action_space(self) -> Space:
        """`Discrete(A)`."""
        return Discrete(self.mdp.num_actions)

    def reset(self, key: Key) -> tuple[TabularState, Array]:
        """Draw the first state from `mdp.initial`."""
        index = _draw(key, self.mdp.initial).astype(jnp.int32)
        return TabularState(index, jnp.zeros((), jnp.int32)), self._observe(index)

    def step(self, key: Key, state: TabularState, action: Array) -> tuple[TabularState, TimeStep]:
        """Draw one outcome of `(state, action)` by inverse CDF."""
        action = jnp.asarray(action, jnp.int32)
        outcome = (state.index, action, _draw(key, self.mdp.prob[state.index, action]))
        # One reward may stand for all outcomes of the pair.
        paid = (*outcome[:2], jnp.minimum(outcome[2], self.mdp.reward.shape[-1] - 1))
        index = self.mdp.next_state[outcome].astype(jnp.int32)
        reward, time = self.mdp.reward[paid], state.time + 1
        terminated = self.mdp.terminal[outcome]
        step = clocked(self._observe(index), reward, terminated, time, self.time_limit)
        return TabularState(index, time), step.replace(info={"legal": self.mdp.legal[index]})

    def _observe(self, index: Array) -> Array:
        if self.one_hot:
            return jax.nn.one_hot(index, self.mdp.num_states, dtype=jnp.float32)
        return index


def _draw(key: Key, probs: Array) -> Array:
    """An index `[]` with law `probs[N]`, by inverse CDF (one draw, cheaper than Gumbel noise).

    The uniform is scaled by the rounded total and impossible outcomes are masked, so that rounding
    never selects an outcome of probability zero.
    """
    possible = probs > 0
    cdf = jnp.cumsum(probs)
    threshold = jax.random.uniform(key, (), probs.dtype) * jnp.max(jnp.where(possible, cdf, 0.0))
    return jnp.argmax(possible & (cdf > threshold))
