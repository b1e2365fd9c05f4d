"""Policy distributions: sample, log-probability, entropy, mode and KL, over any leading axes.

Log-probabilities are in nats.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core import Struct, struct
from jaxrl.core.holding import held
from jaxrl.core.spaces import columns
from jaxrl.core.types import Array, Key

_LOG_TWO_PI = 1.8378770664093453
_ILLEGAL = -1e30  # a logit whose probability is exactly 0, and of which every difference is finite


class CategoricalPolicy(Struct):
    """A law on `0 .. A - 1` given by unnormalised log-probabilities.

    Example:
        >>> round(float(CategoricalPolicy(jnp.zeros(4)).entropy()), 4)  # log 4
        1.3863
    """

    logits: Array  # [..., A]

    def sample(self, key: Key) -> Array:
        """A draw, `[...]` int32."""
        return jax.random.categorical(key, self.logits).astype(jnp.int32)

    def mode(self) -> Array:
        """The likeliest action, `[...]` int32, ties to the first."""
        return jnp.argmax(self.logits, axis=-1).astype(jnp.int32)

    def log_probs(self) -> Array:
        """Normalised log-probabilities of all actions, `[..., A]`."""
        return jax.nn.log_softmax(self.logits)

    def log_prob(self, action: Array) -> Array:
        """Log-probability of `action[...]`, `[...]`."""
        # A one-hot product: its gradient is dense arithmetic, a gather's is a scatter.
        chosen = jax.nn.one_hot(action, self.logits.shape[-1], dtype=bool)
        return jnp.sum(jnp.where(chosen, self.log_probs(), 0.0), axis=-1)

    def entropy(self) -> Array:
        """Shannon entropy `[...]`; actions of probability zero contribute nothing."""
        log_probs = self.log_probs()
        finite = jnp.isfinite(log_probs)
        safe = jnp.where(finite, log_probs, 0.0)
        return -jnp.sum(jnp.where(finite, jnp.exp(safe) * safe, 0.0), axis=-1)

    def kl(self, other: CategoricalPolicy) -> Array:
        """KL(self || other), `[...]`."""
        log_probs, other_log_probs = self.log_probs(), other.log_probs()
        finite = jnp.isfinite(log_probs)
        gap = jnp.where(finite, log_probs - other_log_probs, 0.0)
        return jnp.sum(jnp.where(finite, jnp.exp(log_probs), 0.0) * gap, axis=-1)

    def masked(self, mask: Array) -> CategoricalPolicy:
        """The law given that the action is true in `mask[..., A]`, as logits: the others have
        probability 0 and pass no gradient. Where nothing is true the law is uniform.

        Example:
            >>> policy = CategoricalPolicy(jnp.log(jnp.array([0.5, 0.25, 0.25])))
            >>> masked = policy.masked(jnp.array([False, True, True]))
            >>> jnp.exp(masked.log_probs()).tolist(), f"{float(masked.entropy()):.4f}"
            ([0.0, 0.5, 0.5], '0.6931')
        """
        some = jnp.any(mask, axis=-1, keepdims=True)
        return CategoricalPolicy(jnp.where(mask, self.logits, jnp.where(some, _ILLEGAL, 0.0)))


class ProductPolicy(Struct):
    """Independent categoricals, one for each coordinate of an action: of `MultiDiscrete`.

    Log-probabilities, entropies and divergences are the sums of the coordinates'.
    """

    logits: Array  # [..., sum(num_values)], of each coordinate end to end
    num_values: tuple[int, ...] = struct.field(pytree_node=False)

    @property
    def factors(self) -> list[CategoricalPolicy]:
        """The law of each coordinate."""
        return [CategoricalPolicy(part) for part in columns(self.logits, self.num_values)]

    def sample(self, key: Key) -> Array:
        """A draw, `[..., D]` int32."""
        keys = jax.random.split(key, len(self.num_values))
        drawn = [law.sample(one) for law, one in zip(self.factors, keys, strict=True)]
        return jnp.stack(drawn, axis=-1)

    def mode(self) -> Array:
        """The likeliest action, `[..., D]` int32."""
        return jnp.stack([law.mode() for law in self.factors], axis=-1)

    def log_prob(self, action: Array) -> Array:
        """Log-probability of `action[..., D]`, `[...]`."""
        logs = [law.log_prob(action[..., i]) for i, law in enumerate(self.factors)]
        return jnp.sum(jnp.stack(logs), axis=0)

    def entropy(self) -> Array:
        """Shannon entropy `[...]`."""
        return jnp.sum(jnp.stack([law.entropy() for law in self.factors]), axis=0)

    def kl(self, other: ProductPolicy) -> Array:
        """KL(self || other), `[...]`."""
        pairs = zip(self.factors, other.factors, strict=True)
        return jnp.sum(jnp.stack([law.kl(its) for law, its in pairs]), axis=0)

    def masked(self, mask: Array) -> ProductPolicy:
        """The law given that each coordinate is true in its part of `mask`, built like the logits;
        see `CategoricalPolicy.masked`."""
        parts = zip(self.factors, columns(mask, self.num_values), strict=True)
        logits = [law.masked(part).logits for law, part in parts]
        return ProductPolicy(jnp.concatenate(logits, axis=-1), self.num_values)


class GaussianPolicy(Struct):
    """Independent normals, one for each action coordinate.

    Numerics: log-scales are held in [-20, 20], so that no power of a scale overflows.
    """

    loc: Array  # [..., D]
    log_scale: Array  # broadcasts to [..., D]

    @property
    def _log_scale(self) -> Array:
        return held(jnp.asarray(self.log_scale), 20.0)

    def sample(self, key: Key) -> Array:
        """A reparameterised draw, `[..., D]`."""
        noise = jax.random.normal(key, self.loc.shape, self.loc.dtype)
        return self.loc + jnp.exp(self._log_scale) * noise

    def mode(self) -> Array:
        """The mean, `[..., D]`."""
        return self.loc

    def log_prob(self, action: Array) -> Array:
        """Log-density of `action[..., D]`, `[...]`."""
        return jnp.sum(self.log_probs(action), axis=-1)

    def log_probs(self, action: Array) -> Array:
        """That of each coordinate, `[..., D]`."""
        scaled = (action - self.loc) * jnp.exp(-self._log_scale)
        return -0.5 * scaled**2 - self._log_scale - 0.5 * _LOG_TWO_PI

    def entropy(self) -> Array:
        """Differential entropy `[...]`."""
        log_scale = jnp.broadcast_to(self._log_scale, self.loc.shape)
        return jnp.sum(log_scale + 0.5 * (1.0 + _LOG_TWO_PI), axis=-1)

    def kl(self, other: GaussianPolicy) -> Array:
        """KL(self || other), `[...]`."""
        log_ratio = self._log_scale - other._log_scale
        scaled = (self.loc - other.loc) * jnp.exp(-other._log_scale)
        terms = 0.5 * (jnp.exp(2.0 * log_ratio) + scaled**2 - 1.0) - log_ratio
        return jnp.sum(jnp.broadcast_to(terms, self.loc.shape), axis=-1)


class TanhGaussianPolicy(Struct):
    """A Gaussian squashed by tanh into the box `(low, high)`.

    Actions are `low + (high - low) (tanh(u) + 1) / 2` with `u` normal. Use `sample_with_log_prob`:
    the log-density is exact at the pre-squash value, where inverting tanh near its ends is not.
    """

    loc: Array  # [..., D]
    log_scale: Array  # [..., D]
    low: Array  # [D]
    high: Array  # [D]

    def _squash(self, raw: Array) -> Array:
        return self.low + 0.5 * (self.high - self.low) * (jnp.tanh(raw) + 1.0)

    def sample_with_log_prob(self, key: Key) -> tuple[Array, Array]:
        """A reparameterised draw `[..., D]` and its log-density `[...]`."""
        action, log_probs, log_slopes = self._drawn(key)
        return action, jnp.sum(log_probs, axis=-1) - jnp.sum(log_slopes, axis=-1)

    def sample_with_log_probs(self, key: Key) -> tuple[Array, Array]:
        """The same draw, and the log-density of each of its coordinates `[..., D]`."""
        action, log_probs, log_slopes = self._drawn(key)
        return action, log_probs - log_slopes

    def _drawn(self, key: Key) -> tuple[Array, Array, Array]:
        """A draw, the log-densities before it is squashed, the logarithms of the slopes there."""
        base = GaussianPolicy(self.loc, self.log_scale)
        raw = base.sample(key)
        # log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)), exact for large |u|.
        log_slopes = 2.0 * (jnp.log(2.0) - raw - jax.nn.softplus(-2.0 * raw))
        log_slopes = log_slopes + jnp.log(0.5 * (self.high - self.low))
        return self._squash(raw), base.log_probs(raw), log_slopes

    def sample(self, key: Key) -> Array:
        """A reparameterised draw, `[..., D]`."""
        return self._squash(GaussianPolicy(self.loc, self.log_scale).sample(key))

    def mode(self) -> Array:
        """The squashed mean, `[..., D]`: the median of every coordinate."""
        return self._squash(self.loc)


Policy = CategoricalPolicy | ProductPolicy | GaussianPolicy | TanhGaussianPolicy
