"""The critic of an outer loop: it says how good a life's steps were for the outer objective."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.agents.optimiser import Optimiser
from jaxrl.core import struct
from jaxrl.core.protocols import Environment
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Key, Progress, PyTree, Transition
from jaxrl.networks import ActorCritic, NetworkSettings, actor_critic
from jaxrl.returns import generalised_advantages


@struct.dataclass
class CriticState:
    """What the critic of one life learns."""

    params: PyTree
    optimiser: PyTree
    progress: Progress


@struct.dataclass
class OuterCritic:
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

    network: NetworkSettings = struct.field(
        default_factory=lambda: NetworkSettings(hidden_sizes=(), initialiser="lecun")
    )
    optimiser: Optimiser = struct.field(
        default_factory=lambda: Optimiser(learning_rate=3e-2, max_grad_norm=None)
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
