"""Attacks: the best shift of a linear policy is known; budgets hold; every agent has a response."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_policy import Counter, Linear

import jaxrl
from jaxrl.agents.normalised import NormalisedAgent
from jaxrl.core import struct
from jaxrl.core.spaces import Box, Discrete
from jaxrl.core.types import TimeStep
from jaxrl.envs import TabularEnv, riverswim
from jaxrl.envs.control import CartPole, Pendulum
from jaxrl.training.attacks import L2, AttackedPolicy, GradientAttack, LInf, SensorBias
from jaxrl.training.episodes import play_episodes
from jaxrl.training.responses import response
from jaxrl.training.rollout import start_rollout

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY = jax.random.key(0)
WEIGHTS = jnp.array([[3.0], [-4.0]])  # l2 norm 5, l1 norm 7
OBSERVATIONS = jnp.array([[0.3, 0.1], [0.0, 0.0], [-2.0, 5.0]])


@struct.dataclass
class Still:
    """Shows `place` for `length` steps, pays the action (the number of a discrete one)."""

    place: jax.Array
    length: float = 5.0
    discrete: bool = struct.field(pytree_node=False, default=True)

    @property
    def observation_space(self):
        return Box(-jnp.inf, jnp.inf, self.place.shape)

    @property
    def action_space(self):
        return Discrete(2) if self.discrete else Box(-jnp.inf, jnp.inf, (1,))

    def reset(self, key):
        return jnp.zeros((), jnp.int32), self.place

    def step(self, key, state, action):
        return state + 1, TimeStep(
            observation=self.place,
            reward=jnp.sum(action).astype(jnp.float32),
            terminated=state + 1 >= self.length,
            truncated=jnp.zeros((), bool),
            cost=jnp.zeros((0,)),
            info={},
        )


def shifts(attack, agent, weights, observations=OBSERVATIONS):
    state = attack.init(len(observations))
    return attack.shift(KEY, agent, weights, observations, (), state)


@pytest.mark.parametrize(("ball", "gain"), [(L2(), 5.0), (LInf(), 7.0)])
@pytest.mark.parametrize("num_steps", [1, 10])
def test_the_action_of_a_linear_policy_moves_as_far_as_it_can(ball, gain, num_steps):
    """The most that w . shift can be in a ball of radius r is r times the dual norm of w."""
    attack = GradientAttack(0.2, ball=ball, num_steps=num_steps)
    moved, left = shifts(attack, Linear(box=True), WEIGHTS)
    np.testing.assert_allclose(jnp.abs(moved @ WEIGHTS)[:, 0], 0.2 * gain, rtol=1e-4)
    assert np.all(np.isinf(left))


def test_a_choice_flips_where_the_ball_reaches_the_other_side_and_costs_its_distance():
    """Preferences (w . o, 0) are equal on a plane at distance |w . o| / ||w|| from o."""
    weights = jnp.concatenate([WEIGHTS, 0.0 * WEIGHTS], axis=1)
    observations = jnp.array([[0.3, 0.1], [1.0, 1.0], [-2.0, 5.0]])
    distance = np.abs(observations @ WEIGHTS)[:, 0] / 5.0  # 0.1, 0.2, 5.2
    for radius in (0.15, 0.5):
        moved, left = shifts(
            GradientAttack(radius, budget=1.0, frugal=True), Linear(), weights, observations
        )
        before = jnp.argmax(observations @ weights, axis=-1)
        after = jnp.argmax((observations + moved) @ weights, axis=-1)
        reach = distance < radius
        np.testing.assert_array_equal(before != after, reach)
        length = np.linalg.norm(moved, axis=-1)
        np.testing.assert_array_equal(length[~reach], 0.0)
        # Eight halvings of a shift no longer than the radius.
        assert np.all(length[reach] <= distance[reach] + radius / 128)
        assert np.all(length[reach] >= distance[reach] * (1 - 1e-5))
        np.testing.assert_allclose(left, 1.0 - length**2, rtol=1e-4)


def test_the_budget_of_an_episode_is_kept_spent_and_given_again():
    """0.6 a step from a budget of 1: 0.6, 0.6, sqrt(1 - 0.72), then nothing; then anew."""
    env = Still(jnp.array([1.0, 2.0]), discrete=False)
    attacked = AttackedPolicy(Linear(box=True), GradientAttack(0.6, budget=1.0))
    state = start_rollout(KEY, attacked, env)
    _, trajectory, _ = jaxrl.rollout(KEY, attacked, env, WEIGHTS, state, explore=False)
    norms = np.asarray(trajectory.extras["attack_norm"])  # [30, 4], episodes of 5
    expected = np.tile([0.6, 0.6, np.sqrt(0.28), 0.0, 0.0], 6)
    np.testing.assert_allclose(norms, np.broadcast_to(expected[:, None], (30, 4)), atol=1e-2)
    spent = np.sqrt(np.sum(norms.reshape(6, 5, 4) ** 2, axis=1))
    assert np.all(spent <= 1.0) and np.all(spent > 0.999)


def test_an_evaluation_under_attack_loses_what_the_attack_can_take():
    """The policy takes action 1 while w . o < 0 is not reached: at distance 0.2, five times."""
    weights = jnp.concatenate([0.0 * WEIGHTS, WEIGHTS], axis=1)
    env = Still(jnp.array([1.0 / 3.0, 0.0]))  # w . o = 1, distance 0.2
    plain = {"num_episodes": 3}

    def attacked(**settings):
        attack = GradientAttack(**settings)
        return jaxrl.evaluate(KEY, Linear(), env, weights, attack=attack, **plain).returns

    np.testing.assert_array_equal(jaxrl.evaluate(KEY, Linear(), env, weights, **plain).returns, 5.0)
    np.testing.assert_array_equal(attacked(radius=0.19), 5.0)
    np.testing.assert_array_equal(attacked(radius=0.21), 0.0)
    # A budget for two flips at 0.2 each: sqrt(2) 0.2 = 0.283 and not sqrt(3) 0.2 = 0.346.
    np.testing.assert_array_equal(attacked(radius=0.21, budget=0.3, frugal=True), 3.0)


def test_radius_and_budget_do_not_compile_again():
    env = Still(jnp.array([1.0, 0.0]))
    weights = jnp.concatenate([0.0 * WEIGHTS, WEIGHTS], axis=1)
    for radius, budget in ((0.1, 1.0), (0.3, 2.0)):
        attack = GradientAttack(radius, budget)
        jaxrl.evaluate(KEY, Linear(), env, weights, attack=attack, num_episodes=2)
        size = play_episodes._cache_size()
    attack = GradientAttack(0.7, 0.1)
    jaxrl.evaluate(KEY, Linear(), env, weights, attack=attack, num_episodes=2)
    assert play_episodes._cache_size() == size


def test_a_biased_sensor_adds_the_same_until_its_budget_is_spent():
    env = Still(jnp.zeros(2), discrete=False)
    weights = jnp.array([[1.0], [0.0]])
    biased = SensorBias(jnp.array([0.5, 0.0]), budget=1.0)  # four steps of five
    played = jaxrl.evaluate(KEY, Linear(box=True), env, weights, attack=biased, num_episodes=2)
    np.testing.assert_allclose(played.returns, 2.0, atol=0.01)


def test_the_memory_of_the_attacked_policy_goes_on():
    env = Still(jnp.zeros(2), discrete=False)
    policy = jaxrl.SmoothedPolicy(Counter(), 0.3)
    played = jaxrl.evaluate(KEY, policy, env, (), attack=SensorBias(0.1), num_episodes=2)
    np.testing.assert_array_equal(played.returns, 0.0 + 1 + 2 + 3 + 4)


def test_observations_that_are_no_floats_are_refused():
    env = TabularEnv(riverswim(), time_limit=5.0)
    with pytest.raises(ValueError, match="one_hot"):
        jaxrl.evaluate(KEY, Linear(), env, WEIGHTS, attack=GradientAttack(0.1), num_episodes=2)


def test_an_agent_without_a_response_is_named():
    env = Still(jnp.zeros(2), discrete=False)
    with pytest.raises(TypeError, match="Counter"):
        jaxrl.evaluate(KEY, Counter(), env, (), attack=GradientAttack(0.1), num_episodes=2)


def small(agent):
    return agent.replace(network=agent.network.replace(hidden_sizes=(8,)))


AGENTS = {
    "recurrent ppo": lambda: jaxrl.ppo().replace(
        network=jaxrl.ppo().network.replace(hidden_sizes=(8,), recurrent_size=8)
    ),
    "c51": lambda: small(jaxrl.c51()),
    "pqn": lambda: small(jaxrl.pqn()),
    "normalised": lambda: NormalisedAgent(small(jaxrl.ppo())),
}
BOX_AGENTS = {
    "ppo": lambda: small(jaxrl.ppo()),
    "sac": lambda: small(jaxrl.sac()),
}


SLOW = {"recurrent ppo", "ppo on a box"}
NAMES = [*AGENTS, *(f"{name} on a box" for name in BOX_AGENTS)]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in NAMES],
)
def test_the_response_of_an_agent_is_what_it_does(name):
    boxed = name.endswith(" on a box")
    agent = (BOX_AGENTS if boxed else AGENTS)[name.removesuffix(" on a box")]()
    env = Pendulum() if boxed else CartPole()
    state = jax.jit(agent.init)(KEY, env)
    seen = jax.random.normal(KEY, (16, *env.observation_space.shape))
    memory = agent.initial_memory(16)

    @jax.jit
    def both(seen):
        action, _ = agent.act(KEY, state, seen, False, memory)
        return action, response(agent, KEY, state, seen, memory)[0]

    action, rows = both(seen)
    _, discrete = response(agent, KEY, state, seen, memory)
    assert discrete != boxed
    if discrete:
        np.testing.assert_array_equal(action, jnp.argmax(rows, axis=-1))
    else:
        low, high = env.action_space.low, env.action_space.high
        np.testing.assert_allclose(action.reshape(16, -1), jnp.clip(rows, low, high), rtol=1e-5)
    gradient = jax.grad(lambda seen: jnp.sum(both(seen)[1][:, 0]))(seen)
    assert np.all(np.isfinite(gradient)) and np.any(gradient != 0)
