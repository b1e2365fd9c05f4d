"""A number added to every reward, which changes what is explored and not what is best."""

from __future__ import annotations

import jax.numpy as jnp

from jaxrl.core.types import Array


def shifted_value(shift: float | Array, discount: float | Array) -> Array:
    """What a constant reward adds to every value: K = shift / (1 - discount) [return].

    Zero for no shift, whatever the discount.

    Example:
        >>> float(shifted_value(-1.0, 0.75)), float(shifted_value(0.0, 1.0))
        (-4.0, 0.0)
    """
    shift, rest = jnp.asarray(shift), 1.0 - jnp.asarray(discount)
    scale = jnp.where(rest > 0, 1.0 / jnp.where(rest > 0, rest, 1.0), jnp.inf)
    return jnp.where(shift == 0, 0.0, shift * scale)


def shifted_reward(reward: Array, discount: Array, constant: Array) -> Array:
    """Rewards under which every value is higher by the same `constant`: r + (1 - d) K.

    Here d is `discount`. Where a single step goes on, (1 - d) K is the shift. At an end
    d is 0 and K is added whole: the shift, and what it would have been worth later. Steps of any
    number or length, and probabilities of ending, are in d as well. So the order of actions stays.

    With the shift alone, ending is worth less (a positive shift) or more (a negative one) than it
    was, and the best policy may be another.

    Args:
        reward: `[...]` [return].
        discount: `[...]`, gamma^tau (1 - terminated) of the same step.
        constant: `[]` [return], see `shifted_value`.

    Example:
        >>> shifted_reward(jnp.zeros(2), jnp.array([0.75, 0.0]), jnp.array(-4.0)).tolist()
        [-1.0, -4.0]

    Sources:
        Sun et al. (2022), Exploit reward shifting in value-based deep RL: optimistic
        curiosity-based exploration and conservative exploitation via linear reward shaping (a shift
        as another first q). As released (holarissun/RewardShifting) the shift alone is added, at
        ends too; adding K there is ours.
    """
    return reward + (1.0 - discount) * constant
