"""What the adapter, the auto-reset and the episode statistics cost over raw gymnax.

Both sides take the same number of steps with uniform actions in one jitted `scan` over `vmap`, get
all their keys from one split before it, and return the whole trajectory `[T, B]`: observation,
action, reward, both end flags and the true successor. The raw side is gymnax's own `step`, whose
auto-reset is on. Ours is `jaxrl.rollout`, which also records the discount and sums
the episodes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnax
import jax
import jax.numpy as jnp

from jaxrl import envs
from jaxrl.core import Array, Discrete, Environment, Key, PyTree, Space, Transition, struct
from jaxrl.training import rollout, start_rollout

ENVIRONMENTS = ("CartPole-v1", "Pendulum-v1", "Breakout-MinAtar")
NUM_ENVS = (256, 4096)
STEPS_PER_CALL = 2**15  # environment steps of one call: 128 of 256 environments, 8 of 4096
Runner = Callable[[int], None]  # number of calls of the compiled program -> waits for the last


def uniform_actions(key: Key, num_envs: int, space: Space, low: Any, high: Any) -> Array:
    """Uniform actions `[B, ...]`; the bounds are numbers, so neither side computes them."""
    if isinstance(space, Discrete):
        return jax.random.randint(key, (num_envs,), 0, space.num_values)
    return jax.random.uniform(key, (num_envs, *space.shape), minval=low, maxval=high)


@struct.dataclass
class UniformAgent:
    """Acts uniformly at random and learns nothing."""

    space: Space = struct.field(pytree_node=False)
    low: float
    high: float
    num_envs: int = struct.field(pytree_node=False)
    rollout_length: int = struct.field(pytree_node=False)
    discount: float = 0.99

    def check(self, env: Environment) -> None:
        """Fits every environment."""

    def init(self, key: Key, env: Environment, total_steps: float = float("inf")) -> PyTree:
        """-> `()`."""
        return ()

    def initial_memory(self, num_envs: int) -> PyTree:
        """-> `()`."""
        return ()

    def act(
        self,
        key: Key,
        state: PyTree,
        observation: PyTree,
        explore: bool = True,
        memory: PyTree = (),
    ) -> tuple[Array, dict[str, Any]]:
        """Uniform actions, no extras."""
        return uniform_actions(key, self.num_envs, self.space, self.low, self.high), {}

    def update(
        self, key: Key, state: PyTree, trajectory: Transition
    ) -> tuple[PyTree, dict[str, Array]]:
        """Nothing."""
        return (), {}


def environment_runners(name: str, num_envs: int) -> dict[str, Runner]:
    """`{"jaxrl", "gymnax"}`: compiled and warm."""
    env = envs.make(name)
    space, low, high = env.action_space, 0.0, 0.0
    if not isinstance(space, Discrete):
        low, high = float(jnp.min(space.low)), float(jnp.max(space.high))
        space = space.replace(low=low, high=high)  # hashable, and used for its shape only
    agent = UniformAgent(space, low, high, num_envs, STEPS_PER_CALL // num_envs)
    return {"jaxrl": _our_runner(agent, env), "gymnax": _raw_runner(agent, name)}


def _our_runner(agent: UniformAgent, env: Environment) -> Runner:
    def run(agent: UniformAgent, env: Environment, key: Key, state: PyTree) -> tuple:
        next_key, rollout_key = jax.random.split(key)
        return next_key, *rollout(rollout_key, agent, env, (), state)

    state = jax.jit(start_rollout)(jax.random.key(0), agent, env)
    program = jax.jit(run, donate_argnums=3)
    return _runner(lambda key, state: program(agent, env, key, state), state)


def _raw_runner(agent: UniformAgent, name: str) -> Runner:
    raw, params = gymnax.make(name)
    num_envs = agent.num_envs

    def run(agent: UniformAgent, params: PyTree, key: Key, state: PyTree) -> tuple:
        next_key, rollout_key = jax.random.split(key)

        def step(carry: tuple, keys: Key) -> tuple[tuple, dict[str, Array]]:
            env_state, observation = carry
            action, _ = agent.act(keys[0], (), observation)
            outcome = jax.vmap(raw.step, (0, 0, 0, None))(keys[1:], env_state, action, params)
            next_observation, env_state, reward, terminated, truncated, info = outcome
            record = {
                "observation": observation,
                "action": action,
                "reward": reward,
                "terminated": terminated,
                "truncated": truncated,
                "next_observation": info["final_observation"],
            }
            return (env_state, next_observation), record

        keys = jax.random.split(rollout_key, (agent.rollout_length, 1 + num_envs))
        state, trajectory = jax.lax.scan(step, state, keys)
        return next_key, state, trajectory

    keys = jax.random.split(jax.random.key(0), num_envs)
    observation, env_state = jax.jit(jax.vmap(raw.reset, (0, None)))(keys, params)
    # Some gymnax resets are weakly typed, their steps are not: a carry has one type.
    shapes = jax.eval_shape(run, agent, params, keys[0], (_strong(env_state), observation))[1]
    state = jax.tree.map(
        lambda leaf, kind: jnp.asarray(leaf, kind.dtype), (env_state, observation), shapes
    )
    program = jax.jit(run, donate_argnums=3)
    return _runner(lambda key, state: program(agent, params, key, state), state)


def _strong(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.astype(leaf.dtype), tree)


def _runner(program: Callable[[Key, PyTree], tuple], state: PyTree) -> Runner:
    """Calls `program` over and over; the trajectory of each call is made, waited for, dropped."""
    carry = [jax.random.key(1), state]

    def run(num_calls: int) -> None:
        for _ in range(num_calls):
            carry[0], carry[1], *outputs = jax.block_until_ready(program(*carry))
            del outputs

    run(2)
    return run
