"""Q-learning from replay with a network: DQN and its distributional and prioritised kin."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrl.agents.checks import (
    check_discrete_actions,
    check_feed_forward,
    check_without_table,
)
from jaxrl.agents.experience import example_transition, store
from jaxrl.agents.exploration import epsilon_greedy
from jaxrl.agents.munchausen import Munchausen, check_mirror_descent, implicit_policy
from jaxrl.agents.optimiser import Optimiser
from jaxrl.agents.stock import StockConditioned, check_stock
from jaxrl.agents.successors import Backup, Sampled, SourceState, Successors
from jaxrl.agents.targets import TargetUpdate
from jaxrl.core import struct
from jaxrl.core.law import Law
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
    source: SourceState  # of the successors
    model: QNetwork = struct.field(pytree_node=False)


@struct.dataclass
class QNetworkAgent:
    """Epsilon-greedy rollouts into a replay; gradient steps towards backups of a lagged copy.

    The head, the improvement and the functionals are the operator's: `Scalar` is DQN, `Categorical`
    C51, `Quantile` QR-DQN. The replay's `num_step` makes n-step targets, a `PrioritisedReplay`
    draws by error. `double` lets the learning network choose the next action that the lagged one
    values. `successors` says what the operator's functional over successors is fed: one sampled
    successor serves the mean only, `Generative` steps the environment again, `Dual` learns the
    functional's multipliers.

    Every improvement works. It acts epsilon-greedily on the scores, whatever the improvement, so
    that what is learned is the improvement's value and not that of the exploring policy.
    `MirrorDescent` goes on from the lagged copy's policy: the network then holds q + kl_weight
    log policy, see `implicit_policy`.

    Sources: Mnih et al. 2015; van Hasselt et al. 2016 (double); Wang et al. 2016 (dueling); Schaul
    et al. 2016 (prioritised); Bellemare et al. 2017; Dabney et al. 2018; Hessel et al. 2018
    (combination); Vieillard, Pietquin & Geist 2020 (Munchausen).
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
    successors: Successors = struct.field(default_factory=Sampled)
    munchausen: Munchausen | None = None
    stock: StockConditioned | None = None  # the observation ends with the stock: static risk
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

    @property
    def keep_env_state(self) -> bool:
        """Whether rollouts must record the environment's states."""
        return self.successors.keeps_env_state

    def check(self, env: Environment) -> None:
        """Refuse environments and settings that the agent cannot learn with.

        Raises:
            ValueError: actions that are not discrete, a recurrent network, a batch that the replay
                cannot give, or an operator that asks for more than `successors` gives.
        """
        check_discrete_actions(env)
        check_feed_forward(self.network, env)
        self.memory.check(self.batch_size)
        check_without_table(self.operator)
        check_mirror_descent(self.operator, self.munchausen)
        _, munchausen = implicit_policy(self.operator, self.munchausen)
        if munchausen is not None and self.replay.num_step > 1:
            raise ValueError(
                f"A Munchausen bonus is of one step, but the replay has num_step="
                f"{self.replay.num_step}: set replay.num_step=1."
            )
        if self.stock is not None:
            steps = self.successors.keeps_env_state
            check_stock(self.stock, env, self.discount, self.replay.num_step, steps)
        self.successors.check(self.operator, env, self.replay.num_step)

    def init(
        self, key: Key, env: Environment, total_steps: float | Array = float("inf")
    ) -> QNetworkState:
        """Fresh parameters and an empty replay. `total_steps` [steps] is the life schedules see."""
        params_key, reset_key, source_key = jax.random.split(key, 3)
        model = QNetwork(
            self.network.torso(env.observation_space),
            env.action_space.num_values,
            self.operator.head.shape,
            self.dueling,
        )
        env_state, observation = jax.vmap(env.reset)(jax.random.split(reset_key, self.num_envs))
        params = model.init(params_key, observation)
        kept = env_state if self.keep_env_state else ()
        return QNetworkState(
            params=params,
            target_params=jax.tree.map(jnp.copy, params),
            optimiser=self.optimiser.init(params),
            replay=self.memory.init(example_transition(observation, env.action_space, kept)),
            progress=Progress.start(total_steps),
            num_updates=jnp.zeros((), jnp.int32),
            source=self.successors.init(source_key, env, self.operator, self.network),
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
        scores = self.scores(state.model.apply(state.params, observation), observation)
        if not explore:
            return jnp.argmax(scores, axis=-1).astype(jnp.int32), {}
        return epsilon_greedy(key, scores, value_at(self.exploration, state.progress)), {}

    def scores(self, params: Array, observation: PyTree = None) -> Array:
        """Head parameters `[..., A, *head.shape]` at `observation[..., *]` (only needed with
        `stock`) -> scores `[..., A]` [return]: the return functional of each action's law, which a
        backup's improvement uses too."""
        num_axes = len(self.operator.head.shape)
        if self.stock is None:
            return _each(self.operator.score, params, num_axes)
        lead = params.shape[: params.ndim - num_axes]
        stock = jnp.broadcast_to(self.stock.of(observation)[..., None], lead)
        rows = params.reshape(-1, *params.shape[len(lead) :])
        return jax.vmap(self.operator.score)(rows, stock.reshape(-1)).reshape(lead)

    def update(
        self, key: Key, state: QNetworkState, trajectory: Transition
    ) -> tuple[QNetworkState, dict[str, Array]]:
        """Store `trajectory[T, B]`, then take `num_updates` gradient steps once warmed up."""
        replay = self.memory
        state, ready = store(self, state, trajectory)
        beta = value_at(self.importance, state.progress)

        def learn(state: QNetworkState, key: Key) -> tuple[QNetworkState, Array]:
            is_random = self.successors.is_random
            draw_key, step_key = jax.random.split(key) if is_random else (key, key)
            batch = replay.sample(draw_key, state.replay, self.batch_size, beta)
            if self.stock is not None:
                stock_key = jax.random.fold_in(draw_key, 1)
                data = self.stock.relabelled(stock_key, batch.transition, self.discount)
                batch = batch.replace(transition=data)
            learner = (state.params, state.target_params, state.optimiser, state.source.learned)

            # The replay stays outside the conditional, which would copy it.
            def step(learner: tuple) -> tuple:
                return self._step(step_key, learner, batch, state)

            def skip(learner: tuple) -> tuple:
                return learner, jnp.zeros(self.batch_size), jnp.zeros(2)

            learner, priorities, logs = jax.lax.cond(ready, step, skip, learner)
            memory = replay.update_priorities(state.replay, batch.indices, priorities, when=ready)
            params, target_params, optimiser, learned = learner
            state = state.replace(
                params=params,
                target_params=target_params,
                optimiser=optimiser,
                source=state.source.replace(learned=learned),
                replay=memory,
                num_updates=state.num_updates + ready,
            )
            return state, logs

        state, logs = jax.lax.scan(learn, state, jax.random.split(key, self.num_updates))
        loss, q_value = jnp.mean(logs, axis=0)
        return state, {"loss": loss, "q_value": q_value}

    def _step(
        self, key: Key, learner: tuple, batch: Batch, state: QNetworkState
    ) -> tuple[tuple, Array, Array]:
        params, target_params, optimiser, learned = learner
        head, model, data = self.operator.head, state.model, batch.transition
        source = state.source.replace(learned=learned)
        target = self._backup(key, params, target_params, data, source, model)
        if self.successors.learns:
            lagged = self._taken(model.apply(target_params, data.observation), data.action)
            backup = Backup(data, batch.weights, target, jax.vmap(head.mean)(lagged))
            learned, target = self.successors.learn(source, self.operator, backup, state.progress)
        target = jax.lax.stop_gradient(target)

        def loss(params: PyTree) -> tuple[Array, tuple[Array, Array]]:
            outputs = model.apply(params, data.observation)
            chosen = self._taken(outputs, data.action)
            losses = jax.vmap(head.loss)(chosen, target)
            q_value = jax.vmap(head.mean)(chosen)
            # A law's loss tells how far it is off; a scalar's own error is the published priority.
            priority = losses if head.shape else jnp.abs(target.mean() - q_value)
            total = jnp.sum(batch.weights * losses) / jnp.maximum(jnp.sum(batch.weights > 0), 1)
            return total, (priority, jnp.mean(q_value))

        (total, (priority, q_value)), grads = jax.value_and_grad(loss, has_aux=True)(params)
        params, optimiser = self.optimiser.step(grads, optimiser, params, state.progress)
        target_params = self.target.move(target_params, params, state.num_updates + 1)
        return (params, target_params, optimiser, learned), priority, jnp.stack([total, q_value])

    def _backup(
        self,
        key: Key,
        params: PyTree,
        target_params: PyTree,
        data: Transition,
        source: SourceState,
        model: QNetwork,
    ) -> Law:
        """The laws `[B, ...]` that the states and actions of `data[B, ...]` should have."""
        outcomes = self.successors.outcomes(key, source, data, self.discount)
        operator, munchausen = implicit_policy(self.operator, self.munchausen)
        reward = outcomes.reward
        if munchausen is not None:
            scores = self.scores(model.apply(target_params, data.observation), data.observation)
            bonus = jax.vmap(lambda row, action: munchausen.bonus(operator, row, action))
            reward = reward + bonus(scores, data.action)[:, None]

        def at_successors(params: PyTree) -> Array:
            flat = jax.tree.map(
                lambda leaf: leaf.reshape(outcomes.probs.size, *leaf.shape[2:]),
                outcomes.observation,
            )
            rows = model.apply(params, flat)
            return rows.reshape(*reward.shape[:2], *rows.shape[1:])  # [B, N, A, *head.shape]

        lookahead = Lookahead(
            reward=reward,
            discount=outcomes.discount,
            probs=outcomes.probs,
            next_params=at_successors(target_params),
            selector_params=at_successors(params) if self.double else None,
            stock=None if self.stock is None else self.stock.of(outcomes.observation),
            exact=outcomes.exact,
        )
        return jax.vmap(self.successors.operator(operator).backup)(lookahead)

    def _taken(self, outputs: Array, action: Array) -> Array:
        """The row of each action: `[B, A, ...]`, `[B]` -> `[B, ...]`."""
        return jax.vmap(lambda row, action: row[action])(outputs, action)


def _each(function: Callable[[Array], Array], params: Array, num_axes: int) -> Array:
    """`function` over all leading axes of `params`, whose last `num_axes` axes are one example."""
    for _ in range(params.ndim - num_axes):
        function = jax.vmap(function)
    return function(params)
