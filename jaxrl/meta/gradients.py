"""Meta-gradients: differentiate an outer objective through the updates of many lives."""

from __future__ import annotations

from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxrl.agents.optimiser import Optimiser
from jaxrl.core import struct
from jaxrl.core.protocols import Agent
from jaxrl.core.settings import check_settings, setting
from jaxrl.core.types import Array, Key, Progress, PyTree, select
from jaxrl.meta.inner import check_policy, collect, differentiable_iteration, scan_keeping
from jaxrl.meta.lives import Life, start_life
from jaxrl.meta.objectives import Objective, PolicyReturn
from jaxrl.meta.outer_critic import CriticState, OuterCritic
from jaxrl.meta.rows import over_rows
from jaxrl.meta.tasks import Task, TaskDistribution
from jaxrl.meta.tuned import Tuned
from jaxrl.training.loop import summarise, with_gaps


@struct.dataclass
class MetaGradientState:
    """Everything that the next outer step needs."""

    rule_params: dict[str, PyTree]  # `[L, ...]` when each life has its own
    optimiser: PyTree  # likewise
    lives: Life  # [L, ...]
    critics: CriticState  # [L, ...]
    ends: Array  # [L] environment steps after which each life is replaced
    births: Array  # [L] int32, lives begun in each place
    key: Key
    step: Array  # [] int32, outer steps done


class Slope(Protocol):
    """How the gradient of one life is found."""

    def slope(
        self, outer: Any, rule_params: PyTree, life: Life, critic: CriticState
    ) -> tuple[tuple[Array, tuple], PyTree]:
        """-> `(loss, (life, tally, trajectories[J, T, B], metrics)), gradient` of the rule."""
        ...


@struct.dataclass
class UnrolledGradient:
    """Through every update of the window, as `MetaGradient.window` computes it."""

    def slope(
        self, outer: MetaGradient, rule_params: PyTree, life: Life, critic: CriticState
    ) -> tuple[tuple[Array, tuple], PyTree]:
        """By reverse differentiation."""
        window = jax.value_and_grad(outer.window, has_aux=True)
        (loss, out), grads = window(rule_params, life, critic)
        return (loss, (*out, {})), grads


