"""How value agents explore."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core.types import Array, Key
from jaxrl.networks import CategoricalPolicy


def epsilon_greedy(key: Key, scores: Array, epsilon: float | Array) -> Array:
    """The best action, but a uniform one with probability `epsilon`, drawn anew for every row.

    Args:
        key: spent here.
        scores: `[B, A]` [return].
        epsilon: probability of a uniform action, in [0, 1].

    Returns:
        `[B]` int32; ties go to the first of the best.

    Example:
        >>> epsilon_greedy(jax.random.key(0), jnp.array([[1.0, 3.0]]), 0.0).tolist()
        [1]
    """
    batch, num_actions = scores.shape
    draws = jax.random.uniform(key, (2, batch))
    uniform = jnp.minimum((draws[1] * num_actions).astype(jnp.int32), num_actions - 1)
    greedy = jnp.argmax(scores, axis=-1).astype(jnp.int32)
    return jnp.where(draws[0] < epsilon, uniform, greedy)


def epsilon_greedy_law(scores: Array, epsilon: float | Array) -> CategoricalPolicy:
    """The law that `epsilon_greedy` draws from, which knows its divergence from another.

        p(a) = epsilon / A + (1 - epsilon) [a is the first of the best]

    It is the very law that acts, not a softened one, which would need a scale of the scores. So it
    has a slope in `epsilon` and none in `scores`.

    Args:
        scores: `[..., A]` [return].
        epsilon: `[]`, probability of a uniform action, in [0, 1].

    Numerics:
        Below 1e-6 `epsilon` counts as 1e-6: every action has some probability, and every
        divergence between two such laws is finite.

    Example:
        >>> law = epsilon_greedy_law(jnp.array([1.0, 3.0]), 0.5)
        >>> jnp.exp(law.log_probs()).round(2).tolist()
        [0.25, 0.75]
    """
    num_actions = scores.shape[-1]
    uniform = jnp.maximum(jnp.asarray(epsilon, scores.dtype), 1e-6) / num_actions
    best = jax.nn.one_hot(jnp.argmax(scores, axis=-1), num_actions, dtype=bool)
    others = (num_actions - 1) * uniform
    return CategoricalPolicy(jnp.where(best, jnp.log1p(-others), jnp.log(uniform)))
