"""The observer of a sweep: writes every record to the run's folder and shows how far it is."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.progress import BarColumn, Progress as Bar, TextColumn

from jaxrl.cli.interrupt import Interrupt
from jaxrl.cli.screen import number, say, screen
from jaxrl.training.checkpoint import Checkpoints
from jaxrl.training.run_folder import RunFolder
from jaxrl.training.session import Forecast, diverged_at

_LINE_SECONDS = 10.0  # between two lines where there is no terminal
_LINE_SHARE = 0.1
_MOST_TOLD = 5  # diverged runs that a record names


class Watch:
    """Progress of one sweep; a context manager, so that the bar is taken down.

    Args:
        run: the folder that records are added to.
        labels: names of the settings, S.
        interrupt: asked after every chunk whether to stop.
    """

    def __init__(self, run: RunFolder, labels: Sequence[str], interrupt: Interrupt):
        self.run, self.labels, self.interrupt = run, labels, interrupt
        self.share = self.first_share = self.told_share = 0.0
        self.started = self.told_at = time.perf_counter()
        self.mean_return = float("nan")
        self.saved = bool(Checkpoints(run.checkpoints).steps())  # as the status says
        columns = (BarColumn(bar_width=None), TextColumn("{task.description}"))
        self.bar = Bar(*columns, console=screen(), expand=True)  # has a task once it is shown
        self.forecast: Forecast  # from `on_start`
        self.diverged: np.ndarray  # [S, N] bool, known to have diverged

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, kind: type[BaseException] | None, *more: object) -> bool:
        if self.bar.task_ids:
            self.bar.stop()
        return kind is KeyboardInterrupt and self.interrupt.requested  # by `on_start`

    def on_start(
        self, forecast: Forecast, first_record: int, metrics: Mapping[str, np.ndarray]
    ) -> None:
        """Write the records that the checkpoint holds, whatever the folder has, and start the
        clock."""
        self.forecast = forecast
        known = ({name: m[..., i] for name, m in metrics.items()} for i in range(first_record))
        self.run.rewrite_metrics([self._record(i, row) for i, row in enumerate(known)])
        if self.interrupt.requested:
            raise KeyboardInterrupt
        verb = f"continuing after record {first_record} of" if first_record else "training"
        budget = forecast.budget
        say(f"compiled in {forecast.compile_seconds:.1f} s; {verb} {budget.num_records} records")
        self.diverged = diverged_at(metrics["finite_updates"][..., :first_record], budget) >= 0
        self.share = self.first_share = self.told_share = first_record / budget.num_records
        self.started = self.told_at = time.perf_counter()
        if screen().is_terminal:
            # rich types `completed` as a whole number, and takes any.
            self.bar.add_task(self._line(), total=1.0, completed=self.share)  # pyright: ignore[reportArgumentType]
            self.bar.start()

    def on_record(self, record: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Write the record; every lane of it, `[S, N]`. Say which runs diverged in it."""
        self.run.append_metrics([self._record(record, metrics)])
        since = diverged_at(metrics["finite_updates"][..., None], self.forecast.budget)
        new = (since >= 0) & ~self.diverged
        self.diverged |= new
        for setting, seed in np.argwhere(new)[:_MOST_TOLD]:
            where = f" ({self.labels[setting]})" if self.labels[setting] else ""
            step = record * self.forecast.budget.steps_per_record + since[setting, seed]
            who = f"seed {self.forecast.seeds[seed]}{where}"
            say(f"{who}: a metric is not finite at step {step:,}")
        known = metrics["episode_return"][np.isfinite(metrics["episode_return"])]
        self.mean_return = float(known.mean()) if known.size else self.mean_return

    def _record(self, record: int, metrics: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Every lane of a record, `[S, N]`, as the folder keeps it."""
        num_settings, num_seeds = next(iter(metrics.values())).shape
        return {
            "step": (record + 1) * self.forecast.budget.steps_per_record,
            "seeds": list(self.forecast.seeds) * num_settings,
            "settings": [label for label in self.labels for _ in range(num_seeds)],
            "metrics": {name: values.reshape(-1) for name, values in metrics.items()},
        }

    def on_chunk(self, share: float) -> bool:
        """Show the share that is done; True once the run is to stop."""
        self.share = share
        if not self.saved and Checkpoints(self.run.checkpoints).steps():
            self.saved = True
            self.run.set_status("running", {"checkpoint": True})
        for task in self.bar.task_ids:
            self.bar.update(task, completed=share, description=self._line())
        if not self.bar.task_ids:
            self._tell()
        return self.interrupt.requested

    def _tell(self) -> None:
        """A plain line now and then."""
        now = time.perf_counter()
        waited, moved = now - self.told_at, self.share - self.told_share
        if self.share < 1 and waited < _LINE_SECONDS and (moved < _LINE_SHARE or waited < 1):
            return
        say(f"{self.share:4.0%}  {self._line()}")
        self.told_at, self.told_share = now, self.share

    def _line(self) -> str:
        total, moved = self.forecast.total_steps, self.share - self.first_share
        elapsed = max(time.perf_counter() - self.started, 1e-9)  # of this process
        clock = "-:--"
        if moved > 0:
            clock = str(datetime.timedelta(seconds=round(elapsed * (1 - self.share) / moved)))
        return (
            f"{round(self.share * total):,}/{total:,} steps  {moved * total / elapsed:,.0f} steps/s"
            f"  mean return {number(self.mean_return)}  {clock.removeprefix('0:')} left"
        )
