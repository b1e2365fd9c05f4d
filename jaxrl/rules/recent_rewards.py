"""A network that answers to how the rewards have been of late."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core.types import Array, Key


def remember(recent: Array, reward: Array) -> Array:
    """Mean rewards `[N]`, the latest first, after a rollout that paid `reward[...]` [return]."""
    latest = jnp.mean(reward).astype(recent.dtype)
    return jnp.concatenate([latest[None], recent[:-1]])


def share(weights: dict[str, Array], recent: Array) -> Array:
    """sigmoid(relu(m W + b) . v + c), `recent[..., N]` -> `[...]`, in (0, 1).

    Args:
        weights: `hidden[N, H]`, `bias[H]`, `output[H]`, `shift[]`.
        recent: mean rewards m, the latest first [return].
    """
    units = jax.nn.relu(recent @ weights["hidden"] + weights["bias"])
    return jax.nn.sigmoid(units @ weights["output"] + weights["shift"])


def recent_weights(key: Key, num_recent: int, num_hidden: int, shift: float) -> dict[str, Array]:
    """Random weights for `share`, which is about sigmoid(`shift`) before any reward.

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
