"""The contracts between the floors. A class that fits one needs no base class.

What a contract asks for beside methods may be a class attribute, a field or a property. Write the
attribute without an annotation, `facts = COHERENT`: with one it would be a field of the struct, and
type checkers tell a `ClassVar` apart from the property that a contract states. The arguments of
formulas, environments and rules are given by position, so that their names are your own.
"""

# Bodies of protocols are their docstrings.
# pyright: reportReturnType=false

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, Protocol, TypeGuard, runtime_checkable

import jax

from jaxrl.core.law import Law
from jaxrl.core.spaces import Space, is_masked, sample
from jaxrl.core.types import Array, Key, Progress, PyTree, TimeStep, Transition


@dataclasses.dataclass(frozen=True)
class FunctionalFacts:
    """What holds of a functional F(p, v) whatever its settings; false where it is not known to.

    A class states them once, as `facts`; each can then also be read off the class itself.

    Attributes:
        monotone: v <= w implies F(p, v) <= F(p, w).
        translation_equivariant: F(p, v + c) = F(p, v) + c; with monotone, the backup contracts.
        coherent: moreover concave and positively homogeneous, hence a worst case over laws.
        time_consistent: F(X) = F(F(X | Y)), so that undiscounted nested and static use agree.
        needs_successors: on a law of one atom it says nothing beyond the mean.
        is_expectation: it is sum_i p_i v_i, so that the backup is the classical one.
        shared_over_actions: nature has one budget for all actions of a state, so that planners call
            `over_actions` and `for_policy`; the plain call gives all of it to one action.
        per_outcome: the field with a number for each outcome of a table, which no sampled law has
            in order; empty without one. The field itself may be None: then nothing is in order.
    """

    monotone: bool = True
    translation_equivariant: bool = True
    coherent: bool = False
    time_consistent: bool = False
    needs_successors: bool = True
    is_expectation: bool = False
    shared_over_actions: bool = False
    per_outcome: str = ""

    def __set_name__(self, owner: type, name: str) -> None:
        for fact in dataclasses.fields(self):
            setattr(owner, fact.name, getattr(self, fact.name))


MONETARY = FunctionalFacts()
COHERENT = FunctionalFacts(coherent=True)


class Functional(Protocol):
    """A scalar of a finite law: expectation, risk measure or worst case over an ambiguity set."""

    @property
    def facts(self) -> FunctionalFacts:
        """What holds of it: a class attribute will do."""

    def __call__(self, probs: Array, values: Array, /) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""


@dataclasses.dataclass(frozen=True)
class HeadFacts:
    """What holds of a head whatever its settings; stated once, as `facts`.

    Attributes:
        stores_law: it keeps a law of returns; false when only the mean survives.
        mean_preserving: `mean(encode(law))` is the law's mean, within the range of the head.
        bounded: returns are stored on a grid of `num_atoms` from `low` to `high`, and what lies
            beyond at its ends, which agents measure and the command line warns of.
        at_levels: its network is asked at levels that are drawn for every batch.
    """

    stores_law: bool = True
    mean_preserving: bool = True
    bounded: bool = False
    at_levels: bool = False


class Head(Protocol):
    """How a return is stored by a network or a table: so many numbers for each action."""

    @property
    def facts(self) -> HeadFacts:
        """What holds of it: a class attribute will do."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the parameters of one action: `()`, `(K,)`, ..."""

    def law(self, params: Array, /) -> Law:
        """`params[*shape]` -> the law they stand for."""

    def encode(self, law: Law, /) -> Array:
        """Law -> `params[*shape]`: the nearest that this head can store."""

    def loss(self, params: Array, target: Law, /) -> Array:
        """`params[*shape]`, the law to move towards -> `[]`. The target is treated as constant by
        the caller."""

    def mean(self, params: Array, /) -> Array:
        """`params[*shape]` -> `[]` [return]."""


@dataclasses.dataclass(frozen=True)
class ImprovementFacts:
    """What holds of an improvement; false where it is not known to. Stated once, as `facts`.

    Attributes:
        deterministic: all probability is on the best action, which `select(q_values, mask)` gives,
            and there is no bonus; a backup then looks at one action's row and mixes none.
        nonexpansive: V moves no further than the greatest change in `q_values`; with a monotone,
            translation-equivariant functional the backup then contracts.
        sublinear: V(q + q') <= V(q) + V(q') and V(c q) = c V(q) for c >= 0.
        fixed: the policy is given and does not depend on `q_values`, and there is no bonus.
    """

    deterministic: bool = False
    nonexpansive: bool = True
    sublinear: bool = False
    fixed: bool = False


