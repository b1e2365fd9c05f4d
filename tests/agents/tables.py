"""Agents whose networks are tables, so that what one update does can be worked out by hand.

Observations are one of a few states, the networks have no hidden layer, and the optimiser is plain
descent at rate 1: a gradient step adds the negative slope of the loss to the entries of the states
that were learned from, and to no others.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.agents import GradientDescent
from jaxrl.core import Box, Discrete, TimeStep, Transition, struct
from jaxrl.functionals import (
    ChiSquareBall,
    Contamination,
    CVaR,
    Entropic,
    Expectile,
    KLBall,
    KLPenalty,
    TotalVariation,
)
from jaxrl.networks import NetworkSettings
from jaxrl.replay import UniformReplay

HALF = 0.5  # the discount factor
NETWORK = NetworkSettings(hidden_sizes=(), initialiser="lecun")
DESCENT = GradientDescent(learning_rate=1.0, max_grad_norm=None)
ON_POLICY = {
    "network": NETWORK,
    "optimiser": DESCENT,
    "discount": HALF,
    "num_envs": 2,
    "rollout_length": 2,
    "num_epochs": 1,
    "num_minibatches": 1,
}
FROM_REPLAY = {
    "network": NETWORK,
    "optimiser": DESCENT,
    "discount": HALF,
    "replay": UniformReplay(capacity=8),
    "num_envs": 2,
    "rollout_length": 2,
    "num_updates": 1,
    "batch_size": 2,
    "warmup": 0,
}
# Functionals that have a dual of one sample.
DUALS = {
    "cvar": CVaR(0.5),
    "entropic": Entropic(0.7),
    "kl_penalty": KLPenalty(1.5),
    "kl_ball": KLBall(0.1),
    "chi_square_ball": ChiSquareBall(0.2),
    "total_variation": TotalVariation(0.15),
    "contamination": Contamination(0.15),
    "expectile": Expectile(0.3),
}


@struct.dataclass
class Line:
    """From state 0 to 1 to 2, whatever is done; two actions, or one number in [-1, 1]."""

    discrete: bool = struct.field(pytree_node=False, default=True)
    num_states: int = struct.field(pytree_node=False, default=3)

    @property
    def observation_space(self):
        return Discrete(self.num_states)

    @property
    def action_space(self):
        return Discrete(2) if self.discrete else Box(-np.ones(1), np.ones(1), (1,))

    def reset(self, key):
        state = jnp.zeros((), jnp.int32)
        return state, state

    def step(self, key, state, action):
        state = jnp.minimum(state + 1, self.num_states - 1)
        flag = jnp.zeros((), bool)
        return state, TimeStep(state, jnp.ones(()), flag, flag, jnp.zeros(0), {})


def rows(
    *steps, num_envs: int = 2, discrete: bool = True, action=0, discount: float = HALF, **extras
):
    """A trajectory `[T, B]`, the same in every environment.

    Args:
        steps: `(state, reward, next state, how)`, with `how` "" or "terminated" or "truncated".
        num_envs: B.
        discrete: or actions `[1]`.
        action: of every step, or one for each.
        discount: of steps that do not terminate.
        extras: what `act` records, `[T]` or `[T, ...]`.
    """
    state, reward, following, how = zip(*steps, strict=True)
    actions = np.broadcast_to(np.asarray(action), len(steps))

    def wide(values, dtype=np.float32):
        values = np.asarray(values, dtype)
        return np.repeat(values[:, None], num_envs, axis=1)

    terminated = wide([word == "terminated" for word in how], bool)
    return Transition(
        observation=wide(state, np.int32),
        action=wide(actions, np.int32) if discrete else wide(actions)[..., None],
        reward=wide(reward),
        discount=(discount * (1.0 - terminated)).astype(np.float32),
        next_observation=wide(following, np.int32),
        terminated=terminated,
        truncated=wide([word == "truncated" for word in how], bool),
        extras={name: wide(values) for name, values in extras.items()},
    )


def stacked(*trajectories):
    """Several of one shape as a batch, to `vmap` over."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trajectories)


def filled(params, **tables):
    """Network parameters that are zero but for the kernels of the layers named in `tables`.

    A name is the last part of a layer's path; the rows of its kernel are states.
    """

    def fill(path, leaf):
        names = [str(getattr(part, "key", part)) for part in path]
        value = np.zeros(leaf.shape, leaf.dtype)
        if names[-1] == "kernel" and names[-2] in tables:
            value[...] = np.reshape(np.asarray(tables.pop(names[-2]), leaf.dtype), leaf.shape)
        return value

    params = jax.tree_util.tree_map_with_path(fill, params)
    assert not tables, f"no layer is called {list(tables)}"
    return params


def kernel(params, name):
    """The kernel of the layer called `name`."""
    found = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if str(path[-1].key) == "kernel" and str(path[-2].key) == name
    ]
    assert len(found) == 1, name
    return np.asarray(found[0])


def started(agent, env):
    """The agent's state before any step of a life of 1000, as NumPy arrays."""
    return jax.device_get(jax.jit(lambda: agent.init(jax.random.key(0), env, 1000.0))())
