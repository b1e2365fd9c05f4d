"""Observations that are trees: every agent takes them, and normalises what is a float in them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxrl
from jaxrl import Box, Discrete, MultiDiscrete, TimeStep, envs
from jaxrl.agents import NormalisedAgent, preset
from jaxrl.core import struct
from jaxrl.training import rollout, start_training

KEY = jax.random.key(0)
SIZES = {"num_envs": 4, "rollout_length": 8, "num_minibatches": 2, "num_epochs": 1}


@struct.dataclass
class Seen:
    """A struct of spaces, or of what is seen."""

    image: object
    rest: object


@struct.dataclass
class Target:
    """Pays for naming the goal, which an image, a number and a bag of two show."""

    kind: str = struct.field(pytree_node=False, default="dict")
    action: str = struct.field(pytree_node=False, default="discrete")

    def _of(self, image, speed, goal, bag):
        return {
            "dict": {"image": image, "own": {"speed": speed, "bag": bag}, "goal": goal},
            "tuple": (image, speed, goal, bag),
            "struct": Seen(image, (speed, goal, bag)),
            "single": bag,
        }[self.kind]

    @property
    def observation_space(self):
        image = Box(0.0, 1.0, (4, 3, 1), jnp.dtype("bool"))
        speed = Box(-jnp.inf, jnp.inf, (2,))
        return self._of(image, speed, Discrete(4), MultiDiscrete([2, 2]))

    @property
    def action_space(self):
        kinds = {"discrete": Discrete(4), "box": Box(-1.0, 1.0, (1,))}
        return kinds.get(self.action, MultiDiscrete([2, 2]))

    def _see(self, goal):
        image = jnp.zeros((4, 3, 1), bool).at[goal, 0, 0].set(True)
        speed = jnp.array([100.0, -0.5]) * goal
        return self._of(image, speed, goal, jnp.stack([goal // 2, goal % 2]))

    def reset(self, key):
        state = jax.random.randint(key, (), 0, 4), jnp.zeros((), jnp.int32)
        return state, self._see(state[0])

    def step(self, key, state, action):
        goal, time = state
        if self.action == "several":
            action = 2 * action[0] + action[1]
        reward = jnp.float32(jnp.sum(action) == goal)
        goal, never = jax.random.randint(key, (), 0, 4), jnp.zeros((), bool)
        return (goal, time + 1), TimeStep(self._see(goal), reward, never, time >= 3)


@pytest.mark.parametrize("kind", ["dict", "tuple", "struct", "single"])
def test_the_checker_passes_trees(kind):
    envs.check(Target(kind, "several"), num_steps=12)


# Of each learner one in every run; types alone, nothing is compiled.
NAMES = ("ppo", "dqn", "pqn", "sac", "iqn", "rainbow", "td3")


@pytest.mark.parametrize("name", NAMES)
def test_agents_are_built_and_learn_on_a_tree(name):
    """An update gives a state of the same types, and the replay kept each part in its own."""
    agent = preset(name)
    env = Target(action="box" if name in ("sac", "td3") else "discrete")
    agent.check(env)

    def run(key):
        start = start_training(key, agent, env, 100.0)
        trajectory = rollout(key, agent, env, start.agent, start.rollout)[1]
        return start.agent, agent.update(key, start.agent, trajectory)[0], trajectory

    before, after, trajectory = jax.eval_shape(run, KEY)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), before) == jax.tree.map(
        lambda x: (x.shape, x.dtype), after
    )
    kinds = {name: leaf.dtype for name, leaf in trajectory.observation["own"].items()}
    assert kinds == {"speed": jnp.float32, "bag": jnp.int32}


def test_what_takes_no_tree_says_so():
    for wrap in (envs.wrappers.ObservationNoise, envs.wrappers.FrameStack, envs.wrappers.Stock):
        with pytest.raises(ValueError, match="observations"):
            _ = wrap(Target()).observation_space
    with pytest.raises(ValueError, match="Ensemble models vectors"):
        jaxrl.dqn(successors=jaxrl.Ensemble()).check(Target())
    for agent in (jaxrl.dqn(), jaxrl.pqn()):
        with pytest.raises(ValueError, match="use ppo or a2c, which take it"):
            agent.check(Target(action="several"))
    with pytest.raises(ValueError, match="Only float observations can be normalised"):
        NormalisedAgent(jaxrl.ppo()).check(Target("single"))


def test_floats_of_a_tree_are_normalised_and_the_rest_is_left_alone():
    """By hand, in NumPy; the wrapper does alike."""
    agent = NormalisedAgent(jaxrl.ppo(hidden_sizes=(8,), **SIZES))

    @jax.jit
    def run(key):
        start = start_training(key, agent, Target(), 100.0)
        trajectory = rollout(key, agent, Target(), start.agent, start.rollout)[1]
        after, metrics = agent.update(key, start.agent, trajectory)
        return after, metrics, trajectory.observation

    after, metrics, seen = jax.device_get(run(KEY))
    speeds = seen["own"]["speed"].reshape(-1, 2)
    moments = after.observation["own"]["speed"]
    np.testing.assert_allclose(moments.mean, speeds.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments.variance, speeds.var(0), rtol=1e-4)
    assert after.observation["image"] == () and after.observation["own"]["bag"] == ()
    assert metrics["finite_fraction"] == 1.0
    wrapper = envs.wrappers.NormaliseObservation.start(Target()).updated(seen)
    shown = wrapper.normalised(seen)
    expected = (speeds - speeds.mean(0)) / speeds.std(0)
    np.testing.assert_allclose(shown["own"]["speed"].reshape(-1, 2), expected, atol=1e-3)
    np.testing.assert_array_equal(shown["image"], seen["image"])
    space = wrapper.observation_space
    assert float(space["own"]["speed"].high) == 10.0 and space["goal"] == Discrete(4)


class Own(nn.Module):
    """Encoders of one's own, one for each part that counts."""

    @nn.compact
    def __call__(self, seen):
        goal = nn.Embed(4, 6)(seen["goal"])
        image = nn.Dense(6)(seen["image"].reshape(*seen["image"].shape[:-3], -1).astype(float))
        return nn.tanh(goal + image)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dict", "own"])
def test_what_only_one_part_shows_is_learned(kind):
    """At most 4 a life; by chance 1."""
    network = {"network": Own()} if kind == "own" else {"hidden_sizes": (32,)}
    inner = jaxrl.ppo(num_envs=16, rollout_length=32, learning_rate=5e-3, **network)
    agent = NormalisedAgent(inner, rewards=False)
    env = Target(action="several")
    state = jax.jit(lambda key: jaxrl.train(key, agent, env, num_steps=30_000, num_records=1))(KEY)
    played = jaxrl.evaluate(KEY, agent, env, state.state.agent, num_episodes=200)
    assert float(played.mean) > 3.5
