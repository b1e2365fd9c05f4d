"""The two compiled programs of a sweep: one starts a group of lanes, one runs it on."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core.protocols import Environment
from jaxrl.core.types import PyTree
from jaxrl.training.lanes import Group, run_lanes, start_lanes
from jaxrl.training.loop import Budget, summarise
from jaxrl.training.memory import (
    MemoryNeed,
    available_bytes,
    process_bytes,
    tree_bytes,
    working_bytes,
)


class Programs:
    """The two compiled programs of a sweep."""

    def __init__(self, env: Environment, budget: Budget, swept: tuple[str, ...], num_groups: int):
        self.env, self.budget, self.swept, self.num_groups = env, budget, swept, num_groups
        self.num_workers = 1
        if jax.default_backend() == "cpu" and jax.device_count() == 1:
            self.num_workers = max(1, min(num_groups, _num_cores()))
        self.total_steps = jnp.asarray(budget.total_steps, jnp.float32)

    def placed(self, tree: PyTree) -> PyTree:
        """The lanes of `tree[W, ...]` spread over the devices."""
        if jax.device_count() == 1:
            return tree
        mesh = jax.make_mesh(
            (jax.device_count(),), ("lane",), axis_types=(jax.sharding.AxisType.Auto,)
        )
        lane = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("lane"))
        return jax.device_put(tree, jax.tree.map(lambda _: lane, tree))

    def life_shapes(self, group: Group) -> PyTree:
        """The `(state, tally)` of a group as shapes, without computing anything."""
        # Through the jitted function: what is traced here is not traced again to be compiled.
        return _START.eval_shape(
            group.agent, self.env, group.keys, self.total_steps, swept=self.swept
        )

    def memory_before_compiling(self, group: Group, num_runs: int) -> MemoryNeed:
        """The states and records alone, of which a large replay is the most."""
        life = self.life_shapes(group)
        num_metrics = len(jax.eval_shape(jax.vmap(summarise), life[1]))
        return MemoryNeed(
            tree_bytes(life),
            0,
            self.num_groups,
            self.num_workers,
            available_bytes(),
            metrics=4 * num_metrics * num_runs * self.budget.num_records if _on_host() else 0,
            process=process_bytes(),
        )

    def compile(self, group: Group) -> None:
        """Compile both programs, or take them from the cache of this process."""
        keys = self.placed(group.keys)
        self.start_program = _compiled(
            _START, (group.agent, self.env, keys, self.total_steps), self.swept
        )
        life = self.start_program(group.agent, self.env, keys, self.total_steps)
        state, tally = self.placed(life)
        span = np.zeros(3, np.int32)
        self.run_program = _compiled(_RUN, (group.agent, self.env, state, tally, span), self.swept)
        self.life_bytes = tree_bytes(life)

    def memory(self, before: MemoryNeed, saves: bool) -> MemoryNeed:
        """The plan from the compiled program, and whether checkpoints are written."""
        return dataclasses.replace(
            before,
            per_group=self.life_bytes,
            working=working_bytes(self.run_program),
            available=available_bytes(),
            num_copies=1 + (saves and _on_host()),
            process=process_bytes(),
        )

    def start(self, group: Group) -> PyTree:
        """Fresh lives of a group."""
        keys = self.placed(group.keys)
        return self.placed(self.start_program(group.agent, self.env, keys, self.total_steps))

    def run(self, group: Group, life: PyTree, span: np.ndarray) -> tuple[PyTree, dict]:
        """Run a group on; blocks until done, so that workers share the cores.

        Args:
            group: whose lives these are.
            life: `(state, tally)`, donated.
            span: as `run_lanes` takes it.

        Returns:
            the life and the records `[W, MAX_RECORDS]` by name.
        """
        state, tally, records = self.run_program(group.agent, self.env, *life, span)
        return (state, tally), jax.device_get(records)


def _on_host() -> bool:
    """Whether states, records and what is saved of them share one memory."""
    return jax.default_backend() == "cpu"


def _num_cores() -> int:
    """Cores that this process may use; all of the machine's where the system does not say."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # Linux alone has it
        return os.cpu_count() or 1


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
