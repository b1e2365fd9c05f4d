"""The normalising agent: what it shows its inner agent, and what it leaves alone."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from tables import Line

import jaxrl
from jaxrl.agents import NormalisedAgent, ppo
from jaxrl.core import struct
from jaxrl.envs.control import CartPole
from jaxrl.envs.wrappers import TimeLimit
from jaxrl.networks import NetworkSettings
from jaxrl.training import rollout, start_training

INNER = ppo().replace(
    network=NetworkSettings(hidden_sizes=(8,)), num_envs=4, rollout_length=16, num_minibatches=2
)
ENV = TimeLimit(CartPole(), 20)  # some poles fall before the clock ends the episode
AGENT = NormalisedAgent(INNER)
KEYS = jax.random.split(jax.random.key(9), 2)


@functools.cache
def two_updates():
    """States before and after two updates, and the rollouts between, `[2, ...]`."""

    def life(key, update_keys):
        start = start_training(key, AGENT, ENV, 1e4)

        def iterate(carry, key):
            state, where = carry
            where, trajectory, _ = rollout(key, AGENT, ENV, state, where)
            after, _ = AGENT.update(key, state, trajectory)
            return (after, where), (state, after, trajectory)

        return jax.lax.scan(iterate, (start.agent, start.rollout), update_keys)[1]

    return jax.device_get(jax.jit(life)(jax.random.key(0), KEYS))


def at(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def by_hand(moments, raw):
    """What the inner agent is shown of raw observations, in NumPy."""
    scaled = (raw - moments.mean) / np.sqrt(moments.variance + AGENT.epsilon)
    return np.clip(scaled, -AGENT.clip, AGENT.clip)


def test_statistics_are_those_of_all_raw_observations() -> None:
    _, states, trajectories = two_updates()
    seen = trajectories.observation.reshape(-1, 4)
    np.testing.assert_allclose(states.observation.mean[-1], seen.mean(0), atol=1e-5)
    np.testing.assert_allclose(states.observation.variance[-1], seen.var(0), rtol=1e-4)
    assert states.observation.count.tolist() == [64.0, 128.0]


def test_return_statistics_restart_with_each_episode() -> None:
    _, states, trajectories = two_updates()
    assert trajectories.terminated.any() and trajectories.truncated.any()
    ended = (trajectories.terminated | trajectories.truncated).reshape(32, 4)
    sums, total = [], np.zeros(4)
    for reward, end in zip(trajectories.reward.reshape(32, 4), ended, strict=True):
        total = reward + AGENT.discount * total
        sums.append(total)
        total = np.where(end, 0.0, total)
    np.testing.assert_allclose(states.returns.variance[-1], np.var(sums), rtol=1e-4)
    np.testing.assert_allclose(states.accumulated[-1], total, rtol=1e-5)


def test_acting_sees_the_normalised_observation() -> None:
    state, trajectory = at(two_updates()[0], 1), at(two_updates()[2], 1)
    raw = trajectory.observation[0]

    @jax.jit
    def act(key, state, raw, seen):
        return AGENT.act(key, state, raw), INNER.act(key, state.inner, seen)

    key = jax.random.key(1)
    (action, extras), (inner_action, inner_extras) = act(
        key, state, raw, by_hand(state.observation, raw)
    )
    np.testing.assert_array_equal(action, inner_action)
    np.testing.assert_allclose(extras["log_prob"], inner_extras["log_prob"], rtol=1e-5)


def test_the_inner_agent_learns_from_what_it_saw() -> None:
    """Observations scaled as when it acted, before the update; rewards by all returns so far."""
    before, after, trajectory = (at(tree, 1) for tree in two_updates())
    scaled = trajectory.reward / np.sqrt(after.returns.variance + AGENT.epsilon)
    seen = trajectory.replace(
        observation=by_hand(before.observation, trajectory.observation),
        next_observation=by_hand(before.observation, trajectory.next_observation),
        reward=np.clip(scaled, -AGENT.clip, AGENT.clip),
    )
    inner, _ = jax.jit(INNER.update)(KEYS[1], before.inner, seen)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, atol=1e-5),
        jax.device_get(inner.params),
        after.inner.params,
    )


@struct.dataclass
class Told:
    """In the inner agent's place: its state after an update is what it was told."""

    def update(self, key, state, trajectory):
        return (key, state, trajectory), {}


@pytest.mark.slow  # for two rollouts
def test_switched_off_it_is_the_inner_agent() -> None:
    before, trajectory = at(two_updates()[0], 0), at(two_updates()[2], 0)
    plain = NormalisedAgent(Told(), observations=False, rewards=False)
    state = before.replace(observation=jax.tree.map(np.sum, before.observation))
    wrapped, _ = jax.jit(plain.update)(KEYS[0], state, trajectory)
    (key, *told), known = wrapped.inner, [before.inner, trajectory]
    jax.tree.map(np.testing.assert_array_equal, told, known)
    assert key == KEYS[0]


def test_integer_observations_are_refused() -> None:
    with pytest.raises(ValueError, match="observations=false"):
        AGENT.check(Line())


@pytest.mark.slow  # for what it compiles
def test_it_evaluates() -> None:
    """Every step of the training counts in the statistics."""
    state = at(two_updates()[1], 1)
    played = jaxrl.evaluate(jax.random.key(1), AGENT, ENV, state, num_episodes=4)
    assert float(state.observation.count) == float(state.returns.count) == 128.0
    # A reward of 1 in every step, the last too, and no episode beyond the clock.
    np.testing.assert_array_equal(played.lengths, played.returns)
    assert np.all((played.lengths > 0) & (played.lengths <= 20))


@struct.dataclass
class Precise:
    """A pole whose rewards have 64 bits where there are such numbers."""

    env: CartPole = CartPole()

    observation_space = property(lambda self: self.env.observation_space)
    action_space = property(lambda self: self.env.action_space)

    def reset(self, key):
        return self.env.reset(key)

    def step(self, key, state, action):
        state, step = self.env.step(key, state, action)
        return state, step.replace(reward=step.reward.astype(float))


def test_rewards_of_64_bits_are_learned_from():
    with jax.enable_x64(True):
        run = lambda key: jaxrl.train(key, AGENT, Precise(), num_steps=128, num_records=2)  # noqa: E731
        assert jax.eval_shape(run, jax.random.key(0)).state.agent.accumulated.dtype == np.float32
