"""Limits on costs as chances that an episode ends (CaT)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxrl.core import Struct
from jaxrl.core.protocols import RuleFacts, UpdateRule, rule_facts
from jaxrl.core.schedules import Schedule, value_at
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Progress, PyTree, Transition, typed_like
from jaxrl.rules.actor_critic import ProximalPolicy
from jaxrl.rules.contract import each_of, learned_in, of_inner


class Violations(Struct):
    """What `ConstraintTerminations` remembers of its C costs."""

    rule: PyTree  # the inner rule's state
    scale: Array  # [C], running mean of the greatest violation of a step's batch [cost]
    violated: Array  # [C], share of the last rollout's steps that exceed the limit
    num_steps: Array  # [] int32, 1 once a batch was seen


class ConstraintTerminations(Struct):
    """Another rule for which a step that exceeds a limit may be the last: constraints as
    terminations.

        excess_c = max(0, cost_c - limit_c)
        p_c = probability clip(excess_c / scale_c, 0, 1),   e = max_c p_c
        reward <- max(0, reward (1 - e)),   discount <- discount (1 - e)

    The end is a number in the return and no event: the environment goes on, and is not reset. A
    `scale` is the running mean, `decay` its memory, of the greatest excess among the environments
    that step together. Probability 0 changes nothing where rewards are at least 0, as they must be:
    below, an end would be welcome. A schedule of the probability is the paper's curriculum.

    It stands here and not round an environment because the greatest excess is of the whole batch.

    Attributes:
        limits: greatest cost of a step, one number for one cost, else one for each [cost].
        probability: of an end at the greatest excess.
        decay: of the running means [per step].
        rule: the inner rule.

    Source: Chane-Sane, Leziart, Flayols, Stasse, Souères & Mansard 2024, CaT: constraints as
    terminations for legged locomotion reinforcement learning, section III.

    Example:
        >>> rule = ConstraintTerminations(limits=1.0, probability=0.5)
        >>> costs = jnp.array([[3.0, 2.0, 0.5]])[..., None]  # of a step of three environments
        >>> rule.terminated(rule.init(()), costs, Progress.start())[0].tolist()
        [[0.5, 0.25, 0.0]]
    """

    limits: float | tuple[float, ...] = setting(
        0.0, "greatest cost of a step, for each cost", unit="cost", several=True
    )
    probability: float | Schedule = setting(
        1.0, "of an end at the greatest excess", low=0.0, high=1.0
    )
    decay: float = setting(0.95, "of the running greatest excess", unit="per step", high=1.0)
    rule: UpdateRule = ProximalPolicy()

    outputs = of_inner("outputs")
    loss = of_inner("loss")
    combine = of_inner("combine")

    @property
    def facts(self) -> RuleFacts:
        """The inner rule's, with as many costs as limits, and what becomes a metric."""
        return dataclasses.replace(
            rule_facts(self.rule),
            learned=learned_in(self, "rule"),
            own_rewards=True,
            num_costs=each_of(self.limits).size,
            reported=("violated", "scale"),
        )

    def init(self, params: PyTree) -> Violations:
        """Nothing seen."""
        zeros = jnp.zeros(each_of(self.limits).shape, jnp.float32)
        return Violations(self.rule.init(params), zeros, zeros, jnp.zeros((), jnp.int32))

    def terminated(
        self, rule_state: Violations, cost: Array, progress: Progress
    ) -> tuple[Array, Violations]:
        """Chances of an end `[T, ...]` of costs `[T, ..., C]`, and the state after them."""
        excess = jnp.maximum(cost - each_of(self.limits), 0.0)
        greatest = jnp.max(excess, axis=tuple(range(1, excess.ndim - 1)))  # [T, C]

        def mean(carry: tuple[Array, Array], new: Array) -> tuple[tuple[Array, Array], Array]:
            scale, count = carry
            scale = jnp.where(count > 0, self.decay * scale + (1.0 - self.decay) * new, new)
            return (scale.astype(rule_state.scale.dtype), jnp.ones_like(count)), scale

        (scale, count), scales = jax.lax.scan(
            mean, (rule_state.scale, rule_state.num_steps), greatest
        )
        scales = scales.reshape(scales.shape[0], *[1] * (excess.ndim - 2), scales.shape[1])
        # Not max(scale, tiny): where nothing was exceeded so far, nothing ends.
        share = jnp.where(excess > 0, excess / jnp.where(scales > 0, scales, 1.0), 0.0)
        chance = value_at(self.probability, progress) * jnp.clip(share, 0.0, 1.0)
        violated = jnp.mean(excess > 0, axis=tuple(range(excess.ndim - 1)))
        after = rule_state.replace(scale=scale, violated=violated, num_steps=count)
        return jnp.max(chance, axis=-1), typed_like(rule_state, after)

    def targets(
        self, rule_state: Violations, outputs: PyTree, trajectory: Transition, progress: Progress
    ) -> tuple[PyTree, Violations]:
        """The inner rule's, `[T, ...]`, of what is paid and what follows before an end."""
        ended, after = self.terminated(rule_state, trajectory.cost, progress)
        trajectory = trajectory.replace(
            reward=jnp.maximum(trajectory.reward * (1.0 - ended), 0.0),
            discount=trajectory.discount * (1.0 - ended),
        )
        targets, inner = self.rule.targets(rule_state.rule, outputs, trajectory, progress)
        return targets, after.replace(rule=inner)
