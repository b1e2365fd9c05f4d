"""Lives that tune their own numbers as they go, and their place in a comparison."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.agents.optimiser import Optimiser
from jaxrl.core import struct
from jaxrl.core.settings import check_settings, setting
from jaxrl.core.types import Array, Key, Progress, PyTree, Transition, select
from jaxrl.meta.compare import Comparison, Contender
from jaxrl.meta.fit import HeldOut
from jaxrl.meta.inner import check_policy, collect, differentiable_iteration, relive
from jaxrl.meta.lifetimes import Lifetime, earnings, lifetime_of, num_updates_of
from jaxrl.meta.lives import Life, start_life
from jaxrl.meta.objectives import Bootstrap, Objective, PolicyReturn
from jaxrl.meta.outer_critic import CriticState, OuterCritic
from jaxrl.meta.tasks import Task, TaskDistribution
from jaxrl.meta.tuned import Tuned
from jaxrl.training.loop import TrainState

Watch = Callable[[Any, PyTree], PyTree]  # (agent, its state) -> what to record


@struct.dataclass
class SelfTuning:
    """A learner that changes its own numbers in the one life it has.

        x_k = update(x_{k-1}, numbers; its data),  k = 1 .. K
        numbers <- optimiser(numbers, d loss(x_K) / d numbers)

    again and again to the end of its life. No environment step is spent on tuning alone: the outer
    loss looks at the rollout that the learner will learn from next, and the further updates towards
    the target of a `Bootstrap` are lived as well, so that its outer step has K + L - 1 updates.
    The target's last update, by the plain rule, is not kept.

    `MetaGradient` shares a rule among lives in many tasks; here one life is all there is.

    Attributes:
        tuned: the agent, and which of its numbers change.
        objective: `PolicyReturn` or `Bootstrap`.
        critic: of the outer objective; it begins with the life.
        optimiser: of the numbers.
        num_updates: K, that the outer gradient passes through.

    Sources: Xu, van Hasselt & Silver 2018, Meta-gradient reinforcement learning; Zahavy et al.
    2020, A self-tuning actor-critic; Flennerhag et al. 2022, Bootstrapped meta-learning.
    """

    tuned: Tuned
    objective: Objective = struct.field(default_factory=lambda: PolicyReturn(last_only=True))
    critic: OuterCritic = struct.field(default_factory=OuterCritic)
    optimiser: Optimiser = struct.field(
        default_factory=lambda: Optimiser(learning_rate=1e-2, max_grad_norm=None)
    )
    num_updates: int = setting(5, "updates that the outer gradient passes through", low=1)

    @property
    def num_further(self) -> int:
        """Updates of an outer step after those."""
        return self.objective.num_further if isinstance(self.objective, Bootstrap) else 0

    @property
    def updates_per_step(self) -> int:
        """Updates of the life in an outer step."""
        return self.num_updates + self.num_further

    def window(
        self, rule_params: dict[str, PyTree], life: Life, critic: CriticState
    ) -> tuple[Array, tuple[Life, tuple, Transition]]:
        """The loss `[]` of the next outer step: what is differentiated.

        Returns:
            the loss, and as constants the life after the step, `(num_episodes, episode_return,
            earned)` of each of its updates `[K + L - 1]`, and their trajectories `[K + L - 1, T,
            B]`.
        """
        agent, env = self.tuned.agent_of(rule_params), life.env

        def loss_of(train: TrainState, data: Transition) -> Array:
            return self.objective.loss(agent, env, train, data, self.critic, critic)

        def update(by: Any, train: TrainState) -> tuple[TrainState, tuple, Transition]:
            over = life.replace(train=train).is_over(agent)
            after, data, tally = differentiable_iteration(by, env, train)
            row = earnings(train, after, tally)
            return select(over, train, after), jnp.where(over, 0.0, row), data

        def learn(carry: tuple, first: Array) -> tuple[tuple, tuple]:
            train, loss = carry
            after, row, data = update(agent, train)
            if self.objective.every:  # the first state is none of this step's making
                loss = loss + jnp.where(first, 0.0, loss_of(train, data)) / self.num_updates
            return (after, loss), (row, data)

        first = jnp.arange(self.num_updates) == 0
        (train, loss), (rows, data) = jax.lax.scan(learn, (life.train, jnp.zeros(())), first)
        fixed, goal = jax.lax.stop_gradient((agent, train))

        def further(goal: TrainState, _: None) -> tuple[TrainState, tuple]:
            goal, row, data = update(fixed, goal)
            return goal, (row, data)

        goal, (more_rows, more_data) = jax.lax.scan(further, goal, None, self.num_further)
        _, coming, _, update_key = collect(fixed, env, goal)  # what is learned from next
        if isinstance(self.objective, Bootstrap):
            plain = self.objective.plain
            better, _ = plain.update(update_key, goal.agent, relive(plain, goal, coming))
            target = jax.lax.stop_gradient(goal.replace(agent=better))
            seen = jax.tree.map(lambda leaf: leaf[0], more_data) if self.num_further else coming
            loss = self.objective.match(agent, train, target, seen)
        else:
            share = self.num_updates if self.objective.every else 1
            loss = loss + loss_of(train, coming) / share
        rows, data = jax.tree.map(
            lambda *parts: jnp.concatenate(parts), (rows, data), (more_rows, more_data)
        )
        return loss, jax.lax.stop_gradient((life.replace(train=goal), rows, data))


@struct.dataclass
class TunedLife:
    """What a life earned that tuned itself, and how. E outer steps."""

    lifetime: Lifetime
    watched: PyTree  # [E, ...], after each outer step
    rates: Array  # [E] reward of each outer step, as far as it is lived [return per step]


def live_tuned(
    key: Key,
    learner: SelfTuning,
    task: Task,
    *,
    num_updates: int,
    last_part: float = 0.1,
    watch: Watch | None = None,
) -> TunedLife:
    """One whole life of a learner that tunes itself: `vmap` it over keys, learners and tasks.

    With an outer learning rate of 0 it is `jaxrl.meta.live` of the agent under the same key.

    Args:
        key: of the life.
        learner: the agent, and how it tunes itself.
        task: and how many steps it is given.
        num_updates: computed, rounded up to whole outer steps; a longer life ends after
            `num_updates`, a shorter one stands still at its end.
        last_part: share of the life that counts as its end, in (0, 1].
        watch: `(agent, agent_state) -> pytree` to record after each outer step; by default the
            tuned numbers, in their own units, by name.

    Raises:
        ValueError: a setting out of range, fewer than one update, or an agent without a policy.
    """
    agent = learner.tuned.agent
    check_settings(learner)
    if num_updates < 1 or not 0.0 < last_part <= 1.0:
        raise ValueError(
            f"num_updates={num_updates} must be at least 1 and last_part={last_part} in (0, 1]."
        )
    check_policy(agent)
    life = start_life(key, agent, task)
    per_update = agent.num_envs * agent.rollout_length
    steps = jnp.minimum(life.total_steps, float(num_updates * per_update))
    life = life.replace(total_steps=steps)
    critic = learner.critic.init(jax.random.fold_in(key, 0xC2171C), task.env)
    rule_params = learner.tuned.init()
    window = jax.value_and_grad(learner.window, has_aux=True)

    def step(carry: tuple, index: Array) -> tuple[tuple, tuple]:
        life, critic, rule_params, optimiser = carry
        (_, (after, rows, data)), grads = window(rule_params, life, critic)
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(grads)]))
        moves = finite & ~life.is_over(agent)
        tuned = learner.optimiser.step(
            grads, optimiser, rule_params, Progress(index, jnp.asarray(jnp.inf))
        )
        rule_params, optimiser = select(moves, tuned, (rule_params, optimiser))
        critic = learner.critic.learn(critic, life.env, data)[0]
        if watch is None:
            seen = learner.tuned.values(rule_params)
        else:
            seen = watch(learner.tuned.agent_of(rule_params), after.train.agent)
        return (after, critic, rule_params, optimiser), (rows, seen)

    num_steps = math.ceil(num_updates / learner.updates_per_step)
    begun = (life, critic, rule_params, learner.optimiser.init(rule_params))
    (life, *_), (rows, watched) = jax.lax.scan(step, begun, jnp.arange(num_steps))

    before = jnp.arange(num_steps) * learner.updates_per_step
    num_lived = jnp.clip(jnp.ceil(steps / per_update) - before, 0, learner.updates_per_step)
    return TunedLife(
        lifetime=lifetime_of(rows.reshape(-1, 3), life, steps, per_update, last_part),
        watched=watched,
        rates=jnp.sum(rows[..., 2], axis=1) / (jnp.maximum(num_lived, 1.0) * per_update),
    )


def tuned_lives(
    key: Key, learner: SelfTuning, held_out: HeldOut, watch: Watch | None = None
) -> TunedLife:
    """Lives of a learner that tunes itself in held-out tasks, `[num_lives]`.

    Life l has the task and the key of life l of `jaxrl.meta.evaluate_rule` under the same key.

    Args:
        key: of all lives.
        learner: the agent, and how it tunes itself.
        held_out: tasks, length and number of the lives.
        watch: as `live_tuned` takes it.
    """
    num_updates = num_updates_of(learner.tuned.agent, held_out.total_steps)
    static = (held_out.num_lives, num_updates, held_out.last_part)
    return _tuned_lives(key, learner, held_out.tasks, static, watch)


@partial(jax.jit, static_argnums=(3, 4))
def _tuned_lives(
    key: Key,
    learner: SelfTuning,
    tasks: TaskDistribution,
    static: tuple[int, int, float],
    watch: Watch | None,
) -> TunedLife:
    num_lives, num_updates, last_part = static

    def one(number: Array) -> TunedLife:
        task_key, life_key = jax.random.split(jax.random.fold_in(key, number))
        return live_tuned(
            life_key,
            learner,
            tasks.sample(task_key),
            num_updates=num_updates,
            last_part=last_part,
            watch=watch,
        )

    return jax.vmap(one)(jnp.arange(num_lives))


def beside(
    comparison: Comparison, learners: Mapping[str, SelfTuning], lives: Mapping[str, TunedLife]
) -> Comparison:
    """A comparison with learners that tune themselves put beside its agents.

    Args:
        comparison: from `jaxrl.meta.compare(key, ...)`.
        learners: by name.
        lives: `tuned_lives(fold_in(key, 1), ...)` of each, in the same held-out lives: those that
            `compare` measures on.

    Raises:
        ValueError: another number of lives.
    """
    contenders = dict(comparison.contenders)
    num_lives = len(next(iter(contenders.values())).scores)
    for name, learner in learners.items():
        scores = np.asarray(getattr(lives[name].lifetime, comparison.measure), np.float64)
        if scores.shape != (num_lives,):
            raise ValueError(f"{name} has lives {scores.shape}, the others ({num_lives},).")
        nothing = np.full((1, 0), np.nan)
        contenders[name] = Contender(learner.tuned.agent, {}, ({},), nothing, scores, ())
    return dataclasses.replace(comparison, contenders=contenders)
