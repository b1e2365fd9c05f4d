"""Evaluation: many whole episodes side by side, nothing learned."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.protocols import Agent, Environment
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
        num_episodes = self.returns.shape[-1]
        probs = jnp.full(num_episodes, 1.0 / num_episodes)
        return CVaR(level)(probs, self.returns)

    def summary(self) -> dict[str, float]:
        """Plain numbers for a table or a file."""
        return {
            "mean": float(self.mean),
            "cvar_0.1": float(self.cvar(0.1)),
            "worst_decile": float(self.worst_decile),
            "worst": float(jnp.min(self.returns)),
            "mean_length": float(jnp.mean(self.lengths)),
            "num_episodes": int(self.returns.shape[-1]),
            "num_unfinished": int(jnp.sum(~self.finished)),
        }


def evaluate(
    key: Key,
    agent: Agent,
    env: Environment,
    agent_state: PyTree,
    *,
    num_episodes: int = 1000,
    max_steps: int = 10_000,
    explore: bool = False,
) -> Evaluation:
    """Play `num_episodes` episodes at once; pure, so `vmap` it over agent states or environments.

    Args:
        key: all randomness of the evaluation.
        agent: acts.
        env: the environment.
        agent_state: a trained state, such as one of `SweepResult.agent_states`.
        num_episodes: episodes, all played side by side.
        max_steps: episodes still running after so many steps are cut and counted as unfinished.
        explore: act as in training rather than greedily.

    Returns:
        returns and lengths `[num_episodes]`.

    Raises:
        ValueError: fewer than one episode or step.

    Example:
        >>> from jaxrl import envs, pqn
        >>> env = envs.TabularEnv(envs.riverswim(), time_limit=20.0)
        >>> state = pqn().init(jax.random.key(0), env)
        >>> evaluate(jax.random.key(1), pqn(), env, state, num_episodes=3).lengths.tolist()
        [20, 20, 20]
    """
    if num_episodes < 1 or max_steps < 1:
        raise ValueError(
            f"num_episodes={num_episodes} and max_steps={max_steps} must both be at least 1."
        )
    return _play(key, agent, env, agent_state, num_episodes, max_steps, explore)


@functools.partial(jax.jit, static_argnames=("num_episodes", "max_steps", "explore"))
def _play(
    key: Key,
    agent: Agent,
    env: Environment,
    agent_state: PyTree,
    num_episodes: int,
    max_steps: int,
    explore: bool,
) -> Evaluation:
    reset_key, play_key = jax.random.split(key)
    env_state, observation = jax.vmap(env.reset)(jax.random.split(reset_key, num_episodes))

    def running(carry: tuple) -> Array:
        step, _, evaluation = carry
        return (step < max_steps) & ~jnp.all(evaluation.finished)

    def play(carry: tuple) -> tuple:
        step, (env_state, observation, memory), evaluation = carry
        act_key, env_key = jax.random.split(jax.random.fold_in(play_key, step))
        action, extras = agent.act(act_key, agent_state, observation, explore, memory)
        keys = jax.random.split(env_key, num_episodes)
        env_state, timestep = jax.vmap(env.step)(keys, env_state, action)
        alive = ~evaluation.finished
        evaluation = Evaluation(
            returns=evaluation.returns + jnp.where(alive, timestep.reward, 0.0),
            lengths=evaluation.lengths + alive,
            finished=evaluation.finished | (timestep.terminated >= 1) | timestep.truncated,
        )
        memory = select(evaluation.finished, memory, extras.get("memory", ()))
        return step + 1, (env_state, timestep.observation, memory), evaluation

    nothing = Evaluation(
        returns=jnp.zeros(num_episodes),
        lengths=jnp.zeros(num_episodes, jnp.int32),
        finished=jnp.zeros(num_episodes, bool),
    )
    start = (env_state, observation, agent.initial_memory(num_episodes))
    return jax.lax.while_loop(running, play, (jnp.zeros((), jnp.int32), start, nothing))[2]
