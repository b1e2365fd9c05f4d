"""A learner whose life is a line of arithmetic, in a walk that nobody steers; and both in NumPy.

    x' = x - (push (x - aim) - discount / 10)
    what is done: x,    what it pays: 1 - (x - goal)^2 + place / 10

Beside what it does the learner draws a coin with log-odds (1 + place % 2) x, its policy, and writes
down every key that it is given. Tests import it; it holds none.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.agents import GradientDescent
from jaxrl.core import Array, Discrete, TimeStep, struct
from jaxrl.envs.wrappers import LogUniform
from jaxrl.meta import Task
from jaxrl.networks import CategoricalPolicy

DESCENT = GradientDescent(learning_rate=1.0, max_grad_norm=None)


@struct.dataclass
class Walk:
    """Places 0, 1, 2, ... one after the other, then an end."""

    goal: float = 1.0
    cuts: bool = False  # whether the end is a truncation
    deaf: bool = False  # whether what is done pays nothing
    num_places: int = struct.field(pytree_node=False, default=1000)

    observation_space = property(lambda self: Discrete(self.num_places))
    action_space = property(lambda self: Discrete(2))

    def reset(self, key):
        return jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)

    def step(self, key, place, action):
        last = place == self.num_places - 1
        after = jnp.minimum(place + 1, self.num_places - 1)
        reward = jnp.where(self.deaf, 0.0, 1.0 - (action - self.goal) ** 2) + 0.1 * place
        nothing = jnp.zeros(0)
        cut = jnp.where(self.cuts, last, False)
        return after, TimeStep(after, reward, last & ~cut, cut, nothing, {})


@struct.dataclass
class Walks:
    """Walks to goals that are drawn, `spread` round 1."""

    total_steps: float | LogUniform = 1e6
    spread: float = 0.0
    cuts: bool = False
    deaf: bool = False
    num_places: int = struct.field(pytree_node=False, default=1000)

    def sample(self, key):
        goal_key, life_key = jax.random.split(key)
        goal = 1.0 + self.spread * jax.random.uniform(goal_key, minval=-1.0)
        steps = self.total_steps
        if isinstance(steps, LogUniform):
            steps = jnp.round(steps.draw(life_key))
        cuts, deaf = jnp.asarray(self.cuts, bool), jnp.asarray(self.deaf, bool)
        env = Walk(goal, cuts, deaf, self.num_places)
        return Task(env, jnp.asarray(steps, jnp.float32))


@struct.dataclass
class ToyState:
    params: Array  # x
    optimiser: Array
    born: Array  # the key of its birth
    spent: Array  # the key of its last update
    pushed: Array  # the push of its last update


@struct.dataclass
class Toy:
    """See above."""

    push: float = 0.3
    aim: float = 2.0
    discount: float = 0.9
    start: float = -0.5
    optimiser: GradientDescent = DESCENT
    num_envs: int = struct.field(pytree_node=False, default=2)
    rollout_length: int = struct.field(pytree_node=False, default=3)
    num_epochs: int = struct.field(pytree_node=False, default=1)
    num_minibatches: int = struct.field(pytree_node=False, default=1)
    normalise_advantages: bool = struct.field(pytree_node=False, default=False)
    told: object = struct.field(pytree_node=False, default=None)  # of every birth
    careless: bool = struct.field(pytree_node=False, default=False)  # spends a key twice

    def check(self, env):
        pass

    def init(self, key, env, total_steps=0.0):
        born = jax.random.key_data(key)
        if self.told is not None:
            jax.debug.callback(self.told, self.push, env.goal, born)
        x = jnp.asarray(self.start, jnp.float32)
        return ToyState(x, self.optimiser.init(x), born, jnp.zeros_like(born), jnp.zeros(()))

    def initial_memory(self, num_envs):
        return ()

    def law(self, x, place):
        odds = (1.0 + place % 2) * x
        return CategoricalPolicy(jnp.stack([jnp.zeros_like(odds), odds], axis=-1))

    def act(self, key, state, observation, explore=True, memory=()):
        x = jnp.broadcast_to(state.params, observation.shape)
        spent = jnp.broadcast_to(jax.random.key_data(key), (*observation.shape, 2))
        if self.careless:
            x = x + 0.0 * jax.random.uniform(key)
        coin = self.law(x, observation).sample(key)
        return x, {"trace": coin, "x": x, "spent": spent}

    def update(self, key, state, trajectory):
        slope = self.push * (state.params - self.aim) - 0.1 * jnp.mean(trajectory.discount)
        x, optimiser = self.optimiser.step(slope, state.optimiser, state.params, None)
        spent, pushed = jax.random.key_data(key), jnp.asarray(self.push, jnp.float32)
        return ToyState(x, optimiser, state.born, spent, pushed), {}

    def policy(self, state, observation, memory=()):
        return self.law(state.params, observation)

    def values(self, state, observation, memory=()):
        return 3.0 * state.params + observation


@struct.dataclass
class Seen:
    """What a critic was shown in the last window, and of how many windows."""

    windows: Array
    place: Array  # [K + 1, T, B]
    coin: Array
    x: Array
    spent: Array


@struct.dataclass
class Watcher:
    """A critic that learns nothing and keeps what it was shown; advantages are a known row."""

    num_rows: int = struct.field(pytree_node=False, default=3)
    shape: tuple = struct.field(pytree_node=False, default=(3, 2))

    def init(self, key, env):
        shape = (self.num_rows, *self.shape)
        zero = jnp.zeros(shape, jnp.int32)
        keys = jnp.zeros((*shape, 2), jnp.uint32)
        return Seen(jnp.zeros((), jnp.int32), zero, zero, jnp.zeros(shape), keys)

    def advantages(self, state, env, trajectory):
        return advantage_of(trajectory.observation), None

    def learn(self, state, env, trajectories):
        extras = trajectories.extras
        rows = (trajectories.observation, extras["trace"], extras["x"], extras["spent"])
        return Seen(state.windows + 1, *rows), jnp.float32(7.0)


def advantage_of(place):
    """3 / 2, -1 / 2, -5 / 2 and again."""
    return 1.5 - 2.0 * (place % 3)


def raw(tree):
    """In NumPy, keys as numbers."""

    def number(leaf):
        is_key = jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    return jax.tree.map(number, tree)


# ---- the same in NumPy ---------------------------------------------------------------------------


def states_of(numbers, num_updates, x=Toy.start):
    """x_0 .. x_K under `(push, aim, discount)`."""
    push, aim, discount = numbers
    found = [x]
    for _ in range(num_updates):
        found.append(found[-1] - push * (found[-1] - aim) + 0.1 * discount)
    return np.array(found)


def log_probs(x, place):
    odds = (1.0 + place % 2) * x
    return np.stack([-np.logaddexp(0.0, odds), -np.logaddexp(0.0, -odds)])


def policy_loss(x, place, coin, entropy_weight=0.0):
    """Minus the mean of log-probabilities times advantages of mean square 1, and of entropies."""
    logs = log_probs(x, place)
    advantage = advantage_of(place)
    gain = np.where(coin == 1, logs[1], logs[0]) * advantage / np.sqrt(np.mean(advantage**2))
    return -np.mean(gain - entropy_weight * np.sum(np.exp(logs) * logs, axis=0))


def match_loss(x, goal, place, value_weight=0.0):
    """KL(goal's law || x's), and the distance of their values."""
    law, logs = log_probs(goal, place), log_probs(x, place)
    divergence = np.sum(np.exp(law) * (law - logs), axis=0)
    return np.mean(divergence) + value_weight * 9.0 * (goal - x) ** 2


def slope(function, at):
    """Central differences in float64, `[len(at)]`."""
    at, found = np.asarray(at, np.float64), []
    for move in 1e-5 * np.eye(len(at)):
        found.append((function(at + move) - function(at - move)) / 2e-5)
    return np.array(found)


def rate_of(push, num_updates, goal=1.0, **numbers):
    """Reward per step of each update of a life that starts at place 0, three steps in each."""
    x = states_of((push, Toy.aim, Toy.discount), num_updates - 1, **numbers)
    return 1.0 - (x - goal) ** 2 + 0.1 * (3.0 * np.arange(num_updates) + 1.0)


def num_distinct(*keys):
    """How many of the keys `[..., 2]` differ."""
    return len(np.unique(np.concatenate([np.reshape(one, (-1, 2)) for one in keys]), axis=0))
