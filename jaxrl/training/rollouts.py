"""One rollout for every agent: act, step, account for episodes, reset."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core import Struct, struct
from jaxrl.core.protocols import Agent, Environment, act, legal_of_each
from jaxrl.core.spaces import sample
from jaxrl.core.types import Array, Key, PyTree, TimeStep, Transition, select


class RolloutState(Struct):
    """Where `B` environments stand between two rollouts."""

    env_state: PyTree  # [B, ...]
    observation: PyTree  # [B, ...]
    memory: PyTree  # [B, ...] of a recurrent policy, else ()
    episode_return: Array  # [B] float32, undiscounted, of the current episode [return]
    episode_length: Array  # [B] int32 [steps]
    survival: Array  # [B] float32, chance not to have ended, of ends that are probabilities
    signals: dict[str, Array] = struct.field(default_factory=dict)  # [B] each, of the episode


class EpisodeSums(Struct):
    """Sums over the episodes that ended, so that means over any span are exact.

    Where ends are probabilities, a reward or cost counts with the chance that its step is reached,
    as it does in values; lengths are the steps made. The return is the sum of all channels.
    """

    num_episodes: Array  # [] float32
    episode_return: Array  # [] float32 [return]
    episode_length: Array  # [] float32 [steps]
    signals: dict[str, Array] = struct.field(default_factory=dict)  # [] each, see `signals_of`


def total_reward(step: TimeStep) -> Array:
    """The reward `[...]` float32 [return] of a step; of one with channels, their sum."""
    reward = jnp.asarray(step.reward, jnp.float32)
    return reward if reward.ndim == jnp.ndim(step.truncated) else jnp.sum(reward, axis=-1)


def signals_of(step: TimeStep) -> dict[str, Array]:
    """What a step tells beside its reward, `[...]` float32 each: `episode_cost_0`, ... for every
    cost, and `episode_return_0`, ... for every channel of a reward that has them."""
    found = {f"episode_cost_{i}": step.cost[..., i] for i in range(step.cost.shape[-1])}
    if step.reward.ndim > step.truncated.ndim:
        channels = range(step.reward.shape[-1])
        found |= {f"episode_return_{i}": step.reward[..., i] for i in channels}
    return {name: jnp.asarray(signal, jnp.float32) for name, signal in found.items()}


def start_rollout(key: Key, agent: Agent, env: Environment, group_size: int = 1) -> RolloutState:
    """Reset `agent.num_envs` environments; `group_size` neighbours have one key, hence one start
    and, where a reset draws them, one set of parameters."""
    keys = jax.random.split(key, agent.num_envs // group_size)
    if group_size > 1:
        keys = keys[jnp.arange(agent.num_envs) // group_size]
    env_state, observation = jax.vmap(env.reset)(keys)

    def first_signals(keys: Key, env_state: PyTree) -> dict[str, Array]:
        actions = jax.vmap(lambda key: sample(key, env.action_space))(keys)
        return signals_of(jax.vmap(env.step)(keys, env_state, actions)[1])

    signals = jax.eval_shape(first_signals, keys, env_state)  # nothing is computed
    return RolloutState(
        env_state=env_state,
        observation=observation,
        memory=agent.initial_memory(agent.num_envs),
        episode_return=jnp.zeros(agent.num_envs, jnp.float32),
        episode_length=jnp.zeros(agent.num_envs, jnp.int32),
        survival=jnp.ones(agent.num_envs, jnp.float32),
        signals={name: jnp.zeros(agent.num_envs, jnp.float32) for name in signals},
    )


def rollout(
    key: Key,
    agent: Agent,
    env: Environment,
    agent_state: PyTree,
    state: RolloutState,
    *,
    explore: bool = True,
    auto_reset: bool = True,
    keep_env_state: bool = False,
    first_only: bool = False,
) -> tuple[RolloutState, Transition, EpisodeSums]:
    """Step `B` environments `agent.rollout_length` times.

    Args:
        key: spent here.
        agent: acts, and gives `rollout_length` and `discount`.
        env: the environment; its leaves are shared by all `B`.
        agent_state: the agent's state, unchanged.
        state: where the environments stand.
        explore: whether the agent explores.
        auto_reset: start a new episode, within the same step, where one ended. `next_observation`
            is the true successor all the same. Off, an ended environment goes on from its last
            state.
        keep_env_state: record the state acted in, for generative backups.
        first_only: sum over the first episode of each lane alone, where all of them begin here:
            of later ones, those that end in time would be the short ones.

    Returns:
        the next `RolloutState`, the trajectory `[T, B]`, and sums over the ended episodes.
    """
    num_envs = state.episode_return.shape[0]
    fresh_memory = agent.initial_memory(num_envs)

    def step(carry: tuple, inputs: tuple[Key, Array | None]) -> tuple[tuple, Transition]:
        (state, sums), (keys, index) = carry, inputs
        act_key, step_keys, reset_keys = keys[0], keys[1 : num_envs + 1], keys[num_envs + 1 :]
        mask = legal_of_each(env, state.env_state, num_envs)
        seen = (state.observation, explore, state.memory, mask)
        action, extras = act(agent, act_key, agent_state, *seen)
        memory = extras.pop("memory", ())
        if jax.tree.leaves(memory):
            extras["memory_after"] = memory
        env_state, timestep = jax.vmap(env.step)(step_keys, state.env_state, action)
        ended = (timestep.terminated >= 1) | timestep.truncated
        reward, signals = total_reward(timestep), signals_of(timestep)
        survival = state.survival
        if jnp.asarray(timestep.terminated).dtype != bool:  # a chance
            reward, signals = jax.tree.map(lambda x: survival * x, (reward, signals))
            left = survival * (1.0 - jnp.asarray(timestep.terminated, jnp.float32))
            survival = jnp.where(ended, 1.0, left)
        episode_return = state.episode_return + reward
        episode_length = state.episode_length + 1
        signals = {name: state.signals[name] + signal for name, signal in signals.items()}
        counts = ended if index is None else ended & (episode_length == index + 1)
        sums = EpisodeSums(
            num_episodes=sums.num_episodes + jnp.sum(counts),
            episode_return=sums.episode_return + jnp.sum(jnp.where(counts, episode_return, 0.0)),
            episode_length=sums.episode_length + jnp.sum(jnp.where(counts, episode_length, 0)),
            signals={
                name: sums.signals[name] + jnp.sum(jnp.where(counts, total, 0.0))
                for name, total in signals.items()
            },
        )
        transition = Transition(
            observation=state.observation,
            action=action,
            reward=timestep.reward,
            discount=agent.discount * (1.0 - timestep.terminated),
            next_observation=timestep.observation,
            terminated=timestep.terminated,
            truncated=timestep.truncated,
            extras=extras,
            env_state=state.env_state if keep_env_state else (),
            cost=timestep.cost if timestep.cost.shape[-1] else (),
            mask=mask,
            next_mask=legal_of_each(env, env_state, num_envs),
        )
        observation = timestep.observation
        if auto_reset:
            reset = jax.vmap(env.reset)(reset_keys)
            env_state, observation = select(ended, reset, (env_state, observation))
        state = RolloutState(
            env_state=env_state,
            observation=observation,
            memory=select(ended, fresh_memory, memory),
            episode_return=jnp.where(ended, 0.0, episode_return),
            episode_length=jnp.where(ended, 0, episode_length),
            survival=survival,
            signals={name: jnp.where(ended, 0.0, total) for name, total in signals.items()},
        )
        return (state, sums), transition

    zero = jnp.zeros((), jnp.float32)
    # All keys in one draw: a split inside the loop costs a program launch at every step.
    keys = jax.random.split(key, (agent.rollout_length, 1 + 2 * num_envs))
    carry = (state, EpisodeSums(zero, zero, zero, dict.fromkeys(state.signals, zero)))
    index = jnp.arange(agent.rollout_length) if first_only else None
    (state, sums), trajectory = jax.lax.scan(step, carry, (keys, index))
    return state, trajectory, sums
