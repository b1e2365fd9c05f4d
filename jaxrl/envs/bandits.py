"""Bandits: one state, some arms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxrl.core import (
    Array,
    Discrete,
    Key,
    Space,
    Struct,
    TimeStep,
    check_settings,
    setting,
    struct,
)
from jaxrl.envs.clock import clocked
from jaxrl.envs.tabular import TabularState


class Payout(Protocol):
    """What an arm pays, given its mean."""

    def draw(self, key: Key, mean: Array) -> Array:
        """`mean` [] [return] -> one reward, `[]` [return]."""
        ...


class CoinPayout(Struct):
    """1 with probability `mean`, else 0; means lie in [0, 1]."""

    def draw(self, key: Key, mean: Array) -> Array:
        """0 or 1, `[]`."""
        return jnp.where(jax.random.uniform(key, dtype=mean.dtype) < mean, 1.0, 0.0)


class NormalPayout(Struct):
    """Normal with the arm's mean; scale 0 pays the mean itself."""

    scale: float = setting(1.0, "standard deviation of a reward", unit="return", low=0.0)

    def draw(self, key: Key, mean: Array) -> Array:
        """A normal number, `[]`."""
        return mean + self.scale * jax.random.normal(key, dtype=mean.dtype)


class Bandit(Struct):
    """Pull one of A arms; each pays rewards of its own mean.

    The observation is always 0. An episode ends (it terminates: nothing follows) after `num_pulls`
    pulls; with infinity it never does. The best arm's mean is the best reward per pull, whatever
    the length. Build one with `make("Bandit")`, which checks.

    Sources: Robbins (1952), "Some aspects of the sequential design of experiments", for the
    problem.

    Example:
        >>> env = bandit([0.1, 0.7], payout=NormalPayout(0.0))
        >>> state, _ = env.reset(jax.random.key(0))
        >>> _, step = env.step(jax.random.key(0), state, jnp.array(1))
        >>> round(float(step.reward), 3), bool(step.terminated)
        (0.7, True)
    """

    means: Array  # [A] [return]
    payout: Any = struct.field(default_factory=CoinPayout)  # a `Payout`
    num_pulls: float = setting(1.0, "pulls in an episode", unit="pulls", low=1.0, infinite=True)

    observation_space = Discrete(1)

    @property
    def action_space(self) -> Space:
        """`Discrete(A)`."""
        return Discrete(self.means.shape[-1])

    def reset(self, key: Key) -> tuple[TabularState, Array]:
        """No pull yet; the key is not used."""
        zero = jnp.zeros((), jnp.int32)
        return TabularState(zero, zero), zero

    def step(self, key: Key, state: TabularState, action: Array) -> tuple[TabularState, TimeStep]:
        """Pull the arm `action`."""
        state = TabularState(state.index, state.time + 1)
        reward = self.payout.draw(key, self.means[action])
        terminated = state.time >= jnp.asarray(self.num_pulls, jnp.float32)
        return state, clocked(state.index, reward, terminated, state.time, jnp.inf)


def bandit(
    means: Sequence[float] = (0.3, 0.5, 0.7),
    payout: Payout | None = None,
    num_pulls: float = 1.0,
) -> Bandit:
    """A `Bandit` from plain numbers.

    Args:
        means: of each arm, at least one [return].
        payout: what an arm pays; 0 or 1 unless given.
        num_pulls: length of an episode, at least 1; may be infinite [pulls].

    Raises:
        ValueError: no arm, a mean that is no probability for a payout of 0 or 1, or a number out of
            range.
    """
    payout = CoinPayout() if payout is None else payout
    if len(means) < 1:
        raise ValueError("a bandit needs at least one arm; got no means.")
    if isinstance(payout, CoinPayout) and not all(0.0 <= mean <= 1.0 for mean in means):
        raise ValueError(
            f"means={tuple(means)} must lie in [0, 1] for a coin: change them or the payout."
        )
    env = Bandit(jnp.asarray(means, float), payout, float(num_pulls))
    check_settings(env)
    return env
