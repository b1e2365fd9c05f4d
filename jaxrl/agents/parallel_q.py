"""Q-learning without replay or lagged copies, from many environments and lambda-returns."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxrl.agents import action_values, experience, on_policy
from jaxrl.agents.action_values import ValueNetwork, act
from jaxrl.agents.checks import (
    check_discrete_actions,
    check_environment,
    check_feed_forward,
    check_signals,
)
from jaxrl.agents.experience import no_memory
from jaxrl.agents.minibatches import check_minibatches, descend
from jaxrl.agents.optimiser import GradientStep, Optimiser, as_optimiser
from jaxrl.agents.successors import Sampled, SourceState, Successors
from jaxrl.core import Struct, struct
from jaxrl.core.law import Law
from jaxrl.core.protocols import Environment, Improvement
from jaxrl.core.schedules import Linear, Schedule, values_at
from jaxrl.core.settings import SettableStruct, setting
from jaxrl.core.spaces import is_masked
from jaxrl.core.types import Array, Key, Progress, PyTree, Transition
from jaxrl.networks import CategoricalPolicy, Network, NetworkSettings
from jaxrl.networks.given import as_network
from jaxrl.operators import BellmanOperator, Scalar
from jaxrl.returns import lambda_laws, lambda_returns
from jaxrl.rules.reactive import ReactiveExploration


class ParallelQState(Struct):
    """What learning changes."""

    params: PyTree
    optimiser: PyTree
    progress: Progress
    recent: PyTree  # mean rewards [N] that the exploration answers to; () when it does not
    exploration: PyTree  # what it explores by, as of the last update
    source: SourceState  # of the successors
    model: ValueNetwork = struct.field(pytree_node=False)


class ParallelQAgent(SettableStruct):
    """Regression on lambda-returns of fresh epsilon-greedy rollouts (Peng's Q(lambda) when greedy).

    target_t = r_t + d_t ((1 - lambda_t) V_t' + lambda_t target_{t+1}), V' the improvement's value
    of the true successor; lambda_t = 0 at truncations. Layer normalisation stands in for the lagged
    copy.

    Head, improvement and functionals are the operator's. A head that stores laws is fitted to laws
    of lambda-returns. Under drawn successors, r_t gives way to what makes each step's error that of
    the operator's backup over them, and laws are fitted to one-step backups.

    Outer loops take it as a learner: `exploration` may be a `ReactiveExploration`, whose weights a
    `Bootstrap` whose `plain` is this agent with little exploration can learn. The law that acts is
    flat in the parameters, so that gradients of other numbers pass through `values` alone
    (`Bootstrap.value_weight`).

    Source: Gallici et al. 2025, Simplifying deep temporal difference learning, algorithm 1.
    """

    operator: BellmanOperator = BellmanOperator(Scalar(float("inf")))
    network: Network = struct.field(
        default=NetworkSettings(hidden_sizes=(128, 128), activation="relu", layer_norm=True),
        converter=as_network,
    )
    optimiser: GradientStep = struct.field(
        default=Optimiser(learning_rate=Linear(1e-3, 1e-5), max_grad_norm=10.0, epsilon=1e-8),
        converter=as_optimiser,
    )
    successors: Successors = Sampled()
    discount: float = setting(0.99, "discount factor", unit="per step", low=0.0, high=1.0)
    lambda_: float = setting(0.95, "trace decay of the returns", low=0.0, high=1.0)
    exploration: float | Schedule | Improvement | ReactiveExploration = setting(
        Linear(1.0, 0.05, end=0.3), "chance of a random act, or an improvement", low=0.0, high=1.0
    )
    num_envs: int = setting(32, "environments stepped side by side", low=1)
    rollout_length: int = setting(64, "length of each rollout", unit="steps", low=1)
    num_epochs: int = setting(4, "passes over each rollout", low=1)
    num_minibatches: int = setting(16, "gradient steps in each pass", low=1)

    keep_env_state = experience.keep_env_state

    def check(self, env: Environment) -> None:
        """Refuse environments and settings that the agent cannot learn with.

        Raises:
            ValueError: actions that are not discrete or are held under another discount, a
                recurrent network, minibatches that do not divide, or an operator that asks for more
                than there is.
        """
        check_discrete_actions(env)
        check_feed_forward(self.network, env)
        check_environment(env, self.discount)
        size = self.num_envs * self.rollout_length
        check_minibatches("num_envs x rollout_length", size, self.num_minibatches)
        on_policy.check_operator(self, self.operator, env)

    def init(
        self, key: Key, env: Environment, total_steps: float | Array = float("inf")
    ) -> ParallelQState:
        """Fresh parameters. `total_steps` [steps] is the life that schedules see."""
        params_key, reset_key = jax.random.split(key)
        model = action_values.value_network(self.network, env, self.operator.head, dueling=False)
        source_key = jax.random.fold_in(key, on_policy.SOURCE)
        _, observation = env.reset(reset_key)
        params = model.init(params_key, jax.tree.map(lambda leaf: leaf[None], observation))
        state = ParallelQState(
            params=params,
            optimiser=self.optimiser.init(params),
            progress=Progress.start(total_steps),
            recent=now.init() if isinstance(now := self.exploration, ReactiveExploration) else (),
            exploration=(),
            source=self.successors.init(source_key, env, self.operator, self.network),
            model=model,
        )
        return state.replace(exploration=self.exploring(state))

    initial_memory, act = no_memory, act

    def exploring(self, state: ParallelQState) -> Array | Improvement:
        """What it explores by at present: the probability of a uniform action `[]`, or an
        improvement, whose law at the action values is drawn from."""
        if isinstance(self.exploration, ReactiveExploration):
            return self.exploration(state.recent)
        present = values_at(self.exploration, state.progress)
        return jax.tree.map(lambda number: jnp.asarray(number, float), present)

    def q_values(self, state: ParallelQState, observation: PyTree) -> Array:
        """`observation[..., *]` -> scores `[..., A]` [return]: the return functional of each
        action's law."""
        agent = on_policy.at_present(self, state.progress)
        params = state.model.apply(state.params, observation)
        return action_values.each(agent.operator.score, params, self.operator.head)

    def policy(
        self, state: ParallelQState, observation: PyTree, memory: PyTree = (), mask: PyTree = ()
    ) -> CategoricalPolicy:
        """The law that explores at `observation[..., *]`, epsilon-greedy or an improvement's.

        It explores as the agent did that `state` comes from, which may be another one: the target
        of a `Bootstrap` explores as its plain agent does.
        """
        return action_values.exploring(self.q_values(state, observation), state.exploration, mask)

    def values(
        self, state: ParallelQState, observation: PyTree, memory: PyTree = (), mask: PyTree = ()
    ) -> Array:
        """The improvement's values at `observation[..., *]`, `[...]` [return]."""
        return self._laws(state, observation, mask).mean()

    def _laws(self, state: ParallelQState, observation: PyTree, mask: PyTree) -> Law:
        """The improvement's laws at `observation[..., *]`, `[..., K]` [return]."""
        operator = on_policy.at_present(self, state.progress).operator
        state_law = operator.state_law
        params = state.model.apply(state.params, observation)
        for _ in range(params.ndim - 1 - len(operator.head.shape)):
            state_law = jax.vmap(state_law)
        return state_law(params, *[mask] * is_masked(mask))

    def response(
        self, key: Key, state: ParallelQState, observation: Array, memory: PyTree
    ) -> tuple[Array, bool]:
        """The values of the actions, as the law is flat in them: see `readers.response`."""
        return self.q_values(state, observation), True

    def update(
        self, key: Key, state: ParallelQState, trajectory: Transition
    ) -> tuple[ParallelQState, dict[str, Array]]:
        """`num_epochs` x `num_minibatches` gradient steps on `trajectory[T, B]`."""
        check_signals(trajectory)
        next_laws = self._laws(state, trajectory.next_observation, trajectory.next_mask)
        trace = self.lambda_ * (1.0 - trajectory.truncated)
        head, reward, laws = self.operator.head, trajectory.reward, None
        if self.successors.is_random:
            read, values = functools.partial(state.model.apply, state.params), next_laws.mean()
            ahead = on_policy.one_step_ahead(
                key, self, state, trajectory, values, read, masked=True
            )
            reward = ahead.reward
            source = on_policy.learned_source(self, state, trajectory, ahead.law)
            state = state.replace(source=source)
        if head.facts.stores_law and self.successors.is_random:
            laws = jax.vmap(jax.vmap(head.encode))(ahead.law)
        elif head.facts.stores_law:
            laws = lambda_laws(head, reward, trajectory.discount, next_laws, trace)
        target = lambda_returns(reward, trajectory.discount, next_laws.mean(), trace)
        data = (trajectory.observation, trajectory.action, target, laws)
        data = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), data)

        def loss(params: PyTree, batch: tuple) -> tuple[Array, Array]:
            observation, action, target, laws = batch
            rows = state.model.apply(params, observation)
            chosen = action_values.taken(rows, action)
            q_value = jnp.mean(action_values.each(head.mean, chosen, head))
            return jnp.mean(on_policy.head_loss(head, chosen, target, laws)), q_value

        gradient = jax.value_and_grad(loss, has_aux=True)
        state, (loss_mean, q_value) = descend(key, self, state, gradient, data)
        state = state.replace(progress=state.progress.advance(target.size))
        if isinstance(self.exploration, ReactiveExploration):
            recent = self.exploration.remember(state.recent, trajectory.reward)
            state = state.replace(recent=recent)
        state = state.replace(exploration=self.exploring(state))
        return state, {"loss": loss_mean, "q_value": q_value} | on_policy.narrowness(head, target)
