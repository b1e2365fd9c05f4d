"""The on-policy actor-critic agent under a pluggable rule: A2C, PPO, and what comes after them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.agents.action_box import ActionBox, check_action_box
from jaxrl.agents.checks import check_environment, check_minibatches
from jaxrl.agents.episodes import check_episodes, first_steps, initial_marks
from jaxrl.agents.minibatches import shuffled
from jaxrl.agents.optimiser import GradientStep, Optimiser
from jaxrl.core import struct
from jaxrl.core.protocols import Environment, UpdateRule
from jaxrl.core.schedules import values_at
from jaxrl.core.settings import settable, setting
from jaxrl.core.spaces import Discrete
from jaxrl.core.types import Array, Key, Progress, PyTree, Transition
from jaxrl.networks import GaussianPolicy, NetworkSettings, actor_critic
from jaxrl.networks.distributions import Policy
from jaxrl.networks.models import ActorCritic
from jaxrl.rules import PolicyOutputs, ProximalPolicy


@struct.dataclass
class ActorCriticState:
    """What learning changes."""

    params: PyTree
    rule_state: PyTree  # what the rule remembers
    optimiser: PyTree
    progress: Progress
    box: ActionBox | tuple  # of the actions; () for discrete ones
    marks: PyTree  # `EpisodeMarks` of the next rollout, () unless the rule needs whole episodes
    model: ActorCritic = struct.field(pytree_node=False)


@struct.dataclass
class _Minibatches:
    """One rollout as the epochs see it: `[N]` steps, or `[T, B]` for a recurrent network."""

    observation: PyTree
    action: Array
    targets: PyTree
    starts: Array


@settable
@struct.dataclass
class ActorCriticAgent:
    """Rolls out `num_envs` x `rollout_length` steps, then makes `num_epochs` passes over them.

    The value of the true successor of every step is used: truncation bootstraps, termination does
    not. Gaussian policies act in units of the action box, -1 and 1 for its ends, and are clipped to
    it as actions leave the agent; log-probabilities and entropies are those of the unclipped draw
    in these units. A coordinate that is not bounded on both sides is its own unit.

    The numbers of `rule` may be schedules. A rule with a true attribute `needs_episodes`, such as
    `StaticRiskGradient`, is told which episodes lie whole in a rollout.

    Sources: Mnih et al. 2016 (A2C); Schulman et al. 2016 (generalised advantages), 2017 (PPO).
    """

    rule: UpdateRule = struct.field(default_factory=ProximalPolicy)
    network: NetworkSettings = struct.field(default_factory=NetworkSettings)
    optimiser: GradientStep = struct.field(default_factory=Optimiser)
    discount: float = setting(0.99, "discount factor", unit="per step", low=0.0, high=1.0)
    num_envs: int = setting(16, "environments stepped side by side", low=1)
    rollout_length: int = setting(
        64, "steps of each environment between updates", unit="steps", low=1
    )
    num_epochs: int = setting(4, "passes over each rollout", low=1)
    num_minibatches: int = setting(8, "gradient steps in each pass", low=1)
    normalise_advantages: bool = setting(True, "standardise advantages in every minibatch")
    shared_torso: bool = setting(False, "let policy and value share one torso")

    def check(self, env: Environment) -> None:
        """Refuse environments and settings that the agent cannot learn with.

        Raises:
            ValueError: spaces without a network, minibatches that do not divide, actions held
                under another discount, rollouts that may hold no whole episode, where the rule
                needs them, or standardised advantages, where the rule gives them a scale.
        """
        if not isinstance(env.action_space, Discrete):
            check_action_box(env, bounded=False)
        self._model(env)
        recurrent = self.network.recurrent_size > 0
        size = self.num_envs if recurrent else self.num_envs * self.rollout_length
        what = "num_envs" if recurrent else "num_envs x rollout_length"
        check_minibatches(what, size, self.num_minibatches)
        steps = size // self.num_minibatches * (self.rollout_length if recurrent else 1)
        if self.normalise_advantages and steps == 1:
            raise ValueError(
                f"With num_minibatches={self.num_minibatches} a minibatch is one step, whose "
                "advantage less its own mean is 0: nothing is learned. Use fewer minibatches, or "
                "normalise_advantages=False."
            )
        check_environment(env, self.discount)
        if self._needs_episodes:
            check_episodes(env, self.rollout_length, self.normalise_advantages)
        if self.normalise_advantages and getattr(self.rule, "raw_advantages", False):
            raise ValueError(
                f"The advantages of {type(self.rule).__name__} have a scale of their own, which "
                "normalise_advantages=True would take away: set normalise_advantages=False."
            )

    def init(
        self, key: Key, env: Environment, total_steps: float | Array = float("inf")
    ) -> ActorCriticState:
        """Fresh parameters. `total_steps` [steps] is the life that schedules see."""
        params_key, reset_key = jax.random.split(key)
        space = env.action_space
        model = self._model(env)
        _, observation = env.reset(reset_key)
        batch = jax.tree.map(lambda leaf: leaf[None], observation)
        params = model.init(params_key, batch, jnp.zeros(1, bool), model.initial_memory(1))
        return ActorCriticState(
            params=params,
            rule_state=self.rule.init(params),
            optimiser=self.optimiser.init(params),
            progress=Progress.start(total_steps),
            box=() if model.discrete else ActionBox.of(space),
            marks=initial_marks(env, self.num_envs) if self._needs_episodes else (),
            model=model,
        )

    @property
    def _needs_episodes(self) -> bool:
        return getattr(self.rule, "needs_episodes", False)

    def initial_memory(self, num_envs: int) -> PyTree:
        """Zero memories of actor and critic `[num_envs, H]`; `()` when feed-forward."""
        if not self.network.recurrent_size:
            return ()
        zeros = jnp.zeros((num_envs, self.network.recurrent_size))
        return (zeros, zeros)

    def act(
        self,
        key: Key,
        state: ActorCriticState,
        observation: PyTree,
        explore: bool = True,
        memory: PyTree = (),
    ) -> tuple[Array, dict[str, Any]]:
        """`observation[B, ...]` -> `action[B, ...]`, extras with `log_prob[B]`."""
        model = state.model
        memory = memory if memory or not self.network.recurrent_size else self._zero(observation)
        arguments = (state.params, observation, jnp.zeros((), bool), memory)
        extras: dict[str, Any] = {}
        if memory:
            policy, _, _, extras["memory"] = model.apply(*arguments)
            extras["memory_before"] = memory
        else:
            policy, _ = model.apply(*arguments, method="policy")
        # What was done is data: an outer gradient reaches parameters through its log-probability.
        raw = jax.lax.stop_gradient(policy.sample(key) if explore else policy.mode())
        extras["log_prob"] = policy.log_prob(raw)
        if isinstance(policy, GaussianPolicy):
            extras["raw_action"] = raw
            return state.box.from_unit(raw), extras
        return raw, extras

    def _zero(self, observation: PyTree) -> PyTree:
        return self.initial_memory(jax.tree.leaves(observation)[0].shape[0])

    def update(
        self, key: Key, state: ActorCriticState, trajectory: Transition
    ) -> tuple[ActorCriticState, dict[str, Array]]:
        """`num_epochs` x `num_minibatches` gradient steps on `trajectory[T, B]`."""
        ended = (trajectory.terminated >= 1) | trajectory.truncated
        if self._needs_episodes:
            first = first_steps(state.marks, ended)
            trajectory = trajectory.replace(extras={**trajectory.extras, "first_step": first})
        targets, rule_state = self._targets(state, trajectory)
        starts = jnp.concatenate([jnp.zeros_like(ended[:1]), ended[:-1]])
        action = trajectory.extras.get("raw_action", trajectory.action)
        data = _Minibatches(trajectory.observation, action, targets, starts)
        recurrent = self.network.recurrent_size > 0
        axis = 1 if recurrent else 0
        if not recurrent:
            data = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), data)
        memory = trajectory.extras["memory_before"] if recurrent else ()
        memory = jax.tree.map(lambda leaf: leaf[0], memory)
        size = starts.shape[1] if recurrent else starts.size
        shape = (self.num_minibatches, size // self.num_minibatches)

        def epoch(learner: tuple, epoch_key: Key) -> tuple[tuple, Array]:
            # One minibatch is the whole rollout, whose order does not matter.
            whole = self.num_minibatches == 1
            order = jnp.arange(size) if whole else shuffled(epoch_key, size)

            def minibatch(learner: tuple, rows: Array) -> tuple[tuple, Array]:
                params, optimiser = learner
                batch = data if whole else jax.tree.map(lambda x: jnp.take(x, rows, axis), data)
                start_memory = memory if whole else jax.tree.map(lambda leaf: leaf[rows], memory)
                (loss, entropy), grads = jax.value_and_grad(self._loss, has_aux=True)(
                    params, state, batch, start_memory
                )
                learner = self.optimiser.step(grads, optimiser, params, state.progress)
                return learner, jnp.stack([loss, entropy])

            return jax.lax.scan(minibatch, learner, order.reshape(shape))

        learner = (state.params, state.optimiser)
        keys = jax.random.split(key, self.num_epochs)
        (params, optimiser), logs = jax.lax.scan(epoch, learner, keys)
        loss, entropy = jnp.mean(logs, axis=(0, 1))
        state = state.replace(
            params=params,
            optimiser=optimiser,
            rule_state=rule_state,
            progress=state.progress.advance(ended.size),
        )
        if self._needs_episodes:
            state = state.replace(marks=state.marks.replace(starts=ended[-1]))
        return state, {"loss": loss, "entropy": entropy}

    def _model(self, env: Environment) -> ActorCritic:
        spaces = (env.observation_space, env.action_space)
        return actor_critic(self.network, *spaces, self.shared_torso, self.rule.outputs)

    def policy(self, state: ActorCriticState, observation: PyTree, memory: PyTree = ()) -> Policy:
        """The law of draws at `observation[..., *]`; of box actions, in units of the box."""
        return self._read("policy", state, observation, memory)

    def values(self, state: ActorCriticState, observation: PyTree, memory: PyTree = ()) -> Array:
        """The critic's values at `observation[..., *]` [return]."""
        return self._read("value", state, observation, memory)

    def response(
        self, key: Key, state: ActorCriticState, observation: Array, memory: PyTree
    ) -> tuple[Array, bool]:
        """Logits, or the action before it is clipped: see `readers.response`."""
        policy = self.policy(state, observation, memory)
        if isinstance(policy, GaussianPolicy):
            return state.box.stretched(policy.mode()), False
        return policy.logits, True

    def _read(self, what: str, state: ActorCriticState, observation: PyTree, memory: PyTree) -> Any:
        memory = memory if memory or not self.network.recurrent_size else self._zero(observation)
        arguments = (state.params, observation, jnp.zeros((), bool), memory)
        return state.model.apply(*arguments, method=what)[0]

    def _targets(self, state: ActorCriticState, trajectory: Transition) -> tuple[Any, PyTree]:
        memory = trajectory.extras.get("memory_before", ())
        next_memory = trajectory.extras.get("memory_after", ())

        def outputs_of(observation: PyTree, memory: PyTree) -> tuple:
            return state.model.apply(state.params, observation, jnp.zeros((), bool), memory)

        policy, value, heads, _ = outputs_of(trajectory.observation, memory)
        _, next_value, next_heads, _ = outputs_of(trajectory.next_observation, next_memory)
        outputs = PolicyOutputs(
            log_prob=trajectory.extras["log_prob"],
            entropy=policy.entropy(),
            value=value,
            next_value=next_value,
            policy=policy,
            heads=heads,
            next_heads=next_heads,
        )
        rule = values_at(self.rule, state.progress)
        return rule.targets(state.rule_state, outputs, trajectory, state.progress)

    def _loss(
        self, params: PyTree, state: ActorCriticState, batch: _Minibatches, memory: PyTree
    ) -> tuple[Array, Array]:
        model, observation, starts = state.model, batch.observation, batch.starts
        if self.network.recurrent_size:
            policy, value, heads = _unroll(model, params, observation, starts, memory)
        else:
            policy, value, heads, _ = model.apply(params, observation, starts, ())
        targets = batch.targets
        if self.normalise_advantages:
            centred = targets.advantage - jnp.mean(targets.advantage)
            targets = targets.replace(advantage=centred / (jnp.std(targets.advantage) + 1e-8))
        outputs = PolicyOutputs(
            log_prob=policy.log_prob(batch.action),
            entropy=policy.entropy(),
            value=value,
            policy=policy,
            heads=heads,
        )
        # The targets were computed before: constants to this gradient, not to an outer one.
        loss = values_at(self.rule, state.progress).loss(outputs, targets, state.progress)
        return jnp.mean(loss), jnp.mean(outputs.entropy)


def _unroll(
    model: ActorCritic, params: PyTree, observation: PyTree, starts: Array, memory: PyTree
) -> tuple[Any, Array, dict[str, Array]]:
    """Policies, values and heads `[T, B]` along a trajectory, from the memories at its start."""

    def step(memory: PyTree, inputs: tuple[PyTree, Array]) -> tuple[PyTree, tuple]:
        observation, starts = inputs
        policy, value, heads, memory = model.apply(params, observation, starts, memory)
        return memory, (policy, value, heads)

    return jax.lax.scan(step, memory, (observation, starts))[1]
