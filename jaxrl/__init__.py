"""jaxrl: functional reinforcement learning in JAX, with pluggable Bellman operators.

Names are imported when first used, so that `import jaxrl` and the command line start fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxrl import envs as envs
    from jaxrl import functionals as functionals
    from jaxrl import operators as operators
    from jaxrl import planning as planning
    from jaxrl.agents.actor_critic import ActorCriticAgent as ActorCriticAgent
    from jaxrl.agents.parallel_q import ParallelQAgent as ParallelQAgent
    from jaxrl.agents.presets import (
        a2c as a2c,
    )
    from jaxrl.agents.presets import (
        c51 as c51,
    )
    from jaxrl.agents.presets import (
        double_dqn as double_dqn,
    )
    from jaxrl.agents.presets import (
        dqn as dqn,
    )
    from jaxrl.agents.presets import (
        ppo as ppo,
    )
    from jaxrl.agents.presets import (
        pqn as pqn,
    )
    from jaxrl.agents.presets import (
        qr_dqn as qr_dqn,
    )
    from jaxrl.agents.presets import (
        rainbow as rainbow,
    )
    from jaxrl.agents.presets import (
        sac as sac,
    )
    from jaxrl.agents.presets import (
        td3 as td3,
    )
    from jaxrl.agents.q_network import QNetworkAgent as QNetworkAgent
    from jaxrl.agents.soft_actor_critic import SoftActorCriticAgent as SoftActorCriticAgent
    from jaxrl.agents.twin_delayed import TwinDelayedAgent as TwinDelayedAgent
    from jaxrl.core.law import Law as Law
    from jaxrl.core.mdp import TabularMDP as TabularMDP
    from jaxrl.core.mdp import outcome_mdp as outcome_mdp
    from jaxrl.core.mdp import stack_mdps as stack_mdps
    from jaxrl.core.mdp import tabular_mdp as tabular_mdp
    from jaxrl.core.types import TimeStep as TimeStep
    from jaxrl.core.types import Transition as Transition
    from jaxrl.operators.bellman import BellmanOperator as BellmanOperator
    from jaxrl.operators.bellman import Lookahead as Lookahead
    from jaxrl.training.checkpoint import Checkpoints as Checkpoints
    from jaxrl.training.evaluate import Evaluation as Evaluation
    from jaxrl.training.evaluate import evaluate as evaluate
    from jaxrl.training.loop import TrainResult as TrainResult
    from jaxrl.training.loop import train as train
    from jaxrl.training.rollout import rollout as rollout
    from jaxrl.training.sweep import SweepResult as SweepResult
    from jaxrl.training.sweep import sweep as sweep

__version__ = "0.1.0"

_HOME = {
    "ActorCriticAgent": "jaxrl.agents.actor_critic",
    "BellmanOperator": "jaxrl.operators.bellman",
    "Checkpoints": "jaxrl.training.checkpoint",
    "Evaluation": "jaxrl.training.evaluate",
    "Law": "jaxrl.core.law",
    "Lookahead": "jaxrl.operators.bellman",
    "ParallelQAgent": "jaxrl.agents.parallel_q",
    "QNetworkAgent": "jaxrl.agents.q_network",
    "SoftActorCriticAgent": "jaxrl.agents.soft_actor_critic",
    "SweepResult": "jaxrl.training.session",
    "TabularMDP": "jaxrl.core.mdp",
    "TimeStep": "jaxrl.core.types",
    "TrainResult": "jaxrl.training.loop",
    "Transition": "jaxrl.core.types",
    "TwinDelayedAgent": "jaxrl.agents.twin_delayed",
    "evaluate": "jaxrl.training.evaluate",
    "outcome_mdp": "jaxrl.core.mdp",
    "rollout": "jaxrl.training.rollout",
    "stack_mdps": "jaxrl.core.mdp",
    "sweep": "jaxrl.training.sweep",
    "tabular_mdp": "jaxrl.core.mdp",
    "train": "jaxrl.training.loop",
} | dict.fromkeys(
    ("a2c", "c51", "double_dqn", "dqn", "ppo", "pqn", "qr_dqn", "rainbow", "sac", "td3"),
    "jaxrl.agents.presets",
)
_PACKAGES = ("agents", "envs", "functionals", "losses", "networks", "operators", "planning")
_PACKAGES += ("replay", "report", "returns", "rules", "training")

__all__ = sorted([*_HOME, *_PACKAGES])


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _PACKAGES:
        return importlib.import_module(f"jaxrl.{name}")
    raise AttributeError(f"module 'jaxrl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
