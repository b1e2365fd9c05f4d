"""How an agent answers to an observation, as something that an attack can differentiate.

`response(agent, key, state, observation, memory)` gives a row for each of B observations: action
preferences `[B, A]` (logits or scores, of which the greedy action is the argmax) for discrete
actions, or the action `[B, D]` without exploration for box actions. An agent of your own joins by
`response.register(YourAgent)`.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.agents.actor_critic import ActorCriticAgent
from jaxrl.agents.experience import at_present
from jaxrl.agents.normalised import NormalisedAgent
from jaxrl.agents.parallel_q import ParallelQAgent
from jaxrl.agents.q_network import QNetworkAgent
from jaxrl.agents.soft_actor_critic import SoftActorCriticAgent
from jaxrl.agents.twin_delayed import TwinDelayedAgent
from jaxrl.core.types import Array, Key, PyTree
from jaxrl.networks import CategoricalPolicy


@functools.singledispatch
def response(
    agent: Any, key: Key, state: PyTree, observation: Array, memory: PyTree
) -> tuple[Array, bool]:
    """The agent's answer to `observation[B, ...]`, and whether its rows are preferences.

    Args:
        agent: any agent of `jaxrl.agents`, or one that was registered.
        key: for what is drawn on the way, such as smoothing noise.
        state: the agent's.
        observation: `[B, ...]`.
        memory: of a recurrent policy, `[B, ...]`, else `()`.

    Returns:
        `([B, A], True)` for discrete actions, `([B, D], False)` for box actions.

    Raises:
        TypeError: an agent that is not registered.
    """
    raise TypeError(
        f"no response of {type(agent).__name__} is known, which a gradient attack needs: give one "
        "by jaxrl.training.responses.response.register."
    )


@response.register
def _(
    agent: ActorCriticAgent, key: Key, state: PyTree, observation: Array, memory: PyTree
) -> tuple[Array, bool]:
    if agent.network.recurrent_size:
        held = memory or agent.initial_memory(observation.shape[0])
        policy = state.model.apply(state.params, observation, jnp.zeros((), bool), held)[0]
    else:
        arguments = (state.params, observation, jnp.zeros((), bool), ())
        policy = state.model.apply(*arguments, method="policy")[0]
    if isinstance(policy, CategoricalPolicy):
        return policy.logits, True
    return state.box.stretched(policy.mode()), False


@response.register
def _(
    agent: QNetworkAgent, key: Key, state: PyTree, observation: Array, memory: PyTree
) -> tuple[Array, bool]:
    params = state.model.apply(state.params, observation)
    return at_present(agent, state.progress).scores(params, observation), True


@response.register
def _(
    agent: ParallelQAgent, key: Key, state: PyTree, observation: Array, memory: PyTree
) -> tuple[Array, bool]:
    return state.model.apply(state.params, observation), True


@response.register(SoftActorCriticAgent)
@response.register(TwinDelayedAgent)
def _(
    agent: Any, key: Key, state: PyTree, observation: Array, memory: PyTree
) -> tuple[Array, bool]:
    return _rows(agent.act(key, state, observation, explore=False)[0]), False


@response.register
def _(
    agent: NormalisedAgent, key: Key, state: PyTree, observation: Array, memory: PyTree
) -> tuple[Array, bool]:
    # What the inner agent sees, told by an inner agent that only repeats it.
    seen = agent.replace(agent=_Echo()).act(key, state, observation)[0]
    return response(agent.agent, key, state.inner, seen, memory)


class _Echo:
    def act(
        self, key: Key, state: PyTree, observation: PyTree, explore: bool, memory: PyTree
    ) -> tuple[PyTree, dict]:
        return observation, {}


def _rows(actions: Array) -> Array:
    return jnp.reshape(actions, (actions.shape[0], -1))


def margin(rows: Array, chosen: Array) -> Array:
    """How far the best other action stands above `chosen[B]`: above 0, another one is taken.

    Returns:
        `[B]`, in the unit of `rows[B, A]`.
    """
    is_chosen = jax.nn.one_hot(chosen, rows.shape[-1], dtype=bool)
    other = jnp.max(jnp.where(is_chosen, -jnp.inf, rows), axis=-1)
    return other - jnp.sum(jnp.where(is_chosen, rows, 0.0), axis=-1)
