"""Q-learning from replay with a network: DQN and its distributional and prioritised kin."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrl.agents.checks import check_discrete_actions, check_feed_forward
from jaxrl.agents.experience import example_transition, store
from jaxrl.agents.exploration import epsilon_greedy
from jaxrl.agents.optimiser import Optimiser
from jaxrl.agents.targets import TargetUpdate
from jaxrl.core import struct
from jaxrl.core.protocols import Environment
from jaxrl.core.schedules import Linear, Schedule, value_at
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Key, Progress, PyTree, Transition
from jaxrl.networks import NetworkSettings, QNetwork
from jaxrl.operators import BellmanOperator, Lookahead, Scalar
from jaxrl.replay import Batch, PrioritisedReplay, UniformReplay


@struct.dataclass
class QNetworkState:
    """What learning changes."""

    params: PyTree
    target_params: PyTree
    optimiser: PyTree
    replay: PyTree
    progress: Progress
    num_updates: Array  # [] int32, gradient steps taken
    model: QNetwork = struct.field(pytree_node=False)


@struct.dataclass
class QNetworkAgent:
    """Epsilon-greedy rollouts into a replay; gradient steps towards backups of a lagged copy.

    The head, the improvement and the functionals are the operator's: `Scalar` is DQN, `Categorical`
    C51, `Quantile` QR-DQN. The replay's `num_step` makes n-step targets, a `PrioritisedReplay`
    draws by error. `double` lets the learning network choose the next action that the lagged one
    values.

    Sources: Mnih et al. 2015; van Hasselt et al. 2016 (double); Wang et al. 2016 (dueling); Schaul
    et al. 2016 (prioritised); Bellemare et al. 2017; Dabney et al. 2018; Hessel et al. 2018
    (combination).
    """

    operator: BellmanOperator = struct.field(
        default_factory=lambda: BellmanOperator(Scalar(float("inf")))
    )
    network: NetworkSettings = struct.field(
        default_factory=lambda: NetworkSettings(
            hidden_sizes=(64, 64), activation="relu", layer_norm=True
        )
    )
    optimiser: Optimiser = struct.field(
        default_factory=lambda: Optimiser(learning_rate=Linear(5e-4, 0.0), max_grad_norm=10.0)
    )
    replay: UniformReplay | PrioritisedReplay = struct.field(
        default_factory=lambda: UniformReplay(capacity=10_000)
    )
    target: TargetUpdate = struct.field(
        default_factory=lambda: TargetUpdate(period=32, step_size=1.0)
    )
    discount: float = setting(0.99, "discount factor", unit="per step", low=0.0, high=1.0)
    exploration: float | Schedule = setting(
        Linear(1.0, 0.05, end=0.3), "probability of a uniform action", low=0.0, high=1.0
    )
    importance: float | Schedule = setting(
        Linear(0.4, 1.0), "importance correction of a prioritised replay", low=0.0, high=1.0
    )
    num_envs: int = setting(8, "environments stepped side by side", low=1)
    rollout_length: int = setting(
        2, "steps of each environment between updates", unit="steps", low=1
    )
    num_updates: int = setting(2, "gradient steps after each rollout", low=1)
    batch_size: int = setting(128, "windows in each gradient step", low=1)
    warmup: int = setting(1000, "steps before the first gradient step", unit="steps", low=0)
    double: bool = setting(False, "choose the next action by the learning network")
    dueling: bool = setting(False, "split the network into value and advantage")

    @property
    def memory(self) -> UniformReplay | PrioritisedReplay:
        """The replay at this agent's number of environments."""
        return self.replay.replace(num_envs=self.num_envs)

    def check(self, env: Environment) -> None:
        """Refuse environments and settings that the agent cannot learn with.

        Raises:
            ValueError: actions that are not discrete, a recurrent network, a batch that the replay
                cannot give, or an operator that asks for more successors than a replay holds.
        """
        check_discrete_actions(env)
        check_feed_forward(self.network, env)
        self.memory.check(self.batch_size)
        self.operator.require_successors(1)

    def init(
        self, key: Key, env: Environment, total_steps: float | Array = float("inf")
    ) -> QNetworkState:
        """Fresh parameters and an empty replay. `total_steps` [steps] is the life schedules see."""
        params_key, reset_key = jax.random.split(key)
        model = QNetwork(
            self.network.torso(env.observation_space),
            env.action_space.num_values,
            self.operator.head.shape,
            self.dueling,
        )
        _, observation = jax.vmap(env.reset)(jax.random.split(reset_key, self.num_envs))
        params = model.init(params_key, observation)
        return QNetworkState(
            params=params,
            target_params=jax.tree.map(jnp.copy, params),
            optimiser=self.optimiser.init(params),
            replay=self.memory.init(example_transition(observation, env.action_space)),
            progress=Progress.start(total_steps),
            num_updates=jnp.zeros((), jnp.int32),
            model=model,
        )

    def initial_memory(self, num_envs: int) -> tuple:
        """Nothing is carried between steps."""
        return ()

    def act(
        self,
        key: Key,
        state: QNetworkState,
        observation: PyTree,
        explore: bool = True,
        memory: PyTree = (),
    ) -> tuple[Array, dict[str, PyTree]]:
        """`observation[B, ...]` -> `action[B]`, no extras."""
        scores = self.scores(state.model.apply(state.params, observation))
        if not explore:
            return jnp.argmax(scores, axis=-1).astype(jnp.int32), {}
        return epsilon_greedy(key, scores, value_at(self.exploration, state.progress)), {}

    def scores(self, params: Array) -> Array:
        """Head parameters `[..., A, *head.shape]` -> scores `[..., A]` [return]: the return
        functional of each action's law, which a backup's improvement uses too."""
        return _each(self.operator.score, params, len(self.operator.head.shape))

    def update(
        self, key: Key, state: QNetworkState, trajectory: Transition
    ) -> tuple[QNetworkState, dict[str, Array]]:
        """Store `trajectory[T, B]`, then take `num_updates` gradient steps once warmed up."""
        replay = self.memory
        state, ready = store(self, state, trajectory)
        beta = value_at(self.importance, state.progress)

        def learn(state: QNetworkState, draw_key: Key) -> tuple[QNetworkState, Array]:
            batch = replay.sample(draw_key, state.replay, self.batch_size, beta)
            learner = (state.params, state.target_params, state.optimiser)

            # The replay stays outside the conditional, which would copy it.
            def step(learner: tuple) -> tuple:
                return self._step(learner, batch, state)

            def skip(learner: tuple) -> tuple:
                return learner, jnp.zeros(self.batch_size), jnp.zeros(2)

            learner, priorities, logs = jax.lax.cond(ready, step, skip, learner)
            memory = replay.update_priorities(state.replay, batch.indices, priorities, when=ready)
            params, target_params, optimiser = learner
            state = state.replace(
                params=params,
                target_params=target_params,
                optimiser=optimiser,
                replay=memory,
                num_updates=state.num_updates + ready,
            )
            return state, logs

        state, logs = jax.lax.scan(learn, state, jax.random.split(key, self.num_updates))
        loss, q_value = jnp.mean(logs, axis=0)
        return state, {"loss": loss, "q_value": q_value}

    def _step(
        self, learner: tuple, batch: Batch, state: QNetworkState
    ) -> tuple[tuple, Array, Array]:
        params, target_params, optimiser = learner
        head, model, data = self.operator.head, state.model, batch.transition
        next_params = model.apply(target_params, data.next_observation)
        selector = model.apply(params, data.next_observation) if self.double else None
        lookahead = jax.vmap(Lookahead.of_transition)(
            data.reward, data.discount, next_params, selector
        )
        target = jax.lax.stop_gradient(jax.vmap(self.operator.backup)(lookahead))

        def loss(params: PyTree) -> tuple[Array, tuple[Array, Array]]:
            outputs = model.apply(params, data.observation)
            chosen = jax.vmap(lambda row, action: row[action])(outputs, data.action)
            losses = jax.vmap(head.loss)(chosen, target)
            q_value = jax.vmap(head.mean)(chosen)
            # A law's loss tells how far it is off; a scalar's own error is the published priority.
            priority = losses if head.shape else jnp.abs(target.mean() - q_value)
            total = jnp.sum(batch.weights * losses) / jnp.maximum(jnp.sum(batch.weights > 0), 1)
            return total, (priority, jnp.mean(q_value))

        (total, (priority, q_value)), grads = jax.value_and_grad(loss, has_aux=True)(params)
        params, optimiser = self.optimiser.step(grads, optimiser, params, state.progress)
        target_params = self.target.move(target_params, params, state.num_updates + 1)
        return (params, target_params, optimiser), priority, jnp.stack([total, q_value])


def _each(function: Callable[[Array], Array], params: Array, num_axes: int) -> Array:
    """`function` over all leading axes of `params`, whose last `num_axes` axes are one example."""
    for _ in range(params.ndim - num_axes):
        function = jax.vmap(function)
    return function(params)
