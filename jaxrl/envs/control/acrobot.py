"""A double pendulum driven at its elbow."""

from __future__ import annotations

import math

import jax.numpy as jnp

from jaxrl.core import Array, Box, Discrete, Key, Space, Struct, TimeStep, setting
from jaxrl.envs.clock import clock, clocked
from jaxrl.envs.control import mechanics
from jaxrl.envs.control.mechanics import nonnegative, positive, random, spread, steady


class AcrobotState(Struct):
    """Where both links point, and for how long the episode has run."""

    angle_1: Array  # [] of the first link from hanging down, in [-pi, pi) [rad]
    angle_2: Array  # [] of the second link from the direction of the first, in [-pi, pi) [rad]
    velocity_1: Array  # [] of `angle_1` [rad/s]
    velocity_2: Array  # [] of `angle_2` [rad/s]
    time: Array  # [] int32 [steps]


class Acrobot(Struct):
    """Swing the tip of a two-link arm above a line, by a torque between the links alone.

    With a, b the angles, masses m1, m2, length l1, moments of inertia I1, I2, distances
    c1 = centre_1 l1 and c2 = centre_2 l2 from each link's own joint to its centre of mass, and the
    torque T = (-torque, 0, torque)[action] + w on the second joint, w being the disturbance:

        d1   = m1 c1^2 + m2 (l1^2 + c2^2 + 2 l1 c2 cos b) + I1 + I2
        d2   = m2 (c2^2 + l1 c2 cos b) + I2
        phi2 = m2 c2 g sin(a + b)
        phi1 = -m2 l1 c2 (b'^2 + 2 a' b') sin b + (m1 c1 + m2 l1) g sin a + phi2 + friction a'
        b''  = (T - friction b' + d2 phi1 / d1 - m2 l1 c2 a'^2 sin b - phi2)
               / (m2 c2^2 + I2 - d2^2 / d1)
        a''  = -(d2 b'' + phi1) / d1

    integrated by one Runge-Kutta step of fourth order with T held; then angles are wrapped and
    speeds clipped. (The equations of the book; those of the 1996 paper lack the term in a'^2.)

    The episode ends when -cos a - cos(a + b) > `goal_height`: for links of length 1, the tip is
    so high above the first joint. As in gymnasium it looks at angles only, so that links of other
    lengths have the same goal. The reward is -1 for every step, 0 for the one that reaches it.
    With the defaults this is gymnasium's Acrobot-v1, step for step.

    The disturbance is a torque on the second joint, beside the motor's [N m]; see
    `jaxrl.envs.control.mechanics`. Its random part is gymnasium's `torque_noise_max`.

    Sources: Sutton (1996), "Generalization in reinforcement learning: successful examples using
    sparse coarse coding"; Sutton and Barto (1998), "Reinforcement learning", section 11.3.
    Gymnasium's documentation of Acrobot-v1 is the reference for constants, ends and rewards.

    Example:
        >>> import jax
        >>> env = Acrobot(link_mass_2=2.0)
        >>> state, observation = env.reset(jax.random.key(0))
        >>> _, step = env.step(jax.random.key(0), state, 2)
        >>> float(step.reward), bool(step.terminated)
        (-1.0, False)
    """

    gravity: float = nonnegative(9.8, "acceleration of free fall", "m/s^2")
    link_mass_1: float = positive(1.0, "mass of link 1", "kg")
    link_mass_2: float = positive(1.0, "mass of link 2", "kg")
    link_length_1: float = positive(1.0, "length of link 1", "m")
    link_length_2: float = positive(1.0, "length of link 2", "m")
    link_centre_1: float = setting(
        0.5, "where on link 1 its centre of mass is", unit="link length", low=0.0, high=1.0
    )
    link_centre_2: float = setting(
        0.5, "where on link 2 its centre of mass is", unit="link length", low=0.0, high=1.0
    )
    link_inertia_1: float = positive(1.0, "moment of inertia of link 1 about its centre", "kg m^2")
    link_inertia_2: float = positive(1.0, "moment of inertia of link 2 about its centre", "kg m^2")
    friction: float = nonnegative(0.0, "friction torque in a joint per angular speed", "N m s/rad")
    torque: float = nonnegative(1.0, "torque of the motor between the links", "N m")
    max_speed_1: float = positive(4.0 * math.pi, "speed of angle 1 never exceeded", "rad/s")
    max_speed_2: float = positive(9.0 * math.pi, "speed of angle 2 never exceeded", "rad/s")
    disturbance: float = steady("torque on the second joint", "N m")
    noise_scale: float = random("torque on the second joint", "N m")
    time_step: float = positive(0.2, "time that a step takes", "s")
    goal_height: float = setting(
        1.0, "height of the line that the tip must pass, for links of length 1", unit="link length"
    )
    initial_spread: float = spread(0.1, "angles and speeds")
    time_limit: float = clock(500.0)

    action_space = Discrete(3)  # torque backwards, none, forwards

    @property
    def observation_space(self) -> Space:
        """`Box[6]`: cosine and sine of angle 1, of angle 2, then both angular velocities."""
        high = jnp.array([1.0, 1.0, 1.0, 1.0, self.max_speed_1, self.max_speed_2], jnp.float32)
        return Box(-high, high, (6,))

    def reset(self, key: Key) -> tuple[AcrobotState, Array]:
        """Both links hang down, almost at rest."""
        start = mechanics.round_zero(key, *[self.initial_spread] * 4)
        angles, time = mechanics.wrapped(start[:2]), jnp.zeros((), jnp.int32)
        state = AcrobotState(*angles, *start[2:], time=time)
        return state, _observe(state)

    def step(self, key: Key, state: AcrobotState, action: Array) -> tuple[AcrobotState, TimeStep]:
        """Hold the torque of `action` for `time_step` seconds."""
        dtype = state.angle_1.dtype
        env = mechanics.constants_as(dtype, self)
        torque = env.torque * (jnp.asarray(action, jnp.int32) - 1).astype(dtype)
        torque = torque + mechanics.push(key, env.disturbance, env.noise_scale)
        motion = jnp.stack([state.angle_1, state.angle_2, state.velocity_1, state.velocity_2])
        moved = _runge_kutta(env, motion, torque)
        fastest = jnp.stack([env.max_speed_1, env.max_speed_2])
        angles, speeds = mechanics.wrapped(moved[:2]), jnp.clip(moved[2:], -fastest, fastest)
        state = AcrobotState(*angles, *speeds, time=state.time + 1)
        height = -jnp.cos(state.angle_1) - jnp.cos(state.angle_1 + state.angle_2)
        terminated = height > env.goal_height
        reward = jnp.where(terminated, 0.0, -1.0)
        return state, clocked(_observe(state), reward, terminated, state.time, env.time_limit)


