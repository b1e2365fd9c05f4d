from jaxrl.functionals.ambiguity import (
    Contamination as Contamination,
    Interval as Interval,
    Scenarios as Scenarios,
    TotalVariation as TotalVariation,
    TotalVariationPenalty as TotalVariationPenalty,
)
from jaxrl.functionals.distortion import (
    CumulativeProspect as CumulativeProspect,
    PowerDistortion as PowerDistortion,
    Spectral as Spectral,
    Wang as Wang,
)
from jaxrl.functionals.divergence import (
    BurgBall as BurgBall,
    DivergenceBall as DivergenceBall,
    EVaR as EVaR,
    KLBall as KLBall,
    KLPenalty as KLPenalty,
)
from jaxrl.functionals.per_pair import PerPair as PerPair
from jaxrl.functionals.quadratic import (
    ChiSquareBall as ChiSquareBall,
    ChiSquarePenalty as ChiSquarePenalty,
    Ellipsoid as Ellipsoid,
)
from jaxrl.functionals.risk import (
    CVaR as CVaR,
    Entropic as Entropic,
    Expectile as Expectile,
    Mean as Mean,
    MeanSemideviation as MeanSemideviation,
    MeanStd as MeanStd,
    VaR as VaR,
)
from jaxrl.functionals.shared_budget import SharedKL as SharedKL, SharedL1 as SharedL1
from jaxrl.functionals.transport import Wasserstein as Wasserstein, WeightedL1 as WeightedL1
from jaxrl.functionals.utility import (
    ExponentialUtility as ExponentialUtility,
    OptimisedCertaintyEquivalent as OptimisedCertaintyEquivalent,
    PiecewiseLinear as PiecewiseLinear,
    QuadraticUtility as QuadraticUtility,
    Shortfall as Shortfall,
)
from jaxrl.functionals.worst_law import worst_case as worst_case
