"""Every key is spent once: traced for whole programs, and read off what toy environments show.

Tracing sees a key that two draws consume; it does not see one that was folded in twice with the
same number, or not at all. Those are seen where keys are written down.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.key_reuse._core import KeyReuseError, check_key_reuse
from linear_policy import Dithered
from toys import KEY, Clock, Diary, bits, num_different, spent

import jaxrl
from jaxrl.core import Box, TimeStep, struct
from jaxrl.envs.control import CartPole
from jaxrl.training import (
    AttackedPolicy,
    GradientAttack,
    SensorBias,
    iwocs,
    lanes,
    rollout,
    start_rollout,
)

WEIGHTS = np.zeros((4, 2), np.float32)
AGENT = Dithered()
PLAY = {"num_episodes": 2, "max_steps": 3}
TWO = {"gravity": [9.0, 10.0]}


def small(agent):
    return agent.replace(network=agent.network.replace(hidden_sizes=(8,)))


def rolled(agent, key):
    start_key, play_key = jax.random.split(key)
    state = start_rollout(start_key, agent, CartPole())
    return rollout(play_key, agent, CartPole(), WEIGHTS, state)


def swept(key):
    """The two programs of a sweep, over one lane: mapped scans are not traced rightly."""
    names, env = ("learning_rate",), Clock()
    agent = Diary(learning_rate=jnp.full(1, 0.1))
    state, tally = lanes.start_lanes(agent, env, jax.random.split(key, 1), 96.0, names)
    return lanes.run_lanes(agent, env, state, tally, jnp.array([2, 3, 1]), names)


def searched(key):
    """The training runs of a worst-case search, in one lane."""
    settings = iwocs._stacked([CartPole(gravity=5.0)])
    return iwocs._train_group(jax.random.split(key, 1), small(jaxrl.pqn()), settings, 16)


PROGRAMS = {
    "rollout": functools.partial(rolled, AGENT),
    "attacked rollout": functools.partial(
        rolled, AttackedPolicy(AGENT, GradientAttack(0.1, num_steps=2))
    ),
    "train": lambda key: jaxrl.train(key, Diary(), Clock(), num_steps=96, num_records=3),
    "sweep": swept,
    "evaluate": lambda key: jaxrl.evaluate(key, AGENT, CartPole(), WEIGHTS, **PLAY),
    "evaluate over settings": lambda key: jaxrl.evaluate(
        key, AGENT, CartPole(), WEIGHTS, over=TWO, same_episodes=False, **PLAY
    ),
    "evaluate a smoothed policy": lambda key: jaxrl.evaluate(
        key, jaxrl.SmoothedPolicy(AGENT, 0.1), CartPole(), WEIGHTS, attack=SensorBias(0.1), **PLAY
    ),
    "worst-case search": searched,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_program_consumes_a_key_twice(name):
    check_key_reuse(PROGRAMS[name], KEY)


def test_a_program_that_does_is_noticed():
    def twice(key):
        first = jaxrl.evaluate(key, AGENT, CartPole(), WEIGHTS, **PLAY)
        return first, jaxrl.evaluate(key, AGENT, CartPole(), WEIGHTS, **PLAY)

    with pytest.raises(KeyReuseError):
        check_key_reuse(twice, KEY)


# --- keys that were written down -----------------------------------------------------------------


@functools.cache
def lives():
    """Two lives of twelve iterations of four steps of two environments, episodes of five."""
    run = jax.vmap(lambda key: jaxrl.train(key, Diary(), Clock(), num_steps=96, num_records=3))
    return jax.device_get(jax.jit(run)(jax.random.split(KEY, 2)).state.agent)


def test_every_key_of_a_life_is_another_and_no_two_lives_share_one():
    """One of `init`, 48 of `act`, 12 of `update`, 2 + 18 of resets (nine fives in 48 steps, twice),
    96 of steps, in each life."""
    rows = [spent(Diary(), jax.tree.map(lambda leaf, i=i: leaf[i], lives()), 18) for i in range(2)]
    assert [len(life) for life in rows] == [177, 177]
    assert num_different(np.concatenate(rows)) == 2 * 177


def number_of(key):
    """A number in [0, 1] that tells a key from others, as far as 24 bits do."""
    return bits(key)[0].astype(jnp.float32) / 2.0**32


@struct.dataclass
class Lottery:
    """Two steps; pays the numbers of the keys that were given: in step `when`, and at the reset."""

    when: jax.Array
    of_reset: jax.Array
    of_step: jax.Array
    of_action: jax.Array  # [2]

    observation_space = Box(-jnp.inf, jnp.inf, (1,))
    action_space = Box(-jnp.inf, jnp.inf, (2,))

    def reset(self, key):
        return (jnp.zeros(()), number_of(key)), jnp.zeros(1)

    def step(self, key, state, action):
        time, drawn = state
        paid = self.of_step * number_of(key) + self.of_action @ action
        reward = jnp.where(time == self.when, paid, 0.0) + self.of_reset * drawn * (time == 0)
        return (time + 1, drawn), TimeStep(
            observation=jnp.zeros(1),
            reward=reward,
            terminated=time >= 1,
            truncated=jnp.zeros((), bool),
            cost=jnp.zeros((0,)),
            info={},
        )


LOTTERIES = {
    "reset": (0.0, 1.0, 0.0, (0.0, 0.0)),
    "step 0": (0.0, 0.0, 1.0, (0.0, 0.0)),
    "step 1": (1.0, 0.0, 1.0, (0.0, 0.0)),
    "act 0": (0.0, 0.0, 0.0, (1.0, 0.0)),
    "act 1": (1.0, 0.0, 0.0, (1.0, 0.0)),
    "seen 0": (0.0, 0.0, 0.0, (0.0, 1.0)),
    "seen 1": (1.0, 0.0, 0.0, (0.0, 1.0)),
}


@struct.dataclass
class Teller:
    """Acts by the number of its key, and by what it sees."""

    def initial_memory(self, num_envs):
        return ()

    def act(self, key, state, observation, explore=True, memory=()):
        told = jnp.full(observation.shape[0], number_of(key))
        return jnp.stack([told, observation[:, 0]], axis=1), {}


@struct.dataclass
class Telling:
    """An attack whose shift is the number of its key."""

    def init(self, num_envs):
        return ()

    def shift(self, key, policy, policy_state, observation, memory, state):
        return jnp.full_like(observation, number_of(key)), state


@functools.cache
def told(policy, attack=None, same_episodes=True):
    """What five episodes of each of `LOTTERIES` paid, in two equal settings: `[2, 5]` each."""

    @jax.jit
    @jax.vmap
    def play(row):
        envs = [Lottery(*row)] * 2
        if attack is not None:
            agent = AttackedPolicy(policy, attack)
        else:
            agent = policy
        return jaxrl.evaluate_each(
            KEY, agent, envs, (), num_episodes=5, max_steps=4, same_episodes=same_episodes
        ).returns

    rows = [np.array(column, np.float32) for column in zip(*LOTTERIES.values(), strict=True)]
    return dict(zip(LOTTERIES, np.asarray(play(tuple(rows))), strict=True))


def different(*values):
    flat = np.concatenate([np.ravel(value) for value in values])
    return len(np.unique(flat)) == len(flat)


def test_every_key_of_an_evaluation_is_another():
    """`act` and an attack have one for all episodes, in every step; resets and steps each one."""
    paid = {name: value[:1] for name, value in told(Teller(), Telling()).items()}
    single = [paid[name] for name in ("act 0", "act 1", "seen 0", "seen 1")]
    assert all(len(np.unique(value)) == 1 for value in single)
    each = [paid[name] for name in ("reset", "step 0", "step 1")]
    assert different(*each, *(value[0, 0] for value in single))


def test_settings_share_their_keys_only_where_they_are_to_share_episodes():
    paid = told(Teller(), Telling())
    for value in paid.values():
        np.testing.assert_array_equal(value[0], value[1])
    apart = told(Teller(), Telling(), same_episodes=False)
    assert different(apart["reset"], apart["step 0"], apart["step 1"])
    assert not np.any(apart["act 0"][0] == apart["act 0"][1])


def test_smoothing_noise_is_drawn_anew_in_every_step_and_episode():
    paid = told(jaxrl.SmoothedPolicy(Teller(), 1.0))
    assert different(paid["seen 0"][0], paid["seen 1"][0])


def test_no_bit_of_a_seed_is_lost():
    seeds = [5 ^ (1 << bit) for bit in range(64)]
    keys = np.stack([jax.random.key_data(lanes.root_key(seed)) for seed in [5, *seeds]])
    assert len(np.unique(keys, axis=0)) == 65
