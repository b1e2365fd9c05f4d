"""Q-learning from replay with a network: DQN and its distributional and prioritised kin."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.agents import action_values, chain, checks, experience, value_parts
from jaxrl.agents.action_values import ValueNetwork
from jaxrl.agents.chain import Step, TargetPart
from jaxrl.agents.experience import LaggedCopies, TargetUpdate
from jaxrl.agents.optimiser import GradientStep, Optimiser, as_optimiser
from jaxrl.agents.successors import Sampled, SourceState, Successors
from jaxrl.core import Struct, struct
from jaxrl.core.law import Law
from jaxrl.core.protocols import Environment, Improvement
from jaxrl.core.schedules import Linear, Schedule, value_at, values_at
from jaxrl.core.settings import SettableStruct, chain_field, setting
from jaxrl.core.types import Array, Key, Progress, PyTree, Transition, typed_like
from jaxrl.networks import Network, NetworkSettings
from jaxrl.networks.given import as_network
from jaxrl.operators import BellmanOperator, Scalar
from jaxrl.replay import Batch, PrioritisedReplay, UniformReplay

_RELABELS, _LEVELS, _REWARDS = 1, 2, 3  # random streams of a gradient step


class QNetworkState(Struct):
    """What learning changes."""

    params: PyTree
    target_params: PyTree
    optimiser: PyTree
    replay: PyTree
    progress: Progress
    num_updates: Array  # [] int32, gradient steps taken
    source: SourceState  # of the successors
    parts: tuple[PyTree, ...]  # what each part remembers
    model: ValueNetwork = struct.field(pytree_node=False)


class QNetworkAgent(SettableStruct):
    """Exploring rollouts into a replay; gradient steps towards backups of a lagged copy.

    The head, the improvement and the functionals are the operator's: `Scalar` is DQN, `Categorical`
    C51, `Quantile` QR-DQN, `ImplicitQuantile` IQN. The replay's `num_step` makes n-step targets, a
    `PrioritisedReplay` draws by error. `double` lets the learning network choose the next action
    that the lagged one values. `successors` says what the operator's functional over successors is
    fed: one sampled successor serves the mean only, `Generative` steps the environment again,
    `Dual` learns the functional's multipliers.

    Every improvement works. It explores by `exploration`, epsilon-greedily or by an improvement's
    law at the scores, whatever the operator's improvement: what is learned is that one's value.
    `MirrorDescent` goes on from the lagged copy's policy: the network then holds q + kl_weight
    log policy, see `implicit_policy`.

    Transitions carry their own discounts: steps that last (`HeldActions`, `semi_markov_mdp`) need
    no setting.

    `parts` is a chain of what changes the targets and the loss: `Munchausen` adds a share of the
    advantage, `AverageReward` takes the discount's place, `ValueChannels` store parts of the reward
    through mappings, `RewardShift` starts values too low or too high without moving the optimum,
    `StockConditioned` serves static risk. One of your own is a struct with `facts` and some of the
    methods that `jaxrl.agents.chain` lists.

    Metrics: `loss`, `q_value` [return]; `clipped_fraction` of the targets where the head's grid has
    ends; and those of the parts.

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
    target: LaggedCopies = TargetUpdate(period=32, step_size=1.0)
    successors: Successors = Sampled()
    parts: tuple[TargetPart, ...] = chain_field()
    discount: float = setting(0.99, "discount factor", unit="per step", low=0.0, high=1.0)
    exploration: float | Schedule | Improvement = setting(
        Linear(1.0, 0.05, end=0.3), "chance of a random act, or an improvement", low=0.0, high=1.0
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
        checks.check_replay_agent(value_parts.explicit(self), env)

    @property
    def head(self) -> Any:
        """What the network's outputs for one action stand for: `shape`, `mean` and `loss`."""
        return chain.first(self.parts, chain.Stores) or self.operator.head

    def _at_present(self, progress: Progress) -> QNetworkAgent:
        """With the present values of schedules, and a mirror descent as the parts that it is."""
        return value_parts.explicit(experience.at_present(self, progress))

    def init(
        self, key: Key, env: Environment, total_steps: float | Array = float("inf")
    ) -> QNetworkState:
        """Fresh parameters and an empty replay. `total_steps` [steps] is the life schedules see."""
        params_key, reset_key, source_key = jax.random.split(key, 3)
        model = action_values.value_network(self.network, env, self.head, self.dueling)
        env_state, observation = jax.vmap(env.reset)(jax.random.split(reset_key, self.num_envs))
        action = jnp.zeros(self.num_envs, jnp.int32)

        def own(key: Key) -> dict[str, PyTree]:
            params = model.init(key, observation)
            return {
                "params": params,
                "optimiser": self.optimiser.init(params),
                "source": self.successors.init(source_key, env, self.operator, self.network),
                "parts": chain.start(source_key, value_parts.explicit(self), env, params),
            }

        learners = self.target.start(own, params_key)
        return QNetworkState(
            **learners,
            target_params=self.target.init(learners["params"]),
            replay=experience.empty_replay(self, env, env_state, observation, action),
            progress=Progress.start(total_steps),
            num_updates=jnp.zeros((), jnp.int32),
            model=model,
        )

    def act(
        self,
        key: Key,
        state: QNetworkState,
        observation: PyTree,
        explore: bool = True,
        memory: PyTree = (),
        mask: PyTree = (),
    ) -> tuple[Array, dict[str, PyTree]]:
        """`observation[B, ...]` -> `action[B]`, no extras; to explore, drawn from the law of
        `exploring(state)`. Of several networks each row draws the one that it acts by. Only what is
        true in `mask[B, A]` is taken, if one is given."""
        scores = self.target.drawn(key, self._all_scores(state, observation))
        return action_values.chosen(key, scores, self.exploring(state), explore, mask), {}

    def exploring(self, state: QNetworkState) -> Any:
        """What it explores by at present: the probability of a uniform action `[]`, or an
        improvement, whose law at the action values is drawn from."""
        return values_at(self.exploration, state.progress)

    def q_values(self, state: QNetworkState, observation: PyTree) -> Array:
        """`observation[..., *]` -> the present scores `[..., A]` [return]; of several networks,
        their mean."""
        return self.target.mean(self._all_scores(state, observation))

    def values(self, state: QNetworkState, observation: PyTree) -> Array:
        """The improvement's values at `observation[..., *]`, by the present scores, `[...]`
        [return]."""
        improvement = self._at_present(state.progress).operator.improvement
        return action_values.improved(improvement, self.q_values(state, observation))

    def return_laws(self, state: QNetworkState, observation: PyTree) -> Law:
        """`observation[..., *]` -> each action's law, leaves `[..., A, N]` [return], as the
        operator's head stores it; of several networks, each one's. Not where a part stands in the
        head's place."""
        head: Any = self.operator.head

        def laws(params: PyTree) -> Law:
            found = action_values.each(head.law, state.model.apply(params, observation), head)
            return found.replace(atoms=found.atoms - chain.offset(self.parts, self.discount))

        return self.target.each(laws)(state.params)

    def _all_scores(self, state: QNetworkState, observation: PyTree) -> Array:
        present = experience.at_present(self, state.progress)

        def scores(params: PyTree) -> Array:
            return present.scores(state.model.apply(params, observation), observation)

        return self.target.each(scores)(state.params)

    def acting(self, state: QNetworkState) -> QNetworkState:
        """`state` without what learning alone needs."""
        unused = {"target_params": (), "optimiser": (), "replay": (), "parts": ()}
        return state.replace(**unused, source=SourceState())

    def scores(self, params: Array, observation: PyTree = None) -> Array:
        """Head parameters `[..., A, *head.shape]` at `observation[..., *]` (which a part may read)
        -> scores `[..., A]` [return]: the return functional of each action's law, which a backup's
        improvement uses too."""
        if part := chain.first(self.parts, chain.Scores):
            return part.scores(self.operator, params, observation)
        scores = action_values.each(self.operator.score, params, self.head)
        return scores - chain.offset(self.parts, self.discount)

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

            def step(learner: QNetworkState) -> tuple:
                agent = self._at_present(state.progress)

                def own(one: QNetworkState) -> tuple:
                    drawn = chain.drawn(draw_key, _RELABELS, agent, one, batch)
                    return agent._step(step_key, one, drawn)

                return typed_like(skip(learner), experience.step_each(agent.target, own, learner))

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
        return state, jax.tree.map(jnp.mean, logs) | chain.metrics(self.parts, state.parts)

    def _step(
        self, key: Key, state: QNetworkState, batch: Batch
    ) -> tuple[QNetworkState, Array, dict[str, Array]]:
        head, model, data = self.head, state.model, batch.transition
        outcomes = self.successors.outcomes(key, state.source, data, self.discount)
        pair = partial(action_values.pair, self, state, data)
        step = Step(self, key, state, batch, outcomes, pair)
        target = self.backup(step)
        outputs = model.apply(state.target_params, data.observation)  # dropped where not read
        lagged = jax.vmap(head.mean)(action_values.taken(outputs, data.action))
        learned, target = self.successors.learn(
            state.source, self.operator, batch, target, lagged, state.progress
        )
        target = jax.lax.stop_gradient(target)
        level_key = jax.random.fold_in(key, _LEVELS)
        inputs = action_values.regression_inputs(level_key, head, self.batch_size)
        count = jnp.maximum(jnp.sum(batch.weights > 0), 1)

        def loss(params: PyTree) -> tuple[Array, tuple[Array, Array]]:
            outputs = model.apply(params, data.observation, *inputs)
            chosen = action_values.taken(outputs, data.action)
            losses = jax.vmap(head.loss)(chosen, target)
            q_value = jax.vmap(head.mean)(chosen)
            # A law's loss tells how far it is off; a scalar's own error is the published priority.
            priority = losses if head.shape else jnp.abs(target.mean() - q_value)
            losses = chain.weighed(step, losses, target, q_value)
            total = jnp.sum(batch.weights * losses) / count
            return chain.penalised(step, total, params), (priority, q_value)

        (total, (priority, q_value)), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        params, optimiser = self.optimiser.step(
            grads, state.optimiser, state.params, state.progress
        )
        offset = chain.offset(self.parts, self.discount)
        logs = {"loss": total, "q_value": jnp.mean(q_value) - offset}
        if self.operator.head.facts.bounded:
            logs["clipped_fraction"] = action_values.clipped_fraction(head, target, batch.weights)
        learner = state.replace(
            params=params,
            optimiser=optimiser,
            source=state.source.replace(learned=learned),
            parts=chain.updated(step, target, lagged),
        )
        return learner, priority, logs

    def backup(self, step: Step) -> Any:
        """The targets `[B]` of a step of this agent by the lagged copy in its state: laws, or what
        a part stores in the head's place."""
        lookahead = step.outcomes.lookahead(*step.outcomes.each(partial(self.rows, step.state)))
        operator = self.successors.operator(self.operator)
        part = chain.first(self.parts, chain.Stores)
        backup = operator.backup if part is None else partial(part.backup, operator)
        return jax.vmap(backup)(chain.rewarded(_REWARDS, step, lookahead))

    def rows(self, state: QNetworkState, observation: PyTree) -> tuple[Array, Array | None]:
        """Head parameters `[..., A, *head.shape]` of the lagged copy at `observation[..., *]`, and
        of the learning network where it chooses the action, else None."""
        rows = state.model.apply(state.target_params, observation)
        return rows, state.model.apply(state.params, observation) if self.double else None
