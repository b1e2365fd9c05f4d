"""Policy distributions: sample, log-probability, entropy, mode and KL, over any leading axes.

Log-probabilities are in nats.
"""

# Bodies of protocols are their docstrings.
# pyright: reportReturnType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from jaxrl.core import Struct, struct
from jaxrl.core.holding import held
from jaxrl.core.spaces import columns, is_masked
from jaxrl.core.types import Array, Key, PyTree

_LOG_TWO_PI = 1.8378770664093453
_ILLEGAL = -1e30  # a logit whose probability is exactly 0, and of which every difference is finite


@runtime_checkable
class PolicyLaw(Protocol):
    """What a policy draws from, at observations with any leading axes `[...]`: a struct of arrays
    `[..., *]`, so that `vmap` and reshaping reach every observation's own.

    What is drawn is a *trace*: all that a log-probability needs to know of how an action came
    about. It may be more than the action: a draw before it was clipped to a box, a memory beside an
    action, every step of a chain that ends in one. Agents record the trace and score it, never the
    action; of laws whose trace is the action, as it is, nothing is recorded twice.

    Any class with these methods is one. `ActorCriticAgent(policy_head=...)` acts by it. One that
    can list its actions has their `logits[..., A]` besides: who needs each of them asks for these.
    """

    def sample(self, key: Key) -> PyTree:
        """A draw: a trace, arrays `[..., *]`."""

    def mode(self) -> PyTree:
        """The trace of the action without exploration."""

    def action(self, trace: PyTree, /) -> PyTree:
        """Trace -> what is done: members `[..., *shape]` of discrete spaces, and in the place of
        each `Box` its D numbers `[..., D]` in units of the box, see `ActorCriticAgent`."""

    def log_prob(self, trace: PyTree, /) -> Array:
        """Log-probability or log-density of a trace, `[...]` [nats]."""

    def entropy(self) -> Array:
        """Entropy of the traces, `[...]` [nats]."""

    def kl(self, other: Any) -> Array:
        """KL(self || other) of the traces, `[...]` [nats]; `other` is a law of the same class."""

    def masked(self, mask: PyTree) -> PolicyLaw:
        """The law given that the action is true in `mask[..., A]`, built like the actions; raises
        `ValueError` where no action can be forbidden."""


@runtime_checkable
class FiniteLaw(Protocol):
    """A law of actions that can all be listed."""

    logits: Array  # [..., A], their unnormalised log-probabilities


def itself(law: Any, trace: PyTree) -> PyTree:
    """The trace is the action: `action = itself` in a class."""
    return trace


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

    action = itself

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
    """Independent laws, one for each part of an action.

    Log-probabilities, entropies and divergences are the sums of the parts'.

    Example:
        >>> coin, place = CategoricalPolicy(jnp.zeros(2)), GaussianPolicy(jnp.zeros(3), jnp.ones(3))
        >>> policy = ProductPolicy({"coin": coin, "place": place})
        >>> trace = policy.sample(jax.random.key(0))
        >>> trace["place"].shape, f"{float(policy.entropy() - place.entropy()):.4f}"  # log 2
        ((3,), '0.6931')
    """

    # A tree of laws. Traces, actions and masks are built like it, a mask with `()` for a part of
    # which everything is legal.
    parts: PyTree
    # Whether the parts, categoricals in a tuple, are the coordinates of one array, as those of
    # `MultiDiscrete`: traces are `[..., D]`, and a mask is one of each coordinate, end to end.
    in_one_array: bool = struct.field(pytree_node=False, default=False)

    def _each(self, function: Callable[..., Any], *trees: PyTree) -> PyTree:
        """`function` of each part and of what stands in its place in `trees`."""
        is_law = lambda node: isinstance(node, PolicyLaw)  # noqa: E731
        return jax.tree.map(function, self.parts, *trees, is_leaf=is_law)

    def _sum(self, function: Callable[..., Array], *trees: PyTree) -> Array:
        return jnp.sum(jnp.stack(jax.tree.leaves(self._each(function, *trees))), axis=0)

    def _joined(self, trace: PyTree) -> PyTree:
        return jnp.stack(trace, axis=-1) if self.in_one_array else trace

    def sample(self, key: Key) -> PyTree:
        """A draw of each part, with a key of its own."""
        number = len(jax.tree.leaves(self._each(lambda law: 0)))
        keys = iter(jax.random.split(key, number))
        return self._joined(self._each(lambda law: law.sample(next(keys))))

    def mode(self) -> PyTree:
        """The mode of each part."""
        return self._joined(self._each(lambda law: law.mode()))

    def action(self, trace: PyTree) -> PyTree:
        """The action of each part."""
        if self.in_one_array:
            return trace
        return self._each(lambda law, trace: law.action(trace), trace)

    def log_prob(self, trace: PyTree) -> Array:
        """Log-probability of a trace, `[...]`."""
        trace = tuple(jnp.moveaxis(trace, -1, 0)) if self.in_one_array else trace
        return self._sum(lambda law, trace: law.log_prob(trace), trace)

    def entropy(self) -> Array:
        """The sum of the parts' entropies, `[...]`."""
        return self._sum(lambda law: law.entropy())

    def kl(self, other: ProductPolicy) -> Array:
        """KL(self || other), `[...]`."""
        return self._sum(lambda law, its: law.kl(its), other.parts)

    def masked(self, mask: PyTree) -> ProductPolicy:
        """Each part given its mask, where it has one."""
        if self.in_one_array:
            mask = tuple(columns(mask, tuple(law.logits.shape[-1] for law in self.parts)))
        given = lambda law, mask: law.masked(mask) if is_masked(mask) else law  # noqa: E731
        return self.replace(parts=self._each(given, mask))


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

    action = itself

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

    def masked(self, mask: Array) -> GaussianPolicy:
        """Raises `ValueError`: of real numbers none is illegal."""
        raise ValueError("real-valued actions are all legal: take legal() away from them.")


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
