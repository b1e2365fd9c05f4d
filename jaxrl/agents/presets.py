"""Named agents: published combinations of settings, each a struct to change with `.replace`.

Settings may be given at once, by short or dotted name: `ppo(learning_rate=1e-3)`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax

import jaxrl.operators as operators
import jaxrl.rules as rules
from jaxrl.agents import (  # which register their parts
    dual as dual,
    ensemble as ensemble,
    variance_weights as variance_weights,
)
from jaxrl.agents.actor_critic import ActorCriticAgent
from jaxrl.agents.actors import Deterministic
from jaxrl.agents.channels import ValueChannels
from jaxrl.agents.critic_agent import CriticAgent
from jaxrl.agents.critics import Optimism, TruncatedMixture, VarianceAdjustment
from jaxrl.agents.iterated import IteratedCopies
from jaxrl.agents.optimiser import Optimiser
from jaxrl.agents.parallel_q import ParallelQAgent
from jaxrl.agents.q_network import QNetworkAgent
from jaxrl.agents.value_parts import AverageReward, Munchausen
from jaxrl.core.notation import KINDS, register
from jaxrl.core.protocols import Agent
from jaxrl.core.schedules import Linear
from jaxrl.core.settings import near_names
from jaxrl.functionals import CVaR
from jaxrl.operators import BellmanOperator
from jaxrl.replay import PrioritisedReplay

AnyAgent = TypeVar("AnyAgent", bound=Agent)
PRESETS: dict[str, Callable[..., Agent]] = KINDS["agents"].builders


def _named(build: Callable[[], AnyAgent]) -> Callable[..., AnyAgent]:
    """Enter an agent under the name of its builder, which takes settings to change."""

    @functools.wraps(build)
    def named(**settings: Any) -> AnyAgent:
        return build().replace(**settings)  # pyright: ignore[reportAttributeAccessIssue]

    del named.__wrapped__  # so that help shows how it is called
    register("agents", named)
    return named


@_named
def a2c() -> ActorCriticAgent:
    """Synchronous advantage actor-critic (Mnih et al. 2016)."""
    return ActorCriticAgent(
        rule=rules.AdvantageActorCritic(),
        optimiser=Optimiser(learning_rate=1e-3),
        num_envs=32,
        rollout_length=16,
        num_epochs=1,
        num_minibatches=1,
    )


@_named
def ppo() -> ActorCriticAgent:
    """Proximal policy optimisation, clipped (Schulman et al. 2017)."""
    return ActorCriticAgent(optimiser=Optimiser(learning_rate=Linear(1e-3, 0.0)))


@_named
def mdpo() -> ActorCriticAgent:
    """On-policy mirror descent policy optimisation (Tomar et al. 2022)."""
    return ppo(rule=rules.MirrorDescentPolicy())


@_named
def dpo() -> ActorCriticAgent:
    """Discovered policy optimisation, the closed form (Lu et al. 2022). No preferences."""
    return ppo(rule=rules.DriftPolicy(rules.DiscoveredDrift()))


@_named
def lpo() -> ActorCriticAgent:
    """Learnt policy optimisation (Lu et al. 2022) before any learning: near PPO's drift."""
    return ppo(rule=rules.drift(jax.random.key(0)))


@_named
def cvar_pg() -> ActorCriticAgent:
    """Policy gradient of the CVaR of whole episodes (Tamar, Glassner & Mannor 2015), from the mean
    down to level 0.1. `rollout_length` must be at least the time limit of the task."""
    return ActorCriticAgent(
        # Where one number stands, a schedule may: of a part of a rule, its type does not say so.
        rule=rules.StaticRiskGradient(CVaR(Linear(1.0, 0.1, end=0.5)), entropy_weight=0.01),  # pyright: ignore[reportArgumentType]
        optimiser=Optimiser(learning_rate=Linear(5e-3, 0.0)),
        num_envs=64,
        rollout_length=500,
        num_epochs=1,
        num_minibatches=1,
        normalise_advantages=False,
    )


@_named
def dqn() -> QNetworkAgent:
    """Deep Q-network (Mnih et al. 2015)."""
    return QNetworkAgent()


@_named
def double_dqn() -> QNetworkAgent:
    """DQN whose learning network chooses the next action (van Hasselt et al. 2016)."""
    return QNetworkAgent(double=True)


