"""Chains of parts and of lagged copies: what each hook of a learner from replay does, by hand."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import FROM_REPLAY, HALF, Line, filled, kernel, rows, started

from jaxrl.agents import PRESETS, IteratedCopies, RewardShift, TargetUpdate
from jaxrl.core import Array, PartFacts, setting, struct
from jaxrl.envs.wrappers import TimeLimit
from jaxrl.replay import UniformReplay
from jaxrl.training import sweep

KEY = jax.random.key(0)
REPLAY = {"replay": UniformReplay(8, store_next=True)}
ONLINE = np.array([[2.0, 1.0], [1.0, 3.0], [0.0, 9.0]])
LAGGED = np.array([[7.0, 5.0], [10.0, 4.0], [6.0, -2.0]])
TAKEN = rows((0, 1.0, 1, ""), (0, 1.0, 1, ""))  # from state 0 to 1, with a reward of 1


@jax.jit
def update(agent, state, data):
    return agent.update(KEY, state, data)


def stepped(agent, online=ONLINE, lagged=LAGGED, data=TAKEN):
    """The state before and after one update on `data`, and the metrics."""
    state = started(agent, Line())
    before = state.replace(
        params=filled(state.params, advantage=online),
        target_params=filled(state.target_params, advantage=lagged),
    )
    return before, *jax.device_get(update(agent, before, data))


# --- the hooks ------------------------------------------------------------------------------------


@struct.dataclass
class Everything:
    """Every hook, each by a number of its own."""

    size: float = setting(1.0, "of all that it does")

    facts = PartFacts()

    def init(self, key, agent, env, params):
        """A count."""
        return jnp.zeros(())

    def relabelled(self, key, state, agent, data):
        """Rewards of 1 become 3."""
        return data.replace(reward=data.reward + 2.0 * self.size)

    def reward(self, key, state, step, lookahead):
        """And then 4."""
        return lookahead.replace(reward=lookahead.reward + self.size)

    def weigh(self, state, step, td_error):
        """Half of it, where it is above."""
        return jnp.where(td_error > 0, 0.5 * self.size, 1.0)

    def penalty(self, state, step, params):
        """A slope of 1 in the entry (2, 0)."""
        return jnp.sum(step.state.model.apply(params, jnp.array([2]))[0, 0] * self.size)

    def update(self, state, step, target, lagged):
        """What the lagged copy is off by."""
        return state + jnp.mean(target.mean() - lagged)

    def metrics(self, state) -> dict[str, Array]:
        """The sum so far."""
        return {"everything": state}


def test_every_hook_of_a_part_does_its_work():
    """Target 4 + 10 / 2 = 9 for the entry of 2: half of the error is 3.5; the lagged one is 7."""
    agent = PRESETS["dqn"]().replace(**FROM_REPLAY | REPLAY | {"parts": (Everything(),)})
    before, after, metrics = stepped(agent)
    moved = kernel(after.params, "advantage") - kernel(before.params, "advantage")
    np.testing.assert_allclose(moved, [[3.5, 0.0], [0.0, 0.0], [-1.0, 0.0]], rtol=1e-5)
    np.testing.assert_allclose(after.parts[0], 9.0 - 7.0, rtol=1e-6)
    np.testing.assert_allclose(metrics["everything"], 2.0, rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], 0.5 * 7.0**2 / 2 + 0.0, rtol=1e-5)


def test_critics_of_box_actions_call_the_same_hooks():
    """The target of a shifted critic is higher by (1 - d) K, and what is read lower by K."""
    base = {name: FROM_REPLAY[name] for name in FROM_REPLAY if name != "replay"}
    data = rows((0, 1.0, 1, ""), (0, 1.0, 1, ""), discrete=False)
    for shift in (0.0, -1.0, 1.0):  # K = 2 shift; all critics are 0, before the step
        agent = PRESETS["td3"]().replace(**base | REPLAY | {"parts": (RewardShift(shift),)})
        state = started(agent, Line(discrete=False))
        state = state.replace(learner=jax.tree.map(np.zeros_like, state.learner))
        _, metrics = jax.device_get(update(agent, state, data))
        read = agent.q_values(state, np.zeros(1, np.int32), np.zeros((1, 1), np.float32))
        np.testing.assert_allclose(metrics["critic_loss"], (1.0 + shift) ** 2 / 2, atol=1e-6)
        np.testing.assert_allclose(metrics["q_value"], -2.0 * shift, atol=1e-6)
        np.testing.assert_allclose(read, np.full((2, 1), -2.0 * shift), atol=1e-6)


@pytest.mark.slow
def test_the_number_of_a_part_is_swept_by_path():
    agent = PRESETS["dqn"]().replace(**FROM_REPLAY | {"parts": (RewardShift(0.0),)})
    over = {"parts.reward_shift.shift": (0.0, -1.0)}
    result = sweep(KEY, agent, TimeLimit(Line(), 4), num_steps=64, num_seeds=2, over=over)
    assert [one["parts.reward_shift.shift"] for one in result.settings] == [0.0, -1.0]


# --- lagged copies --------------------------------------------------------------------------------


def test_copies_inside_a_chain_are_refreshed_and_the_first_moves_with_the_window_alone():
    """Network k counts up by k + 1 from 10 k; refreshed after 2, 4, ..., the window after 3."""
    copies = IteratedCopies(num_networks=3, period=3, refresh=2)
    online, lagged = np.array([0.0, 10.0, 20.0]), np.array([-1.0, 0.0, 10.0])
    assert copies.init(np.array([1.0, 2.0, 3.0])).tolist() == [1.0, 1.0, 2.0]
    seen = []
    for count in range(1, 5):
        online = online + np.array([1.0, 2.0, 3.0])
        lagged = copies.move(lagged, online, count)
        online = np.asarray(copies.shift(online, count))
        seen.append((lagged.tolist(), online.tolist()))
    assert seen == [
        ([-1.0, 0.0, 10.0], [1.0, 12.0, 23.0]),
        ([-1.0, 2.0, 14.0], [2.0, 14.0, 26.0]),  # copy 0 stays
        ([3.0, 16.0, 29.0], [16.0, 29.0, 29.0]),  # all of them, then each one place down
        ([3.0, 17.0, 31.0], [17.0, 31.0, 32.0]),
    ]


@functools.cache
def iterated():
    """Two networks one step each: the first from LAGGED, the second from a copy of 3 LAGGED."""
    target = IteratedCopies(num_networks=2, period=100, refresh=100)
    agent = PRESETS["iterated_dqn"]().replace(**FROM_REPLAY | REPLAY | {"target": target})
    return agent, *stepped(agent, [ONLINE, ONLINE + 1.0], [LAGGED, 3.0 * LAGGED])


def test_each_network_moves_to_the_backup_of_the_copy_before_it():
    """1 + 10 / 2 = 6 for the entry of 2, and 1 + 30 / 2 = 16 for that of 3."""
    _, before, after, metrics = iterated()
    moved = kernel(after.params, "advantage") - kernel(before.params, "advantage")
    expected = np.zeros((2, 3, 2))
    expected[:, 0, 0] = [4.0, 13.0]
    np.testing.assert_allclose(moved, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], (4.0**2 + 13.0**2) / 4, rtol=1e-5)


def test_environments_act_by_networks_that_they_draw_and_the_reader_is_the_mean():
    agent, before, _, _ = iterated()
    opposed = before.replace(params=filled(before.params, advantage=[ONLINE, -ONLINE]))
    here = np.zeros(2000, np.int32)
    action, _ = jax.jit(lambda key: agent.act(key, opposed, here, explore=False))(KEY)
    assert abs(np.mean(action) - 0.5) < 0.05  # 2 > 1 by one network, -2 < -1 by the other
    values = agent.q_values(before, here[:1])
    np.testing.assert_allclose(values, ONLINE[:1] + 0.5, rtol=1e-6)


def test_one_network_is_the_usual_copy():
    plain = PRESETS["dqn"]().replace(**FROM_REPLAY | REPLAY | {"num_updates": 5})
    found = []
    for target in (TargetUpdate(2, 1.0), IteratedCopies(1, period=2, refresh=3)):
        agent = plain.replace(target=target)
        state = started(agent, Line())
        after, metrics = jax.device_get(update(agent, state, TAKEN))
        found.append((after.params, after.target_params, after.optimiser, metrics))
    one, chain = (jax.tree.leaves(tree) for tree in found)
    for left, right in zip(one, chain, strict=True):
        np.testing.assert_allclose(left, np.reshape(right, np.shape(left)), rtol=1e-6, atol=1e-7)


assert HALF == 0.5  # as the sums above have it
