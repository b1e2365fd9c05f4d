"""What an outer gradient climbs, given the windows of updates that lives go through."""

# Bodies of protocols are their docstrings.
# pyright: reportReturnType=false

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxrl.agents.optimiser import GradientStep, Optimiser, as_optimiser
from jaxrl.agents.readers import along
from jaxrl.core import Struct, struct
from jaxrl.core.protocols import Agent, Environment
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Key, Progress, PyTree, Transition
from jaxrl.meta.inner import differentiable_iteration, repeat
from jaxrl.networks.given import as_network
from jaxrl.networks.models import ActorCritic, actor_critic
from jaxrl.networks.torsos import Network, NetworkSettings
from jaxrl.returns import generalised_advantages
from jaxrl.training.loop import TrainState


class CriticState(Struct):
    """What the critic of one life learns."""

    params: PyTree
    optimiser: PyTree
    progress: Progress


class OuterCritic(Struct):
    """State values under the outer discount, learned along each life by lambda-returns.

    It starts with the life, sees the life's trajectories alone, and no gradient passes from it to
    what the outer loop learns.

    Attributes:
        network: of the values; without hidden layers a table where observations are numbers.
        optimiser: of the regression.
        discount: of the outer objective, in [0, 1] [per step].
        lambda_: trace decay of advantages and returns, in [0, 1].
        num_passes: over the trajectories of a window, one gradient step for each.
    """

    network: Network = struct.field(
        default=NetworkSettings(hidden_sizes=(), initialiser="lecun"), converter=as_network
    )
    optimiser: GradientStep = struct.field(
        default=Optimiser(learning_rate=3e-2, max_grad_norm=None), converter=as_optimiser
    )
    discount: float = setting(0.99, "of the outer objective", unit="per step", low=0.0, high=1.0)
    lambda_: float = setting(0.95, "trace decay", low=0.0, high=1.0)
    num_passes: int = setting(1, "passes over the trajectories of a window", low=1)

    def model(self, env: Environment) -> ActorCritic:
        """Its network; the policy's part is not used."""
        return actor_critic(self.network, env.observation_space, env.action_space, False)

    def init(self, key: Key, env: Environment) -> CriticState:
        """The critic of a new life."""
        reset_key, params_key = jax.random.split(key)
        _, observation = env.reset(reset_key)
        batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], observation)
        params = self.model(env).init(params_key, batch, jnp.zeros(1, bool), (), method="value")
        return CriticState(params, self.optimiser.init(params), Progress.start())

    def values(self, params: PyTree, env: Environment, observation: PyTree) -> Array:
        """`observation[...]` -> `[...]` [return]."""
        model = self.model(env)
        return model.apply(params, observation, jnp.zeros((), bool), (), method="value")[0]

    def advantages(
        self, state: CriticState, env: Environment, trajectory: Transition
    ) -> tuple[Array, Array]:
        """Advantages and lambda-returns `[T, B]` of the outer objective, as constants."""
        value = self.values(state.params, env, trajectory.observation)
        advantage = generalised_advantages(
            trajectory.reward,
            self.discount * (1.0 - trajectory.terminated),
            value,
            self.values(state.params, env, trajectory.next_observation),
            self.lambda_ * (1.0 - trajectory.truncated),
        )
        return jax.lax.stop_gradient((advantage, advantage + value))

    def learn(
        self, state: CriticState, env: Environment, trajectories: Transition
    ) -> tuple[CriticState, Array]:
        """Learn from `trajectories[K, T, B]` -> state, mean squared error `[]` before learning."""

        def step(state: CriticState, trajectory: Transition) -> tuple[CriticState, Array]:
            _, returns = self.advantages(state, env, trajectory)

            def loss(params: PyTree) -> Array:
                value = self.values(params, env, trajectory.observation)
                return 0.5 * jnp.mean((value - returns) ** 2)

            error, grads = jax.value_and_grad(loss)(state.params)
            params, optimiser = self.optimiser.step(
                grads, state.optimiser, state.params, state.progress
            )
            return CriticState(params, optimiser, state.progress.advance(1)), 2.0 * error

        def one_pass(state: CriticState, _: Any) -> tuple[CriticState, Array]:
            return jax.lax.scan(step, state, trajectories)

        state, errors = jax.lax.scan(one_pass, state, None, self.num_passes)
        return state, jnp.mean(errors[0])


