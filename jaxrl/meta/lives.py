"""Lives: one learner in one task, from its first step to its last, and what it earns there."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jaxrl.core import Struct, struct
from jaxrl.core.protocols import Agent, Environment
from jaxrl.core.types import Array, Key, PyTree, select
from jaxrl.meta.tasks import Task, TaskDistribution
from jaxrl.training.loop import Tally, TrainState, check_training, start_training, train_iteration

# Streams of random numbers: what keys are folded with in this package, beside the numbers of
# places, lives and steps, which stay below. `mirrored` has those of pairs.
HELD_OUT, CRITIC = 32343, 12719900  # lives held out of a fit; critics of lives that tune themselves
CANDIDATES, MEAN = 4606, 844414  # lives of a strategy's candidates, and of its mean
ANTAGONISTS, LEVELS = 2730491904, 511578112

MEASURES = ("final_return", "lifetime_return", "final_rate", "lifetime_rate")


class Life(Struct):
    """A learner and where it stands: a pytree to step, batch, fork, reset by mask and save."""

    train: TrainState  # the learner, its environments' states, its key
    env: Environment  # the task's environment; its numbers are leaves
    total_steps: Array  # [] environment steps of the whole life

    @classmethod
    def start(cls, key: Key, agent: Agent, task: Task) -> Life:
        """A new learner in a task.

        Raises:
            ValueError: a setting out of range, or an agent that does not fit the environment.
        """
        check_training(agent, task.env)
        train = start_training(key, agent, task.env, task.total_steps)
        return cls(train, task.env, jnp.asarray(task.total_steps, jnp.float32))

    def step(self, agent: Agent) -> tuple[Life, Tally]:
        """One rollout and one update; a life that is over stays as it is and tallies nothing."""
        train, tally = train_iteration(agent, self.env, self.train)
        over, nothing = self.is_over(agent), jax.tree.map(jnp.zeros_like, tally)
        return self.replace(train=select(over, self.train, train)), select(over, nothing, tally)

    def steps_done(self, agent: Agent) -> Array:
        """Environment steps lived so far, `[]`."""
        return self.train.iteration * (agent.num_envs * agent.rollout_length)

    def is_over(self, agent: Agent) -> Array:
        """Whether the steps of this life are spent, `[]` bool."""
        return self.steps_done(agent) >= self.total_steps


def birth_keys(key: Key, births: Array) -> Key:
    """Of life `births[l]` in every place l, `[L]`: no two lives of an outer loop have the same."""

    def one(place: Array, number: Array) -> Key:
        return jax.random.fold_in(jax.random.fold_in(key, place), number)

    return jax.vmap(one)(jnp.arange(births.shape[0]), births)


class Lifetime(Struct):
    """What whole lives earned. `[...]` as the lives were batched.

    Rewards are undiscounted; where no episode ended in time, returns are NaN and the rates speak.
    """

    final_return: Array  # mean of the episodes that ended in the life's last part [return]
    lifetime_return: Array  # mean of all episodes [return]
    final_rate: Array  # reward in the last part [return per step]
    lifetime_rate: Array  # reward of the whole life [return per step]
    life: Life  # as it ended

    @property
    def measures(self) -> dict[str, Array]:
        """What was earned, by name."""
        return {name: getattr(self, name) for name in MEASURES}


def num_updates_of(agent: Agent, total_steps: float) -> int:
    """Updates that a life of at most `total_steps` environment steps takes."""
    return math.ceil(total_steps / (agent.num_envs * agent.rollout_length))


def live(
    key: Key, agent: Agent, task: Task, *, num_updates: int, last_part: float = 0.1
) -> Lifetime:
    """One whole life: pure, so `vmap` it over keys, agents and tasks.

    Args:
        key: of the life.
        agent: the learner.
        task: and how many steps it is given.
        num_updates: computed; a longer life is cut there, a shorter one stands still at its end.
        last_part: share of the life that counts as its end, in (0, 1].

    Raises:
        ValueError: fewer than one update, or a share out of range.
    """
    life, steps, per_update = begun(key, agent, task, num_updates, last_part)

    def update(life: Life, _: None) -> tuple[Life, Array]:
        after, tally = life.step(agent)
        return after, earnings(life.train, after.train, tally)

    life, rows = jax.lax.scan(update, life, None, num_updates)
    return lifetime_of(rows, life, steps, per_update, last_part)


def begun(
    key: Key, agent: Agent, task: Task, num_updates: int, last_part: float
) -> tuple[Life, Array, int]:
    """A life, the environment steps `[]` that it gets, and those of an update.

    Raises:
        ValueError: as `live` does.
    """
    if num_updates < 1 or not 0.0 < last_part <= 1.0:
        raise ValueError(
            f"num_updates={num_updates} must be at least 1 and last_part={last_part} in (0, 1]."
        )
    life = Life.start(key, agent, task)
    per_update = agent.num_envs * agent.rollout_length
    return life, jnp.minimum(life.total_steps, float(num_updates * per_update)), per_update


def earnings(before: TrainState, after: TrainState, tally: Tally) -> Array:
    """Episodes that ended in an update, their returns, and all reward of its rollout, `[3]`."""
    episodes = tally.episodes
    under_way = [jnp.sum(train.rollout.episode_return) for train in (before, after)]
    earned = episodes.episode_return + under_way[1] - under_way[0]
    return jnp.stack([episodes.num_episodes, episodes.episode_return, earned])


def lifetime_of(
    rows: Array, life: Life, steps: Array, per_update: int, last_part: float
) -> Lifetime:
    """What a life earned, from the `earnings` of its updates, `[N, 3]`, 0 after its end.

    Args:
        rows: of updates 0 to N - 1.
        life: as it ended.
        steps: that it was given, `[]`.
        per_update: environment steps of an update.
        last_part: share of the life that counts as its end.
    """
    num_lived = jnp.ceil(steps / per_update)
    late_from = num_lived - jnp.maximum(jnp.round(last_part * num_lived), 1.0)
    is_late = jnp.arange(len(rows)) >= late_from
    whole, late = jnp.sum(rows, axis=0), jnp.sum(jnp.where(is_late[:, None], rows, 0.0), axis=0)
    return Lifetime(
        final_return=ratio(late[1], late[0]),
        lifetime_return=ratio(whole[1], whole[0]),
        final_rate=late[2] / ((num_lived - late_from) * per_update),
        lifetime_rate=whole[2] / (num_lived * per_update),
        life=life,
    )


def ratio(total: Array, count: Array) -> Array:
    """`total / count`, NaN where there is none."""
    return jnp.where(count > 0, total / jnp.maximum(count, 1.0), jnp.nan)


class HeldOut(Struct):
    """Whole lives in tasks that the outer loop does not see, always the same ones.

    Attributes:
        tasks: where.
        total_steps: the longest life among them [steps].
        num_lives: tasks drawn, one life in each.
        last_part: share of a life that counts as its end.
    """

    tasks: TaskDistribution
    total_steps: float = struct.field(pytree_node=False)
    num_lives: int = struct.field(pytree_node=False, default=64)
    last_part: float = struct.field(pytree_node=False, default=0.1)

    def keys(self, key: Key) -> Key:
        """`fold_in(key, l)` of each life l, `[num_lives]`: of its task and its randomness."""
        return jax.vmap(lambda number: jax.random.fold_in(key, number))(jnp.arange(self.num_lives))

    def lasting(self, agent: Agent, num_updates: int) -> HeldOut:
        """With lives of this many updates of an agent, in tasks that have `total_steps`."""
        steps = float(num_updates * agent.num_envs * agent.rollout_length)
        tasks: Any = self.tasks
        return self.replace(tasks=tasks.replace(total_steps=steps), total_steps=steps)

    def live(self, key: Key, agent: Agent, life: Callable[..., Any]) -> Any:
        """The whole life that one of the `keys` stands for, as `life(key, task=...)` lives it."""
        task_key, life_key = jax.random.split(key)
        return life(
            life_key,
            task=self.tasks.sample(task_key),
            num_updates=num_updates_of(agent, self.total_steps),
            last_part=self.last_part,
        )

    @jax.jit
    def lives(self, key: Key, agent: Agent) -> Lifetime:
        """Whole lives of an agent, one in each task, `[num_lives]`; nothing is learned twice.

        Life `l` draws its task and its randomness from `fold_in(key, l)`, so that agents given the
        same key are compared in pairs.
        """
        one = partial(self.live, agent=agent, life=partial(live, agent=agent))
        return jax.vmap(one)(self.keys(key))


# ---- the state of outer loops, and lives that go on from one outer step to the next --------------


class OuterState(Struct):
    """Everything that the next step of an outer loop needs."""

    rule_params: PyTree  # what is learned, as `Tuned` holds it; the centre, where one is searched
    optimiser: PyTree  # of the rule; or a search strategy's own state
    key: Key
    step: Array  # [] int32, outer steps done
    lives: Any = ()  # `Life` [L, ...] that go on
    memory: PyTree = ()  # [L, ...] kept beside each: its outer critic, or its sum of perturbations
    ends: Any = ()  # [L] environment steps after which each life is replaced
    births: Any = ()  # [L] int32, lives begun in each place

    @classmethod
    def first(cls, outer: Any, key: Key) -> OuterState:
        """What an outer loop learns, as its `tuned` has it, and its optimiser."""
        rule_params = outer.tuned.init()
        optimiser = outer.optimiser.init(rule_params)
        return cls(rule_params, optimiser, key, jnp.zeros((), jnp.int32))

    def begun(self, key: Key, lives: Life) -> OuterState:
        """With its first lives `[L, ...]`, whose ends are spread over a lifetime."""
        share = jax.random.uniform(key, lives.total_steps.shape)
        births = jnp.ones(share.shape, jnp.int32)
        return self.replace(lives=lives, ends=lives.total_steps * share, births=births)

    def over(self, agent: Agent, lives: Life) -> Array:
        """Which lives have spent their steps, `[L]` bool."""
        return lives.steps_done(agent) >= jnp.minimum(self.ends, lives.total_steps)

    def renewed(self, over: Array, lives: Life, memory: PyTree) -> OuterState:
        """With `lives` and `memory`, which are new where the last ones were `over[L]`."""
        return self.replace(
            lives=lives,
            memory=memory,
            ends=jnp.where(over, jnp.inf, self.ends),
            births=self.births + over,
        )


def all_finite(tree: PyTree) -> Array:
    """Whether all numbers are finite, `[]` bool."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


