"""What a run will do and need, before anything is compiled."""

from __future__ import annotations

import jax

from jaxrl.cli.errors import refusing
from jaxrl.cli.job import Job
from jaxrl.training.memory import gigabytes
from jaxrl.training.observer import SweepPlan
from jaxrl.training.sweep import plan_sweep


def forecast(job: Job) -> SweepPlan:
    """Trace the run, compile nothing, and count what its states take.

    Raises:
        BadInput: the states do not fit in memory (the message says how many seeds would), or the
            agent cannot be built for the environment.
    """
    with refusing(KeyError, ValueError, MemoryError, OverflowError):
        return plan_sweep(
            job.agent,
            job.env,
            num_seeds=job.num_seeds,
            num_steps=job.num_steps,
            over=job.over,
            num_records=job.num_records,
            lanes=job.lanes,
        )


def plan_line(plan: SweepPlan, num_steps: int) -> str:
    """The plan in a line; `num_steps` is the budget that was asked for."""
    total, num_runs = plan.plan.total_steps, len(plan.settings) * len(plan.seeds)
    rounded = "" if total == num_steps else f" ({num_steps:,} rounded up to whole records)"
    groups, width = plan.num_groups, plan.lanes * jax.device_count()
    return (
        f"{num_runs:,} run{'s' * (num_runs != 1)}: {groups:,} group{'s' * (groups != 1)} of "
        f"{width}, {gigabytes(plan.memory.per_group)} each; {total:,} steps each{rounded}, "
        f"{plan.plan.num_records} records"
    )
