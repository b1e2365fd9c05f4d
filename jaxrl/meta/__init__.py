"""Learn the update rules and settings that agents use."""

from jaxrl.meta.compare import (
    Comparison as Comparison,
    Contender as Contender,
    compare as compare,
)
from jaxrl.meta.distil import Distilled as Distilled, SparseDrift as SparseDrift, distil as distil
from jaxrl.meta.evolution import Evolution as Evolution, EvolutionState as EvolutionState
from jaxrl.meta.fit import (
    Explanation as Explanation,
    FitResult as FitResult,
    HeldOut as HeldOut,
    OuterLoop as OuterLoop,
    evaluate_rule as evaluate_rule,
    explain as explain,
    fit as fit,
)
from jaxrl.meta.gradients import (
    MetaGradient as MetaGradient,
    MetaGradientState as MetaGradientState,
    UnrolledGradient as UnrolledGradient,
)
from jaxrl.meta.implicit import (
    ImplicitGradient as ImplicitGradient,
    training_gradient as training_gradient,
)
from jaxrl.meta.level_buffer import (
    LevelBuffer as LevelBuffer,
    LevelReplay as LevelReplay,
    ProportionalScores as ProportionalScores,
    RankScores as RankScores,
    SoftmaxScores as SoftmaxScores,
)
from jaxrl.meta.levels import Curated as Curated, CuratedState as CuratedState
from jaxrl.meta.lives import (
    Life as Life,
    Lifetime as Lifetime,
    live as live,
    num_updates_of as num_updates_of,
    restart as restart,
    start_life as start_life,
    step_life as step_life,
)
from jaxrl.meta.neumann import (
    Hypergradient as Hypergradient,
    LinearSolver as LinearSolver,
    MinimalResidual as MinimalResidual,
    NeumannSeries as NeumannSeries,
    hypergradient as hypergradient,
)
from jaxrl.meta.objectives import (
    Bootstrap as Bootstrap,
    OuterCritic as OuterCritic,
    PolicyReturn as PolicyReturn,
)
from jaxrl.meta.persistent import (
    PersistentEvolution as PersistentEvolution,
    PersistentState as PersistentState,
)
from jaxrl.meta.probe import (
    DriftMap as DriftMap,
    Probe as Probe,
    PulseResponse as PulseResponse,
    SettingCurves as SettingCurves,
    drift_map as drift_map,
    probe as probe,
    pulse_response as pulse_response,
    setting_curves as setting_curves,
)
from jaxrl.meta.rule_file import Card as Card, load as load, read_card as read_card, save as save
from jaxrl.meta.rule_parts import RuleFileError as RuleFileError
from jaxrl.meta.shaping import (
    CentredRanks as CentredRanks,
    PairSign as PairSign,
    Plain as Plain,
    Shaping as Shaping,
    ZScore as ZScore,
)
from jaxrl.meta.strategies import (
    StrategySearch as StrategySearch,
    StrategyState as StrategyState,
)
from jaxrl.meta.tasks import (
    Fixed as Fixed,
    Horizon as Horizon,
    Listed as Listed,
    RandomBandits as RandomBandits,
    RandomGrids as RandomGrids,
    RandomMazes as RandomMazes,
    Task as Task,
    TaskDistribution as TaskDistribution,
    take as take,
)
from jaxrl.meta.tuned import Tuned as Tuned, timed as timed, tuned as tuned
from jaxrl.meta.tuned_lives import (
    SelfTuning as SelfTuning,
    TunedLife as TunedLife,
    beside as beside,
    live_tuned as live_tuned,
    tuned_lives as tuned_lives,
)
