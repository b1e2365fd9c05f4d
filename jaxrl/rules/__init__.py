"""What an actor-critic minimises: update rules as values."""

from jaxrl.core.doors import door
from jaxrl.core.notation import register
from jaxrl.rules.actor_critic import AdvantageActorCritic, ProximalPolicy
from jaxrl.rules.drift_policy import DriftPolicy
from jaxrl.rules.lagrangian import Lagrangian
from jaxrl.rules.learned_policy_gradient import LearnedPolicyGradient
from jaxrl.rules.learned_reward import WithReward
from jaxrl.rules.leave_one_out import LeaveOneOut
from jaxrl.rules.mirror_descent import MirrorDescentPolicy
from jaxrl.rules.reactive import ReactiveEntropy, ReactiveExploration
from jaxrl.rules.static_risk import StaticRiskGradient
from jaxrl.rules.terminations import ConstraintTerminations

__getattr__, __dir__ = door(__file__, __name__)

register("rules", AdvantageActorCritic, ProximalPolicy, MirrorDescentPolicy, DriftPolicy)
register("rules", StaticRiskGradient, LeaveOneOut, ReactiveEntropy, ReactiveExploration)
register("rules", Lagrangian, ConstraintTerminations, cat="constraint_terminations")
register("rules", LearnedPolicyGradient, WithReward, a2c="advantage_actor_critic")
register("rules", ppo="proximal_policy", mdpo="mirror_descent_policy")
