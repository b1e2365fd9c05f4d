"""Agents with memory: the loss unrolls as they play, and memory solves what needs it."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.agents import Optimiser, preset
from jaxrl.core import Box, Discrete, TimeStep, struct
from jaxrl.networks import NetworkSettings
from jaxrl.training import rollout, start_rollout, train


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


def agent_of(**changes):
    settings = {
        "network": MEMORY,
        "optimiser": Optimiser(learning_rate=1e-2),
        "num_envs": 16,
        "rollout_length": 16,
        "num_epochs": 4,
        "num_minibatches": 2,
    }
    return preset("ppo").replace(**(settings | changes))


@struct.dataclass
class Played:
    """What the agent said step by step."""

    log_prob: jax.Array
    value: jax.Array


@struct.dataclass
class Apart:
    """A rule that reports how far what is unrolled is from what was said step by step."""

    @property
    def outputs(self):
        return {}

    def init(self, params):
        return ()

    def targets(self, rule_state, outputs, trajectory, progress):
        return Played(trajectory.extras["log_prob"], outputs.value), rule_state

    def loss(self, outputs, targets, progress):
        apart = jnp.abs(outputs.log_prob - targets.log_prob)
        return jnp.maximum(apart, jnp.abs(outputs.value - targets.value))


@pytest.mark.slow  # for what it compiles; test_which_memory.py has the same by hand
@pytest.mark.parametrize("shared", [False, True])
def test_the_unroll_of_the_loss_is_the_play_step_by_step(shared):
    """Before any gradient step the ratio of PPO is 1 everywhere, in the middle of episodes too."""
    whole = {"num_epochs": 1, "num_minibatches": 1, "normalise_advantages": False}
    agent = agent_of(shared_torso=shared, rollout_length=11, rule=Apart(), **whole)

    @jax.jit
    def compare(key):
        state, where = agent.init(key, ENV), start_rollout(key, agent, ENV)

        def roll(where, key):
            where, played, _ = rollout(key, agent, ENV, state, where)
            return where, played

        # The first one stops inside episodes, in which the second begins.
        _, both = jax.lax.scan(roll, where, jax.random.split(key, 2))
        played = jax.tree.map(lambda leaf: leaf[1], both)
        starts = jnp.concatenate([both.terminated[0, -1:], played.terminated[:-1]])
        before = played.extras["memory_before"]
        memory = jax.tree.map(lambda leaf: leaf[0], before)
        return agent.update(key, state, played)[1]["loss"], memory, starts

    apart, memory, starts = jax.device_get(compare(KEY))
    assert apart < 1e-5
    # 11 steps each in episodes of 4: three steps are left of the third, then two more begin.
    assert np.all(memory[0] != 0) and starts.sum(axis=0).tolist() == [3] * 16


NUM_STEPS, NUM_RECORDS = 20_480, 8
EPISODES = NUM_STEPS / NUM_RECORDS / 4  # in each record


@jax.jit
def late_returns(keys, agent):
    """Mean return of the last eighth of each life, as it explores."""
    life = functools.partial(train, num_steps=NUM_STEPS, num_records=NUM_RECORDS)
    return jax.vmap(lambda key: life(key, agent, ENV).metrics["episode_return"][-1])(keys)


@pytest.mark.slow
def test_an_agent_with_memory_recalls_the_cue():
    """Each of three seeds, four steps later."""
    assert float(jnp.min(late_returns(jax.random.split(KEY, 3), agent_of()))) > 0.85


@pytest.mark.slow
def test_a_feed_forward_agent_cannot():
    """It guesses: tosses of +-1, whose mean over a record has this standard deviation around 0."""
    agent = agent_of(network=MEMORY.replace(recurrent_size=0))
    returns = late_returns(jax.random.split(KEY, 3), agent)
    assert float(jnp.max(jnp.abs(returns))) < 5 / EPISODES**0.5
