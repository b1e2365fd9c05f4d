"""What a run will do and need, before anything is compiled."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from jaxrl.cli.errors import refusing
from jaxrl.cli.job import Job
from jaxrl.training.lanes import make_groups, start_lanes, strong_floats
from jaxrl.training.loop import Plan, make_plan
from jaxrl.training.memory import MemoryPlan, available_bytes, gigabytes, tree_bytes


@dataclasses.dataclass(frozen=True)
class Forecast:
    """The plan of a run."""

    plan: Plan
    num_runs: int
    width: int  # runs in a group
    memory: MemoryPlan  # of the states alone

    def line(self, num_steps: int) -> str:
        """The plan in a line; `num_steps` is the budget that was asked for."""
        total = self.plan.total_steps
        rounded = "" if total == num_steps else f" ({num_steps:,} rounded up to whole records)"
        groups = self.memory.num_groups
        return (
            f"{self.num_runs:,} run{'s' * (self.num_runs != 1)}: {groups:,} "
            f"group{'s' * (groups != 1)} of {self.width}, {gigabytes(self.memory.per_group)} each; "
            f"{total:,} steps each{rounded}, {self.plan.num_records} records"
        )


def forecast(job: Job) -> Forecast:
    """Trace the run, compile nothing, and count what its states take.

    Raises:
        BadInput: the states do not fit in memory (the message says how many seeds would), or the
            agent cannot be built for the environment.
    """
    combinations = job.combinations
    width = job.lanes * jax.device_count()
    num_runs = len(combinations) * job.num_seeds
    plan = make_plan(job.agent, job.num_steps, job.num_records)
    with refusing(ValueError, MemoryError, OverflowError):
        group = make_groups(
            jax.random.key(job.seed),
            job.agent,
            combinations[:1],
            range(min(width, job.num_seeds)),
            width,
        )[0]
        life = jax.eval_shape(
            functools.partial(start_lanes, swept=tuple(combinations[0])),
            group.agent,
            strong_floats(job.env),
            group.keys,
            jnp.float32(plan.total_steps),
        )
        num_groups = math.ceil(num_runs / width)
        memory = MemoryPlan(tree_bytes(life), 0, num_groups, 1, available_bytes())
        memory.check(width, len(combinations))
    return Forecast(plan, num_runs, width, memory)
