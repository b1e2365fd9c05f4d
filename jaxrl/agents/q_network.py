"""Q-learning from replay with a network: DQN and its distributional and prioritised kin."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.agents.average_reward import AverageReward
from jaxrl.agents.channels import ValueChannels
from jaxrl.agents.env_models import make_env_models
from jaxrl.agents.experience import at_present, counted_share, empty_replay, store
from jaxrl.agents.exploration import epsilon_greedy
from jaxrl.agents.munchausen import Munchausen, implicit_policy
from jaxrl.agents.optimiser import Optimiser
from jaxrl.agents.reward_shift import shifted_reward, shifted_value
from jaxrl.agents.stock import StockConditioned
from jaxrl.agents.successors import Backup, Sampled, SourceState, Successors
from jaxrl.agents.targets import TargetUpdate
from jaxrl.agents.value_checks import check_value_agent
from jaxrl.agents.value_network import (
    ValueNetwork,
    clipped_fraction,
    each,
    has_bounds,
    regression_inputs,
    value_network,
)
from jaxrl.core import struct
from jaxrl.core.protocols import Environment
from jaxrl.core.schedules import Linear, Schedule, value_at
from jaxrl.core.settings import settable, setting
from jaxrl.core.types import Array, Key, Progress, PyTree, Transition, typed_like
from jaxrl.networks import NetworkSettings
from jaxrl.operators import BellmanOperator, Scalar
from jaxrl.operators.bellman import Lookahead
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
    gain: Array  # [] [return per step], see `average_reward`
    restart: PyTree  # the environment that `average_reward` resets, else ()
    model: ValueNetwork = struct.field(pytree_node=False)


@settable
@struct.dataclass
class QNetworkAgent:
    """Epsilon-greedy rollouts into a replay; gradient steps towards backups of a lagged copy.

    The head, the improvement and the functionals are the operator's: `Scalar` is DQN, `Categorical`
    C51, `Quantile` QR-DQN, `ImplicitQuantile` IQN. The replay's `num_step` makes n-step targets, a
    `PrioritisedReplay` draws by error. `double` lets the learning network choose the next action
    that the lagged one values. `successors` says what the operator's functional over successors is
    fed: one sampled successor serves the mean only, `Generative` steps the environment again,
    `Dual` learns the functional's multipliers.

    Every improvement works. It acts epsilon-greedily on the scores, whatever the improvement, so
    that what is learned is the improvement's value and not that of the exploring policy.
    `MirrorDescent` goes on from the lagged copy's policy: the network then holds q + kl_weight
    log policy, see `implicit_policy`.

    Transitions carry their own discounts: steps that last (`HeldActions`, `semi_markov_mdp`) need
    no setting. `average_reward` takes the discount's place, `channels` store parts of the reward
    through mappings, `reward_shift` starts values too low or too high without moving the optimum.

    Metrics: `loss`, `q_value` [return]; `clipped_fraction` of the targets where the head's grid has
    ends; `average_reward` [return per step] where it is learned.

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
    average_reward: AverageReward | None = None  # differential values, instead of a discount
    channels: ValueChannels | None = None  # mapped values of parts of the reward, for the head
    reward_shift: float = setting(
        0.0, "added to rewards, ends corrected; values are reported without", unit="return"
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

    @property
    def keep_env_state(self) -> bool:
        """Whether rollouts must record the environment's states."""
        return self.successors.keeps_env_state

    def check(self, env: Environment) -> None:
        """Refuse environments and settings that the agent cannot learn with.

        Raises:
            ValueError: actions that are not discrete, a recurrent network, a batch that the replay
                cannot give, settings that exclude each other, or an operator that asks for more
                than `successors` gives.
        """
        check_value_agent(self, env)

    @property
    def head(self) -> Any:
        """What the network's outputs for one action stand for: `shape`, `mean` and `loss`."""
        return self.operator.head if self.channels is None else self.channels

    @property
    def _offset(self) -> Array:
        """What `reward_shift` adds to every value the network holds, `[]` [return]."""
        return shifted_value(self.reward_shift, self.discount)

    def init(
        self, key: Key, env: Environment, total_steps: float | Array = float("inf")
    ) -> QNetworkState:
        """Fresh parameters and an empty replay. `total_steps` [steps] is the life schedules see."""
        params_key, reset_key, source_key = jax.random.split(key, 3)
        model = value_network(self.network, env, self.head, self.dueling)
        env_state, observation = jax.vmap(env.reset)(jax.random.split(reset_key, self.num_envs))
        params = model.init(params_key, observation)
        action = jnp.zeros(self.num_envs, jnp.int32)
        return QNetworkState(
            params=params,
            target_params=jax.tree.map(jnp.copy, params),
            optimiser=self.optimiser.init(params),
            replay=empty_replay(self, env, env_state, observation, action),
            progress=Progress.start(total_steps),
            num_updates=jnp.zeros((), jnp.int32),
            source=self.successors.init(source_key, env, self.operator, self.network),
            gain=(self.average_reward or AverageReward()).init(),
            restart=() if self.average_reward is None else make_env_models(env, 1, (), None).env,
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
        scores = self.q_values(state, observation)
        if not explore:
            return jnp.argmax(scores, axis=-1).astype(jnp.int32), {}
        return epsilon_greedy(key, scores, value_at(self.exploration, state.progress)), {}

    def q_values(self, state: QNetworkState, observation: PyTree) -> Array:
        """`observation[..., *]` -> the present scores `[..., A]` [return]."""
        params = state.model.apply(state.params, observation)
        return at_present(self, state.progress).scores(params, observation)

    def acting(self, state: QNetworkState) -> QNetworkState:
        """`state` without what learning alone needs."""
        unused = {"target_params": (), "optimiser": (), "replay": (), "restart": ()}
        return state.replace(**unused, source=SourceState())

    def scores(self, params: Array, observation: PyTree = None) -> Array:
        """Head parameters `[..., A, *head.shape]` at `observation[..., *]` (only needed with
        `stock`) -> scores `[..., A]` [return]: the return functional of each action's law, which a
        backup's improvement uses too."""
        if self.stock is None:
            score = self.operator.score if self.channels is None else self.channels.mean
            return each(score, params, self.head) - self._offset
        lead = params.shape[: params.ndim - len(self.head.shape)]
        stock = jnp.broadcast_to(self.stock.of(observation)[..., None], lead)
        rows = params.reshape(-1, *params.shape[len(lead) :])
        return jax.vmap(self.operator.score)(rows, stock.reshape(-1)).reshape(lead)

    def update(
        self, key: Key, state: QNetworkState, trajectory: Transition
    ) -> tuple[QNetworkState, dict[str, Array]]:
        """Store `trajectory[T, B]`, then take `num_updates` gradient steps once warmed up."""
        state, ready = store(self, state, trajectory)
        beta = value_at(self.importance, state.progress)
        names = ("loss", "q_value") + ("clipped_fraction",) * has_bounds(self.head)
        nothing = dict.fromkeys(names, jnp.zeros((), jnp.float32))

        def learn(state: QNetworkState, key: Key) -> tuple[QNetworkState, dict[str, Array]]:
            is_random = self.successors.is_random
            draw_key, step_key = jax.random.split(key) if is_random else (key, key)
            batch = self.memory.sample(draw_key, state.replay, self.batch_size, beta)
            if self.stock is not None:
                stock_key = jax.random.fold_in(draw_key, 1)
                data = self.stock.relabelled(stock_key, batch.transition, self.discount)
                batch = batch.replace(transition=data)

            def step(learner: QNetworkState) -> tuple:
                after = at_present(self, state.progress)._step(step_key, learner, batch)
                return typed_like(skip(learner), after)

            def skip(learner: QNetworkState) -> tuple:
                return learner, jnp.zeros(self.batch_size, jnp.float32), nothing

            # The replay stays outside the conditional, which would copy it.
            learner = state.replace(replay=())
            learner, priorities, logs = jax.lax.cond(ready, step, skip, learner)
            update = self.memory.update_priorities
            replay = update(state.replay, batch.indices, priorities, when=ready)
            state = learner.replace(replay=replay, num_updates=state.num_updates + ready)
            return state, logs | {"counted_share": counted_share(batch, ready)}

        state, logs = jax.lax.scan(learn, state, jax.random.split(key, self.num_updates))
        metrics = jax.tree.map(jnp.mean, logs)
        if self.average_reward is not None:
            metrics["average_reward"] = state.gain
        return state, metrics

    def _step(
        self, key: Key, state: QNetworkState, batch: Batch
    ) -> tuple[QNetworkState, Array, dict[str, Array]]:
        head, model, data, learned = self.head, state.model, batch.transition, state.source.learned
        operator, lookahead = self._lookahead(key, state, data)
        backup = operator.backup
        if self.channels is not None:
            backup = functools.partial(self.channels.backup, operator)
        target = jax.vmap(backup)(lookahead)
        outputs = model.apply(state.target_params, data.observation)  # dropped where not read
        lagged = jax.vmap(head.mean)(self._taken(outputs, data.action))
        if self.successors.learns:
            seen = Backup(data, batch.weights, target, lagged)
            source, operator = state.source, self.operator
            learned, target = self.successors.learn(source, operator, seen, state.progress)
        target, gain = jax.lax.stop_gradient(target), state.gain
        inputs = regression_inputs(jax.random.fold_in(key, 2), head, self.batch_size)
        count = jnp.maximum(jnp.sum(batch.weights > 0), 1)
        if self.average_reward is not None:
            td_error = jnp.sum(batch.weights * (target.mean() - lagged)) / count
            gain = self.average_reward.moved(gain, td_error, state.progress)

        def loss(params: PyTree) -> tuple[Array, tuple[Array, Array]]:
            outputs = model.apply(params, data.observation, *inputs)
            chosen = self._taken(outputs, data.action)
            losses = jax.vmap(head.loss)(chosen, target)
            q_value = jax.vmap(head.mean)(chosen)
            # A law's loss tells how far it is off; a scalar's own error is the published priority.
            priority = losses if head.shape else jnp.abs(target.mean() - q_value)
            return jnp.sum(batch.weights * losses) / count, (priority, q_value)

        (total, (priority, q_value)), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        params, optimiser = self.optimiser.step(
            grads, state.optimiser, state.params, state.progress
        )
        logs = {"loss": total, "q_value": jnp.mean(q_value) - self._offset}
        if has_bounds(head):
            logs["clipped_fraction"] = clipped_fraction(head, target, batch.weights)
        learner = state.replace(
            params=params,
            target_params=self.target.move(state.target_params, params, state.num_updates + 1),
            optimiser=optimiser,
            source=state.source.replace(learned=learned),
            gain=gain,
        )
        return learner, priority, logs

    def _lookahead(
        self, key: Key, state: QNetworkState, data: Transition
    ) -> tuple[BellmanOperator, Lookahead]:
        """What is backed up for each of `data[B, ...]`, and by which operator."""
        model = state.model
        outcomes = self.successors.outcomes(key, state.source, data, self.discount)
        operator, munchausen = implicit_policy(self.operator, self.munchausen)

        def outputs(observation: PyTree) -> tuple[Array, Array | None]:
            rows = model.apply(state.target_params, observation)
            return rows, model.apply(state.params, observation) if self.double else None

        end_value = self._offset
        if self.average_reward is not None:
            start_key = jax.random.fold_in(key, 3)
            end_value = self.average_reward.start_value(
                start_key, state.restart, self.batch_size, operator, outputs
            )
        reward = shifted_reward(outcomes.reward, outcomes.discount, end_value) - state.gain
        if munchausen is not None:
            lagged = model.apply(state.target_params, data.observation)
            scores = self.scores(lagged, data.observation)
            bonus = jax.vmap(lambda row, action: munchausen.bonus(operator, row, action))
            reward = reward + bonus(scores, data.action)[:, None]
        size, shape = reward.size, reward.shape  # [B, N]
        flat = jax.tree.map(lambda x: x.reshape(size, *x.shape[2:]), outcomes.observation)
        next_params, selector = jax.tree.map(
            lambda x: x.reshape(*shape, *x.shape[1:]), outputs(flat)
        )
        return self.successors.operator(operator), Lookahead(
            reward=reward,
            discount=outcomes.discount,
            probs=outcomes.probs,
            next_params=next_params,
            selector_params=selector,
            stock=None if self.stock is None else self.stock.of(outcomes.observation),
            exact=outcomes.exact,
        )

    def _taken(self, outputs: Array, action: Array) -> Array:
        """The row of each action: `[B, A, ...]`, `[B]` -> `[B, ...]`."""
        return jax.vmap(lambda row, action: row[action])(outputs, action)
