"""Entropy bonus and exploration that answer to how the rewards have been of late."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.core import Struct
from jaxrl.core.protocols import LEARNED, RuleFacts, rule_facts
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Key, Progress, PyTree, Transition
from jaxrl.rules.contract import PolicyOutputs, PolicyTargets, of_inner

_WEIGHT = "entropy_weight"


def nothing_yet(owner: Any, params: PyTree = ()) -> Array:
    """Mean rewards `[N]`, none so far."""
    return jnp.zeros(owner.num_recent)


def remember(owner: Any, recent: Array, reward: Array) -> Array:
    """Mean rewards `[N]`, the latest first, after a rollout that paid `reward[...]` [return]."""
    latest = jnp.mean(reward).astype(recent.dtype)
    return jnp.concatenate([latest[None], recent[:-1]])


def answer(owner: Any, recent: Array) -> Array:
    """lowest + (highest - lowest) sigmoid(relu(m W + b) . v + c), `recent[..., N]` -> `[...]`.

    Args:
        owner: with `lowest`, `highest` and `weights`.
        recent: mean rewards m, the latest first [return].
    """
    weights = owner.weights
    units = jax.nn.relu(recent @ weights["hidden"] + weights["bias"])
    share = jax.nn.sigmoid(units @ weights["output"] + weights["shift"])
    return owner.lowest + (owner.highest - owner.lowest) * share


def recent_weights(key: Key, num_recent: int, num_hidden: int, shift: float) -> dict[str, Array]:
    """Random weights for `answer`, whose sigmoid is about that of `shift` before any reward.

    Raises:
        ValueError: a size below 1.
    """
    if min(num_hidden, num_recent) < 1:
        raise ValueError(f"num_hidden={num_hidden} and num_recent={num_recent} must be at least 1.")
    first, second = jax.random.split(key)
    return {
        "hidden": jax.random.normal(first, (num_recent, num_hidden)) / num_recent**0.5,
        "bias": jnp.zeros(num_hidden),
        "output": 0.1 * jax.random.normal(second, (num_hidden,)) / num_hidden**0.5,
        "shift": jnp.asarray(shift),
    }


class ReactiveEntropy(Struct):
    """Another rule whose entropy weight is a network of the mean rewards of the last rollouts.

        m = mean rewards of the last `num_recent` rollouts, the latest first, 0 before the first
        entropy weight = lowest + (highest - lowest) sigmoid( relu(m W + b) . v + c )

    Where rewards fall, a learned network can raise the weight and let the learner explore again.
    The mean rewards are the rule's memory in one life.

    Attributes:
        rule: with a setting `entropy_weight`, which is not used, and nothing to remember.
        weights: `hidden[N, H]`, `bias[H]`, `output[H]`, `shift[]`.
        highest: greatest entropy weight [per nat].
        lowest: least entropy weight [per nat].
        num_recent: N, rollouts looked back on.

    Sources: Flennerhag et al. 2022, Bootstrapped meta-learning, section 5.1. Mean rewards of ten
    rollouts, 32 relus and a sigmoid are as in a public replication
    (MagiFeeney/Bootstrapped-Meta-Learning), whose weight is in (0, 1). So is that of Luketina et
    al. 2022, Meta-gradients in non-stationary environments, table 3, by two layers of 64. The
    bounds are ours.

    Example:
        >>> from jaxrl.rules import AdvantageActorCritic
        >>> rule = reactive_entropy(jax.random.key(0), AdvantageActorCritic())
        >>> rule.init({}).shape, rule.facts.learned
        ((10,), ('weights',))
    """

    rule: Any
    weights: dict[str, Array]
    highest: float = setting(0.5, "greatest entropy weight", unit="per nat", low=0.0)
    lowest: float = setting(0.0, "least entropy weight", unit="per nat", low=0.0)
    num_recent: int = setting(10, "rollouts looked back on", low=1)

    outputs = of_inner("outputs")
    combine = of_inner("combine")

    init = nothing_yet
    weight = answer  # mean rewards `[..., N]`, the latest first -> entropy weight `[...]` [per nat]

    @property
    def facts(self) -> RuleFacts:
        """The inner rule's; the weights here are learned."""
        return dataclasses.replace(rule_facts(self.rule), learned=LEARNED.learned)

    def targets(
        self, rule_state: Array, outputs: PolicyOutputs, trajectory: Transition, progress: Progress
    ) -> tuple[PolicyTargets, Array]:
        """The inner rule's, with the weight for this rollout, and the memory after it."""
        recent = remember(self, rule_state, trajectory.reward)
        targets, _ = self.rule.targets((), outputs, trajectory, progress)
        weight = jnp.broadcast_to(self.weight(recent), trajectory.reward.shape)
        return targets.replace(heads={**targets.heads, _WEIGHT: weight}), recent

    def loss(self, outputs: PolicyOutputs, targets: PolicyTargets, progress: Progress) -> Array:
        """The inner rule's loss `[]` of one step, under the weight of the rollout."""
        rule = self.rule.replace(entropy_weight=targets.heads[_WEIGHT])
        return rule.loss(outputs, targets, progress)


