from jaxrl.operators.bellman import BellmanOperator as BellmanOperator, Lookahead as Lookahead
from jaxrl.operators.composition import (
    Avoidance as Avoidance,
    DiscountedSum as DiscountedSum,
    HTransform as HTransform,
    Identity as Identity,
    LogMapping as LogMapping,
    Mapped as Mapped,
    MaxForm as MaxForm,
    MinForm as MinForm,
    Reachability as Reachability,
    SignedHyperbolic as SignedHyperbolic,
)
from jaxrl.operators.grid_heads import (
    Categorical as Categorical,
    HLGauss as HLGauss,
    TwoHot as TwoHot,
)
from jaxrl.operators.improvement import (
    Boltzmann as Boltzmann,
    EpsilonGreedy as EpsilonGreedy,
    ExpectileMax as ExpectileMax,
    FixedPolicy as FixedPolicy,
    Greedy as Greedy,
    KLSoftmax as KLSoftmax,
    Mellowmax as Mellowmax,
    MirrorDescent as MirrorDescent,
    PerState as PerState,
    Softmax as Softmax,
)
from jaxrl.operators.quantile_heads import (
    EnergyAtoms as EnergyAtoms,
    ImplicitQuantile as ImplicitQuantile,
    Quantile as Quantile,
)
from jaxrl.operators.statistic_heads import (
    Expectiles as Expectiles,
    Gaussian as Gaussian,
    Scalar as Scalar,
)
from jaxrl.operators.tsallis import Tsallis as Tsallis