@runtime_checkable
class Improvement(Protocol):
    """Which next actions a backup assumes. V = sum_a probs_a (q_a + bonus_a)."""

    @property
    def facts(self) -> ImprovementFacts:
        """What holds of it: a class attribute will do."""

    def __call__(self, q_values: Array, mask: Array | None = None, /) -> tuple[Array, Array]:
        """`q_values[A]`, `mask[A]` (true where legal) -> `probs[A]`, `bonus[A]` [return]."""


@dataclasses.dataclass(frozen=True)
class CompositionFacts:
    """What holds of a composition, stated once, as `facts`.

    Attributes:
        linear: it commutes with the expectation of the next return, as only the discounted sum
            does.
        needs_law: its return is defined along a trajectory and does not commute with the
            expectation, so that a head must store more than a mean.
        contracts: it moves by at most `discount` times the change of the next return.
    """

    linear: bool = False
    needs_law: bool = False
    contracts: bool = True


class Composition(Protocol):
    """How a reward and the return that follows it make the return."""

    @property
    def facts(self) -> CompositionFacts:
        """What holds of it: a class attribute will do."""

    def __call__(self, reward: Array, discount: Array, next_return: Array, /) -> Array:
        """Elementwise, over arrays that broadcast [return]."""


@dataclasses.dataclass(frozen=True)
class PartFacts:
    """What a part of a learner from replay asks of the rest of it; stated once, as `facts`.

    Two parts of which each says more than the agent can give are refused by these facts alone, in
    one sentence that names the setting and the remedy.

    Attributes:
        name: of the part in dotted names of settings; its class's, in snake case, where empty.
        owns: what it alone decides, in words; of two parts with a word in common one must go.
        replay: it learns from the batches of a replay.
        one_step: replay draws single steps (`replay.num_step=1`).
        unit_steps: every step counts as one; none is held for several.
        undiscounted: the discount is 1.
        discounted: the discount is below 1, or sums have no end.
        sums: the return is the discounted sum of rewards.
        means: the head stores a mean, not a law.
        moves: the functional over successors moves with a constant.
        moves_returns: so does the functional over returns.
        plain: the operator stores one mean, of a sum of rewards, and its improvement is
            deterministic.
        gaussian: the head is of means and deviations.
        linear: a value is one linear function of the network's features.
        whole_copies: a lagged copy, when it moves, takes all of the parameters.
        discrete: actions are discrete, and compared.
        entropy: an actor draws actions, and their entropy counts.
    """

    name: str = ""
    owns: tuple[str, ...] = ()
    replay: bool = False
    one_step: bool = False
    unit_steps: bool = False
    undiscounted: bool = False
    discounted: bool = False
    sums: bool = False
    means: bool = False
    moves: bool = False
    moves_returns: bool = False
    plain: bool = False
    gaussian: bool = False
    linear: bool = False
    whole_copies: bool = False
    discrete: bool = False
    entropy: bool = False


_STATED = {  # facts without a safe default
    FunctionalFacts: ("monotone", "translation_equivariant", "needs_successors"),
    HeadFacts: ("stores_law",),
    ImprovementFacts: ("deterministic", "nonexpansive"),
    CompositionFacts: ("linear", "needs_law", "contracts"),
}


def state_facts(kind: type) -> None:
    """Gather the facts of a part's class that states them one by one: `monotone = True`.

    Args:
        kind: class of a functional, a head, an improvement or a composition.

    Raises:
        TypeError: it states neither `facts` nor each that has no safe default.
    """
    if hasattr(kind, "facts"):
        return
    found = [facts for facts, needed in _STATED.items() if all(hasattr(kind, x) for x in needed)]
    if not found:
        raise TypeError(
            f"{kind.__name__} does not say what holds of it: give the class `facts`, one of "
            f"{', '.join(facts.__name__ for facts in _STATED)}, from jaxrl.core."
        )
    names = [fact.name for fact in dataclasses.fields(found[0]) if hasattr(kind, fact.name)]
    gathered = lambda part: found[0](**{name: getattr(part, name) for name in names})  # noqa: E731
    kind.facts = property(gathered)


