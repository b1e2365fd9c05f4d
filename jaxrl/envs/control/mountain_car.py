"""A car too weak for the hill before it, with three throttles or a continuous one."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core import Array, Box, Discrete, Key, Space, Struct, TimeStep, setting, struct
from jaxrl.envs.clock import clock, clocked
from jaxrl.envs.control import mechanics
from jaxrl.envs.control.mechanics import nonnegative, positive, random, steady

_PER_STEP = "position/step"
_PER_STEP_SQUARED = "position/step^2"


class MountainCarState(Struct):
    """Where the car is, and for how long the episode has run."""

    position: Array  # [] along the track; the valley is at -pi/6 [position]
    velocity: Array  # [] [position/step]
    time: Array  # [] int32 [steps]


class MountainCar(Struct):
    """Drive a car out of a valley by first going back: three actions, back, coast and forward.

    With the throttle a in {-1, 0, 1} = action - 1, the disturbance w, and clip to the limits:

        velocity <- clip(velocity + force a + w - gravity cos(3 position) - friction velocity)
        position <- clip(position + velocity)
        velocity <- 0 where the car stands at the left wall and would go on to the left.

    Time runs in steps, so that speeds are [position/step] and the forces, for a car of mass 1, are
    [position/step^2]. The episode ends at `goal_position` with at least `goal_velocity`; the
    reward is -1 for every step. With the defaults this is gymnasium's MountainCar-v0, step for
    step.

    The disturbance is a force along the track, beside the engine's [position/step^2]; see
    `jaxrl.envs.control.mechanics`.

    Sources: Moore (1990), "Efficient memory-based learning for robot control"; Sutton (1996),
    "Generalization in reinforcement learning: successful examples using sparse coarse coding".
    Gymnasium's documentation of MountainCar-v0 is the reference for constants and rewards.

    Example:
        >>> env = MountainCar(gravity=0.003)
        >>> state, observation = env.reset(jax.random.key(0))
        >>> bool(env.observation_space.contains(observation))
        True
    """

    gravity: float = nonnegative(0.0025, "steepest pull of the slope", _PER_STEP_SQUARED)
    force: float = nonnegative(0.001, "pull of the engine", _PER_STEP_SQUARED)
    friction: float = setting(
        0.0, "share of the velocity that a step takes away", unit="per step", low=0.0, high=1.0
    )
    disturbance: float = steady("force along the track", _PER_STEP_SQUARED)
    noise_scale: float = random("force along the track", _PER_STEP_SQUARED)
    max_speed: float = positive(0.07, "speed never exceeded", _PER_STEP)
    min_position: float = setting(-1.2, "left end of the track, a wall", unit="position")
    max_position: float = setting(0.6, "right end of the track", unit="position")
    goal_position: float = setting(0.5, "where the episode ends", unit="position")
    goal_velocity: float = setting(0.0, "least velocity at the goal", unit=_PER_STEP)
    initial_low: float = setting(-0.6, "least first position", unit="position")
    initial_high: float = setting(-0.4, "greatest first position", unit="position")
    time_limit: float = clock(200.0)
    # One number in [-1, 1] as action, whose square is paid for: see `mountain_car_continuous`.
    is_continuous: bool = struct.field(pytree_node=False, default=False)

    @property
    def observation_space(self) -> Box:
        """`Box[2]`: position, velocity."""
        ends = [[self.min_position, -self.max_speed], [self.max_position, self.max_speed]]
        low, high = (jnp.array(pair, jnp.float32) for pair in ends)
        return Box(low, high, (2,))

    @property
    def action_space(self) -> Space:
        """`Discrete(3)`: back, coast, forward; or `Box[1]`, from full back to full forward."""
        one = jnp.ones((), jnp.float32)
        return Box(-one, one, (1,)) if self.is_continuous else Discrete(3)

    def reset(self, key: Key) -> tuple[MountainCarState, Array]:
        """The car at rest somewhere in the valley."""
        low, high = (jnp.asarray(end, float) for end in (self.initial_low, self.initial_high))
        position = jax.random.uniform(key, (), low.dtype, low, high)
        state = MountainCarState(position, jnp.zeros_like(position), jnp.zeros((), jnp.int32))
        return state, _observe(state)

    def step(
        self, key: Key, state: MountainCarState, action: Array
    ) -> tuple[MountainCarState, TimeStep]:
        """One step with the throttle that `action` stands for."""
        env = mechanics.constants_as(state.position.dtype, self)
        throttle = jnp.asarray(action, state.position.dtype).reshape(())
        throttle = throttle if self.is_continuous else throttle - 1.0
        slope = env.gravity * jnp.cos(3.0 * state.position)
        force = env.force * jnp.clip(throttle, -1.0, 1.0)
        force = force + mechanics.push(key, env.disturbance, env.noise_scale) - slope
        velocity = state.velocity + force - env.friction * state.velocity
        velocity = jnp.clip(velocity, -env.max_speed, env.max_speed)
        position = jnp.clip(state.position + velocity, env.min_position, env.max_position)
        velocity = jnp.where((position <= env.min_position) & (velocity < 0.0), 0.0, velocity)
        arrived = (position >= env.goal_position) & (velocity >= env.goal_velocity)
        paid = jnp.where(arrived, 100.0, 0.0) - 0.1 * throttle**2 if self.is_continuous else -1.0
        state = MountainCarState(position, velocity, state.time + 1)
        return state, clocked(_observe(state), paid, arrived, state.time, env.time_limit)


def mountain_car_continuous() -> MountainCar:
    """Drive a car out of a valley with a continuous throttle, and with little fuel.

    The law is that of `MountainCar` with the throttle a = clip(action, -1, 1), a stronger engine
    and a nearer goal. The reward is

        reward = 100 [in the step that reaches the goal] - 0.1 action^2,

    where, as in gymnasium, an action beyond the clip is paid for as it was given. With the defaults
    this is gymnasium's MountainCarContinuous-v0, step for step.

    The disturbance is a force along the track, beside the engine's [position/step^2]; see
    `jaxrl.envs.control.mechanics`.

    Sources: Moore (1990), "Efficient memory-based learning for robot control".
    Gymnasium's documentation of MountainCarContinuous-v0 is the reference.

    Example:
        >>> env = mountain_car_continuous()
        >>> state, _ = env.reset(jax.random.key(0))
        >>> _, step = env.step(jax.random.key(0), state, jnp.array([0.5]))
        >>> round(float(step.reward), 4)
        -0.025
    """
    return MountainCar(force=0.0015, goal_position=0.45, time_limit=999.0, is_continuous=True)


def _observe(state: MountainCarState) -> Array:
    return jnp.stack([state.position, state.velocity]).astype(jnp.float32)
