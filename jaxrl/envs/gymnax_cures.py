"""What is wrong with single gymnax environments, and the cure for each.

Found in gymnax 1.0.1. A `Cure` is a set of pure functions that the adapter calls in place of the
environment's own; every default is the environment's own behaviour. The module imports gymnax only
inside functions, where the adapter has loaded it already.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core import Array, Key, PyTree, Struct
from jaxrl.envs.tabular import TabularState

RawEnv = Any  # a gymnax Environment
Outcome = tuple[Array, PyTree, Array, Array | bool]  # observation, state, reward, terminated


@dataclasses.dataclass(frozen=True)
class Cure:
    """How one gymnax environment is driven; every default is the environment's own way."""

    refusal: str = ""  # why the environment is not offered; empty when it is
    horizon_is_terminal: bool = False  # default of the adapter's switch
    derived: tuple[str, ...] = ()  # parameters that `derive` computes, so that none may be set
    fixed: tuple[tuple[str, Any], ...] = ()  # options that work with one value only
    params: Callable[[RawEnv], PyTree] = lambda raw: raw.default_params
    derive: Callable[[PyTree], PyTree] = lambda params: params
    reset: Callable[[RawEnv, Key, PyTree], tuple[Array, PyTree]] = lambda raw, key, params: (
        raw.reset_env(key, params)
    )
    step: Callable[[RawEnv, Key, PyTree, Array, PyTree], Outcome] = (
        lambda raw, key, state, action, params: raw.step_env(key, state, action, params)[:4]
    )
    observe: Callable[[Array, RawEnv, PyTree, PyTree], Array] = (
        lambda observation, raw, state, params: observation
    )
    bounds: Callable[[RawEnv, PyTree], tuple[Any, Any]] | None = None  # low, high of observations


def cure_of(name: str) -> Cure:
    """The cure for a gymnax id; the empty one for an id that needs none."""
    return CURES.get(name, Cure())


# --- classic control -----------------------------------------------------------------------------


def _cartpole_masses(params: PyTree) -> PyTree:
    return params.replace(
        total_mass=params.masscart + params.masspole,
        polemass_length=params.masspole * params.length,
    )


def _car_step(raw: RawEnv, key: Key, state: PyTree, action: Array, params: PyTree) -> Outcome:
    """Gymnasium's dynamics: the wall that swallows speed stands at the left end."""
    push = action[0]
    velocity = state.velocity + push * params.power - jnp.cos(3.0 * state.position) * params.gravity
    velocity = jnp.clip(velocity, -params.max_speed, params.max_speed)
    position = jnp.clip(state.position + velocity, params.min_position, params.max_position)
    at_wall = (position <= params.min_position) & (velocity < 0)
    velocity = jnp.where(at_wall, 0.0, velocity)
    state = state.replace(position=position, velocity=velocity, time=state.time + 1)
    terminated = raw.is_terminated(state, params)
    reward = jnp.where(terminated, 100.0, 0.0) - 0.1 * push**2
    return raw.get_obs(state), state, reward, terminated


# --- bsuite --------------------------------------------------------------------------------------


class BanditParams(Struct):
    """Parameters of the cured bandit."""

    arm_rewards: Array | np.ndarray  # [A] reward of each arm [return]
    max_steps_in_episode: int = 1  # every pull ends the episode [steps]


def _bandit_params(raw: RawEnv) -> BanditParams:
    # One fixed shuffle: the best arm stays the best over episodes, and no pattern gives it away.
    rewards = np.linspace(0.0, 1.0, raw.num_actions, dtype=np.float32)
    return BanditParams(np.random.RandomState(0).permutation(rewards))


def _bandit_reset(raw: RawEnv, key: Key, params: BanditParams) -> tuple[Array, TabularState]:
    zero = jnp.zeros((), jnp.int32)
    return jnp.ones((1, 1)), TabularState(zero, zero)


def _bandit_step(raw: RawEnv, key: Key, state: PyTree, action: Array, params: PyTree) -> Outcome:
    state = state.replace(time=state.time + 1)
    return jnp.ones((1, 1)), state, params.arm_rewards[action], jnp.ones((), bool)


# --- misc ----------------------------------------------------------------------------------------


def _observe_time(observation: Array, raw: RawEnv, state: PyTree, params: PyTree) -> Array:
    """Scale the clock, the last entry, by the true time limit instead of a constant 100."""
    scaled = 2.0 * state.time / params.max_steps_in_episode - 1.0
    return observation.at[-1].set(jnp.where(params.normalize_time, scaled, state.time))


def _maze_step(raw: RawEnv, key: Key, state: PyTree, action: Array, params: PyTree) -> Outcome:
    observation, state, reward = raw.step_env(key, state, action, params)[:3]
    return observation, state, reward, jnp.zeros((), bool)


def _maze_bounds(raw: RawEnv, params: PyTree) -> tuple[Array, Array]:
    reward = jnp.stack([jnp.zeros(()), params.reward, params.punishment])
    num_flags = raw.rf_size**2 + raw.num_actions
    clock = jnp.where(params.normalize_time, 1.0, params.max_steps_in_episode)
    low = jnp.append(jnp.zeros(num_flags), jnp.stack([reward.min(), -jnp.ones(())]))
    high = jnp.append(jnp.ones(num_flags), jnp.stack([reward.max(), clock]))
    return low, high


def _gaussian_bandit_bounds(raw: RawEnv, params: PyTree) -> tuple[Array, Array]:
    clock = jnp.where(params.normalize_time, 1.0, params.max_steps_in_episode)
    low = jnp.array([-jnp.inf, 0.0, 0.0, -1.0])
    return low, jnp.array([jnp.inf, 1.0, 1.0, 0.0]).at[3].set(clock)


