"""A rule that learns from another reward than the environment's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import ClassVar, Protocol

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.protocols import UpdateRule
from jaxrl.core.settings import setting
from jaxrl.core.spaces import Box, Discrete, Space
from jaxrl.core.types import Array, Key, Progress, PyTree, Transition
from jaxrl.rules.random_weights import random_weights


class Reward(Protocol):
    """What is paid for a step, seen by the rule in place of the environment's reward."""

    def __call__(self, observation: PyTree, action: Array, reward: Array) -> Array:
        """`observation[..., *]`, `action[..., *]`, `reward[...]` [return] -> `[...]` [return]."""
        ...


@struct.dataclass
class FunctionReward:
    """A reward given by any function of the same arguments, over any leading axes."""

    function: Callable[[PyTree, Array, Array], Array] = struct.field(pytree_node=False)

    def __call__(self, observation: PyTree, action: Array, reward: Array) -> Array:
        """-> `[...]` [return]."""
        return self.function(observation, action, reward)


@struct.dataclass
class NetworkReward:
    """A learned blend of the environment's reward and one of the network's own.

        u = tanh(features(observation, action) @ hidden + b)
        r_phi(s, a, r) = bonus(u) + factor(u) r,  both linear in u, with biases

    Output weights of zero, bonus bias 0 and factor bias 1 leave the reward as it is.

    Attributes:
        weights: `hidden[F, H]`, `hidden_bias[H]`, `outputs[H, 2]`, `outputs_bias[2]`.
        num_observations: values of a discrete observation, else 0.
        num_actions: values of a discrete action, else 0.

    Source: Gupta et al. 2023, Behavior alignment via reward function optimization: a blend with
    learned factors of primary and auxiliary reward; its form, and whether factors see the action,
    to confirm. Here the auxiliary reward is the network's bonus.
    """

    weights: dict[str, Array]
    num_observations: int = struct.field(pytree_node=False, default=0)
    num_actions: int = struct.field(pytree_node=False, default=0)

    learned: ClassVar[tuple[str, ...]] = ("weights",)

    def __call__(self, observation: PyTree, action: Array, reward: Array) -> Array:
        """-> `[...]` [return]."""
        lead = reward.shape
        seen = _flat(observation, self.num_observations, lead)
        done = _flat(action, self.num_actions, lead)
        weights = self.weights
        features = jnp.concatenate([seen, done], axis=-1).astype(weights["hidden"].dtype)
        units = jnp.tanh(features @ weights["hidden"] + weights["hidden_bias"])
        said = units @ weights["outputs"] + weights["outputs_bias"]
        return said[..., 0] + said[..., 1] * reward


