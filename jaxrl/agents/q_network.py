"""Q-learning from replay with a network: DQN and its distributional and prioritised kin."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.agents import action_values, checks, experience, value_parts
from jaxrl.agents.action_values import ValueNetwork
from jaxrl.agents.channels import ValueChannels
from jaxrl.agents.experience import TargetUpdate
from jaxrl.agents.generative import own_copy
from jaxrl.agents.optimiser import GradientStep, Optimiser, as_optimiser
from jaxrl.agents.stock import StockConditioned, check_stock
from jaxrl.agents.successors import Sampled, SourceState, Successors
from jaxrl.agents.value_parts import AverageReward, Munchausen
from jaxrl.core import struct
from jaxrl.core.protocols import Environment, legal_actions
from jaxrl.core.schedules import Linear, Schedule, value_at
from jaxrl.core.settings import settable, setting
from jaxrl.core.spaces import is_masked
from jaxrl.core.types import Array, Key, Progress, PyTree, Transition, typed_like
from jaxrl.networks import Network, NetworkSettings
from jaxrl.networks.given import as_network
from jaxrl.operators import BellmanOperator, Scalar
from jaxrl.operators.bellman import Lookahead
from jaxrl.replay import Batch, PrioritisedReplay, UniformReplay

_STOCKS, _LEVELS, _STARTS = 1, 2, 3  # random streams of a gradient step


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

    operator: BellmanOperator = BellmanOperator(Scalar(float("inf")))
    network: Network = struct.field(
        default=NetworkSettings(hidden_sizes=(64, 64), activation="relu", layer_norm=True),
        converter=as_network,
    )
    optimiser: GradientStep = struct.field(
        default=Optimiser(learning_rate=Linear(5e-4, 0.0), max_grad_norm=10.0),
        converter=as_optimiser,
    )
    replay: UniformReplay | PrioritisedReplay = UniformReplay(capacity=10_000)
    target: TargetUpdate = TargetUpdate(period=32, step_size=1.0)
    successors: Successors = Sampled()
    munchausen: Munchausen | None = None
    stock: StockConditioned | None = None  # the observation ends with the stock: static risk
    average_reward: AverageReward | None = None  # differential values, instead of a discount
    channels: ValueChannels | None = None  # mapped values of parts of the reward, for the head
    reward_shift: float = setting(0.0, "added to rewards, ends corrected", unit="return")
    discount: float = setting(0.99, "discount factor", unit="per step", low=0.0, high=1.0)
    exploration: float | Schedule = setting(
        Linear(1.0, 0.05, end=0.3), "probability of a uniform action", low=0.0, high=1.0
    )
    importance: float | Schedule = setting(
        Linear(0.4, 1.0), "importance correction of a prioritised replay", low=0.0, high=1.0
    )
    num_envs: int = setting(8, "environments stepped side by side", low=1)
    rollout_length: int = setting(2, "length of each rollout", unit="steps", low=1)
    num_updates: int = setting(2, "gradient steps after each rollout", low=1)
    batch_size: int = setting(128, "windows in each gradient step", low=1)
    warmup: int = setting(1000, "steps before the first gradient step", unit="steps", low=0)
    double: bool = setting(False, "choose the next action by the learning network")
    dueling: bool = setting(False, "split the network into value and advantage")

    memory, initial_memory = experience.own_replay, experience.no_memory
    keep_env_state = experience.keep_env_state

    def check(self, env: Environment) -> None:
        """Refuse environments and settings that the agent cannot learn with.

        Raises:
            ValueError: actions that are not discrete, a recurrent network, a batch that the replay
                cannot give, settings that exclude each other, or an operator that asks for more
                than `successors` gives.
        """
        checks.check_discrete_actions(env)
        value_parts.check_mirror_descent(self)
        _, munchausen = value_parts.implicit_policy(self.operator, self.munchausen)
        parts = {"munchausen": munchausen, "stock": self.stock, "channels": self.channels}
        parts |= {"average_reward": self.average_reward}
        asked = {name: part.asked for name, part in parts.items() if part is not None}
        if checks.differs(self.reward_shift, 0.0):
            asked[f"reward_shift={self.reward_shift}"] = value_parts.SHIFT_ASKED
        checks.check_replay_agent(self, env, asked)
        if self.stock is not None:
            check_stock(self, env)
        if self.channels is not None:
            self.channels.check()

    @property
    def head(self) -> Any:
        """What the network's outputs for one action stand for: `shape`, `mean` and `loss`."""
        return self.operator.head if self.channels is None else self.channels

    @property
    def _offset(self) -> Array:
        """What `reward_shift` adds to every value the network holds, `[]` [return]."""
        return value_parts.shifted_value(self.reward_shift, self.discount)

    def init(
        self, key: Key, env: Environment, total_steps: float | Array = float("inf")
    ) -> QNetworkState:
        """Fresh parameters and an empty replay. `total_steps` [steps] is the life schedules see."""
        params_key, reset_key, source_key = jax.random.split(key, 3)
        model = action_values.value_network(self.network, env, self.head, self.dueling)
        env_state, observation = jax.vmap(env.reset)(jax.random.split(reset_key, self.num_envs))
        params = model.init(params_key, observation)
        action = jnp.zeros(self.num_envs, jnp.int32)
        return QNetworkState(
            params=params,
            target_params=jax.tree.map(jnp.copy, params),
            optimiser=self.optimiser.init(params),
            replay=experience.empty_replay(self, env, env_state, observation, action),
            progress=Progress.start(total_steps),
            num_updates=jnp.zeros((), jnp.int32),
            source=self.successors.init(source_key, env, self.operator, self.network),
            gain=(self.average_reward or AverageReward()).init(),
            restart=() if self.average_reward is None else own_copy(env),
            model=model,
        )

    act = action_values.act

    def epsilon(self, state: QNetworkState) -> Array:
        """Probability of a uniform action, `[]`."""
        return value_at(self.exploration, state.progress)

    def q_values(self, state: QNetworkState, observation: PyTree) -> Array:
        """`observation[..., *]` -> the present scores `[..., A]` [return]."""
        params = state.model.apply(state.params, observation)
        return experience.at_present(self, state.progress).scores(params, observation)

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
            return action_values.each(score, params, self.head) - self._offset
        lead = params.shape[: params.ndim - len(self.head.shape)]
        stock = jnp.broadcast_to(self.stock.of(observation)[..., None], lead)
        rows = params.reshape(-1, *params.shape[len(lead) :])
        return jax.vmap(self.operator.score)(rows, stock.reshape(-1)).reshape(lead)

    def update(
        self, key: Key, state: QNetworkState, trajectory: Transition
    ) -> tuple[QNetworkState, dict[str, Array]]:
        """Store `trajectory[T, B]`, then take `num_updates` gradient steps once warmed up."""
        state, ready = experience.store(self, state, trajectory)
        beta = value_at(self.importance, state.progress)
        names = ("loss", "q_value") + ("clipped_fraction",) * self.operator.head.facts.bounded
        nothing = dict.fromkeys(names, jnp.zeros((), jnp.float32))

        def learn(state: QNetworkState, key: Key) -> tuple[QNetworkState, dict[str, Array]]:
            is_random = self.successors.is_random
            draw_key, step_key = jax.random.split(key) if is_random else (key, key)
            batch = self.memory.sample(draw_key, state.replay, self.batch_size, beta)
            if self.stock is not None:
                stock_key = jax.random.fold_in(draw_key, _STOCKS)
                data = self.stock.relabelled(stock_key, batch.transition, self.discount)
                batch = batch.replace(transition=data)

            def step(learner: QNetworkState) -> tuple:
                after = experience.at_present(self, state.progress)._step(step_key, learner, batch)
                return typed_like(skip(learner), after)

            def skip(learner: QNetworkState) -> tuple:
                return learner, jnp.zeros(self.batch_size, jnp.float32), nothing

            # The replay stays outside the conditional, which would copy it.
            learner = state.replace(replay=())
            learner, priorities, logs = jax.lax.cond(ready, step, skip, learner)
            update = self.memory.update_priorities
            replay = update(state.replay, batch.indices, priorities, when=ready)
            state = learner.replace(replay=replay, num_updates=state.num_updates + ready)
            return state, logs | {"counted_share": experience.counted_share(batch, ready)}

        state, logs = jax.lax.scan(learn, state, jax.random.split(key, self.num_updates))
        metrics = jax.tree.map(jnp.mean, logs)
        if self.average_reward is not None:
            metrics["average_reward"] = state.gain
        return state, metrics

    def _step(
        self, key: Key, state: QNetworkState, batch: Batch
    ) -> tuple[QNetworkState, Array, dict[str, Array]]:
        head, model, data = self.head, state.model, batch.transition
        operator, lookahead = self._lookahead(key, state, data)
        backup = operator.backup
        if self.channels is not None:
            backup = functools.partial(self.channels.backup, operator)
        target = jax.vmap(backup)(lookahead)
        outputs = model.apply(state.target_params, data.observation)  # dropped where not read
        lagged = jax.vmap(head.mean)(self._taken(outputs, data.action))
        learned, target = self.successors.learn(
            state.source, self.operator, batch, target, lagged, state.progress
        )
        target, gain = jax.lax.stop_gradient(target), state.gain
        inputs = action_values.regression_inputs(
            jax.random.fold_in(key, _LEVELS), head, self.batch_size
        )
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
        if self.operator.head.facts.bounded:
            logs["clipped_fraction"] = action_values.clipped_fraction(head, target, batch.weights)
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
        operator, munchausen = value_parts.implicit_policy(self.operator, self.munchausen)

        def outputs(observation: PyTree) -> tuple[Array, Array | None]:
            rows = model.apply(state.target_params, observation)
            return rows, model.apply(state.params, observation) if self.double else None

        end_value = self._offset
        if self.average_reward is not None:
            keys = jax.random.split(jax.random.fold_in(key, _STARTS), self.batch_size)
            fresh, observation = jax.vmap(state.restart.reset)(keys)
            mask = jax.vmap(functools.partial(legal_actions, state.restart))(fresh)
            rows, selector = outputs(observation)
            law = jax.vmap(operator.state_law)(rows, mask if is_masked(mask) else None, selector)
            end_value = jnp.mean(law.mean())
        shifted = value_parts.shifted_reward(outcomes.reward, outcomes.discount, end_value)
        reward = shifted - state.gain
        if munchausen is not None:
            lagged = model.apply(state.target_params, data.observation)
            scores = self.scores(lagged, data.observation)
            mask = data.mask if is_masked(data.mask) else None
            bonus = jax.vmap(functools.partial(munchausen.bonus, operator))
            reward = reward + bonus(scores, data.action, mask)[:, None]
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
            mask=outcomes.mask if is_masked(outcomes.mask) else None,
            stock=None if self.stock is None else self.stock.of(outcomes.observation),
            exact=outcomes.exact,
        )

    def _taken(self, outputs: Array, action: Array) -> Array:
        """The row of each action: `[B, A, ...]`, `[B]` -> `[B, ...]`."""
        return jax.vmap(lambda row, action: row[action])(outputs, action)
