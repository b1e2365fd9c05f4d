"""Gaussian policies act in units of the box, whatever its bounds and its shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import envs
from jaxrl.agents.action_box import ActionBox
from jaxrl.core import Box, TimeStep, struct
from jaxrl.networks import NetworkSettings


@struct.dataclass
class Throttle:
    """One step: the reward falls with the distance from the middle of the box."""

    low: float = 100.0
    high: float = 200.0
    shape: tuple[int, ...] = struct.field(pytree_node=False, default=(1,))
    dtype: str = struct.field(pytree_node=False, default="float32")

    @property
    def observation_space(self):
        return Box(0.0, 1.0, (1,))

    @property
    def action_space(self):
        low, high = jnp.asarray(self.low), jnp.asarray(self.high)
        return Box(low, high, self.shape, jnp.dtype(self.dtype))

    def reset(self, key):
        return jnp.zeros((), jnp.int32), jnp.ones(1)

    def step(self, key, state, action):
        unit = (jnp.mean(action) - self.low) / (self.high - self.low)
        yes = jnp.ones((), bool)
        return state + 1, TimeStep(jnp.ones(1), -((unit - 0.75) ** 2), yes, ~yes, jnp.zeros(0), {})


@jax.jit(static_argnames="explore")
def drawn(env, explore=True):
    agent = jaxrl.ppo()
    state = agent.init(jax.random.key(0), env, 1e5)
    return agent.act(jax.random.key(1), state, jnp.ones((2000, 1)), explore)


BOXES = [(100.0, 200.0), *(pytest.param(-x, x, marks=pytest.mark.slow) for x in (1e-3, 1.0, 1e6))]


@pytest.mark.parametrize("low, high", BOXES)
def test_draws_cover_the_box(low, high):
    action, extras = drawn(Throttle(low, high))
    unit = 2.0 * (np.asarray(action)[:, 0] - low) / (high - low) - 1.0
    inside = np.abs(unit) < 0.999
    assert 0.6 < inside.mean() < 0.75  # of a standard normal: 0.68
    raw = np.asarray(extras["trace"])[:, 0]
    np.testing.assert_allclose(unit[inside], raw[inside], atol=2e-4)
    known = -0.5 * (raw - drawn(Throttle(low, high), False)[1]["trace"][0, 0]) ** 2
    np.testing.assert_allclose(extras["log_prob"], known - 0.5 * np.log(2 * np.pi), atol=2e-3)


@pytest.mark.parametrize("shape", [(), pytest.param((1,), marks=pytest.mark.slow), (2, 3)])
@pytest.mark.parametrize("name", ["ppo", "a2c", "sac", "td3"])
def test_every_shape_of_a_box_is_taken_by_every_agent(name, shape):
    agent, env = getattr(jaxrl, name)(), Throttle(shape=shape)
    agent.check(env)
    state = jax.eval_shape(lambda key: agent.init(key, env, 1e5), jax.random.key(0))
    action = jax.eval_shape(
        lambda state: agent.act(jax.random.key(0), state, jnp.ones((4, 1)))[0], state
    )
    assert action.shape == (4, *shape)


@pytest.mark.parametrize("name", ["ppo", "a2c", "sac", "td3"])
def test_boxes_of_integers_are_refused_by_every_agent(name):
    with pytest.raises(ValueError, match=r"int32.*Box of float32, and round inside"):
        getattr(jaxrl, name)().check(Throttle(dtype="int32"))


def test_a_coordinate_without_two_bounds_is_its_own_unit():
    low, high = jnp.array([-jnp.inf, 0.0, 2.0]), jnp.array([jnp.inf, jnp.inf, 4.0])
    box = ActionBox.of(Box(low, high, (3,)))
    action = box.from_unit(jnp.array([[5.0, -1.0, 0.5], [-7.0, 3.0, 9.0]]))
    np.testing.assert_allclose(action, [[5.0, 0.0, 3.5], [-7.0, 3.0, 4.0]])
    np.testing.assert_allclose(box.to_unit(action), [[5.0, 0.0, 0.5], [-7.0, 3.0, 1.0]])
    with jax.debug_nans(True):
        jax.block_until_ready(jax.jit(box.from_unit)(jnp.ones((2, 3))))


@pytest.mark.slow
def test_it_learns_far_from_zero():
    """The best throttle is three quarters of the way."""
    agent = jaxrl.ppo().replace(
        network=NetworkSettings(hidden_sizes=(16,)), rollout_length=16, num_minibatches=2
    )
    env = Throttle()

    @jax.jit
    def learned(key):
        state = jaxrl.train(key, agent, env, num_steps=60_000, num_records=1).state.agent
        return agent.act(key, state, jnp.ones((1, 1)), explore=False)[0]

    best = learned(jax.random.key(0))
    np.testing.assert_allclose(best, 175.0, atol=5.0)


@struct.dataclass
class Silent:
    """An environment inside, without a word of what is legal."""

    env: envs.TabularEnv

    observation_space = property(lambda self: self.env.observation_space)
    action_space = property(lambda self: self.env.action_space)


def test_illegal_actions_and_unlearnable_settings_are_refused():
    mdp = jaxrl.tabular_mdp(
        [[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0]] * 2],
        [[0.0, -1.0], [0.0, 0.0]],
        0.9,
        terminal=[False, True],
        mask=[[False, True], [True, True]],
    )
    env = envs.TabularEnv(mdp, time_limit=5.0)
    for agent in (jaxrl.dqn(), jaxrl.ppo(), jaxrl.pqn(), jaxrl.a2c()):
        agent.check(env)
        with pytest.raises(ValueError, match=r"1 of the 4 actions .* illegal"):
            agent.check(Silent(env))
    state, _ = env.reset(jax.random.key(0))
    assert env.step(jax.random.key(0), state, 0)[1].info["legal"].tolist() == [False, True]
    cart = envs.make("CartPole")
    with pytest.raises(ValueError, match="a minibatch is one step"):
        jaxrl.ppo().replace(num_envs=4, rollout_length=2, num_minibatches=8).check(cart)
    jaxrl.ppo().replace(
        num_envs=4, rollout_length=2, num_minibatches=8, normalise_advantages=False
    ).check(cart)
