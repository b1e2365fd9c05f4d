"""Environments whose values are known by hand, each testing one thing an agent can get wrong.

They are one struct with different numbers, so that one compiled program trains on all of them, and
`stack_probes` is a batch to `vmap` over. When only the last fails, for example, the agent handles
truncation wrongly; when only `delayed` fails, it does not discount.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core import Array, Box, Discrete, Key, Space, TimeStep, Transition, struct

LOW, HIGH, BEST = -1.0, 3.0, 2.0  # the continuous action box, and its best action


@struct.dataclass
class ProbeState:
    cue: Array  # [] float32, -1 or 1
    time: Array  # [] int32 [steps]


@struct.dataclass
class Probe:
    """Rewards that are sums of known parts; observations `[2]` are cue and clock, if shown."""

    discrete: bool = struct.field(pytree_node=False, default=True)  # Discrete(2), else Box of [1]
    base: float = 0.0  # reward of every step
    cue: float = 0.0  # reward of every step, times the cue
    merit: float = 0.0  # reward of every step, times the merit of the action
    last: float = 0.0  # reward of the last step
    length: float = 1.0  # of an episode [steps]
    truncates: float = 0.0  # 1: the clock ends the episode; 0: the process does

    @property
    def observation_space(self) -> Space:
        return Box(np.full(2, -1.0, np.float32), np.ones(2, np.float32), (2,))

    @property
    def action_space(self) -> Space:
        if self.discrete:
            return Discrete(2)
        return Box(np.full(1, LOW, np.float32), np.full(1, HIGH, np.float32), (1,))

    def merit_of(self, action: Array) -> Array:
        """1 at the best action: the index itself, or 1 - (a - BEST)^2."""
        if self.discrete:
            return jnp.asarray(action, jnp.float32)
        return 1.0 - jnp.sum((action - BEST) ** 2)

    def reset(self, key: Key) -> tuple[ProbeState, Array]:
        sign = jnp.where(jax.random.bernoulli(key), 1.0, -1.0)
        state = ProbeState(sign, jnp.zeros((), jnp.int32))
        return state, self._observe(state)

    def step(self, key: Key, state: ProbeState, action: Array) -> tuple[ProbeState, TimeStep]:
        state = state.replace(time=state.time + 1)
        over = state.time >= self.length
        reward = (
            self.base + self.cue * state.cue + self.merit * self.merit_of(action) + self.last * over
        )
        step = TimeStep(
            observation=self._observe(state),
            reward=jnp.asarray(reward, jnp.float32),
            terminated=over & (self.truncates < 0.5),
            truncated=over & (self.truncates >= 0.5),
            cost=jnp.zeros((0,), jnp.float32),
            info={},
        )
        return state, step

    def _observe(self, state: ProbeState) -> Array:
        cue = jnp.where(self.cue != 0.0, state.cue, 0.0)
        clock = jnp.where(self.last != 0.0, state.time.astype(jnp.float32), 0.0)
        return jnp.stack([cue, clock])


@dataclasses.dataclass(frozen=True)
class Known:
    """An optimal value `q(observation, action)`; that of every action for `action=None`."""

    observation: tuple[float, float]
    value: float  # [return]
    action: float | None = None


def one_step(discrete: bool = True) -> Probe:
    """One step, reward 1, terminated: worth 1, and anything beyond is a wrong bootstrap."""
    return Probe(discrete, base=1.0)


def cued(discrete: bool = True) -> Probe:
    """One step whose reward is the cue that is seen: the value depends on the observation."""
    return Probe(discrete, cue=1.0)


def chosen(discrete: bool = True) -> Probe:
    """One step whose reward is the merit of the action."""
    return Probe(discrete, merit=1.0)


def delayed(discrete: bool = True) -> Probe:
    """Two steps, the second of which pays 1: the first is worth the discount."""
    return Probe(discrete, last=1.0, length=2.0)


def truncated(discrete: bool = True) -> Probe:
    """Reward 1 for ever, but the clock cuts after two steps: worth 1 / (1 - discount).

    An agent that takes truncation for termination learns a value between 1 and 1 + discount.
    """
    return Probe(discrete, base=1.0, length=2.0, truncates=1.0)


BUILDERS = {builder.__name__: builder for builder in (one_step, cued, chosen, delayed, truncated)}


def known_values(name: str, discount: float, discrete: bool = True) -> list[Known]:
    """The optimal values of the probe called `name`, worked out by hand."""
    nothing = (0.0, 0.0)
    merits = [(0.0, 0.0), (1.0, 1.0)] if discrete else [(1.5, 0.75), (2.0, 1.0), (2.5, 0.75)]
    return {
        "one_step": [Known(nothing, 1.0)],
        "cued": [Known((1.0, 0.0), 1.0), Known((-1.0, 0.0), -1.0)],
        "chosen": [Known(nothing, value, action) for action, value in merits],
        "delayed": [Known(nothing, discount), Known((0.0, 1.0), 1.0)],
        "truncated": [Known(nothing, 1.0 / (1.0 - discount))],
    }[name]


def stack_probes(discrete: bool = True, names: tuple[str, ...] = tuple(BUILDERS)) -> Probe:
    """The probes called `names` as one struct with leaves `[len(names)]`, to `vmap` over."""
    probes = [BUILDERS[name](discrete) for name in names]
    return jax.tree.map(lambda *leaves: np.asarray(leaves, np.float32), *probes)


def example_transition(
    observation: object, action_space: Space, env_state: object = ()
) -> Transition:
    """One step `[B, ...]` of zeros, but for the observation and the states."""
    num_envs = jax.tree.leaves(observation)[0].shape[0]
    number, flag = jnp.zeros(num_envs), jnp.zeros(num_envs, bool)
    return Transition(
        observation=observation,
        action=jnp.zeros((num_envs, *action_space.shape), action_space.dtype),
        reward=number,
        discount=number,
        next_observation=observation,
        terminated=flag,
        truncated=flag,
        extras={},
        env_state=env_state,
    )
