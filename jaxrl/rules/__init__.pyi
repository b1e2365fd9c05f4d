from jaxrl.rules.actor_critic import (
    AdvantageActorCritic as AdvantageActorCritic,
    ProximalPolicy as ProximalPolicy,
)
from jaxrl.rules.combiners import bisector as bisector
from jaxrl.rules.contract import (
    PolicyOutputs as PolicyOutputs,
    PolicyTargets as PolicyTargets,
    advantage_targets as advantage_targets,
)
from jaxrl.rules.drift_policy import (
    ClipDrift as ClipDrift,
    DiscoveredDrift as DiscoveredDrift,
    DriftPolicy as DriftPolicy,
    ZeroDrift as ZeroDrift,
    drift as drift,
)
from jaxrl.rules.lagrangian import Lagrangian as Lagrangian
from jaxrl.rules.learned_policy_gradient import lpg as lpg
from jaxrl.rules.learned_reward import with_reward as with_reward
from jaxrl.rules.leave_one_out import LeaveOneOut as LeaveOneOut
from jaxrl.rules.mirror_descent import (
    MirrorDescentPolicy as MirrorDescentPolicy,
    TsallisDivergence as TsallisDivergence,
)
from jaxrl.rules.reactive import (
    reactive_entropy as reactive_entropy,
    reactive_exploration as reactive_exploration,
)
from jaxrl.rules.static_risk import StaticRiskGradient as StaticRiskGradient
from jaxrl.rules.terminations import ConstraintTerminations as ConstraintTerminations
