"""The actors of critics of (state, action) pairs: how each acts, what it makes of the successors
that targets are built on, and how it climbs the critics."""

# Bodies of protocols are their docstrings.
# pyright: reportReturnType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, Self

import jax
import jax.numpy as jnp

from jaxrl.agents import chain
from jaxrl.agents.action_box import ActionBox
from jaxrl.agents.experience import normalised_weights
from jaxrl.agents.optimiser import GradientStep
from jaxrl.agents.successors import SourceState
from jaxrl.core import Struct, struct
from jaxrl.core.schedules import Schedule, value_at
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Key, Progress, PyTree
from jaxrl.networks import (
    ActionCritic,
    DeterministicActor,
    TanhGaussianActor,
    TanhGaussianPolicy,
)
from jaxrl.networks.torsos import Torso
from jaxrl.replay import Batch


class CriticParams(Struct):
    """What gradient descent changes; copies and optimiser states stand in the same struct."""

    actor: PyTree
    critic: PyTree
    log_temperature: PyTree = ()  # [] log of [return per nat]; () of an actor without one


class CriticLearner(Struct):
    """What a gradient step changes. The critics have lagged copies, and some actors one too."""

    params: CriticParams
    target_params: PyTree  # lagged `CriticParams`; () where the critics alone are copied
    optimiser: CriticParams
    target_critic: PyTree  # lagged critics; () where `target_params` has them
    mean_scale: PyTree  # [num_critics] [return], () without a variance adjustment
    num_updates: Array  # [] int32, gradient steps of the critics

    @property
    def lagged_critic(self) -> PyTree:
        """Parameters of the lagged critics."""
        return self.target_params.critic if self.target_params else self.target_critic

    def stepped(self, optimiser: GradientStep, progress: Progress, **grads: PyTree) -> Self:
        """After a step down these gradients, each of a part of the parameters."""
        params, states = {}, {}
        for name, grad in grads.items():
            held = getattr(self.optimiser, name), getattr(self.params, name)
            params[name], states[name] = optimiser.step(grad, *held, progress)
        return self.replace(
            params=self.params.replace(**params), optimiser=self.optimiser.replace(**states)
        )


class CriticState(Struct):
    """What learning changes."""

    learner: CriticLearner
    replay: PyTree
    progress: Progress
    box: ActionBox
    source: SourceState  # of the successors
    parts: tuple[PyTree, ...]  # what each part of the chain remembers
    actor: TanhGaussianActor | DeterministicActor = struct.field(pytree_node=False)
    critic: ActionCritic = struct.field(pytree_node=False)


