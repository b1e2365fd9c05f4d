"""A policy of several agents: the action whose least value among them is greatest."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.agents.readers import HasQValues
from jaxrl.core import struct
from jaxrl.core.protocols import Agent
from jaxrl.core.types import Array, Key, PyTree


@struct.dataclass
class LeastValueState:
    """The agents that have a say."""

    agents: PyTree  # states [N, ...] of N agents, without what learning alone needs
    used: Array  # [N] bool


@struct.dataclass
class LeastValuePolicy:
    """Acts by q(s, a) = min over i of q_i(s, a), the q_i those of N agents of one kind.

    discrete actions:    argmax over a of q(s, a); q_i is the agent's score, which is the functional
                         of its return law where it has one
    continuous actions:  argmax of q(s, a) over the N actions that the agents would take; q_i is the
                         least mean of its critics

    Where each agent learned a task of its own this is a bound on what any one of them promises. A
    network that has never seen anything like s has a say all the same: the minimum is only as good
    as the worst of the N extrapolations.

    Attributes:
        agent: the settings that the N agents share.

    Example:
        >>> from jaxrl import dqn
        >>> from jaxrl.envs.control import CartPole
        >>> fresh = jax.jit(jax.vmap(lambda key: dqn().init(key, CartPole())))
        >>> agents = fresh(jax.random.split(jax.random.key(0), 2))
        >>> policy, state = LeastValuePolicy(dqn()), LeastValueState(agents, jnp.ones(2, bool))
        >>> policy.act(jax.random.key(0), state, jnp.zeros((5, 4)), explore=False)[0].shape
        (5,)

    Sources:
        Zouitine, Geist & Rachelson (2024), Solving robust MDPs as a sequence of static RL problems,
        algorithm 1 (the minimum). The paper's deep form, section 5.1, acts by the policy whose own
        q_i promises least for its own action, and drops q_i where a model of the task that agent i
        learned in foresees the state badly; neither is done here.
    """

    agent: Agent

    def initial_memory(self, num_envs: int) -> tuple:
        """Nothing is carried between steps."""
        return ()

    def act(
        self,
        key: Key,
        state: LeastValueState,
        observation: PyTree,
        explore: bool = True,
        memory: PyTree = (),
    ) -> tuple[Array, dict[str, Any]]:
        """`observation[B, ...]` -> `action[B, ...]`, no extras. It does not explore."""
        chosen = jax.vmap(lambda one: self.agent.act(key, one, observation, explore=False)[0])
        actions = chosen(state.agents)  # [N, B, ...]
        if jnp.issubdtype(actions.dtype, jnp.integer):
            return jnp.argmax(self.q_values(state, observation), axis=-1).astype(jnp.int32), {}
        values = jax.vmap(lambda action: self.q_values(state, observation, action))(actions)
        values = jnp.where(state.used[:, None], values, -jnp.inf)  # [N, B]
        best = jnp.argmax(values, axis=0)
        return jax.vmap(lambda row, index: row[index], (1, 0))(actions, best), {}

    def q_values(self, state: LeastValueState, observation: PyTree, *action: Array) -> Array:
        """The least values [return]: `[B, A]` of discrete actions, `[B]` of `action[B, ...]`."""
        agent: Any = self.agent
        found = jax.vmap(lambda one: agent.q_values(one, observation, *action))(state.agents)
        found = jnp.min(found, axis=1) if action else found  # [N, B] of critics, [N, B, A]
        used = state.used.reshape(-1, *[1] * (found.ndim - 1))
        return jnp.min(jnp.where(used, found, jnp.inf), axis=0)

    def response(
        self, key: Key, state: LeastValueState, observation: Array, memory: PyTree
    ) -> tuple[Array, bool]:
        """The least values, or the action: see `jaxrl.agents.readers.response`."""
        actions = self.act(key, state, observation, explore=False)[0]
        if jnp.issubdtype(actions.dtype, jnp.integer):
            return self.q_values(state, observation), True
        return actions.reshape(actions.shape[0], -1), False


def check_least_value(agent: Agent) -> None:
    """Raise `ValueError` for agents without values of actions."""
    if not isinstance(agent, HasQValues):
        raise ValueError(
            f"{type(agent).__name__} has no values of single actions, of which the least is taken: "
            "use dqn, qr_dqn, c51 or pqn with discrete actions, sac, td3 or tqc with continuous "
            "ones."
        )
