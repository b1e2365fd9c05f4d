"""Where a backup's successors come from: the transition seen, or others, in groups of equal mass.

A functional over successors needs several of them. With one, CVaR, entropic risk and every worst
case equal the mean, so that an agent which is fed less than its operator needs refuses to be built.
"""

# Bodies of protocols are their docstrings.
# pyright: reportReturnType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxrl.core import Struct, struct
from jaxrl.core.law import Law
from jaxrl.core.notation import register
from jaxrl.core.protocols import Environment, Functional, FunctionalFacts, PartFacts
from jaxrl.core.settings import setting
from jaxrl.core.spaces import is_masked
from jaxrl.core.types import Array, Key, Progress, PyTree, Transition
from jaxrl.networks import Network
from jaxrl.operators.bellman import BellmanOperator, Lookahead, describe
from jaxrl.replay import Batch


class SourceState(Struct):
    """What a source of successors keeps in an agent's state."""

    fixed: PyTree = ()  # read only, such as the environment
    learned: PyTree = ()  # changed by every gradient step


class Outcomes(Struct):
    """What may follow each of `B` transitions: N weighted outcomes."""

    reward: Array  # [B, N] [return]
    discount: Array  # [B, N], gamma^tau (1 - terminated)
    probs: Array  # [B, N], non-negative, summing to one over N
    observation: PyTree  # [B, N, ...], the true successors
    mask: PyTree = ()  # [B, N, A] bool, which actions are legal there; () where all are
    exact: bool = struct.field(pytree_node=False, default=False)  # taken for the whole law

    def each(self, function: Callable[[PyTree], PyTree]) -> PyTree:
        """`function` of observations `[B N, ...]`, its leaves as `[B, N, ...]`."""
        lead = self.reward.shape
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), self.observation)
        return jax.tree.map(lambda x: x.reshape(*lead, *x.shape[1:]), function(flat))

    def lookahead(self, next_params: Array, selector_params: Array | None = None) -> Lookahead:
        """With the head's parameters `[B, N, A, *head.shape]` there, and those that choose."""
        mask = self.mask if is_masked(self.mask) else None
        held = (self.reward, self.discount, self.probs, next_params, selector_params, mask)
        return Lookahead(*held, exact=self.exact)


class Successors(Protocol):
    """A source of successors, as a setting of an agent. What it needs lives in the agent's state.

    `discount` below is gamma [per step].
    """

    @property
    def facts(self) -> PartFacts:
        """What it asks of the agent: a class attribute will do, here and below."""

    @property
    def keeps_env_state(self) -> bool:
        """Whether rollouts and replay record the state acted in."""

    @property
    def is_random(self) -> bool:
        """Whether `outcomes` spends its key."""

    def check(self, operator: BellmanOperator, env: Environment) -> None:
        """Raise `ValueError` where `operator` asks for more than this source gives in `env`."""

    def operator(self, operator: BellmanOperator) -> BellmanOperator:
        """The operator as it is applied to these outcomes."""

    def init(
        self, key: Key, env: Environment, operator: BellmanOperator, network: Network
    ) -> SourceState:
        """What the other methods read. `network` is the agent's, for what is learned."""

    def outcomes(self, key: Key, state: SourceState, data: Transition, discount: float) -> Outcomes:
        """The outcomes of the transitions `data[B, ...]`."""

    def learn(
        self,
        state: SourceState,
        operator: BellmanOperator,
        batch: Batch,
        target: Law,
        lagged: Array,
        progress: Progress,
        /,
    ) -> tuple[PyTree, Law]:
        """After the backup: what was learned, and the laws `[B, ...]` to regress to.

        Args:
            state: of this source.
            operator: of the agent.
            batch: what was backed up, `[B, ...]`.
            target: the backups `[B, ...]` [return].
            lagged: `[B]`, the lagged copy's values of the states and actions [return].
            progress: for schedules.
        """


def learn_nothing(source: Any, state: Any, operator: Any, batch: Any, target: Law, *_: Any) -> Any:
    """`learn` of sources without parameters: nothing; the backups as they are."""
    return (), target


class Sampled(Struct):
    """The one successor that was seen, of any number of steps: what every replay and rollout has.

    Attributes:
        accept_bias: take functionals over successors all the same. On the one successor they are
            the mean, so that the values learned are the risk-neutral ones.

    Example:
        >>> from jaxrl.functionals import CVaR
        >>> risky = BellmanOperator(successor_functional=CVaR(0.1))
        >>> Sampled(accept_bias=True).check(risky)  # Sampled() refuses it
    """

    accept_bias: bool = setting(False, "let functionals over successors act as the mean")

    facts = PartFacts()
    keeps_env_state = False
    is_random = False

    def check(self, operator: BellmanOperator, env: Environment | None = None) -> None:
        """Raise `ValueError` for a functional that one successor says nothing about."""
        if operator.successor_functional.facts.needs_successors and not self.accept_bias:
            raise ValueError(
                f"{describe(operator.successor_functional)} ranges over successors, but this agent "
                "sees 1 per transition. Use successors=Generative(num_samples=16), plan on a "
                "TabularMDP, or set return_functional to be risk-averse over returns. "
                "Sampled(accept_bias=True) learns the risk-neutral values instead."
            )
        operator.require_successors(1, exact=self.accept_bias)

    def operator(self, operator: BellmanOperator) -> BellmanOperator:
        """Unchanged."""
        return operator

    def init(
        self, key: Key, env: Environment, operator: BellmanOperator, network: Network
    ) -> SourceState:
        """Nothing."""
        return SourceState()

    def outcomes(self, key: Key, state: SourceState, data: Transition, discount: float) -> Outcomes:
        """N = 1: the transition itself, with its own discount."""
        reward = data.reward[:, None]
        return Outcomes(
            reward=reward,
            discount=data.discount[:, None],
            probs=jnp.ones(reward.shape[:2], reward.dtype),
            observation=jax.tree.map(lambda leaf: leaf[:, None], data.next_observation),
            mask=jax.tree.map(lambda leaf: leaf[:, None], data.next_mask),
            exact=self.accept_bias,
        )

    learn = learn_nothing


