"""Proximal policy optimisation with a clipped ratio."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Progress, PyTree, Transition
from jaxrl.rules.contract import (
    PolicyOutputs,
    PolicyTargets,
    advantage_targets,
    clipped_value_loss,
    log_ratio,
)


@struct.dataclass
class ProximalPolicy:
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
    clip_epsilon: float = setting(
        0.2, "half-width of the ratio's clip", low=0.0, low_open=True, infinite=True
    )
    value_clip: float = setting(
        0.2, "half-width of the value's clip", unit="return", low=0.0, low_open=True, infinite=True
    )
    value_weight: float = setting(0.5, "weight of the value loss", low=0.0)
    entropy_weight: float = setting(0.01, "weight of the entropy bonus", unit="per nat", low=0.0)

    @property
    def outputs(self) -> Mapping[str, tuple[int, ...]]:
        """No extra network heads."""
        return {}

    def init(self, params: PyTree) -> tuple:
        """Nothing is remembered: `()`."""
        return ()

    def targets(
        self,
        rule_state: tuple,
        outputs: PolicyOutputs,
        trajectory: Transition,
        progress: Progress,
    ) -> tuple[PolicyTargets, tuple]:
        """Advantages and returns `[T, ...]`."""
        return advantage_targets(self.lambda_, outputs, trajectory), rule_state

    def loss(self, outputs: PolicyOutputs, targets: PolicyTargets, progress: Progress) -> Array:
        """The loss `[]` of one step."""
        ratio = jnp.exp(log_ratio(outputs, targets))
        clipped = jnp.clip(ratio, 1.0 - self.clip_epsilon, 1.0 + self.clip_epsilon)
        policy_loss = -jnp.minimum(ratio * targets.advantage, clipped * targets.advantage)
        value_loss = clipped_value_loss(outputs.value, targets, self.value_clip)
        return policy_loss + self.value_weight * value_loss - self.entropy_weight * outputs.entropy
