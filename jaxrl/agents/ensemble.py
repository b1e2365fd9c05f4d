"""Learned models: an ensemble of Gaussian networks that says what may follow, without a simulator.

It learns from the replay of the agent that uses it, in the same gradient steps.
"""

from __future__ import annotations

import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxrl.agents import successors
from jaxrl.agents.checks import check_feed_forward
from jaxrl.agents.optimiser import GradientStep, Optimiser, as_optimiser
from jaxrl.agents.successors import Outcomes, SourceState
from jaxrl.core import Struct, struct
from jaxrl.core.law import Law
from jaxrl.core.notation import register
from jaxrl.core.protocols import Environment, Functional, PartFacts, has_legal
from jaxrl.core.settings import setting
from jaxrl.core.spaces import Box, Discrete, Space
from jaxrl.core.types import Array, Key, Progress, PyTree, Transition
from jaxrl.envs.wrappers import RunningMoments
from jaxrl.networks import ActionCritic, Network, NetworkSettings
from jaxrl.networks.given import as_network
from jaxrl.operators import BellmanOperator
from jaxrl.replay import Batch

_EPSILON = 1e-8  # added to variances that divide
_CLIP = 10.0  # largest magnitude of a normalised input [standard deviations]
_FIRST_BOUNDS = (-10.0, 0.5)  # of log-variances of normalised outputs
_BOUND_PENALTY = 0.005  # on the width of those bounds [nats per unit of log-variance]


class EnsembleParams(Struct):
    """What gradient descent changes. Outputs are the D coordinates' changes and the reward."""

    network: PyTree
    low: Array  # [D + 1] soft lower bound of normalised log-variances
    high: Array  # [D + 1] soft upper bound


class EnsembleState(Struct):
    """The networks and the statistics that they see the world through."""

    params: EnsembleParams
    optimiser: PyTree
    inputs: RunningMoments  # [D + A] of observations and actions
    outputs: RunningMoments  # [D + 1] of changes and rewards
    ends: RunningMoments  # [] of terminations
    loss: Array  # [M], of the last batch, before its step [nats]
    model: ActionCritic = struct.field(pytree_node=False)
    num_actions: int = struct.field(pytree_node=False)  # 0 for a box


class Predicted(Struct):
    """The laws of M networks after each of `B` observations and actions: independent Gaussians."""

    observation: Array  # [M, B, D], means of the successor
    observation_scale: Array  # [M, B, D], standard deviations
    reward: Array  # [M, B] [return]
    reward_scale: Array  # [M, B] [return]
    terminated: Array  # [M, B], probability that the MDP ends


