"""What agents refuse before anything is compiled, and the remedy each refusal names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.agents import chain
from jaxrl.core.mdp import TabularMDP
from jaxrl.core.protocols import Environment, PartFacts, has_legal
from jaxrl.core.settings import get_path
from jaxrl.core.spaces import Box, Discrete
from jaxrl.core.types import Array, Transition, is_traced
from jaxrl.envs.parameters import list_parameters
from jaxrl.envs.wrappers import HeldActions
from jaxrl.functionals import PerPair
from jaxrl.networks import Network
from jaxrl.operators import BellmanOperator, Gaussian, PerState, Scalar
from jaxrl.operators.bellman import describe

_SUMS, _MEANS = "use DiscountedSum()", "use Scalar, TwoHot or HLGauss"
_PLAIN = "use Scalar(), DiscountedSum(), Greedy() and Mean(), or a law's head and Mapped"
_COPIES = "set target.step_size=1"


def _is_one(discount: Any) -> bool:
    return not differs(discount, 1.0)


def _is_below_one(discount: Any) -> bool:
    return is_traced(discount) or bool(np.all(np.asarray(discount) < 1))


def _stores_means(head: Any) -> bool:
    return not head.facts.stores_law


def _is_gaussian(head: Any) -> bool:
    return isinstance(head, Gaussian)


def _is_scalar(head: Any) -> bool:
    return isinstance(head, Scalar)


def _is_plain(operator: BellmanOperator) -> bool:
    functionals = (operator.successor_functional, operator.return_functional)
    plain = all(functional.facts.is_expectation for functional in functionals)
    plain &= isinstance(operator.head, Scalar) and operator.composition.facts.linear
    return plain and operator.improvement.facts.deterministic


_MOVES = (attrgetter("facts.translation_equivariant"), "moves values by a constant")
_MOVES += ("this one does not move with it; one that is translation equivariant, as CVaR, does",)

# What the facts of a part ask: of which setting, whether a value will do, why, what would do.
_ASKED: dict[str, tuple[str, Callable[[Any], bool], str, str]] = {
    "one_step": ("replay.num_step", lambda n: n == 1, "is of one step", "set replay.num_step=1"),
    "undiscounted": ("discount", _is_one, "discounts nothing", "set discount=1"),
    "discounted": ("discount", _is_below_one, "adds up without end", "use a discount below 1"),
    "sums": ("operator.composition", attrgetter("facts.linear"), "is of sums of rewards", _SUMS),
    "means": ("operator.head", _stores_means, "is of means, not of what stores a law", _MEANS),
    "moves": ("operator.successor_functional", *_MOVES),
    "moves_returns": ("operator.return_functional", *_MOVES),
    "plain": ("operator", _is_plain, "store means of sums of rewards, one for each", _PLAIN),
    "gaussian": ("operator.head", _is_gaussian, "is of means and deviations", "use Gaussian()"),
    "linear": ("operator.head", _is_scalar, "reads one linear output an action", "use Scalar()"),
    "whole_copies": ("target", attrgetter("whole"), "compares whole copies", _COPIES),
    "entropy": ("actor", attrgetter("is_random"), "is of an entropy", "use SquashedGaussian()"),
}


def check_facts(agent: Any, name: str, facts: PartFacts) -> None:
    """Raise `ValueError` where the part `name` of an agent does not go with its other settings.

    Args:
        agent: whose settings they are.
        name: of the part.
        facts: what it asks.
    """
    for fact, (setting, fits, why, remedy) in _ASKED.items():
        value = get_path(agent, setting) if getattr(facts, fact) else None
        if value is not None and not fits(value):
            shown = describe(value) if dataclasses.is_dataclass(value) else value
            raise ValueError(f"{name} {why}, but {setting} is {shown}: {remedy}.")


def check_parts(agent: Any, env: Environment) -> None:
    """Raise `ValueError` where a part of a chain does not go with another, or with the agent."""
    owners: dict[str, str] = {}
    for part in agent.parts if isinstance(agent.parts, tuple) else [agent.parts]:
        name = type(part).__name__
        if not isinstance(agent.parts, tuple) or not isinstance(part, chain.HOOKS):
            raise ValueError(
                f"parts={agent.parts!r}: give a tuple of parts, each with a method of "
                "jaxrl.agents.chain, such as (Munchausen(),)."
            )
        facts: PartFacts = part.facts
        for word in (*facts.owns, f"agent.parts.{facts.name or name}"):
            if word in owners:
                raise ValueError(f"{owners[word]} and {name} both decide {word}: leave one out.")
            owners[word] = name
    for part in agent.parts:
        facts, name = part.facts, type(part).__name__
        is_discrete = isinstance(env.action_space, Discrete)
        if (facts.entropy and is_discrete) or (facts.discrete and not is_discrete):
            what = "discrete actions" if facts.discrete else "the entropy of an actor of boxes"
            raise ValueError(f"{name} is of {what}, not of {env.action_space}: leave it out.")
        check_facts(agent, name, facts)
        if isinstance(part, chain.Checks):
            part.check(agent, env)


def layers(env: Any) -> Iterator[Any]:
    """An environment and all that it wraps, from outside in."""
    yield env
    while hasattr(env, "env"):
        yield (env := env.env)


def differs(first: float | Array, second: float | Array) -> bool:
    """Whether two numbers are known and not the same."""
    if is_traced(first, second):
        return False
    return bool(np.any(np.abs(np.asarray(first) - np.asarray(second)) > 1e-6))


_LIMITS = ("time_limit", "max_steps", "max_steps_in_episode")


def longest_episode(env: Environment) -> float | Array:
    """The least time limit [steps] among those of `env` and what it wraps; inf where none is.

    Example:
        >>> from jaxrl.envs.control import MountainCar
        >>> from jaxrl.envs.wrappers import TimeLimit
        >>> longest_episode(TimeLimit(MountainCar(), 50))
        50
    """
    limits = [p.value for p in list_parameters(env) if p.name.rsplit(".", 1)[-1] in _LIMITS]
    if is_traced(limits):
        return jnp.min(jnp.stack([jnp.asarray(limit, jnp.float32) for limit in limits]))
    with jax.ensure_compile_time_eval():  # known numbers are compared at once, under jit too
        return min(limits, default=float("inf"))


def check_environment(env: Environment, discount: float | Array, *unit_steps: str) -> None:
    """Raise `ValueError` for what no agent can learn in: actions held under another discount, or
    beside a stock, and MDPs of which some actions are illegal while the environment tells nobody.

    Args:
        env: to be learned in, with its wrappers.
        discount: the agent's [per step].
        unit_steps: parts of the agent that count every step as one.
    """
    held = next((layer for layer in layers(env) if isinstance(layer, HeldActions)), None)
    if held is not None and differs(held.discount, discount):
        raise ValueError(
            f"The agent discounts by {discount}, HeldActions by {held.discount}: give both the "
            "same, or steps of several unit steps are not discounted by gamma^tau."
        )
    if held is not None and unit_steps:
        raise ValueError(
            f"The {unit_steps[0]} counts every step as one, but HeldActions lasts for several: "
            "leave one out."
        )
    for mdp in jax.tree.leaves(env, is_leaf=lambda part: isinstance(part, TabularMDP)):
        known = isinstance(mdp, TabularMDP) and not is_traced(mdp.legal)
        if has_legal(env) or not known:
            continue
        if num_illegal := int(np.sum(~np.asarray(mdp.legal))):
            raise ValueError(
                f"{num_illegal} of the {np.size(mdp.legal)} actions of this MDP are illegal, but "
                f"{type(env).__name__} has no legal(state) that would tell agents which: give it "
                "one, as TabularEnv has, or use a planner."
            )


def check_signals(trajectory: Transition, num_costs: int = 0) -> None:
    """Raise `ValueError` where a step has several rewards, or not as many costs as are asked for.

    Args:
        trajectory: `[...]`; looked at are shapes alone.
        num_costs: that the learner asks for; 0 where it takes no notice of them.
    """
    lanes = jnp.ndim(trajectory.truncated)
    if jnp.ndim(trajectory.reward) > lanes:
        count = jnp.shape(trajectory.reward)[-1]
        raise ValueError(
            f"Steps have {count} rewards, and this agent learns from one: weigh them by "
            f"jaxrl.envs.wrappers.ScalarReward(env, weights), {count} weights."
        )
    known = 0 if isinstance(trajectory.cost, tuple) else jnp.shape(trajectory.cost)[-1]
    if num_costs and known != num_costs:
        raise ValueError(
            f"The rule has a number for each of {num_costs} costs, and steps of this environment "
            f"have {known}: give as many as there are costs, in an environment that has some, such "
            'as jaxrl.envs.make("HazardGrid").'
        )


def check_discrete_actions(env: Environment) -> None:
    """Raise `ValueError` unless an action is one of several."""
    if isinstance(env.action_space, Discrete):
        return
    if isinstance(env.action_space, Box):
        raise ValueError(
            "Q-learning chooses among discrete actions, and this environment's are continuous: "
            "use ppo, sac or td3."
        )
    raise ValueError(
        "Q-learning values each of the actions of a Discrete space, and this environment's are "
        f"{env.action_space}: use ppo or a2c, which take it, or number its actions."
    )


def check_feed_forward(network: Network, env: Environment) -> None:
    """Raise `ValueError` for observations without a torso, or a recurrent network."""
    network.torso(env.observation_space)
    if network.recurrent_size:
        raise ValueError("recurrent_size is for actor-critic agents; leave it at 0 here.")


def check_replay_agent(agent: Any, env: Environment) -> None:
    """Raise `ValueError` where an agent that learns from replay cannot learn in `env`.

    Nor can one whose replay keeps no successors where the clock cuts every step: a row that was cut
    has its successor in no other row, and all would be dropped.

    Args:
        agent: with replay, operator, successors and a chain of parts.
        env: to be learned in.
    """
    check_feed_forward(agent.network, env)
    agent.memory.check(agent.batch_size)
    longest = longest_episode(env)
    clocks = (layer for layer in layers(env) if hasattr(layer, "horizon_is_terminal"))
    is_end = any(clock.horizon_is_terminal for clock in clocks)
    known = not is_end and not is_traced(longest)
    if known and not agent.replay.store_next and np.all(np.asarray(longest) <= 1):
        raise ValueError(
            f"The clock cuts every episode after {longest} step, and replay.store_next=False keeps "
            "no successor of such a step: nothing would be learned from. Set "
            "replay.store_next=True, or give episodes more time."
        )
    check_without_table(agent.operator)
    check_parts(agent, env)
    unit_steps = [type(part).__name__ for part in agent.parts if part.facts.unit_steps]
    check_environment(env, agent.discount, *unit_steps)
    source = agent.successors
    check_facts(agent, f"successors={type(source).__name__}", source.facts)
    source.check(agent.operator, env)


def check_without_table(operator: BellmanOperator) -> None:
    """Raise `ValueError` for parts of an operator that only a table can apply."""
    functional, improvement = operator.successor_functional, operator.improvement
    for part in (functional, improvement):
        if isinstance(part, (PerPair, PerState)):
            raise ValueError(
                f"{type(part).__name__} has settings for each state of a table, which a network "
                "does not know: give one setting for all, or plan on the TabularMDP."
            )
    facts = functional.facts
    if facts.per_outcome and getattr(functional, facts.per_outcome) is not None:
        raise ValueError(
            f"{type(functional).__name__}.{facts.per_outcome} has a number for each outcome of a "
            "table, but an agent sees draws in no order: use a functional without them, or plan "
            "on the TabularMDP."
        )
    if facts.shared_over_actions:
        raise ValueError(
            f"{describe(functional)} shares nature's budget over the actions of a state, but this "
            "agent sees the successors of one action: use the form of single actions, such as "
            "KLBall or WeightedL1, or plan on the TabularMDP."
        )
