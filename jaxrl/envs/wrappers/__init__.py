"""Wrappers: environments round environments, each a frozen struct whose floats are leaves.

Order, from the inside out: dynamics; `HeldActions`; `DomainRandomisation`; noise (`StickyActions`,
`NoisyActions`, `ObservationNoise`, `RewardNoise`); `TimeLimit`; `EpisodeStatistics`; then what only
the learner should see (`RewardScale`, `NormaliseReward`, `NormaliseObservation`, `FrameStack`),
`Stock` or `ExpectedConditionalRisk`, and `CarriedMemory` last. So episode statistics report the
task's own score, normalisation counts what the agent meets, stacked frames are normalised frames,
and the stock counts the rewards that are learned from. No wrapper resets: the rollout does, and
calls `reset` of the outermost, which clears every memory on the way.
"""

from jaxrl.core import register
from jaxrl.core.doors import door
from jaxrl.envs.wrappers.actions import NoisyActions, StickyActions
from jaxrl.envs.wrappers.carried import CarriedMemory
from jaxrl.envs.wrappers.durations import HeldActions
from jaxrl.envs.wrappers.observations import ObservationNoise
from jaxrl.envs.wrappers.rewards import RewardNoise, RewardScale

__getattr__, __dir__ = door(__file__, __name__)

register("wrappers", CarriedMemory, HeldActions, StickyActions, NoisyActions)
register("wrappers", ObservationNoise, RewardNoise, RewardScale)