# ---- a batch in parts, and over devices: neither changes anything but rounding ------------------


def over_rows(
    function: Callable[..., Any], arguments: tuple, at_once: int = 0, num_devices: int = 1
) -> Any:
    """`vmap(function)(*arguments)` over `[R, ...]`, in equal parts of at most `at_once` rows.

    Parts are padded by copies of the last row, to be of one size that `num_devices` divides.
    """
    num_rows = jax.tree.leaves(arguments)[0].shape[0]
    num_parts = math.ceil(num_rows / min(at_once or num_rows, num_rows))
    size = math.ceil(math.ceil(num_rows / num_parts) / num_devices) * num_devices

    def part(rows: tuple) -> Any:
        return _spread(jax.vmap(function)(*_spread(rows, num_devices)), num_devices)

    if num_parts * size != num_rows:
        index = jnp.minimum(jnp.arange(num_parts * size), num_rows - 1)
        arguments = jax.tree.map(lambda leaf: leaf[index], arguments)
    if num_parts == 1:
        found = part(arguments)
    else:
        cut = jax.tree.map(lambda leaf: leaf.reshape(num_parts, size, *leaf.shape[1:]), arguments)
        found = jax.lax.map(part, cut)
        found = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), found)
    return jax.tree.map(lambda leaf: leaf[:num_rows], found)


def _spread(tree: PyTree, num_devices: int) -> PyTree:
    """The leading axis of every leaf over devices."""
    if num_devices == 1:
        return tree
    auto = (jax.sharding.AxisType.Auto,)
    devices = jax.devices()[:num_devices]
    mesh = jax.make_mesh((num_devices,), ("row",), devices=devices, axis_types=auto)
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec("row")))
