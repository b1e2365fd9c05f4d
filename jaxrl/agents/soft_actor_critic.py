"""Soft actor-critic: a stochastic policy, twin critics and a learned temperature, from replay."""

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
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Key, Progress, PyTree, Transition
from jaxrl.networks import ActionCritic, NetworkSettings, TanhGaussianActor
from jaxrl.operators import BellmanOperator, Scalar
from jaxrl.replay import Batch, UniformReplay


@struct.dataclass
class SoftActorCriticParams:
    """What gradient descent changes; the optimiser states stand in the same struct."""

    actor: PyTree
    critic: PyTree
    log_temperature: Array  # [] log of [return per nat]


@struct.dataclass
class SoftActorCriticLearner:
    """What a gradient step changes."""

    params: SoftActorCriticParams
    optimiser: SoftActorCriticParams
    target_critic: PyTree
    mean_scale: PyTree  # [num_critics] [return], () without a variance adjustment
    num_updates: Array  # [] int32, gradient steps taken


@struct.dataclass
class SoftActorCriticState:
    """What learning changes."""

    learner: SoftActorCriticLearner
    replay: PyTree
    progress: Progress
    box: ActionBox
    source: SourceState  # of the successors
    actor: TanhGaussianActor = struct.field(pytree_node=False)
    critic: ActionCritic = struct.field(pytree_node=False)


