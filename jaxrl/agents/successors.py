"""Where a backup's successors come from: the transition seen, or the environment stepped again.

A functional over successors needs several of them. With one, CVaR, entropic risk and every worst
case equal the mean, so that an agent which is fed less than its operator needs refuses to be built.
"""

from __future__ import annotations

import math
from typing import ClassVar, Protocol

import jax
import jax.numpy as jnp

from jaxrl.agents.env_models import EnvModels, check_env_models, make_env_models
from jaxrl.agents.nested import check_draws, over_own_models
from jaxrl.core import struct
from jaxrl.core.law import Law
from jaxrl.core.notation import register
from jaxrl.core.protocols import Environment, Functional
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Key, Progress, PyTree, TimeStep, Transition
from jaxrl.networks import NetworkSettings
from jaxrl.operators import BellmanOperator
from jaxrl.operators.bellman import describe


@struct.dataclass
class SourceState:
    """What a source of successors keeps in an agent's state."""

    fixed: PyTree = ()  # read only, such as the environment
    learned: PyTree = ()  # changed by every gradient step


@struct.dataclass
class Outcomes:
    """What may follow each of `B` transitions: N weighted outcomes."""

    reward: Array  # [B, N] [return]
    discount: Array  # [B, N], gamma^tau (1 - terminated)
    probs: Array  # [B, N], non-negative, summing to one over N
    observation: PyTree  # [B, N, ...], the true successors
    exact: bool = struct.field(pytree_node=False, default=False)  # taken for the whole law


@struct.dataclass
class Backup:
    """A batch of backups, before anything is regressed to them."""

    data: Transition  # [B, ...]
    weights: Array  # [B], 0 where the transition must not count
    target: Law  # [B, ...] [return]
    lagged: Array  # [B], the lagged copy's value of the state and action [return]


class Successors(Protocol):
    """A source of successors, as a setting of an agent. What it needs lives in the agent's state.

    `discount` below is gamma [per step].
    """

    keeps_env_state: ClassVar[bool]  # rollouts and replay record the state acted in
    is_random: ClassVar[bool]  # `outcomes` spends its key
    learns: ClassVar[bool]  # `learn` does something

    def check(self, operator: BellmanOperator, env: Environment, num_step: int = 1) -> None:
        """Raise `ValueError` where `operator` asks for more than this source gives in `env`."""
        ...

    def operator(self, operator: BellmanOperator) -> BellmanOperator:
        """The operator as it is applied to these outcomes."""
        ...

    def init(
        self, key: Key, env: Environment, operator: BellmanOperator, network: NetworkSettings
    ) -> SourceState:
        """What the other methods read. `network` is the agent's, for what is learned."""
        ...

    def outcomes(self, key: Key, state: SourceState, data: Transition, discount: float) -> Outcomes:
        """The outcomes of the transitions `data[B, ...]`."""
        ...

    def learn(
        self, state: SourceState, operator: BellmanOperator, backup: Backup, progress: Progress
    ) -> tuple[PyTree, Law]:
        """After the backup: what was learned, and the laws `[B, ...]` to regress to."""
        ...


def learn_nothing(
    source: Successors,
    state: SourceState,
    operator: BellmanOperator,
    backup: Backup,
    progress: Progress,
) -> tuple[PyTree, Law]:
    """`learn` of sources without parameters: nothing; the backups as they are."""
    return (), backup.target


