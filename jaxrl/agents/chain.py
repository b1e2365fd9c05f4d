"""Chains of parts: what a learner from replay may be made of besides its operator.

A part is one idea in one file: a frozen struct with `facts` and those of the methods below that it
needs. Each method is a protocol of its own, which `isinstance` knows; nothing is inherited, and a
method that no part has costs nothing. An agent holds its parts in the tuple `parts`, and what they
remember in `state.parts`, in the same order.

| method | when | what it gives |
|---|---|---|
| `check` | before all | a refusal |
| `init` | at first | the part's own state; `()` without one |
| `relabelled` | after the draw | other transitions: stocks, goals, intrinsic rewards |
| `reward` | before the backup | other rewards in the lookahead: shifts, bonuses, penalties |
| `backup`, `shape`, `mean`, `loss` | the backup, the loss | what stands in the head's place |
| `weigh` | in the loss | weights of the errors |
| `penalty` | in the loss | what is added to it: regularisers, conservatism, cloning |
| `log_prob` | where a random actor counts its entropy | the worth of its coordinates |
| `update` | after the backup | the part's next state |
| `scores`, `offset` | where values are read | what actions are worth |
| `metrics` | after the update | numbers to record |
"""

# Bodies of protocols are their docstrings.
# pyright: reportReturnType=false

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp

from jaxrl.agents.successors import Outcomes
from jaxrl.core import Struct
from jaxrl.core.law import Law
from jaxrl.core.protocols import Environment, PartFacts
from jaxrl.core.types import Array, Key, PyTree, Transition
from jaxrl.operators.bellman import BellmanOperator, Lookahead
from jaxrl.replay import Batch

Hook = TypeVar("Hook")

# What one part of a chain decides alone, see `PartFacts.owns`.
ORIGIN, BONUS, HEAD = "where values have their zero", "a bonus of the policy", "what is stored"
_APART = 3  # random streams of a gradient step that are of parts, or of the agent


class Pair(Struct):
    """The features of what was done and of what is done next, where a value is linear in them.

    value = weights . features, the bias included, by the network that learns; of C critics, each.
    """

    features: Array  # [..., B, D], at the state and action
    next_features: Array  # [..., B, D], of the lagged copy at the successor and its action
    weights: Array  # [..., D]


@dataclasses.dataclass(frozen=True)
class Step:
    """One gradient step, as a part sees it."""

    agent: Any  # with the present values of schedules
    key: Key  # of the step; what a method spends is its own argument, or folded from this one
    state: Any  # the agent's, before the step
    batch: Batch  # [B], relabelled
    outcomes: Outcomes  # [B, N], what may follow, as it was before the parts
    pair: Callable[[PyTree], Pair]  # by the network's parameters

    def backup(self, params: PyTree) -> Any:
        """The targets `[B]`, of an agent with discrete actions, were `params` the lagged copy's."""
        state = self.state.replace(target_params=params)
        return self.agent.backup(dataclasses.replace(self, state=state))


class TargetPart(Protocol):
    """A part of a chain: facts, and any of the methods of this module."""

    @property
    def facts(self) -> PartFacts:
        """What it asks of its agent: a class attribute will do."""


@runtime_checkable
class Checks(Protocol):
    """It refuses more than its facts do."""

    def check(self, agent: Any, env: Environment) -> None:
        """Raise `ValueError`, with a remedy."""


@runtime_checkable
class Starts(Protocol):
    """It remembers something."""

    def init(self, key: Key, agent: Any, env: Environment, params: PyTree) -> PyTree:
        """-> its state at first, where `params` are those of the agent's network."""


@runtime_checkable
class Relabels(Protocol):
    """It changes what was drawn."""

    def relabelled(self, key: Key, state: PyTree, agent: Any, data: Transition) -> Transition:
        """`data[B, ...]` -> what is learned from."""


@runtime_checkable
class Rewards(Protocol):
    """It changes what is backed up."""

    def reward(self, key: Key, state: PyTree, step: Step, lookahead: Lookahead) -> Lookahead:
        """`lookahead[B, N]` -> another; of a learner of critics, `next_params[B, N, C, ...]` are
        those of the C critics at the next action."""


@runtime_checkable
class Stores(Protocol):
    """It stands in the head's place."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the network's outputs for one action."""

    def backup(self, operator: BellmanOperator, lookahead: Lookahead) -> Any:
        """The target of one state and action."""

    def mean(self, params: Array) -> Array:
        """`params[*shape]` -> `[]` [return]."""

    def loss(self, params: Array, target: Any) -> Array:
        """`params[*shape]`, a target -> `[]`."""


@runtime_checkable
class Weighs(Protocol):
    """It weighs errors."""

    def weigh(self, state: PyTree, step: Step, td_error: Array) -> Array:
        """Of each error `td_error[..., B]` [return], target less prediction, the weight of its
        loss; both are constants to the gradient."""


@runtime_checkable
class Penalises(Protocol):
    """It adds to the loss."""

    def penalty(self, state: PyTree, step: Step, params: PyTree) -> Array:
        """`[]`, differentiated in the network's `params`."""


