"""Policy optimisation with a drift: the family that PPO's clip belongs to, and its network."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrl.core import Struct
from jaxrl.core.lifetime import lifetime_features
from jaxrl.core.protocols import LEARNED, RuleFacts
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Key, Progress
from jaxrl.rules import contract
from jaxrl.rules.contract import PolicyOutputs, PolicyTargets, random_weights

_NUM_FEATURES = 8


# A penalty of moving the policy, >= 0, and zero with zero slope at ratio 1: `log_ratio[...]` in
# [-20, 20], `advantage[...]` [return], progress -> `[...]` [return].
Drift = Callable[[Array, Array, Progress], Array]


class ClipDrift(Struct):
    """The drift of PPO's clip: relu((ratio - clip(ratio, 1 - epsilon, 1 + epsilon)) A).

    Source: Kuba et al. 2022, Mirror learning (PPO as an instance).

    Example:
        >>> drift = ClipDrift(0.2)(jnp.log(jnp.array([1.1, 2.0])), 1.0, Progress.start())
        >>> [f"{float(number):.1f}" for number in drift]
        ['0.0', '0.8']
    """

    epsilon: float = contract.half_width("ratio")

    def __call__(self, log_ratio: Array, advantage: Array, progress: Progress) -> Array:
        """-> `[...]` [return]."""
        ratio = jnp.exp(log_ratio)
        clipped = jnp.clip(ratio, 1.0 - self.epsilon, 1.0 + self.epsilon)
        return jax.nn.relu(ratio * advantage - clipped * advantage)


class ZeroDrift(Struct):
    """No drift: the plain surrogate."""

    def __call__(self, log_ratio: Array, advantage: Array, progress: Progress) -> Array:
        """-> `[...]`, zero."""
        return jnp.zeros_like(log_ratio * advantage)


class DiscoveredDrift(Struct):
    """The closed form that was read off a learned drift (Discovered Policy Optimisation).

    A >= 0:  relu((ratio - 1) A - alpha tanh((ratio - 1) A / alpha))
    A < 0:   relu(log(ratio) A - beta tanh(log(ratio) A / beta))

    Of third order at ratio 1. Good actions may gain about alpha / A in ratio, bad ones lose about
    beta / |A| in log-ratio, before the drift takes back what more would gain. `alpha` and `beta`
    infinite would be no drift; give large numbers.

    Attributes:
        alpha: scale for good actions, > 0 [return].
        beta: scale for bad ones, > 0 [return].

    Source: Lu et al. 2022, Discovered policy optimisation.

    Example:
        >>> drift = DiscoveredDrift()(jnp.log(jnp.array([1.0, 4.0])), 1.0, Progress.start())
        >>> [f"{float(number):.3f}" for number in drift]  # 3 - 2 tanh(3 / 2)
        ['0.000', '1.190']
    """

    alpha: float = setting(2.0, "scale for good actions", unit="return", low=0.0, low_open=True)
    beta: float = setting(0.6, "scale for bad actions", unit="return", low=0.0, low_open=True)

    def __call__(self, log_ratio: Array, advantage: Array, progress: Progress) -> Array:
        """-> `[...]` [return]."""
        good = jnp.expm1(log_ratio) * advantage
        bad = log_ratio * advantage
        drift_of_good = jax.nn.relu(good - self.alpha * jnp.tanh(good / self.alpha))
        drift_of_bad = jax.nn.relu(bad - self.beta * jnp.tanh(bad / self.beta))
        return jnp.where(advantage >= 0, drift_of_good, drift_of_bad)


class DriftPolicy(Struct):
    """The surrogate less a drift, with PPO's value loss and entropy bonus.

    ratio = exp(log_prob - old log_prob)
    loss = -(ratio A - drift(log ratio, A, progress)) + value_weight value_loss
           - entropy_weight entropy,        value_loss as in `ProximalPolicy`

    `ClipDrift(epsilon)` is `ProximalPolicy(clip_epsilon=epsilon)`, `ZeroDrift()` the unclipped
    surrogate, `DiscoveredDrift()` DPO, and a `NetworkDrift` LPO. Advantages are meant to be
    standardised by the agent: drifts are not homogeneous in them.

    Numerics: log-ratios are held in [-20, 20], where every drift here is finite and has finite
    slopes; beyond, slopes are those at the end.

    The outer gradient of a threshold (`value_clip`, `epsilon` of a clip) is zero: an outcome jumps
    where it is passed and stays between. Learn those by evolution.

    Sources: Kuba, Schroeder de Witt & Foerster 2022, Mirror learning; Lu et al. 2022, Discovered
    policy optimisation.

    Example:
        >>> rule = DriftPolicy(ZeroDrift(), value_weight=0.0, entropy_weight=0.0)
        >>> outputs = PolicyOutputs(log_prob=jnp.log(2.0), entropy=0.0, value=0.0)
        >>> targets = PolicyTargets(advantage=1.0, returns=0.0, log_prob=0.0, value=0.0)
        >>> f"{float(rule.loss(outputs, targets, Progress.start())):.2f}"
        '-2.00'
    """

    drift: Drift = ClipDrift()
    lambda_: float = setting(0.95, "trace decay of the advantages", low=0.0, high=1.0)
    value_clip: float = contract.half_width("value", "return")
    value_weight: float = setting(0.5, "weight of the value loss", low=0.0)
    entropy_weight: float = setting(0.01, "weight of the entropy bonus", unit="per nat", low=0.0)

    outputs = contract.NO_HEADS
    init = contract.remember_nothing
    targets = contract.plain_targets

    @property
    def facts(self) -> RuleFacts:
        """What of the drift is learned."""
        return RuleFacts(learned=contract.learned_in(self, "drift"))

    def loss(self, outputs: PolicyOutputs, targets: PolicyTargets, progress: Progress) -> Array:
        """The loss `[]` of one step."""
        moved = contract.log_ratio(outputs, targets)
        surrogate = jnp.exp(moved) * targets.advantage
        policy_loss = self.drift(moved, targets.advantage, progress) - surrogate
        value_loss = contract.value_loss(outputs, targets, self.value_clip)
        return policy_loss + self.value_weight * value_loss - self.entropy_weight * outputs.entropy


class NetworkDrift(Struct):
    """The drift of Learnt Policy Optimisation: a tanh layer of features that vanish at ratio 1.

        features = (log r, log^2 r, 1 - r, (1 - r)^2), and each of them times A;  r the ratio
        drift = relu(start(log r, A) + output . tanh(features @ hidden) - margin)
        timed: features, share features and length features, with the two `lifetime_features`

    For any weights it is a drift: without biases the network is zero at ratio 1, so that near it
    the sum lies under the positive margin, where the relu is flat. Lifetime inputs come as
    products with the features, which keeps that. Weights of zero leave relu(start - margin).

    Attributes:
        weights: `hidden[F, H]` (F = 8, timed 24) and `output[H]` [return].
        start: the drift to which the network is added; `ClipDrift()` starts at PPO.
        margin: what must be overcome, > 0 [return].
        timed: whether the network sees how far the life has come.

    Sources: Lu et al. 2022, Discovered policy optimisation; width 128 and margin 1e-4 are their
    released settings. Jackson et al. 2024, Discovering temporally-aware reinforcement
    learning algorithms: share times the features; the products with the length are ours.

    Example:
        >>> network = drift(jax.random.key(0), num_hidden=8).drift
        >>> float(network(jnp.zeros(()), 3.0, Progress.start()))
        0.0
    """

    weights: dict[str, Array]
    start: Drift = ClipDrift()
    margin: float = setting(1e-4, "drift to overcome", unit="return", low=0.0, low_open=True)
    timed: bool = setting(False, "let the drift see how far the life has come")

    facts = LEARNED

    def __call__(self, log_ratio: Array, advantage: Array, progress: Progress) -> Array:
        """-> `[...]` [return]."""
        fall = -jnp.expm1(log_ratio)  # 1 - r
        plain = jnp.stack([log_ratio, log_ratio**2, fall, fall**2], axis=-1)
        features = jnp.concatenate([plain, plain * jnp.asarray(advantage)[..., None]], axis=-1)
        if self.timed:
            share, length = lifetime_features(progress)
            features = jnp.concatenate([features, share * features, length * features], axis=-1)
        network = jnp.tanh(features @ self.weights["hidden"]) @ self.weights["output"]
        started = self.start(log_ratio, advantage, progress)
        return jax.nn.relu(started + network - self.margin)


def drift(
    source: Key | Drift,
    num_hidden: int = 128,
    timed: bool = False,
    start: Drift = ClipDrift(),
    scale: float = 0.01,
) -> DriftPolicy:
    """Policy optimisation under a drift: a network's, with random weights, or any function.

    Args:
        source: a key for the weights, or a function `(log_ratio, advantage, progress) -> []`.
        num_hidden: width of the tanh layer.
        timed: whether the network sees how far the life has come.
        start: the drift to which the network is added; by default `ClipDrift()`, PPO's.
        scale: of the network's output at the start [return]. Without a `start` that is positive
            somewhere, give 1: a network under its margin everywhere has no gradient.

    Raises:
        ValueError: `num_hidden` below 1.

    Example:
        >>> rule = drift(jax.random.key(0), num_hidden=16, timed=True)
        >>> rule.facts.learned, rule.drift.weights["hidden"].shape
        (('drift.weights',), (24, 16))
        >>> rule = drift(lambda log_ratio, advantage, progress: log_ratio**4)
        >>> float(rule.drift(2.0, 1.0, Progress.start()))
        16.0
    """
    if callable(source):
        return DriftPolicy(jax.tree_util.Partial(source))
    if num_hidden < 1:
        raise ValueError(f"num_hidden={num_hidden}: the tanh layer needs at least 1 unit.")
    num_features = 3 * _NUM_FEATURES if timed else _NUM_FEATURES
    weights = random_weights(source, hidden=(num_features, num_hidden), output=(num_hidden,))
    weights["output"] = scale * weights["output"]
    return DriftPolicy(NetworkDrift(weights, start, timed=timed))
