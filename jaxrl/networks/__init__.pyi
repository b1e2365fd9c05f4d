from jaxrl.networks.distributions import (
    CategoricalPolicy as CategoricalPolicy,
    GaussianPolicy as GaussianPolicy,
    PolicyLaw as PolicyLaw,
    ProductPolicy as ProductPolicy,
    TanhGaussianPolicy as TanhGaussianPolicy,
)
from jaxrl.networks.models import (
    ActionCritic as ActionCritic,
    DeterministicActor as DeterministicActor,
    ImplicitQNetwork as ImplicitQNetwork,
    QNetwork as QNetwork,
    TanhGaussianActor as TanhGaussianActor,
    actor_critic as actor_critic,
)
from jaxrl.networks.torsos import (
    NatureTorso as NatureTorso,
    Network as Network,
    NetworkSettings as NetworkSettings,
    ResNetTorso as ResNetTorso,
)