@struct.dataclass
class SoftActorCriticAgent:
    """Maximises return plus `temperature` times the policy's entropy, off policy.

        target  = R + D (min_i Q'_i(s', a') - temperature log pi(a' | s')),   a' ~ pi(s')
        critic  : mean over i of (target - Q_i(s, a))^2 / 2
        actor   : temperature log pi(b | s) - min_i Q_i(s, b),   b ~ pi(s), reparameterised
        log temperature : log temperature * (entropy of pi - target entropy)

    Any head of `operator` takes the scalar critics' place: the target is then a law, the critics
    lower the head's loss, and the actor climbs the operator's return functional of their laws
    (*greedy on the return law*: neither nested nor static risk). `pessimism` says what takes the
    minimum's place, `variance_adjustment` refines the loss of Gaussian heads, `optimism` weights
    the errors by their sign. A functional over successors (*nested* risk) needs
    `successors=Generative(...)` or `Ensemble(...)`. The entropies count as sure returns.

    R and D are the replay's n-step reward and discount: D is 0 where the MDP ended and is kept
    where only the clock did. With `num_step > 1` the entropies of the steps in between are left
    out and the window is not corrected for its age. Densities are those of actions scaled
    to [-1, 1].

    Metrics: `critic_loss`, `actor_loss`; `q_value` [return]; `entropy` [nats]; `temperature`
    [return per nat]; `clipped_fraction` of the targets, entropies included, where the head's grid
    has ends.

    Numerics: the temperature moves on its logarithm, with the published gradient divided by the
    temperature: the same root, and Adam's step does not stall when the temperature is small.

    Sources: Haarnoja et al. 2018, Soft actor-critic algorithms and applications, equations 5, 7, 18
    and algorithm 1; Fujimoto et al. 2018 (the smaller of two critics).
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
    initial_temperature: float = setting(
        1.0, "first weight of the entropy", unit="return per nat", low=0.0, low_open=True
    )
    target_entropy: float = setting(
        -1.0,
        "entropy that the temperature keeps, of each action coordinate scaled to [-1, 1]",
        unit="nats per coordinate",
        high=0.693,  # log 2, the entropy of a uniform coordinate
    )
    num_envs: int = setting(4, "environments stepped side by side", low=1)
    rollout_length: int = setting(
        4, "steps of each environment between updates", unit="steps", low=1
    )
    num_updates: int = setting(4, "gradient steps after each rollout", low=1)
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
    ) -> SoftActorCriticState:
        """Fresh parameters and an empty replay. `total_steps` [steps] is the life schedules see."""
        actor_key, critic_key, reset_key, source_key = jax.random.split(key, 4)
        torso = self.network.torso(env.observation_space)
        box = ActionBox.of(env.action_space)
        actor, critic = (
            TanhGaussianActor(torso, box.size),
            ActionCritic(torso, self.num_critics, self.operator.head.shape),
        )
        env_state, observation = jax.vmap(env.reset)(jax.random.split(reset_key, self.num_envs))
        unit = jnp.zeros((self.num_envs, box.size))
        params = SoftActorCriticParams(
            actor=actor.init(actor_key, observation),
            critic=critic.init(critic_key, observation, unit),
            log_temperature=jnp.log(jnp.asarray(self.initial_temperature, jnp.float32)),
        )
        optimiser = SoftActorCriticParams(
            actor=self.optimiser.init(params.actor),
            critic=self.optimiser.init(params.critic),
            log_temperature=self.optimiser.init(params.log_temperature),
        )
        learner = SoftActorCriticLearner(
            params=params,
            optimiser=optimiser,
            target_critic=jax.tree.map(jnp.copy, params.critic),
            mean_scale=initial_scale(self, self.num_critics),
            num_updates=jnp.zeros((), jnp.int32),
        )
        return SoftActorCriticState(
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
        state: SoftActorCriticState,
        observation: PyTree,
        explore: bool = True,
        memory: PyTree = (),
    ) -> tuple[Array, dict[str, PyTree]]:
        """`observation[B, ...]` -> `action[B, *shape]`, no extras. Uniform until `warmup`."""
        policy = state.actor.apply(state.learner.params.actor, observation)
        if not explore:
            return state.box.from_unit(policy.mode()), {}
        policy_key, uniform_key = jax.random.split(key)
        drawn = policy.sample(policy_key)
        uniform = state.box.uniform(uniform_key, drawn.shape[0])
        return state.box.from_unit(jnp.where(state.progress.step < self.warmup, uniform, drawn)), {}

    def q_values(self, state: SoftActorCriticState, observation: PyTree, action: Array) -> Array:
        """`observation[..., *observation]`, `action[..., *shape]` -> each critic's mean
        `[num_critics, ...]` [return]."""
        return of_critics(self.operator.head.mean, self, state, observation, action)

    def return_laws(self, state: SoftActorCriticState, observation: PyTree, action: Array) -> Law:
        """As `q_values`, each critic's law of the return: leaves `[num_critics, ..., N]`."""
        return of_critics(self.operator.head.law, self, state, observation, action)

    def update(
        self, key: Key, state: SoftActorCriticState, trajectory: Transition
    ) -> tuple[SoftActorCriticState, dict[str, Array]]:
        """Store `trajectory[T, B]`, then take `num_updates` gradient steps once warmed up."""
        metrics = (*critic_metrics(self), "actor_loss", "entropy", "temperature")
        return learn_from_replay(key, self, state, trajectory, self._step, metrics)

    def _step(
        self, state: SoftActorCriticState, key: Key, batch: Batch
    ) -> tuple[SoftActorCriticLearner, PyTree, dict[str, Array]]:
        agent = at_present(self, state.progress)
        key, action_key = jax.random.split(key)
        data, weights = batch.transition, normalised_weights(batch)
        learner, actor, critic = state.learner, state.actor, state.critic
        params, temperature = learner.params, jnp.exp(learner.params.log_temperature)

        next_key, outcomes, successors = look_ahead(agent, key, state, data)
        next_policy = actor.apply(params.actor, successors)
        next_action, next_log_prob = next_policy.sample_with_log_prob(next_key)
        next_critics = critic.apply(learner.target_critic, successors, next_action)
        target = backup(agent, outcomes, next_critics, bonus=-temperature * next_log_prob)
        critics = critic_step(agent, state, batch, target, learner.target_critic)

        def actor_loss(actor_params: PyTree) -> tuple[Array, Array]:
            policy = actor.apply(actor_params, data.observation)
            action, log_prob = policy.sample_with_log_prob(action_key)
            outputs = critic.apply(critics.params, data.observation, action)
            q_value = jax.vmap(self.pessimism.score, (None, 1))(agent.operator, outputs)
            return jnp.sum(weights * (temperature * log_prob - q_value)), jnp.sum(
                weights * -log_prob
            )

        (policy_loss, entropy), grads = jax.value_and_grad(actor_loss, has_aux=True)(params.actor)
        actor_params, actor_state = self.optimiser.step(
            grads, learner.optimiser.actor, params.actor, state.progress
        )

        any_window = jnp.sum(batch.weights) > 0
        surplus = entropy - self.target_entropy * state.box.size
        log_temperature, temperature_state = self.optimiser.step(
            jnp.where(any_window, surplus, 0.0),
            learner.optimiser.log_temperature,
            params.log_temperature,
            state.progress,
        )
        num_updates = learner.num_updates + 1
        learner = SoftActorCriticLearner(
            params=SoftActorCriticParams(actor_params, critics.params, log_temperature),
            optimiser=SoftActorCriticParams(actor_state, critics.optimiser, temperature_state),
            target_critic=self.target.move(learner.target_critic, critics.params, num_updates),
            mean_scale=critics.mean_scale,
            num_updates=num_updates,
        )
        logs = {"actor_loss": policy_loss, "entropy": entropy, "temperature": temperature}
        return learner, critics.learned, {**critics.metrics, **logs}
