"""What an actor-critic minimises: update rules as values."""

from jaxrl.rules.actor_critic import AdvantageActorCritic as AdvantageActorCritic
from jaxrl.rules.contract import (
    PolicyOutputs as PolicyOutputs,
    PolicyTargets as PolicyTargets,
    advantage_targets as advantage_targets,
)
from jaxrl.rules.proximal import ProximalPolicy as ProximalPolicy
from jaxrl.rules.static_risk import StaticRiskGradient as StaticRiskGradient
