"""Whole networks: a torso with the outputs that an agent needs. They take any leading axes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import linen as nn

import jaxrl.core.spaces as spaces
from jaxrl.core import Space, Struct
from jaxrl.core.types import Array, PyTree, select
from jaxrl.losses.formulas import quantile_levels
from jaxrl.networks.distributions import (
    CategoricalPolicy,
    GaussianPolicy,
    PolicyLaw,
    ProductPolicy,
    TanhGaussianPolicy,
)
from jaxrl.networks.initialisers import INITIALISERS
from jaxrl.networks.torsos import HIDDEN_GAIN, Network, Torso


class Model(nn.Module):
    """A module whose `apply` gives what it is called for: linen states a union of that with
    what it gives for `mutable` variables, which no agent keeps."""

    if TYPE_CHECKING:

        def apply(self, *args: Any, **words: Any) -> Any:
            """As of linen."""


class QNetwork(Model):
    """Return parameters for every action; `dueling` splits them into value plus centred advantage.

    Sources: Wang et al. 2016, equation 9 (dueling); Bellemare et al. 2017 (distributional outputs).

    Example:
        >>> import jax
        >>> from jaxrl.core import Discrete
        >>> from jaxrl.networks import NetworkSettings
        >>> model = QNetwork(NetworkSettings().torso(Discrete(5)), num_actions=3, head_shape=(7,))
        >>> observation = jnp.zeros((2,), jnp.int32)
        >>> params = model.init(jax.random.key(0), observation)
        >>> model.apply(params, observation).shape
        (2, 3, 7)
    """

    torso: Torso
    num_actions: int
    head_shape: tuple[int, ...] = ()
    dueling: bool = False

    @nn.compact
    def __call__(self, observation: PyTree) -> Array:
        """`[..., *observation]` -> `[..., A, *head_shape]`."""
        features = self.torso(observation)
        init = INITIALISERS[self.torso.settings.initialiser](1.0)
        size = math.prod(self.head_shape)
        layer = nn.Dense(self.num_actions * size, kernel_init=init, name="advantage")
        flat = layer(features)
        if not self.dueling:
            _tell_last_layer(self, layer, features)
        params = flat.reshape(*flat.shape[:-1], self.num_actions, *self.head_shape)
        if self.dueling:
            axis = -1 - len(self.head_shape)
            value = nn.Dense(size, kernel_init=init, name="value")(features)
            value = value.reshape(*value.shape[:-1], 1, *self.head_shape)
            params = value + params - jnp.mean(params, axis=axis, keepdims=True)
        return params


class ImplicitQNetwork(Model):
    """Returns of every action at any levels: a network of the observation and the level.

        phi(tau) = relu(W [cos(pi i tau)]_{i < num_cosines} + b)
        Z_tau(x, .) = output(last layer(features(x) * phi(tau)))

    `features` is the torso without its last hidden layer, which comes after the product. Without
    hidden layers the observation itself is multiplied, and all actions share the form of the
    quantile function at a one-hot observation: give at least one.

    Sources: Dabney, Ostrovski, Silver & Munos 2018, Implicit quantile networks, equation 4.

    Example:
        >>> import jax
        >>> from jaxrl.core import Discrete
        >>> from jaxrl.networks import NetworkSettings
        >>> torso = NetworkSettings().torso(Discrete(5))
        >>> model = ImplicitQNetwork(torso, num_actions=3, num_levels=7)
        >>> observation = jnp.zeros((2,), jnp.int32)
        >>> params = model.init(jax.random.key(0), observation)
        >>> values_and_levels = model.apply(params, observation, jnp.full((2, 7), 0.1))
        >>> values_and_levels.shape, f"{float(values_and_levels[0, 0, 0, 1]):.1f}"
        ((2, 3, 7, 2), '0.1')
    """

    torso: Torso
    num_actions: int
    num_levels: int
    num_cosines: int = 64
    dueling: bool = False

    @nn.compact
    def __call__(self, observation: PyTree, levels: Array | None = None) -> Array:
        """`[..., *observation]`, `levels[..., K]` (default mid-levels) -> `[..., A, K, 2]`."""
        s = self.torso.settings
        features = Torso(s.before_last(), *self.torso.facts)(observation)
        if levels is None:  # shared by all observations, and embedded once
            levels = quantile_levels(self.num_levels, features.dtype)
        init = INITIALISERS[s.initialiser]
        orders = jnp.arange(self.num_cosines, dtype=levels.dtype)
        cosines = jnp.cos(math.pi * orders * levels[..., None])  # [..., K, C], or [K, C]
        width = features.shape[-1]
        phi = nn.relu(nn.Dense(width, kernel_init=init(HIDDEN_GAIN), name="level")(cosines))
        hidden = s.last(width)(features[..., None, :] * phi)
        values = nn.Dense(self.num_actions, kernel_init=init(1.0), name="advantage")(hidden)
        if self.dueling:
            centred = values - jnp.mean(values, axis=-1, keepdims=True)
            values = centred + nn.Dense(1, kernel_init=init(1.0), name="value")(hidden)
        values = jnp.moveaxis(values, -1, -2)  # [..., A, K]
        return jnp.stack([values, jnp.broadcast_to(levels[..., None, :], values.shape)], axis=-1)


class PolicyHead(nn.Module):
    """Features to a policy: categorical for discrete actions, a diagonal Gaussian for a box."""

    action_size: int
    num_values: int | tuple[int, ...]  # of a discrete action, or of each of its coordinates, else 0
    initialiser: str = "orthogonal"

    @nn.compact
    def __call__(self, features: Array) -> PolicyLaw:
        """`[..., D]` -> policy with batch shape `[...]`."""
        init = INITIALISERS[self.initialiser](0.01)
        outputs = nn.Dense(self.action_size, kernel_init=init, name="output")(features)
        if isinstance(self.num_values, tuple):
            parts = tuple(map(CategoricalPolicy, spaces.columns(outputs, self.num_values)))
            return ProductPolicy(parts, in_one_array=True)
        if self.num_values:
            return CategoricalPolicy(outputs)
        log_scale = self.param("log_scale", nn.initializers.zeros_init(), (self.action_size,))
        return GaussianPolicy(outputs, jnp.broadcast_to(log_scale, outputs.shape))


class ProductHead(nn.Module):
    """Features to a law of several parts, each with a head of its own."""

    heads: tuple[nn.Module, ...]
    structure: Any  # of the tree that the parts stand in

    @nn.compact
    def __call__(self, features: Array) -> ProductPolicy:
        """`[..., D]` -> policy with batch shape `[...]`."""
        parts = [head(features) for head in self.heads]
        return ProductPolicy(jax.tree.unflatten(self.structure, parts))


def policy_head(action_space: Space, initialiser: str = "orthogonal") -> nn.Module:
    """Features `[..., D]` to the `PolicyLaw` of a space: of a tree, the product over its leaves."""
    found = spaces.leaves(action_space)
    heads = tuple(PolicyHead(spaces.flat_size(x), x.num_values, initialiser) for x in found)
    if spaces.is_leaf(action_space):
        return heads[0]
    return ProductHead(heads, jax.tree.structure(action_space, is_leaf=spaces.is_leaf))


class GRU(nn.Module):
    """A gated recurrent unit that starts afresh where an episode does (Cho et al. 2014)."""

    width: int

    @nn.compact
    def __call__(self, memory: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        """Memory `[..., H]`, (features `[..., D]`, starts `[...]` bool) -> memory, memory."""
        features, starts = inputs
        memory = select(starts, jnp.zeros_like(memory), memory)
        memory, _ = nn.GRUCell(self.width, kernel_init=INITIALISERS["lecun"]())(memory, features)
        return memory, memory


class ActorCritic(Model):
    """Policy and value, on one torso or on two, with or without a GRU between torso and outputs."""

    network: Network
    observation_space: tuple[Any, ...]  # `Torso.facts`
    policy_head: nn.Module  # features `[..., D]` -> `PolicyLaw`
    shared: bool = False
    heads: tuple[tuple[str, tuple[int, ...]], ...] = ()  # (name, shape), on the actor's features
    value_shape: tuple[int, ...] = ()  # of the head that stores a value
    actor_sees: tuple[str, ...] = ()  # parts of the observation, see `part_of`; () for all of it
    actor_space: tuple[Any, ...] = ()  # `Torso.facts` of these parts

    def setup(self) -> None:
        """Lay out the parts; the critic's are absent when shared."""
        s = self.network
        self.actor_torso = Torso(s, *(self.actor_space or self.observation_space))
        if not self.shared:
            self.critic_torso = Torso(s, *self.observation_space)
        if s.recurrent_size:
            self.actor_core = GRU(s.recurrent_size)
            if not self.shared:
                self.critic_core = GRU(s.recurrent_size)
        size = math.prod(self.value_shape)
        self.value_head = nn.Dense(size, kernel_init=INITIALISERS[s.initialiser](1.0))
        self.extra_heads = {
            name: nn.Dense(math.prod(shape), kernel_init=INITIALISERS[s.initialiser](0.01))
            for name, shape in self.heads
        }

    def __call__(
        self, observation: PyTree, starts: Array, memory: PyTree
    ) -> tuple[PolicyLaw, Array, dict[str, Array], PyTree]:
        """Policy, value `[..., *value_shape]`, extra heads `[..., *shape]`, both memories after it.

        A shared torso is evaluated once.
        """
        features, actor_memory = self._features(0, observation, starts, memory)
        if self.shared:
            value, critic_memory = self._value(features), actor_memory
        else:
            value, critic_memory = self.value(observation, starts, memory)
        next_memory = (actor_memory, critic_memory) if self.network.recurrent_size else ()
        heads = {
            name: self.extra_heads[name](features).reshape(*features.shape[:-1], *shape)
            for name, shape in self.heads
        }
        return self.policy_head(features), value, heads, next_memory

    def policy(
        self, observation: PyTree, starts: Array, memory: PyTree
    ) -> tuple[PolicyLaw, PyTree]:
        """One step of the policy: `[..., *observation]` -> policy, actor memory `[..., H]`."""
        features, actor_memory = self._features(0, observation, starts, memory)
        return self.policy_head(features), actor_memory

    def value(self, observation: PyTree, starts: Array, memory: PyTree) -> tuple[Array, PyTree]:
        """One step of the critic: `[..., *observation]` -> value `[..., *value_shape]`, memory."""
        features, critic_memory = self._features(1, observation, starts, memory)
        return self._value(features), critic_memory

    def _value(self, features: Array) -> Array:
        """`[..., D]` -> `[..., *value_shape]`."""
        return self.value_head(features).reshape(*features.shape[:-1], *self.value_shape)

    def _features(
        self, part: int, observation: PyTree, starts: Array, memory: PyTree
    ) -> tuple[Array, PyTree]:
        """Of the actor (0) or the critic (1), and its memory."""
        is_own = part and not self.shared
        if self.actor_sees and not part:
            observation = spaces.part_of(observation, self.actor_sees)
        features = (self.critic_torso if is_own else self.actor_torso)(observation)
        if not self.network.recurrent_size:
            return features, ()
        core = self.critic_core if is_own else self.actor_core
        next_memory, features = core(memory[part], (features, starts))
        return features, next_memory


