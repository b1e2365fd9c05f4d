"""A pole on a cart, to be kept upright."""

from __future__ import annotations

import math

import jax.numpy as jnp

from jaxrl.core import Array, Box, Discrete, Key, Space, Struct, TimeStep
from jaxrl.envs.clock import clock, clocked
from jaxrl.envs.control import mechanics
from jaxrl.envs.control.mechanics import nonnegative, positive, random, spread, steady


class CartPoleState(Struct):
    """Where cart and pole are, and for how long the episode has run."""

    position: Array  # [] of the cart [m]
    velocity: Array  # [] of the cart [m/s]
    angle: Array  # [] of the pole from upright, clockwise [rad]
    angular_velocity: Array  # [] [rad/s]
    time: Array  # [] int32 [steps]


class CartPole(Struct):
    """Push a cart left or right so that the pole hinged on it does not fall.

    With F = (+-force) + w, where w is the disturbance, M the sum of both masses, m the mass of the
    pole, l half its length, and v, omega the speeds of cart and pole:

        pull   = (F + m l omega^2 sin(angle) - cart_friction sign(v)) / M
        omega' = (g sin(angle) - cos(angle) pull - pole_friction omega / (m l))
                 / (l (4/3 - m cos(angle)^2 / M))
        v'     = pull - m l omega' cos(angle) / M

    in explicit Euler steps: positions advance with the speeds of before the step. Action 0 pushes
    left, 1 right. The reward is 1 for every step, the one that ends the episode included; it ends
    when the cart is beyond `position_limit` or the pole beyond `angle_limit`. With the defaults
    (no friction, no disturbance) this is gymnasium's CartPole-v1, step for step.

    The disturbance is a horizontal force on the cart [N]; see `jaxrl.envs.control.mechanics`.

    Sources: Barto, Sutton and Anderson (1983), "Neuronlike adaptive elements that can solve
    difficult learning control problems", appendix (with friction). Gymnasium's documentation of
    CartPole-v1 is the reference for constants, ends and rewards.

    Example:
        >>> import jax
        >>> env = CartPole(pole_mass=0.5)
        >>> state, observation = env.reset(jax.random.key(0))
        >>> observation.shape
        (4,)
        >>> masses = jnp.array([0.1, 0.3, 0.9])  # an uncertainty set
        >>> fall = lambda mass: env.replace(pole_mass=mass).step(jax.random.key(0), state, 1)
        >>> jax.vmap(fall)(masses)[1].observation.shape
        (3, 4)
    """

    gravity: float = nonnegative(9.8, "acceleration of free fall", "m/s^2")
    cart_mass: float = positive(1.0, "mass of the cart", "kg")
    pole_mass: float = positive(0.1, "mass of the pole", "kg")
    pole_half_length: float = positive(
        0.5, "distance from the hinge to the middle of the pole", "m"
    )
    force: float = nonnegative(10.0, "force of a push on the cart", "N")
    cart_friction: float = nonnegative(0.0, "sliding friction of the cart", "N")
    pole_friction: float = nonnegative(0.0, "friction of the hinge per angular speed", "N m s/rad")
    disturbance: float = steady("horizontal force on the cart", "N")
    noise_scale: float = random("horizontal force on the cart", "N")
    time_step: float = positive(0.02, "time that a step takes", "s")
    position_limit: float = nonnegative(2.4, "greatest distance from the middle", "m")
    angle_limit: float = nonnegative(math.radians(12.0), "greatest angle of the pole", "rad")
    initial_spread: float = spread(0.05, "positions and speeds")
    time_limit: float = clock(500.0)

    action_space = Discrete(2)  # left, right

    @property
    def observation_space(self) -> Space:
        """`Box[4]`: position, velocity, angle, angular velocity."""
        ends = 2.0 * self.position_limit, jnp.inf, 2.0 * self.angle_limit, jnp.inf
        high = jnp.array(ends, jnp.float32)
        return Box(-high, high, (4,))

    def reset(self, key: Key) -> tuple[CartPoleState, Array]:
        """Cart near the middle, pole near upright, both almost at rest."""
        start = mechanics.round_zero(key, *[self.initial_spread] * 4)
        state = CartPoleState(*start, time=jnp.zeros((), jnp.int32))
        return state, _observe(state)

    def step(self, key: Key, state: CartPoleState, action: Array) -> tuple[CartPoleState, TimeStep]:
        """One push of `time_step` seconds."""
        env = mechanics.constants_as(state.position.dtype, self)
        force = jnp.where(jnp.asarray(action, jnp.int32) == 1, env.force, -env.force)
        force = force + mechanics.push(key, env.disturbance, env.noise_scale)
        acceleration, angular_acceleration = _accelerations(env, state, force)
        state = CartPoleState(
            position=state.position + env.time_step * state.velocity,
            velocity=state.velocity + env.time_step * acceleration,
            angle=state.angle + env.time_step * state.angular_velocity,
            angular_velocity=state.angular_velocity + env.time_step * angular_acceleration,
            time=state.time + 1,
        )
        off_track = jnp.abs(state.position) > env.position_limit
        terminated = off_track | (jnp.abs(state.angle) > env.angle_limit)
        return state, clocked(_observe(state), 1.0, terminated, state.time, env.time_limit)


def _accelerations(env: CartPole, state: CartPoleState, force: Array) -> tuple[Array, Array]:
    """Of cart [m/s^2] and pole [rad/s^2] under the horizontal `force` [N] on the cart."""
    sine, cosine = jnp.sin(state.angle), jnp.cos(state.angle)
    total_mass = env.cart_mass + env.pole_mass
    moment = env.pole_mass * env.pole_half_length
    drag = env.cart_friction * jnp.sign(state.velocity)
    pull = (force + moment * state.angular_velocity**2 * sine - drag) / total_mass
    torque = env.gravity * sine - cosine * pull
    torque = torque - env.pole_friction * state.angular_velocity / moment
    lever = env.pole_half_length * (4.0 / 3.0 - env.pole_mass * cosine**2 / total_mass)
    angular_acceleration = torque / lever
    return pull - moment * angular_acceleration * cosine / total_mass, angular_acceleration


def _observe(state: CartPoleState) -> Array:
    numbers = [state.position, state.velocity, state.angle, state.angular_velocity]
    return jnp.stack(numbers).astype(jnp.float32)
