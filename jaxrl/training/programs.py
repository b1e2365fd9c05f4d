"""The two compiled programs of a sweep: one starts a group of lanes, one runs it on."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp

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


def placed(tree: PyTree) -> PyTree:
    """The lanes of `tree[W, ...]` spread over the devices."""
    if jax.device_count() == 1:
        return tree
    mesh = jax.make_mesh((jax.device_count(),), ("lane",), axis_types=(jax.sharding.AxisType.Auto,))
    lane = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("lane"))
    return jax.device_put(tree, jax.tree.map(lambda _: lane, tree))


def life_shapes(group: Group, env: Environment) -> PyTree:
    """The `(state, tally)` of a group as shapes, without computing anything."""
    # Through the jitted function: what is traced here is not traced again to be compiled.
    return START.eval_shape(group.agent, env, group.keys, jnp.float32(0.0), swept=group.swept)


def need_before_compiling(
    group: Group, env: Environment, budget: Budget, num_groups: int, num_runs: int
) -> MemoryNeed:
    """The states and records alone, of which a large replay is the most."""
    life = life_shapes(group, env)
    num_metrics = len(SUMMARISE.eval_shape(life[1]))  # jitted: traced once
    one_cpu = jax.default_backend() == "cpu" and jax.device_count() == 1
    return MemoryNeed(
        tree_bytes(life),
        0,
        num_groups,
        max(1, min(num_groups, _num_cores())) if one_cpu else 1,
        available_bytes(),
        metrics=4 * num_metrics * num_runs * budget.num_records if _on_host() else 0,
        process=process_bytes(trim=False),
    )


def need_of(before: MemoryNeed, program: jax.stages.Compiled, saves: bool) -> MemoryNeed:
    """The need with the compiled program, and the copies of checkpoints that are written."""
    return dataclasses.replace(
        before,
        working=working_bytes(program),
        available=available_bytes(),
        num_copies=1 + (saves and _on_host()),
        process=process_bytes(),
    )


def _on_host() -> bool:
    """Whether states, records and what is saved of them share one memory."""
    return jax.default_backend() == "cpu"


def _num_cores() -> int:
    """Cores that this process may use; all of the machine's where the system does not say."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # Linux alone has it
        return os.cpu_count() or 1


START = jax.jit(start_lanes, static_argnames="swept")
RUN = jax.jit(run_lanes, static_argnames="swept", donate_argnames=("state", "tally"))
SUMMARISE = jax.jit(jax.vmap(summarise))
_PROGRAMS: dict[Any, jax.stages.Compiled] = {}


def compiled(program: Any, arguments: tuple, swept: tuple[str, ...]) -> jax.stages.Compiled:
    """Compile ahead of time, once for each shape of arguments in this process."""
    leaves, structure = jax.tree.flatten(arguments)
    kinds = tuple((leaf.shape, leaf.dtype, getattr(leaf, "sharding", None)) for leaf in leaves)
    name = (program, structure, kinds, swept)
    if name not in _PROGRAMS:
        _PROGRAMS[name] = program.lower(*arguments, swept=swept).compile()
    return _PROGRAMS[name]
