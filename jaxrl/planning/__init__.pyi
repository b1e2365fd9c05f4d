from jaxrl.planning.acceleration import (
    Anderson as Anderson,
    FrozenSolve as FrozenSolve,
    FrozenSweeps as FrozenSweeps,
    GaussSeidel as GaussSeidel,
)
from jaxrl.planning.average_reward import (
    gain_and_bias as gain_and_bias,
    multichain_policy_iteration as multichain_policy_iteration,
    relative_value_iteration as relative_value_iteration,
)
from jaxrl.planning.constraints import (
    constrained as constrained,
    occupancy as occupancy,
    occupancy_policy as occupancy_policy,
    optimistic_ascent_descent as optimistic_ascent_descent,
)
from jaxrl.planning.distributional import (
    categorical_fixed_point as categorical_fixed_point,
    distributional_policy_evaluation as distributional_policy_evaluation,
    distributional_value_iteration as distributional_value_iteration,
)
from jaxrl.planning.iteration import (
    finite_horizon as finite_horizon,
    iwocs as iwocs,
    policy_evaluation as policy_evaluation,
    policy_iteration as policy_iteration,
    value_iteration as value_iteration,
)
from jaxrl.planning.linearised import worst_case_kernel as worst_case_kernel
from jaxrl.planning.mirror_descent import (
    gap_increasing_value_iteration as gap_increasing_value_iteration,
    mirror_descent_value_iteration as mirror_descent_value_iteration,
)
from jaxrl.planning.return_laws import return_law as return_law
from jaxrl.planning.solution import Solution as Solution
from jaxrl.planning.static_risk import (
    static_cvar as static_cvar,
    static_var as static_var,
)
from jaxrl.planning.stock import StockPlan as StockPlan, stock_augmented as stock_augmented
from jaxrl.planning.timed_risk import (
    chow_cvar_upper_bound as chow_cvar_upper_bound,
    nested_cvar as nested_cvar,
    static_entropic as static_entropic,
    static_evar as static_evar,
)