@struct.dataclass
class Sampled:
    """The one successor that was seen, of any number of steps: what every replay and rollout has.

    Attributes:
        accept_bias: take functionals over successors all the same. On the one successor they are
            the mean, so that the values learned are the risk-neutral ones.

    Example:
        >>> from jaxrl.functionals import CVaR
        >>> risky = BellmanOperator(successor_functional=CVaR(0.1))
        >>> Sampled(accept_bias=True).check(risky)  # Sampled() refuses it
    """

    accept_bias: bool = setting(False, "let functionals over successors act as the mean")

    keeps_env_state: ClassVar[bool] = False
    is_random: ClassVar[bool] = False
    learns: ClassVar[bool] = False

    def check(
        self, operator: BellmanOperator, env: Environment | None = None, num_step: int = 1
    ) -> None:
        """Raise `ValueError` for a functional that one successor says nothing about."""
        if operator.successor_functional.facts.needs_successors and not self.accept_bias:
            raise ValueError(
                f"{describe(operator.successor_functional)} ranges over successors, but this agent "
                "sees 1 per transition. Use successors=Generative(num_samples=16), plan on a "
                "TabularMDP, or set return_functional to be risk-averse over returns. "
                "Sampled(accept_bias=True) learns the risk-neutral values instead."
            )
        operator.require_successors(1, exact=self.accept_bias)

    def operator(self, operator: BellmanOperator) -> BellmanOperator:
        """Unchanged."""
        return operator

    def init(
        self, key: Key, env: Environment, operator: BellmanOperator, network: NetworkSettings
    ) -> SourceState:
        """Nothing."""
        return SourceState()

    def outcomes(self, key: Key, state: SourceState, data: Transition, discount: float) -> Outcomes:
        """N = 1: the transition itself, with its own discount."""
        reward = data.reward[:, None]
        return Outcomes(
            reward=reward,
            discount=data.discount[:, None],
            probs=jnp.ones(reward.shape[:2], reward.dtype),
            observation=jax.tree.map(lambda leaf: leaf[:, None], data.next_observation),
            exact=self.accept_bias,
        )

    learn = learn_nothing


