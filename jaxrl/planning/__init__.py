"""Solvers on known models, for any Bellman operator.

Discounted: `value_iteration`, `policy_iteration`, `modified_policy_iteration`,
`policy_evaluation`, `iwocs`; with memory of the last policy: `mirror_descent_value_iteration`,
`gap_increasing_value_iteration`. Finite: `finite_horizon`. In the long run:
`relative_value_iteration`, `multichain_policy_iteration`, `gain_and_bias`. Laws of returns:
`distributional_value_iteration`, `distributional_policy_evaluation`, `categorical_fixed_point`,
`return_law`, `stock_return_law`. Constraints: `occupancy`, `constrained`,
`optimistic_ascent_descent`. Nature's answer to a plan: `worst_case_kernel`.

Three kinds of risk differ. *Nested* risk sits inside the backup: any solver with a risk-averse
`successor_functional`, and `nested_cvar`. *Static* risk is that of the whole return:
`static_cvar`, `static_var`, `static_evar`, `static_entropic`, `stock_augmented`. *Greedy on a
return law* is a heuristic for neither: `greedy_on_cvar`. `chow_cvar_upper_bound` is inexact.
"""

from jaxrl.planning.acceleration import Anderson, FrozenSolve, FrozenSweeps, GaussSeidel, Plain
from jaxrl.planning.average_reward import multichain_policy_iteration, relative_value_iteration
from jaxrl.planning.constrained import ConstrainedSolution, constrained
from jaxrl.planning.distributional import (
    categorical_fixed_point,
    distributional_policy_evaluation,
    distributional_value_iteration,
)
from jaxrl.planning.exponential_risk import static_entropic, static_evar
from jaxrl.planning.finite_horizon import FiniteHorizonSolution, finite_horizon
from jaxrl.planning.gap_increasing import gap_increasing_value_iteration
from jaxrl.planning.iwocs import WorstCaseSearch, iwocs
from jaxrl.planning.long_run import GainAndBias, gain_and_bias
from jaxrl.planning.mirror_descent import MirrorDescentSolution, mirror_descent_value_iteration
from jaxrl.planning.nested_risk import chow_cvar_upper_bound, greedy_on_cvar, nested_cvar
from jaxrl.planning.occupancy import occupancy, occupancy_policy
from jaxrl.planning.optimistic import optimistic_ascent_descent
from jaxrl.planning.policy_evaluation import policy_evaluation
from jaxrl.planning.policy_iteration import modified_policy_iteration, policy_iteration
from jaxrl.planning.return_laws import ReturnLaw, return_law
from jaxrl.planning.solution import Solution
from jaxrl.planning.static_risk import static_cvar, static_var
from jaxrl.planning.stock import StockPlan, stock_augmented
from jaxrl.planning.stock_laws import stock_return_law
from jaxrl.planning.value_iteration import value_iteration
from jaxrl.planning.worst_kernel import worst_case_kernel

__all__ = [
    "Anderson",
    "ConstrainedSolution",
    "FiniteHorizonSolution",
    "FrozenSolve",
    "FrozenSweeps",
    "GainAndBias",
    "GaussSeidel",
    "MirrorDescentSolution",
    "Plain",
    "ReturnLaw",
    "Solution",
    "StockPlan",
    "WorstCaseSearch",
    "categorical_fixed_point",
    "chow_cvar_upper_bound",
    "constrained",
    "distributional_policy_evaluation",
    "distributional_value_iteration",
    "finite_horizon",
    "gain_and_bias",
    "gap_increasing_value_iteration",
    "greedy_on_cvar",
    "iwocs",
    "mirror_descent_value_iteration",
    "modified_policy_iteration",
    "multichain_policy_iteration",
    "nested_cvar",
    "occupancy",
    "occupancy_policy",
    "optimistic_ascent_descent",
    "policy_evaluation",
    "policy_iteration",
    "relative_value_iteration",
    "return_law",
    "static_cvar",
    "static_entropic",
    "static_evar",
    "static_var",
    "stock_augmented",
    "stock_return_law",
    "value_iteration",
    "worst_case_kernel",
]
