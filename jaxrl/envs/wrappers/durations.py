"""Actions that last: the process of an agent that decides now and then (semi-Markov)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.core import Array, Discrete, Key, PyTree, Space, Struct, TimeStep, setting
from jaxrl.core.protocols import has_legal, legal_actions
from jaxrl.core.settings import check_own_settings
from jaxrl.core.types import select
from jaxrl.envs.wrappers.inner import inner_observations, inner_reset


class HeldActions(Struct):
    """One step holds an action for tau unit steps of the inner environment.

        reward = sum_{j < tau} discount^j r_j,   next state after tau steps

    What follows is discounted by gamma^tau. A step says so by its `terminated`, which may be a
    probability: with e the end of the episode (0 or 1),

        1 - terminated = discount^(tau - 1) (1 - e)

    so that gamma (1 - terminated), the discount of every transition, is gamma^tau where gamma is
    this wrapper's `discount`. Agents that know of it compare the two when they are built. Episodes
    end at terminated = 1 as ever. Returns of episodes sum these rewards without further discounts.

    The agent chooses the duration with the action when there are several: action a and duration i
    of D are the number a D + i. `stop_probability` makes durations random: after every unit step
    but the last the hold may end. It also ends where the episode does, or its clock, and where the
    action is no longer legal.

    Attributes:
        env: with discrete actions where `durations` has several; any otherwise.
        durations: tau, each at least 1, increasing [unit steps].
        stop_probability: of ending a hold early [per unit step].
        discount: the agent's own gamma [per unit step].

    Example:
        >>> from jaxrl.envs import TabularEnv, riverswim
        >>> env = HeldActions(TabularEnv(riverswim()), durations=(1, 4), discount=0.5)
        >>> env.action_space.num_values  # two actions, two durations
        4
        >>> state, _ = env.reset(jax.random.key(0))
        >>> _, step = env.step(jax.random.key(1), state, jnp.array(1))  # action 0, for 4 steps
        >>> float(step.info["duration"]), 0.5 * (1 - float(step.terminated)) == 0.5**4
        (4.0, True)

    Sources:
        Sutton, Precup & Singh (1999), Between MDPs and semi-MDPs, section 3; Fatemi et al. (2022),
        Semi-Markov offline reinforcement learning for healthcare.
    """

    env: Any
    durations: tuple[int, ...] = setting((1, 4), "lengths to choose from", unit="unit steps")
    stop_probability: float = setting(
        0.0, "chance that a hold ends early", unit="per unit step", low=0.0, high=1.0
    )
    discount: float = setting(0.99, "the agent's discount", unit="per unit step", low=0.0, high=1.0)

    def __post_init__(self) -> None:
        """Refuse durations and numbers that are none."""
        check_own_settings(self)
        if not self.durations or min(self.durations) < 1:
            raise ValueError(f"durations={self.durations} must be whole numbers of at least 1.")

    observation_space = inner_observations

    @property
    def action_space(self) -> Space:
        """`Discrete(A D)` for D durations; that of the inner environment for one."""
        space = self.env.action_space
        if len(self.durations) == 1:
            return space
        if not isinstance(space, Discrete):
            raise ValueError(
                f"A choice of durations={self.durations} needs discrete actions; {space} is none. "
                "Give one duration."
            )
        return Discrete(space.num_values * len(self.durations))

    @property
    def legal(self) -> Callable[[PyTree], Array]:
        """That of the environment inside, for any duration; none where it has none."""
        legal = self.env.legal
        return lambda state: jnp.repeat(legal(state), len(self.durations))

    reset = inner_reset

    def step(self, key: Key, state: PyTree, action: Array) -> tuple[PyTree, TimeStep]:
        """Hold the action; `info["duration"]` [unit steps] is how long it was held."""
        length = jnp.asarray(self.durations[0])
        if len(self.durations) > 1:
            count = len(self.durations)
            action, index = action // count, action % count
            length = jnp.asarray(self.durations)[index]
        keys = jax.random.split(key, 1 + max(self.durations))
        stops = jax.random.uniform(keys[0], (max(self.durations) - 1,)) < self.stop_probability
        state, first = self.env.step(keys[1], state, action)
        first = first.replace(terminated=jnp.asarray(first.terminated, jnp.float32))

        def unit(carry: tuple, inputs: tuple[Key, Array]) -> tuple[tuple, None]:
            going, *now = carry
            state, step, duration = now
            unit_key, stop = inputs
            over = (step.terminated >= 1) | step.truncated | stop | (duration >= length)
            if has_legal(self.env):
                mask = legal_actions(self.env, state)
                over = over | ~self.env.action_space.allows(mask, action)
            going = going & ~over
            next_state, added = self.env.step(unit_key, state, action)
            weight = self.discount**duration * (1.0 - step.terminated)
            both = added.replace(
                reward=(step.reward + weight * added.reward).astype(step.reward.dtype),
                terminated=1.0 - (1.0 - step.terminated) * (1.0 - added.terminated),
                cost=(step.cost + weight * added.cost).astype(step.cost.dtype),
            )
            return (going, *select(going, (next_state, both, duration + 1), tuple(now))), None

        carry = (jnp.ones((), bool), state, first, jnp.ones((), jnp.int32))
        (_, state, step, duration), _ = jax.lax.scan(unit, carry, (keys[2:], stops))
        survival = self.discount ** (duration - 1) * (1.0 - step.terminated)
        return state, step.replace(
            terminated=(1.0 - survival).astype(jnp.float32),
            info={**step.info, "duration": duration.astype(jnp.float32)},
        )
