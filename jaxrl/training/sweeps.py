"""Seeds x settings through one compiled program, in chunks, with checkpoints."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence

import jax

from jaxrl.core.arguments import check_key, check_number, check_whole
from jaxrl.core.protocols import Agent, Environment
from jaxrl.core.types import Key, PyTree
from jaxrl.envs.checker import explained
from jaxrl.training.checkpoint import Checkpoints
from jaxrl.training.identity import identity
from jaxrl.training.lanes import default_lanes, expand_settings, make_groups, strong_floats
from jaxrl.training.loop import check_training, cut_budget
from jaxrl.training.programs import need_before_compiling
from jaxrl.training.session import Forecast, Observer, Session, Silent, SweepResult


@dataclasses.dataclass(frozen=True)
class Runs:
    """Which runs a sweep is of: see `sweep`, whose arguments these are."""

    num_seeds: int
    num_steps: int
    over: Mapping[str, Sequence[float]] | None = None
    num_records: int = 100
    lanes: int | None = None
    first_seed: int = 0


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
        num_records: how often metrics are recorded; more often where a record would hold more than
            2^24 updates.
        lanes: runs in one call of the program on each device; by default one on a CPU, 64
            elsewhere. Numbers depend on it in the last bits, on nothing else.
        first_seed: the first seed's number, to split seeds over processes.
        observer: told about progress; may stop the sweep.
        checkpoints: where to save, and from where to go on when something is there, with any number
            of lanes and devices.
        checkpoint_seconds: least time between two saves [s].

    Returns:
        metrics of every record and the final agent states.

    Raises:
        KeyError: an unknown setting in `over`.
        ValueError: a setting out of range, an agent that does not fit the environment, or
            checkpoints of another run.
        MemoryError: more than fits; the message says how many seeds would.

    Example:
        >>> from jaxrl import envs, pqn
        >>> env = envs.TabularEnv(envs.riverswim(), time_limit=20.0)
        >>> over = {"discount": [0.9, 0.99]}
        >>> swept = sweep(
        ...     jax.random.key(0), pqn(), env, num_seeds=3, num_steps=2048, over=over
        ... )
        >>> swept.metrics["episode_return"].shape  # settings, seeds, records
        (2, 3, 1)
    """
    check_key(key)
    check_number("checkpoint_seconds", checkpoint_seconds)
    runs = Runs(num_seeds, num_steps, over, num_records, lanes, first_seed)
    found = forecast(agent, env, runs)
    session = _session(key, agent, env, found, key=key)
    session.compile(saves=checkpoints is not None)
    session.restore_or_start(checkpoints, observer or Silent())
    started = time.perf_counter()
    interrupted = session.go(checkpoints, checkpoint_seconds)
    return session.result(time.perf_counter() - started, interrupted)


def forecast(agent: Agent, env: Environment, runs: Runs) -> Forecast:
    """What `sweep` of these runs would do, traced and not compiled; with the memory of the states
    alone.

    Raises:
        KeyError, ValueError, MemoryError: as `sweep` would.
    """
    check_training(agent, env)
    num_seeds = check_whole("num_seeds", runs.num_seeds)
    first_seed = check_whole("first_seed", runs.first_seed, low=0)
    lanes = default_lanes() if runs.lanes is None else check_whole("lanes", runs.lanes)
    budget = cut_budget(agent, runs.num_steps, runs.num_records)
    settings = expand_settings(agent, {} if runs.over is None else runs.over)
    width = lanes * jax.device_count()
    # Only the first group is laid out here, so that even an absurd number of seeds is answered.
    few = range(first_seed, first_seed + min(width, num_seeds))
    first = make_groups(jax.random.key(0), agent, settings[:1], few, width)[0]
    num_groups = math.ceil(len(settings) * num_seeds / width)
    num_runs = len(settings) * num_seeds
    with explained(env):
        memory = need_before_compiling(first, strong_floats(env), budget, num_groups, num_runs)
    memory.check(width, len(settings), jax.device_count())
    seeds = range(first_seed, first_seed + num_seeds)
    return Forecast(budget, settings, seeds, lanes, num_groups, memory, 0.0)


def restore_agents(
    checkpoints: Checkpoints, agent: Agent, env: Environment, runs: Runs
) -> tuple[int, PyTree] | None:
    """The agents of a sweep's newest good checkpoint.

    Args:
        checkpoints: of the sweep.
        agent: as the sweep had it, likewise `env` and `runs`.

    Returns:
        environment steps of each run, agent states `[S, N, ...]`; None without a checkpoint.

    Raises:
        ValueError: the checkpoint is of another sweep.
    """
    session = _session(jax.random.key(0), agent, env, forecast(agent, env, runs))
    if not session.restore(checkpoints):
        return None
    return session.steps, session.result(0.0, interrupted=True).agent_states


def _session(
    group_key: Key, agent: Agent, env: Environment, found: Forecast, **known: Key
) -> Session:
    budget, settings, seeds = found.budget, found.settings, found.seeds
    groups = make_groups(group_key, agent, settings, seeds, found.lanes * jax.device_count())
    run = identity(agent=agent, env=env, over=settings, seeds=seeds, plan=budget, **known)
    return Session(strong_floats(env), groups, found, run)
