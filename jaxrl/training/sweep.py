"""Seeds x settings through one compiled program, in chunks, with checkpoints."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core.protocols import Agent, Environment
from jaxrl.core.types import Array, Key, PyTree
from jaxrl.training.checkpoint import Checkpoints
from jaxrl.training.lanes import (
    Group,
    default_lanes,
    expand_settings,
    make_groups,
    run_lanes,
    start_lanes,
    strong_floats,
)
from jaxrl.training.loop import Plan, check_training, make_plan, summarise
from jaxrl.training.memory import MemoryPlan, available_bytes, tree_bytes, working_bytes

_EPISODE_METRICS = ("episode_return", "episode_length", "num_episodes")
_CHUNK_SECONDS = 2.0  # between two looks at the observer


@dataclasses.dataclass(frozen=True)
class SweepPlan:
    """What a sweep is about to do."""

    plan: Plan
    settings: list[dict[str, float]]
    seeds: tuple[int, ...]
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

    def on_start(self, plan: SweepPlan, first_record: int) -> None:
        """Compiled; records before `first_record` came from a checkpoint."""
        ...

    def on_chunk(self, share: float) -> bool:
        """`share` of the records' iterations is done; return True to stop after a checkpoint."""
        ...

    def on_record(self, record: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Record number `record` is complete; `metrics[num_settings, num_seeds]`."""
        ...


class Silent:
    """Watches without a word."""

    def on_start(self, plan: SweepPlan, first_record: int) -> None:
        """Nothing."""

    def on_chunk(self, share: float) -> bool:
        """Never stops."""
        return False

    def on_record(self, record: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Nothing."""


@dataclasses.dataclass(frozen=True)
class SweepResult:
    """What a sweep leaves; S settings, N seeds, R records."""

    settings: list[dict[str, float]]  # S
    seeds: tuple[int, ...]  # N
    steps: np.ndarray  # [R] environment steps at the end of each record
    metrics: dict[str, np.ndarray]  # [S, N, R] each
    agent_states: PyTree  # [S, N, ...] final agent states
    diverged_at: np.ndarray  # [S, N] int64, step at which a metric was first not finite; -1 never
    plan: SweepPlan
    run_seconds: float
    interrupted: bool


def sweep(
    key: Key,
    agent: Agent,
    env: Environment,
    *,
    num_seeds: int,
    num_steps: int,
    over: Mapping[str, Sequence[float]] | None = None,
    num_records: int = 100,
    lanes: int | None = None,
    first_seed: int = 0,
    observer: Observer | None = None,
    checkpoints: Checkpoints | None = None,
    checkpoint_seconds: float = 60.0,
) -> SweepResult:
    """Train every seed under every setting.

    Args:
        key: seed `s` trains with `fold_in(key, s)`, whatever runs beside it.
        agent: the learner.
        env: the environment.
        num_seeds: seeds of every setting.
        num_steps: environment steps of each run, rounded up to whole records.
        over: float settings by name, with the values to combine.
        num_records: how often metrics are recorded.
        lanes: runs in one call of the program on each device; by default one on a CPU, 64 elsewhere. Numbers
            depend on it in the last bits, on nothing else.
        first_seed: the first seed's number, to split seeds over processes.
        observer: told about progress; may stop the sweep.
        checkpoints: where to save, and from where to go on when something is there.
        checkpoint_seconds: least time between two saves [s].

    Returns:
        metrics of every record and the final agent states.

    Raises:
        KeyError: an unknown setting in `over`.
        ValueError: a setting out of range, or an agent that does not fit the environment.
        MemoryError: more than fits; the message says how many seeds would.
    """
    check_training(agent, env)
    if num_seeds < 1:
        raise ValueError(f"num_seeds={num_seeds} must be at least 1.")
    plan = make_plan(agent, num_steps, num_records)
    settings = expand_settings(agent, over or {})
    seeds = tuple(range(first_seed, first_seed + num_seeds))
    lanes = lanes or default_lanes()
    swept = tuple(settings[0])
    groups = make_groups(key, agent, settings, seeds, lanes * jax.device_count())
    env = strong_floats(env)
    machine = _Machine(env, plan, swept, len(groups))
    machine.memory_before_compiling(groups[0]).check(groups[0].keys.shape[0], len(settings))

    started = time.perf_counter()
    machine.compile(groups[0])
    compile_seconds = time.perf_counter() - started
    memory = machine.memory(groups[0])
    memory.check(groups[0].keys.shape[0], len(settings))
    sweep_plan = SweepPlan(plan, settings, seeds, lanes, len(groups), memory, compile_seconds)
    shape = (len(settings), num_seeds)
    run = _Run(machine, groups, sweep_plan, shape, observer or Silent())
    run.restore_or_start(checkpoints)
    started = time.perf_counter()
    interrupted = run.go(checkpoints, checkpoint_seconds)
    return run.result(time.perf_counter() - started, interrupted)


class _Machine:
    """The two compiled programs of a sweep."""

    def __init__(self, env: Environment, plan: Plan, swept: tuple[str, ...], num_groups: int):
        self.env, self.plan, self.swept, self.num_groups = env, plan, swept, num_groups
        self.num_workers = 1
        if jax.default_backend() == "cpu" and jax.device_count() == 1:
            self.num_workers = max(1, min(num_groups, len(os.sched_getaffinity(0))))
        self.total_steps = jnp.asarray(plan.total_steps, jnp.float32)

    def _placed(self, tree: PyTree) -> PyTree:
        if jax.device_count() == 1:
            return tree
        mesh = jax.make_mesh(
            (jax.device_count(),), ("lane",), axis_types=(jax.sharding.AxisType.Auto,)
        )
        lane = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("lane"))
        return jax.device_put(tree, jax.tree.map(lambda _: lane, tree))

    def memory_before_compiling(self, group: Group) -> MemoryPlan:
        """The states alone, which a large replay dominates."""
        life = jax.eval_shape(
            functools.partial(start_lanes, swept=self.swept),
            group.agent,
            self.env,
            group.keys,
            self.total_steps,
        )
        return MemoryPlan(tree_bytes(life), 0, self.num_groups, self.num_workers, available_bytes())

    def compile(self, group: Group) -> None:
        """Compile both programs, or take them from the cache of this process."""
        keys = self._placed(group.keys)
        self.start_program = _compiled(
            _START, (group.agent, self.env, keys, self.total_steps), self.swept
        )
        life = self.start_program(group.agent, self.env, keys, self.total_steps)
        state, tally = self._placed(life)
        count = jnp.zeros((), jnp.int32)
        self.run_program = _compiled(_RUN, (group.agent, self.env, state, tally, count), self.swept)
        self.life_bytes = tree_bytes(life)

    def memory(self, group: Group) -> MemoryPlan:
        """The plan from the compiled program."""
        return MemoryPlan(
            self.life_bytes,
            working_bytes(self.run_program),
            self.num_groups,
            self.num_workers,
            available_bytes() + self.life_bytes,
        )

    def start(self, group: Group) -> PyTree:
        """Fresh lives of a group."""
        keys = self._placed(group.keys)
        return self._placed(self.start_program(group.agent, self.env, keys, self.total_steps))

    def run(self, group: Group, life: PyTree, num_iterations: int) -> PyTree:
        """Some iterations of a group; blocks until done, so that workers share the cores."""
        count = jnp.asarray(num_iterations, jnp.int32)
        return jax.block_until_ready(self.run_program(group.agent, self.env, *life, count))


