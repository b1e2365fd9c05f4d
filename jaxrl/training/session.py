"""A sweep under way, from the host: programs, chunks, records, checkpoints."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core.protocols import Environment
from jaxrl.core.types import PyTree
from jaxrl.training.checkpoint import Checkpoints
from jaxrl.training.lanes import MAX_RECORDS, Group
from jaxrl.training.loop import Budget, is_episode_mean
from jaxrl.training.memory import MemoryNeed, tree_bytes
from jaxrl.training.programs import RUN, START, SUMMARISE, compiled, life_shapes, need_of, placed

_CHUNK_SECONDS = 2.0  # between two looks at the observer


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What a sweep is about to do."""

    budget: Budget
    settings: list[dict[str, float]]
    seeds: Sequence[int]
    lanes: int
    num_groups: int
    memory: MemoryNeed
    compile_seconds: float

    @property
    def total_steps(self) -> int:
        """Environment steps of all runs together."""
        return self.budget.total_steps * len(self.seeds) * len(self.settings)


class Observer(Protocol):
    """Who watches a sweep from the host."""

    def on_start(
        self, forecast: Forecast, first_record: int, metrics: Mapping[str, np.ndarray]
    ) -> None:
        """Compiled; the records before `first_record` came from a checkpoint, and stand in
        `metrics[num_settings, num_seeds, num_records]`."""

    def on_chunk(self, share: float) -> bool:
        """`share` of the sweep's iterations is done; return True to stop after a checkpoint."""
        return False

    def on_record(self, record: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Record number `record` is complete; `metrics[num_settings, num_seeds]`."""


class Silent(Observer):
    """Watches without a word, and never stops."""


@dataclasses.dataclass(frozen=True)
class SweepResult:
    """What a sweep leaves; S settings, N seeds, R records."""

    settings: list[dict[str, float]]  # S
    seeds: Sequence[int]  # N
    steps: np.ndarray  # [R] environment steps at the end of each record
    metrics: dict[str, np.ndarray]  # [S, N, R] each
    groups: list[PyTree]  # final agent states as they were run, [lanes, ...] each
    diverged_at: np.ndarray  # [S, N] int64, step by which a metric was first not finite; -1 never
    forecast: Forecast
    run_seconds: float
    interrupted: bool

    @functools.cached_property
    def agent_states(self) -> PyTree:
        """Every agent's final state `[S, N, ...]`: a copy, made when first asked for."""
        shape = (len(self.settings), len(self.seeds))

        def stack(*leaves: jax.Array) -> jax.Array:
            return jnp.concatenate(leaves).reshape(*shape, *leaves[0].shape[1:])

        return jax.tree.map(stack, *self.groups)

    def agent_state(self, setting: int, seed: int) -> PyTree:
        """The final state of one agent, nothing else copied.

        Args:
            setting: position in `settings`.
            seed: position in `seeds`.

        Raises:
            IndexError: there is no such run.
        """
        if not (0 <= setting < len(self.settings) and 0 <= seed < len(self.seeds)):
            raise IndexError(
                f"No run of setting {setting} and seed {seed}: there are {len(self.settings)} "
                f"settings of {len(self.seeds)} seeds, counted from 0."
            )
        run = setting * len(self.seeds) + seed
        width = jax.tree.leaves(self.groups[0])[0].shape[0]  # only the last group may be narrower
        return jax.tree.map(lambda leaf: leaf[run % width], self.groups[run // width])


class Session:
    """A sweep under way: its programs, where every group stands and what was recorded."""

    def __init__(
        self, env: Environment, groups: list[Group], forecast: Forecast, run: dict[str, str]
    ):
        self.env, self.groups, self.forecast, self.run = env, groups, forecast, run
        self.total_steps = jnp.asarray(forecast.budget.total_steps, jnp.float32)
        self.budget = forecast.budget
        self.shape = (len(forecast.settings), len(forecast.seeds))
        self.observer: Observer = Silent()
        self.record, self.iteration = 0, 0  # complete records, iterations into the next
        self.lives: list[PyTree] = []
        # Iterations under way, and which runs have not run them yet. Between two spans, none.
        self.span, self.behind = np.zeros(3, np.int32), np.zeros(math.prod(self.shape), bool)
        self.metrics: dict[str, np.ndarray] = {}

    @property
    def steps(self) -> int:
        """Environment steps of each run so far."""
        return (self.record * self.budget.iterations + self.iteration) * self.budget.steps

    @property
    def width(self) -> int:
        """Lanes of a group."""
        return self.groups[0].keys.shape[0]

    def _runs(self, index: int) -> slice:
        """The runs of a group."""
        return slice(index * self.width, index * self.width + self.groups[index].num_runs)

    def _template(self, width: int | None = None) -> PyTree:
        """What a checkpoint holds whose groups have `width` lanes, by default as many as here."""
        life = life_shapes(self.groups[0], self.env)
        width = width or self.width
        life = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((width, *leaf.shape[1:]), leaf.dtype), life
        )
        records = jax.ShapeDtypeStruct((*self.shape, self.budget.num_records), np.float32)
        names = SUMMARISE.eval_shape(life[1])
        num_groups = math.ceil(math.prod(self.shape) / width)
        return {"lives": [life] * num_groups, "metrics": dict.fromkeys(names, records)}

    def compile(self, saves: bool) -> None:
        """Compile both programs, or take them from the cache of this process.

        Raises:
            MemoryError: they need more than there is, with checkpoints if it `saves` any.
        """
        started, group = time.perf_counter(), self.groups[0]
        arguments = (group.agent, self.env, placed(group.keys), self.total_steps)
        self.start_program = compiled(START, arguments, group.swept)
        life = placed(self.start_program(*arguments))
        arguments = (group.agent, self.env, *life, np.zeros(3, np.int32))
        self.run_program = compiled(RUN, arguments, group.swept)
        before = dataclasses.replace(self.forecast.memory, per_group=tree_bytes(life))
        del life, arguments  # that what is free is seen without them
        need = need_of(before, self.run_program, saves)
        need.check(self.width, len(self.forecast.settings), jax.device_count())
        seconds = time.perf_counter() - started
        self.forecast = dataclasses.replace(self.forecast, memory=need, compile_seconds=seconds)

    def restore_or_start(self, checkpoints: Checkpoints | None, observer: Observer) -> None:
        """Go on from the newest good checkpoint, or start."""
        self.observer = observer
        if checkpoints is not None:
            checkpoints.foresee(self.forecast.memory.per_group * len(self.groups))
        if checkpoints is None or not self.restore(checkpoints):
            self.lives = [self._start(group) for group in self.groups]
            self.metrics = {
                name: np.full(records.shape, np.nan, np.float32)
                for name, records in self._template()["metrics"].items()
            }
        self.observer.on_start(self.forecast, self.record, self.metrics)

    def restore(self, checkpoints: Checkpoints) -> bool:
        """Take the state of the newest good checkpoint; False when there is none.

        It may have been saved with another number of lanes, as on another number of devices.
        """
        found = checkpoints.restore(lambda extra: self._template(extra.get("width")), self.run)
        if found is None:
            return False
        _, tree, extra = found
        lives, width = tree["lives"], extra.get("width", self.width)
        if width != self.width:
            lives = recut(lives, self.behind.size, self.width)
        self.lives = [placed(life) for life in lives]
        self.metrics = {name: np.array(value) for name, value in tree["metrics"].items()}
        self.record, self.iteration = extra["record"], extra["iteration"]
        self.span = np.asarray(extra.get("span", self.span), np.int32)
        self.behind[extra.get("behind", [])] = True
        for group in extra.get("waiting", []):  # as they were kept before `behind`
            self.behind[group * width : (group + 1) * width] = True
        return True

    def save(self, checkpoints: Checkpoints) -> None:
        """Save where every group stands."""
        tree = {"lives": self.lives, "metrics": self.metrics}
        extra = {"record": self.record, "iteration": self.iteration, "width": self.width}
        extra |= {"span": self.span.tolist(), "behind": np.flatnonzero(self.behind).tolist()}
        checkpoints.save(self.steps, tree, extra, self.run)

    def go(self, checkpoints: Checkpoints | None, checkpoint_seconds: float) -> bool:
        """Run to the end; True when the observer stopped it before."""
        saved_at = time.perf_counter()
        chunk = 1  # iterations that take about `_CHUNK_SECONDS`
        num_workers = self.forecast.memory.num_workers
        with concurrent.futures.ThreadPoolExecutor(num_workers) as workers:
            # Handing the only group to another thread would cost more than to call it.
            each = map if num_workers == 1 else workers.map
            while self.record < self.budget.num_records:
                if not self.behind.any():
                    self.span, self.behind[:] = self._next_span(chunk), True
                started, waiting = time.perf_counter(), self._waiting()
                stop = self._run_groups(waiting, each)
                seconds = (time.perf_counter() - started) * len(self.groups) / len(waiting)
                chunk = max(1, int(_CHUNK_SECONDS * self.span[0] * self.span[1] / seconds))
                if not self.behind.any():
                    self._end_span()
                    stop = self.observer.on_chunk(self._share()) or stop
                finished = self.record == self.budget.num_records
                due = time.perf_counter() - saved_at >= checkpoint_seconds
                if checkpoints and (stop or finished or due):
                    self.save(checkpoints)
                    saved_at = time.perf_counter()
                if stop and not finished:
                    return True
        return False

    def _waiting(self) -> list[int]:
        """Groups with runs that are behind."""
        return [n for n in range(len(self.groups)) if self.behind[self._runs(n)].any()]

    def _run_groups(self, waiting: list[int], each: Callable[..., Iterable]) -> bool:
        """Run groups over the span, by the map `each`; True when the observer stopped it between
        two of them."""
        stopped, looked_at = threading.Event(), time.perf_counter()

        def run(index: int) -> dict[str, np.ndarray] | None:
            if stopped.is_set():
                return None
            self.lives[index], records = self._run(index)
            return records

        for index, records in zip(waiting, each(run, waiting), strict=True):
            if records is not None:
                self._note(index, records)
            if self.behind.any() and time.perf_counter() - looked_at >= _CHUNK_SECONDS:
                looked_at = time.perf_counter()
                if not stopped.is_set() and self.observer.on_chunk(self._share()):
                    stopped.set()
        return stopped.is_set()

    def _run(self, index: int) -> tuple[PyTree, dict[str, np.ndarray]]:
        """Run a group over the span. Runs that did so before, in a group that was cut otherwise,
        stay as they are."""
        group, life, behind = self.groups[index], self.lives[index], self.behind[self._runs(index)]
        if behind.all():
            return self._call(group, life)
        stays = jax.tree.map(jnp.copy, life)  # what the program is given is used up
        life, records = self._call(group, life)
        behind = jnp.asarray(np.pad(behind, (0, self.width - behind.size), mode="edge"))
        pick = jax.vmap(jnp.where)
        life = jax.tree.map(lambda new, old: pick(behind, new, old), life, stays)
        return placed(life), records

    def _start(self, group: Group) -> PyTree:
        """Fresh lives of a group."""
        arguments = (group.agent, self.env, placed(group.keys), self.total_steps)
        return placed(self.start_program(*arguments))

    def _call(self, group: Group, life: PyTree) -> tuple[PyTree, dict[str, np.ndarray]]:
        """Run lives on, which are used up; blocks until done, so that workers share the cores."""
        state, tally, records = self.run_program(group.agent, self.env, *life, self.span)
        return (state, tally), jax.device_get(records)

    def _share(self) -> float:
        """What part of all iterations of all groups is done."""
        ahead = 0.0
        if self.behind.any():
            ahead = float(self.span[0]) * self.span[1] * (1 - self.behind.mean())
        done = self.record * self.budget.iterations + self.iteration + ahead
        return done / (self.budget.num_records * self.budget.iterations)

    def _next_span(self, chunk: int) -> np.ndarray:
        """About `chunk` more iterations: a part of a record, or as many whole ones as fit."""
        left = self.budget.iterations - self.iteration
        if chunk < left or self.iteration:
            count = min(chunk, left)
            return np.asarray([1, count, count == left], np.int32)
        records = min(
            chunk // self.budget.iterations, MAX_RECORDS, self.budget.num_records - self.record
        )
        return np.asarray([records, self.budget.iterations, 1], np.int32)

    def _columns(self) -> slice:
        """The records that end in the span."""
        return slice(self.record, self.record + int(self.span[0] * self.span[2]))

    def _note(self, index: int, records: dict[str, np.ndarray]) -> None:
        """Keep what a group recorded in the span."""
        columns, runs = self._columns(), self._runs(index)
        (lanes,) = np.nonzero(self.behind[runs])
        for name, values in records.items():
            rows = self.metrics[name].reshape(-1, self.budget.num_records)
            rows[runs.start + lanes, columns] = values[lanes, : columns.stop - columns.start]
        self.behind[runs] = False

    def _end_span(self) -> None:
        """Count the span, and tell the observer what was recorded in it."""
        columns = self._columns()
        if not self.span[2]:
            self.iteration += int(self.span[1])
            return
        # No number where no episode ended, nor after a metric was not finite: a curve ends there.
        lost = self.metrics["finite_updates"][..., : columns.stop] < self.budget.iterations
        lost = np.logical_or.accumulate(lost, axis=-1)[..., columns]
        lost |= self.metrics["num_episodes"][..., columns] == 0
        for name in filter(is_episode_mean, self.metrics):
            self.metrics[name][..., columns][lost] = np.nan
        for record in range(columns.start, columns.stop):
            latest = {name: value[..., record] for name, value in self.metrics.items()}
            self.observer.on_record(record, latest)
        self.record, self.iteration = columns.stop, 0

    def result(self, run_seconds: float, interrupted: bool) -> SweepResult:
        """Everything, by setting and seed."""
        steps = (np.arange(self.budget.num_records) + 1) * self.budget.steps_per_record
        return SweepResult(
            settings=self.forecast.settings,
            seeds=self.forecast.seeds,
            steps=steps[: self.record],
            metrics={name: value[..., : self.record] for name, value in self.metrics.items()},
            groups=[
                jax.tree.map(lambda leaf, n=group.num_runs: leaf[:n], life[0].agent)
                for group, life in zip(self.groups, self.lives, strict=True)
            ],
            diverged_at=diverged_at(
                self.metrics["finite_updates"][..., : self.record], self.budget
            ),
            forecast=self.forecast,
            run_seconds=run_seconds,
            interrupted=interrupted,
        )


def recut(groups: list[PyTree], num_runs: int, width: int) -> list[PyTree]:
    """The first `num_runs` lanes of groups in groups of another `width`, the last lane repeated."""
    lanes = np.minimum(np.arange(math.ceil(num_runs / width) * width), num_runs - 1)

    def cut(*leaves: jax.Array) -> list[jax.Array]:
        whole = jnp.concatenate(leaves)
        return [whole[lanes[start : start + width]] for start in range(0, lanes.size, width)]

    columns = [cut(*leaves) for leaves in zip(*map(jax.tree.leaves, groups), strict=True)]
    structure = jax.tree.structure(groups[0])
    return [jax.tree.unflatten(structure, row) for row in zip(*columns, strict=True)]


def diverged_at(finite_updates: np.ndarray, budget: Budget) -> np.ndarray:
    """The step `[S, N]` of the update at which a learning metric was first not finite; -1 for none.

    Args:
        finite_updates: `[S, N, R]`, of the records so far.
        budget: how the run was cut into records.
    """
    if finite_updates.shape[-1] == 0:
        return np.full(finite_updates.shape[:-1], -1, np.int64)
    bad = finite_updates < budget.iterations
    record = bad.argmax(-1)
    before = np.take_along_axis(finite_updates, record[..., None], -1)[..., 0]
    update = record * budget.iterations + before.astype(np.int64) + 1
    return np.where(bad.any(-1), update * budget.steps, -1)
