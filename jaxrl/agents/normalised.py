"""An agent that sees normalised observations and rewards, whatever agent it is."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.agents.readers import of_inner, response
from jaxrl.core import Struct
from jaxrl.core.protocols import Agent, Environment, act, check_obeys, has_legal
from jaxrl.core.settings import SettableStruct, setting
from jaxrl.core.spaces import leaves
from jaxrl.core.types import Array, Key, PyTree, Transition
from jaxrl.envs.wrappers import RunningMoments
from jaxrl.envs.wrappers.normalise import merged_moments, standardised, start_moments
from jaxrl.envs.wrappers.observations import is_float_box


class NormalisedState(Struct):
    """The inner agent's state and the statistics, which checkpoints and evaluation take along."""

    inner: PyTree
    observation: RunningMoments | PyTree  # of raw observations; of a tree of spaces the same tree
    returns: RunningMoments  # of discounted sums of raw rewards
    accumulated: Array  # [B] such a sum, running in each environment [return]


class NormalisedAgent(SettableStruct):
    """Shifts and scales observations to mean 0, variance 1, and scales rewards by their returns.

        observation <- clip((observation - mean) / sqrt(variance + epsilon), -clip, clip)
        accumulated_t = reward_t + discount accumulated_{t-1}, from 0 in every episode
        reward <- clip(reward / sqrt(variance(accumulated) + epsilon), -clip, clip)

    Of a tree of observations, what is no float stays as it is. The statistics live in the agent's
    state: shared by all environments, grown once per update, saved with the parameters and left
    alone by evaluation. A rollout is handed on as it was seen
    when acting. For agents that learn from fresh rollouts; a replay would keep observations scaled
    by statistics long past. An observation or a reward that is not finite is left out of them; the
    metric `finite_fraction` tells how many of the steps were not.

    Source: Engstrom et al. 2020, Implementation matters in deep policy gradients, section 3.
    """

    agent: Agent
    observations: bool = setting(True, "normalise observations")
    rewards: bool = setting(True, "scale rewards")
    clip: float = setting(
        10.0,
        "limit after scaling",
        unit="standard deviations",
        low=0.0,
        low_open=True,
        infinite=True,
    )
    epsilon: float = setting(1e-8, "added to the variances", low=0.0)

    num_envs = of_inner("num_envs")
    rollout_length = of_inner("rollout_length", "steps")
    discount = of_inner("discount", "per step")
    group_size = of_inner("group_size", "lanes")

    def check(self, env: Environment) -> None:
        """Raise `ValueError` where the inner agent does, if it replays old observations, or for
        observations that are no floats."""
        if hasattr(self.agent, "replay"):
            raise ValueError(
                "Normalisation is for agents that learn from fresh rollouts, such as ppo, a2c and "
                "pqn: a replay would keep observations scaled by statistics long past."
            )
        space = env.observation_space
        if self.observations and not any(map(is_float_box, leaves(space))):
            raise ValueError(
                f"Only float observations can be normalised, these are {space}: "
                "set observations=false."
            )
        self.agent.check(env)
        if has_legal(env):
            check_obeys(self.agent)

    def init(
        self, key: Key, env: Environment, total_steps: float | Array = float("inf")
    ) -> NormalisedState:
        """Statistics of no data (the identity, up to `clip`) round a fresh inner state."""
        moments = RunningMoments.start()
        if self.observations:
            moments = start_moments(env.observation_space, "NormalisedAgent")
        return NormalisedState(
            inner=self.agent.init(key, env, total_steps),
            observation=moments,
            returns=RunningMoments.start(),
            accumulated=jnp.zeros(self.num_envs, jnp.float32),
        )

    def initial_memory(self, num_envs: int) -> PyTree:
        """The inner agent's, `[num_envs, ...]`."""
        return self.agent.initial_memory(num_envs)

    def act(
        self,
        key: Key,
        state: NormalisedState,
        observation: PyTree,
        explore: bool = True,
        memory: PyTree = (),
        mask: PyTree = (),
    ) -> tuple[Array, dict[str, Any]]:
        """Raw `observation[B, ...]` -> the inner agent's action and extras."""
        seen = self._normalise(state, observation)
        return act(self.agent, key, state.inner, seen, explore, memory, mask)

    def response(
        self, key: Key, state: NormalisedState, observation: Array, memory: PyTree
    ) -> tuple[Array, bool]:
        """The inner agent's to what it sees: see `readers.response`."""
        return response(self.agent, key, state.inner, self._normalise(state, observation), memory)

    def update(
        self, key: Key, state: NormalisedState, trajectory: Transition
    ) -> tuple[NormalisedState, dict[str, Array]]:
        """The inner update on the normalised `trajectory[T, B]`; then the statistics grow."""
        seen = trajectory.replace(
            observation=self._normalise(state, trajectory.observation),
            next_observation=self._normalise(state, trajectory.next_observation),
        )
        observation, returns, accumulated = state.observation, state.returns, state.accumulated
        if getattr(self, "group_size", 1) > 1:  # the rollout began anew
            accumulated = jnp.zeros_like(accumulated)
        if self.observations:
            observation = merged_moments(observation, trajectory.observation)
        if self.rewards:
            accumulated, sums = self._accumulate(accumulated, trajectory)
            returns = returns.merged(sums)
            scaled = trajectory.reward / jnp.sqrt(returns.variance + self.epsilon)
            seen = seen.replace(reward=jnp.clip(scaled, -self.clip, self.clip))
        inner, metrics = self.agent.update(key, state.inner, seen)
        fit = jnp.isfinite(trajectory.reward)
        for leaf in jax.tree.leaves(trajectory.observation) if self.observations else ():
            rows = leaf.reshape(*fit.shape, -1)
            fit = fit & jnp.all(jnp.isfinite(rows), axis=-1)
        metrics = {**metrics, "finite_fraction": jnp.mean(fit, dtype=jnp.float32)}
        return NormalisedState(inner, observation, returns, accumulated), metrics

    def _normalise(self, state: NormalisedState, observation: PyTree) -> PyTree:
        if not self.observations:
            return observation
        return standardised(state.observation, observation, self.epsilon, self.clip)

    def _accumulate(self, accumulated: Array, trajectory: Transition) -> tuple[Array, Array]:
        """Running discounted sums: after the last step `[B]`, and at every step `[T, B]`."""
        ended = (trajectory.terminated >= 1) | trajectory.truncated

        def step(total: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
            reward, ended = inputs
            # In the type of the sums: an environment's rewards may be of 64 bits.
            reward = jnp.where(jnp.isfinite(reward), reward, 0.0).astype(total.dtype)
            total = reward + self.discount * total
            return jnp.where(ended, 0.0, total), total

        return jax.lax.scan(step, accumulated, (trajectory.reward, ended))