_START = jax.jit(start_lanes, static_argnames="swept")
_RUN = jax.jit(run_lanes, static_argnames="swept", donate_argnames=("state", "tally"))
_PROGRAMS: dict[Any, jax.stages.Compiled] = {}


def _compiled(program: Any, arguments: tuple, swept: tuple[str, ...]) -> jax.stages.Compiled:
    """Compile ahead of time, once for each shape of arguments in this process."""
    leaves, structure = jax.tree.flatten(arguments)
    kinds = tuple((leaf.shape, leaf.dtype, getattr(leaf, "sharding", None)) for leaf in leaves)
    name = (program, structure, kinds, swept)
    if name not in _PROGRAMS:
        _PROGRAMS[name] = program.lower(*arguments, swept=swept).compile()
    return _PROGRAMS[name]


class _Run:
    """The host's side of a sweep: where every group stands and what was recorded."""

    def __init__(
        self,
        machine: _Machine,
        groups: list[Group],
        plan: SweepPlan,
        shape: tuple[int, int],
        observer: Observer,
    ):
        self.machine, self.groups, self.plan, self.shape = machine, groups, plan, shape
        self.observer = observer
        self.record, self.iteration = 0, 0  # complete records, iterations into the next
        self.lives: list[PyTree] = []
        self.metrics: dict[str, np.ndarray] = {}

    def _template(self) -> PyTree:
        group = self.groups[0]
        life = jax.eval_shape(
            functools.partial(start_lanes, swept=self.machine.swept),
            group.agent,
            self.machine.env,
            group.keys,
            self.machine.total_steps,
        )
        records = jax.ShapeDtypeStruct((*self.shape, self.plan.plan.num_records), np.float32)
        names = jax.eval_shape(
            lambda tally: summarise(jax.tree.map(lambda x: x[0], tally)), life[1]
        )
        return {"lives": [life] * len(self.groups), "metrics": {name: records for name in names}}

    def restore_or_start(self, checkpoints: Checkpoints | None) -> None:
        """Go on from the newest good checkpoint, or start."""
        template = self._template()
        found = checkpoints.restore(template) if checkpoints else None
        if found is None:
            self.lives = [self.machine.start(group) for group in self.groups]
            self.metrics = {
                name: np.full(records.shape, np.nan, np.float32)
                for name, records in template["metrics"].items()
            }
        else:
            _, tree, extra = found
            self.lives = [self.machine._placed(life) for life in tree["lives"]]
            self.metrics = {name: np.array(value) for name, value in tree["metrics"].items()}
            self.record, self.iteration = extra["record"], extra["iteration"]
        self.observer.on_start(self.plan, self.record)

    def save(self, checkpoints: Checkpoints) -> None:
        """Save where every group stands."""
        done = self.record * self.plan.plan.iterations + self.iteration
        tree = {"lives": self.lives, "metrics": self.metrics}
        extra = {"record": self.record, "iteration": self.iteration}
        checkpoints.save(done * self.plan.plan.steps, tree, extra)

    def go(self, checkpoints: Checkpoints | None, checkpoint_seconds: float) -> bool:
        """Run to the end; True when the observer stopped it before."""
        plan = self.plan.plan
        saved_at = time.perf_counter()
        chunk = 1
        with concurrent.futures.ThreadPoolExecutor(self.machine.num_workers) as workers:
            while self.record < plan.num_records:
                count = min(chunk, plan.iterations - self.iteration)
                started = time.perf_counter()
                self.lives = list(
                    workers.map(
                        lambda group, life, count=count: self.machine.run(group, life, count),
                        self.groups,
                        self.lives,
                    )
                )
                seconds = (time.perf_counter() - started) / count
                chunk = max(1, min(plan.iterations, int(_CHUNK_SECONDS / seconds)))
                self.iteration += count
                if self.iteration == plan.iterations:
                    self._finish_record()
                done = self.record * plan.iterations + self.iteration
                stop = self.observer.on_chunk(done / (plan.num_records * plan.iterations))
                finished = self.record == plan.num_records
                due = time.perf_counter() - saved_at >= checkpoint_seconds
                if checkpoints and (stop or finished or due):
                    self.save(checkpoints)
                    saved_at = time.perf_counter()
                if stop and not finished:
                    return True
        return False

    def _finish_record(self) -> None:
        flat = {name: value.reshape(-1, value.shape[-1]) for name, value in self.metrics.items()}
        lives, position = [], 0
        for group, (state, tally) in zip(self.groups, self.lives, strict=True):
            summary = jax.device_get(_SUMMARISE(tally))
            for name, values in summary.items():
                flat[name][position : position + group.num_runs, self.record] = values[
                    : group.num_runs
                ]
            position += group.num_runs
            lives.append((state, jax.tree.map(jnp.zeros_like, tally)))
        self.lives = lives
        latest = {name: value[..., self.record] for name, value in self.metrics.items()}
        self.observer.on_record(self.record, latest)
        self.record, self.iteration = self.record + 1, 0

    def result(self, run_seconds: float, interrupted: bool) -> SweepResult:
        """Everything, by setting and seed."""
        plan = self.plan.plan
        steps = (np.arange(plan.num_records) + 1) * plan.steps_per_record
        states = [
            jax.tree.map(lambda leaf, n=group.num_runs: leaf[:n], life[0].agent)
            for group, life in zip(self.groups, self.lives, strict=True)
        ]
        agent_states = jax.tree.map(
            lambda *leaves: jnp.concatenate(leaves).reshape(*self.shape, *leaves[0].shape[1:]),
            *states,
        )
        return SweepResult(
            settings=self.plan.settings,
            seeds=self.plan.seeds,
            steps=steps[: self.record],
            metrics={name: value[..., : self.record] for name, value in self.metrics.items()},
            agent_states=agent_states,
            diverged_at=diverged_at(self.metrics, steps, self.record),
            plan=self.plan,
            run_seconds=run_seconds,
            interrupted=interrupted,
        )


_SUMMARISE = jax.jit(jax.vmap(summarise))


def diverged_at(metrics: Mapping[str, Array], steps: np.ndarray, num_records: int) -> np.ndarray:
    """The step `[S, N]` of the first record whose learning metrics are not finite; -1 where all are."""
    learning = [m[..., :num_records] for name, m in metrics.items() if name not in _EPISODE_METRICS]
    shape = next(iter(metrics.values())).shape[:-1]
    if not learning or num_records == 0:
        return np.full(shape, -1, np.int64)
    bad = ~np.isfinite(np.stack(learning)).all(axis=0)
    return np.where(bad.any(-1), steps[:num_records][bad.argmax(-1)], -1)