@struct.dataclass
class WithReward:
    """Another rule, under another reward: what an outer loop gives it to learn from.

    The inner rule's targets are those of the trajectory with

        reward <- reward(observation, action, reward),   discount <- discount_factor discount

    and everything else is the inner rule's. The environment's own reward stays what evaluation
    and an outer loop score by. Termination stays in the discount.

    Attributes:
        rule: the inner rule.
        reward: what is paid instead.
        discount_factor: shortens the horizon of the rule; 1 leaves it [1].

    Source: Gupta et al. 2023 (reward and discount learned by implicit differentiation).

    Example:
        >>> from jaxrl.rules import AdvantageActorCritic, PolicyOutputs
        >>> rule = with_reward(AdvantageActorCritic(), lambda seen, action, reward: 2 * reward)
        >>> zero, one = jnp.zeros(1), jnp.ones(1)
        >>> trajectory = Transition(one, one, one, zero, one, one, zero, extras={})
        >>> outputs = PolicyOutputs(zero, zero, zero, zero)
        >>> rule.targets((), outputs, trajectory, Progress.start())[0].returns.tolist()
        [2.0]
    """

    rule: UpdateRule
    reward: Reward
    discount_factor: float = setting(1.0, "factor of the discount", low=0.0, high=1.0)

    @property
    def learned(self) -> tuple[str, ...]:
        """What is learned of the reward and of the inner rule, by dotted path."""
        return tuple(
            f"{part}.{name}"
            for part in ("reward", "rule")
            for name in getattr(getattr(self, part), "learned", ())
        )

    @property
    def needs_episodes(self) -> bool:
        """Whether the inner rule must be told which episodes are whole."""
        return getattr(self.rule, "needs_episodes", False)

    @property
    def raw_advantages(self) -> bool:
        """Whether the inner rule's advantages must not be standardised."""
        return getattr(self.rule, "raw_advantages", False)

    @property
    def outputs(self) -> Mapping[str, tuple[int, ...]]:
        """The heads of the inner rule."""
        return self.rule.outputs

    def init(self, params: PyTree) -> PyTree:
        """What the inner rule remembers."""
        return self.rule.init(params)

    def targets(
        self, rule_state: PyTree, outputs: PyTree, trajectory: Transition, progress: Progress
    ) -> tuple[PyTree, PyTree]:
        """The inner rule's, `[T, ...]`, under the other reward."""
        reward = self.reward(trajectory.observation, trajectory.action, trajectory.reward)
        discount = self.discount_factor * trajectory.discount
        trajectory = trajectory.replace(reward=reward, discount=discount)
        return self.rule.targets(rule_state, outputs, trajectory, progress)

    def loss(self, outputs: PyTree, targets: PyTree, progress: Progress) -> Array:
        """The inner rule's loss `[]` of one step."""
        return self.rule.loss(outputs, targets, progress)


def with_reward(
    rule: UpdateRule,
    source: Key | Callable[[PyTree, Array, Array], Array],
    observation_space: Space | None = None,
    action_space: Space | None = None,
    num_hidden: int = 32,
    scale: float = 0.01,
) -> WithReward:
    """`rule` under a learned reward with random weights, or under any function of a step.

    Args:
        rule: the inner rule.
        source: a key for the weights, or the reward itself, `(observation, action, reward) -> []`.
        observation_space: of the environment, for a learned reward; a Box or a Discrete.
        action_space: likewise.
        num_hidden: width of the network's tanh layer.
        scale: of its output weights; 0 starts at the environment's reward, without a gradient for
            the first layer.

    Raises:
        ValueError: a learned reward without spaces, or with spaces that no network takes.

    Example:
        >>> from jaxrl.rules import AdvantageActorCritic
        >>> learned = with_reward(
        ...     AdvantageActorCritic(), jax.random.key(0), Discrete(5), Discrete(2), num_hidden=4
        ... )
        >>> learned.learned, learned.reward.weights["hidden"].shape
        (('reward.weights',), (7, 4))
    """
    if callable(source):
        return WithReward(rule, FunctionReward(source))
    sizes, counts = [], []
    for name, space in (("observation_space", observation_space), ("action_space", action_space)):
        if not isinstance(space, (Box, Discrete)):
            raise ValueError(
                f"A learned reward needs {name}, a Box or a Discrete, not {space}: give the "
                f"environment's env.{name}."
            )
        counts.append(space.num_values if isinstance(space, Discrete) else 0)
        sizes.append(counts[-1] if isinstance(space, Discrete) else math.prod(space.shape))
    num_features = sum(sizes)
    weights = random_weights(source, hidden=(num_features, num_hidden), outputs=(num_hidden, 2))
    weights["outputs"] = scale * weights["outputs"]
    weights |= {"hidden_bias": jnp.zeros(num_hidden), "outputs_bias": jnp.array([0.0, 1.0])}
    return WithReward(rule, NetworkReward(weights, *counts))


def _flat(leaf: PyTree, num_values: int, lead: tuple[int, ...]) -> Array:
    """`[*lead, *shape]` -> `[*lead, D]`, one-hot for `num_values` discrete values."""
    if num_values:
        return jax.nn.one_hot(leaf, num_values)
    return jnp.asarray(leaf).reshape(*lead, -1)
