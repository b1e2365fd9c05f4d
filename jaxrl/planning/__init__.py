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

from jaxrl.core.doors import door

__getattr__, __dir__ = door(__file__, __name__)
