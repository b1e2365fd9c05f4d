"""What a run is warned of before it trains: operators that may not settle, heads too narrow."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.cli.adversary import why_no_contraction
from jaxrl.cli.job import Job
from jaxrl.core.protocols import Environment
from jaxrl.core.types import Array, Key, select
from jaxrl.operators.bellman import describe

_NUM_ENVS, _NUM_STEPS = 16, 256  # of random play
_STREAM = 0x5C0E


def notices(job: Job) -> list[str]:
    """One line for each thing that will probably go wrong."""
    operator: Any = getattr(job.agent, "operator", None)
    if operator is None:
        return []
    found = [why_no_contraction(operator)]
    if hasattr(operator.head, "low") and hasattr(operator.head, "high"):
        found.append(_narrow_head(job, operator.head))
    return [text for text in found if text]


def _narrow_head(job: Job, head: Any) -> str:
    """Whether a grid of returns is too narrow, by what random play is paid; empty when it holds."""
    key = jax.random.fold_in(jax.random.key(job.seed), _STREAM)
    discount = float(job.agent.discount)
    reward, returns = map(np.asarray, _random_play(key, job.env, discount))
    least, most = float(reward.min()), float(reward.max())
    if discount < 1:
        bounds = min(least, least / (1 - discount)), max(most, most / (1 - discount))
    else:
        bounds = float(returns.min()), float(returns.max())
    low, high = float(head.low), float(head.high)
    slack = 1e-3 * max(high - low, 1e-6)
    if bounds[0] >= low - slack and bounds[1] <= high + slack:
        return ""
    clipped = float(np.mean((returns < low) | (returns > high)))
    return (
        f"{describe(head)} may be too narrow: random play was paid {least:.4g} to {most:.4g} a "
        f"step, which can add up to [{bounds[0]:.4g}, {bounds[1]:.4g}] at discount {discount:.4g}, "
        f"and {clipped:.0%} of its discounted returns are clipped. Widen the grid: "
        f"--set low={min(bounds[0], low):.4g} high={max(bounds[1], high):.4g}"
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
            state, outcome = env.step(step_key, state, env.action_space.sample(act_key))
            ended = (outcome.terminated > 0) | outcome.truncated
            fresh, _ = env.reset(again_key)
            return select(ended, fresh, state), (outcome.reward, ended)

        state, _ = env.reset(reset_key)
        _, played = jax.lax.scan(step, state, jax.random.split(run_key, _NUM_STEPS))
        return played

    def back(later: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        reward, ended = now
        total = reward + jnp.where(ended, 0.0, discount * later)
        return total, total

    reward, ended = jax.vmap(lane, out_axes=1)(jax.random.split(key, _NUM_ENVS))
    _, returns = jax.lax.scan(back, jnp.zeros(_NUM_ENVS), (reward, ended), reverse=True)
    return reward, returns
