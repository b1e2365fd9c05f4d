"""Critics of (state, action) pairs and an actor that climbs them, from replay: SAC, TD3 and kin."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.agents import action_values, chain, checks, critics, experience
from jaxrl.agents.action_box import ActionBox, check_action_box
from jaxrl.agents.actors import Actor, CriticLearner, CriticParams, CriticState, SquashedGaussian
from jaxrl.agents.chain import Pair, Step
from jaxrl.agents.optimiser import GradientStep, Optimiser, as_optimiser
from jaxrl.agents.successors import Outcomes, Sampled, SourceState, Successors
from jaxrl.core import struct
from jaxrl.core.law import Law
from jaxrl.core.protocols import Environment
from jaxrl.core.settings import SettableStruct, chain_field, setting
from jaxrl.core.types import Array, Key, Progress, PyTree, Transition, typed_like
from jaxrl.networks import ActionCritic, Network, NetworkSettings
from jaxrl.networks.given import as_network
from jaxrl.networks.models import last_layer
from jaxrl.operators import BellmanOperator, Greedy, Scalar
from jaxrl.operators.bellman import Lookahead, describe
from jaxrl.replay import Batch, UniformReplay

_RELABELS, _REWARDS = 1, 3  # random streams of a gradient step


class CriticAgent(SettableStruct):
    """Critics of (state, action) pairs learned off policy, and an actor that climbs them.

        target = R + D (min_i Q'_i(s', a') + what the actor adds),   a' by the actor
        critic : mean over i of (target - Q_i(s, a))^2 / 2

    R and D are the replay's n-step reward and discount: D is 0 where the MDP ended and is kept
    where only the clock did; a window is not corrected for its age. Actions are scaled to [-1, 1].
    The actor's part stands in `SquashedGaussian` (soft actor-critic) and `Deterministic` (TD3).

    Any head of `operator` takes the scalar critics' place: the target is then a law, the critics
    lower the head's loss, and the actor climbs the operator's return functional of their laws
    (*greedy on the return law*: neither nested nor static risk). `pessimism` says what takes the
    minimum's place, `variance_adjustment` refines the loss of Gaussian heads. A functional over
    successors (*nested* risk) needs `successors=Generative(...)` or `Ensemble(...)`.

    `parts` is a chain as that of `QNetworkAgent`, of parts that do not compare discrete actions:
    `Optimism` weighs the errors by their sign, `RewardShift` starts values too low or too high.

    Metrics: `critic_loss`, `q_value` [return], those of the actor and of the parts;
    `clipped_fraction` of the targets, entropies included, where the head's grid has ends.

    Sources: Haarnoja et al. 2018, Soft actor-critic algorithms and applications; Fujimoto et al.
    2018, Addressing function approximation error in actor-critic methods, equation 10.
    """

    operator: BellmanOperator = BellmanOperator(Scalar(float("inf")))
    actor: Actor = SquashedGaussian()
    network: Network = struct.field(
        default=NetworkSettings(hidden_sizes=(64, 64), activation="relu"), converter=as_network
    )
    optimiser: GradientStep = struct.field(
        default=Optimiser(learning_rate=1e-3, max_grad_norm=1e3, epsilon=1e-8),
        converter=as_optimiser,
    )
    replay: UniformReplay = UniformReplay()
    target: experience.TargetUpdate = experience.TargetUpdate(step_size=0.005)
    successors: Successors = Sampled()
    pessimism: critics.Pessimism = critics.SmallestCritic()
    parts: tuple[chain.TargetPart, ...] = chain_field()
    variance_adjustment: critics.VarianceAdjustment | None = None
    discount: float = setting(0.99, "discount factor", unit="per step", low=0.0, high=1.0)
    num_envs: int = setting(4, "environments stepped side by side", low=1)
    rollout_length: int = setting(4, "length of each rollout", unit="steps", low=1)
    num_updates: int = setting(4, "gradient steps of the critics after each rollout", low=1)
    batch_size: int = setting(256, "windows in each gradient step", low=1)
    warmup: int = setting(1000, "steps of uniform actions before learning", unit="steps", low=0)
    num_critics: int = setting(2, "critics, read as one by `pessimism`", low=1)

    memory, initial_memory = experience.own_replay, experience.no_memory
    keep_env_state = experience.keep_env_state

    def check(self, env: Environment) -> None:
        """Refuse environments and settings that the agent cannot learn with.

        Raises:
            ValueError: actions that are not a finite box, a recurrent network, a batch that the
                replay cannot give, an improvement, a functional of return laws on a head without
                them, a refined loss on a head that is not Gaussian, actions held under another
                discount, or a functional over successors that are not seen.
        """
        operator = self.operator
        check_action_box(env)
        checks.check_replay_agent(self, env)
        if self.variance_adjustment is not None:
            checks.check_facts(self, "variance_adjustment", self.variance_adjustment.facts)
        if chain.first(self.parts, chain.Stores) or chain.first(self.parts, chain.Scores):
            raise ValueError(
                "parts: critics of continuous actions keep the operator's head and scores: leave "
                "out the part that has its own."
            )
        if not isinstance(operator.improvement, Greedy):
            raise ValueError(
                f"{describe(operator.improvement)} chooses among finitely many actions; here the "
                "actor is the improvement: leave operator.improvement at Greedy(), and set "
                "parts=(Optimism(),) for targets between the policy's value and the optimal one."
            )
        if operator.head.facts.at_levels:
            raise ValueError(
                f"{describe(operator.head)} needs a network that takes levels as inputs, which "
                "critics of continuous actions do not: use Quantile, or discrete actions."
            )

    def init(
        self, key: Key, env: Environment, total_steps: float | Array = float("inf")
    ) -> CriticState:
        """Fresh parameters and an empty replay. `total_steps` [steps] is the life schedules see."""
        actor_key, critic_key, reset_key, source_key = jax.random.split(key, 4)
        torso = self.network.torso(env.observation_space)
        box = ActionBox.of(env.action_space)
        actor = self.actor.network(torso, box.size)
        critic = ActionCritic(torso, self.num_critics, self.operator.head.shape)
        env_state, observation = jax.vmap(env.reset)(jax.random.split(reset_key, self.num_envs))
        unit = jnp.zeros((self.num_envs, box.size))
        parts = {
            "actor": actor.init(actor_key, observation),
            "critic": critic.init(critic_key, observation, unit),
            **self.actor.start(),
        }
        params, adjustment = CriticParams(**parts), self.variance_adjustment
        states = {name: self.optimiser.init(part) for name, part in parts.items()}
        copies = jax.tree.map(jnp.copy, params)
        learner = CriticLearner(
            params=params,
            target_params=copies if self.actor.lags else (),
            optimiser=CriticParams(**states),
            target_critic=() if self.actor.lags else copies.critic,
            mean_scale=() if adjustment is None else adjustment.init(self.num_critics),
            num_updates=jnp.zeros((), jnp.int32),
        )
        return CriticState(
            learner=learner,
            replay=experience.empty_replay(self, env, env_state, observation, box.from_unit(unit)),
            progress=Progress.start(total_steps),
            box=box,
            source=self.successors.init(source_key, env, self.operator, self.network),
            parts=chain.start(source_key, self, env, params.critic),
            actor=actor,
            critic=critic,
        )

    def act(
        self,
        key: Key,
        state: CriticState,
        observation: PyTree,
        explore: bool = True,
        memory: PyTree = (),
    ) -> tuple[Array, dict[str, PyTree]]:
        """`observation[B, ...]` -> `action[B, *shape]`, no extras. Uniform until `warmup`."""
        outputs = state.actor.apply(state.learner.params.actor, observation)
        if not explore:
            return state.box.from_unit(self.actor.greedy(outputs)), {}
        draw_key, uniform_key = jax.random.split(key)
        drawn = self.actor.draw(draw_key, outputs, state.progress)
        uniform = state.box.uniform(uniform_key, drawn.shape[0])
        return state.box.from_unit(jnp.where(state.progress.step < self.warmup, uniform, drawn)), {}

    def q_values(self, state: CriticState, observation: PyTree, action: Array) -> Array:
        """`observation[..., *observation]`, `action[..., *shape]` -> each critic's mean
        `[num_critics, ...]` [return]."""
        head, offset = self.operator.head, chain.offset(self.parts, self.discount)
        return (
            action_values.each(head.mean, self._critics(state, observation, action), head) - offset
        )

    def return_laws(self, state: CriticState, observation: PyTree, action: Array) -> Law:
        """As `q_values`, each critic's law of the return: leaves `[num_critics, ..., N]`."""
        head: Any = self.operator.head
        laws = action_values.each(head.law, self._critics(state, observation, action), head)
        return laws.replace(atoms=laws.atoms - chain.offset(self.parts, self.discount))

    def _critics(self, state: CriticState, observation: PyTree, action: Array) -> Array:
        critics = state.learner.params.critic
        return state.critic.apply(critics, observation, state.box.to_unit(action))

    def acting(self, state: CriticState) -> CriticState:
        """`state` without replay and source of successors."""
        return state.replace(replay=(), source=SourceState(), parts=())

    def response(
        self, key: Key, state: CriticState, observation: Array, memory: PyTree
    ) -> tuple[Array, bool]:
        """The action, see `jaxrl.agents.readers.response`."""
        action, _ = self.act(key, state, observation, explore=False)
        return action.reshape(action.shape[0], -1), False

    def update(
        self, key: Key, state: CriticState, trajectory: Transition
    ) -> tuple[CriticState, dict[str, Array]]:
        """Store `trajectory[T, B]`, then take `num_updates` gradient steps once warmed up."""
        names = ("critic_loss", "q_value", *self.actor.metrics)
        names += ("clipped_fraction",) * self.operator.head.facts.bounded
        draw_key, learn_key = jax.random.split(key)
        state, ready = experience.store(self, state, trajectory)
        # One draw serves all steps, none of which changes the replay: it stays outside the
        # conditional, which would copy it.
        draw = self.memory.sample(draw_key, state.replay, self.num_updates * self.batch_size)
        shape = (self.num_updates, self.batch_size)
        batches = jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), draw)
        keys = jax.random.split(learn_key, self.num_updates)
        zero = dict.fromkeys(names, jnp.zeros((), jnp.float32))

        def step(learner: CriticState, inputs: tuple) -> tuple[CriticState, dict[str, Array]]:
            return typed_like((learner, zero), self._step(learner, *inputs))

        def learn(learner: CriticState) -> tuple[CriticState, dict[str, Array]]:
            turns = self.actor.turns(learner.learner, self.num_updates)
            return jax.lax.scan(step, learner, (keys, batches, *turns))

        def skip(learner: CriticState) -> tuple[CriticState, dict[str, Array]]:
            return learner, dict.fromkeys(names, jnp.zeros(self.num_updates, jnp.float32))

        learner, logs = jax.lax.cond(ready, learn, skip, state.replace(replay=()))
        metrics = jax.tree.map(jnp.mean, logs)
        metrics["counted_share"] = experience.counted_share(batches, ready)
        metrics |= chain.metrics(self.parts, learner.parts)
        return learner.replace(replay=state.replay), metrics

    def targets(self, outcomes: Outcomes, next_params: Array, bonus: Array | None = None) -> Law:
        """The laws `[B, ...]` [return] that critics regress to; no gradient flows through them.

        Args:
            outcomes: `[B, N]`, what may follow each transition.
            next_params: `[C, B N, *head.shape]`, lagged critics at the successors and next actions.
            bonus: `[B N]` [return], added to each successor's return; None for none.
        """
        laws = jax.vmap(self.pessimism.law, (None, 1))(self.operator.head, next_params)
        if bonus is not None:
            laws = laws.replace(atoms=laws.atoms + bonus[:, None])
        rows = jax.tree.map(lambda leaf: leaf.reshape(*outcomes.probs.shape, -1), laws)
        law = jax.vmap(self.successors.operator(self.operator).outcome_law)
        target = law(outcomes.probs, outcomes.reward, outcomes.discount, rows)
        return jax.lax.stop_gradient(target)

    def loss(
        self, params: Array, target: Law, weights: Array, mean_scale: PyTree, step: Step
    ) -> tuple[Array, tuple[Array, PyTree]]:
        """What all critics minimise together.

        Args:
            params: `[C, B, *head.shape]`, the critics at the transitions.
            target: law `[B, ...]` [return], see `targets`.
            weights: `[B]`, summing to one.
            mean_scale: `[C]`, running means of the critics' spreads [return]; () without a
                variance adjustment.
            step: what the parts that weigh errors see.

        Returns:
            loss `[]`, and the mean value `[]` [return] with the moved `mean_scale`.
        """
        head: Any = self.operator.head
        means = action_values.each(head.mean, params, head)  # [C, B]
        if self.variance_adjustment is None:
            losses = jax.vmap(jax.vmap(head.loss), (0, None))(params, target)
        else:
            scales = jax.lax.stop_gradient(action_values.each(head.scale, params, head))
            mean_scale = self.variance_adjustment.move(mean_scale, scales, weights)
            loss = jax.vmap(self.variance_adjustment.loss, (None, 0, 0, None))
            losses = jax.vmap(loss, (None, 0, None, 0))(head, params, target, mean_scale)
        losses = chain.weighed(step, losses, target, means)
        total = jnp.sum(weights * jnp.mean(losses, axis=0))
        return total, (jnp.sum(weights * jnp.mean(means, axis=0)), mean_scale)

    def _step(
        self, state: CriticState, key: Key, batch: Batch, *turn: Array
    ) -> tuple[CriticState, dict[str, Array]]:
        agent = experience.at_present(self, state.progress)
        batch = chain.drawn(key, _RELABELS, agent, state, batch)
        root, data = key, batch.transition
        # What spends no key of its own leaves the others as they are without it.
        key, climb_key = jax.random.split(key) if self.actor.is_random else (key, key)
        is_random = agent.successors.is_random
        follow_key, outcome_key = jax.random.split(key) if is_random else (key, key)
        outcomes = agent.successors.outcomes(outcome_key, state.source, data, agent.discount)
        size = outcomes.probs.size
        flat = jax.tree.map(lambda leaf: leaf.reshape(size, *leaf.shape[2:]), outcomes.observation)
        action, bonus = agent.actor.follow(follow_key, agent, state, flat)
        next_critics = state.critic.apply(state.learner.lagged_critic, flat, action)
        each = jnp.moveaxis(next_critics, 0, 1).reshape(*outcomes.probs.shape, self.num_critics, -1)
        taken = state.box.to_unit(data.action)

        def pair(params: PyTree) -> Pair:
            here = last_layer(state.critic, params, data.observation, taken)
            following = data.next_observation
            action, _ = agent.actor.follow(follow_key, agent, state, following)
            there = last_layer(state.critic, state.learner.lagged_critic, following, action)
            ones = jnp.ones((self.num_critics, action.shape[0], 1))
            return Pair(
                jnp.concatenate([here.features, ones], axis=-1),
                jnp.concatenate([there.features, ones], axis=-1),
                jnp.concatenate([here.kernel[..., 0], here.bias], axis=-1),
            )

        step = Step(agent, root, state, batch, outcomes, pair)
        lookahead = Lookahead(outcomes.reward, outcomes.discount, outcomes.probs, each)
        lookahead = chain.rewarded(_REWARDS, step, lookahead)
        outcomes = outcomes.replace(reward=lookahead.reward, discount=lookahead.discount)
        target = agent.targets(outcomes, next_critics, bonus)
        learner, head = state.learner, agent.operator.head
        weights = experience.normalised_weights(batch)
        before = state.critic.apply(learner.lagged_critic, data.observation, taken)
        lagged = jax.vmap(agent.pessimism.law, (None, 1))(head, before).mean()
        learned, target = agent.successors.learn(
            state.source, agent.operator, batch, target, lagged, state.progress
        )
        target = jax.lax.stop_gradient(target)

        def loss(params: PyTree) -> tuple[Array, tuple[Array, PyTree]]:
            outputs = state.critic.apply(params, data.observation, taken)
            total, read = agent.loss(outputs, target, weights, learner.mean_scale, step)
            return chain.penalised(step, total, params), read

        found, slope = jax.value_and_grad(loss, has_aux=True)(learner.params.critic)
        cost, (q_value, mean_scale) = found
        offset = chain.offset(agent.parts, agent.discount)
        metrics = {"critic_loss": cost, "q_value": q_value - offset}
        if head.facts.bounded:
            clipped = action_values.clipped_fraction(head, target, batch.weights)
            metrics["clipped_fraction"] = clipped
        moved = learner.stepped(agent.optimiser, state.progress, critic=slope)
        moved = moved.replace(mean_scale=mean_scale, num_updates=learner.num_updates + 1)
        state = state.replace(
            learner=moved,
            source=state.source.replace(learned=learned),
            parts=chain.updated(step, target, lagged),
        )
        learner, logs = agent.actor.climb(climb_key, agent, state, batch, *turn)
        return state.replace(learner=learner), {**metrics, **logs}
