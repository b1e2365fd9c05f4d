"""A whole training run as one pure function, and the pieces that longer runs are cut into."""

from __future__ import annotations

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core import Struct
from jaxrl.core.arguments import check_key, check_parts, check_whole
from jaxrl.core.protocols import Agent, Environment, check_obeys, has_legal
from jaxrl.core.settings import check_kinds, check_settings
from jaxrl.core.totals import add_exactly
from jaxrl.core.types import Array, Key, PyTree, Transition, select
from jaxrl.envs.checker import explained
from jaxrl.training.rollouts import EpisodeSums, RolloutState, rollout, start_rollout

_MOST_ITERATIONS = 2**31 - 1  # under one key
_GROUP_STARTS = 3  # stream of resets, beside the three that an iteration's key is split into
_MOST_UPDATES = 2**24  # in one record: `finite_updates` counts them one by one in float32


class TrainState(Struct):
    """One life between two iterations: everything that is needed to go on."""

    agent: PyTree  # the agent's state
    rollout: RolloutState
    key: Key  # of the life; iteration i spends fold_in(key, i)
    iteration: Array  # [] int32, from 0 again, under a new key, after 2^31 - 1


class Tally(Struct):
    """Sums since the last record; a record is their means."""

    episodes: EpisodeSums
    metrics: dict[str, Array]  # [] each, summed over iterations
    num_iterations: Array  # [] float32
    num_finite: Array  # [] float32, iterations before a metric was first not finite
    rest: PyTree = ()  # what the sums of many iterations round away, a number for each of them


# A tally while it grows: its numbers `[N]` side by side, for one addition to do for all, their rest
# `[N]`, and `num_finite`.
Sums = tuple[Array, Array, Array]


def sums_of(tally: Tally) -> Sums:
    """Of a tally with its rest."""
    numbers = jnp.stack(jax.tree.leaves(tally.replace(rest=())))
    return numbers, jnp.stack(tally.rest), tally.num_finite


def add_tally(sums: Sums, tally: Tally) -> Sums:
    """With one iteration more."""
    totals, rest = add_exactly(*sums[:2], jnp.stack(jax.tree.leaves(tally)))
    # Those of the metrics; a sum that was not finite once stays so.
    first = len(jax.tree.leaves(tally.episodes))
    finite = jnp.all(jnp.isfinite(totals[first : first + len(tally.metrics)]))
    return totals, rest, sums[2] + finite


def tally_like(like: Tally, sums: Sums) -> Tally:
    """The numbers of `sums` in their places and types, those of `like`."""
    leaves, kind = jax.tree.flatten(like.replace(rest=()))
    dtypes = [leaf.dtype for leaf in leaves]
    totals, rest = (list(map(jnp.asarray, row, dtypes)) for row in sums[:2])
    return jax.tree.unflatten(kind, totals).replace(num_finite=sums[2], rest=rest)


@dataclasses.dataclass(frozen=True)
class Budget:
    """What a run may spend: `num_records` records of `iterations` iterations of `steps` steps."""

    num_records: int
    iterations: int  # in each record
    steps: int  # environment steps in each iteration

    @property
    def steps_per_record(self) -> int:
        """Environment steps of one record."""
        return self.iterations * self.steps

    @property
    def total_steps(self) -> int:
        """Environment steps of the run: the budget rounded up to whole records."""
        return self.num_records * self.steps_per_record


class TrainResult(Struct):
    """What a run leaves."""

    state: TrainState
    steps: Array  # [R] environment steps at the end of each record; float32 where beyond 2^31
    # [R] each; means over episodes are NaN where none ended, and once a metric was not finite.
    metrics: dict[str, Array]


def cut_budget(agent: Agent, num_steps: int, num_records: int = 100) -> Budget:
    """Cut `num_steps` environment steps into at most `num_records` equal records, rounding up.

    A record holds 2^24 updates at most: longer lives have more records than `num_records`.

    Raises:
        ValueError: a budget or a number of records below one.
    """
    num_steps = check_whole("num_steps", num_steps)
    num_records = check_whole("num_records", num_records)
    steps = agent.num_envs * agent.rollout_length
    num_iterations = math.ceil(num_steps / steps)
    num_records = max(num_records, math.ceil(num_iterations / _MOST_UPDATES))
    iterations = math.ceil(num_iterations / min(num_records, num_iterations))
    return Budget(math.ceil(num_iterations / iterations), iterations, steps)


