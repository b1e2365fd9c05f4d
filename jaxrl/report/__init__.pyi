from jaxrl.report.plan_picture import PlanPicture as PlanPicture, draw_plan as draw_plan
from jaxrl.report.plots import (
    compare_runs as compare_runs,
    learning_curves as learning_curves,
)
from jaxrl.report.rule_pictures import draw_probe as draw_probe
from jaxrl.report.statistics import (
    aggregate as aggregate,
    final_scores as final_scores,
    interquartile_mean as interquartile_mean,
    median as median,
    optimality_gap as optimality_gap,
    performance_profile as performance_profile,
    probability_of_improvement as probability_of_improvement,
    stratified_bootstrap as stratified_bootstrap,
)
