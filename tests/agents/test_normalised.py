"""The normalising agent: what it shows its inner agent, and what it leaves alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import envs
from jaxrl.agents.normalised import NormalisedAgent
from jaxrl.agents.presets import ppo
from jaxrl.networks import NetworkSettings
from jaxrl.training.loop import start_training
from jaxrl.training.rollout import rollout

INNER = ppo().replace(
    network=NetworkSettings(hidden_sizes=(8,)), num_envs=4, rollout_length=16, num_minibatches=2
)
ENV = envs.make("CartPole-v1")


@pytest.fixture(scope="module")
def two_updates():
    agent = NormalisedAgent(INNER)
    life = start_training(jax.random.key(0), agent, ENV, 1e4)
    update = jax.jit(agent.update)
    roll = jax.jit(lambda key, state, where: rollout(key, agent, ENV, state, where))
    states, trajectories, where = [life.agent], [], life.rollout
    for number in range(2):
        where, trajectory, _ = roll(jax.random.key(number), states[-1], where)
        trajectories.append(trajectory)
        states.append(update(jax.random.key(9), states[-1], trajectory)[0])
    return agent, states, trajectories


def test_statistics_are_those_of_all_raw_observations(two_updates) -> None:
    _, states, trajectories = two_updates
    seen = np.concatenate([np.asarray(t.observation).reshape(-1, 4) for t in trajectories])
    np.testing.assert_allclose(states[-1].observation.mean, seen.mean(0), atol=1e-5)
    np.testing.assert_allclose(states[-1].observation.variance, seen.var(0), rtol=1e-4)
    assert float(states[-1].observation.count) == len(seen)


def test_return_statistics_restart_with_each_episode(two_updates) -> None:
    agent, states, trajectories = two_updates
    sums, total = [], np.zeros(4)
    for trajectory in trajectories:
        ended = np.asarray(trajectory.terminated | trajectory.truncated)
        for reward, end in zip(np.asarray(trajectory.reward), ended, strict=True):
            total = reward + agent.discount * total
            sums.append(total)
            total = np.where(end, 0.0, total)
    assert any(np.asarray(t.terminated).any() for t in trajectories)
    np.testing.assert_allclose(states[-1].returns.variance, np.var(sums), rtol=1e-4)
    np.testing.assert_allclose(states[-1].accumulated, total, rtol=1e-5)


def test_acting_sees_the_normalised_observation(two_updates) -> None:
    agent, states, trajectories = two_updates
    state, raw = states[1], trajectories[1].observation[0]
    by_hand = (raw - state.observation.mean) / jnp.sqrt(state.observation.variance + agent.epsilon)
    by_hand = jnp.clip(by_hand, -agent.clip, agent.clip)
    action, extras = agent.act(jax.random.key(1), state, raw)
    inner_action, inner_extras = INNER.act(jax.random.key(1), state.inner, by_hand)
    np.testing.assert_array_equal(action, inner_action)
    np.testing.assert_allclose(extras["log_prob"], inner_extras["log_prob"], rtol=1e-5)


def test_switched_off_it_is_the_inner_agent(two_updates) -> None:
    _, states, trajectories = two_updates
    plain = NormalisedAgent(INNER, observations=False, rewards=False)
    state = states[0].replace(observation=jax.tree.map(jnp.sum, states[0].observation))
    inner, _ = jax.jit(INNER.update)(jax.random.key(3), states[0].inner, trajectories[0])
    wrapped, _ = jax.jit(plain.update)(jax.random.key(3), state, trajectories[0])
    for one, other in zip(
        jax.tree.leaves(inner.params), jax.tree.leaves(wrapped.inner.params), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_integer_observations_are_refused() -> None:
    with pytest.raises(ValueError, match="observations=false"):
        NormalisedAgent(INNER).check(envs.make("FrozenLake-misc"))


def test_it_trains_and_evaluates() -> None:
    agent = NormalisedAgent(INNER)
    result = jax.jit(lambda key: jaxrl.train(key, agent, ENV, num_steps=256, num_records=2))(
        jax.random.key(0)
    )
    played = jaxrl.evaluate(jax.random.key(1), agent, ENV, result.state.agent, num_episodes=4)
    assert np.isfinite(result.metrics["loss"]).all()
    assert (played.lengths > 0).all()
