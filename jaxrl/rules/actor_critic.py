"""The plain advantage actor-critic rule, and what actor-critic rules exchange."""

from __future__ import annotations

from collections.abc import Mapping

from jaxrl.core import struct
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Key, Transition
from jaxrl.returns import generalised_advantages


@struct.dataclass
class PolicyOutputs:
    """What the network says of a step under the current parameters. Any leading axes."""

    log_prob: Array  # [] of the action taken [nats]
    entropy: Array  # [] [nats]
    value: Array  # [] [return]
    next_value: Array | None = None  # [] of the true successor; wanted by `targets` only


@struct.dataclass
class PolicyTargets:
    """What a rule computes once per rollout, outside the gradient. Any leading axes."""

    advantage: Array  # [] [return]
    returns: Array  # [] [return], what the value is regressed on
    log_prob: Array  # [] of the action under the policy that took it [nats]
    value: Array  # [] before any update of this rollout [return]


def advantage_targets(
    lambda_: float | Array, outputs: PolicyOutputs, trajectory: Transition
) -> PolicyTargets:
    """Generalised advantages and lambda-returns of a trajectory `[T, ...]`.

    Termination cuts through `discount`, truncation through the trace alone.
    """
    trace = lambda_ * (1.0 - trajectory.truncated)
    advantage = generalised_advantages(
        trajectory.reward, trajectory.discount, outputs.value, outputs.next_value, trace
    )
    return PolicyTargets(advantage, advantage + outputs.value, outputs.log_prob, outputs.value)


@struct.dataclass
class AdvantageActorCritic:
    """Policy gradient with a value baseline and an entropy bonus.

    loss = -log_prob advantage + value_weight (value - returns)^2 / 2 - entropy_weight entropy

    Source: Mnih et al. 2016, section 4 (A3C; its synchronous form is A2C).

    Example:
        >>> rule = AdvantageActorCritic(value_weight=0.5, entropy_weight=0.0)
        >>> outputs = PolicyOutputs(log_prob=-1.0, entropy=0.0, value=1.0)
        >>> targets = PolicyTargets(advantage=2.0, returns=3.0, log_prob=-1.0, value=1.0)
        >>> rule.loss((), outputs, targets)  # 1 * 2 + 0.5 * (1 - 3)^2 / 2
        3.0
    """

    lambda_: float = setting(0.95, "trace decay of the advantages", low=0.0, high=1.0)
    value_weight: float = setting(0.5, "weight of the value loss", low=0.0)
    entropy_weight: float = setting(0.01, "weight of the entropy bonus", unit="per nat", low=0.0)

    @property
    def outputs(self) -> Mapping[str, tuple[int, ...]]:
        """No extra network heads."""
        return {}

    def init(self, key: Key) -> tuple:
        """Nothing is learned: `()`."""
        return ()

    def targets(
        self, rule_params: tuple, outputs: PolicyOutputs, trajectory: Transition
    ) -> PolicyTargets:
        """Advantages and returns `[T, ...]`."""
        return advantage_targets(self.lambda_, outputs, trajectory)

    def loss(self, rule_params: tuple, outputs: PolicyOutputs, targets: PolicyTargets) -> Array:
        """The loss `[]` of one step."""
        policy_loss = -outputs.log_prob * targets.advantage
        value_loss = 0.5 * (outputs.value - targets.returns) ** 2
        return policy_loss + self.value_weight * value_loss - self.entropy_weight * outputs.entropy
