"""What a run is warned of: operators that may not settle, heads that are or were too narrow."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.agents import chain
from jaxrl.cli.job import Job
from jaxrl.core.protocols import Environment, draw_action
from jaxrl.core.types import Array, Key, select
from jaxrl.operators import BellmanOperator
from jaxrl.operators.bellman import describe
from jaxrl.returns import lambda_returns
from jaxrl.training.lanes import root_key
from jaxrl.training.session import SweepResult

_NUM_ENVS, _NUM_STEPS = 16, 256  # of random play
_STREAM = 0x5C0E
_MOST_CLIPPED = 0.01  # of the targets, without a word


def notices(job: Job) -> list[str]:
    """One line for each thing that will probably go wrong."""
    operator: Any = getattr(job.agent, "operator", None)
    if operator is None:
        return []
    found = [why_no_contraction(operator)]
    is_relative = any(part.facts.undiscounted for part in getattr(job.agent, "parts", ()))
    if operator.head.facts.bounded and not is_relative:
        found.append(_narrow_head(job, operator.head))
    return [text for text in found if text]


def why_no_contraction(operator: BellmanOperator) -> str:
    """One line on why an operator has no certificate of contraction; empty when it has."""
    if operator.contracts:
        return ""
    functional, improvement = operator.successor_functional, operator.improvement
    facts = functional.facts
    composition, score = operator.composition, operator.return_functional
    holds = {
        f"{describe(functional)} is not monotone": facts.monotone,
        f"{describe(functional)} does not move with a sure amount": facts.translation_equivariant,
        f"{describe(improvement)} can spread values apart": improvement.facts.nonexpansive,
        f"{describe(composition)} does not shrink by the discount": composition.facts.contracts,
        f"{describe(score)} of a return law chooses actions": score.facts.is_expectation,
    }
    return (
        "this operator has no certificate of contraction "
        f"({'; '.join(reason for reason, good in holds.items() if not good)}): a fixed point "
        "may not exist, may not be the only one, and may not be approached."
    )


def final_notices(job: Job, result: SweepResult) -> list[str]:
    """One line for each setting whose head could not hold what it was to learn, at the end."""
    clipped = result.metrics.get("clipped_fraction")
    if clipped is None:
        return []
    found, head = [], job.agent.operator.head  # pyright: ignore[reportAttributeAccessIssue]
    for label, last in zip(job.labels, np.asarray(clipped)[..., -1], strict=True):
        known = last[np.isfinite(last)]
        share = float(known.mean()) if known.size else 0.0
        if share > _MOST_CLIPPED:
            where = f" ({label})" if label else ""
            found.append(
                f"at the end {share:.1%} of the targets{where} lay beyond the ends of "
                f"{describe(head)} and were stored at them: values there are wrong. Widen the "
                "grid with --set low=... high=..."
            )
    return found


def _narrow_head(job: Job, head: Any) -> str:
    """Whether a grid of returns is too narrow, by what random play is paid; empty when it holds."""
    key = jax.random.fold_in(root_key(job.config["seed"]), _STREAM)
    discount = float(job.agent.discount)
    reward, returns = map(np.asarray, _random_play(key, job.env, discount))
    shift = float(chain.offset(getattr(job.agent, "parts", ()), discount))
    returns = returns + shift
    least, most = float(reward.min()), float(reward.max())
    if discount < 1:
        worst = min(least, least / (1 - discount)) + shift
        best = max(most, most / (1 - discount)) + shift
    else:
        worst, best = float(returns.min()), float(returns.max())
    low, high = float(head.low), float(head.high)
    slack = 1e-3 * max(high - low, 1e-6)
    if worst >= low - slack and best <= high + slack:
        return ""
    clipped = float(np.mean((returns < low) | (returns > high)))
    return (
        f"{describe(head)} may be too narrow: random play was paid {least:.4g} to {most:.4g} a "
        f"step, which can add up to [{worst:.4g}, {best:.4g}] at discount {discount:.4g}, "
        f"and {clipped:.0%} of its discounted returns are clipped. Widen the grid: "
        f"--set low={min(worst, low):.4g} high={max(best, high):.4g}"
    )


@jax.jit
def _random_play(key: Key, env: Environment, discount: float) -> tuple[Array, Array]:
    """Rewards `[T, B]` and discounted returns `[T, B]` of uniform actions.

    What comes after the last step, or after a clock ran out, counts as nothing.
    """

    def lane(key: Key) -> tuple[Array, Array]:
        reset_key, run_key = jax.random.split(key)

        def step(state: Any, key: Key) -> tuple[Any, tuple[Array, Array]]:
            act_key, step_key, again_key = jax.random.split(key, 3)
            state, outcome = env.step(step_key, state, draw_action(act_key, env, state))
            ended = (outcome.terminated >= 1) | outcome.truncated
            fresh, _ = env.reset(again_key)
            rate = jnp.where(ended, 0.0, discount * (1.0 - outcome.terminated))
            return select(ended, fresh, state), (outcome.reward, rate)

        state, _ = env.reset(reset_key)
        _, played = jax.lax.scan(step, state, jax.random.split(run_key, _NUM_STEPS))
        return played

    reward, rate = jax.vmap(lane, out_axes=1)(jax.random.split(key, _NUM_ENVS))
    return reward, lambda_returns(reward, rate, jnp.zeros_like(reward), 1.0)