class Nested(Struct):
    """`outer` over equal groups of `inner` over the outcomes of each.

    F(p, v) = G(m, F_1, ..., F_M),  m_g = sum_{i in g} p_i,  F_g = inner(p_i / m_g, v_i : i in g)

    Its gradient in the values is the product of both functionals' weights, a law when theirs are.
    `inner = outer = Mean()` is the mean; the worst group is `outer = CVaR(1 / M)` for groups of
    equal mass. A group without mass is not seen.

    Attributes:
        inner: over the outcomes of a group.
        outer: over the groups.
        num_groups: M; the N outcomes are M runs of N / M.

    Example:
        >>> from jaxrl.functionals import CVaR, Mean
        >>> worst_mean = Nested(Mean(), CVaR(0.5), num_groups=2)
        >>> float(worst_mean(jnp.full(4, 0.25), jnp.array([0.0, 8.0, 3.0, 3.0])))
        3.0

    Sources:
        Ruszczynski & Shapiro (2006), Conditional risk mappings, section 3 (the composition).
    """

    inner: Functional
    outer: Functional
    num_groups: int = struct.field(pytree_node=False)

    @property
    def facts(self) -> FunctionalFacts:
        """What is passed on when both have it; successors are needed when one needs them."""
        inner, outer = self.inner.facts, self.outer.facts
        return FunctionalFacts(
            monotone=inner.monotone and outer.monotone,
            translation_equivariant=inner.translation_equivariant and outer.translation_equivariant,
            needs_successors=inner.needs_successors or outer.needs_successors,
        )

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        probs, values = (x.reshape(self.num_groups, -1) for x in (probs, values))
        mass = jnp.sum(probs, axis=1)
        is_there = mass > 0
        even = jnp.full_like(probs, 1.0 / probs.shape[1])
        shares = jnp.where(is_there[:, None], probs / jnp.where(is_there, mass, 1.0)[:, None], even)
        inside = jax.vmap(self.inner)(shares, jnp.where(is_there[:, None], values, 0.0))
        return self.outer(mass, inside)


def over_own_models(source: Any, operator: BellmanOperator) -> BellmanOperator:
    """`operator` of sources with models: with `over_models` over equal groups of outcomes round its
    own functional; where that is None, one functional over all of them."""
    if source.over_models is None:
        return operator
    nested = Nested(operator.successor_functional, source.over_models, source.num_models)
    return operator.replace(successor_functional=nested)


def check_draws(source: Any, operator: BellmanOperator, groups: str) -> None:
    """Raise `ValueError` where a functional ranges over a single outcome, or a single model.

    Args:
        source: with `num_samples` from each of `num_models`, and `over_models`.
        operator: as the agent has it.
        groups: what the models are, and how to have more.
    """
    functional, outer = operator.successor_functional, source.over_models
    num_outcomes = source.num_samples * (source.num_models if outer is None else 1)
    if functional.facts.needs_successors and num_outcomes == 1:
        raise ValueError(
            f"{describe(functional)} ranges over successors, but {type(source).__name__}"
            "(num_samples=1) gives it 1: set num_samples to 2 or more."
        )
    if outer is not None and source.num_models == 1 and outer.facts.needs_successors:
        raise ValueError(
            f"over_models={describe(outer)} ranges over {groups}, but num_models=1: raise it."
        )
    operator.require_successors(num_outcomes, exact=True)


def equal_outcomes(
    reward: Array, ended: Array, observation: PyTree, discount: float, mask: PyTree = ()
) -> Outcomes:
    """N draws of one step of each transition, of the same probability.

    Args:
        reward: `[B, N]` [return].
        ended: `[B, N]`, whether the MDP terminated.
        observation: `[B, N, ...]`, the successors.
        discount: gamma [per step].
        mask: `[B, N, A]`, see `Outcomes`.
    """
    probs = jnp.full(reward.shape, 1.0 / reward.shape[1], reward.dtype)
    rates = discount * (1.0 - ended.astype(reward.dtype))
    return Outcomes(reward, rates, probs, observation, mask)


register("successors", Sampled, field_types=[Successors])
