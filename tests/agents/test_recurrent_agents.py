"""Agents with memory: the unroll in the loss is the play step by step, and memory solves what needs it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.agents.optimiser import Optimiser
from jaxrl.agents.presets import PRESETS
from jaxrl.core import struct
from jaxrl.core.spaces import Box, Discrete
from jaxrl.core.types import TimeStep
from jaxrl.networks import NetworkSettings
from jaxrl.training.evaluate import evaluate
from jaxrl.training.loop import train
from jaxrl.training.rollout import rollout, start_rollout


@struct.dataclass
class Recall:
    """A cue of -1 or 1 is shown at the first step only; the last action must name it.

    The last reward is 1 if it does, else -1: without memory nothing beats 0 on average, with it 1.
    """

    length: float = 4.0  # [steps]

    observation_space = Box(-1.0, 1.0, (2,))
    action_space = Discrete(2)

    def reset(self, key):
        cue = jnp.where(jax.random.bernoulli(key), 1.0, -1.0)
        return (cue, jnp.zeros(())), jnp.stack([cue, 0.0])

    def step(self, key, state, action):
        cue, time = state[0], state[1] + 1.0
        over = time >= self.length
        hit = jnp.where((action == 1) == (cue > 0), 1.0, -1.0)
        step = TimeStep(
            observation=jnp.stack([0.0, time / self.length]),
            reward=jnp.where(over, hit, 0.0),
            terminated=over,
            truncated=jnp.zeros((), bool),
            cost=jnp.zeros((0,)),
            info={},
        )
        return (cue, time), step


ENV = Recall()
MEMORY = NetworkSettings(hidden_sizes=(16,), recurrent_size=16, initialiser="lecun")
KEY = jax.random.key(0)
# Without a clip, one gradient step for each rollout, and so shorter rollouts.
ONE_STEP = {"rollout_length": 4, "num_epochs": 1, "num_minibatches": 1}


def agent_of(name, **changes):
    settings = {
        "network": MEMORY,
        "optimiser": Optimiser(learning_rate=1e-2),
        "num_envs": 16,
        "rollout_length": 16,
        "num_epochs": 4,
        "num_minibatches": 2,
    }
    settings |= {"a2c": ONE_STEP, "ppo": {}}[name]
    return PRESETS[name]().replace(**(settings | changes))


@pytest.mark.parametrize("shared", [False, True])
def test_the_unroll_of_the_loss_is_the_play_step_by_step(shared):
    """Before any gradient step the ratio of PPO is 1 everywhere, in the middle of episodes too."""
    from jaxrl.agents.actor_critic import _unroll

    agent = agent_of("ppo", shared_torso=shared, rollout_length=11)

    @jax.jit
    def compare():
        state = agent.init(KEY, ENV)
        start = start_rollout(KEY, agent, ENV)
        start, _, _ = rollout(jax.random.key(1), agent, ENV, state, start)  # stops inside episodes
        _, played, _ = rollout(jax.random.key(2), agent, ENV, state, start)
        starts = jnp.concatenate([jnp.zeros((1, 16), bool), played.terminated[:-1]])
        memory = jax.tree.map(lambda leaf: leaf[0], played.extras["memory_before"])
        policy, value = _unroll(state.model, state.params, played.observation, starts, memory)
        stepped, _ = state.model.apply(
            state.params,
            played.observation,
            jnp.zeros((), bool),
            played.extras["memory_before"],
            method="value",
        )
        log_prob = policy.log_prob(played.action)
        return (log_prob, played.extras["log_prob"]), (value, stepped), memory, starts

    log_probs, values, memory, starts = compare()
    np.testing.assert_allclose(*log_probs, atol=1e-5)
    np.testing.assert_allclose(*values, atol=1e-5)
    assert bool(jnp.any(memory[0] != 0)) and int(jnp.sum(starts)) > 16


@jax.jit
def solve(keys, agent):
    def life(key):
        result = train(key, agent, ENV, num_steps=20_480, num_records=1)
        played = evaluate(
            jax.random.key(9), agent, ENV, result.state.agent, num_episodes=64, max_steps=4
        )
        return jnp.mean(played.returns)

    return jax.vmap(life)(keys)


@pytest.mark.parametrize("name", ["a2c", "ppo"])
def test_memory_solves_what_a_feed_forward_agent_cannot(name):
    """Three seeds: each recurrent one recalls the cue; no feed-forward one beats guessing.

    64 coin tosses of +-1 have a standard deviation of 0.125 around 0.
    """
    keys = jax.random.split(KEY, 3)
    recurrent = solve(keys, agent_of(name))
    forward = solve(keys, agent_of(name, network=MEMORY.replace(recurrent_size=0)))
    assert float(jnp.min(recurrent)) > 0.9
    assert float(jnp.max(jnp.abs(forward))) < 5 * 0.125


@pytest.mark.slow
def test_a_longer_chain_of_bsuite_is_remembered():
    from jaxrl.envs import make

    env = make("MemoryChain-bsuite")
    agent = agent_of("ppo", rollout_length=64)
    run = jax.jit(jax.vmap(lambda key: train(key, agent, env, num_steps=200_000).metrics))
    returns = run(jax.random.split(KEY, 3))["episode_return"][:, -10:]
    assert float(jnp.min(jnp.nanmean(returns, axis=1))) > 0.8
