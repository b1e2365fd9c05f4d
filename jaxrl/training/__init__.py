"""Training, sweeps, evaluation, attacks and what a run leaves on disk."""

from jaxrl.training.attacks import L2, AttackedPolicy, GradientAttack, LInf, SensorBias
from jaxrl.training.checkpoint import Checkpoints, CheckpointWarning
from jaxrl.training.episodes import Evaluation, play_episodes
from jaxrl.training.evaluate import evaluate
from jaxrl.training.iwocs import WorstCaseTraining, train_iwocs
from jaxrl.training.least_value import LeastValuePolicy, LeastValueState
from jaxrl.training.loop import TrainResult, train
from jaxrl.training.observer import Silent
from jaxrl.training.robust_evaluation import RobustEvaluation, evaluate_each
from jaxrl.training.rollout import rollout, start_rollout
from jaxrl.training.run_folder import RunFolder, load_metrics
from jaxrl.training.session import SweepResult
from jaxrl.training.smoothing import SmoothedPolicy, SmoothingCertificate, certify_smoothed
from jaxrl.training.sweep import restore_agents, sweep

__all__ = [
    "L2",
    "AttackedPolicy",
    "CheckpointWarning",
    "Checkpoints",
    "Evaluation",
    "GradientAttack",
    "LInf",
    "LeastValuePolicy",
    "LeastValueState",
    "RobustEvaluation",
    "RunFolder",
    "SensorBias",
    "Silent",
    "SmoothedPolicy",
    "SmoothingCertificate",
    "SweepResult",
    "TrainResult",
    "WorstCaseTraining",
    "certify_smoothed",
    "evaluate",
    "evaluate_each",
    "load_metrics",
    "play_episodes",
    "restore_agents",
    "rollout",
    "start_rollout",
    "sweep",
    "train",
    "train_iwocs",
]
