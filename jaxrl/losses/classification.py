"""Losses between laws on the same classes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core.types import Array


def cross_entropy(logits: Array, target_probs: Array) -> Array:
    """Cross-entropy of predicted log-probabilities against a law on the same classes.

    L = -sum_k target_k log softmax(logits)_k

    It equals KL(target || prediction) plus the entropy of the target, so that both have the same
    gradient in `logits`: softmax(logits) - target.

    Args:
        logits: `[K]`, unnormalised log-probabilities.
        target_probs: `[K]`, non-negative, summing to one.

    Returns:
        `[]` [nats]. Classes of zero target probability add nothing, even at a logit of -inf.

    Example:
        >>> import jax.numpy as jnp
        >>> f"{float(cross_entropy(jnp.zeros(2), jnp.array([1.0, 0.0]))):.4f}"  # log 2
        '0.6931'

    Sources:
        Bellemare, Dabney & Munos (2017), A distributional perspective on reinforcement learning,
        section 4.
    """
    log_probs = jax.nn.log_softmax(logits)
    counts = (target_probs > 0) | jnp.isfinite(log_probs)
    return -jnp.sum(target_probs * jnp.where(counts, log_probs, 0.0))
