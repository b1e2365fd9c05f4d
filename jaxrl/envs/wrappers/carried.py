"""Memory as part of the action, so that a policy without one of its own may have it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxrl.core import Array, Box, Key, PyTree, Space, Struct, TimeStep, setting
from jaxrl.core.settings import check_own_settings


class CarriedMemory(Struct):
    """What an action says beside itself is seen again in the next step.

        observation' = (observation, z),  action' = (action, z'),  z = 0 where an episode begins

    A feed-forward policy nu(a, z' | s, z) then has a memory of `size` numbers in [-1, 1], and
    learns what to remember by the score of what it drew, as it learns what to do,

        grad J = E[ sum_t grad log nu(a_t, z_t+1 | s_t, z_t) Q(s_t, z_t, a_t, z_t+1) ],

    without backpropagation through time; a critic sees z, as the observation has it. The agent must
    act in a pair of spaces, as `ActorCriticAgent` does, and by a law of z' with a density: the
    score of a memory without noise is 0. Legal actions are those of the environment inside.

    Sources: Al-Hafez, Zhao, Peters & Tateo 2024, Time-efficient reinforcement learning with
    stochastic stateful policies; Zhang, McCarthy, Finn, Levine & Abbeel 2016, Learning deep neural
    network policies with continuous memory states (a memory that actions write).

    Example:
        >>> import jax
        >>> from jaxrl.envs.control import CartPole
        >>> env = CarriedMemory(CartPole(), size=2)
        >>> state, (_, z) = env.reset(jax.random.key(0))
        >>> _, step = env.step(jax.random.key(1), state, (jnp.int32(1), jnp.array([0.5, -1.0])))
        >>> z.tolist(), step.observation[1].tolist()
        ([0.0, 0.0], [0.5, -1.0])
    """

    env: Any
    size: int = setting(4, "numbers that are carried", low=1)

    __post_init__ = check_own_settings

    @property
    def observation_space(self) -> Space:
        """That of the environment inside, and the memory's."""
        return self.env.observation_space, Box(-1.0, 1.0, (self.size,))

    @property
    def action_space(self) -> Space:
        """That of the environment inside, and the memory's."""
        return self.env.action_space, Box(-1.0, 1.0, (self.size,))

    @property
    def legal(self) -> Callable[[PyTree], PyTree]:
        """That of the environment inside, where it has one, and no word on the memory."""
        legal = self.env.legal
        return lambda state: (legal(state), ())

    def reset(self, key: Key) -> tuple[PyTree, PyTree]:
        """A new episode, with an empty memory."""
        state, observation = self.env.reset(key)
        return state, (observation, jnp.zeros(self.size, jnp.float32))

    def step(
        self, key: Key, state: PyTree, action: tuple[PyTree, Array]
    ) -> tuple[PyTree, TimeStep]:
        """One step; the memory given is what is seen beside the successor."""
        state, step = self.env.step(key, state, action[0])
        return state, step.replace(observation=(step.observation, action[1]))