@_named
def munchausen_dqn() -> QNetworkAgent:
    """DQN with a soft backup and the log-policy in the reward (Vieillard et al. 2020)."""
    operator = BellmanOperator(
        operators.Scalar(float("inf")), improvement=operators.Softmax(temperature=0.03)
    )
    return QNetworkAgent(operator=operator, parts=(Munchausen(weight=0.9, clip=-1.0),))


@_named
def c51() -> QNetworkAgent:
    """Categorical returns on 51 atoms (Bellemare et al. 2017).

    Set `low` and `high` to the range of returns; atoms beyond it are clipped.
    """
    head = operators.Categorical(low=0.0, high=100.0, num_atoms=51)
    return QNetworkAgent(operator=BellmanOperator(head))


@_named
def qr_dqn() -> QNetworkAgent:
    """Quantile returns (Dabney et al. 2018), with fewer atoms than the published 200."""
    return QNetworkAgent(operator=BellmanOperator(operators.Quantile(num_atoms=32)))


@_named
def iqn() -> QNetworkAgent:
    """Implicit quantile returns (Dabney, Ostrovski et al. 2018), with fewer levels than the 64."""
    return QNetworkAgent(operator=BellmanOperator(operators.ImplicitQuantile(num_atoms=16)))


@_named
def differential_dqn() -> QNetworkAgent:
    """DQN for the average reward per step instead of a discounted return (Wan et al. 2021)."""
    return QNetworkAgent(parts=(AverageReward(),), discount=1.0)


@_named
def iterated_dqn() -> QNetworkAgent:
    """DQN of five networks, each one Bellman step behind the next (Vincent et al. 2025)."""
    return QNetworkAgent(target=IteratedCopies())


@_named
def log_dqn() -> QNetworkAgent:
    """DQN on gains and losses apart, each stored as a logarithm (van Seijen et al. 2019)."""
    return QNetworkAgent(parts=(ValueChannels(),))


@_named
def rainbow() -> QNetworkAgent:
    """Double, dueling, 3-step, prioritised C51 (Hessel et al. 2018).

    Explores by epsilon-greedy in place of noisy layers. Set `low` and `high` to the range of
    returns.
    """
    replay = PrioritisedReplay(capacity=10_000, num_step=3)
    return c51(replay=replay, double=True, dueling=True)


@_named
def pqn() -> ParallelQAgent:
    """Parallel Q-network without replay (Gallici et al. 2025)."""
    return ParallelQAgent()


@_named
def sac() -> CriticAgent:
    """Soft actor-critic with a learned temperature (Haarnoja et al. 2018)."""
    return CriticAgent()


@_named
def td3() -> CriticAgent:
    """Twin delayed deterministic policy gradient (Fujimoto et al. 2018)."""
    return CriticAgent(actor=Deterministic())


@_named
def dsac_t() -> CriticAgent:
    """Soft actor-critic on Gaussian returns, with three refinements (Duan et al. 2025).

    The release moves the policy every second step and takes next actions from a lagged one; here
    the policy moves every step and there is no lagged one, as in `sac`.
    """
    return CriticAgent(
        operator=BellmanOperator(operators.Gaussian()),
        variance_adjustment=VarianceAdjustment(),
    )


@_named
def tqc() -> CriticAgent:
    """Soft actor-critic on truncated mixtures of quantile critics (Kuznetsov et al. 2020)."""
    return CriticAgent(
        operator=BellmanOperator(operators.Quantile(num_atoms=25)),
        pessimism=TruncatedMixture(share=0.08),
        num_critics=5,
    )


@_named
def annealed_sac() -> CriticAgent:
    """Soft actor-critic annealed from optimality to evaluation (Omura et al. 2025)."""
    return sac(parts=(Optimism(),))


@_named
def annealed_td3() -> CriticAgent:
    """TD3 annealed from the optimality to the evaluation backup (Omura et al. 2025)."""
    return td3(parts=(Optimism(),))


def preset(name: str) -> Agent:
    """The agent called `name`.

    Raises:
        KeyError: no such agent; the message lists near names.

    Example:
        >>> preset("dqn").replace(double=True) == preset("double_dqn")
        True
    """
    if name not in PRESETS:
        raise KeyError(f"unknown agent {name!r}; {near_names(name, list(PRESETS))}")
    return PRESETS[name]()
