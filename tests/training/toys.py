"""Environments and learners that write down what they were given, so that every number is known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core import Box, Discrete, TimeStep, setting, struct

KEY = jax.random.key(0)


def bits(key):
    """What tells a key from all others: two whole numbers."""
    return jax.random.key_data(key)


@struct.dataclass
class Clock:
    """Shows the bits of the key it was given, pays 1, 2, 3, ... and ends after `length` steps: in a
    terminal state or, where `truncates` is 1, by the clock."""

    length: float = 5.0
    truncates: float = 0.0

    @property
    def observation_space(self):
        return Box(0.0, 2.0**32, (2,))

    @property
    def action_space(self):
        return Discrete(2)

    def reset(self, key):
        return jnp.zeros((), jnp.int32), bits(key)

    def step(self, key, state, action):
        state = state + 1
        over, clock = state >= self.length, self.truncates > 0.5
        return state, TimeStep(
            observation=bits(key),
            reward=state.astype(jnp.float32),
            terminated=over & ~clock,
            truncated=over & clock,
            cost=jnp.zeros((0,)),
            info={},
        )


@struct.dataclass
class Pages:
    """What a `Diary` holds after so many updates."""

    weight: jax.Array  # []
    number: jax.Array  # [] of updates made
    total_steps: jax.Array  # [] that it was told of
    # [P + 1, T + 1 + 2 T B, 2], a page for each update: bits of the keys of `act` and `update`,
    # and what was seen before and after every step. The last page begins with the key of `init`.
    written: jax.Array


@struct.dataclass
class Diary:
    """Learns one number, and writes every key and observation of its life down.

    weight <- weight + learning_rate (mean reward + U[0, 1) - weight)
    """

    learning_rate: float = setting(0.5, "step towards the last rollout", low=0.0)
    discount: float = setting(0.9, "gamma", low=0.0, high=1.0)
    num_envs: int = setting(2, "environments")
    rollout_length: int = setting(4, "steps of each between two updates")
    num_pages: int = setting(12, "updates that are written down")

    def check(self, env):
        pass

    def initial_memory(self, num_envs):
        return ()

    def init(self, key, env, total_steps=float("inf")):
        entries = self.rollout_length * (1 + 2 * self.num_envs) + 1
        empty = jnp.zeros((self.num_pages + 1, entries, 2), jnp.uint32)
        return Pages(
            weight=jnp.zeros(()),
            number=jnp.zeros((), jnp.int32),
            total_steps=jnp.asarray(total_steps, jnp.float32),
            written=empty.at[-1, 0].set(bits(key)),
        )

    def act(self, key, state, observation, explore=True, memory=()):
        num_envs = observation.shape[0]
        told = jnp.broadcast_to(bits(key), (num_envs, 2))
        return jnp.zeros(num_envs, jnp.int32), {"key": told}

    def update(self, key, state, trajectory):
        error = jnp.mean(trajectory.reward) + jax.random.uniform(key) - state.weight
        page = state.number
        parts = (
            trajectory.extras["key"][:, 0],
            bits(key),
            trajectory.observation,
            trajectory.next_observation,
        )
        entries = jnp.concatenate([part.reshape(-1, 2) for part in parts])
        written = state.replace(
            weight=state.weight + self.learning_rate * error,
            number=page + 1,
            written=state.written.at[page].set(entries),
        )
        return written, {"loss": error**2, "number": page.astype(jnp.float32)}


def spent(agent, pages, num_resets):
    """The bits `[K, 2]` of every key of the life of a `Diary` that wrote `pages`: of `init`,
    resets, steps, acts and updates. There must have been `num_resets` besides the first."""
    length, size = agent.rollout_length, agent.rollout_length * agent.num_envs
    written = np.asarray(pages.written)
    first, rows = written[-1, :1], written[:-1]
    acted, updated, seen, next_seen = np.split(rows, [length, length + 1, length + 1 + size], 1)
    seen, next_seen = (part.reshape(-1, agent.num_envs, 2) for part in (seen, next_seen))
    resets = seen[1:][np.any(seen[1:] != next_seen[:-1], axis=-1)]
    assert len(resets) == num_resets
    parts = (first, acted, updated, seen[0], resets, next_seen)
    return np.concatenate([part.reshape(-1, 2) for part in parts])


def num_different(rows):
    """How many of `rows[K, 2]` are not the same."""
    return len(np.unique(rows, axis=0))
