"""A rule that learns from another reward than the environment's."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrl.core import Struct, struct
from jaxrl.core.protocols import LEARNED, RuleFacts, UpdateRule, rule_facts
from jaxrl.core.settings import setting
from jaxrl.core.spaces import Box, Discrete, Space
from jaxrl.core.types import Array, Key, Progress, PyTree, Transition
from jaxrl.rules.contract import learned_in, of_inner, random_weights

# `observation[..., *]`, `action[..., *]`, `reward[...]` [return] -> `[...]` [return].
Reward = Callable[[PyTree, Array, Array], Array]


class NetworkReward(Struct):
    """A learned blend of the environment's reward and one of the network's own.

        u = tanh(features(observation, action) @ hidden + b)
        r_phi(s, a, r) = bonus(u) + factor(u) r,  both linear in u, with biases

    Output weights of zero, bonus bias 0 and factor bias 1 leave the reward as it is.

    Attributes:
        weights: `hidden[F, H]`, `hidden_bias[H]`, `outputs[H, 2]`, `outputs_bias[2]`.
        num_observations: values of a discrete observation, else 0.
        num_actions: values of a discrete action, else 0.

    Source: Gupta et al. 2023, Behavior alignment via reward function optimization: a learned blend
    of primary and auxiliary reward (`HintedReward` has the auxiliary one). This network, whose
    factors see step and action, is our choice.
    """

    weights: dict[str, Array]
    num_observations: int = struct.field(pytree_node=False, default=0)
    num_actions: int = struct.field(pytree_node=False, default=0)

    facts = LEARNED

    def __call__(self, observation: PyTree, action: Array, reward: Array) -> Array:
        """-> `[...]` [return]."""
        counts = ((observation, self.num_observations), (action, self.num_actions))
        flat = [
            jax.nn.one_hot(leaf, count) if count else jnp.asarray(leaf).reshape(*reward.shape, -1)
            for leaf, count in counts
        ]
        weights = self.weights
        features = jnp.concatenate(flat, axis=-1).astype(weights["hidden"].dtype)
        units = jnp.tanh(features @ weights["hidden"] + weights["hidden_bias"])
        said = units @ weights["outputs"] + weights["outputs_bias"]
        return said[..., 0] + said[..., 1] * reward


class HintedReward(Struct):
    """Another reward and a designer's hint, which an outer loop can unlearn where it misleads.

        r_phi(s, a, r) = reward(s, a, r) + hint_factor hint(s, a)

    With a `NetworkReward` that is a learned function, and learned factors of the primary reward
    and of the auxiliary one. Factor 0 leaves the hint out.

    Attributes:
        reward: the rest of the blend.
        hint: `observation[..., *], action[..., *] -> [...]` [return], over any leading axes; a
            struct with `__call__` where the rule is to be saved.
        hint_factor: of the hint, learned [1].

    Source: Gupta et al. 2023, Behavior alignment via reward function optimization (that the blend
    of primary and auxiliary reward is learned is theirs; that this factor is one number, and that
    it starts at 1, is our choice).

    Example:
        >>> plain = jax.tree_util.Partial(lambda s, a, r: r)
        >>> paid = HintedReward(plain, lambda s, a: s + a, 0.5)
        >>> float(paid(jnp.array(2.0), jnp.array(1.0), jnp.array(10.0))), paid.facts.learned
        (11.5, ('hint_factor',))
    """

    reward: Reward
    hint: Callable[[PyTree, Array], Array] = struct.field(pytree_node=False)
    hint_factor: float = setting(1.0, "factor of the designer's hint")

    @property
    def facts(self) -> RuleFacts:
        """What is learned of the other reward, and the factor."""
        return RuleFacts(learned=(*learned_in(self, "reward"), "hint_factor"))

    def __call__(self, observation: PyTree, action: Array, reward: Array) -> Array:
        """-> `[...]` [return]."""
        paid = self.reward(observation, action, reward)
        return paid + self.hint_factor * self.hint(observation, action)


class WithReward(Struct):
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

    outputs = of_inner("outputs")
    init = of_inner("init")
    loss = of_inner("loss")
    combine = of_inner("combine")

    @property
    def facts(self) -> RuleFacts:
        """The inner rule's; learned is what is so of the reward and of the inner rule."""
        learned = learned_in(self, "reward", "rule")
        return dataclasses.replace(rule_facts(self.rule), learned=learned, own_rewards=True)

    def targets(
        self, rule_state: PyTree, outputs: PyTree, trajectory: Transition, progress: Progress
    ) -> tuple[PyTree, PyTree]:
        """The inner rule's, `[T, ...]`, under the other reward."""
        reward = self.reward(trajectory.observation, trajectory.action, trajectory.reward)
        discount = self.discount_factor * trajectory.discount
        trajectory = trajectory.replace(reward=reward, discount=discount)
        return self.rule.targets(rule_state, outputs, trajectory, progress)


def with_reward(
    rule: UpdateRule,
    source: Key | Reward,
    observation_space: Space | None = None,
    action_space: Space | None = None,
    num_hidden: int = 32,
    scale: float = 0.01,
    hint: Callable[[PyTree, Array], Array] | None = None,
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
        hint: a designer's auxiliary reward, `(observation, action) -> []` over any leading axes,
            added with a learned factor that starts at 1 (`HintedReward`).

    Raises:
        ValueError: a learned reward without spaces, or with spaces that no network takes.

    Example:
        >>> from jaxrl.rules import AdvantageActorCritic
        >>> learned = with_reward(
        ...     AdvantageActorCritic(), jax.random.key(0), Discrete(5), Discrete(2), num_hidden=4
        ... )
        >>> learned.facts.learned, learned.reward.weights["hidden"].shape
        (('reward.weights',), (7, 4))
    """
    reward: Reward
    if callable(source):
        reward = jax.tree_util.Partial(source)
    else:
        counts, sizes = [], []
        spaces = {"observation_space": observation_space, "action_space": action_space}
        for name, space in spaces.items():
            if not isinstance(space, (Box, Discrete)):
                raise ValueError(
                    f"A learned reward needs {name}, a Box or a Discrete, not {space}: give the "
                    f"environment's env.{name}."
                )
            counts.append(space.num_values if isinstance(space, Discrete) else 0)
            sizes.append(counts[-1] or math.prod(space.shape))
        weights = random_weights(source, hidden=(sum(sizes), num_hidden), outputs=(num_hidden, 2))
        weights["outputs"] = scale * weights["outputs"]
        weights |= {"hidden_bias": jnp.zeros(num_hidden), "outputs_bias": jnp.array([0.0, 1.0])}
        reward = NetworkReward(weights, *counts)
    return WithReward(rule, reward if hint is None else HintedReward(reward, hint))
