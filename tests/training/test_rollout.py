"""The rollout: true successors, resets within the step, and exact episode sums."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.core import outcome_mdp, struct
from jaxrl.envs import TabularEnv
from jaxrl.training import rollout, start_rollout

NUM_STATES, NUM_ENVS, NUM_STEPS = 6, 7, 40


def chain(terminal: bool, time_limit: float, soft_end: float = 0.0) -> TabularEnv:
    """State s steps to s + 1 (action 1) or stays (action 0) and pays s + action; starts below 3."""
    state = np.arange(NUM_STATES)[:, None, None]
    action = np.arange(2)[None, :, None]
    next_state = np.minimum(state + action, NUM_STATES - 1)
    ends = np.where((state == NUM_STATES - 2) & (action == 1), float(terminal), soft_end)
    mdp = outcome_mdp(
        np.ones((NUM_STATES, 2, 1)),
        next_state,
        (state + action).astype(float),
        terminal=ends if soft_end else ends.astype(bool),
        initial=np.array([0.5, 0.3, 0.2, 0.0, 0.0, 0.0]),
    )
    return TabularEnv(mdp, time_limit=time_limit)


@struct.dataclass
class Random:
    """Uniform actions, and a memory that counts its own steps."""

    num_envs: int = struct.field(pytree_node=False, default=NUM_ENVS)
    rollout_length: int = struct.field(pytree_node=False, default=NUM_STEPS)
    discount: float = 0.9

    def initial_memory(self, num_envs):
        return jnp.zeros((num_envs, 1))

    def act(self, key, state, observation, explore=True, memory=()):
        action = jax.random.randint(key, observation.shape, 0, 2)
        return action if explore else jnp.ones_like(action), {
            "memory": memory + 1.0,
            "seen": memory,
        }


AGENT = Random()


@dataclasses.dataclass(frozen=True)
class Played:
    env: TabularEnv
    before: object
    after: object
    trajectory: object
    sums: object


CASES = {"terminates": (True, float("inf")), "truncates": (False, 9.0), "both": (True, 6.0)}
SOFT = (False, float("inf"), 0.25)


@functools.partial(jax.jit, static_argnames=("explore", "auto_reset", "keep_env_state"))
def play_on(key, env, before, **options):
    return rollout(key, AGENT, env, (), before, **options)


@functools.cache
def play(case, explore=True, auto_reset=True, keep_env_state=False) -> Played:
    env = chain(*case)
    before = jax.jit(lambda env: start_rollout(jax.random.key(0), AGENT, env))(env)
    options = {"explore": explore, "auto_reset": auto_reset, "keep_env_state": keep_env_state}
    after = jax.device_get(play_on(jax.random.key(1), env, before, **options))
    return Played(env, jax.device_get(before), *after)


@pytest.fixture(scope="module", params=CASES)
def played(request) -> Played:
    return play(CASES[request.param])


def ended(trajectory):
    return (trajectory.terminated >= 1) | trajectory.truncated


def test_the_case_ends_as_it_should():
    counts = {}
    for name, case in CASES.items():
        t = play(case).trajectory
        counts[name] = (int(t.terminated.sum()), int(t.truncated.sum()))
        assert not np.any(t.terminated & t.truncated)
    assert counts["terminates"][1] == counts["truncates"][0] == 0
    assert counts["truncates"][1] == NUM_ENVS * (NUM_STEPS // 9)  # by the clock alone
    assert min(counts["terminates"][0], *counts["both"]) > 0


def test_the_successor_is_the_true_one_and_the_reset_comes_after_it(played):
    t = played.trajectory
    true = np.minimum(t.observation + t.action, NUM_STATES - 1)
    np.testing.assert_array_equal(t.next_observation, true)
    following = np.concatenate([t.observation[1:], played.after.observation[None]])
    over = ended(t)
    np.testing.assert_array_equal(following[~over], true[~over])
    assert over.any() and np.all(following[over] < 3)
    assert np.any(following[over] != true[over])


def test_termination_zeroes_the_discount_and_truncation_keeps_it(played):
    t = played.trajectory
    np.testing.assert_allclose(t.discount, np.where(t.terminated, 0.0, 0.9), rtol=1e-6)


def test_sums_are_those_of_a_replay_of_the_trajectory(played):
    """Episode by episode in NumPy, whole numbers, so exactly."""
    t, returns, lengths = played.trajectory, [], []
    running, steps = np.zeros(NUM_ENVS), np.zeros(NUM_ENVS, int)
    for reward, over in zip(t.reward, ended(t), strict=True):
        running, steps = running + reward, steps + 1
        returns += running[over].tolist()
        lengths += steps[over].tolist()
        running, steps = np.where(over, 0.0, running), np.where(over, 0, steps)
    assert len(returns) > 10
    assert float(played.sums.num_episodes) == len(returns)
    assert float(played.sums.episode_return) == sum(returns)
    assert float(played.sums.episode_length) == sum(lengths)
    np.testing.assert_array_equal(played.after.episode_return, running)
    np.testing.assert_array_equal(played.after.episode_length, steps)


def test_memory_starts_afresh_with_each_episode(played):
    t = played.trajectory
    expected, steps = [], np.zeros(NUM_ENVS)
    for over in ended(t):
        expected.append(steps)
        steps = np.where(over, 0.0, steps + 1.0)
    np.testing.assert_array_equal(t.extras["seen"][..., 0], np.stack(expected))
    np.testing.assert_array_equal(t.extras["memory_after"], t.extras["seen"] + 1.0)
    np.testing.assert_array_equal(played.after.memory[:, 0], steps)


def test_two_rollouts_are_one_long_life(played):
    """The second goes on where the first stood: no reset between them, other randomness."""
    key = jax.random.key(2)
    _, second, sums = jax.device_get(
        play_on(key, played.env, played.after, explore=True, auto_reset=True, keep_env_state=False)
    )
    np.testing.assert_array_equal(second.observation[0], played.after.observation)
    assert not np.array_equal(second.action, played.trajectory.action)
    # An episode that ends in the second counts with what the first had of it.
    over, lengths = ended(second), []
    for env in range(NUM_ENVS):
        ends = np.flatnonzero(over[:, env])
        lengths += np.diff(ends, prepend=-1 - played.after.episode_length[env]).tolist()
    assert float(sums.num_episodes) == len(lengths) > 0
    assert float(sums.episode_length) == sum(lengths)


def test_without_reset_an_ended_environment_goes_on_from_its_last_state():
    t = play(CASES["truncates"], auto_reset=False).trajectory
    np.testing.assert_array_equal(t.observation[1:], t.next_observation[:-1])
    assert np.all(t.truncated[8:]) and not np.any(t.truncated[:8])


def test_a_probability_of_ending_discounts_and_does_not_end():
    """Constraints as terminations: the episode goes on, the future counts for less."""
    played = play(SOFT)
    t = played.trajectory
    np.testing.assert_allclose(t.discount[t.observation == 0], 0.9 * 0.75, rtol=1e-6)
    np.testing.assert_array_equal(t.observation[1:], t.next_observation[:-1])
    assert float(played.sums.num_episodes) == 0


def test_environment_states_are_kept_only_when_asked_for():
    assert play(CASES["both"]).trajectory.env_state == ()
    t = play(CASES["both"], explore=False, keep_env_state=True).trajectory
    np.testing.assert_array_equal(t.env_state.index, t.observation)


def test_greedy_play_asks_the_agent_not_to_explore():
    t = play(CASES["both"], explore=False, keep_env_state=True).trajectory
    assert np.all(t.action == 1)


def test_lanes_see_other_randomness(played):
    t = played.trajectory
    assert len(np.unique(t.action, axis=1).T) == NUM_ENVS
