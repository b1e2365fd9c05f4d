"""What a sweep says of itself while it runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from jaxrl.training.loop import Plan
from jaxrl.training.memory import MemoryPlan


@dataclasses.dataclass(frozen=True)
class SweepPlan:
    """What a sweep is about to do."""

    plan: Plan
    settings: list[dict[str, float]]
    seeds: Sequence[int]
    lanes: int
    num_groups: int
    memory: MemoryPlan
    compile_seconds: float

    @property
    def total_steps(self) -> int:
        """Environment steps of all runs together."""
        return self.plan.total_steps * len(self.seeds) * len(self.settings)


class Observer(Protocol):
    """Who watches a sweep from the host."""

    def on_start(
        self, plan: SweepPlan, first_record: int, metrics: Mapping[str, np.ndarray]
    ) -> None:
        """Compiled; the records before `first_record` came from a checkpoint, and stand in
        `metrics[num_settings, num_seeds, num_records]`."""
        ...

    def on_chunk(self, share: float) -> bool:
        """`share` of the sweep's iterations is done; return True to stop after a checkpoint."""
        ...

    def on_record(self, record: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Record number `record` is complete; `metrics[num_settings, num_seeds]`."""
        ...


class Silent:
    """Watches without a word."""

    def on_start(
        self, plan: SweepPlan, first_record: int, metrics: Mapping[str, np.ndarray]
    ) -> None:
        """Nothing."""

    def on_chunk(self, share: float) -> bool:
        """Never stops."""
        return False

    def on_record(self, record: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Nothing."""
