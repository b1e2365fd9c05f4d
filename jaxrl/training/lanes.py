"""Lanes: the seeds x settings of a sweep, cut into groups of one fixed width.

A compiled program of another width rounds differently (about 1e-7, which training then amplifies).
So every run of a sweep goes through one program of a fixed number of lanes, the last group padded,
and a seed's numbers do not depend on how many others run beside it.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core.arguments import check_names, check_numbers
from jaxrl.core.protocols import Agent, Environment
from jaxrl.core.schedules import Schedule
from jaxrl.core.settings import (
    check_value,
    get_path,
    list_settings,
    replace_path,
    replace_setting,
    resolve_setting,
)
from jaxrl.core.types import Array, Key, PyTree, select
from jaxrl.training.loop import (
    Sums,
    Tally,
    TrainState,
    add_tally,
    empty_tally,
    start_training,
    summarise,
    sums_of,
    tally_like,
    train_iteration,
)

# On a CPU one lane costs about as little per seed as sixteen (PPO, CartPole: 1.09 against 0.91
# CPU-seconds), compiles faster and keeps conditionals real; accelerators want wide programs.
_CPU_LANES, _ACCELERATOR_LANES = 1, 64
MOST_SETTINGS = 100_000  # of one sweep
MAX_RECORDS = 16  # that one call can go over; a call costs about a millisecond


def default_lanes() -> int:
    """Lanes of one program on one device of the default backend."""
    return _CPU_LANES if jax.default_backend() == "cpu" else _ACCELERATOR_LANES


def expand_settings(agent: Agent, over: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    """Every combination of the swept values, in the order of a nested loop over `over`.

    Raises:
        KeyError: a setting that the agent does not have.
        ValueError: no values, a value out of range, more than 100,000 combinations, or a setting
            that is not a float (those change the program; call `sweep` once for each).
    """
    check_names("over", over)
    columns: list[list[float]] = []
    known = {info.name: info for info in list_settings(agent)}
    for name, values in over.items():
        info = known[resolve_setting(agent, name)]
        # Constants may replace a schedule: the program is then traced with a number there.
        if not (info.is_leaf or isinstance(info.value, Schedule)):
            raise ValueError(
                f"{name} cannot be swept in one program: it is {type(info.value).__name__}, not a "
                "float, and changes shapes or code. Run one sweep for each value."
            )
        values = check_numbers(name, values)
        if len(values) == 0:
            raise ValueError(f"{name} is swept over no values: give at least one.")
        if len({np.float32(value) for value in values}) < len(values):
            raise ValueError(f"{name} is swept over {values}, of which two are equal in float32.")
        for value in values:
            check_value(info, value)
        columns.append(values)
    if math.prod(map(len, columns)) > MOST_SETTINGS:
        raise ValueError(
            f"{' x '.join(str(len(values)) for values in columns)} values combine to more than "
            f"{MOST_SETTINGS:,} settings: sweep fewer, or some of them in a run of their own."
        )
    return [dict(zip(over, row, strict=True)) for row in itertools.product(*columns)]


def with_settings(agent: Agent, values: Mapping[str, float | Array]) -> Agent:
    """A copy of the agent with these settings replaced."""
    for name, value in values.items():
        agent = replace_setting(agent, name, value)
    return agent


def strong_floats(tree: PyTree) -> PyTree:
    """The same struct with Python numbers as arrays: no value is part of a program."""

    def strong(leaf: Any) -> Any:
        if isinstance(leaf, (float, np.floating)):
            return jnp.asarray(leaf, jnp.float32)
        # A whole number where a float is declared, such as `time_limit=5`.
        return jnp.asarray(leaf, jnp.int32) if type(leaf) is int else leaf

    return jax.tree.map(strong, tree)


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that share one call of the program; padding repeats the last."""

    num_runs: int  # lanes that are not padding
    agent: Agent  # leaves of `swept` settings are [W]
    keys: Key  # [W]
    swept: tuple[str, ...]


def make_groups(
    key: Key, agent: Agent, settings: list[dict[str, float]], seeds: Sequence[int], width: int
) -> list[Group]:
    """Cut seeds x settings into groups of `width` lanes.

    Seed `s` trains with `fold_in(key, s)` under every setting, so that settings are compared on the
    same seeds.
    """
    runs = [(setting, seed) for setting in range(len(settings)) for seed in seeds]
    # By full names of the agent as it was given: of an array nobody can tell that it was a float.
    swept = {resolve_setting(agent, name): name for name in settings[0]}
    groups = []
    for start in range(0, len(runs), width):
        chosen = runs[start : start + width]
        padded = chosen + [chosen[-1]] * (width - len(chosen))
        lane_agent = strong_floats(agent)
        for place, name in swept.items():
            column = jnp.asarray([settings[s][name] for s, _ in padded], jnp.float32)
            lane_agent = replace_path(lane_agent, place, column)
        keys = keys_of_seeds(key, [seed for _, seed in padded])
        groups.append(Group(len(chosen), lane_agent, keys, tuple(swept)))
    return groups


