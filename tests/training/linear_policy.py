"""Agents without learning, small enough that the best attack on them is known."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.networks import CategoricalPolicy, GaussianPolicy


@struct.dataclass
class Linear:
    """Preferences `observation @ state`, `state[D, A]`; with `box`, they are the action."""

    discount: float = 0.9
    box: bool = struct.field(pytree_node=False, default=False)
    num_envs: int = struct.field(pytree_node=False, default=4)
    rollout_length: int = struct.field(pytree_node=False, default=30)

    def init(self, key, env, total_steps=float("inf")):
        return jnp.zeros((*env.observation_space.shape, 1))

    def initial_memory(self, num_envs):
        return ()

    def act(self, key, state, observation, explore=True, memory=()):
        rows = observation @ state
        return (rows if self.box else jnp.argmax(rows, axis=-1).astype(jnp.int32)), {}

    def policy(self, state, observation, memory=()):
        rows = observation @ state
        return GaussianPolicy(rows, jnp.zeros(())) if self.box else CategoricalPolicy(rows)


@struct.dataclass
class Dithered:
    """A linear policy that spends its key on a draw beside its preferences."""

    num_envs: int = struct.field(pytree_node=False, default=2)
    rollout_length: int = struct.field(pytree_node=False, default=3)
    discount: float = 0.9

    def initial_memory(self, num_envs):
        return ()

    def act(self, key, state, observation, explore=True, memory=()):
        rows = observation @ state
        return jnp.argmax(rows + jax.random.normal(key, rows.shape), axis=-1), {}

    def q_values(self, state, observation):
        return observation @ state


@struct.dataclass
class Counter:
    """Acts by the number of steps it has acted: a policy with memory."""

    def initial_memory(self, num_envs):
        return (jnp.zeros(num_envs),)

    def act(self, key, state, observation, explore=True, memory=()):
        count = memory[0]
        return count[:, None], {"memory": (count + 1,)}