def actor_critic(
    network: Network,
    observation_space: Space,
    action_space: Space,
    shared: bool,
    heads: Mapping[str, tuple[int, ...]] | None = None,
    value_shape: tuple[int, ...] = (),
    head: nn.Module | None = None,
    actor_sees: tuple[str, ...] = (),
) -> ActorCritic:
    """The actor-critic network for these spaces.

    Args:
        network: of the torsos.
        observation_space: what the critic sees.
        action_space: any tree of spaces.
        shared: let policy and value share one torso.
        heads: extra ones, by name and shape.
        value_shape: of the values.
        head: features `[..., D]` to a `PolicyLaw`; None for that of the action space.
        actor_sees: names of the parts of an observation that the actor sees: keys of a dict, fields
            of a struct, places in a tuple, dotted where they are inside one another; () for all.

    Raises:
        ValueError: a space without a torso, actions that are of no space, a part of the observation
            that is not there, or one torso for two that see different things.
    """
    if actor_sees and shared:
        raise ValueError(
            f"actor_sees={actor_sees} gives the critic more to see than the actor, and "
            "shared_torso=True lets both share what is made of it: leave one out."
        )
    seen = network.torso(spaces.part_of(observation_space, actor_sees)).facts if actor_sees else ()
    facts, extra = network.torso(observation_space).facts, tuple(sorted((heads or {}).items()))
    law = head or policy_head(action_space, network.initialiser)
    return ActorCritic(network, facts, law, shared, extra, value_shape, actor_sees, seen)


