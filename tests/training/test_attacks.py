"""Attacks: the best shift of a linear policy is known; budgets hold; every agent has a response."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_policy import Counter, Linear
from toys import KEY

import jaxrl
from jaxrl.agents import NormalisedAgent, response
from jaxrl.core import Box, Discrete, TimeStep, struct
from jaxrl.envs import TabularEnv, riverswim
from jaxrl.envs.control import CartPole, Pendulum
from jaxrl.training import (
    L2,
    AttackedPolicy,
    GradientAttack,
    LInf,
    SensorBias,
    start_rollout,
)
from jaxrl.training.evaluation import play_episodes

WEIGHTS = np.float32([[3.0], [-4.0]])  # l2 norm 5, l1 norm 7
EITHER_WAY = np.concatenate([0.0 * WEIGHTS, WEIGHTS], axis=1)  # action 1 while w . o > 0
OBSERVATIONS = np.float32([[0.3, 0.1], [0.0, 0.0], [-2.0, 5.0]])


@struct.dataclass
class Still:
    """Shows `place` for `length` steps, pays the action (the number of a discrete one); ends in a
    terminal state or, with `truncates`, by the clock."""

    place: jax.Array
    length: float = 5.0
    truncates: float = 0.0
    discrete: bool = struct.field(pytree_node=False, default=True)

    @property
    def observation_space(self):
        return Box(-jnp.inf, jnp.inf, self.place.shape)

    @property
    def action_space(self):
        return Discrete(2) if self.discrete else Box(-jnp.inf, jnp.inf, (1,))

    def reset(self, key):
        return jnp.zeros((), jnp.int32), jnp.asarray(self.place)

    def step(self, key, state, action):
        over = state + 1 >= self.length
        return state + 1, TimeStep(
            observation=jnp.asarray(self.place),
            reward=jnp.sum(action).astype(jnp.float32),
            terminated=over & (self.truncates < 0.5),
            truncated=over & (self.truncates > 0.5),
            cost=jnp.zeros((0,)),
            info={},
        )


@jax.jit
def shifts_on_device(attack, agent, weights, observations):
    state = attack.init(len(observations))
    return attack.shift(KEY, agent, weights, observations, (), state)


def shifts(attack, agent, weights, observations=OBSERVATIONS):
    return jax.device_get(shifts_on_device(attack, agent, weights, observations))


# One of each in every run: each is a program.
MOVES = [
    pytest.param(steps, ball, gain, id=f"{steps}-ball{number}-{gain}", marks=marks)
    for number, (ball, gain, often) in enumerate([(L2, 5.0, 10), (LInf, 7.0, 1)])
    for steps in (1, 10)
    for marks in ([] if steps == often else [pytest.mark.slow],)
]


@pytest.mark.parametrize(("num_steps", "ball", "gain"), MOVES)
def test_the_action_of_a_linear_policy_moves_as_far_as_it_can(ball, gain, num_steps):
    """The most that w . shift can be in a ball of radius r is r times the dual norm of w."""
    attack = GradientAttack(0.2, ball=ball, num_steps=num_steps)
    moved, left = shifts(attack, Linear(box=True), WEIGHTS)
    np.testing.assert_allclose(np.abs(moved @ WEIGHTS)[:, 0], 0.2 * gain, rtol=1e-4)
    assert np.all(np.isinf(left))


def test_a_choice_flips_where_the_ball_reaches_the_other_side_and_costs_its_distance():
    """Preferences (w . o, 0) are equal on a plane at distance |w . o| / ||w|| from o."""
    weights = np.concatenate([WEIGHTS, 0.0 * WEIGHTS], axis=1)
    observations = np.float32([[0.3, 0.1], [1.0, 1.0], [-2.0, 5.0]])
    distance = np.abs(observations @ WEIGHTS)[:, 0] / 5.0  # 0.1, 0.2, 5.2
    for radius in (0.15, 0.5):
        moved, left = shifts(
            GradientAttack(radius, budget=1.0, frugal=True), Linear(), weights, observations
        )
        before = np.argmax(observations @ weights, axis=-1)
        after = np.argmax((observations + moved) @ weights, axis=-1)
        reach = distance < radius
        np.testing.assert_array_equal(before != after, reach)
        length = np.linalg.norm(moved, axis=-1)
        np.testing.assert_array_equal(length[~reach], 0.0)
        # Eight halvings of a shift no longer than the radius.
        assert np.all(length[reach] <= distance[reach] + radius / 128)
        assert np.all(length[reach] >= distance[reach] * (1 - 1e-5))
        np.testing.assert_allclose(left, 1.0 - length**2, rtol=1e-4)


@pytest.mark.parametrize("truncates", [0.0, 1.0], ids=["terminated", "truncated"])
def test_the_budget_of_an_episode_is_kept_spent_and_given_again(truncates):
    """0.6 a step from a budget of 1: 0.6, 0.6, sqrt(1 - 0.72), then nothing; then anew."""
    env = Still(np.float32([1.0, 2.0]), truncates=truncates, discrete=False)
    norms = np.asarray(attacked_norms(env))  # [30, 4], episodes of 5
    expected = np.tile([0.6, 0.6, np.sqrt(0.28), 0.0, 0.0], 6)
    # A hundred thousandth of what is left is kept for rounding, and spent at last.
    np.testing.assert_allclose(norms, np.broadcast_to(expected[:, None], (30, 4)), atol=3e-3)
    spent = np.sqrt(np.sum(norms.reshape(6, 5, 4) ** 2, axis=1))
    assert np.all(spent <= 1.0) and np.all(spent > 0.999)


@jax.jit
def attacked_norms(env):
    attacked = AttackedPolicy(Linear(box=True), GradientAttack(0.6, budget=1.0))
    state = start_rollout(KEY, attacked, env)
    _, trajectory, _ = jaxrl.rollout(KEY, attacked, env, WEIGHTS, state, explore=False)
    return trajectory.extras["attack_norm"]


def played(env=None, agent=None, state=EITHER_WAY, **attack):
    """Returns of three greedy episodes, under a gradient attack of these settings if any."""
    env = Still(np.float32([1.0 / 3.0, 0.0])) if env is None else env  # w . o = 1, distance 0.2
    agent = Linear() if agent is None else agent
    made = {"attack": GradientAttack(**attack)} if attack else {}
    return jaxrl.evaluate(KEY, agent, env, state, num_episodes=3, **made).returns


def test_an_evaluation_under_attack_loses_what_the_attack_can_take():
    """The policy takes action 1 while w . o < 0 is not reached: at distance 0.2, five times."""
    np.testing.assert_array_equal(played(), 5.0)
    np.testing.assert_array_equal(played(radius=0.19), 5.0)
    np.testing.assert_array_equal(played(radius=0.21), 0.0)
    # A budget for two flips at 0.2 each: sqrt(2) 0.2 = 0.283 and not sqrt(3) 0.2 = 0.346.
    np.testing.assert_array_equal(played(radius=0.21, budget=0.3, frugal=True), 3.0)


def test_radius_and_budget_do_not_compile_again():
    played(radius=0.1, budget=1.0)
    size = play_episodes._cache_size()
    played(radius=0.3, budget=2.0)
    played(radius=0.7, budget=0.1)
    assert play_episodes._cache_size() == size


def test_a_biased_sensor_adds_the_same_until_its_budget_is_spent():
    """0.5 in four steps of five, whose squares add up to 1; but 1e-5 of what is left is kept for
    rounding: the fourth leaves 2e-5 / 4 of the square, which the fifth spends."""
    env = Still(np.zeros(2, np.float32), discrete=False)
    weights = np.float32([[1.0], [0.0]])
    biased = SensorBias(np.float32([0.5, 0.0]), budget=1.0)
    played = jaxrl.evaluate(KEY, Linear(box=True), env, weights, attack=biased, num_episodes=2)
    np.testing.assert_allclose(played.returns, 2.0 + np.sqrt(2e-5 / 4), atol=2e-5)


def test_the_memory_of_the_attacked_policy_goes_on():
    env = Still(np.zeros(2, np.float32), discrete=False)
    policy = jaxrl.SmoothedPolicy(Counter(), 0.3)
    played = jaxrl.evaluate(KEY, policy, env, (), attack=SensorBias(0.1), num_episodes=2)
    np.testing.assert_array_equal(played.returns, 0.0 + 1 + 2 + 3 + 4)


def test_observations_that_are_no_floats_are_refused():
    env = TabularEnv(riverswim(), time_limit=5.0)
    with pytest.raises(ValueError, match="one_hot"):
        jaxrl.evaluate(KEY, Linear(), env, WEIGHTS, attack=GradientAttack(0.1), num_episodes=2)


def test_an_agent_without_a_response_is_named():
    env = Still(np.zeros(2, np.float32), discrete=False)
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


SLOW = {"recurrent ppo", "sac on a box", "pqn", "c51"}
NAMES = [*AGENTS, *(f"{name} on a box" for name in BOX_AGENTS)]
STEP = 1e-3  # of a difference quotient [observation]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in NAMES],
)
def test_the_response_of_an_agent_is_what_it_does(name):
    boxed = name.endswith(" on a box")
    agent = (BOX_AGENTS if boxed else AGENTS)[name.removesuffix(" on a box")]()
    env = Pendulum() if boxed else CartPole()
    shape = (16, *env.observation_space.shape)
    seen = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    direction = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    kinds = []

    @jax.jit
    def measured(seen):
        """The action and, along a line, the response: at three places, and its slope."""
        state, memory = agent.init(KEY, env), agent.initial_memory(16)
        action, _ = agent.act(KEY, state, seen, False, memory)

        def rows(seen):
            answer, discrete = response(agent, KEY, state, seen, memory)
            kinds.append(discrete)
            return answer

        here, slope = jax.jvp(rows, (seen,), (direction,))
        return action, here, slope, rows(seen + STEP * direction), rows(seen - STEP * direction)

    action, rows, slope, after, before = jax.device_get(measured(seen))
    assert set(kinds) == {not boxed}
    if boxed:
        low, high = np.asarray(env.action_space.low), np.asarray(env.action_space.high)
        np.testing.assert_allclose(action.reshape(16, -1), np.clip(rows, low, high), rtol=1e-5)
    else:
        np.testing.assert_array_equal(action, np.argmax(rows, axis=-1))
    quotient = (after - before) / (2 * STEP)
    largest = np.max(np.abs(quotient))
    np.testing.assert_allclose(slope, quotient, atol=0.02 * largest)
    assert largest > 1e-3
