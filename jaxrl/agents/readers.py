"""What others may ask of a trained agent, each a protocol that `isinstance` knows.

An agent that has a method of this name and signature is one; nothing is inherited or registered.
"""

# Bodies of protocols are their docstrings.
# pyright: reportReturnType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from jaxrl.core.spaces import is_masked
from jaxrl.core.types import Array, Key, PyTree, Transition
from jaxrl.networks.distributions import FiniteLaw


@runtime_checkable
class HasPolicy(Protocol):
    """It acts by a law that can be read."""

    def policy(self, state: PyTree, observation: PyTree, memory: PyTree = ()) -> Any:
        """`observation[..., *]` -> the law of what is drawn there, a `networks.PolicyLaw`;
        `memory` is that of a recurrent policy. One that obeys legal actions takes `mask[..., A]`
        after it."""


@runtime_checkable
class HasQValues(Protocol):
    """It values actions, and acts greedily by what they are worth."""

    def q_values(self, state: PyTree, observation: PyTree, *action: Array) -> Array:
        """`observation[..., *]` -> the values `[..., A]` of all discrete actions, or of
        `action[..., *shape]` each critic's, `[C, ...]` [return]."""


@runtime_checkable
class HasActing(Protocol):
    """Its state holds more than acting needs."""

    def acting(self, state: PyTree) -> PyTree:
        """The state without replay, sources of successors and what else learning alone reads."""


@runtime_checkable
class HasResponse(Protocol):
    """It says itself how it answers, as something that an attack can differentiate."""

    def response(
        self, key: Key, state: PyTree, observation: Array, memory: PyTree
    ) -> tuple[Array, bool]:
        """See the function `response`."""


def along(read: Callable[..., Any], state: PyTree, trajectory: Transition) -> Any:
    """What `agent.policy` or `agent.values` reads at each step of `trajectory[T, B]`."""
    seen = (trajectory.observation, trajectory.extras.get("memory_before", ()))
    return read(state, *seen, *[trajectory.mask] * is_masked(trajectory.mask))


def acting(agent: Any, state: PyTree) -> PyTree:
    """What acts: the agent's word for it, or all of its state."""
    return agent.acting(state) if isinstance(agent, HasActing) else state


def response(
    agent: Any, key: Key, state: PyTree, observation: Array, memory: PyTree
) -> tuple[Array, bool]:
    """The agent's answer to `observation[B, ...]`, and whether its rows are preferences.

    Preferences are logits or scores, of which the greedy action is the argmax; of box actions the
    answer is the action without exploration.

    Args:
        agent: one that has `response`, `policy` or the `q_values` of discrete actions; asked in
            this order.
        key: for what is drawn on the way, such as smoothing noise.
        state: the agent's.
        observation: `[B, ...]`.
        memory: of a recurrent policy, `[B, ...]`, else `()`.

    Returns:
        `([B, A], True)` for discrete actions, `([B, D], False)` for box actions.

    Raises:
        TypeError: an agent that has none of them.
    """
    if isinstance(agent, HasResponse):
        return agent.response(key, state, observation, memory)
    if isinstance(agent, HasPolicy):
        law = agent.policy(state, observation, memory)
        return (law.logits, True) if isinstance(law, FiniteLaw) else (law.mode(), False)
    if isinstance(agent, HasQValues):
        return agent.q_values(state, observation), True
    raise TypeError(
        f"no response of {type(agent).__name__} is known, which a gradient attack needs: give it "
        "policy(state, observation, memory), q_values(state, observation) of discrete actions, or "
        "response(key, state, observation, memory)."
    )


def of_inner(name: str, unit: str = "") -> Any:
    """A read-only property of a struct with a field `agent`: that agent's own.

    Example:
        >>> import dataclasses
        >>> from jaxrl.agents import ppo
        >>> @dataclasses.dataclass(frozen=True)
        ... class Cautious:
        ...     agent: Any
        ...     num_envs = of_inner("num_envs")
        >>> Cautious(ppo()).num_envs
        16
    """
    doc = f"The inner agent's [{unit}]." if unit else "The inner agent's."
    return property(lambda outer: getattr(outer.agent, name), doc=doc)
