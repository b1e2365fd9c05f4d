from jaxrl.core import notation as notation, protocols as protocols, struct as struct
from jaxrl.core.distances import (
    cramer_distance as cramer_distance,
    wasserstein_distance as wasserstein_distance,
)
from jaxrl.core.estimates import Estimate as Estimate
from jaxrl.core.law import Law as Law
from jaxrl.core.mdp import (
    TabularMDP as TabularMDP,
    outcome_mdp as outcome_mdp,
    stack_mdps as stack_mdps,
    tabular_mdp as tabular_mdp,
)
from jaxrl.core.notation import register as register
from jaxrl.core.protocols import (
    COHERENT as COHERENT,
    Agent as Agent,
    CompositionFacts as CompositionFacts,
    Environment as Environment,
    FunctionalFacts as FunctionalFacts,
    HeadFacts as HeadFacts,
    ImprovementFacts as ImprovementFacts,
    PartFacts as PartFacts,
    RuleFacts as RuleFacts,
)
from jaxrl.core.schedules import (
    Cosine as Cosine,
    Exponential as Exponential,
    Linear as Linear,
    LinearSteps as LinearSteps,
    Schedule as Schedule,
    values_at as values_at,
)
from jaxrl.core.settings import (
    check_settings as check_settings,
    list_settings as list_settings,
    replace_setting as replace_setting,
    setting as setting,
)
from jaxrl.core.spaces import (
    Box as Box,
    Discrete as Discrete,
    MultiDiscrete as MultiDiscrete,
    Space as Space,
)
from jaxrl.core.struct import Struct as Struct
from jaxrl.core.types import (
    Array as Array,
    Key as Key,
    Progress as Progress,
    PyTree as PyTree,
    TimeStep as TimeStep,
    Transition as Transition,
)
