"""Named experiments, which `jaxrl meta` runs."""

from __future__ import annotations

from collections.abc import Callable

from jaxrl.core.settings import near_names
from jaxrl.meta.experiments.experiment import Experiment, ExperimentResult, Run, table_agent
from jaxrl.meta.experiments.learned import curated_levels, learned_policy_gradient, timed_rates
from jaxrl.meta.experiments.lpo import learnt_policy_optimisation
from jaxrl.meta.experiments.self_tuning import bootstrapped_entropy, short_horizons

__all__ = ["EXPERIMENTS", "Experiment", "Run", "run_experiment", "table_agent"]

EXPERIMENTS: dict[str, Callable[[], Experiment]] = {
    "lpg": learned_policy_gradient,
    "timed": timed_rates,
    "lpo": learnt_policy_optimisation,
    "groove": curated_levels,
    "bootstrapped": bootstrapped_entropy,
    "self_tuning": short_horizons,
}


def run_experiment(name: str, run: Run | None = None) -> ExperimentResult:
    """Run a named experiment.

    Args:
        name: of `EXPERIMENTS`.
        run: its meta-seed, and where it saves and reports; by default meta-seed 0.

    Raises:
        KeyError: no such experiment.
    """
    if name not in EXPERIMENTS:
        raise KeyError(f"unknown experiment {name!r}; {near_names(name, list(EXPERIMENTS))}")
    return EXPERIMENTS[name]().run(run or Run())
