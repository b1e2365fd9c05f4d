"""Whole episodes, side by side, of anything that acts."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.protocols import Environment, Policy
from jaxrl.core.types import Array, Key, PyTree, select
from jaxrl.functionals import CVaR


@struct.dataclass
class Evaluation:
    """Returns of `E` whole episodes. An episode cut by `max_steps` counts with what it had."""

    returns: Array  # [E] undiscounted [return]
    lengths: Array  # [E] [steps]
    finished: Array  # [E] bool

    @property
    def mean(self) -> Array:
        """Mean return `[]`."""
        return jnp.mean(self.returns)

    @property
    def worst_decile(self) -> Array:
        """The return `[]` that nine episodes in ten reach: the lower 0.1-quantile."""
        rank = max(0, -(-self.returns.shape[-1] // 10) - 1)
        return jnp.sort(self.returns)[rank]

    def cvar(self, level: float = 0.1) -> Array:
        """Mean `[]` of the worst `level` share of returns: static CVaR, on whole returns."""
        return tail_mean(level, self.returns)

    def summary(self) -> dict[str, float]:
        """Plain numbers for a table or a file."""
        return {name: number.item() for name, number in jax.device_get(_numbers(self)).items()}


def tail_mean(level: float, values: Array) -> Array:
    """Mean `[]` of the worst `level` share of `values[N]`, each of which counts alike."""
    return _of_equals(CVaR(level), values)


@jax.jit
def _of_equals(functional: CVaR, values: Array) -> Array:
    probs = jnp.full(values.shape, 1.0 / len(values), jnp.result_type(values, float))
    return functional(probs, values)


@jax.jit
def _numbers(played: Evaluation) -> dict[str, Array]:
    return {
        "mean": played.mean,
        "cvar_0.1": played.cvar(0.1),
        "worst_decile": played.worst_decile,
        "worst": jnp.min(played.returns),
        "mean_length": jnp.mean(played.lengths),
        "num_episodes": jnp.int32(len(played.returns)),
        "num_unfinished": jnp.sum(~played.finished),
    }


@functools.partial(jax.jit, static_argnames=("num_episodes", "max_steps", "explore"))
def play_episodes(
    key: Key,
    policy: Policy,
    env: Environment,
    policy_state: PyTree,
    num_episodes: int,
    max_steps: int,
    explore: bool,
) -> Evaluation:
    """`num_episodes` episodes at once, until the last has ended or `max_steps` steps are made.

    Where ends are probabilities, a reward counts with the chance that its step is reached.
    """
    reset_key, play_key = jax.random.split(key)
    env_state, observation = jax.vmap(env.reset)(jax.random.split(reset_key, num_episodes))

    def running(carry: tuple) -> Array:
        step, _, evaluation, _ = carry
        return (step < max_steps) & ~jnp.all(evaluation.finished)

    def play(carry: tuple) -> tuple:
        step, (env_state, observation, memory), evaluation, survival = carry
        act_key, env_key = jax.random.split(jax.random.fold_in(play_key, step))
        action, extras = policy.act(act_key, policy_state, observation, explore, memory)
        keys = jax.random.split(env_key, num_episodes)
        env_state, timestep = jax.vmap(env.step)(keys, env_state, action)
        alive = ~evaluation.finished
        evaluation = Evaluation(
            returns=evaluation.returns + jnp.where(alive, survival * timestep.reward, 0.0),
            lengths=evaluation.lengths + alive,
            finished=evaluation.finished | (timestep.terminated >= 1) | timestep.truncated,
        )
        memory = select(evaluation.finished, memory, extras.get("memory", ()))
        survival = survival * (1.0 - jnp.asarray(timestep.terminated, jnp.float32))
        return step + 1, (env_state, timestep.observation, memory), evaluation, survival

    nothing = Evaluation(
        returns=jnp.zeros(num_episodes, jnp.float32),
        lengths=jnp.zeros(num_episodes, jnp.int32),
        finished=jnp.zeros(num_episodes, bool),
    )
    start = (env_state, observation, policy.initial_memory(num_episodes))
    begin = jnp.zeros((), jnp.int32), start, nothing, jnp.ones(num_episodes, jnp.float32)
    return jax.lax.while_loop(running, play, begin)[2]
