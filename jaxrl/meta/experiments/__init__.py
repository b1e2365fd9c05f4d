"""Named experiments, which `jaxrl meta` runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from jaxrl.core.settings import near_names
from jaxrl.meta.experiments.bootstrapped import bootstrapped_entropy
from jaxrl.meta.experiments.experiment import (
    Experiment as Experiment,
    ExperimentResult as ExperimentResult,
    Report,
    Runnable,
    table_agent as table_agent,
)
from jaxrl.meta.experiments.groove import curated_levels
from jaxrl.meta.experiments.lpg import learned_policy_gradient
from jaxrl.meta.experiments.lpo import learnt_policy_optimisation
from jaxrl.meta.experiments.self_tuning import short_horizons
from jaxrl.meta.experiments.timed import timed_rates
from jaxrl.training.checkpoint import Checkpoints

EXPERIMENTS: dict[str, Callable[[], Runnable]] = {
    "lpg": learned_policy_gradient,
    "timed": timed_rates,
    "lpo": learnt_policy_optimisation,
    "groove": curated_levels,
    "bootstrapped": bootstrapped_entropy,
    "self_tuning": short_horizons,
}


def run_experiment(
    name: str,
    *,
    seed: int = 0,
    num_steps: int | None = None,
    checkpoints: Mapping[str, Checkpoints] | None = None,
    report: Report | None = None,
) -> ExperimentResult:
    """Run a named experiment.

    Args:
        name: of `EXPERIMENTS`.
        seed: meta-seed: of what is learned, the lives learned from, and the held-out ones.
        num_steps: outer steps, instead of the experiment's own number.
        checkpoints: where each outer loop saves, by the name of what it learns.
        report: told what is learned, the outer steps done and their mean metrics.

    Raises:
        KeyError: no such experiment.
    """
    if name not in EXPERIMENTS:
        raise KeyError(f"unknown experiment {name!r}; {near_names(name, list(EXPERIMENTS))}")
    return EXPERIMENTS[name]().run(
        seed=seed, num_steps=num_steps, checkpoints=checkpoints, report=report
    )
