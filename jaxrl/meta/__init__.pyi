from jaxrl.meta.comparison import Comparison as Comparison, compare as compare
from jaxrl.meta.distilling import distil as distil
from jaxrl.meta.evolution import (
    Evolution as Evolution,
    PersistentEvolution as PersistentEvolution,
    StrategySearch as StrategySearch,
)
from jaxrl.meta.fitting import explain as explain, fit as fit
from jaxrl.meta.gradients import MetaGradient as MetaGradient
from jaxrl.meta.implicit import (
    ImplicitGradient as ImplicitGradient,
    MinimalResidual as MinimalResidual,
    NeumannSeries as NeumannSeries,
)
from jaxrl.meta.levels import Curated as Curated, LevelReplay as LevelReplay
from jaxrl.meta.lives import HeldOut as HeldOut, Life as Life, live as live
from jaxrl.meta.numbers import tuned as tuned
from jaxrl.meta.objectives import (
    Bootstrap as Bootstrap,
    OuterCritic as OuterCritic,
    PolicyReturn as PolicyReturn,
)
from jaxrl.meta.probing import probe as probe
from jaxrl.meta.rule_file import Card as Card, load as load, save as save
from jaxrl.meta.self_tuning import SelfTuning as SelfTuning
from jaxrl.meta.tasks import (
    RandomBandits as RandomBandits,
    RandomGrids as RandomGrids,
    RandomMazes as RandomMazes,
    Task as Task,
)
