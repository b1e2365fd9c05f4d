"""Values against the average reward per step instead of discounted ones."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.notation import register
from jaxrl.core.protocols import Environment
from jaxrl.core.schedules import Schedule, value_at
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Key, Progress, PyTree
from jaxrl.operators import BellmanOperator


@struct.dataclass
class AverageReward:
    """Differential Q-learning: nothing is discounted, and the average reward is subtracted.

        target = r - g + V'(s'),   g <- g + step_size E[target - q'(s, a)]

    over the batch, with q' the lagged copy and V' the improvement's value by it. (The error is that
    of one function, as in the table's algorithm. Taken of the network that learns, which follows
    its targets, most of it would vanish before g has moved.) g tends to the best average reward of
    a unichain model, and q to its relative values up to a constant. Where an episode ends the next
    begins at once: an end is worth the mean of V' over fresh resets. So g tends to the `gain` of
    `planning.relative_value_iteration`, under every functional over successors.

    g moves by the errors and not by the rewards, so that it is the optimal policy's average reward
    while another one acts.

    Attributes:
        step_size: of g, in one gradient step.
        initial: g at first [return per step].

    Example:
        >>> AverageReward(step_size=0.5).moved(jnp.array(1.0), jnp.array(2.0), Progress.start())
        Array(2., dtype=float32)

    Sources:
        Wan, Naik & Sutton (2021), Learning and planning in average-reward Markov decision
        processes, section 2. There, and in the code of the authors
        (abhisheknaik96/average-reward-methods, agents/control_agents.py), the step size of g is eta
        alpha, a multiple of that of q; here it is a number of its own.
    """

    step_size: float | Schedule = setting(
        0.01, "step size of the average reward", low=0.0, high=1.0
    )
    initial: float = setting(0.0, "first estimate", unit="return per step")

    def init(self) -> Array:
        """The first estimate `[]` [return per step]."""
        return jnp.asarray(self.initial, jnp.float32)

    def start_value(
        self,
        key: Key,
        env: Environment,
        num_starts: int,
        operator: BellmanOperator,
        outputs: Callable[[PyTree], tuple[Array, Array | None]],
    ) -> Array:
        """What a new episode is worth, by the mean over fresh resets, `[]` [return].

        Args:
            key: spent.
            env: to reset.
            num_starts: resets.
            operator: its improvement values them.
            outputs: `observation[num_starts, ...]` -> the head's parameters `[num_starts, A, ...]`,
                and those that choose the action or None.
        """
        _, observation = jax.vmap(env.reset)(jax.random.split(key, num_starts))
        rows, selector = outputs(observation)
        return jnp.mean(jax.vmap(operator.state_law)(rows, None, selector).mean())

    def moved(self, gain: Array, td_error: Array, progress: Progress) -> Array:
        """g after a batch of mean error `td_error[]` [return]; as it was if that is not finite."""
        moved = (gain + value_at(self.step_size, progress) * td_error).astype(gain.dtype)
        return jnp.where(jnp.isfinite(moved), moved, gain)


def differential() -> AverageReward:
    """Differential Q-learning (Wan et al. 2021): the average reward is subtracted."""
    return AverageReward()


register("average_rewards", differential, field_types=[AverageReward])
