"""The plain advantage actor-critic rule."""

from __future__ import annotations

from collections.abc import Mapping

from jaxrl.core import struct
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Progress, PyTree, Transition
from jaxrl.rules.contract import PolicyOutputs, PolicyTargets, advantage_targets


@struct.dataclass
class AdvantageActorCritic:
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
        policy_loss = -outputs.log_prob * targets.advantage
        value_loss = 0.5 * (outputs.value - targets.returns) ** 2
        return policy_loss + self.value_weight * value_loss - self.entropy_weight * outputs.entropy