class TanhGaussianActor(Model):
    """A tanh-squashed Gaussian policy on `[-1, 1]^D` with state-dependent scale.

    The log-scale is itself squashed between its bounds rather than clipped, which would stop its
    gradient.

    Source: Haarnoja et al. 2018, Soft actor-critic, appendix C.
    """

    torso: Torso
    action_size: int
    min_log_scale: float = -5.0
    max_log_scale: float = 2.0

    @nn.compact
    def __call__(self, observation: PyTree) -> TanhGaussianPolicy:
        """`[..., *observation]` -> policy with batch shape `[...]`."""
        features = self.torso(observation)
        init = INITIALISERS[self.torso.settings.initialiser](0.01)
        loc = nn.Dense(self.action_size, kernel_init=init, name="loc")(features)
        raw = nn.Dense(self.action_size, kernel_init=init, name="log_scale")(features)
        width = 0.5 * (self.max_log_scale - self.min_log_scale)
        log_scale = self.min_log_scale + width * (jnp.tanh(raw) + 1.0)
        bound = jnp.ones(self.action_size)
        return TanhGaussianPolicy(loc, log_scale, -bound, bound)


class DeterministicActor(Model):
    """A deterministic policy into `[-1, 1]^D` (Lillicrap et al. 2016)."""

    torso: Torso
    action_size: int

    @nn.compact
    def __call__(self, observation: PyTree) -> Array:
        """`[..., *observation]` -> action `[..., D]`."""
        init = INITIALISERS[self.torso.settings.initialiser](0.01)
        features = self.torso(observation)
        return jnp.tanh(nn.Dense(self.action_size, kernel_init=init, name="output")(features))


