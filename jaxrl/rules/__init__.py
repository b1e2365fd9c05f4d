"""What an actor-critic minimises: update rules as values."""

from jaxrl.core.notation import register
from jaxrl.rules.actor_critic import (
    AdvantageActorCritic as AdvantageActorCritic,
    ProximalPolicy as ProximalPolicy,
)
from jaxrl.rules.contract import (
    PolicyOutputs as PolicyOutputs,
    PolicyTargets as PolicyTargets,
    advantage_targets as advantage_targets,
    clipped_value_loss as clipped_value_loss,
)
from jaxrl.rules.drift_policy import (
    ClipDrift as ClipDrift,
    DiscoveredDrift as DiscoveredDrift,
    DriftPolicy as DriftPolicy,
    FunctionDrift as FunctionDrift,
    NetworkDrift as NetworkDrift,
    ZeroDrift as ZeroDrift,
    drift as drift,
)
from jaxrl.rules.learned_policy_gradient import (
    LearnedPolicyGradient as LearnedPolicyGradient,
    lpg as lpg,
)
from jaxrl.rules.learned_reward import (
    FunctionReward as FunctionReward,
    HintedReward as HintedReward,
    NetworkReward as NetworkReward,
    WithReward as WithReward,
    with_reward as with_reward,
)
from jaxrl.rules.mirror_descent import (
    KullbackLeibler as KullbackLeibler,
    MirrorDescentPolicy as MirrorDescentPolicy,
    TsallisDivergence as TsallisDivergence,
)
from jaxrl.rules.reactive import (
    ReactiveEntropy as ReactiveEntropy,
    ReactiveExploration as ReactiveExploration,
    reactive_entropy as reactive_entropy,
    reactive_exploration as reactive_exploration,
)
from jaxrl.rules.static_risk import StaticRiskGradient as StaticRiskGradient

register("rules", AdvantageActorCritic, ProximalPolicy, MirrorDescentPolicy, DriftPolicy)
register("rules", StaticRiskGradient, ReactiveEntropy, ReactiveExploration)
register("rules", LearnedPolicyGradient, WithReward, a2c="advantage_actor_critic")
register("rules", ppo="proximal_policy", mdpo="mirror_descent_policy")