class Ensemble(Struct):
    """Successors drawn from M learned networks, K draws of each: no simulator, no stored states.

    A network gives Gaussians of the change of the observation and of the reward, coordinate by
    coordinate, and the probability of an end. With y those D + 1 numbers normalised,

    loss = sum_i [(y_i - mu_i)^2 / var_i + log var_i] / 2 - log-likelihood of the end or not

    log var = low + softplus(high - softplus(high - raw) - low), the bounds learned under a small
    penalty on their width, so that far from the data a variance is neither 0 nor infinite. Inputs
    and outputs are normalised by running statistics, which are learned state. Networks differ by
    their initialisation and, with `bootstrap` below 1, by the transitions that each of them sees,
    the same ones at every draw.

    over_models None:  F over all M K draws, each of probability 1 / (M K): the mixture, which
                       holds the networks' disagreement for chance
    over_models G:     G over networks, each of probability 1 / M, of F over the K draws of each;
                       `CVaR(1 / M)` trusts the worst network

    An end is drawn, not averaged over, so that functionals see it as the outcome it is; a fraction
    in `terminated` counts as its chance. Under `over_models` networks share their random numbers.
    For Box observations `[D]` and single steps; discrete or continuous actions.

    The laws are wrong where Gaussians are (two modes, correlated coordinates), and a functional of
    draws has the bias that `Generative` has.

    Attributes:
        num_samples: K, draws from each network.
        num_models: M, networks.
        bootstrap: share of transitions that each network learns from; 1 for all.
        network: of each model.
        optimiser: of all models together.
        over_models: G; None for the mixture.

    Example:
        >>> from jaxrl.envs.control import CartPole
        >>> from jaxrl.functionals import CVaR
        >>> risky = BellmanOperator(successor_functional=CVaR(0.1))
        >>> source = Ensemble(num_samples=4, num_models=3)
        >>> source.check(risky, CartPole())
        >>> fresh = jax.jit(lambda key: source.init(key, CartPole(), risky, NetworkSettings()))
        >>> learned = fresh(jax.random.key(0)).learned
        >>> laws = source.predict(learned, jnp.zeros((2, 4)), jnp.zeros(2, jnp.int32))
        >>> laws.observation.shape, laws.terminated.shape
        ((3, 2, 4), (3, 2))

    Sources:
        Chua, Calandra, McAllister & Levine (2018), Deep reinforcement learning in a handful of
        trials using probabilistic dynamics models, section 4 and appendix A.1 (likelihood and
        bounds; the penalty on them and their first values are those of the authors' code);
        Lakshminarayanan, Pritzel & Blundell (2017), Simple and scalable predictive uncertainty
        estimation using deep ensembles; Osband et al. (2016), Deep exploration via bootstrapped DQN
        (masks).
    """

    num_samples: int = setting(4, "draws from each network", low=1)
    num_models: int = setting(5, "networks", low=1)
    bootstrap: float = setting(
        1.0, "share of data for each network", low=0.0, high=1.0, low_open=True
    )
    network: Network = struct.field(
        default=NetworkSettings(hidden_sizes=(64, 64), activation="silu", initialiser="lecun"),
        converter=as_network,
    )
    optimiser: GradientStep = struct.field(
        default=Optimiser(learning_rate=1e-3, max_grad_norm=10.0, epsilon=1e-8),
        converter=as_optimiser,
    )
    over_models: Functional | None = None

    facts = PartFacts(one_step=True)
    keeps_env_state: ClassVar[bool] = False
    is_random: ClassVar[bool] = True

    def check(self, operator: BellmanOperator, env: Environment) -> None:
        """Refuse what Gaussians cannot model, and functionals that see too few outcomes.

        Raises:
            ValueError: observations that are no vector of real numbers, a recurrent network, or a
                functional over one outcome or one network.
        """
        _check_space(env.observation_space, type(env).__name__)
        if has_legal(env):
            raise ValueError(
                "Ensemble does not model which actions are legal in the states that it imagines: "
                "use successors=Generative(num_samples=16), or Sampled()."
            )
        check_feed_forward(self.network, env)
        successors.check_draws(self, operator, "networks")

    operator = successors.over_own_models

    def init(
        self, key: Key, env: Environment, operator: BellmanOperator, network: Network
    ) -> SourceState:
        """Fresh networks, and statistics of nothing."""
        params_key, mask_key = jax.random.split(key)
        space, actions = env.observation_space, env.action_space
        num_actions = actions.num_values if isinstance(actions, Discrete) else 0
        size, action_size = space.shape[0], num_actions or math.prod(actions.shape)
        num_outputs = size + 1
        model = ActionCritic(self.network.torso(space), self.num_models, (2 * num_outputs + 1,))
        low, high = (jnp.full(num_outputs, bound, jnp.float32) for bound in _FIRST_BOUNDS)
        params = EnsembleParams(
            model.init(params_key, jnp.zeros((1, size)), jnp.zeros((1, action_size))), low, high
        )
        learned = EnsembleState(
            params=params,
            optimiser=self.optimiser.init(params),
            inputs=RunningMoments.start((size + action_size,)),
            outputs=RunningMoments.start((num_outputs,)),
            ends=RunningMoments.start(),
            loss=jnp.zeros(self.num_models),
            model=model,
            num_actions=num_actions,
        )
        return SourceState(fixed=mask_key, learned=learned)

    def predict(self, learned: EnsembleState, observation: Array, action: Array) -> Predicted:
        """What each network says of `observation[B, D]`, `action[B, *shape]`."""
        inputs = _inputs(learned, observation, action)
        mean, log_variance, logit = _laws(learned, learned.params, inputs)
        unit = _deviation(learned.outputs)
        means = learned.outputs.mean + unit * mean
        scales = unit * jnp.exp(0.5 * log_variance)
        return Predicted(
            observation=observation + means[..., :-1],
            observation_scale=scales[..., :-1],
            reward=means[..., -1],
            reward_scale=scales[..., -1],
            terminated=jax.nn.sigmoid(logit),
        )

    def outcomes(self, key: Key, state: SourceState, data: Transition, discount: float) -> Outcomes:
        """N = M K, the K draws of each network side by side."""
        laws = self.predict(state.learned, data.observation, data.action)
        batch, size = data.observation.shape
        models = self.num_models if self.over_models is None else 1
        next_key, reward_key, end_key = jax.random.split(key, 3)
        lead = (models, batch, self.num_samples)
        noise = jax.random.normal(next_key, (*lead, size))
        observation = laws.observation[:, :, None] + laws.observation_scale[:, :, None] * noise
        reward = jax.random.normal(reward_key, lead) * laws.reward_scale[..., None]
        reward += laws.reward[..., None]
        ended = jax.random.uniform(end_key, lead) < laws.terminated[..., None]

        def rows(draws: Array) -> Array:
            return jnp.moveaxis(draws, 0, 1).reshape(batch, -1, *draws.shape[3:])  # [B, M K, ...]

        reward, ended = rows(reward).astype(data.reward.dtype), rows(ended)
        observation = rows(observation).astype(data.observation.dtype)
        return successors.equal_outcomes(reward, ended, observation, discount)

    def learn(
        self,
        state: SourceState,
        operator: BellmanOperator,
        batch: Batch,
        target: Law,
        lagged: Array,
        progress: Progress,
    ) -> tuple[PyTree, Law]:
        """One step up the likelihood of the transitions; the backups as they are."""
        learned: EnsembleState = state.learned
        data, weights = batch.transition, batch.weights
        ends, moved = data.terminated.astype(jnp.float32), data.next_observation - data.observation
        change = jnp.concatenate([moved, data.reward[:, None]], axis=-1)
        joined, seen = _joined(learned, data.observation, data.action), weights > 0
        learned = learned.replace(
            inputs=_merged(learned.inputs, joined, seen),
            outputs=_merged(learned.outputs, change, seen),
            ends=_merged(learned.ends, ends, seen),
        )
        inputs = _inputs(learned, data.observation, data.action)
        outputs = (change - learned.outputs.mean) / _deviation(learned.outputs)
        shares = self._membership(state.fixed, data) * weights  # [M, B]
        shares = shares / jnp.maximum(jnp.sum(shares, axis=1, keepdims=True), _EPSILON)

        def loss(params: EnsembleParams) -> tuple[Array, Array]:
            mean, log_variance, logit = _laws(learned, params, inputs)
            error = (outputs - mean) ** 2 * jnp.exp(-log_variance)
            likelihood = 0.5 * jnp.sum(error + log_variance, axis=-1)
            likelihood += jax.nn.softplus(logit) - ends * logit
            losses = jnp.sum(jnp.where(shares > 0, shares * likelihood, 0.0), axis=1)
            return jnp.sum(losses) + _BOUND_PENALTY * jnp.sum(params.high - params.low), losses

        grads, losses = jax.grad(loss, has_aux=True)(learned.params)
        params, optimiser = self.optimiser.step(grads, learned.optimiser, learned.params, progress)
        return learned.replace(params=params, optimiser=optimiser, loss=losses), target

    def _membership(self, key: Key, data: Transition) -> Array:
        """Which networks learn from which transitions, `[M, B]` of 0 and 1.

        By what is in a transition, so that it is the same at every draw and nothing is stored.
        """
        numbers = jnp.concatenate(
            [data.observation, data.next_observation, data.reward[:, None]], axis=-1
        )
        bits = jax.lax.bitcast_convert_type(numbers.astype(jnp.float32), jnp.uint32)
        factors = jax.random.bits(key, bits.shape[1:], jnp.uint32) | 1
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.sum(bits * factors, axis=1))
        drawn = jax.vmap(lambda key: jax.random.uniform(key, (self.num_models,)))(keys)
        return (drawn < self.bootstrap).T.astype(jnp.float32)


