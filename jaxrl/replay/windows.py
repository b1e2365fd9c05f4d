"""Reading n-step transitions out of a ring that stores every observation once."""

from __future__ import annotations

import jax.numpy as jnp

from jaxrl.core.types import Array, Transition
from jaxrl.replay.storage import TERMINATED, TRUNCATED, ReplayState, read


def reach(num_step: int, store_next: bool) -> int:
    """Newest rows that cannot start a window: it needs `num_step` rows and one successor more."""
    return num_step - 1 if store_next else num_step


def is_valid_start(flags: Array, store_next: bool) -> Array:
    """Whether a complete window may start at a row with these flags, `[...]` bool."""
    return (flags & TRUNCATED == 0) | store_next


def read_windows(
    state: ReplayState, row: Array, env: Array, num_step: int
) -> tuple[Transition, Array]:
    """n-step transitions that start at `row[batch]`, `env[batch]`.

    With m steps used, the target `reward + discount * value(next_observation)` is

        sum_{k<m} (prod_{i<k} discount_{t+i}) reward_{t+k} + (prod_{i<m} discount_{t+i}) V(s_{t+m})

    where m is `num_step`, or less when the window meets the end of an episode:

    * a terminated row is used and is the last; its discount is 0, so no successor is needed;
    * a truncated row at t+j lost its successor (row t+j+1 is the next episode's first), so without
      stored successors it is *not* used and the window bootstraps from its observation, which is
      the exact (j)-step return. A window that starts at such a row has nothing to use: not valid;
    * with stored successors a truncated row is used, is the last, and bootstraps from its own.

    Returns:
        The transitions, leaves `[batch, ...]`, and whether each is valid, `[batch]` bool.
    """
    layout = state.layout
    columns, memory = layout.tree(), state.memory
    offsets = jnp.arange(num_step, dtype=jnp.int32)[:, None]
    rows = (row + offsets) % layout.num_rows  # [num_step, batch]
    steps = (memory.reward, memory.discount, memory.flags)
    rewards, discounts, flags = read(
        (columns.reward, columns.discount, columns.flags), steps, rows, env
    )
    terminated, truncated = (flags & TERMINATED) > 0, (flags & TRUNCATED) > 0
    alive = jnp.ones(row.shape, jnp.bool_)
    num_used = jnp.zeros(row.shape, jnp.int32)
    total = jnp.zeros_like(rewards[0])
    discount = jnp.ones_like(discounts[0])
    met_end, met_cut = jnp.zeros_like(alive), jnp.zeros_like(alive)
    for k in range(num_step):
        met_cut = met_cut | (alive & truncated[k])
        used = alive if layout.store_next else alive & ~truncated[k]
        # A reward may have channels, [batch, C]: discount and use are per window.
        lanes = (..., *(None,) * (rewards.ndim - 2))
        total = jnp.where(used[lanes], total + discount[lanes] * rewards[k], total)
        discount = jnp.where(used, discount * discounts[k], discount)
        num_used = num_used + used
        met_end = met_end | (used & terminated[k])
        alive = used & ~terminated[k] & ~truncated[k]

    first = read(
        (columns.observation, columns.action, columns.extras, columns.env_state),
        (memory.observation, memory.action, memory.extras, memory.env_state),
        row,
        env,
    )
    if layout.store_next:
        last = (row + num_used - 1) % layout.num_rows
        successor = read(columns.next_observation, memory.next_observation, last, env)
    else:
        last = (row + num_used) % layout.num_rows
        successor = read(columns.observation, memory.observation, last, env)
    transition = Transition(
        observation=first[0],
        action=first[1],
        reward=total,
        discount=discount,
        next_observation=successor,
        terminated=met_end,
        truncated=met_cut,
        extras=first[2],
        env_state=first[3],
    )
    return transition, is_valid_start(flags[0], layout.store_next)
