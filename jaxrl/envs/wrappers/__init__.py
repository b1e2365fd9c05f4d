"""Wrappers: environments round environments, each a frozen struct whose floats are leaves.

Order, from the inside out: dynamics; `HeldActions`; `DomainRandomisation`; noise (`StickyActions`,
`NoisyActions`, `ObservationNoise`, `RewardNoise`); `TimeLimit`; `EpisodeStatistics`; then what only
the learner should see (`RewardScale`, `NormaliseReward`, `NormaliseObservation`, `FrameStack`),
`Stock` or `ExpectedConditionalRisk` last. So episode statistics report the task's own score,
normalisation counts what the agent meets, stacked frames are normalised frames, and the stock
counts the rewards that are learned from. No wrapper resets: the rollout does, and calls `reset` of
the outermost, which clears every memory on the way.
"""

from jaxrl.core.notation import register
from jaxrl.envs.wrappers.actions import (
    DiscreteActions,
    NoisyActions,
    StickyActions,
    StickyActionsState,
)
from jaxrl.envs.wrappers.conditional_risk import ConditionalRiskState, ExpectedConditionalRisk
from jaxrl.envs.wrappers.durations import HeldActions
from jaxrl.envs.wrappers.limits import (
    EpisodeStatistics,
    EpisodeStatisticsState,
    TimeLimit,
    TimeLimitState,
)
from jaxrl.envs.wrappers.normalise import (
    NormaliseObservation,
    NormaliseReward,
    NormaliseRewardState,
    RunningMoments,
)
from jaxrl.envs.wrappers.observations import FrameStack, FrameStackState, ObservationNoise
from jaxrl.envs.wrappers.randomisation import (
    DomainRandomisation,
    LogUniform,
    OneOf,
    RandomisedState,
    Range,
    Uniform,
    domain_randomisation,
)
from jaxrl.envs.wrappers.rewards import RewardNoise, RewardScale
from jaxrl.envs.wrappers.stock import Stock, StockState

__all__ = [
    "ConditionalRiskState",
    "DiscreteActions",
    "DomainRandomisation",
    "EpisodeStatistics",
    "EpisodeStatisticsState",
    "ExpectedConditionalRisk",
    "FrameStack",
    "FrameStackState",
    "HeldActions",
    "LogUniform",
    "NoisyActions",
    "NormaliseObservation",
    "NormaliseReward",
    "NormaliseRewardState",
    "ObservationNoise",
    "OneOf",
    "RandomisedState",
    "Range",
    "RewardNoise",
    "RewardScale",
    "RunningMoments",
    "StickyActions",
    "StickyActionsState",
    "Stock",
    "StockState",
    "TimeLimit",
    "TimeLimitState",
    "Uniform",
    "domain_randomisation",
]

register("wrappers", HeldActions, StickyActions, NoisyActions)
register("wrappers", ObservationNoise, RewardNoise, RewardScale)
