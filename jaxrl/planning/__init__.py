"""Solvers on known models, for any Bellman operator.

Discounted: `value_iteration`, `policy_iteration`, `policy_evaluation`, `iwocs`; with memory:
`mirror_descent_value_iteration`, `gap_increasing_value_iteration`. Finite: `finite_horizon`. In the
long run: `relative_value_iteration`, `multichain_policy_iteration`, `gain_and_bias`. Laws of
returns: `distributional_value_iteration`, `distributional_policy_evaluation`,
`categorical_fixed_point`, `return_law`, and `return_law` of a plan with a stock. Constraints:
`occupancy`, `constrained`, `optimistic_ascent_descent`. Nature's answer to a plan:
`worst_case_kernel`.

Three kinds of risk differ. *Nested* risk sits inside the backup: any solver with a risk-averse
`successor_functional`, and `nested_cvar`. *Static* risk is that of the whole return:
`static_cvar`, `static_var`, `static_evar`, `static_entropic`, `stock_augmented`. *Greedy on a
return law* is a heuristic for neither, and need not converge: `distributional_value_iteration` with
a risk-averse `return_functional`. `chow_cvar_upper_bound` is inexact.
"""

from jaxrl.planning.acceleration import Anderson, FrozenSolve, FrozenSweeps, GaussSeidel
from jaxrl.planning.average_reward import (
    gain_and_bias,
    multichain_policy_iteration,
    relative_value_iteration,
)
from jaxrl.planning.constrained import (
    constrained,
    occupancy,
    occupancy_policy,
    optimistic_ascent_descent,
)
from jaxrl.planning.distributional import (
    categorical_fixed_point,
    distributional_policy_evaluation,
    distributional_value_iteration,
)
from jaxrl.planning.finite_horizon import finite_horizon
from jaxrl.planning.iwocs import iwocs
from jaxrl.planning.linearised import worst_case_kernel
from jaxrl.planning.mirror_descent import (
    gap_increasing_value_iteration,
    mirror_descent_value_iteration,
)
from jaxrl.planning.return_laws import return_law
from jaxrl.planning.static_risk import static_cvar, static_var
from jaxrl.planning.stock import stock_augmented
from jaxrl.planning.timed_risk import (
    chow_cvar_upper_bound,
    nested_cvar,
    static_entropic,
    static_evar,
)
from jaxrl.planning.value_iteration import policy_evaluation, policy_iteration, value_iteration

__all__ = [
    "Anderson",
    "FrozenSolve",
    "FrozenSweeps",
    "GaussSeidel",
    "categorical_fixed_point",
    "chow_cvar_upper_bound",
    "constrained",
    "distributional_policy_evaluation",
    "distributional_value_iteration",
    "finite_horizon",
    "gain_and_bias",
    "gap_increasing_value_iteration",
    "iwocs",
    "mirror_descent_value_iteration",
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
    "value_iteration",
    "worst_case_kernel",
]
