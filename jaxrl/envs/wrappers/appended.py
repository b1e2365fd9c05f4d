"""Numbers appended to observations: what a wrapper shows beside what the environment shows."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core import Array, Box, Discrete, Space


def appended_space(space: Space, low: Array, high: Array) -> Box:
    """`Box[D + K]` float32: the flat or one-hot observation, then K numbers in [low, high].

    Args:
        space: of the observation, `Discrete(D)` or a `Box` of shape `[D]`.
        low: `[K]`.
        high: `[K]`.

    Raises:
        ValueError: another space.
    """
    if isinstance(space, Discrete):
        first, last = jnp.zeros(space.num_values), jnp.ones(space.num_values)
    elif isinstance(space, Box) and len(space.shape) == 1:
        first, last = (jnp.broadcast_to(end, space.shape) for end in (space.low, space.high))
    else:
        raise ValueError(
            f"A number can be appended to flat or discrete observations; {space} is neither."
        )
    low, high = (
        jnp.concatenate([jnp.asarray(part, jnp.float32) for part in ends])
        for ends in ((first, low), (last, high))
    )
    return Box(low, high, (low.size,))


def appended(space: Space, observation: Array, *numbers: Array) -> Array:
    """`[D + K]`: a member of `appended_space(space, ...)`."""
    if isinstance(space, Discrete):
        observation = jax.nn.one_hot(observation, space.num_values)
    more = jnp.stack([jnp.asarray(number, jnp.float32) for number in numbers])
    return jnp.concatenate([observation.astype(jnp.float32), more])
