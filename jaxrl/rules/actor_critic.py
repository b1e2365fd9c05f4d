"""Hand-written policy gradients: the plain advantage actor-critic, and the clipped surrogate."""

from __future__ import annotations

import jax.numpy as jnp

from jaxrl.core import Struct
from jaxrl.core.protocols import RuleFacts
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Progress
from jaxrl.rules import contract
from jaxrl.rules.contract import PolicyOutputs, PolicyTargets


class AdvantageActorCritic(Struct):
    """Policy gradient with a value baseline and an entropy bonus.

    loss = -log_prob advantage + value_weight (value - returns)^2 / 2 - entropy_weight entropy

    Source: Mnih et al. 2016, section 4 (A3C; its synchronous form is A2C).

    Example:
        >>> rule = AdvantageActorCritic(value_weight=0.5, entropy_weight=0.0)
        >>> outputs = PolicyOutputs(log_prob=-1.0, entropy=0.0, value=1.0)
        >>> targets = PolicyTargets(advantage=2.0, returns=3.0, log_prob=-1.0, value=1.0)
        >>> rule.loss(outputs, targets, Progress.start())  # 1 * 2 + 0.5 * (1 - 3)^2 / 2
        3.0
    """

    lambda_: float = setting(0.95, "trace decay of the advantages", low=0.0, high=1.0)
    value_weight: float = setting(0.5, "weight of the value loss", low=0.0)
    entropy_weight: float = setting(0.01, "weight of the entropy bonus", unit="per nat", low=0.0)

    facts = RuleFacts()
    outputs = contract.NO_HEADS
    init = contract.remember_nothing
    targets = contract.plain_targets

    def loss(self, outputs: PolicyOutputs, targets: PolicyTargets, progress: Progress) -> Array:
        """The loss `[]` of one step."""
        policy_loss = -outputs.log_prob * targets.advantage
        value_loss = contract.value_loss(outputs, targets)
        return policy_loss + self.value_weight * value_loss - self.entropy_weight * outputs.entropy


class ProximalPolicy(Struct):
    """The clipped surrogate with a clipped value loss and an entropy bonus.

    ratio = exp(log_prob - old log_prob)
    loss = -min(ratio A, clip(ratio, 1 - e, 1 + e) A)
           + value_weight max((v - R)^2, (v_old + clip(v - v_old, -c, c) - R)^2) / 2
           - entropy_weight entropy

    With `clip_epsilon` and `value_clip` infinite and one epoch it is the advantage actor-critic's
    gradient. Log-ratios are held in [-20, 20].

    Source: Schulman et al. 2017, equations 7 and 9; the value clip is from their released code.

    Example:
        >>> rule = ProximalPolicy(clip_epsilon=0.2, value_weight=0.0, entropy_weight=0.0)
        >>> outputs = PolicyOutputs(log_prob=jnp.log(2.0), entropy=0.0, value=0.0)
        >>> targets = PolicyTargets(advantage=1.0, returns=0.0, log_prob=0.0, value=0.0)
        >>> loss = rule.loss(outputs, targets, Progress.start())
        >>> f"{float(loss):.2f}"  # the ratio 2 counts as 1.2
        '-1.20'
    """

    lambda_: float = setting(0.95, "trace decay of the advantages", low=0.0, high=1.0)
    clip_epsilon: float = contract.half_width("ratio")
    value_clip: float = contract.half_width("value", "return")
    value_weight: float = setting(0.5, "weight of the value loss", low=0.0)
    entropy_weight: float = setting(0.01, "weight of the entropy bonus", unit="per nat", low=0.0)

    facts = RuleFacts()
    outputs = contract.NO_HEADS
    init = contract.remember_nothing
    targets = contract.plain_targets

    def loss(self, outputs: PolicyOutputs, targets: PolicyTargets, progress: Progress) -> Array:
        """The loss `[]` of one step."""
        ratio = jnp.exp(contract.log_ratio(outputs, targets))
        clipped = jnp.clip(ratio, 1.0 - self.clip_epsilon, 1.0 + self.clip_epsilon)
        policy_loss = -jnp.minimum(ratio * targets.advantage, clipped * targets.advantage)
        value_loss = contract.value_loss(outputs, targets, self.value_clip)
        return policy_loss + self.value_weight * value_loss - self.entropy_weight * outputs.entropy
