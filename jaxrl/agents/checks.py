"""What agents refuse before anything is compiled, and the remedy each refusal names."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxrl.agents.durations import check_durations
from jaxrl.agents.episodes import longest_episode
from jaxrl.core.mdp import TabularMDP
from jaxrl.core.protocols import Environment
from jaxrl.core.spaces import Discrete
from jaxrl.core.types import Array
from jaxrl.functionals import PerPair
from jaxrl.networks import NetworkSettings
from jaxrl.operators import BellmanOperator, ImplicitQuantile, PerState
from jaxrl.operators.bellman import describe


def check_environment(env: Environment, discount: float | Array, has_stock: bool = False) -> None:
    """Raise `ValueError` for what no agent can learn in: see `check_durations`, and MDPs of which
    some actions are illegal, which agents cannot see."""
    check_durations(env, discount, has_stock)
    part: Any = env
    while part is not None:
        mdp = getattr(part, "mdp", None)
        known = isinstance(mdp, TabularMDP) and not isinstance(mdp.legal, jax.core.Tracer)
        if known and (num_illegal := int(np.sum(~np.asarray(mdp.legal)))):
            raise ValueError(
                f"{num_illegal} of the {np.size(mdp.legal)} actions of "
                "this MDP are illegal, but agents choose among all: give the illegal ones the "
                "outcomes of a legal one and call them legal, or use a planner."
            )
        part = getattr(part, "env", None)


def check_discrete_actions(env: Environment) -> None:
    """Raise `ValueError` unless the actions are discrete."""
    if not isinstance(env.action_space, Discrete):
        raise ValueError(
            "Q-learning chooses among discrete actions, and this environment's are continuous: "
            "use ppo, sac or td3."
        )


def check_feed_forward(network: NetworkSettings, env: Environment) -> None:
    """Raise `ValueError` for observations without a torso, or a recurrent network."""
    network.torso(env.observation_space)
    if network.recurrent_size:
        raise ValueError("recurrent_size is for actor-critic agents; leave it at 0 here.")


def check_successors_kept(replay: Any, env: Environment) -> None:
    """Raise `ValueError` where the clock cuts every step and `replay` keeps no successors.

    A row that was cut has its successor in no other row: all would be dropped.
    """
    longest = longest_episode(env)
    part: Any = env
    while part is not None and not getattr(part, "horizon_is_terminal", False):
        part = getattr(part, "env", None)
    known = not isinstance(longest, jax.core.Tracer)
    if part is None and not replay.store_next and known and np.all(np.asarray(longest) <= 1):
        raise ValueError(
            f"The clock cuts every episode after {longest} step, and replay.store_next=False keeps "
            "no successor of such a step: nothing would be learned from. Set "
            "replay.store_next=True, or give episodes more time."
        )


def check_minibatches(what: str, size: int, num_minibatches: int) -> None:
    """Raise `ValueError` unless a rollout divides into equal minibatches.

    Args:
        what: the settings that make up `size`, for the message.
        size: what is divided: steps, or whole sequences for a recurrent network.
        num_minibatches: equal parts wanted.
    """
    if size % num_minibatches:
        raise ValueError(
            f"{what} = {size} does not divide into num_minibatches={num_minibatches} "
            "equal parts: change one of them."
        )


def check_without_table(operator: BellmanOperator) -> None:
    """Raise `ValueError` for parts of an operator that only a table can apply."""
    functional, improvement = operator.successor_functional, operator.improvement
    if isinstance(functional, PerPair) or isinstance(improvement, PerState):
        part = improvement if isinstance(improvement, PerState) else functional
        raise ValueError(
            f"{type(part).__name__} has settings for each state of a table, which a network does "
            "not know: give one setting for all, or plan on the TabularMDP."
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


def check_explicit(operator: BellmanOperator) -> None:
    """Raise `ValueError` for a head whose network takes levels as inputs."""
    if isinstance(operator.head, ImplicitQuantile):
        raise ValueError(
            f"{describe(operator.head)} needs a network that takes levels as inputs, which critics "
            "of continuous actions do not: use Quantile, or an agent of discrete actions."
        )