def check_training(agent: Agent, env: Environment) -> None:
    """Raise `ValueError` when a setting is out of range or the agent does not fit `env`."""
    check_parts("agent", agent, ("check", "init", "act", "update"), "jaxrl.ppo()")
    check_parts("env", env, ("reset", "step"), 'jaxrl.envs.make("CartPole")')
    check_settings(env)
    check_kinds(agent)
    check_settings(agent)
    agent.check(env)
    if has_legal(env):
        check_obeys(agent)


def start_training(
    key: Key, agent: Agent, env: Environment, total_steps: float | Array
) -> TrainState:
    """Begin a life: what `train` does first, for loops of one's own (see `train_iteration`).

    Nothing is checked here: `agent.check(env)` says what does not fit.

    Args:
        key: all randomness of the life comes from it.
        agent: the learner.
        env: the environment.
        total_steps: environment steps that the life is to have, which schedules of the agent see.

    Returns:
        A struct of arrays: the agent's state `agent`, which `evaluate` plays; where the
        environments stand, `rollout`; `key`; and the number of iterations made, `iteration`.
    """
    agent_key, rollout_key, life_key = jax.random.split(key, 3)
    return TrainState(
        agent=agent.init(agent_key, env, total_steps),
        rollout=start_rollout(rollout_key, agent, env),
        key=life_key,
        iteration=jnp.zeros((), jnp.int32),
    )


def collect(
    agent: Agent, env: Environment, state: TrainState, auto_reset: bool = True
) -> tuple[TrainState, Transition, EpisodeSums, Key]:
    """The data that the next update learns from.

    Returns:
        the state after the iteration, but for what the agent will have learned; the trajectory
        `[T, B]`; the sums of its episodes; and the key of the update.
    """
    key = jax.random.fold_in(state.key, state.iteration)
    rollout_key, update_key, next_key = jax.random.split(key, 3)
    # The numbers of iterations begin again, under another key, before they overflow.
    wraps = state.iteration == _MOST_ITERATIONS
    life_key = select(wraps, next_key, state.key)
    begin, group_size = state.rollout, getattr(agent, "group_size", 1)
    if group_size > 1:
        start_key = jax.random.fold_in(key, _GROUP_STARTS)
        begin = start_rollout(start_key, agent, env, group_size)
    rollout_state, trajectory, episodes = rollout(
        rollout_key,
        agent,
        env,
        state.agent,
        begin,
        auto_reset=auto_reset,
        keep_env_state=getattr(agent, "keep_env_state", False),  # only learners that step it again
        first_only=group_size > 1,
    )
    iteration = jnp.where(wraps, 0, state.iteration + 1)
    after = TrainState(state.agent, rollout_state, life_key, iteration)
    return after, trajectory, episodes, update_key


def train_iteration(
    agent: Agent, env: Environment, state: TrainState, auto_reset: bool = True
) -> tuple[TrainState, Tally]:
    """Roll out `[T, B]` steps, then let the agent learn from them: the step that `train` repeats.

    A pure function, for loops of one's own: to look at every update, to stop when something holds,
    to change the environment on the way.

    Args:
        agent: the learner; its floats may differ from those of the last iteration.
        env: the environment; likewise.
        state: of `start_training`, or of the last iteration.
        auto_reset: start a new episode where one ended.

    Returns:
        The next state, and what the iteration gave: `metrics` `[]` each of the update, and
        `episodes`, sums over those that ended: `num_episodes`, `episode_return`, `episode_length`.

    Example:
        >>> from jaxrl import envs, pqn
        >>> agent, env = pqn(), envs.TabularEnv(envs.riverswim(), time_limit=20.0)
        >>> step = jax.jit(lambda state: train_iteration(agent, env, state))
        >>> state = start_training(jax.random.key(0), agent, env, total_steps=4096)
        >>> for _ in range(2):
        ...     state, tally = step(state)
        >>> int(state.iteration), bool(tally.metrics["loss"] > 0.0)
        (2, True)
    """
    after, trajectory, episodes, update_key = collect(agent, env, state, auto_reset)
    agent_state, metrics = agent.update(update_key, state.agent, trajectory)
    return after.replace(agent=agent_state), tally_of(episodes, metrics)