class Actor(Protocol):
    """What chooses actions for critics, and climbs them. Actions are unit actions, see `ActionBox`.

    `agent` below is the `CriticAgent` at present, with its operator, pessimism, target and
    optimiser; `outputs` are those of `network` at observations `[B, ...]`.
    """

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of those that `climb` gives: a class attribute will do, here and below."""

    @property
    def is_random(self) -> bool:
        """Whether `climb` spends its key."""

    @property
    def lags(self) -> bool:
        """Whether the actor has a lagged copy, as the critics do."""

    def network(self, torso: Torso, size: int) -> Any:
        """The network from observations to a policy over `size` numbers."""

    def start(self) -> dict[str, Array]:
        """Further parameters, by field of `CriticParams`."""

    def greedy(self, outputs: Any) -> Array:
        """Actions `[B, D]` without exploration."""

    def draw(self, key: Key, outputs: Any, progress: Progress) -> Array:
        """Exploring actions `[B, D]`."""

    def follow(
        self, key: Key, agent: Any, state: CriticState, successors: PyTree
    ) -> tuple[Array, Any]:
        """Next actions `[N, D]` at `successors[N, ...]`, and what a target adds to the return from
        there, `[N]` [return]; None for nothing."""

    def turns(self, learner: CriticLearner, num_updates: int) -> tuple:
        """More inputs of `climb`, `[num_updates, ...]`, from the learner before all of them."""

    @property
    def climb(self) -> Callable[..., tuple[CriticLearner, dict[str, Array]]]:
        """A method, `climb(key, agent, state, batch, *turn)`, of an entry of each of `turns`: the
        learner after the step of the actor and of the lagged copies, in a state whose critics have
        moved already, and the metrics."""


class SquashedGaussian(Struct):
    """A stochastic actor with a learned temperature: soft actor-critic.

        target += D (-temperature log pi(a' | s')),   a' ~ pi(s')
        actor : temperature log pi(b | s) - score of the critics at (s, b),   b ~ pi(s)
        log temperature : log temperature * (entropy of pi - target entropy)

    b is reparameterised. The critics alone have a lagged copy. Entropies count as sure returns;
    densities are those of unit actions, or what a part of the agent's chain makes of those of the
    coordinates. With n-step windows the entropies of the steps in between
    are left out.

    Metrics: `actor_loss`; `entropy` [nats]; `temperature` [return per nat].

    Numerics: the temperature moves on its logarithm, with the published gradient divided by the
    temperature: the same root, and Adam's step does not stall when the temperature is small.

    Source: Haarnoja et al. 2018, Soft actor-critic algorithms and applications, equations 5, 7, 18
    and algorithm 1.
    """

    initial_temperature: float = setting(
        1.0, "first weight of the entropy", unit="return per nat", low=0.0, low_open=True
    )
    target_entropy: float = setting(
        -1.0,
        "entropy that the temperature keeps, of each action coordinate scaled to [-1, 1]",
        unit="nats per coordinate",
        high=0.693,  # log 2, the entropy of a uniform coordinate
    )

    metrics = ("actor_loss", "entropy", "temperature")
    is_random = True
    lags = False

    def network(self, torso: Torso, size: int) -> TanhGaussianActor:
        """To a tanh-squashed Gaussian."""
        return TanhGaussianActor(torso, size)

    def start(self) -> dict[str, Array]:
        """The logarithm of the temperature."""
        return {"log_temperature": jnp.log(jnp.asarray(self.initial_temperature, jnp.float32))}

    def greedy(self, outputs: TanhGaussianPolicy) -> Array:
        """The squashed mean."""
        return outputs.mode()

    def draw(self, key: Key, outputs: TanhGaussianPolicy, progress: Progress) -> Array:
        """From the policy."""
        return outputs.sample(key)

    def follow(
        self, key: Key, agent: Any, state: CriticState, successors: PyTree
    ) -> tuple[Array, Array]:
        """Drawn by the policy as it is, with the worth of its entropy."""
        params = state.learner.params
        policy = state.actor.apply(params.actor, successors)
        action, log_prob = _drawn(key, agent, state, policy)
        return action, -_temperature(params) * log_prob

    def turns(self, learner: CriticLearner, num_updates: int) -> tuple:
        """Nothing: it moves every time."""
        return ()

    def climb(
        self, key: Key, agent: Any, state: CriticState, batch: Batch
    ) -> tuple[CriticLearner, dict[str, Array]]:
        """One step of the policy, one of the temperature, one of the copy."""
        learner, weights, data = state.learner, normalised_weights(batch), batch.transition
        params, temperature = learner.params, _temperature(learner.params)

        def loss(actor: PyTree) -> tuple[Array, Array]:
            policy = state.actor.apply(actor, data.observation)
            action, log_prob = _drawn(key, agent, state, policy)
            outputs = state.critic.apply(params.critic, data.observation, action)
            score = jax.vmap(agent.pessimism.score, (None, 1))(agent.operator, outputs)
            return jnp.sum(weights * (temperature * log_prob - score)), jnp.sum(weights * -log_prob)

        (total, entropy), slope = jax.value_and_grad(loss, has_aux=True)(params.actor)
        surplus = entropy - self.target_entropy * state.box.size
        surplus = jnp.where(jnp.sum(batch.weights) > 0, surplus, 0.0)
        moved = learner.stepped(
            agent.optimiser, state.progress, actor=slope, log_temperature=surplus
        )
        lagged = agent.target.move(learner.target_critic, params.critic, learner.num_updates)
        logs = {"actor_loss": total, "entropy": entropy, "temperature": temperature}
        return moved.replace(target_critic=lagged), logs


def _drawn(
    key: Key, agent: Any, state: CriticState, policy: TanhGaussianPolicy
) -> tuple[Array, Array]:
    """An action `[B, D]` and its log-density `[B]`, or what a part of the chain counts as that."""
    for place, part in chain.of_kind(agent.parts, chain.Densities):
        action, log_probs = policy.sample_with_log_probs(key)
        return action, part.log_prob(state.parts[place], log_probs)
    return policy.sample_with_log_prob(key)


def _temperature(params: CriticParams) -> Array:
    """`[]` [return per nat]; at most about 2e17, whose square float32 still holds in a loss."""
    return jnp.exp(jnp.minimum(params.log_temperature, 40.0))


class Deterministic(Struct):
    """A deterministic actor that moves seldom, among noises: TD3.

        a'    = clip(mu'(s') + clip(smoothing e, -c, c), -1, 1),   e ~ N(0, I), c = smoothing_clip
        actor : - score of the first critic at (s, mu(s)), every `policy_delay` steps

    mu' is a lagged copy, which moves with those of the critics when the actor does. Noises are of
    unit actions: 1 is half the width of the action box. With `smoothing = 0`, `policy_delay = 1`
    and one critic this is DDPG.

    Sources: Fujimoto et al. 2018, Addressing function approximation error in actor-critic methods,
    equation 14 and algorithm 1; Lillicrap et al. 2016 (DDPG).
    """

    exploration: float | Schedule = setting(
        0.1, "standard deviation of the noise on actions", unit="half action widths", low=0.0
    )
    smoothing: float = setting(
        0.2, "standard deviation of the noise on lagged actions", unit="half action widths", low=0.0
    )
    smoothing_clip: float = setting(
        0.5, "largest noise on lagged actions", unit="half action widths", low=0.0
    )
    policy_delay: int = setting(2, "critic steps for each policy step", unit="updates", low=1)

    metrics = ()
    is_random = False
    lags = True

    def network(self, torso: Torso, size: int) -> DeterministicActor:
        """To one action."""
        return DeterministicActor(torso, size)

    def start(self) -> dict[str, Array]:
        """Nothing."""
        return {}

    def greedy(self, outputs: Array) -> Array:
        """The action."""
        return outputs

    def draw(self, key: Key, outputs: Array, progress: Progress) -> Array:
        """The action and normal noise, cut at the ends of the box."""
        noise = value_at(self.exploration, progress) * jax.random.normal(key, outputs.shape)
        return jnp.clip(outputs + noise, -1.0, 1.0)

    def follow(
        self, key: Key, agent: Any, state: CriticState, successors: PyTree
    ) -> tuple[Array, None]:
        """The lagged actor's, smoothed by noise."""
        action = state.actor.apply(state.learner.target_params.actor, successors)
        noise = self.smoothing * jax.random.normal(key, action.shape)
        noise = jnp.clip(noise, -self.smoothing_clip, self.smoothing_clip)
        return jnp.clip(action + noise, -1.0, 1.0), None

    def turns(self, learner: CriticLearner, num_updates: int) -> tuple[Array]:
        """Whether the policy moves in each step, `[num_updates]`."""
        # Under `vmap` over seeds the count of each life is batched, and so is all that enters
        # this branch from outside; a conditional on it would pay for both its sides. Where every
        # iteration makes whole rounds, the position in it says enough.
        counts = 1 + jnp.arange(num_updates)
        if num_updates % self.policy_delay:
            counts += learner.num_updates
        return (counts % self.policy_delay == 0,)

    def climb(
        self, key: Key, agent: Any, state: CriticState, batch: Batch, turn: Array
    ) -> tuple[CriticLearner, dict[str, Array]]:
        """One step of the policy and of all copies, in its turn."""
        weights, data = normalised_weights(batch), batch.transition

        def loss(actor: PyTree, critic: PyTree) -> Array:
            action = state.actor.apply(actor, data.observation)
            # One critic alone: the smaller of two would bend the gradient where they cross.
            first = jax.tree.map(lambda leaf: leaf[:1], critic)
            outputs = state.critic.clone(num_critics=1).apply(first, data.observation, action)[0]
            return -jnp.sum(weights * jax.vmap(agent.operator.score)(outputs))

        def move(learner: CriticLearner) -> tuple[PyTree, ...]:
            slope = jax.grad(loss)(learner.params.actor, learner.params.critic)
            moved = learner.stepped(agent.optimiser, state.progress, actor=slope)
            number = learner.num_updates // self.policy_delay
            lagged = agent.target.move(learner.target_params, moved.params, number)
            return moved.params.actor, moved.optimiser.actor, lagged

        def wait(learner: CriticLearner) -> tuple[PyTree, ...]:
            return learner.params.actor, learner.optimiser.actor, learner.target_params

        learner = state.learner
        actor, optimiser, lagged = jax.lax.cond(turn, move, wait, learner)
        return learner.replace(
            params=learner.params.replace(actor=actor),
            optimiser=learner.optimiser.replace(actor=optimiser),
            target_params=lagged,
        ), {}
