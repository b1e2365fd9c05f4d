"""Successors from the environment stepped again, under one setting of its numbers or several."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.agents import successors
from jaxrl.agents.successors import Outcomes, SourceState
from jaxrl.core import Struct, struct
from jaxrl.core.notation import register
from jaxrl.core.protocols import Environment, Functional, PartFacts, legal_actions
from jaxrl.core.settings import check_settings, setting
from jaxrl.core.types import Array, Key, PyTree, TimeStep, Transition
from jaxrl.envs.parameters import check_parameter, resolve_parameter, with_parameters
from jaxrl.networks import Network
from jaxrl.operators import BellmanOperator

Spread = tuple[tuple[str, float, float], ...]  # (name, low, high) of each parameter


class EnvModels(Struct):
    """An environment under M settings, which `setting` tells apart."""

    env: PyTree  # an environment; with `is_batch` its leaves are [M, ...]
    values: dict[str, Array]  # [M] each, by full name of the parameter
    is_batch: bool = struct.field(pytree_node=False, default=False)

    @property
    def settings(self) -> PyTree:
        """What differs, leaves `[M, ...]`, to map over."""
        return self.env if self.is_batch else self.values

    def under(self, setting: PyTree) -> Environment:
        """The environment under one row of `settings`."""
        return setting if self.is_batch else with_parameters(self.env, setting)


class Generative(Struct):
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
    spread: Spread = setting((), "(name, low, high) of each parameter that differs")
    # An environment struct with leaves [M, ...]: its settings are not the agent's.
    models: PyTree = struct.field(default=None, metadata={"setting": False})
    over_models: Functional | None = None

    facts = PartFacts(one_step=True)
    keeps_env_state = True
    is_random = True

    def check(self, operator: BellmanOperator, env: Environment) -> None:
        """Refuse what cannot be stepped again, and functionals that see too few outcomes.

        Raises:
            ValueError: an environment without a state or with randomness in it, settings that are
                not a grid, or a functional over one outcome or one setting.
        """
        _check_state(env)
        _check_models(env, self.num_models, self.spread, self.models)
        groups = "settings of the environment, as in spread=(('gravity', 8.0, 12.0),)"
        successors.check_draws(self, operator, groups)

    operator = successors.over_own_models

    def init(
        self, key: Key, env: Environment, operator: BellmanOperator, network: Network
    ) -> SourceState:
        """The environment; what differs between its settings has a leading axis `[M]`."""
        return SourceState(fixed=self.env_models(env))

    def env_models(self, env: Environment) -> EnvModels:
        """The settings under which `env` is stepped: those of the grid, or as they are given."""
        copy = own_copy(env if self.models is None else self.models)
        if self.models is not None:
            return EnvModels(copy, {}, is_batch=True)
        side = round(self.num_models ** (1.0 / max(len(self.spread), 1)))
        axes = [np.linspace(low, high, side) for _, low, high in self.spread]
        points = [jnp.asarray(axis.ravel()) for axis in np.meshgrid(*axes, indexing="ij")]
        names = [resolve_parameter(env, name) for name, _, _ in self.spread]
        return EnvModels(copy, dict(zip(names, points, strict=True)))

    def outcomes(self, key: Key, state: SourceState, data: Transition, discount: float) -> Outcomes:
        """N = M K, the K of each setting side by side."""
        models: EnvModels = state.fixed
        shape, is_shared = (self.num_models, self.num_samples), self.over_models is not None
        size = math.prod(shape)

        def draws(
            setting: PyTree, keys: Key, env_state: PyTree, action: Array
        ) -> tuple[TimeStep, PyTree]:
            env = models.under(setting)

            def draw(key: Key) -> tuple[TimeStep, PyTree]:
                after, step = env.step(key, env_state, action)
                return step, legal_actions(env, after)

            return jax.vmap(draw)(keys)

        def row(keys: Key, env_state: PyTree, action: Array) -> tuple[TimeStep, PyTree]:
            if not jax.tree.leaves(models.settings):
                return draws(models.settings, keys[0], env_state, action)
            over_models = jax.vmap(draws, (0, 0, None, None))
            steps = over_models(models.settings, keys, env_state, action)  # [M, K, ...]
            return jax.tree.map(lambda leaf: leaf.reshape(size, *leaf.shape[2:]), steps)

        batch = data.reward.shape[0]
        keys = jax.random.split(key, (batch, 1 if is_shared else shape[0], shape[1]))
        keys = jnp.broadcast_to(keys, (batch, *shape))
        steps, mask = jax.vmap(row)(keys, data.env_state, data.action)
        reward = steps.reward.astype(data.reward.dtype)
        after = (steps.terminated, steps.observation, discount, mask)
        return successors.equal_outcomes(reward, *after)

    learn = successors.learn_nothing


def _check_state(env: Environment) -> None:
    """Raise `ValueError` unless the environment's state can be stored and stepped again."""
    state, _ = jax.eval_shape(env.reset, jax.random.key(0))
    leaves = jax.tree.leaves(state)
    has_key = any(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves)
    if has_key or not leaves:
        what = "carries a random key of its own" if has_key else "holds no arrays"
        raise ValueError(
            f"Generative steps stored states again, each time with another key, but the state of "
            f"{type(env).__name__} {what}: let it hold what `step` needs, and `step` use the key "
            "that it is given, or use successors=Sampled()."
        )


def _check_models(env: Environment, num_models: int, spread: Spread, models: PyTree) -> None:
    """Raise `ValueError` unless `num_models` settings are told, once, given or on a grid;
    `KeyError` for a name that is no parameter of the environment."""
    if models is not None and spread:
        raise ValueError("both spread and models are given: leave one of them out.")
    if models is not None:
        if jax.tree.structure(models) != jax.tree.structure(env):
            raise ValueError(
                f"models must be one {type(env).__name__} built like the environment, with a "
                "leading axis on every leaf, as jax.tree.map and jnp.stack make it."
            )
        found, one = (list(map(np.shape, jax.tree.leaves(tree))) for tree in (models, env))
        if found != [(num_models, *shape) for shape in one]:
            raise ValueError(
                f"models must hold num_models={num_models} settings, one along the first axis of "
                f"every leaf; those have {sorted({shape[:1] for shape in found})}."
            )
        check_settings(models)
    elif (num_models > 1) != bool(spread):
        raise ValueError(
            f"num_models={num_models} settings of the environment, and spread={spread}: name what "
            "differs, as in spread=(('gravity', 8.0, 12.0),), with 2 models or more for each "
            "name, or give models=; or leave both out."
        )
    for name, low, high in spread:
        if not low < high:
            raise ValueError(f"spread: {name} reaches from {low} to {high}: give low < high.")
        check_parameter(env, name, low)
        check_parameter(env, name, high)
    side = max(2, round(num_models ** (1.0 / max(len(spread), 1))))
    if spread and side ** len(spread) != num_models:
        raise ValueError(
            f"num_models={num_models} is no grid over {len(spread)} parameters: use "
            f"{side ** len(spread)} or {(side + 1) ** len(spread)}, or give the environments "
            "themselves by models=."
        )


def own_copy(tree: PyTree) -> PyTree:
    """A copy without weak types. The state of an agent may be donated, not a caller's structs."""
    leaves = jax.tree.map(jnp.asarray, tree)
    return jax.tree.map(lambda leaf: jnp.copy(leaf.astype(leaf.dtype)), leaves)


register("successors", Generative)
