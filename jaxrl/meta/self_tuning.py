"""Lives that tune their own numbers as they go."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.agents.optimiser import GradientStep, Optimiser, as_optimiser
from jaxrl.core import Struct, struct
from jaxrl.core.settings import check_settings, setting
from jaxrl.core.types import Array, Key, Progress, PyTree, Transition, select
from jaxrl.meta.inner import check_policy, differentiable_iteration, losing, relive, repeat
from jaxrl.meta.lives import (
    CRITIC,
    HeldOut,
    Life,
    Lifetime,
    all_finite,
    begun,
    earnings,
    lifetime_of,
)
from jaxrl.meta.numbers import Tuned
from jaxrl.meta.objectives import Bootstrap, CriticState, Objective, OuterCritic, PolicyReturn
from jaxrl.meta.tasks import Task, take
from jaxrl.training.loop import TrainState, collect

Watch = Callable[[Any, PyTree], PyTree]  # (agent, its state) -> what to record


class TunedLife(Struct):
    """What a life earned that tuned itself, and how. E outer steps."""

    lifetime: Lifetime
    watched: PyTree  # [E, ...], after each outer step
    rates: Array  # [E] reward of each outer step, as far as it is lived [return per step]


class SelfTuning(Struct):
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
    objective: Objective = PolicyReturn(last_only=True)
    critic: OuterCritic = OuterCritic()
    optimiser: GradientStep = struct.field(
        default=Optimiser(learning_rate=1e-2, max_grad_norm=None), converter=as_optimiser
    )
    num_updates: int = setting(5, "updates that the outer gradient passes through", low=1)

    @property
    def updates_per_step(self) -> int:
        """Updates of the life in an outer step."""
        return self.num_updates + self.objective.num_further

    def window(
        self, rule_params: dict[str, PyTree], life: Life, critic: CriticState
    ) -> tuple[Array, tuple[Life, Array, Transition]]:
        """The loss `[]` of the next outer step: what is differentiated.

        Returns:
            the loss, and as constants the life after the step, `(num_episodes, episode_return,
            earned)` of each of its updates `[K + L - 1]`, and their trajectories `[K + L - 1, T,
            B]`.
        """
        agent, env = self.tuned.agent_of(rule_params), life.env
        objective, advantages = self.objective, partial(self.critic.advantages, critic, env)

        def loss_of(train: TrainState, data: Transition) -> Array:
            loss = objective.loss(agent, env, train, data, advantages)
            return loss / self.num_updates if objective.every else loss

        def update(train: TrainState, by: Any = agent) -> tuple[TrainState, Transition, Array]:
            over = life.replace(train=train).is_over(agent)
            after, data, tally = differentiable_iteration(by, env, train)
            row = earnings(train, after, tally)
            return select(over, train, after), data, jnp.where(over, 0.0, row)

        on_the_way = loss_of if objective.every else None
        (train, loss), lived = losing(update, on_the_way, life.train, self.num_updates)
        fixed, goal = jax.lax.stop_gradient((agent, train))
        goal, further = repeat(partial(update, by=fixed), goal, objective.num_further)
        _, coming, _, update_key = collect(fixed, env, goal)  # what is learned from next
        if isinstance(objective, Bootstrap):
            plain = objective.plain
            better, _ = plain.update(update_key, goal.agent, relive(plain, goal, coming))
            target = jax.lax.stop_gradient(goal.replace(agent=better))
            seen = take(further[0], 0) if objective.num_further else coming
            loss = objective.match(agent, train, target, seen)
        else:
            loss = loss + loss_of(train, coming)
        data, rows = jax.tree.map(lambda *parts: jnp.concatenate(parts), lived, further)
        return loss, jax.lax.stop_gradient((life.replace(train=goal), rows, data))

    def live(
        self,
        key: Key,
        task: Task,
        *,
        num_updates: int,
        last_part: float = 0.1,
        watch: Watch | None = None,
    ) -> TunedLife:
        """One whole life, tuned as it goes. Pure.

        With an outer learning rate of 0 it is `jaxrl.meta.live` of the agent under the same key.

        Args:
            key: of the life.
            task: and how many steps it is given.
            num_updates: computed, rounded up to whole outer steps; a longer life ends after
                `num_updates`, a shorter one stands still at its end.
            last_part: share of the life that counts as its end, in (0, 1].
            watch: `(agent, agent_state) -> pytree` to record after each outer step; by default the
                tuned numbers, in their own units, by name.

        Raises:
            ValueError: a setting out of range, fewer than one update, or an agent without a policy.
        """
        agent, per_step = self.tuned.agent, self.updates_per_step
        check_settings(self)
        check_policy(agent)
        life, steps, per_update = begun(key, agent, task, num_updates, last_part)
        life = life.replace(total_steps=steps)
        critic = self.critic.init(jax.random.fold_in(key, CRITIC), task.env)
        rule_params = self.tuned.init()
        window = jax.value_and_grad(self.window, has_aux=True)

        def step(carry: tuple, index: Array) -> tuple[tuple, tuple]:
            life, critic, rule_params, optimiser = carry
            (_, (after, rows, data)), grads = window(rule_params, life, critic)
            moves = all_finite(grads) & ~life.is_over(agent)
            progress = Progress(index, jnp.asarray(jnp.inf))
            tuned = self.optimiser.step(grads, optimiser, rule_params, progress)
            rule_params, optimiser = select(moves, tuned, (rule_params, optimiser))
            critic = self.critic.learn(critic, life.env, data)[0]
            if watch is None:
                seen = self.tuned.values(rule_params)
            else:
                seen = watch(self.tuned.agent_of(rule_params), after.train.agent)
            return (after, critic, rule_params, optimiser), (rows, seen)

        num_steps = math.ceil(num_updates / per_step)
        first = (life, critic, rule_params, self.optimiser.init(rule_params))
        (life, *_), (rows, watched) = jax.lax.scan(step, first, jnp.arange(num_steps))

        before = jnp.arange(num_steps) * per_step
        num_lived = jnp.clip(jnp.ceil(steps / per_update) - before, 0, per_step)
        return TunedLife(
            lifetime=lifetime_of(rows.reshape(-1, 3), life, steps, per_update, last_part),
            watched=watched,
            rates=jnp.sum(rows[..., 2], axis=1) / (jnp.maximum(num_lived, 1.0) * per_update),
        )

    @partial(jax.jit, static_argnames="watch")
    def lives(self, key: Key, held_out: HeldOut, watch: Watch | None = None) -> TunedLife:
        """Lives in held-out tasks, `[num_lives]`, in one program.

        Life l has the task and the key of life l of `held_out.lives` under the same key: those of a
        comparison under a key are `lives(fold_in(key, 1), ...)`.

        Args:
            key: of all lives.
            held_out: tasks, length and number of the lives.
            watch: as `live` takes it.
        """
        life = partial(self.live, watch=watch)
        one = partial(held_out.live, agent=self.tuned.agent, life=life)
        return jax.vmap(one)(held_out.keys(key))
