"""A drift that is a small network, a drift whatever its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.lifetime import lifetime_features
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Key, Progress
from jaxrl.rules.drift_policy import ClipDrift, Drift, DriftPolicy, FunctionDrift
from jaxrl.rules.random_weights import random_weights

_NUM_FEATURES = 8


@struct.dataclass
class NetworkDrift:
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
    start: Drift = struct.field(default_factory=ClipDrift)
    margin: float = setting(
        1e-4, "what the drift must overcome", unit="return", low=0.0, low_open=True
    )
    timed: bool = setting(False, "let the drift see how far the life has come")

    learned: ClassVar[tuple[str, ...]] = ("weights",)

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
    source: Key | Callable[[Array, Array, Progress], Array],
    num_hidden: int = 128,
    timed: bool = False,
    start: Drift | None = None,
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
        >>> rule.learned, rule.drift.weights["hidden"].shape
        (('drift.weights',), (24, 16))
        >>> type(drift(lambda log_ratio, advantage, progress: log_ratio**4).drift).__name__
        'FunctionDrift'
    """
    if callable(source):
        return DriftPolicy(FunctionDrift(source))
    if num_hidden < 1:
        raise ValueError(f"num_hidden={num_hidden}: the tanh layer needs at least 1 unit.")
    num_features = 3 * _NUM_FEATURES if timed else _NUM_FEATURES
    weights = random_weights(source, hidden=(num_features, num_hidden), output=(num_hidden,))
    weights["output"] = scale * weights["output"]
    start = ClipDrift() if start is None else start
    return DriftPolicy(NetworkDrift(weights, start, timed=timed))
