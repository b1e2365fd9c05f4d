from jaxrl.agents.actor_critic import ActorCriticAgent as ActorCriticAgent
from jaxrl.agents.actors import Deterministic as Deterministic, SquashedGaussian as SquashedGaussian
from jaxrl.agents.channels import (
    ByFunction as ByFunction,
    BySign as BySign,
    ValueChannels as ValueChannels,
    Whole as Whole,
)
from jaxrl.agents.critic_agent import CriticAgent as CriticAgent
from jaxrl.agents.critics import (
    Optimism as Optimism,
    TruncatedMixture as TruncatedMixture,
    VarianceAdjustment as VarianceAdjustment,
)
from jaxrl.agents.dual import Dual as Dual
from jaxrl.agents.ensemble import Ensemble as Ensemble
from jaxrl.agents.experience import TargetUpdate as TargetUpdate
from jaxrl.agents.generative import Generative as Generative
from jaxrl.agents.iterated import IteratedCopies as IteratedCopies
from jaxrl.agents.normalised import NormalisedAgent as NormalisedAgent
from jaxrl.agents.optimiser import (
    GradientDescent as GradientDescent,
    Optimiser as Optimiser,
    RMSProp as RMSProp,
    learned_optimiser as learned_optimiser,
)
from jaxrl.agents.parallel_q import ParallelQAgent as ParallelQAgent
from jaxrl.agents.presets import (
    PRESETS as PRESETS,
    a2c as a2c,
    c51 as c51,
    cvar_pg as cvar_pg,
    dqn as dqn,
    dsac_t as dsac_t,
    iqn as iqn,
    munchausen_dqn as munchausen_dqn,
    ppo as ppo,
    pqn as pqn,
    preset as preset,
    qr_dqn as qr_dqn,
    rainbow as rainbow,
    sac as sac,
    td3 as td3,
    tqc as tqc,
)
from jaxrl.agents.q_network import QNetworkAgent as QNetworkAgent
from jaxrl.agents.readers import response as response
from jaxrl.agents.stock import (
    ExpectedUtility as ExpectedUtility,
    StockConditioned as StockConditioned,
    static_cvar_stocks as static_cvar_stocks,
)
from jaxrl.agents.successors import Sampled as Sampled
from jaxrl.agents.value_parts import (
    AverageReward as AverageReward,
    Munchausen as Munchausen,
    RewardShift as RewardShift,
)
from jaxrl.agents.variance_weights import VarianceWeights as VarianceWeights