def _runge_kutta(env: Acrobot, motion: Array, torque: Array) -> Array:
    """`motion[4]` after `time_step`, by the classic fourth-order rule."""
    half = 0.5 * env.time_step
    first = _derivative(env, motion, torque)
    second = _derivative(env, motion + half * first, torque)
    third = _derivative(env, motion + half * second, torque)
    fourth = _derivative(env, motion + env.time_step * third, torque)
    return motion + env.time_step / 6.0 * (first + 2.0 * second + 2.0 * third + fourth)


def _derivative(env: Acrobot, motion: Array, torque: Array) -> Array:
    """Rate of change of `motion[4]` = (angle 1, angle 2, and their velocities)."""
    angle_1, angle_2, speed_1, speed_2 = motion
    centre_1 = env.link_centre_1 * env.link_length_1
    centre_2 = env.link_centre_2 * env.link_length_2
    sine, cosine = jnp.sin(angle_2), jnp.cos(angle_2)
    coupling = env.link_mass_2 * env.link_length_1 * centre_2
    own = env.link_mass_2 * centre_2**2 + env.link_inertia_2
    mixed = own + coupling * cosine
    first = env.link_mass_1 * centre_1**2 + env.link_mass_2 * env.link_length_1**2
    whole = first + env.link_inertia_1 + own + 2.0 * coupling * cosine
    weight_2 = env.link_mass_2 * centre_2 * env.gravity * jnp.sin(angle_1 + angle_2)
    heft = env.link_mass_1 * centre_1 + env.link_mass_2 * env.link_length_1
    load = heft * env.gravity * jnp.sin(angle_1) + weight_2 + env.friction * speed_1
    load = load - coupling * (speed_2**2 + 2.0 * speed_1 * speed_2) * sine
    drive = torque - env.friction * speed_2 - coupling * speed_1**2 * sine - weight_2
    acceleration_2 = (drive + mixed / whole * load) / (own - mixed**2 / whole)
    acceleration_1 = -(mixed * acceleration_2 + load) / whole
    return jnp.stack([speed_1, speed_2, acceleration_1, acceleration_2])


def _observe(state: AcrobotState) -> Array:
    directions = [trig(a) for a in (state.angle_1, state.angle_2) for trig in (jnp.cos, jnp.sin)]
    return jnp.stack([*directions, state.velocity_1, state.velocity_2]).astype(jnp.float32)
