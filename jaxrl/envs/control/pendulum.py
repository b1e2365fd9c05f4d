"""A driven pendulum, to be swung up and held."""

from __future__ import annotations

import math

import jax.numpy as jnp

from jaxrl.core import Array, Box, Key, Space, Struct, TimeStep
from jaxrl.envs.clock import clock, clocked
from jaxrl.envs.control import mechanics
from jaxrl.envs.control.mechanics import nonnegative, positive, random, spread, steady
from jaxrl.envs.wrappers.inner import inner_actions, inner_observations, inner_reset


class PendulumState(Struct):
    """Where the rod points, and for how long the episode has run."""

    angle: Array  # [] from upright, counter-clockwise, in [-pi, pi) [rad]
    angular_velocity: Array  # [] [rad/s]
    time: Array  # [] int32 [steps]


class Pendulum(Struct):
    """Turn a rod upright and keep it there with a motor that is too weak to lift it at once.

    With u the action clipped to `max_torque`, w the disturbance, m and l mass and length of the
    rod, which turns about its end:

        omega <- clip(omega + time_step (3 g sin(angle) / (2 l)
                      + 3 (u + w - friction omega) / (m l^2)), -max_speed, max_speed)
        angle <- angle + time_step omega     (the new omega: semi-implicit Euler)

    The reward of a step looks at the state before it and at the torque chosen, not at w:

        reward = -(angle^2 + 0.1 omega^2 + 0.001 u^2),    angle in [-pi, pi).

    It never terminates. With the defaults this is gymnasium's Pendulum-v1, step for step, except
    that the angle of the state is kept within [-pi, pi), so that a task without time limit does
    not lose precision.

    The disturbance is a torque on the hinge, beside the motor's [N m]; see
    `jaxrl.envs.control.mechanics`.

    Sources: gymnasium's documentation of Pendulum-v1. Morimoto and Doya (2005), "Robust
    reinforcement learning", for a disturbance torque as an adversary.

    Example:
        >>> import jax
        >>> env = Pendulum(gravity=9.81)
        >>> state, observation = env.reset(jax.random.key(0))
        >>> _, pushed = env.replace(disturbance=1.0).step(jax.random.key(0), state, jnp.zeros(1))
        >>> _, free = env.step(jax.random.key(0), state, jnp.zeros(1))
        >>> round(float(pushed.observation[2] - free.observation[2]), 4)  # 3 w time_step / (m l^2)
        0.15
    """

    gravity: float = nonnegative(10.0, "acceleration of free fall", "m/s^2")
    mass: float = positive(1.0, "mass of the rod", "kg")
    length: float = positive(1.0, "length of the rod", "m")
    friction: float = nonnegative(0.0, "friction of the hinge per angular speed", "N m s/rad")
    max_torque: float = nonnegative(2.0, "greatest torque of the motor", "N m")
    max_speed: float = positive(8.0, "angular speed that is never exceeded", "rad/s")
    disturbance: float = steady("torque on the hinge", "N m")
    noise_scale: float = random("torque on the hinge", "N m")
    time_step: float = positive(0.05, "time that a step takes", "s")
    initial_angle: float = spread(math.pi, "angles", "rad")
    initial_speed: float = spread(1.0, "angular speeds", "rad/s")
    time_limit: float = clock(200.0)

    @property
    def observation_space(self) -> Space:
        """`Box[3]`: cosine and sine of the angle, angular velocity."""
        high = jnp.array([1.0, 1.0, self.max_speed], jnp.float32)
        return Box(-high, high, (3,))

    @property
    def action_space(self) -> Space:
        """`Box[1]`: the torque of the motor [N m]."""
        limit = jnp.asarray(self.max_torque, jnp.float32)
        return Box(-limit, limit, (1,))

    def reset(self, key: Key) -> tuple[PendulumState, Array]:
        """The rod anywhere, turning slowly."""
        angle, speed = mechanics.round_zero(key, self.initial_angle, self.initial_speed)
        state = PendulumState(mechanics.wrapped(angle), speed, jnp.zeros((), jnp.int32))
        return state, _observe(state)

    def step(self, key: Key, state: PendulumState, action: Array) -> tuple[PendulumState, TimeStep]:
        """Apply the torque `action`, `[1]` or `[]`, for `time_step` seconds."""
        dtype = state.angle.dtype
        env, speed = mechanics.constants_as(dtype, self), state.angular_velocity
        torque = jnp.clip(jnp.asarray(action, dtype).reshape(()), -env.max_torque, env.max_torque)
        cost = mechanics.wrapped(state.angle) ** 2 + 0.1 * speed**2 + 0.001 * torque**2
        pushed = mechanics.push(key, env.disturbance, env.noise_scale)
        turning = torque + pushed - env.friction * speed
        acceleration = 3.0 * env.gravity / (2.0 * env.length) * jnp.sin(state.angle)
        acceleration = acceleration + 3.0 / (env.mass * env.length**2) * turning
        speed = jnp.clip(speed + env.time_step * acceleration, -env.max_speed, env.max_speed)
        angle = mechanics.wrapped(state.angle + env.time_step * speed)
        state = PendulumState(angle, speed, state.time + 1)
        return state, clocked(_observe(state), -cost, False, state.time, env.time_limit)


class SpeedLimitedPendulum(Struct):
    """A pendulum whose speed costs what it exceeds a limit by.

        cost = max(0, |omega| - speed_limit)     [rad/s], of the speed after the step

    Example:
        >>> import jax
        >>> env = SpeedLimitedPendulum(speed_limit=3.0)
        >>> state, _ = env.reset(jax.random.key(0))
        >>> fast = state.replace(angle=jnp.zeros(()), angular_velocity=jnp.array(5.0))
        >>> env.step(jax.random.key(0), fast, jnp.zeros(1))[1].cost.tolist()
        [2.0]
    """

    env: Pendulum = Pendulum()
    speed_limit: float = positive(4.0, "angular speed above which a step costs", "rad/s")

    observation_space = inner_observations
    action_space = inner_actions
    reset = inner_reset

    def step(self, key: Key, state: PendulumState, action: Array) -> tuple[PendulumState, TimeStep]:
        """As of the pendulum, with `cost` `[1]`."""
        state, step = self.env.step(key, state, action)
        excess = jnp.maximum(0.0, jnp.abs(state.angular_velocity) - self.speed_limit)
        return state, step.replace(cost=excess[None].astype(jnp.float32))


def _observe(state: PendulumState) -> Array:
    numbers = [jnp.cos(state.angle), jnp.sin(state.angle), state.angular_velocity]
    return jnp.stack(numbers).astype(jnp.float32)