class Environment(Protocol):
    """A pure environment: its numeric fields are its parameters, and leaves of the struct.

    It may have a method more, `legal(state) -> bool[A]`: which actions may be taken in a state,
    true where they are; of `MultiDiscrete` actions `[sum(num_values)]`, see there. Without the
    method every action always is. `legal_actions` reads it.
    """

    @property
    def observation_space(self) -> Space:
        """The space of one observation."""

    @property
    def action_space(self) -> Space:
        """The space of one action."""

    def reset(self, key: Key, /) -> tuple[PyTree, PyTree]:
        """-> `state`, `observation` of a new episode."""

    def step(self, key: Key, state: PyTree, action: Array, /) -> tuple[PyTree, TimeStep]:
        """-> `state`, `TimeStep`. Never resets by itself: the rollout does that."""


def legal_actions(env: Environment, state: PyTree) -> PyTree:
    """Which actions may be taken in `state`, `[A]` bool; `()` where the environment does not say,
    which is that all may."""
    return env.legal(state) if has_legal(env) else ()


def legal_of_each(env: Environment, states: PyTree, num_envs: int) -> PyTree:
    """`legal_actions` of `states[num_envs, ...]`: `[num_envs, A]`, or `()`."""
    if not has_legal(env):
        return ()
    return jax.vmap(env.legal, axis_size=num_envs)(states)


def has_legal(env: Environment) -> TypeGuard[Any]:
    """Whether the environment says which actions are legal. A wrapper says so where what is inside
    does."""
    return hasattr(env, "legal")


def draw_action(key: Key, env: Environment, state: PyTree) -> PyTree:
    """A uniform legal action in `state`."""
    return sample(key, env.action_space, legal_actions(env, state))


class Policy(Protocol):
    """The part of an agent that acts.

    One that obeys an environment's legal actions takes an argument more, `mask` after `memory`,
    `()` by default: `mask[B, A]` bool, true where an action may be taken. One without it refuses
    environments that say which actions are legal.
    """

    def initial_memory(self, num_envs: int) -> PyTree:
        """What a recurrent policy carries between steps, `[num_envs, ...]`; `()` when nothing."""

    def act(
        self,
        key: Key,
        state: PyTree,
        observation: PyTree,
        explore: bool = True,
        memory: PyTree = (),
    ) -> tuple[Array, dict[str, Any]]:
        """`observation[B, ...]` -> `action[B, ...]`, extras. A recurrent policy returns its next
        memory as `extras["memory"]`; every other entry is recorded in the trajectory."""


def act(
    policy: Policy,
    key: Key,
    state: PyTree,
    observation: PyTree,
    explore: bool,
    memory: PyTree,
    mask: PyTree,
) -> tuple[Array, dict[str, Any]]:
    """`policy.act`, with the mask where there is one. Raises `ValueError` as `check_obeys`."""
    seen = (key, state, observation, explore, memory)
    if not is_masked(mask):
        return policy.act(*seen)
    check_obeys(policy)
    return policy.act(*seen, mask)  # pyright: ignore[reportCallIssue]  # as just checked


def check_obeys(policy: Policy) -> None:
    """Raise `ValueError` for a policy that cannot be told which actions are legal."""
    if "mask" not in inspect.signature(policy.act).parameters:
        raise ValueError(
            "The environment says which actions are legal, and act of "
            f"{type(policy).__name__} takes no mask of them: use ppo, a2c, dqn or pqn, or give "
            "act(key, state, observation, explore, memory, mask)."
        )


@runtime_checkable
class Agent(Policy, Protocol):
    """Three pure functions and the plan of their rollouts.

    `state` holds everything that learning changes: parameters, optimiser, targets, replay,
    progress. An agent whose rollouts must record the environment's states says so by a true
    attribute `keep_env_state`; without one they do not. One whose every rollout is to begin anew,
    neighbouring lanes from one start, says by a whole number above 1, `group_size`, how many.
    """

    @property
    def num_envs(self) -> int:
        """Environments stepped side by side, B."""

    @property
    def rollout_length(self) -> int:
        """Steps of each between two updates, T."""

    @property
    def discount(self) -> float:
        """Gamma [per step]."""

    def check(self, env: Environment) -> None:
        """Raise `ValueError` when the agent cannot learn in `env`, saying what to do."""

    def init(self, key: Key, env: Environment, total_steps: float | Array = ...) -> PyTree:
        """-> `state`. `total_steps` is the length of the life that schedules see."""

    def update(
        self, key: Key, state: PyTree, trajectory: Transition
    ) -> tuple[PyTree, dict[str, Array]]:
        """Fresh `[T, B]` data -> `state`, `metrics` (scalars)."""


