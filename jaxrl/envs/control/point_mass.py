"""A point that is pushed across a plane to a goal, past a hazard on the straight way."""

from __future__ import annotations

import jax.numpy as jnp

from jaxrl.core import Array, Box, Key, Space, Struct, TimeStep
from jaxrl.envs.clock import clock, clocked
from jaxrl.envs.control import mechanics
from jaxrl.envs.control.mechanics import nonnegative, positive


class PointMassState(Struct):
    """Where the point is, and for how long the episode has run."""

    position: Array  # [2] [m]
    velocity: Array  # [2] [m/s]
    time: Array  # [] int32 [steps]


class PointMass(Struct):
    """Push a point to a goal and keep it there; the way straight to it leads through a hazard.

    With u the action in [-1, 1]^2, p and v position and velocity, from rest near (-1, 0):

        v <- (1 - friction time_step) v + max_force time_step u
        p <- clip(p + time_step v, -2, 2)
        reward = max(0, 1 - |p - (1, 0)| / 2)
        cost = max(0, 1 - |p| / hazard_radius)     (how deep in the hazard, 0 at its edge)

    Rewards lie in [0, 1] and it never terminates.

    Sources: in the manner of the navigation tasks of Ray, Achiam and Amodei (2019), "Benchmarking
    safe exploration in deep reinforcement learning"; map, dynamics and numbers are ours.

    Example:
        >>> import jax
        >>> state, _ = PointMass().reset(jax.random.key(0))
        >>> middle = state.replace(position=jnp.zeros(2))
        >>> _, step = PointMass().step(jax.random.key(0), middle, jnp.zeros(2))
        >>> step.cost.tolist(), float(step.reward)
        ([1.0], 0.5)
    """

    max_force: float = positive(2.0, "greatest acceleration along each axis", "m/s^2")
    friction: float = nonnegative(1.0, "share of the speed that is lost", "1/s")
    hazard_radius: float = positive(0.4, "radius of the hazard", "m")
    initial_spread: float = mechanics.spread(0.1, "distances from (-1, 0) along each axis", "m")
    time_step: float = positive(0.1, "time that a step takes", "s")
    time_limit: float = clock(60.0)

    @property
    def observation_space(self) -> Space:
        """`Box[4]`: position and velocity."""
        return Box(-jnp.inf, jnp.inf, (4,))

    @property
    def action_space(self) -> Space:
        """`Box[2]`: the force along each axis, as a share of the greatest."""
        return Box(-1.0, 1.0, (2,))

    def reset(self, key: Key) -> tuple[PointMassState, Array]:
        """At rest near (-1, 0)."""
        place = mechanics.round_zero(key, self.initial_spread, self.initial_spread)
        position = place - jnp.array([1.0, 0.0], place.dtype)
        state = PointMassState(position, jnp.zeros_like(position), jnp.zeros((), jnp.int32))
        return state, _observe(state)

    def step(
        self, key: Key, state: PointMassState, action: Array
    ) -> tuple[PointMassState, TimeStep]:
        """Push by `action` `[2]` for `time_step` seconds; `cost` is `[1]`."""
        dtype = state.position.dtype
        env = mechanics.constants_as(dtype, self)
        force = env.max_force * jnp.clip(jnp.asarray(action, dtype).reshape(2), -1.0, 1.0)
        velocity = (1.0 - env.friction * env.time_step) * state.velocity + env.time_step * force
        position = jnp.clip(state.position + env.time_step * velocity, -2.0, 2.0)
        goal = jnp.array([1.0, 0.0], dtype)
        reward = jnp.maximum(0.0, 1.0 - jnp.linalg.norm(position - goal) / 2.0)
        depth = jnp.maximum(0.0, 1.0 - jnp.linalg.norm(position) / env.hazard_radius)
        state = PointMassState(position, velocity, state.time + 1)
        step = clocked(_observe(state), reward, False, state.time, env.time_limit)
        return state, step.replace(cost=depth[None].astype(jnp.float32))


def _observe(state: PointMassState) -> Array:
    return jnp.concatenate([state.position, state.velocity]).astype(jnp.float32)