def reactive_entropy(
    key: Key,
    rule: Any,
    num_hidden: int = 32,
    num_recent: int = 10,
    highest: float = 0.5,
    lowest: float = 0.0,
) -> ReactiveEntropy:
    """`rule` with an entropy weight that a random network gives, a tenth of the way up at first.

    Args:
        key: of the weights.
        rule: with a setting `entropy_weight`.
        num_hidden: units of the network, at least 1.
        num_recent: rollouts looked back on, at least 1.
        highest: greatest entropy weight [per nat].
        lowest: least entropy weight [per nat].

    Raises:
        ValueError: a size below 1, weights out of order, or a rule that has no entropy weight or
            remembers something.
    """
    if not 0.0 <= lowest < highest:
        raise ValueError(f"lowest={lowest} and highest={highest} must rise from 0.")
    names = {field.name for field in dataclasses.fields(rule)}
    if _WEIGHT not in names or jax.tree.leaves(rule.init(())):
        raise ValueError(
            f"{type(rule).__name__} has no entropy_weight or a memory of its own: give a rule such "
            "as AdvantageActorCritic()."
        )
    weights = recent_weights(key, num_recent, num_hidden, shift=-2.2)  # log-odds of a tenth
    return ReactiveEntropy(rule, weights, highest=highest, lowest=lowest, num_recent=num_recent)


class ReactiveExploration(Struct):
    """The probability of a uniform action as a network of the mean rewards of the last rollouts.

        m = mean rewards of the last `num_recent` rollouts, the latest first, 0 before the first
        exploration = lowest + (highest - lowest) sigmoid( relu(m W + b) . v + c )

    An agent's `exploration` that holds one keeps m in its state. Exploration only changes what
    data there will be: no gradient passes through the agent's updates to these weights. An outer
    loop learns them from the policies themselves: `Bootstrap` matches the epsilon-greedy law with
    that of later values. Where its plain agent explores by e, and the greedy action of a share p of
    the steps is another one by then, the best match of A actions is near e + p A / (A - 1). That is
    why exploration rises when values start to move; and a learner whose greedy actions never
    settle, because its steps are large, explores for that too.

    Attributes:
        weights: `hidden[N, H]`, `bias[H]`, `output[H]`, `shift[]`.
        lowest: least exploration, above 0 where policies are matched.
        highest: greatest exploration.
        num_recent: N, rollouts looked back on.

    Sources: Flennerhag et al. 2022, Bootstrapped meta-learning (exploration of an epsilon-greedy
    Q-learner, learned without a gradient through its updates). Luketina et al. 2022, Meta-gradients
    in non-stationary environments, appendix A, spell it out: the epsilon-greedy law is matched with
    the greedy one of later values, where here it is matched with the plain agent's. Their network
    sees the rewards of the last 100 steps through two layers of 128 relus, and has no bounds but 0
    and 1. Mean rewards of rollouts, one layer and the bounds are ours.

    Example:
        >>> import jax
        >>> exploration = reactive_exploration(jax.random.key(0), num_recent=3)
        >>> memory = exploration.remember(exploration.init(), jnp.array([1.0, 3.0]))
        >>> memory.tolist(), exploration.facts.learned
        ([2.0, 0.0, 0.0], ('weights',))
        >>> f"{float(exploration(exploration.init())):.2f}"  # nothing seen yet
        '0.30'
    """

    weights: dict[str, Array]
    lowest: float = setting(0.01, "least probability of a uniform action", low=0.0, high=1.0)
    highest: float = setting(0.99, "greatest probability of a uniform action", low=0.0, high=1.0)
    num_recent: int = setting(10, "rollouts looked back on", low=1)

    facts = LEARNED

    init = nothing_yet
    remember = remember
    __call__ = answer  # mean rewards `[..., N]`, the latest first -> a probability `[...]`


def reactive_exploration(
    key: Key,
    num_hidden: int = 32,
    num_recent: int = 10,
    start: float = 0.3,
    lowest: float = 0.01,
    highest: float = 0.99,
) -> ReactiveExploration:
    """Exploration that a random network gives, about `start` at first.

    Args:
        key: of the weights.
        num_hidden: units of the network, at least 1.
        num_recent: rollouts looked back on, at least 1.
        start: probability of a uniform action before any reward, inside (`lowest`, `highest`).
        lowest: least probability.
        highest: greatest probability.

    Raises:
        ValueError: a size below 1, or probabilities out of order.
    """
    if not 0.0 <= lowest < start < highest <= 1.0:
        raise ValueError(
            f"lowest={lowest}, start={start} and highest={highest} must rise within [0, 1]."
        )
    shift = math.log((start - lowest) / (highest - start))
    weights = recent_weights(key, num_recent, num_hidden, shift)
    return ReactiveExploration(weights, lowest=lowest, highest=highest, num_recent=num_recent)