@dataclasses.dataclass(frozen=True)
class RuleFacts:
    """What holds of an update rule whatever its numbers; stated once, as `facts`.

    What a rule is made of (a drift, a reward), an optimiser and an exploration have facts as well
    where something of them is learned.

    Attributes:
        needs_episodes: `targets` are of whole episodes: `trajectory.extras["first_step"]` says
            where the episode of each step begins, -1 where it is not whole in the rollout.
        raw_advantages: advantages have a scale of their own; an agent must not standardise them.
        learned: the fields whose numbers an outer loop learns, by dotted path.
        own_rewards: `targets` are of other rewards or discounts than a step's, so that what an
            operator makes of a step has no place in them.
        num_costs: costs of a step that it learns from; 0 where it takes no notice of them.
        reported: fields of its state, `[]` or `[C]`, that an agent adds to its metrics.
        losses: names of several losses, of whose gradients the rule makes one (`UpdateRule`);
            empty where `loss` gives one number.
        lanes: what minibatches are drawn from. 0: single steps, in any order. 1: lanes, whole, so
            that `loss` sees `[T, ...]` in the order of time. K above 1: groups of K neighbouring
            lanes, whole. Every rollout then begins anew, each group from one start, and in
            `first_step` only the first episode of a lane counts.
    """

    needs_episodes: bool = False
    raw_advantages: bool = False
    learned: tuple[str, ...] = ()
    own_rewards: bool = False
    num_costs: int = 0
    reported: tuple[str, ...] = ()
    losses: tuple[str, ...] = ()
    lanes: int = 0


LEARNED = RuleFacts(learned=("weights",))


def rule_facts(part: Any) -> RuleFacts:
    """The facts of a rule, or of any part; gathered where a class has them one by one, or none.

    Example:
        >>> class Mine:
        ...     learned = ("table",)
        >>> rule_facts(Mine()) == RuleFacts(learned=("table",))
        True
    """
    if isinstance(getattr(part, "facts", None), RuleFacts):
        return part.facts
    names = [fact.name for fact in dataclasses.fields(RuleFacts) if hasattr(part, fact.name)]
    return RuleFacts(**{name: getattr(part, name) for name in names})


class UpdateRule(Protocol):
    """What an actor-critic minimises, hand-written or learned.

    Every float in the struct, a number or a network's weights, is a leaf: together they are the
    rule's parameters, which a sweep maps over and an outer loop differentiates or evolves. No
    stop-gradient stands between them and what a rule returns.

    A rule whose facts name several `losses` returns from `loss` a mapping of these names, and has a
    method more, `combine(losses, gradients, targets, progress) -> gradient`: of a minibatch, the
    mean losses `[]` and their gradients in the network's parameters by name, and the targets;
    returned is what the optimiser descends. A rule round another one passes it on.
    """

    @property
    def facts(self) -> RuleFacts:
        """What holds of it: a class attribute will do. All are false where there is none."""

    @property
    def outputs(self) -> Mapping[str, tuple[int, ...]]:
        """Extra network heads that the rule asks for: name and shape."""

    def init(self, params: PyTree, /) -> PyTree:
        """-> `rule_state`, what the rule remembers in one life of a learner with these network
        parameters: running averages, lagged copies; `()` when nothing."""

    def targets(
        self, rule_state: PyTree, outputs: PyTree, trajectory: Transition, progress: Progress, /
    ) -> tuple[PyTree, PyTree]:
        """Along time, once per rollout: `[T, ...]` -> targets `[T, ...]`, `rule_state`."""

    def loss(self, outputs: PyTree, targets: PyTree, progress: Progress, /) -> Array:
        """One step -> `[]`, for the gradient of the network's parameters. Targets are constants
        to that gradient, and not to an outer one."""