def _check_space(space: Space, name: str) -> None:
    """Raise `ValueError` unless observations are a vector of real numbers."""
    is_vector = isinstance(space, Box) and len(space.shape) == 1
    if is_vector and jnp.issubdtype(space.dtype, jnp.floating):
        return
    what = f"{space}, such as images are"
    if isinstance(space, Discrete):
        what = f"one of {space.num_values} states"
    raise ValueError(
        f"Ensemble models vectors of real numbers, but {name} observes {what}: use "
        "successors=Generative(num_samples=16), which steps the environment itself, or plan on the "
        "TabularMDP if there is one."
    )


def _joined(learned: EnsembleState, observation: Array, action: Array) -> Array:
    """Observations and actions side by side, `[B, D + A]`."""
    if learned.num_actions:
        action = jax.nn.one_hot(action, learned.num_actions)
    return jnp.concatenate([observation, action.reshape(observation.shape[0], -1)], axis=-1)


def _inputs(learned: EnsembleState, observation: Array, action: Array) -> Array:
    raw, moments = _joined(learned, observation, action), learned.inputs
    return jnp.clip((raw - moments.mean) / _deviation(moments), -_CLIP, _CLIP)


def _laws(
    learned: EnsembleState, params: EnsembleParams, inputs: Array
) -> tuple[Array, Array, Array]:
    """Means and log-variances `[M, B, D + 1]` of normalised outputs, logits `[M, B]` of an end."""
    size = learned.outputs.mean.shape[0]
    raw = learned.model.apply(params.network, inputs[:, : size - 1], inputs[:, size - 1 :])
    assert isinstance(raw, Array)
    mean, log_variance, logit = raw[..., :size], raw[..., size:-1], raw[..., -1]
    log_variance = params.high - jax.nn.softplus(params.high - log_variance)
    log_variance = params.low + jax.nn.softplus(log_variance - params.low)
    # Ends are rare: the network says how much likelier than on average.
    share = (learned.ends.mean * learned.ends.count + 0.5) / (learned.ends.count + 1.0)
    return mean, log_variance, logit + jnp.log(share) - jnp.log1p(-share)


def _deviation(moments: RunningMoments) -> Array:
    return jnp.sqrt(moments.variance + _EPSILON)


def _merged(moments: RunningMoments, samples: Array, seen: Array) -> RunningMoments:
    """Moments with those `samples[B, *shape]` added that are `seen[B]`."""
    kept = seen.reshape(-1, *[1] * (samples.ndim - 1))
    return moments.merged(jnp.where(kept, samples, jnp.nan))  # what is not finite is left out


register("successors", Ensemble)
