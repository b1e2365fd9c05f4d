from jaxrl.replay.contract import Batch as Batch, Replay as Replay
from jaxrl.replay.episodes import EpisodeReplay as EpisodeReplay
from jaxrl.replay.prioritised import PrioritisedReplay as PrioritisedReplay
from jaxrl.replay.ring import UniformReplay as UniformReplay
