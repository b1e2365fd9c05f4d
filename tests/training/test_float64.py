"""With 64-bit numbers switched on every agent still trains: types come from what is seen."""

import jax
import jax.numpy as jnp
import pytest

import jaxrl
from jaxrl import envs
from jaxrl.agents import PRESETS, preset
from jaxrl.core import Box, Discrete, Progress, TimeStep, struct
from jaxrl.envs import wrappers
from jaxrl.functionals import CVaR, Mean
from jaxrl.operators import BellmanOperator, Categorical, Expectiles, Gaussian, Quantile, Scalar
from jaxrl.replay import PrioritisedReplay, UniformReplay


@struct.dataclass
class Walk:
    """A step to the left or right; with float64 numbers where they are switched on."""

    discrete: bool = struct.field(pytree_node=False, default=True)

    @property
    def observation_space(self):
        return Box(-100.0, 100.0, (2,), jnp.dtype("float32"))

    @property
    def action_space(self):
        return Discrete(2, jnp.dtype("int8")) if self.discrete else Box(-1.0, 1.0, (1,))

    def reset(self, key):
        return jnp.zeros(2), jnp.zeros(2, jnp.float32)

    def step(self, key, state, action):
        state = state + jnp.sum(jnp.asarray(action, state.dtype))
        ends = state[0] > 3.0
        seen = state.astype(jnp.float32)
        return state, TimeStep(seen, state[0], ends, ~ends & (state[1] > 9), jnp.zeros(0), {})


def types(agent, env):
    """The types of a whole training, traced and not compiled."""
    steps = 2 * agent.num_envs * agent.rollout_length
    return jax.eval_shape(
        lambda key: jaxrl.train(key, agent, env, num_steps=steps, num_records=1), jax.random.key(0)
    )


def small(agent):
    return agent.replace(network=agent.network.replace(hidden_sizes=(8,)), num_envs=4)


def of_actions(agent, *discrete_or_not):
    """The first of the environments that the agent can act in."""
    for env in discrete_or_not:
        try:
            agent.check(env)
        except ValueError:
            continue
        return env
    raise AssertionError("no environment for it")


@pytest.mark.slow  # test_every_wrapper_does has one in every run
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_trains(name):
    with jax.enable_x64(True):
        agent = small(preset(name))
        own = of_actions(agent, envs.make("CartPole"), envs.make("Pendulum"))
        walk = Walk(isinstance(own.action_space, Discrete))
        for env in (own, wrappers.TimeLimit(walk, 8)):
            found = types(agent, env)
            progress = jax.tree.leaves(found.state, is_leaf=lambda x: isinstance(x, Progress))
            counts = [x for x in progress if isinstance(x, Progress)]
            assert counts and all(count.step.dtype == jnp.float32 for count in counts)


HEADS = [Scalar(), Quantile(4), Expectiles(5), Gaussian(), Categorical(-1.0, 1.0, num_atoms=4)]


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS, ids=lambda head: type(head).__name__)
@pytest.mark.parametrize("replay", [UniformReplay(64), PrioritisedReplay(64, num_step=2)])
def test_every_head_and_replay_does(head, replay):
    operator = BellmanOperator(head, return_functional=CVaR(0.5) if head.shape else Mean())
    with jax.enable_x64(True):
        agent = small(preset("dqn")).replace(operator=operator, replay=replay, batch_size=8)
        types(agent, Walk())


WRAPPERS = {
    "TimeLimit": lambda env: wrappers.TimeLimit(env, 5),
    "EpisodeStatistics": wrappers.EpisodeStatistics,
    "RewardScale": lambda env: wrappers.RewardScale(env, 2.0),
    "NormaliseObservation": wrappers.NormaliseObservation.start,
    "NormaliseReward": wrappers.NormaliseReward,
    "FrameStack": lambda env: wrappers.FrameStack(env, 2),
    "ObservationNoise": lambda env: wrappers.ObservationNoise(env, 0.1),
    "StickyActions": lambda env: wrappers.StickyActions(env, 0.1),
}


@pytest.mark.parametrize("agent", ["dqn", pytest.param("ppo", marks=pytest.mark.slow)])
def test_every_wrapper_does(agent):
    """All of them, one round the other."""
    with jax.enable_x64(True):
        env = envs.make("CartPole")
        for wrap in WRAPPERS.values():
            env = wrap(env)
        types(small(preset(agent)), env)
