"""Learners: presets by name, the agents behind them, and the parts they are made of."""

from jaxrl.agents.actor_critic import ActorCriticAgent
from jaxrl.agents.actors import Deterministic, SquashedGaussian
from jaxrl.agents.average_reward import AverageReward
from jaxrl.agents.channels import BySign, ValueChannels, Whole
from jaxrl.agents.critic_agent import CriticAgent
from jaxrl.agents.dual import Dual
from jaxrl.agents.ensemble import Ensemble
from jaxrl.agents.learned_optimiser import LearnedOptimiser, learned_optimiser
from jaxrl.agents.munchausen import Munchausen
from jaxrl.agents.normalised import NormalisedAgent
from jaxrl.agents.optimiser import GradientDescent, GradientStep, Optimiser, RMSProp
from jaxrl.agents.parallel_q import ParallelQAgent
from jaxrl.agents.presets import (
    PRESETS,
    SoftActorCriticAgent,
    TwinDelayedAgent,
    a2c,
    annealed_sac,
    annealed_td3,
    c51,
    cvar_pg,
    differential_dqn,
    double_dqn,
    dpo,
    dqn,
    dsac_t,
    iqn,
    log_dqn,
    lpo,
    mdpo,
    munchausen_dqn,
    ppo,
    pqn,
    preset,
    qr_dqn,
    rainbow,
    sac,
    td3,
    tqc,
)
from jaxrl.agents.q_network import QNetworkAgent
from jaxrl.agents.stock import ExpectedUtility, StockConditioned, static_cvar_stocks
from jaxrl.agents.successors import Generative, Sampled
from jaxrl.agents.targets import TargetUpdate

__all__ = [
    "PRESETS",
    "ActorCriticAgent",
    "AverageReward",
    "BySign",
    "CriticAgent",
    "Deterministic",
    "Dual",
    "Ensemble",
    "ExpectedUtility",
    "Generative",
    "GradientDescent",
    "GradientStep",
    "LearnedOptimiser",
    "Munchausen",
    "NormalisedAgent",
    "Optimiser",
    "ParallelQAgent",
    "QNetworkAgent",
    "RMSProp",
    "Sampled",
    "SoftActorCriticAgent",
    "SquashedGaussian",
    "StockConditioned",
    "TargetUpdate",
    "TwinDelayedAgent",
    "ValueChannels",
    "Whole",
    "a2c",
    "annealed_sac",
    "annealed_td3",
    "c51",
    "cvar_pg",
    "differential_dqn",
    "double_dqn",
    "dpo",
    "dqn",
    "dsac_t",
    "iqn",
    "learned_optimiser",
    "log_dqn",
    "lpo",
    "mdpo",
    "munchausen_dqn",
    "ppo",
    "pqn",
    "preset",
    "qr_dqn",
    "rainbow",
    "sac",
    "static_cvar_stocks",
    "td3",
    "tqc",
]