@runtime_checkable
class Densities(Protocol):
    """It says how much each coordinate of an action counts in the entropy of a random actor."""

    def log_prob(self, state: PyTree, log_probs: Array) -> Array:
        """Of each coordinate `[..., D]` -> what stands for that of the action `[...]` [nats]; their
        sum, without such a part."""


@runtime_checkable
class Learns(Protocol):
    """Its state moves with every gradient step."""

    def update(self, state: PyTree, step: Step, target: Law, lagged: Array) -> PyTree:
        """Its next state, by the targets `[B]` and the lagged values `[B]` [return] of what was
        done. The lagged copy has not moved yet."""


@runtime_checkable
class Scores(Protocol):
    """It says what an action is worth."""

    def scores(self, operator: BellmanOperator, params: Array, observation: PyTree) -> Array:
        """`params[..., A, *shape]` at `observation[..., *]` -> `[..., A]` [return]."""


@runtime_checkable
class Offsets(Protocol):
    """It moves every value by a constant."""

    def offset(self, discount: float | Array) -> Array:
        """What a stored value is too high, `[]` [return]."""


@runtime_checkable
class Reports(Protocol):
    """It has numbers to record."""

    def metrics(self, state: PyTree) -> dict[str, Array]:
        """By name, `[]` each."""


HOOKS = (Checks, Starts, Relabels, Rewards, Stores, Weighs, Penalises, Learns, Scores, Offsets)
HOOKS += (Reports, Densities)


def of_kind(parts: tuple[Any, ...], hook: type[Hook]) -> Iterator[tuple[int, Hook]]:
    """The parts that have a method, and their places in the chain."""
    return ((place, part) for place, part in enumerate(parts) if isinstance(part, hook))


def first(parts: tuple[Any, ...], hook: type[Hook]) -> Hook | None:
    """The first part that has a method; None where no one has it."""
    return next((part for _, part in of_kind(parts, hook)), None)


def stream(key: Key, number: int, place: int = 0) -> Key:
    """The key of random stream `number`, 1 to 3, of the part in this place."""
    return jax.random.fold_in(key, number + _APART * place)


def start(key: Key, agent: Any, env: Environment, params: PyTree) -> tuple[PyTree, ...]:
    """What the parts remember at first."""
    states: list[PyTree] = [()] * len(agent.parts)
    for place, part in of_kind(agent.parts, Starts):
        states[place] = part.init(jax.random.fold_in(key, place), agent, env, params)
    return tuple(states)


def drawn(key: Key, number: int, agent: Any, state: Any, batch: Batch) -> Batch:
    """A batch as the parts want it learned from, by streams `number` of `key`."""
    data = batch.transition
    for place, part in of_kind(agent.parts, Relabels):
        data = part.relabelled(stream(key, number, place), state.parts[place], agent, data)
    return batch.replace(transition=data)


def rewarded(number: int, step: Step, lookahead: Lookahead) -> Lookahead:
    """A lookahead `[B, N]` as the parts want it backed up."""
    for place, part in of_kind(step.agent.parts, Rewards):
        key = stream(step.key, number, place)
        lookahead = part.reward(key, step.state.parts[place], step, lookahead)
    return lookahead


def weighed(step: Step, losses: Array, target: Any, value: Array) -> Array:
    """Losses `[..., B]` times the parts' weights of their errors.

    Args:
        step: the gradient step.
        losses: of each prediction.
        target: of each transition `[B]`, with a `mean`; read only where a part weighs.
        value: the predictions `[..., B]` [return].
    """
    for place, part in of_kind(step.agent.parts, Weighs):
        td_error = jax.lax.stop_gradient(target.mean() - value)
        weights = part.weigh(step.state.parts[place], step, td_error)
        losses = jax.lax.stop_gradient(weights) * losses
    return losses


def penalised(step: Step, total: Array, params: PyTree) -> Array:
    """A loss `[]` with what the parts add to it."""
    for place, part in of_kind(step.agent.parts, Penalises):
        total = total + part.penalty(step.state.parts[place], step, params)
    return total


def updated(step: Step, target: Law, lagged: Array) -> tuple[PyTree, ...]:
    """What the parts remember after a step."""
    states = list(step.state.parts)
    for place, part in of_kind(step.agent.parts, Learns):
        states[place] = part.update(states[place], step, target, lagged)
    return tuple(states)


def offset(parts: tuple[Any, ...], discount: float | Array) -> Array | float:
    """What every stored value is too high, `[]` [return]."""
    return sum((part.offset(discount) for _, part in of_kind(parts, Offsets)), 0.0)


def metrics(parts: tuple[Any, ...], states: tuple[PyTree, ...]) -> dict[str, Array]:
    """What the parts record; means over networks that have a state each."""
    found = {}
    for place, part in of_kind(parts, Reports):
        found |= part.metrics(states[place])
    return {name: jnp.mean(value) for name, value in found.items()}
