"""What every floor shares: types, contracts, settings, spaces, schedules, tabular models."""

from jaxrl.core import struct
from jaxrl.core.distances import cramer_distance, wasserstein_distance
from jaxrl.core.estimates import Estimate
from jaxrl.core.law import Law
from jaxrl.core.mdp import TabularMDP, outcome_mdp, stack_mdps, tabular_mdp
from jaxrl.core.notation import register
from jaxrl.core.protocols import (
    COHERENT,
    MONETARY,
    Agent,
    Composition,
    Environment,
    Functional,
    FunctionalFacts,
    Head,
    Improvement,
    UpdateRule,
)
from jaxrl.core.schedules import Cosine, Exponential, Linear, LinearSteps, Schedule, values_at
from jaxrl.core.settings import check_settings, list_settings, replace_setting, setting
from jaxrl.core.spaces import Box, Discrete, Space
from jaxrl.core.types import Array, Key, Progress, PyTree, TimeStep, Transition

__all__ = [
    "COHERENT",
    "MONETARY",
    "Agent",
    "Array",
    "Box",
    "Composition",
    "Cosine",
    "Discrete",
    "Environment",
    "Estimate",
    "Exponential",
    "Functional",
    "FunctionalFacts",
    "Head",
    "Improvement",
    "Key",
    "Law",
    "Linear",
    "LinearSteps",
    "Progress",
    "PyTree",
    "Schedule",
    "Space",
    "TabularMDP",
    "TimeStep",
    "Transition",
    "UpdateRule",
    "check_settings",
    "cramer_distance",
    "list_settings",
    "outcome_mdp",
    "register",
    "replace_setting",
    "setting",
    "stack_mdps",
    "struct",
    "tabular_mdp",
    "values_at",
    "wasserstein_distance",
]
