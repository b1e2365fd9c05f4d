"""The on-policy actor-critic agent under a pluggable rule: A2C, PPO, and what comes after them."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.agents import action_values, experience, on_policy
from jaxrl.agents.action_box import ActionBox, check_action_box
from jaxrl.agents.checks import check_environment, check_signals, longest_episode
from jaxrl.agents.minibatches import check_minibatches, descend
from jaxrl.agents.optimiser import GradientStep, Optimiser, as_optimiser
from jaxrl.agents.successors import Sampled, SourceState, Successors
from jaxrl.core import Struct, struct
from jaxrl.core.protocols import Environment, UpdateRule, rule_facts
from jaxrl.core.schedules import values_at
from jaxrl.core.settings import SettableStruct, setting
from jaxrl.core.spaces import Box, is_masked
from jaxrl.core.types import Array, Key, Progress, PyTree, Transition
from jaxrl.networks import GaussianPolicy, Network, NetworkSettings, actor_critic
from jaxrl.networks.distributions import Policy, ProductPolicy
from jaxrl.networks.given import as_network
from jaxrl.networks.models import ActorCritic
from jaxrl.operators import BellmanOperator
from jaxrl.operators.bellman import describe
from jaxrl.rules import PolicyOutputs, ProximalPolicy
from jaxrl.rules.contract import reported


class ActorCriticState(Struct):
    """What learning changes."""

    params: PyTree
    rule_state: PyTree  # what the rule remembers
    optimiser: PyTree
    progress: Progress
    box: ActionBox | tuple  # of the actions; () for discrete ones
    marks: PyTree  # `EpisodeMarks` of the next rollout, () unless the rule needs whole episodes
    source: SourceState  # of the successors
    model: ActorCritic = struct.field(pytree_node=False)


class EpisodeMarks(Struct):
    """What tells the whole episodes of the next rollout."""

    starts: Array  # [B] bool, whether the next step begins an episode
    longest: Array  # [] no episode is longer [steps]

    def first_steps(self, ended: Array) -> Array:
        """Where the episode of each step begins, -1 for those that do not count.

        An episode counts when it begins in the rollout, and early enough to end in it *however long
        it may take*. Whether it counts so depends on what went before and not on the episode
        itself: sums over those that count are unbiased (Wald's identity). To take all that happen
        to be whole would favour short ones.

        Args:
            ended: `[T, B]`, whether an episode ends with the step.

        Returns:
            `[T, B]` int32.

        Example:
            >>> marks = EpisodeMarks(jnp.array([True]), jnp.asarray(3.0))
            >>> ended = jnp.array([0, 1, 1, 0, 0, 1], bool)[:, None]
            >>> marks.first_steps(ended)[:, 0].tolist()  # from step 3 on it just fits
            [0, 0, 2, 3, 3, 3]
            >>> marks.replace(longest=jnp.asarray(4.0)).first_steps(ended)[:, 0].tolist()
            [0, 0, 2, -1, -1, -1]
        """
        num_steps = ended.shape[0]
        step = jnp.arange(num_steps, dtype=jnp.int32)[:, None]
        begins = jnp.concatenate([self.starts[None], ended[:-1]])
        first = jax.lax.cummax(jnp.where(begins, step, -1), axis=0)
        return jnp.where(first + self.longest <= num_steps, first, -1)


class ActorCriticAgent(SettableStruct):
    """Rolls out `num_envs` x `rollout_length` steps, then makes `num_epochs` passes over them.

    The value of the true successor of every step is used: truncation bootstraps, termination does
    not. Gaussian policies act in units of the action box, -1 and 1 for its ends, and are clipped to
    it as actions leave the agent; log-probabilities and entropies are those of the unclipped draw
    in these units. A coordinate that is not bounded on both sides is its own unit.

    The numbers of `rule` may be schedules. A rule whose facts say `needs_episodes`, such as
    `StaticRiskGradient`, is told which episodes lie whole in a rollout.

    The critic may be an `operator`'s: its head stores the value and is fitted by its own loss, and
    errors are those of its backup over what `successors` give, so that a worst case or a nested
    risk over `Generative` draws is what the policy is improved for. The policy says which actions
    follow: the operator's improvement is not asked. A head that stores laws is fitted to laws of
    lambda-returns, under drawn successors to one-step backups.

    Metrics: `loss`, `entropy` [nats]; `clipped_fraction` of returns where the head's grid has ends.

    Sources: Mnih et al. 2016 (A2C); Schulman et al. 2016 (generalised advantages), 2017 (PPO).
    """

    rule: UpdateRule = ProximalPolicy()
    network: Network = struct.field(default=NetworkSettings(), converter=as_network)
    optimiser: GradientStep = struct.field(default=Optimiser(), converter=as_optimiser)
    discount: float = setting(0.99, "discount factor", unit="per step", low=0.0, high=1.0)
    num_envs: int = setting(16, "environments stepped side by side", low=1)
    rollout_length: int = setting(64, "length of each rollout", unit="steps", low=1)
    num_epochs: int = setting(4, "passes over each rollout", low=1)
    num_minibatches: int = setting(8, "gradient steps in each pass", low=1)
    normalise_advantages: bool = setting(True, "standardise advantages in every minibatch")
    shared_torso: bool = setting(False, "let policy and value share one torso")
    operator: BellmanOperator | None = None  # None: the value is a number, fitted by the rule
    successors: Successors = Sampled()

    keep_env_state = experience.keep_env_state

    def check(self, env: Environment) -> None:
        """Refuse environments and settings that the agent cannot learn with.

        Raises:
            ValueError: spaces without a network, minibatches that do not divide, actions held
                under another discount, rollouts that may hold no whole episode, where the rule
                needs them, standardised advantages, where the rule gives them a scale, or an
                operator that asks for more than there is.
        """
        if isinstance(env.action_space, Box):
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
        facts = rule_facts(self.rule)
        if self.normalise_advantages and (facts.raw_advantages or facts.needs_episodes):
            raise ValueError(
                f"The advantages of {type(self.rule).__name__} have a scale and a mean of their "
                "own, which normalise_advantages=True would take away: set "
                "normalise_advantages=False."
            )
        if facts.needs_episodes:
            _check_episodes(env, self.rollout_length)
        if self.operator is not None:
            self._check_operator(self.operator, env)
        elif self.successors.is_random or self.successors.facts.replay:
            raise ValueError(
                f"successors={type(self.successors).__name__} feed an operator: give one, such as "
                "operator=BellmanOperator(successor_functional=CVaR(0.1))."
            )

    def _check_operator(self, operator: BellmanOperator, env: Environment) -> None:
        on_policy.check_operator(self, operator, env)
        facts = rule_facts(self.rule)
        if facts.raw_advantages or facts.needs_episodes or facts.own_rewards:
            raise ValueError(
                f"{type(self.rule).__name__} makes advantages and values of its own: leave out the "
                "operator, or take a rule with lambda-returns, such as ProximalPolicy()."
            )
        if not operator.improvement.facts.deterministic:
            raise ValueError(
                f"Which actions follow is the policy's to say, not {describe(operator.improvement)}"
                "'s: leave improvement at Greedy(), or use pqn or dqn."
            )
        if not operator.return_functional.facts.is_expectation:
            raise ValueError(
                f"return_functional={describe(operator.return_functional)} scores actions, which a "
                "critic of states has none of: use successor_functional, or pqn or dqn."
            )

    def init(
        self, key: Key, env: Environment, total_steps: float | Array = float("inf")
    ) -> ActorCriticState:
        """Fresh parameters. `total_steps` [steps] is the life that schedules see."""
        params_key, reset_key = jax.random.split(key)
        model, marks, source = self._model(env), (), SourceState()
        if self.operator is not None:
            source_key = jax.random.fold_in(key, on_policy.SOURCE)
            source = self.successors.init(source_key, env, self.operator, self.network)
        if rule_facts(self.rule).needs_episodes:
            longest = jnp.asarray(longest_episode(env), jnp.float32)
            marks = EpisodeMarks(jnp.ones(self.num_envs, bool), longest)
        _, observation = env.reset(reset_key)
        batch = jax.tree.map(lambda leaf: leaf[None], observation)
        params = model.init(params_key, batch, jnp.zeros(1, bool), model.initial_memory(1))
        return ActorCriticState(
            params=params,
            rule_state=self.rule.init(params),
            optimiser=self.optimiser.init(params),
            progress=Progress.start(total_steps),
            box=() if model.discrete else ActionBox.of(env.action_space),
            marks=marks,
            source=source,
            model=model,
        )

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
        mask: PyTree = (),
    ) -> tuple[Array, dict[str, Any]]:
        """`observation[B, ...]` -> `action[B, ...]`, extras with `log_prob[B]`.

        Only what is true in `mask[B, A]` is taken, if one is given.
        """
        arguments, extras = self._arguments(state, observation, memory), {}
        if self.network.recurrent_size:
            policy, _, _, extras["memory"] = state.model.apply(*arguments)
            extras["memory_before"] = arguments[-1]
        else:
            policy, _ = state.model.apply(*arguments, method="policy")
        policy = _masked(policy, mask)
        # What was done is data: an outer gradient reaches parameters through its log-probability.
        raw = jax.lax.stop_gradient(policy.sample(key) if explore else policy.mode())
        extras["log_prob"] = policy.log_prob(raw)
        if isinstance(policy, GaussianPolicy):
            extras["raw_action"] = raw
            return state.box.from_unit(raw), extras
        return raw, extras

    def _arguments(self, state: ActorCriticState, observation: PyTree, memory: PyTree) -> tuple:
        """Of the network, in the middle of an episode."""
        if not memory:
            memory = self.initial_memory(jax.tree.leaves(observation)[0].shape[0])
        return state.params, observation, jnp.zeros((), bool), memory

    def update(
        self, key: Key, state: ActorCriticState, trajectory: Transition
    ) -> tuple[ActorCriticState, dict[str, Array]]:
        """`num_epochs` x `num_minibatches` gradient steps on `trajectory[T, B]`."""
        check_signals(trajectory, rule_facts(self.rule).num_costs)
        ended = (trajectory.terminated >= 1) | trajectory.truncated
        if state.marks:
            first = state.marks.first_steps(ended)
            trajectory = trajectory.replace(extras={**trajectory.extras, "first_step": first})
        targets, state, logs = self._targets(key, state, trajectory)
        starts = jnp.concatenate([jnp.zeros_like(ended[:1]), ended[:-1]])
        action = trajectory.extras.get("raw_action", trajectory.action)
        data = (trajectory.observation, action, targets, starts, trajectory.mask)
        if self.network.recurrent_size:  # whole sequences, each with the memory at its start
            before = trajectory.extras["memory_before"]
            data = (*data, jax.tree.map(lambda leaf: leaf[:1], before))
        else:
            data = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), data)
        loss, axis = functools.partial(self._loss, state), int(self.network.recurrent_size > 0)
        learned, (mean_loss, entropy) = descend(key, self, state, loss, data, axis)
        progress = state.progress.advance(ended.size)
        learned = learned.replace(progress=progress)
        if state.marks:
            learned = learned.replace(marks=state.marks.replace(starts=ended[-1]))
        logs |= reported(self.rule, state.rule_state)
        return learned, {"loss": mean_loss, "entropy": entropy} | logs

    def _model(self, env: Environment) -> ActorCritic:
        spaces, heads = (env.observation_space, env.action_space), self.rule.outputs
        shape = () if self.operator is None else self.operator.head.shape
        return actor_critic(self.network, *spaces, self.shared_torso, heads, shape)

    def policy(
        self, state: ActorCriticState, observation: PyTree, memory: PyTree = (), mask: PyTree = ()
    ) -> Policy:
        """The law of draws at `observation[..., *]`, on the actions that are true in
        `mask[..., A]`, if one is given; of box actions, in units of the box."""
        return _masked(self._read("policy", state, observation, memory), mask)

    def values(
        self, state: ActorCriticState, observation: PyTree, memory: PyTree = (), mask: PyTree = ()
    ) -> Array:
        """The critic's values at `observation[..., *]` [return], whatever is legal there."""
        return self._value(self._read("value", state, observation, memory))

    def _value(self, params: Array) -> Array:
        """What the critic gives `[..., *head.shape]` -> values `[...]` [return]."""
        if self.operator is None:
            return params
        return action_values.each(self.operator.head.mean, params, self.operator.head)

    def response(
        self, key: Key, state: ActorCriticState, observation: Array, memory: PyTree
    ) -> tuple[Array, bool]:
        """Logits, or the action before it is clipped: see `readers.response`."""
        policy = self.policy(state, observation, memory)
        if isinstance(policy, GaussianPolicy):
            return state.box.stretched(policy.mode()), False
        if isinstance(policy, ProductPolicy):
            raise ValueError("no gradient attack on MultiDiscrete actions is known.")
        return policy.logits, True

    def _read(self, what: str, state: ActorCriticState, observation: PyTree, memory: PyTree) -> Any:
        return state.model.apply(*self._arguments(state, observation, memory), method=what)[0]

    def _targets(
        self, key: Key, state: ActorCriticState, trajectory: Transition
    ) -> tuple[Any, ActorCriticState, dict[str, Array]]:
        """Targets of the rule, the state with what the rule and the source of successors remember
        of the rollout, and metrics."""
        memory = trajectory.extras.get("memory_before", ())
        next_memory = trajectory.extras.get("memory_after", ())

        def outputs_of(observation: PyTree, memory: PyTree) -> tuple:
            return state.model.apply(*self._arguments(state, observation, memory))

        policy, params, heads, _ = outputs_of(trajectory.observation, memory)
        policy = _masked(policy, trajectory.mask)
        _, next_params, next_heads, _ = outputs_of(trajectory.next_observation, next_memory)
        outputs = PolicyOutputs(
            log_prob=trajectory.extras["log_prob"],
            entropy=policy.entropy(),
            value=self._value(params),
            next_value=self._value(next_params),
            policy=policy,
            heads=heads,
            next_heads=next_heads,
        )
        rule = values_at(self.rule, state.progress)
        if self.operator is None:
            targets, kept = rule.targets(state.rule_state, outputs, trajectory, state.progress)
            return targets, state.replace(rule_state=kept), {}
        head, drawn, source = self.operator.head, None, state.source
        if self.successors.is_random:
            ahead = on_policy.one_step_ahead(
                key,
                self,
                state,
                trajectory,
                outputs.next_value,
                lambda seen: self._read("value", state, seen, ())[:, :, None],  # of one action
            )
            source = on_policy.learned_source(self, state, trajectory, ahead.law)
            trajectory, drawn = trajectory.replace(reward=ahead.reward), ahead.law
        elif head.facts.stores_law:
            laws = action_values.each(head.law, next_params, head)
            outputs = outputs.replace(head=head, next_laws=laws)
        targets, kept = rule.targets(state.rule_state, outputs, trajectory, state.progress)
        if head.facts.stores_law and drawn is not None:
            targets = targets.replace(laws=jax.vmap(jax.vmap(head.encode))(drawn))
        state = state.replace(rule_state=kept, source=source)
        return targets, state, on_policy.narrowness(head, targets.returns)

    def _loss(self, state: ActorCriticState, params: PyTree, batch: tuple) -> tuple[Array, Array]:
        observation, action, targets, starts, legal, *memory = batch
        if memory:
            before = jax.tree.map(lambda leaf: leaf[0], memory[0])
            policy, value, heads = _unroll(state.model, params, observation, starts, before)
        else:
            policy, value, heads, _ = state.model.apply(params, observation, starts, ())
        policy = _masked(policy, legal)
        if self.normalise_advantages:
            centred = targets.advantage - jnp.mean(targets.advantage)
            targets = targets.replace(advantage=centred / (jnp.std(targets.advantage) + 1e-8))
        value_loss = None
        if self.operator is not None:
            found = (value, targets.returns, targets.laws)
            value_loss = on_policy.head_loss(self.operator.head, *found)
        outputs = PolicyOutputs(
            log_prob=policy.log_prob(action),
            entropy=policy.entropy(),
            value=self._value(value),
            policy=policy,
            heads=heads,
            value_loss=value_loss,
        )
        # The targets were computed before: constants to this gradient, not to an outer one.
        loss = values_at(self.rule, state.progress).loss(outputs, targets, state.progress)
        return jnp.mean(loss), jnp.mean(outputs.entropy)


def _masked(policy: Any, mask: PyTree) -> Any:
    """On the legal actions, where a mask says which they are."""
    return policy.masked(mask) if is_masked(mask) else policy


def _unroll(
    model: ActorCritic, params: PyTree, observation: PyTree, starts: Array, memory: PyTree
) -> tuple[Any, Array, dict[str, Array]]:
    """Policies, values and heads `[T, B]` along a trajectory, from the memories at its start."""

    def step(memory: PyTree, inputs: tuple[PyTree, Array]) -> tuple[PyTree, tuple]:
        observation, starts = inputs
        policy, value, heads, memory = model.apply(params, observation, starts, memory)
        return memory, (policy, value, heads)

    return jax.lax.scan(step, memory, (observation, starts))[1]


def _check_episodes(env: Environment, rollout_length: int) -> None:
    """Raise `ValueError` where a rollout cannot be counted on to hold an episode of `env`."""
    longest = longest_episode(env)
    if isinstance(longest, jax.core.Tracer) or np.all(np.asarray(longest) <= rollout_length):
        return
    if not np.all(np.isfinite(longest)):
        raise ValueError(
            "This rule learns from whole episodes, and nothing says how long they may be here: "
            "give the environment a time limit, such as TimeLimit(env, max_steps=100)."
        )
    raise ValueError(
        f"This rule learns from whole episodes: one may take {longest} steps, and a rollout has "
        f"{rollout_length}. Set rollout_length to {longest} or more (better twice that), or "
        "shorten episodes by TimeLimit(env, max_steps)."
    )