def _memory_chain_bounds(raw: RawEnv, params: PyTree) -> tuple[float, float]:
    return -1.0, max(1.0, raw.num_bits - 1.0)


def _four_rooms_observe(observation: Array, raw: RawEnv, state: PyTree, params: PyTree) -> Array:
    """Draw the agent at `[row, column]`, as the walls are drawn."""
    if not raw.use_visual_obs:
        return observation
    return observation.at[..., 1].set(observation[..., 1].T)


def _pong_step(raw: RawEnv, key: Key, state: PyTree, action: Any, params: PyTree) -> Outcome:
    """One frame with both borders solid: gymnax lets the ball leave through row 0."""
    from gymnax.environments.misc import pong

    before = state.ball_position
    size = raw.height
    state = pong.move_paddles(
        action, params.paddle_y_speed, state, raw.paddle_half_height, size, params.use_ai_policy
    )
    state = pong.reflect_on_borders(pong.move_ball(state), size)
    outside = state.ball_position[0] < 0
    mirror = jnp.where(outside, jnp.array([-1, 1]), jnp.array([1, 1]))
    state = state.replace(
        ball_position=state.ball_position * mirror, ball_velocity=state.ball_velocity * mirror
    )
    state = pong.reflect_on_paddle(state, raw.width, raw.paddle_half_height, params)
    state = state.replace(last_ball_position=before, time=state.time + 1)
    terminated = raw.is_terminated(state, params)
    return raw.get_obs(state), state, jnp.where(terminated, 0.0, 1.0), terminated


# --- MinAtar -------------------------------------------------------------------------------------


def _asterix_step(raw: RawEnv, key: Key, state: PyTree, action: Array, params: PyTree) -> Outcome:
    """One frame with MinAtar's spawn rule, and a move interval that stops shrinking at 1.

    gymnax never looks at the first slot of its random order, so that it may overwrite an entity,
    and does so for certain on a full board. It also needs a loop for one masked argmax.
    """
    from gymnax.environments.minatar import asterix

    slot_key, side_key, gold_key = jax.random.split(key, 3)
    free = state.entities[:, 4] == 0
    slot = jnp.argmax(jnp.where(free, jax.random.uniform(slot_key, free.shape), -1.0))
    from_left = jax.random.bernoulli(side_key).astype(jnp.int32)
    gold = jax.random.bernoulli(gold_key, 1.0 / 3.0).astype(jnp.int32)
    entity = jnp.stack([(1 - from_left) * 9, slot + 1, from_left, gold, jnp.ones_like(gold)])
    due = state.spawn_timer == 0
    spawned = state.entities.at[slot].set(entity.astype(state.entities.dtype))
    state = state.replace(
        entities=jnp.where(due & jnp.any(free), spawned, state.entities),
        spawn_timer=jnp.where(due, state.spawn_speed, state.spawn_timer),
    )
    state = asterix.step_agent(state, raw.action_set[action])
    state, reward, terminated = asterix.step_entities(state)
    state = asterix.step_timers(state, params)
    state = state.replace(
        move_speed=jnp.maximum(state.move_speed, 1), time=state.time + 1, terminal=terminated
    )
    return raw.get_obs(state), state, reward, terminated


CURES: dict[str, Cure] = {
    # total_mass and polemass_length follow masscart, masspole and length.
    "CartPole-v1": Cure(derived=("total_mass", "polemass_length"), derive=_cartpole_masses),
    # Gymnasium's dynamics; gymnax puts the inelastic wall at the goal.
    "MountainCarContinuous-v0": Cure(step=_car_step),
    # Spawning never deletes an entity, and speed stops at one cell per frame.
    "Asterix-MinAtar": Cure(step=_asterix_step),
    # The time limit ends the game, as in MinAtar.
    "Freeway-MinAtar": Cure(horizon_is_terminal=True),
    # The time limit ends the task, as in bsuite.
    "DiscountingChain-bsuite": Cure(horizon_is_terminal=True),
    # Arms stay the same over episodes and are the parameter arm_rewards.
    "SimpleBandit-bsuite": Cure(params=_bandit_params, reset=_bandit_reset, step=_bandit_step),
    # The observation space holds the observations.
    "MemoryChain-bsuite": Cure(bounds=_memory_chain_bounds),
    "MNISTBandit-bsuite": Cure(
        refusal="it downloads MNIST when built, and stores pixels above 127 as negative numbers"
    ),
    # The time limit ends the task.
    "BernoulliBandit-misc": Cure(horizon_is_terminal=True),
    # The time limit ends the task; the clock is scaled by it; the space is right.
    "GaussianBandit-misc": Cure(
        horizon_is_terminal=True, observe=_observe_time, bounds=_gaussian_bandit_bounds
    ),
    # The agent is drawn where it is, not transposed.
    "FourRooms-misc": Cure(observe=_four_rooms_observe),
    # Only the time limit ends the task; the clock is scaled by it; the space is right.
    "MetaMaze-misc": Cure(
        horizon_is_terminal=True, step=_maze_step, observe=_observe_time, bounds=_maze_bounds
    ),
    # The time limit ends the task, and the clock is scaled by it.
    "PointRobot-misc": Cure(horizon_is_terminal=True, observe=_observe_time),
    # Actions are clipped, as are those of every box; num_joints other than 2 is refused.
    "Reacher-misc": Cure(fixed=(("num_joints", 2),)),
    # The ball bounces off both borders.
    "Pong-misc": Cure(step=_pong_step),
}
