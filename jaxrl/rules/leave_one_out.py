"""Whole episodes compared with others from the same start: leave-one-out, and group-relative."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import jax.numpy as jnp

from jaxrl.core import Struct
from jaxrl.core.protocols import RuleFacts
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Progress, Transition
from jaxrl.returns import lambda_returns
from jaxrl.rules import contract
from jaxrl.rules.contract import PolicyOutputs, PolicyTargets

_ROUNDING = 1e-5  # of the greatest return: a smaller deviation is that of equal float32 returns


class LeaveOneOut(Struct):
    """The clipped surrogate of whole episodes, each less the mean of others from its start (LOOP).

        K lanes begin an episode in one start; R_i is the return of the first episode of lane i
        A_i = R_i - mean_{j != i} R_j = K / (K - 1) (R_i - mean_j R_j),  at every step of it
        loss = -min(ratio A, clip(ratio, 1 - e, 1 + e) A) - entropy_weight entropy

    There is no critic: its loss is 0. The baseline is independent of what lane i did, so that the
    first of several epochs has the policy's own gradient as its mean, divided by `rollout_length`,
    over which the agent averages. What follows the end of an episode in a lane weighs nothing, and
    is spent: take a `rollout_length` that the longest episode just fits in.

    Group-relative (GRPO): A_i = (R_i - mean_j R_j) / deviation of R_1 ... R_K. Each start then
    weighs the same however far its returns are apart, which is another objective: with returns of 0
    or 1 and many lanes the gradient is that of 2 arcsin sqrt(p), p the chance of a 1.

    The agent discounts the returns; the papers' are sums: `discount=1`. The minibatches are groups,
    whole. LOOP shuffles episodes irrespective of group, which moves no mean.

    Attributes:
        group_size: K, which divides `num_envs`; at least 2.
        clip_epsilon: e, half-width of the ratio's clip of each step.
        entropy_weight: of the entropy bonus [per nat].
        by_deviation: divide by the group's deviation (GRPO).

    Numerics: a group of equal returns has advantages of 0, also where they are divided: no epsilon
    decides.

    Sources: Kool, van Hoof & Welling 2019, Buy 4 REINFORCE samples, get a baseline for free
    (leave-one-out); Chen et al. 2025, Reinforcement learning for long-horizon interactive LLM
    agents, algorithm 1 (LOOP, ratios of single steps); Shao et al. 2024, DeepSeekMath (GRPO, whose
    divergence to a reference and average over each episode's length are left out here).

    Example:
        >>> trajectory = Transition(
        ...     observation=jnp.zeros((1, 4)),
        ...     action=jnp.zeros((1, 4)),
        ...     reward=jnp.array([[1.0, 0.0, 5.0, 5.0]]),  # two groups of two, episodes of a step
        ...     discount=jnp.zeros((1, 4)),
        ...     next_observation=jnp.zeros((1, 4)),
        ...     terminated=jnp.ones((1, 4), bool),
        ...     truncated=jnp.zeros((1, 4), bool),
        ...     extras={"first_step": jnp.zeros((1, 4), jnp.int32)},
        ... )
        >>> outputs = PolicyOutputs(*[jnp.zeros((1, 4))] * 3)
        >>> rule = LeaveOneOut(group_size=2)
        >>> rule.targets((), outputs, trajectory, Progress.start())[0].advantage.tolist()
        [[1.0, -1.0, 0.0, 0.0]]
    """

    group_size: int = setting(8, "lanes that begin an episode in one start", low=2)
    clip_epsilon: float = contract.half_width("ratio")
    entropy_weight: float = setting(0.01, "weight of the entropy bonus", unit="per nat", low=0.0)
    by_deviation: bool = setting(False, "divide by the deviation of a group's returns (GRPO)")

    outputs: ClassVar[Mapping[str, tuple[int, ...]]] = contract.NO_HEADS
    init = contract.remember_nothing

    @property
    def facts(self) -> RuleFacts:
        """Whole episodes, in groups of lanes from one start."""
        return RuleFacts(needs_episodes=True, lanes=self.group_size)

    def targets(
        self, rule_state: tuple, outputs: PolicyOutputs, trajectory: Transition, progress: Progress
    ) -> tuple[PolicyTargets, tuple]:
        """The advantages `[T, B]` of each lane's first episode, 0 where `first_step` is not 0; the
        groups are neighbours in B."""
        ended = (trajectory.terminated >= 1) | trajectory.truncated
        counts = trajectory.extras["first_step"] == 0
        paid, nothing = jnp.where(counts, trajectory.reward, 0.0), jnp.zeros_like(trajectory.reward)
        trace = jnp.where(ended, 0.0, 1.0)
        following = lambda_returns(paid, trajectory.discount, nothing, trace)
        returns = following[0].reshape(-1, self.group_size)
        centred = returns - jnp.mean(returns, axis=1, keepdims=True)
        if self.by_deviation:
            square = jnp.mean(centred**2, axis=1, keepdims=True)
            apart = square > (_ROUNDING * jnp.max(jnp.abs(returns), axis=1, keepdims=True)) ** 2
            advantage = jnp.where(apart, centred / jnp.sqrt(jnp.where(apart, square, 1.0)), 0.0)
        else:
            advantage = centred * self.group_size / (self.group_size - 1)
        advantage = jnp.where(counts, advantage.reshape(-1), 0.0)
        weight = {"counts": counts.astype(advantage.dtype)}
        targets = PolicyTargets(advantage, following, outputs.log_prob, outputs.value, heads=weight)
        return targets, rule_state

    def loss(self, outputs: PolicyOutputs, targets: PolicyTargets, progress: Progress) -> Array:
        """The loss `[]` of one step; 0 where it does not count."""
        ratio = jnp.exp(contract.log_ratio(outputs, targets))
        clipped = jnp.clip(ratio, 1.0 - self.clip_epsilon, 1.0 + self.clip_epsilon)
        gain = jnp.minimum(ratio * targets.advantage, clipped * targets.advantage)
        return -gain - self.entropy_weight * targets.heads["counts"] * outputs.entropy
