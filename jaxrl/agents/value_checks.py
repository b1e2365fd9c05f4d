"""What a `QNetworkAgent` refuses before anything is compiled: `agent` is one in all of these."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.agents.checks import (
    check_discrete_actions,
    check_environment,
    check_feed_forward,
    check_successors_kept,
    check_without_table,
)
from jaxrl.agents.durations import differs, held_actions
from jaxrl.agents.munchausen import check_mirror_descent, implicit_policy
from jaxrl.agents.stock import check_stock
from jaxrl.core.protocols import Environment
from jaxrl.operators import DiscountedSum, Scalar
from jaxrl.operators.bellman import describe


def check_value_agent(agent: Any, env: Environment) -> None:
    """Raise `ValueError` for environments and settings that a `QNetworkAgent` cannot learn with."""
    check_discrete_actions(env)
    check_feed_forward(agent.network, env)
    agent.memory.check(agent.batch_size)
    check_successors_kept(agent.replay, env)
    check_without_table(agent.operator)
    check_mirror_descent(agent.operator, agent.munchausen)
    _, munchausen = implicit_policy(agent.operator, agent.munchausen)
    if munchausen is not None and agent.replay.num_step > 1:
        raise ValueError(
            f"A Munchausen bonus is of one step, but the replay has num_step="
            f"{agent.replay.num_step}: set replay.num_step=1."
        )
    check_environment(env, agent.discount, agent.stock is not None)
    if agent.stock is not None:
        steps = agent.successors.keeps_env_state
        check_stock(agent.stock, env, agent.discount, agent.replay.num_step, steps)
    if agent.average_reward is not None:
        _check_average_reward(agent, env)
    if agent.channels is not None:
        _check_channels(agent)
    if differs(agent.reward_shift, 0.0):
        _check_reward_shift(agent)
    agent.successors.check(agent.operator, env, agent.replay.num_step)


def _refuse_beside(agent: Any, what: str, others: tuple[str, ...], why: str) -> None:
    for other in others:
        value = getattr(agent, other)
        if differs(value, 0.0) if other == "reward_shift" else value is not None:
            remedy = "0" if other == "reward_shift" else "None"
            raise ValueError(f"{what} {why}: leave {other} at {remedy}, or {what} out.")


def _check_average_reward(agent: Any, env: Environment) -> None:
    operator, functional = agent.operator, agent.operator.successor_functional
    others = ("channels", "stock", "reward_shift")
    _refuse_beside(agent, "average_reward", others, "has relative values without a scale")
    if differs(agent.discount, 1.0):
        raise ValueError(
            f"average_reward discounts nothing, but discount={agent.discount}: set discount=1."
        )
    if agent.replay.num_step > 1:
        raise ValueError(
            f"average_reward subtracts the average of one step, but the replay has num_step="
            f"{agent.replay.num_step}: set replay.num_step=1."
        )
    if held_actions(env) is not None:
        raise ValueError(
            "average_reward counts every step as one, but HeldActions lasts for several: leave one "
            "of them out."
        )
    if operator.head.facts.stores_law:
        raise ValueError(
            f"{describe(operator.head)} stores a law of returns, but without a discount the spread "
            "of a return has no bound: use Scalar, TwoHot or HLGauss with average_reward."
        )
    if not isinstance(operator.composition, DiscountedSum):
        raise ValueError(
            f"average_reward averages sums of rewards; {describe(operator.composition)} is none: "
            "use DiscountedSum()."
        )
    if not functional.facts.translation_equivariant:
        raise ValueError(
            f"{describe(functional)} does not move with a constant, but relative values are known "
            "up to one only: use a functional that is translation equivariant, such as CVaR."
        )


def _check_channels(agent: Any) -> None:
    channels, operator = agent.channels, agent.operator
    assert channels is not None
    _refuse_beside(agent, "channels", ("munchausen", "stock", "reward_shift"), "have own values")
    if len(channels.mappings) != len(channels.split.weights):
        raise ValueError(
            f"channels: {len(channels.mappings)} mappings for {len(channels.split.weights)} parts "
            f"of {type(channels.split).__name__}: give one mapping for each part."
        )
    with jax.ensure_compile_time_eval():
        sample = jnp.array([-2.0, -0.5, 0.0, 0.25, 3.0])
        sums = channels.split(sample) @ jnp.asarray(channels.split.weights)
    if not np.allclose(sums, sample, rtol=1e-5, atol=1e-6):
        raise ValueError(
            f"channels: {type(channels.split).__name__} does not split rewards: of {sample} the "
            f"weighted parts add up to {sums}."
        )
    parts = (operator.successor_functional, operator.return_functional)
    plain = isinstance(operator.composition, DiscountedSum) and isinstance(operator.head, Scalar)
    if not plain or not all(part.facts.is_expectation for part in parts):
        raise ValueError(
            "channels store means of sums of rewards through mappings of their own: use head "
            "Scalar(), DiscountedSum() and Mean(), or a law's head with the composition Mapped."
        )
    if not operator.improvement.facts.deterministic:
        raise ValueError(
            f"{describe(operator.improvement)} mixes actions with a bonus that belongs to no "
            "channel: use Greedy() with channels."
        )
    if agent.replay.num_step > 1:
        raise ValueError(
            f"channels split the reward of one step, but the replay has num_step="
            f"{agent.replay.num_step}: set replay.num_step=1."
        )


def _check_reward_shift(agent: Any) -> None:
    operator = agent.operator
    _refuse_beside(agent, "reward_shift", ("stock",), "is no part of what the stock counts")
    if not isinstance(agent.discount, jax.core.Tracer) and np.any(np.asarray(agent.discount) >= 1):
        raise ValueError(
            f"reward_shift={agent.reward_shift} adds shift / (1 - discount) to every value, which "
            f"has no bound at discount={agent.discount}: use a discount below 1."
        )
    for part in (operator.successor_functional, operator.return_functional):
        if not part.facts.translation_equivariant:
            raise ValueError(
                f"{describe(part)} does not move with a constant, so that shifted rewards change "
                "what is best: leave reward_shift at 0."
            )
    if not operator.composition.facts.linear:
        raise ValueError(
            f"reward_shift adds to sums of rewards; {describe(operator.composition)} is none: use "
            "DiscountedSum(), or leave it at 0."
        )
