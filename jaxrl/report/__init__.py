"""Statistics over seeds, and pictures."""

from jaxrl.report.plan_picture import PlanPicture, draw_plan
from jaxrl.report.plots import compare_runs, curve_band, learning_curves
from jaxrl.report.rule_pictures import draw_probe
from jaxrl.report.statistics import (
    aggregate,
    final_scores,
    interquartile_mean,
    median,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap,
)

__all__ = [
    "PlanPicture",
    "aggregate",
    "compare_runs",
    "curve_band",
    "draw_plan",
    "draw_probe",
    "final_scores",
    "interquartile_mean",
    "learning_curves",
    "median",
    "optimality_gap",
    "performance_profile",
    "probability_of_improvement",
    "stratified_bootstrap",
]