def root_key(seed: int) -> Key:
    """`jax.random.key(seed)`, which heeds 32 bits; from 2^32 on, the upper half is folded in.

    Example:
        >>> [bool(root_key(seed) == jax.random.key(5)) for seed in (5, 2**32 + 5)]
        [True, False]
    """
    key, high = jax.random.key(seed & 0xFFFFFFFF), seed >> 32
    return jax.random.fold_in(key, high) if high else key


def keys_of_seeds(key: Key, seeds: Sequence[int]) -> Key:
    """`fold_in(key, seed)` `[N]`; from seed 2^32 on, the upper half is folded in as well."""
    words = np.asarray(seeds, np.uint64)
    return _fold_in(key, *(x.astype(np.uint32) for x in (words & 0xFFFFFFFF, words >> 32)))


@jax.jit
def _fold_in(key: Key, low: Array, high: Array) -> Key:
    """`key` with both halves `[N]` of each seed."""

    def one(low: Array, high: Array) -> Key:
        first = jax.random.fold_in(key, low)
        return select(high > 0, jax.random.fold_in(first, high), first)

    return jax.vmap(one)(low, high)


def lane_axes(agent: Agent, swept: Sequence[str]) -> Agent:
    """The `vmap` axes of an agent whose leaves at the dotted paths `swept` carry a lane axis."""
    carried = [get_path(agent, name) for name in swept]
    return jax.tree.map(lambda leaf: 0 if any(leaf is one for one in carried) else None, agent)


def start_lanes(
    agent: Agent, env: Environment, keys: Key, total_steps: Array, swept: tuple[str, ...]
) -> tuple[TrainState, Tally]:
    """Fresh lives and empty tallies `[W, ...]`."""

    def start(agent: Agent, key: Key) -> tuple[TrainState, Tally]:
        state = start_training(key, agent, env, total_steps)
        return state, empty_tally(agent, env, state)

    return _over_lanes(start, agent, swept, keys)(agent, keys)


def run_lanes(
    agent: Agent,
    env: Environment,
    state: TrainState,
    tally: Tally,
    span: Array,
    swept: tuple[str, ...],
) -> tuple[TrainState, Tally, dict[str, Array]]:
    """Run every lane on, over any number of iterations and records without recompiling.

    Args:
        agent: swept leaves are `[W]`.
        env: shared by all lanes.
        state: `[W, ...]`, where the lives stand.
        tally: `[W, ...]`, what the record begun before has so far.
        span: `[3]` int32: records to go over, at most `MAX_RECORDS`; iterations in each; whether
            that many iterations end a record (else there is one, and it goes on in the next call).
        swept: names of the swept settings.

    Returns:
        states, tallies, and the records by name `[W, MAX_RECORDS]`, of which only those that ended
        mean anything.
    """
    num_records, num_iterations, ends = span[0], span[1], span[2] > 0

    def run(agent: Agent, life: tuple[TrainState, Tally]) -> tuple:
        def iteration(_: int, life: tuple[TrainState, Sums]) -> tuple[TrainState, Sums]:
            state, sums = life
            state, tally = train_iteration(agent, env, state)
            return state, add_tally(sums, tally)

        def record(index: int, carry: tuple) -> tuple:
            (state, tally), records = carry
            life = state, sums_of(tally)
            state, sums = jax.lax.fori_loop(0, num_iterations, iteration, life)
            tally = tally_like(tally, sums)
            row = summarise(tally)
            records = {name: records[name].at[index].set(row[name]) for name in records}
            tally = jax.tree.map(lambda total: jnp.where(ends, 0, total), tally)
            return (state, tally), records

        shapes = jax.eval_shape(summarise, life[1])
        empty = {name: jnp.zeros(MAX_RECORDS, row.dtype) for name, row in shapes.items()}
        (state, tally), records = jax.lax.fori_loop(0, num_records, record, (life, empty))
        return state, tally, records

    return _over_lanes(run, agent, swept, state.key)(agent, (state, tally))


def _over_lanes(function: Any, agent: Agent, swept: tuple[str, ...], keys: Key) -> Any:
    """`function` mapped over lanes; a single one runs without `vmap`: conditionals stay real."""
    axes = lane_axes(agent, swept)
    if keys.shape[0] > 1:
        return jax.vmap(function, in_axes=(axes, 0))

    def first(axis: int | None, leaf: Array) -> Array:
        return leaf if axis is None else leaf[0]

    def single(agent: Agent, rest: PyTree) -> PyTree:
        one = jax.tree.map(first, axes, agent, is_leaf=lambda axis: axis is None)
        outputs = function(one, jax.tree.map(lambda leaf: leaf[0], rest))
        return jax.tree.map(lambda leaf: leaf[None], outputs)

    return single
