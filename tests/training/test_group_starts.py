"""Rollouts that begin anew, in groups of lanes from one start."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import rules
from jaxrl.agents import NormalisedAgent
from jaxrl.core import Box, Discrete, TimeStep, struct
from jaxrl.envs.wrappers import OneOf, TimeLimit, domain_randomisation
from jaxrl.networks import NetworkSettings
from jaxrl.training import loop, start_training

GROUP, NUM_ENVS, LENGTH = 3, 6, 9


@struct.dataclass
class Countdown:
    """An episode begins at a random height and falls by 1, or by 2 under action 1, to 0; a step
    pays `wage`."""

    wage: float = 1.0

    observation_space = Box(-1.0, 8.0, (1,))
    action_space = Discrete(2)

    def reset(self, key):
        """From 3 to 6."""
        height = jax.random.randint(key, (), 3, 7)
        return height, jnp.float32(height)[None]

    def step(self, key, state, action):
        """Ends at the ground."""
        height = jnp.maximum(state - 1 - action, 0)
        never = jnp.zeros((), bool)
        step = TimeStep(jnp.float32(height)[None], jnp.float32(self.wage), height == 0, never)
        return height, step


class Telling(rules.LeaveOneOut):
    """It remembers what it is told of the last rollout."""

    def init(self, params):
        """Nothing yet."""
        return jnp.zeros((LENGTH, NUM_ENVS), jnp.int32)

    def targets(self, rule_state, outputs, trajectory, progress):
        """And where episodes begin."""
        targets, _ = super().targets((), outputs, trajectory, progress)
        return targets, trajectory.extras["first_step"]


ENV = TimeLimit(domain_randomisation(Countdown(), {"wage": OneOf((1.0, 2.0, 3.0, 4.0))}), 7)
AGENT = jaxrl.ppo(
    rule=Telling(group_size=GROUP),
    network=NetworkSettings(hidden_sizes=(2,)),
    num_envs=NUM_ENVS,
    rollout_length=LENGTH,
    num_minibatches=2,
    num_epochs=2,
    discount=1.0,
    normalise_advantages=False,
)
begin = jax.jit(lambda key, agent: start_training(key, agent, ENV, 1e3))


@jax.jit
def iterate(agent, state):
    """An iteration, with the data that were learned from."""
    after, trajectory, episodes, key = loop.collect(agent, ENV, state)
    learned, _ = agent.update(key, state.agent, trajectory)
    return after.replace(agent=learned), trajectory, episodes


@functools.cache
def rollouts(agent=AGENT):
    """States after three iterations, their trajectories and episode sums."""
    state, found = begin(jax.random.key(4), agent), []
    for _ in range(3):
        state, *rest = iterate(agent, state)
        found.append(jax.device_get((state.agent, *rest)))
    return found


def test_a_group_shares_start_and_parameters_but_no_action():
    starts, wages, actions = [], [], []
    for _, trajectory, _ in rollouts():
        lanes = trajectory.observation[0].reshape(-1, GROUP)
        np.testing.assert_array_equal(lanes, lanes[:, :1].repeat(GROUP, 1))
        paid = trajectory.reward[0].reshape(-1, GROUP)
        np.testing.assert_array_equal(paid, paid[:, :1].repeat(GROUP, 1))
        starts.append(lanes[:, 0].tolist())
        wages.append(paid[:, 0].tolist())
        actions.append(trajectory.action[:3])
    for drawn in (np.array(starts), np.array(wages)):
        assert np.any(drawn != drawn[0]) and np.any(drawn != drawn[:, :1])  # rollouts, groups
    rows = np.concatenate(actions).T.tolist()
    assert len(set(map(tuple, rows))) == NUM_ENVS


def test_first_episodes_alone_are_summed():
    for _, trajectory, episodes in rollouts():
        ended = trajectory.terminated | trajectory.truncated
        lengths = np.argmax(ended, axis=0) + 1
        paid = [trajectory.reward[:n, lane].sum() for lane, n in enumerate(lengths)]
        assert ended.sum() > NUM_ENVS  # others ended as well
        assert episodes.num_episodes == NUM_ENVS
        np.testing.assert_allclose(episodes.episode_length, lengths.sum())
        np.testing.assert_allclose(episodes.episode_return, np.sum(paid), rtol=1e-6)


def test_the_rule_is_told_of_first_episodes_alone():
    for after, trajectory, _ in rollouts():
        ended = trajectory.terminated | trajectory.truncated
        before = np.cumsum(ended, axis=0) - ended
        np.testing.assert_array_equal(after.rule_state, np.where(before == 0, 0, -1))
        assert np.any(before > 0) and np.all(after.marks.starts)  # the next one begins anew


def test_a_run_goes_on_where_it_stopped():
    """What was on its way is not needed: every rollout begins anew."""
    state, _, _ = iterate(AGENT, begin(jax.random.key(4), AGENT))
    elsewhere = begin(jax.random.key(9), AGENT).rollout
    after, trajectory, _ = iterate(AGENT, state.replace(rollout=elsewhere))
    for one, other in zip(
        jax.tree.leaves((after.agent, trajectory)), jax.tree.leaves(rollouts()[1][:2]), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@struct.dataclass
class Idle:
    """Learns nothing, in groups."""

    num_envs, rollout_length, discount, group_size = NUM_ENVS, LENGTH, 1.0, GROUP

    def init(self, key, env, total_steps):
        """Nothing."""
        return ()

    def update(self, key, state, trajectory):
        """Nothing."""
        return (), {}


def test_normalised_sums_of_rewards_begin_anew():
    assert NormalisedAgent(AGENT).group_size == GROUP
    assert not hasattr(NormalisedAgent(jaxrl.dqn()), "group_size")
    agent, key, trajectory = NormalisedAgent(Idle()), jax.random.key(0), rollouts()[0][1]
    state = agent.init(key, ENV)
    old = state.replace(accumulated=jnp.full(NUM_ENVS, 50.0))
    found = [agent.update(key, one, trajectory)[0].returns.mean for one in (state, old)]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"num_envs": 8}, "groups of 3 lanes from one start, into which num_envs=8"),
        ({"num_envs": 9}, "num_envs / 3 lanes of a group = 3 does not divide"),
        ({"rollout_length": 6}, "one may take 7 steps, and a rollout has 6"),
        ({"normalise_advantages": True}, "set normalise_advantages=False"),
    ],
)
def test_what_does_not_fit_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        AGENT.replace(**changes).check(ENV)


@pytest.mark.slow
def test_nothing_begins_anew_without_groups():
    agent = AGENT.replace(rule=rules.ProximalPolicy())
    first, second = (trajectory for _, trajectory, _ in rollouts(agent)[:2])
    ended = first.terminated[-1] | first.truncated[-1]
    kept = first.next_observation[-1] == second.observation[0]
    assert np.all(kept[~ended]) and not np.all(ended)
