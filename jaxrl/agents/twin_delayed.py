"""Twin delayed deterministic policy gradient (TD3), from replay."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.agents.action_box import ActionBox, check_action_box
from jaxrl.agents.action_critics import (
    Optimism,
    Pessimism,
    SmallestCritic,
    backup,
    check_critics,
    initial_scale,
    of_critics,
)
from jaxrl.agents.checks import check_feed_forward
from jaxrl.agents.critic_step import (
    critic_metrics,
    critic_step,
    look_ahead,
    normalised_weights,
)
from jaxrl.agents.experience import at_present, empty_replay, learn_from_replay
from jaxrl.agents.optimiser import Optimiser
from jaxrl.agents.successors import Sampled, SourceState, Successors
from jaxrl.agents.targets import TargetUpdate
from jaxrl.agents.variance_adjustment import VarianceAdjustment
from jaxrl.core import struct
from jaxrl.core.law import Law
from jaxrl.core.protocols import Environment
from jaxrl.core.schedules import Schedule, value_at
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Key, Progress, PyTree, Transition
from jaxrl.networks import ActionCritic, DeterministicActor, NetworkSettings
from jaxrl.operators import BellmanOperator, Scalar
from jaxrl.replay import Batch, UniformReplay


@struct.dataclass
class TwinDelayedParams:
    """What gradient descent changes; copies and optimiser states stand in the same struct."""

    actor: PyTree
    critic: PyTree


@struct.dataclass
class TwinDelayedLearner:
    """What a gradient step changes."""

    params: TwinDelayedParams
    target_params: TwinDelayedParams
    optimiser: TwinDelayedParams
    mean_scale: PyTree  # [num_critics] [return], () without a variance adjustment
    num_updates: Array  # [] int32, gradient steps of the critics


@struct.dataclass
class TwinDelayedState:
    """What learning changes."""

    learner: TwinDelayedLearner
    replay: PyTree
    progress: Progress
    box: ActionBox
    source: SourceState  # of the successors
    actor: DeterministicActor = struct.field(pytree_node=False)
    critic: ActionCritic = struct.field(pytree_node=False)


@struct.dataclass
class TwinDelayedAgent:
    """Follows the gradient of twin critics through a deterministic policy.

        a'     = clip(mu'(s') + clip(smoothing e, -c, c), -1, 1),   e ~ N(0, I), c = smoothing_clip
        target = R + D min_i Q'_i(s', a')
        critic : mean over i of (target - Q_i(s, a))^2 / 2, every step
        actor  : -Q_0(s, mu(s)), and the lagged copies move, every `policy_delay` steps

    R and D are the replay's n-step reward and discount: D is 0 where the MDP ended and is kept
    where only the clock did. Actions, and so the noises, are scaled to [-1, 1]: a noise of 1 is
    half the width of the action box.

    Any head of `operator` takes the scalar critics' place: the target is then a law, the critics
    lower the head's loss, and the actor climbs the operator's return functional of the first
    critic's law (*greedy on the return law*: neither nested nor static risk). `pessimism` says what
    takes the minimum's place in the target, `variance_adjustment` refines the loss of Gaussian
    heads, `optimism` weights the errors by their sign. A functional over successors (*nested*
    risk) needs `successors=Generative(...)` or `Ensemble(...)`.

    Metrics: `critic_loss`, `q_value` [return]; `clipped_fraction` of the targets where the head's
    grid has ends.

    With `smoothing = 0`, `policy_delay = 1` and `num_critics = 1` this is DDPG.

    Sources: Fujimoto et al. 2018, Addressing function approximation error in actor-critic methods,
    equations 10, 14 and algorithm 1; Lillicrap et al. 2016 (DDPG).
    """

    operator: BellmanOperator = struct.field(
        default_factory=lambda: BellmanOperator(Scalar(float("inf")))
    )
    network: NetworkSettings = struct.field(
        default_factory=lambda: NetworkSettings(hidden_sizes=(64, 64), activation="relu")
    )
    optimiser: Optimiser = struct.field(
        default_factory=lambda: Optimiser(learning_rate=1e-3, max_grad_norm=1e3, epsilon=1e-8)
    )
    replay: UniformReplay = struct.field(default_factory=UniformReplay)
    target: TargetUpdate = struct.field(default_factory=lambda: TargetUpdate(step_size=0.005))
    successors: Successors = struct.field(default_factory=Sampled)
    pessimism: Pessimism = struct.field(default_factory=SmallestCritic)
    optimism: Optimism | None = None
    variance_adjustment: VarianceAdjustment | None = None
    discount: float = setting(0.99, "discount factor", unit="per step", low=0.0, high=1.0)
    exploration: float | Schedule = setting(
        0.1, "standard deviation of the noise on actions", unit="half action widths", low=0.0
    )
    smoothing: float = setting(
        0.2, "standard deviation of the noise on lagged actions", unit="half action widths", low=0.0
    )
    smoothing_clip: float = setting(
        0.5, "largest noise on lagged actions", unit="half action widths", low=0.0
    )
    num_envs: int = setting(4, "environments stepped side by side", low=1)
    rollout_length: int = setting(
        4, "steps of each environment between updates", unit="steps", low=1
    )
    num_updates: int = setting(4, "gradient steps of the critics after each rollout", low=1)
    policy_delay: int = setting(2, "critic steps for each policy step", unit="updates", low=1)
    batch_size: int = setting(256, "windows in each gradient step", low=1)
    warmup: int = setting(
        1000, "steps of uniform actions before the first gradient step", unit="steps", low=0
    )
    num_critics: int = setting(2, "critics, read as one by `pessimism`", low=1)

    @property
    def memory(self) -> UniformReplay:
        """The replay at this agent's number of environments."""
        return self.replay.replace(num_envs=self.num_envs)

    @property
    def keep_env_state(self) -> bool:
        """Whether rollouts must record the environment's states."""
        return self.successors.keeps_env_state

    def check(self, env: Environment) -> None:
        """Refuse environments and settings that the agent cannot learn with.

        Raises:
            ValueError: actions that are not a finite box, a recurrent network, a batch that the
                replay cannot give, or an operator that the critics or `successors` cannot serve.
        """
        check_action_box(env)
        check_feed_forward(self.network, env)
        self.memory.check(self.batch_size)
        check_critics(self, env)

    def init(
        self, key: Key, env: Environment, total_steps: float | Array = float("inf")
    ) -> TwinDelayedState:
        """Fresh parameters and an empty replay. `total_steps` [steps] is the life schedules see."""
        actor_key, critic_key, reset_key, source_key = jax.random.split(key, 4)
        torso = self.network.torso(env.observation_space)
        box = ActionBox.of(env.action_space)
        actor, critic = (
            DeterministicActor(torso, box.size),
            ActionCritic(torso, self.num_critics, self.operator.head.shape),
        )
        env_state, observation = jax.vmap(env.reset)(jax.random.split(reset_key, self.num_envs))
        unit = jnp.zeros((self.num_envs, box.size))
        params = TwinDelayedParams(
            actor=actor.init(actor_key, observation),
            critic=critic.init(critic_key, observation, unit),
        )
        learner = TwinDelayedLearner(
            params=params,
            target_params=jax.tree.map(jnp.copy, params),
            optimiser=TwinDelayedParams(
                actor=self.optimiser.init(params.actor), critic=self.optimiser.init(params.critic)
            ),
            mean_scale=initial_scale(self, self.num_critics),
            num_updates=jnp.zeros((), jnp.int32),
        )
        return TwinDelayedState(
            learner=learner,
            replay=empty_replay(self, env, env_state, observation, box.from_unit(unit)),
            progress=Progress.start(total_steps),
            box=box,
            source=self.successors.init(source_key, env, self.operator, self.network),
            actor=actor,
            critic=critic,
        )

    def initial_memory(self, num_envs: int) -> tuple:
        """Nothing is carried between steps."""
        return ()

    def act(
        self,
        key: Key,
        state: TwinDelayedState,
        observation: PyTree,
        explore: bool = True,
        memory: PyTree = (),
    ) -> tuple[Array, dict[str, PyTree]]:
        """`observation[B, ...]` -> `action[B, *shape]`, no extras. Uniform until `warmup`."""
        chosen = state.actor.apply(state.learner.params.actor, observation)
        if not explore:
            return state.box.from_unit(chosen), {}
        noise_key, uniform_key = jax.random.split(key)
        scale = value_at(self.exploration, state.progress)
        noisy = jnp.clip(chosen + scale * jax.random.normal(noise_key, chosen.shape), -1.0, 1.0)
        uniform = state.box.uniform(uniform_key, chosen.shape[0])
        return state.box.from_unit(jnp.where(state.progress.step < self.warmup, uniform, noisy)), {}

    def q_values(self, state: TwinDelayedState, observation: PyTree, action: Array) -> Array:
        """`observation[..., *observation]`, `action[..., *shape]` -> each critic's mean
        `[num_critics, ...]` [return]."""
        return of_critics(self.operator.head.mean, self, state, observation, action)

    def return_laws(self, state: TwinDelayedState, observation: PyTree, action: Array) -> Law:
        """As `q_values`, each critic's law of the return: leaves `[num_critics, ..., N]`."""
        return of_critics(self.operator.head.law, self, state, observation, action)

    def update(
        self, key: Key, state: TwinDelayedState, trajectory: Transition
    ) -> tuple[TwinDelayedState, dict[str, Array]]:
        """Store `trajectory[T, B]`, then take `num_updates` gradient steps once warmed up."""

        def turns(learner: TwinDelayedLearner) -> tuple[Array]:
            """Whether the policy moves in each step, `[num_updates]`."""
            # Under `vmap` over seeds the count of each life is batched, and so is all that enters
            # this branch from outside; a conditional on it would pay for both its sides. Where
            # every iteration makes whole rounds, the position in it says enough.
            counts = 1 + jnp.arange(self.num_updates)
            if self.num_updates % self.policy_delay:
                counts += learner.num_updates
            return (counts % self.policy_delay == 0,)

        metrics = critic_metrics(self)
        return learn_from_replay(key, self, state, trajectory, self._step, metrics, turns)

    def _step(
        self, state: TwinDelayedState, key: Key, batch: Batch, policy_turn: Array
    ) -> tuple[TwinDelayedLearner, PyTree, dict[str, Array]]:
        agent = at_present(self, state.progress)
        data, weights = batch.transition, normalised_weights(batch)
        learner, actor, critic = state.learner, state.actor, state.critic
        params, lagged = learner.params, learner.target_params

        next_key, outcomes, successors = look_ahead(agent, key, state, data)
        next_action = actor.apply(lagged.actor, successors)
        noise = self.smoothing * jax.random.normal(next_key, next_action.shape)
        noise = jnp.clip(noise, -self.smoothing_clip, self.smoothing_clip)
        next_action = jnp.clip(next_action + noise, -1.0, 1.0)
        target = backup(agent, outcomes, critic.apply(lagged.critic, successors, next_action))
        critics = critic_step(agent, state, batch, target, lagged.critic)
        num_updates = learner.num_updates + 1

        def improve(actor_params: PyTree, actor_state: PyTree) -> tuple[PyTree, ...]:
            def actor_loss(actor_params: PyTree) -> Array:
                action = actor.apply(actor_params, data.observation)
                # One critic alone: the smaller of two would bend the gradient where they cross.
                first = jax.tree.map(lambda leaf: leaf[:1], critics.params)
                outputs = critic.clone(num_critics=1).apply(first, data.observation, action)[0]
                return -jnp.sum(weights * jax.vmap(agent.operator.score)(outputs))

            grads = jax.grad(actor_loss)(actor_params)
            actor_params, actor_state = self.optimiser.step(
                grads, actor_state, actor_params, state.progress
            )
            fresh = TwinDelayedParams(actor_params, critics.params)
            moved = self.target.move(lagged, fresh, num_updates // self.policy_delay)
            return actor_params, actor_state, moved

        def wait(actor_params: PyTree, actor_state: PyTree) -> tuple[PyTree, ...]:
            return actor_params, actor_state, lagged

        actor_params, actor_state, lagged = jax.lax.cond(
            policy_turn, improve, wait, params.actor, learner.optimiser.actor
        )
        learner = TwinDelayedLearner(
            params=TwinDelayedParams(actor_params, critics.params),
            target_params=lagged,
            optimiser=TwinDelayedParams(actor_state, critics.optimiser),
            mean_scale=critics.mean_scale,
            num_updates=num_updates,
        )
        return learner, critics.learned, critics.metrics
