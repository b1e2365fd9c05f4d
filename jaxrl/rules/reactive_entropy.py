"""An entropy bonus that answers to how the rewards have been of late."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Key, Progress, PyTree, Transition
from jaxrl.rules.contract import PolicyOutputs, PolicyTargets
from jaxrl.rules.recent_rewards import recent_weights, remember, share

_WEIGHT = "entropy_weight"


@struct.dataclass
class ReactiveEntropy:
    """Another rule whose entropy weight is a network of the mean rewards of the last rollouts.

        m = mean rewards of the last `num_recent` rollouts, the latest first, 0 before the first
        entropy weight = lowest + (highest - lowest) sigmoid( relu(m W + b) . v + c )

    Where rewards fall, a learned network can raise the weight and let the learner explore again.
    The mean rewards are the rule's memory in one life.

    Attributes:
        rule: with a setting `entropy_weight`, which is not used, and nothing to remember.
        weights: `hidden[N, H]`, `bias[H]`, `output[H]`, `shift[]`.
        highest: greatest entropy weight [per nat].
        lowest: least entropy weight [per nat].
        num_recent: N, rollouts looked back on.

    Sources: Flennerhag et al. 2022, Bootstrapped meta-learning, section 5.1. Mean rewards of ten
    rollouts, 32 relus and a sigmoid are as in a public replication
    (MagiFeeney/Bootstrapped-Meta-Learning), whose weight is in (0, 1). So is that of Luketina et
    al. 2022, Meta-gradients in non-stationary environments, table 3, by two layers of 64. The
    bounds are ours.

    Example:
        >>> from jaxrl.rules import AdvantageActorCritic
        >>> rule = reactive_entropy(jax.random.key(0), AdvantageActorCritic())
        >>> rule.init({}).shape, rule.learned
        ((10,), ('weights',))
    """

    rule: Any
    weights: dict[str, Array]
    highest: float = setting(0.5, "greatest entropy weight", unit="per nat", low=0.0)
    lowest: float = setting(0.0, "least entropy weight", unit="per nat", low=0.0)
    num_recent: int = setting(10, "rollouts looked back on", low=1)

    learned: ClassVar[tuple[str, ...]] = ("weights",)

    @property
    def raw_advantages(self) -> bool:
        """As the inner rule has it."""
        return getattr(self.rule, "raw_advantages", False)

    @property
    def outputs(self) -> Mapping[str, tuple[int, ...]]:
        """Those of the inner rule."""
        return self.rule.outputs

    def init(self, params: PyTree) -> Array:
        """Mean rewards `[N]`, none so far."""
        return jnp.zeros(self.num_recent)

    def weight(self, recent: Array) -> Array:
        """Mean rewards `[..., N]`, the latest first -> entropy weight `[...]` [per nat]."""
        return self.lowest + (self.highest - self.lowest) * share(self.weights, recent)

    def targets(
        self, rule_state: Array, outputs: PolicyOutputs, trajectory: Transition, progress: Progress
    ) -> tuple[PolicyTargets, Array]:
        """The inner rule's, with the weight for this rollout, and the memory after it."""
        recent = remember(rule_state, trajectory.reward)
        targets, _ = self.rule.targets((), outputs, trajectory, progress)
        weight = jnp.broadcast_to(self.weight(recent), trajectory.reward.shape)
        return targets.replace(heads={**targets.heads, _WEIGHT: weight}), recent

    def loss(self, outputs: PolicyOutputs, targets: PolicyTargets, progress: Progress) -> Array:
        """The inner rule's loss `[]` of one step, under the weight of the rollout."""
        rule = self.rule.replace(entropy_weight=targets.heads[_WEIGHT])
        return rule.loss(outputs, targets, progress)


def reactive_entropy(
    key: Key,
    rule: Any,
    num_hidden: int = 32,
    num_recent: int = 10,
    highest: float = 0.5,
    lowest: float = 0.0,
) -> ReactiveEntropy:
    """`rule` with an entropy weight that a random network gives, a tenth of the way up at first.

    Args:
        key: of the weights.
        rule: with a setting `entropy_weight`.
        num_hidden: units of the network, at least 1.
        num_recent: rollouts looked back on, at least 1.
        highest: greatest entropy weight [per nat].
        lowest: least entropy weight [per nat].

    Raises:
        ValueError: a size below 1, weights out of order, or a rule that has no entropy weight or
            remembers something.
    """
    if not 0.0 <= lowest < highest:
        raise ValueError(f"lowest={lowest} and highest={highest} must rise from 0.")
    names = {field.name for field in dataclasses.fields(rule)}
    if _WEIGHT not in names or jax.tree.leaves(rule.init(())):
        raise ValueError(
            f"{type(rule).__name__} has no entropy_weight or a memory of its own: give a rule such "
            "as AdvantageActorCritic()."
        )
    weights = recent_weights(key, num_recent, num_hidden, shift=-2.2)  # log-odds of a tenth
    return ReactiveEntropy(rule, weights, highest=highest, lowest=lowest, num_recent=num_recent)
