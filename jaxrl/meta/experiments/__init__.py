"""Named experiments, which `jaxrl meta` runs."""

from __future__ import annotations

from collections.abc import Callable

from jaxrl.meta.experiments.experiment import Experiment, Run, table_agent
from jaxrl.meta.experiments.learned import curated_levels, learned_policy_gradient, timed_rates
from jaxrl.meta.experiments.lpo import learnt_policy_optimisation
from jaxrl.meta.experiments.self_tuning import bootstrapped_entropy, short_horizons

__all__ = ["EXPERIMENTS", "Run", "table_agent"]

EXPERIMENTS: dict[str, Callable[[], Experiment]] = {
    "lpg": learned_policy_gradient,
    "timed": timed_rates,
    "lpo": learnt_policy_optimisation,
    "groove": curated_levels,
    "bootstrapped": bootstrapped_entropy,
    "self_tuning": short_horizons,
}