@struct.dataclass
class MetaGradient:
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
        through: `UnrolledGradient`, or `ImplicitGradient` for what training ends at, which
            differentiates no update.

    Sources: Xu, van Hasselt & Silver 2018, Meta-gradient reinforcement learning; Oh et al. 2020,
    Discovering reinforcement learning algorithms; Zahavy et al. 2020, A self-tuning actor-critic.
    """

    tuned: Tuned
    tasks: TaskDistribution
    objective: Objective = struct.field(default_factory=PolicyReturn)
    critic: OuterCritic = struct.field(default_factory=OuterCritic)
    optimiser: Optimiser = struct.field(
        default_factory=lambda: Optimiser(learning_rate=1e-3, max_grad_norm=1.0)
    )
    num_lives: int = setting(64, "lives side by side", low=1)
    num_updates: int = setting(20, "updates of each life in an outer step", low=1)
    keep_every: int = setting(1, "updates between two states that are kept", low=1)
    own_rules: bool = setting(False, "rule parameters of its own for each life")
    auto_reset: bool = setting(True, "start a new episode where one ended")
    chunk: int = setting(0, "lives in one part of the batch; 0 for all", low=0)
    num_devices: int = setting(1, "devices that a part is spread over", low=1)
    through: Slope = struct.field(default_factory=UnrolledGradient)

    def init(self, key: Key) -> MetaGradientState:
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
        rule_params = self.tuned.init()
        optimiser = self.optimiser.init(rule_params)
        if self.own_rules:
            rule_params, optimiser = jax.tree.map(
                lambda leaf: jnp.broadcast_to(leaf, (self.num_lives, *jnp.shape(leaf))),
                (rule_params, optimiser),
            )
        births = jnp.zeros(self.num_lives, jnp.int32)
        lives, critics = self._born(life_key, births, self._drawn(life_key, births))
        share = jax.random.uniform(end_key, (self.num_lives,))
        return MetaGradientState(
            rule_params=rule_params,
            optimiser=optimiser,
            lives=lives,
            critics=critics,
            ends=lives.total_steps * share,
            births=births + 1,
            key=life_key,
            step=jnp.zeros((), jnp.int32),
        )

    def agent(self, state: MetaGradientState) -> Agent:
        """The agent under what was learned; `[L, ...]` leaves with `own_rules`."""
        make = jax.vmap(self.tuned.agent_of) if self.own_rules else self.tuned.agent_of
        return make(state.rule_params)

    def step(self, state: MetaGradientState) -> tuple[MetaGradientState, dict[str, Array]]:
        """One outer step -> state, metrics (means over lives; rates are shares of the lives)."""
        state, over, _, metrics = self.advance(state)
        state = jax.lax.cond(
            jnp.any(over),
            lambda: self.renew(state, over, self.fresh_tasks(state)),
            lambda: state,
        )
        return state, metrics

    def advance(
        self, state: MetaGradientState
    ) -> tuple[MetaGradientState, Array, Array, dict[str, Array]]:
        """An outer step that replaces no life -> state, `over[L]`, `finite[L]`, metrics.

        A life is over when its steps are spent or something about it is not finite.
        """
        axis = 0 if self.own_rules else None

        def slope(rule_params: dict, life: Life, critic: CriticState) -> tuple:
            return self.through.slope(self, rule_params, life, critic)

        (loss, (lives, tally, trajectories, extra)), grads = self.over_lives(slope, (axis, 0, 0))(
            state.rule_params, state.lives, state.critics
        )
        finite = _finite((loss, grads), self.num_lives)
        grads = select(finite, grads, jax.tree.map(jnp.zeros_like, grads))
        count = jnp.maximum(jnp.sum(finite), 1)
        if not self.own_rules:
            grads = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0) / count, grads)
        learn = jax.vmap(self._learn, (0, 0, 0, None)) if self.own_rules else self._learn
        rule_params, optimiser = learn(grads, state.optimiser, state.rule_params, state.step)
        critics, critic_loss = self.over_lives(self._critic, (0, 0, 0))(
            state.critics, lives.env, trajectories
        )

        steps = lives.steps_done(self.tuned.agent)
        over = (steps >= jnp.minimum(state.ends, lives.total_steps)) | ~finite
        state = state.replace(
            rule_params=rule_params,
            optimiser=optimiser,
            lives=lives,
            critics=critics,
            step=state.step + 1,
        )
        norms = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(grads)))
        episodes = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), tally)
        record = with_gaps(summarise(episodes))
        means = {name: jnp.mean(jnp.where(finite, row, 0.0)) for name, row in extra.items()}
        return (
            state,
            over,
            finite,
            {
                "meta_loss": jnp.sum(jnp.where(finite, loss, 0.0)) / count,
                "meta_gradient_norm": norms,
                "outer_critic_loss": jnp.mean(jnp.where(finite, critic_loss, 0.0)),
                "episode_return": record["episode_return"],
                "replaced_fraction": jnp.mean(over),
                "nonfinite_fraction": 1.0 - jnp.mean(finite),
                **means,
            },
        )

    def fresh_tasks(self, state: MetaGradientState) -> Task:
        """What the next life of every place would be lived in, drawn anew, `[L, ...]`."""
        return self._drawn(state.key, state.births)

    def renew(self, state: MetaGradientState, over: Array, tasks: Task) -> MetaGradientState:
        """New lives in `tasks[L, ...]` in the places that are `over[L]`."""
        fresh = self._born(state.key, state.births, tasks)
        lives, critics = select(over, fresh, (state.lives, state.critics))
        return state.replace(
            lives=lives,
            critics=critics,
            ends=jnp.where(over, jnp.inf, state.ends),
            births=state.births + over,
        )

    def window(self, rule_params: dict, life: Life, critic: CriticState) -> tuple[Array, tuple]:
        """The outer loss `[]` of one life's next K updates: what is differentiated.

        Returns:
            the loss, and as constants the life after them, the tally of its episodes, and the
            trajectories `[K + 1, T, B]`, of which the last has not been learned from.
        """
        agent, env = self.tuned.agent_of(rule_params), life.env

        def loss_of(train: Any, trajectory: Any) -> Array:
            return self.objective.loss(agent, env, train, trajectory, self.critic, critic)

        def update(carry: tuple, first: Array) -> tuple[tuple, tuple]:
            train, loss = carry
            after, trajectory, tally = differentiable_iteration(agent, env, train, self.auto_reset)
            if self.objective.every:  # the first state is none of this window's making
                loss = loss + jnp.where(first, 0.0, loss_of(train, trajectory))
            return (after, loss), (trajectory, tally)

        (train, loss), (trajectories, tallies) = scan_keeping(
            self.keep_every, update, (life.train, jnp.zeros(())), jnp.arange(self.num_updates) == 0
        )
        rollout_state, last, episodes, _ = collect(agent, env, train, self.auto_reset)
        # The next window begins with keys that this rollout has not spent.
        train = train.replace(rollout=rollout_state, key=jax.random.fold_in(train.key, 1))
        loss = loss + loss_of(train, last)
        if self.objective.every:
            loss = loss / self.num_updates
        tally = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), tallies)
        tally = tally.replace(episodes=jax.tree.map(jnp.add, tally.episodes, episodes))
        trajectories = jax.tree.map(
            lambda rows, row: jnp.concatenate([rows, row[None]]), trajectories, last
        )
        out = jax.lax.stop_gradient((life.replace(train=train), tally, trajectories))
        return loss, out

    @property
    def num_parts(self) -> int:
        """Lives that `chunk` counts."""
        return self.num_lives

    # ---- parts -----------------------------------------------------------------------------

    def _drawn(self, key: Key, births: Array) -> Task:
        """What life `births[l]` of every place l is lived in, `[L, ...]`."""
        return jax.vmap(self.tasks.sample)(self._keys(key, births)[:, 0])

    def _born(self, key: Key, births: Array, tasks: Task) -> tuple[Life, CriticState]:
        """Life `births[l]` in every place l."""
        agent = self.tuned.agent  # what is learned does not change how a life starts

        def one(keys: Key, task: Task) -> tuple[Life, CriticState]:
            return start_life(keys[1], agent, task), self.critic.init(keys[2], task.env)

        return jax.vmap(one)(self._keys(key, births), tasks)

    def _keys(self, key: Key, births: Array) -> Key:
        """Of each place's next task, life and critic, `[L, 3]`."""

        def one(place: Array, number: Array) -> Key:
            return jax.random.split(jax.random.fold_in(jax.random.fold_in(key, place), number), 3)

        return jax.vmap(one)(jnp.arange(self.num_lives), births)

    def over_lives(self, function: Any, axes: tuple) -> Any:
        """`vmap` over lives in parts of `chunk`, each spread over `num_devices`.

        Args:
            function: of one life.
            axes: 0 for arguments `[L, ...]`, None for those that all lives share.
        """

        def batched(*arguments: Any) -> Any:
            def one(*rows: Any) -> Any:
                left = list(rows)
                return function(
                    *[
                        left.pop(0) if axis == 0 else argument
                        for argument, axis in zip(arguments, axes, strict=True)
                    ]
                )

            mapped = tuple(a for a, axis in zip(arguments, axes, strict=True) if axis == 0)
            return over_rows(one, mapped, self.chunk, self.num_devices)

        return batched

    def _learn(
        self, grads: PyTree, optimiser: PyTree, rule_params: dict, step: Array
    ) -> tuple[dict, PyTree]:
        progress = Progress(step, jnp.asarray(jnp.inf))
        return self.optimiser.step(grads, optimiser, rule_params, progress)

    def _critic(
        self, critic: CriticState, env: Any, trajectories: Any
    ) -> tuple[CriticState, Array]:
        return self.critic.learn(critic, env, trajectories)


def _finite(tree: PyTree, num_lives: int) -> Array:
    """Whether all numbers of each life are finite, `[L]`."""
    rows = [
        jnp.all(jnp.isfinite(leaf.reshape(num_lives, -1)), axis=1) for leaf in jax.tree.leaves(tree)
    ]
    return jnp.all(jnp.stack(rows), axis=0)