class ActionCritic(Model):
    """Return parameters of (observation, action) pairs, from an ensemble of independent networks.

    Values for the default `head_shape`.
    """

    torso: Torso
    num_critics: int = 2
    head_shape: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, observation: PyTree, action: Array) -> Array:
        """`[..., *observation]`, `[..., D]` -> `[num_critics, ..., *head_shape]` [return]."""
        body = nn.vmap(
            _CriticBody,
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True},
            in_axes=None,  # pyright: ignore[reportArgumentType]  # linen states int
            out_axes=0,
            axis_size=self.num_critics,
        )
        body = body(self.torso.settings, self.torso.facts, self.head_shape)
        return body(observation, action)


class _CriticBody(nn.Module):
    settings: Network
    facts: tuple[Any, ...]  # of the observations, see `Torso.facts`
    head_shape: tuple[int, ...]

    @nn.compact
    def __call__(self, observation: PyTree, action: Array) -> Array:
        features = Torso(self.settings, *self.facts)(observation, action)
        init = INITIALISERS[self.settings.initialiser](1.0)
        layer = nn.Dense(math.prod(self.head_shape), kernel_init=init)
        flat = layer(features)
        _tell_last_layer(self, layer, features)
        return flat.reshape(*flat.shape[:-1], *self.head_shape)


class LastLayer(Struct):
    """The linear layer that gives a network's outputs: `features @ kernel + bias`."""

    features: Array  # [..., D]
    kernel: Array  # [D, K], of each critic where there are several
    bias: Array  # [K]


def _tell_last_layer(module: nn.Module, layer: nn.Dense, features: Array) -> None:
    module.sow("intermediates", "last_layer", LastLayer(features, **layer.variables["params"]))


def last_layer(model: nn.Module, params: PyTree, *inputs: Array) -> LastLayer:
    """The last layer of a network at its inputs, as the module tells it by `sow`.

    Raises:
        ValueError: it tells none: its outputs are not those of one linear layer.
    """
    _, told = model.apply(params, *inputs, mutable=["intermediates"])
    found = jax.tree.leaves(told, is_leaf=lambda node: isinstance(node, LastLayer))
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no single linear layer of outputs: leave dueling off, or "
            "the part that reads features out."
        )
    return found[0]
