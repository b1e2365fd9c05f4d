from jaxrl.envs.wrappers.actions import (
    DiscreteActions as DiscreteActions,
    NoisyActions as NoisyActions,
    StickyActions as StickyActions,
)
from jaxrl.envs.wrappers.carried import CarriedMemory as CarriedMemory
from jaxrl.envs.wrappers.durations import HeldActions as HeldActions
from jaxrl.envs.wrappers.limits import (
    EpisodeStatistics as EpisodeStatistics,
    TimeLimit as TimeLimit,
)
from jaxrl.envs.wrappers.normalise import (
    NormaliseObservation as NormaliseObservation,
    NormaliseReward as NormaliseReward,
    RunningMoments as RunningMoments,
)
from jaxrl.envs.wrappers.observations import (
    FrameStack as FrameStack,
    ObservationNoise as ObservationNoise,
)
from jaxrl.envs.wrappers.randomisation import (
    LogUniform as LogUniform,
    OneOf as OneOf,
    Uniform as Uniform,
    domain_randomisation as domain_randomisation,
)
from jaxrl.envs.wrappers.rewards import (
    RewardNoise as RewardNoise,
    RewardScale as RewardScale,
    ScalarReward as ScalarReward,
)
from jaxrl.envs.wrappers.risk import (
    ExpectedConditionalRisk as ExpectedConditionalRisk,
    Stock as Stock,
)