def tally_of(episodes: EpisodeSums, metrics: dict[str, Array]) -> Tally:
    """Of one iteration."""
    one = jnp.ones((), jnp.float32)
    return Tally(episodes, metrics, one, one)


def empty_tally(agent: Agent, env: Environment, state: TrainState) -> Tally:
    """A tally of zeros with the structure that `train_iteration` gives."""
    shapes = jax.eval_shape(train_iteration, agent, env, state)[1]
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return zeros.replace(rest=jax.tree.leaves(zeros))


def summarise(tally: Tally) -> dict[str, Array]:
    """One record: means over episodes and over iterations, over episodes 0 where none ended.

    `finite_updates` is how many iterations passed before a metric was first not finite: all of
    them in a healthy record.
    """
    episodes = tally.episodes
    count = jnp.maximum(episodes.num_episodes, 1.0)
    record = {
        "episode_return": episodes.episode_return / count,
        "episode_length": episodes.episode_length / count,
        "num_episodes": episodes.num_episodes,
        "finite_updates": tally.num_finite,
        **{name: total / count for name, total in episodes.signals.items()},
    }
    return record | {name: total / tally.num_iterations for name, total in tally.metrics.items()}


def is_episode_mean(name: str) -> bool:
    """Whether the metric `name` is a mean over episodes: a return, a length or a cost."""
    return re.fullmatch(r"episode_(return|length|cost)(_\d+)?", name) is not None


def with_gaps(records: dict[str, Array], diverged: Array | bool = False) -> dict[str, Array]:
    """Records with NaN for means over episodes where none ended, or where the run has `diverged`.

    Under `jax_debug_nans`, which stops a program at any NaN, they stay 0: see `num_episodes`.
    """
    if jax.config.jax_debug_nans:  # pyright: ignore[reportAttributeAccessIssue]  # made by jax
        return records
    some = (records["num_episodes"] > 0) & jnp.logical_not(diverged)
    means = {name: records[name] for name in records if is_episode_mean(name)}
    return records | {name: jnp.where(some, mean, jnp.nan) for name, mean in means.items()}


def train(
    key: Key,
    agent: Agent,
    env: Environment,
    *,
    num_steps: int,
    num_records: int = 100,
    auto_reset: bool = True,
) -> TrainResult:
    """Train one agent: a pure function to `jit`, differentiate, and `vmap` over any argument.

    Args:
        key: all randomness of the run comes from it.
        agent: the learner and its settings.
        env: the environment and its parameters.
        num_steps: environment steps, rounded up to whole records.
        num_records: how often metrics are recorded; more often where a record would hold more than
            2^24 updates.
        auto_reset: start a new episode where one ended.

    Returns:
        the final state and metrics `[R]`.

    Raises:
        ValueError: a setting out of range, or an agent that does not fit the environment.

    Example:
        >>> from jaxrl import envs, pqn
        >>> env = envs.TabularEnv(envs.riverswim(), time_limit=20.0)
        >>> run = jax.jit(lambda key: train(key, pqn(), env, num_steps=4096, num_records=2))
        >>> run(jax.random.key(0)).steps.tolist()
        [2048, 4096]
    """
    check_key(key)
    check_training(agent, env)
    budget = cut_budget(agent, num_steps, num_records)
    with explained(env):
        state = start_training(key, agent, env, budget.total_steps)
        nothing = empty_tally(agent, env, state)

    def iteration(carry: tuple, _: None) -> tuple[tuple, None]:
        state, sums = carry
        state, tally = train_iteration(agent, env, state, auto_reset)
        return (state, add_tally(sums, tally)), None

    def record(state: TrainState, _: None) -> tuple[TrainState, dict[str, Array]]:
        start = (state, sums_of(nothing))
        (state, sums), _ = jax.lax.scan(iteration, start, None, budget.iterations)
        return state, summarise(tally_like(nothing, sums))

    state, metrics = jax.lax.scan(record, state, None, budget.num_records)
    steps = (np.arange(budget.num_records) + 1) * budget.steps_per_record
    steps = jnp.asarray(steps, jnp.int32 if budget.total_steps < 2**31 else jnp.float32)
    diverged = jnp.cumsum(metrics["finite_updates"] < budget.iterations) > 0
    return TrainResult(state, steps, with_gaps(metrics, diverged))
