"""Meta-gradients: differentiate an outer objective through the updates of many lives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxrl.agents.optimiser import GradientStep, Optimiser, as_optimiser
from jaxrl.core import Struct, struct
from jaxrl.core.protocols import Agent
from jaxrl.core.settings import check_settings, setting
from jaxrl.core.types import Array, Key, Progress, PyTree, Transition, select
from jaxrl.meta.inner import check_policy, differentiable_iteration, lived, look_ahead, losing
from jaxrl.meta.lives import Life, OuterState, all_finite, birth_keys, over_rows
from jaxrl.meta.numbers import Tuned
from jaxrl.meta.objectives import CriticState, Objective, OuterCritic, PolicyReturn
from jaxrl.meta.tasks import Task, TaskDistribution
from jaxrl.training.loop import TrainState, summarise, with_gaps


def unrolled(
    outer: MetaGradient, rule_params: PyTree, life: Life, critic: CriticState
) -> tuple[tuple[Array, tuple], PyTree]:
    """The gradient of one life through every update of the window, by reverse differentiation.

    Returns:
        `(loss, (life, tally, trajectories[J, T, B], metrics)), gradient` of the rule.
    """
    window = jax.value_and_grad(outer.window, has_aux=True)
    (loss, out), grads = window(rule_params, life, critic)
    return (loss, (*out, {})), grads


class MetaGradient(Struct):
    """Truncated meta-gradients: `num_updates` updates of each of `num_lives` lives per outer step.

        for every life l:   x_k = update(x_{k-1}, rule; fresh data),   k = 1 .. K
        rule <- outer optimiser(rule, mean over l of d loss(x_1 .. x_K) / d rule)

    Lives go on from one outer step to the next and are replaced by new ones in new tasks when their
    steps are spent; at the start they are given ends spread over a lifetime, so that outer steps
    always see young and old. Every update is rematerialised: memory grows with K by the learners'
    states and their data alone; with `keep_every` it grows by those of every so many updates, for
    one more pass forward. What lies beyond K updates is not seen: short windows prefer what pays
    soon. The loss on the data of the state after the last update uses a rollout that the next
    step goes on from.

    A life whose gradient is not finite is left out, counted and replaced.

    Attributes:
        tuned: the agent, and which of its numbers are learned.
        tasks: where lives are lived.
        objective: `PolicyReturn` or `Bootstrap`.
        critic: of the outer objective, one for each life.
        optimiser: of the rule.
        num_lives: L, side by side.
        num_updates: K, in each outer step.
        keep_every: updates between two learners' states that are kept; a divisor of K. Its square
            root needs the least memory, which matters where learners are large.
        own_rules: one set of rule parameters for each life, which outlives the lives in its place,
            instead of one for all.
        auto_reset: start a new episode where one ended.
        chunk: lives in one part of the batch, to bound memory; 0 for all at once.
        num_devices: that a part is spread over.
        through: how the gradient of one life is found: `unrolled`, or `ImplicitGradient` for what
            training ends at, which differentiates no update.

    Sources: Xu, van Hasselt & Silver 2018, Meta-gradient reinforcement learning; Oh et al. 2020,
    Discovering reinforcement learning algorithms; Zahavy et al. 2020, A self-tuning actor-critic.
    """

    tuned: Tuned
    tasks: TaskDistribution
    objective: Objective = PolicyReturn()
    critic: OuterCritic = OuterCritic()
    optimiser: GradientStep = struct.field(
        default=Optimiser(learning_rate=1e-3, max_grad_norm=1.0), converter=as_optimiser
    )
    num_lives: int = setting(64, "lives side by side", low=1)
    num_updates: int = setting(20, "updates of each life in an outer step", low=1)
    keep_every: int = setting(1, "updates between two states that are kept", low=1)
    own_rules: bool = setting(False, "rule parameters of its own for each life")
    auto_reset: bool = setting(True, "start a new episode where one ended")
    chunk: int = setting(0, "lives in one part of the batch; 0 for all", low=0)
    num_devices: int = setting(1, "devices that a part is spread over", low=1)
    through: Callable[..., tuple[tuple[Array, tuple], PyTree]] = jax.tree_util.Partial(unrolled)

    def init(self, key: Key) -> OuterState:
        """New lives, and the rule as `tuned` has it.

        Raises:
            ValueError: a setting out of range, an agent without a policy to differentiate, or one
                that does not fit the tasks.
        """
        check_settings(self)
        if self.num_updates % self.keep_every:
            raise ValueError(
                f"keep_every={self.keep_every} does not divide num_updates={self.num_updates}: "
                "give a divisor."
            )
        check_policy(self.tuned.agent)
        life_key, end_key = jax.random.split(key)
        state = OuterState.first(self, life_key)
        if self.own_rules:
            rules = jax.tree.map(
                lambda leaf: jnp.broadcast_to(leaf, (self.num_lives, *jnp.shape(leaf))),
                (state.rule_params, state.optimiser),
            )
            state = state.replace(rule_params=rules[0], optimiser=rules[1])
        births = jnp.zeros(self.num_lives, jnp.int32)
        lives, critics = self._born(life_key, births, self.fresh_tasks(life_key, births))
        return state.begun(end_key, lives).replace(memory=critics)

    def agent(self, state: OuterState) -> Agent:
        """The agent under what was learned; `[L, ...]` leaves with `own_rules`."""
        make = jax.vmap(self.tuned.agent_of) if self.own_rules else self.tuned.agent_of
        return make(state.rule_params)

    def step(self, state: OuterState) -> tuple[OuterState, dict[str, Array]]:
        """One outer step -> state, metrics (means over lives; rates are shares of the lives)."""
        state, over, _, metrics = self.advance(state)

        def renewed() -> OuterState:
            return self.renew(state, over, self.fresh_tasks(state.key, state.births))

        return jax.lax.cond(jnp.any(over), renewed, lambda: state), metrics

    def advance(self, state: OuterState) -> tuple[OuterState, Array, Array, dict[str, Array]]:
        """An outer step that replaces no life -> state, `over[L]`, `finite[L]`, metrics.

        A life is over when its steps are spent or something about it is not finite.
        """

        def slope(life: Life, critic: CriticState, rule_params: dict = state.rule_params) -> tuple:
            return self.through(self, rule_params, life, critic)

        rows = (state.lives, state.memory, *([state.rule_params] if self.own_rules else []))
        (loss, (lives, tally, trajectories, extra)), grads = self.over_lives(slope, *rows)
        finite = jax.vmap(all_finite)((loss, grads))
        grads = select(finite, grads, jax.tree.map(jnp.zeros_like, grads))
        count = jnp.maximum(jnp.sum(finite), 1)
        if not self.own_rules:
            grads = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0) / count, grads)

        def learn(grads: PyTree, optimiser: PyTree, rule_params: dict) -> tuple[dict, PyTree]:
            progress = Progress(state.step, jnp.asarray(jnp.inf))
            return self.optimiser.step(grads, optimiser, rule_params, progress)

        learn = jax.vmap(learn) if self.own_rules else learn
        rule_params, optimiser = learn(grads, state.optimiser, state.rule_params)
        critics, critic_loss = self.over_lives(
            self.critic.learn, state.memory, lives.env, trajectories
        )

        over = state.over(self.tuned.agent, lives) | ~finite
        state = OuterState(
            *(rule_params, optimiser, state.key, state.step + 1),
            *(lives, critics, state.ends, state.births),
        )
        episodes = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), tally)
        metrics = {
            "meta_loss": jnp.sum(jnp.where(finite, loss, 0.0)) / count,
            "meta_gradient_norm": optax.tree.norm(grads),
            "outer_critic_loss": jnp.mean(jnp.where(finite, critic_loss, 0.0)),
            "episode_return": with_gaps(summarise(episodes))["episode_return"],
            "replaced_fraction": jnp.mean(over),
            "nonfinite_fraction": 1.0 - jnp.mean(finite),
        }
        means = {name: jnp.mean(jnp.where(finite, row, 0.0)) for name, row in extra.items()}
        return state, over, finite, metrics | means

    def fresh_tasks(self, key: Key, births: Array) -> Task:
        """What life `births[l]` of every place l would be lived in, drawn anew, `[L, ...]`."""
        return jax.vmap(self.tasks.sample)(self._keys(key, births)[:, 0])

    def renew(self, state: OuterState, over: Array, tasks: Task) -> OuterState:
        """New lives in `tasks[L, ...]` in the places that are `over[L]`."""
        fresh = self._born(state.key, state.births, tasks)
        return state.renewed(over, *select(over, fresh, (state.lives, state.memory)))

    def window(self, rule_params: dict, life: Life, critic: CriticState) -> tuple[Array, tuple]:
        """The outer loss `[]` of one life's next K updates: what is differentiated.

        Returns:
            the loss, and as constants the life after them, the tally of its episodes, and the
            trajectories `[K + 1, T, B]`, of which the last has not been learned from.
        """
        agent, env = self.tuned.agent_of(rule_params), life.env

        def loss_of(train: TrainState, data: Transition) -> Array:
            advantages = partial(self.critic.advantages, critic, env)
            return self.objective.loss(agent, env, train, data, advantages)

        (train, loss), learned_from = losing(
            lambda train: differentiable_iteration(agent, env, train, self.auto_reset),
            loss_of if self.objective.every else None,
            life.train,
            self.num_updates,
            self.keep_every,
        )
        train, last, episodes, _ = look_ahead(agent, env, train, self.auto_reset)
        loss = loss + loss_of(train, last)
        if self.objective.every:
            loss = loss / self.num_updates
        looked_at = jax.tree.map(lambda leaf: leaf[None], (last, episodes))
        return loss, jax.lax.stop_gradient(lived(life, train, learned_from, looked_at))

    @property
    def parts(self) -> tuple[int, int]:
        """The lives, and how many are computed at once; 0 for all."""
        return self.num_lives, self.chunk

    # ---- parts -----------------------------------------------------------------------------

    def _born(self, key: Key, births: Array, tasks: Task) -> tuple[Life, CriticState]:
        """Life `births[l]` in every place l."""
        agent = self.tuned.agent  # what is learned does not change how a life starts

        def one(keys: Key, task: Task) -> tuple[Life, CriticState]:
            return Life.start(keys[1], agent, task), self.critic.init(keys[2], task.env)

        return jax.vmap(one)(self._keys(key, births), tasks)

    def _keys(self, key: Key, births: Array) -> Key:
        """Of each place's next task, life and critic, `[L, 3]`."""
        return jax.vmap(lambda own: jax.random.split(own, 3))(birth_keys(key, births))

    def over_lives(self, function: Callable[..., Any], *rows: PyTree) -> Any:
        """A function of one life over `rows[L, ...]`, in parts of `chunk` over `num_devices`."""
        return over_rows(function, rows, self.chunk, self.num_devices)
