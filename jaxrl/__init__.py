"""jaxrl: functional reinforcement learning in JAX, with pluggable Bellman operators.

Names are imported when first used, so that `import jaxrl` and the command line start fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxrl import (
        envs as envs,
        functionals as functionals,
        operators as operators,
        planning as planning,
    )
    from jaxrl.agents.actor_critic import ActorCriticAgent as ActorCriticAgent
    from jaxrl.agents.actors import (
        Deterministic as Deterministic,
        SquashedGaussian as SquashedGaussian,
    )
    from jaxrl.agents.average_reward import AverageReward as AverageReward
    from jaxrl.agents.channels import ValueChannels as ValueChannels
    from jaxrl.agents.critic_agent import CriticAgent as CriticAgent
    from jaxrl.agents.dual import Dual as Dual
    from jaxrl.agents.ensemble import Ensemble as Ensemble
    from jaxrl.agents.munchausen import Munchausen as Munchausen
    from jaxrl.agents.parallel_q import ParallelQAgent as ParallelQAgent
    from jaxrl.agents.presets import (
        SoftActorCriticAgent as SoftActorCriticAgent,
        TwinDelayedAgent as TwinDelayedAgent,
        a2c as a2c,
        annealed_sac as annealed_sac,
        annealed_td3 as annealed_td3,
        c51 as c51,
        cvar_pg as cvar_pg,
        differential_dqn as differential_dqn,
        double_dqn as double_dqn,
        dpo as dpo,
        dqn as dqn,
        dsac_t as dsac_t,
        iqn as iqn,
        log_dqn as log_dqn,
        lpo as lpo,
        mdpo as mdpo,
        munchausen_dqn as munchausen_dqn,
        ppo as ppo,
        pqn as pqn,
        qr_dqn as qr_dqn,
        rainbow as rainbow,
        sac as sac,
        td3 as td3,
        tqc as tqc,
    )
    from jaxrl.agents.q_network import QNetworkAgent as QNetworkAgent
    from jaxrl.agents.stock import (
        ExpectedUtility as ExpectedUtility,
        StockConditioned as StockConditioned,
        static_cvar_stocks as static_cvar_stocks,
    )
    from jaxrl.agents.successors import Generative as Generative, Sampled as Sampled
    from jaxrl.core.distances import (
        cramer_distance as cramer_distance,
        wasserstein_distance as wasserstein_distance,
    )
    from jaxrl.core.law import Law as Law
    from jaxrl.core.mdp import (
        TabularMDP as TabularMDP,
        outcome_mdp as outcome_mdp,
        stack_mdps as stack_mdps,
        tabular_mdp as tabular_mdp,
    )
    from jaxrl.core.types import TimeStep as TimeStep, Transition as Transition
    from jaxrl.operators.bellman import BellmanOperator as BellmanOperator, Lookahead as Lookahead
    from jaxrl.training.attacks import GradientAttack as GradientAttack
    from jaxrl.training.checkpoint import Checkpoints as Checkpoints
    from jaxrl.training.episodes import Evaluation as Evaluation
    from jaxrl.training.evaluate import evaluate as evaluate
    from jaxrl.training.iwocs import (
        WorstCaseTraining as WorstCaseTraining,
        train_iwocs as train_iwocs,
    )
    from jaxrl.training.loop import TrainResult as TrainResult, train as train
    from jaxrl.training.robust_evaluation import (
        RobustEvaluation as RobustEvaluation,
        evaluate_each as evaluate_each,
    )
    from jaxrl.training.rollout import rollout as rollout
    from jaxrl.training.smoothing import (
        SmoothedPolicy as SmoothedPolicy,
        SmoothingCertificate as SmoothingCertificate,
        certify_smoothed as certify_smoothed,
    )
    from jaxrl.training.sweep import SweepResult as SweepResult, sweep as sweep

__version__ = "0.1.0"

_HOME = {
    "ActorCriticAgent": "jaxrl.agents.actor_critic",
    "AverageReward": "jaxrl.agents.average_reward",
    "BellmanOperator": "jaxrl.operators.bellman",
    "Checkpoints": "jaxrl.training.checkpoint",
    "CriticAgent": "jaxrl.agents.critic_agent",
    "Deterministic": "jaxrl.agents.actors",
    "Dual": "jaxrl.agents.dual",
    "Ensemble": "jaxrl.agents.ensemble",
    "Evaluation": "jaxrl.training.episodes",
    "ExpectedUtility": "jaxrl.agents.stock",
    "Generative": "jaxrl.agents.successors",
    "GradientAttack": "jaxrl.training.attacks",
    "Law": "jaxrl.core.law",
    "Lookahead": "jaxrl.operators.bellman",
    "Munchausen": "jaxrl.agents.munchausen",
    "ParallelQAgent": "jaxrl.agents.parallel_q",
    "QNetworkAgent": "jaxrl.agents.q_network",
    "RobustEvaluation": "jaxrl.training.robust_evaluation",
    "Sampled": "jaxrl.agents.successors",
    "SmoothedPolicy": "jaxrl.training.smoothing",
    "SmoothingCertificate": "jaxrl.training.smoothing",
    "SoftActorCriticAgent": "jaxrl.agents.presets",
    "SquashedGaussian": "jaxrl.agents.actors",
    "StockConditioned": "jaxrl.agents.stock",
    "SweepResult": "jaxrl.training.session",
    "TabularMDP": "jaxrl.core.mdp",
    "TimeStep": "jaxrl.core.types",
    "TrainResult": "jaxrl.training.loop",
    "Transition": "jaxrl.core.types",
    "TwinDelayedAgent": "jaxrl.agents.presets",
    "ValueChannels": "jaxrl.agents.channels",
    "WorstCaseTraining": "jaxrl.training.iwocs",
    "certify_smoothed": "jaxrl.training.smoothing",
    "cramer_distance": "jaxrl.core.distances",
    "evaluate": "jaxrl.training.evaluate",
    "evaluate_each": "jaxrl.training.robust_evaluation",
    "outcome_mdp": "jaxrl.core.mdp",
    "rollout": "jaxrl.training.rollout",
    "stack_mdps": "jaxrl.core.mdp",
    "static_cvar_stocks": "jaxrl.agents.stock",
    "sweep": "jaxrl.training.sweep",
    "tabular_mdp": "jaxrl.core.mdp",
    "train": "jaxrl.training.loop",
    "train_iwocs": "jaxrl.training.iwocs",
    "wasserstein_distance": "jaxrl.core.distances",
} | dict.fromkeys(
    (
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
        "log_dqn",
        "lpo",
        "mdpo",
        "munchausen_dqn",
        "ppo",
        "pqn",
        "qr_dqn",
        "rainbow",
        "sac",
        "td3",
        "tqc",
    ),
    "jaxrl.agents.presets",
)
_PACKAGES = ("agents", "envs", "functionals", "losses", "meta", "networks", "operators")
_PACKAGES += ("planning", "replay", "report", "returns", "rules", "training")

__all__ = sorted([*_HOME, *_PACKAGES])


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _PACKAGES:
        return importlib.import_module(f"jaxrl.{name}")
    raise AttributeError(f"module 'jaxrl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
