"""What a run will do and need, before anything is compiled."""

from __future__ import annotations

import jax

from jaxrl.cli.errors import refusing
from jaxrl.cli.job import Job
from jaxrl.training import sweeps
from jaxrl.training.memory import gigabytes
from jaxrl.training.session import Forecast


def forecast(job: Job) -> Forecast:
    """Trace the run, compile nothing, and count what its states take.

    Raises:
        BadInput: the states do not fit in memory (the message says how many seeds would), or the
            agent cannot be built for the environment.
    """
    with refusing(KeyError, ValueError, MemoryError, OverflowError):
        runs = sweeps.Runs(job.num_seeds, job.num_steps, job.over, job.num_records, job.lanes)
        return sweeps.forecast(job.agent, job.env, runs)


def plan_line(plan: Forecast, num_steps: int) -> str:
    """The plan in a line; `num_steps` is the budget that was asked for."""
    total, num_runs = plan.budget.total_steps, len(plan.settings) * len(plan.seeds)
    rounded = "" if total == num_steps else f" ({num_steps:,} rounded up to whole records)"
    groups, width = plan.num_groups, plan.lanes * jax.device_count()
    return (
        f"{num_runs:,} run{'s' * (num_runs != 1)}: {groups:,} group{'s' * (groups != 1)} of "
        f"{width}, {gigabytes(plan.memory.per_group)} each; {total:,} steps each{rounded}, "
        f"{plan.budget.num_records} records"
    )