class Objective(Protocol):
    """An outer loss of the states that a life goes through in a window of K updates."""

    @property
    def every(self) -> bool:
        """Whether the loss is the mean over the states after each update, or the last one's."""

    @property
    def num_further(self) -> int:
        """Updates after those of the window that a target is made of."""

    def loss(
        self,
        agent: Any,
        env: Environment,
        state: TrainState,
        data: Transition,
        advantages: Callable,
    ) -> Array:
        """The loss `[]` of one state, on the data `[T, B]` that it collected.

        `advantages(data)[0]` are the outer critic's `[T, B]`, in `[return]`, as constants.
        """


class PolicyReturn(Struct):
    """Climbs the return of the learners' policies, by the policy gradient of the outer critic.

        loss = - mean_k mean_t [ log pi_k(a_t | s_t) A_t + entropy_weight H(pi_k(. | s_t)) ]

    over the policies pi_k after update k of the window, k = 1 .. K, or after the last one alone.
    A_t are the outer critic's advantages on the data that pi_k collected, divided by their root
    mean square, so that tasks with large rewards do not drown the others.

    Sources: Xu, van Hasselt & Silver 2018, Meta-gradient reinforcement learning (the last state,
    on fresh data); Oh et al. 2020, Discovering reinforcement learning algorithms (with entropy).
    """

    entropy_weight: float = setting(0.0, "weight of the policy's entropy", unit="per nat", low=0.0)
    last_only: bool = setting(False, "count the policy after the last update alone")

    num_further = 0

    @property
    def every(self) -> bool:
        """All but with `last_only`."""
        return not self.last_only

    def loss(
        self,
        agent: Any,
        env: Environment,
        state: TrainState,
        data: Transition,
        advantages: Callable,
    ) -> Array:
        """As the formula says, of one state."""
        advantage, _ = advantages(data)
        scale = jnp.sqrt(jnp.mean(advantage**2)) + 1e-6
        policy = along(agent.policy, state.agent, data)
        gain = policy.log_prob(data.trace) * (advantage / scale)
        return -jnp.mean(gain + self.entropy_weight * policy.entropy())


class Bootstrap(Struct):
    """Matches the policy that further updates lead to.

        target = x after `num_further` more updates by the same rule and one by `plain`
        loss = mean_s KL( pi_target(. | s) || pi_K(. | s) ) + value_weight mean_s (v_target - v_K)^2

    at the states s of fresh data of pi_K. The target is a constant; its updates draw data of their
    own, which is not kept. Improvement comes from `plain`, an agent of the same network and
    optimiser whose rule is trusted.

    Attributes:
        plain: the agent of the target's last update.
        num_further: L - 1, >= 0.
        value_weight: of the match of values, >= 0; 0 leaves it out.

    Sources: Flennerhag et al. 2022, Bootstrapped meta-learning, equation 2 and section 5; Luketina
    et al. 2022, Meta-gradients in non-stationary environments, equation 4 (the direction of its
    divergence).
    """

    plain: Agent
    num_further: int = setting(0, "further updates by the learned rule", low=0)
    value_weight: float = setting(0.0, "weight of the match of values", low=0.0)

    every = False

    def target(self, agent: Any, env: Environment, state: TrainState) -> TrainState:
        """Where the further updates lead from `state`, as a constant."""
        fixed, goal = jax.lax.stop_gradient((agent, state))
        goal, _ = repeat(partial(differentiable_iteration, fixed, env), goal, self.num_further)
        goal, _, _ = differentiable_iteration(self.plain, env, goal)
        return jax.lax.stop_gradient(goal)

    def match(
        self, agent: Any, state: TrainState, goal: TrainState, trajectory: Transition
    ) -> Array:
        """How far `state` is from `goal` at the states of `trajectory`, `[]`."""
        target = along(agent.policy, goal.agent, trajectory)
        loss = jnp.mean(target.kl(along(agent.policy, state.agent, trajectory)))
        values = along(agent.values, state.agent, trajectory)
        gap = along(agent.values, goal.agent, trajectory) - values
        return loss + self.value_weight * jnp.mean(gap**2)

    def loss(
        self,
        agent: Any,
        env: Environment,
        state: TrainState,
        data: Transition,
        advantages: Callable,
    ) -> Array:
        """As the formula says; the target goes on from where the life will stand."""
        return self.match(agent, state, self.target(agent, env, state), data)