@struct.dataclass
class Generative:
    """The environment stepped again from the stored state: K draws under M settings of it.

    The replay keeps the environment's state beside each observation. The update steps it with K
    fresh keys under each of M fixed copies of the environment struct. With F the operator's
    successor functional and v[m, k] what the outcomes are worth,

    over_models None:  F over all M K outcomes, each of probability 1 / (M K): the mixture
    over_models G:     G over m, each of probability 1 / M, of F over k of v[m, k]

    The worst of M settings is G = `CVaR(1 / M)`; domain randomisation of a robust value is G =
    `Mean()`. Nature's weights multiply, so that a law of returns is reweighted alike. Under a
    worst case the M settings share their K keys: they are then told apart by what they do, not by
    luck. Nature chooses anew in every state and action and at every step, which is at most the
    value of the worst setting kept for good.

    The law of K draws is not the law: F of it is biased, upwards for a concave F such as CVaR or a
    KL worst case, by an amount that falls as 1 / K. As K grows the values tend to the exact ones.

    Attributes:
        num_samples: K, draws under each setting.
        num_models: M, settings.
        spread: `(name, low, high)` of each parameter that differs between settings, by the names of
            `jaxrl.envs.parameters`: dotted, or the last part where that is enough. The settings are
            a grid with both ends: M values of one parameter, m^D of D.
        models: instead of `spread`, the environments themselves, one struct with leaves `[M, ...]`.
        over_models: G; None for the mixture.

    Example:
        >>> from jaxrl.functionals import CVaR
        >>> from jaxrl.envs import TabularEnv, riverswim
        >>> from jaxrl.envs.wrappers import StickyActions
        >>> env = StickyActions(TabularEnv(riverswim()), probability=0.25)
        >>> worst_of_two = Generative(4, 2, (("probability", 0.0, 0.5),), over_models=CVaR(0.5))
        >>> worst_of_two.env_models(env).values["probability"].tolist()
        [0.0, 0.5]

    Sources:
        Kakade (2003), On the sample complexity of reinforcement learning, chapter 2 (the generative
        model); Iyengar (2005), Robust dynamic programming (nature chooses anew at every step).
    """

    num_samples: int = setting(16, "draws of the successor", low=1)
    num_models: int = setting(1, "settings of the environment", low=1)
    spread: tuple[tuple[str, float, float], ...] = setting(
        (), "(name, low, high) of each parameter that differs between settings"
    )
    models: PyTree = None  # an environment struct with leaves [M, ...]
    over_models: Functional | None = None

    keeps_env_state: ClassVar[bool] = True
    is_random: ClassVar[bool] = True
    learns: ClassVar[bool] = False

    def check(self, operator: BellmanOperator, env: Environment, num_step: int = 1) -> None:
        """Refuse what cannot be stepped again, and functionals that see too few outcomes.

        Raises:
            ValueError: n-step windows, an environment without a state or with randomness in it,
                settings that are not a grid, or a functional over one outcome or one setting.
        """
        if num_step > 1:
            raise ValueError(
                f"Generative steps once from the stored state, but the replay has num_step="
                f"{num_step}: set replay.num_step=1."
            )
        _check_state(env)
        check_env_models(env, self.num_models, self.spread, self.models)
        draws = self.num_samples, self.num_models
        groups = "settings of the environment, as in spread=(('gravity', 8.0, 12.0),)"
        check_draws(operator, self.over_models, *draws, "Generative", groups)

    operator = over_own_models

    def init(
        self, key: Key, env: Environment, operator: BellmanOperator, network: NetworkSettings
    ) -> SourceState:
        """The environment; what differs between its settings has a leading axis `[M]`."""
        return SourceState(fixed=self.env_models(env))

    def env_models(self, env: Environment) -> EnvModels:
        """The settings under which `env` is stepped."""
        return make_env_models(env, self.num_models, self.spread, self.models)

    def outcomes(self, key: Key, state: SourceState, data: Transition, discount: float) -> Outcomes:
        """N = M K, the K of each setting side by side."""
        models: EnvModels = state.fixed
        shape, is_shared = (self.num_models, self.num_samples), self.over_models is not None
        size = math.prod(shape)

        def draws(setting: PyTree, keys: Key, env_state: PyTree, action: Array) -> TimeStep:
            env = models.under(setting)
            return jax.vmap(lambda key: env.step(key, env_state, action)[1])(keys)

        def row(keys: Key, env_state: PyTree, action: Array) -> TimeStep:
            if not jax.tree.leaves(models.settings):
                return draws(models.settings, keys[0], env_state, action)
            over_models = jax.vmap(draws, (0, 0, None, None))
            steps = over_models(models.settings, keys, env_state, action)  # [M, K, ...]
            return jax.tree.map(lambda leaf: leaf.reshape(size, *leaf.shape[2:]), steps)

        batch = data.reward.shape[0]
        keys = jax.random.split(key, (batch, 1 if is_shared else shape[0], shape[1]))
        keys = jnp.broadcast_to(keys, (batch, *shape))
        steps = jax.vmap(row)(keys, data.env_state, data.action)
        reward = steps.reward.astype(data.reward.dtype)
        return Outcomes(
            reward=reward,
            discount=discount * (1.0 - steps.terminated),
            probs=jnp.full(reward.shape[:2], 1.0 / size, reward.dtype),
            observation=steps.observation,
        )

    learn = learn_nothing


def _check_state(env: Environment) -> None:
    """Raise `ValueError` unless the environment's state can be stored and stepped again."""
    state, _ = jax.eval_shape(env.reset, jax.random.key(0))
    leaves = jax.tree.leaves(state)
    if not leaves:
        raise ValueError(
            f"Generative steps stored states again, but the state of {type(env).__name__} holds no "
            "arrays: it is kept elsewhere, or there is none. Use successors=Sampled()."
        )
    if any(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves):
        raise ValueError(
            f"Generative draws successors by the key of `step`, but the state of "
            f"{type(env).__name__} carries a random key of its own: every draw may be the same. "
            "Let `step` use the key it is given, or use successors=Sampled()."
        )


register("successors", Sampled, Generative, field_types=[Successors])
