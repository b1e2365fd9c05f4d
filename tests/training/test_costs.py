"""Costs and channels of rewards, from the environment to rollouts, evaluation and replay."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import rules
from jaxrl.core import Box, Discrete, TimeStep, Transition, struct
from jaxrl.envs.wrappers import ScalarReward
from jaxrl.networks import NetworkSettings
from jaxrl.replay import EpisodeReplay, UniformReplay
from jaxrl.training import rollout, start_rollout

KEY = jax.random.key(0)


@struct.dataclass
class Toll:
    """Lasts `length` steps; step t costs t and, where the action is 1, 10; pays 1 and t."""

    length: float = 3.0
    is_vector: bool = struct.field(pytree_node=False, default=False)
    soft_end: float = struct.field(pytree_node=False, default=0.0)

    observation_space = Box(0.0, 100.0, (1,))
    action_space = Discrete(2)

    def reset(self, key):
        return jnp.zeros((), jnp.int32), jnp.zeros(1)

    def step(self, key, state, action):
        time = (state + 1).astype(jnp.float32)
        over = time >= self.length
        channels = jnp.stack([jnp.ones(()), time])
        return state + 1, TimeStep(
            observation=time[None],
            reward=channels if self.is_vector else channels[0],
            terminated=jnp.where(over, 1.0, self.soft_end) if self.soft_end else over,
            truncated=jnp.zeros((), bool),
            cost=jnp.stack([time, 10.0 * (action == 1)]),
        )


@struct.dataclass
class Player:
    """Pays the second toll where its environment's number is odd."""

    num_envs: int = struct.field(pytree_node=False, default=2)
    rollout_length: int = struct.field(pytree_node=False, default=7)
    discount: float = 0.9

    def initial_memory(self, num_envs):
        return ()

    def act(self, key, state, observation, explore=True, memory=()):
        return jnp.arange(observation.shape[0]) % 2, {}


@functools.partial(jax.jit, static_argnames="is_vector")
def played(env, is_vector):
    env = env.replace(is_vector=is_vector)
    return rollout(KEY, Player(), env, (), start_rollout(KEY, Player(), env))


def test_a_rollout_sums_costs_by_episode():
    """Two whole episodes of each: 1 + 2 + 3 of the first cost, 0 or 30 of the second."""
    after, trajectory, sums = played(Toll(), False)
    assert trajectory.cost.shape == (7, 2, 2)
    np.testing.assert_array_equal(trajectory.cost[:, 0, 0], [1, 2, 3, 1, 2, 3, 1])
    np.testing.assert_array_equal(trajectory.cost[:, 1, 1], [10] * 7)
    assert {name: float(total) for name, total in sums.signals.items()} == {
        "episode_cost_0": 24.0,
        "episode_cost_1": 60.0,
    }
    np.testing.assert_array_equal(after.signals["episode_cost_1"], [0, 10])


def test_channels_of_a_reward_are_summed_apart_and_together():
    _, trajectory, sums = played(Toll(), True)
    assert trajectory.reward.shape == (7, 2, 2)
    found = [float(sums.signals[f"episode_return_{i}"]) for i in range(2)]
    assert found == [12.0, 24.0] and float(sums.episode_return) == 36.0


def test_a_cost_counts_with_the_chance_that_its_step_is_reached():
    """Half the time each: 1 + 2 / 2 + 3 / 4 an episode."""
    _, _, sums = played(Toll(soft_end=0.5), False)
    assert float(sums.signals["episode_cost_0"]) == 4 * 2.75


def test_without_costs_there_are_none():
    env = jaxrl.envs.make("CartPole")
    state = jax.eval_shape(lambda: start_rollout(KEY, Player(), env))
    _, trajectory, sums = jax.eval_shape(
        lambda state: rollout(KEY, Player(), env, (), state), state
    )
    assert trajectory.cost == () and sums.signals == state.signals == {}
    result = jaxrl.evaluate(KEY, Player(), env, (), num_episodes=2, max_steps=3)
    assert result.costs == () and "cost_0" not in result.summary()


def test_evaluation_tells_the_costs_of_every_episode():
    played = jaxrl.evaluate(KEY, Player(), Toll(), (), num_episodes=2, max_steps=9)
    np.testing.assert_array_equal(played.costs, [[6, 0], [6, 30]])
    summary = played.summary()
    assert (summary["cost_0"], summary["cost_1"]) == (6.0, 15.0)


def test_evaluation_over_a_grid_tells_means_and_the_greatest():
    """Lengths 2 and 3: 3 and 6 of the first cost; 0 or 20, 0 or 30 of the second."""
    env = Toll(is_vector=True)
    over = {"length": [2.0, 3.0]}
    played = jaxrl.evaluate(KEY, Player(), env, (), num_episodes=2, max_steps=9, over=over)
    assert played.costs.shape == played.channels.shape == (2, 2, 2)
    np.testing.assert_array_equal(played.evaluation(1).costs, [[6, 0], [6, 30]])
    np.testing.assert_array_equal(played.evaluation(0).channels, [[2, 3]] * 2)
    np.testing.assert_array_equal(played.returns, [[5, 5], [9, 9]])
    found = played.summary(num_resamples=100)
    assert [found[name].value for name in ("cost_0", "worst_cost_0")] == [4.5, 6.0]
    assert [found[name].value for name in ("cost_1", "worst_cost_1")] == [12.5, 15.0]
    assert found["return_1"].value == 4.5 and "worst_return_1" not in found
    assert (found["worst_cost_1"].low, found["worst_cost_1"].high) == (0.0, 30.0)


SMALL = {"num_envs": 2, "rollout_length": 8, "num_minibatches": 1, "num_epochs": 1}
SMALL["network"] = NetworkSettings(hidden_sizes=(), initialiser="lecun")


def test_training_records_costs_prices_and_gaps():
    """No episode ends in the first record: no mean, and the price stands still."""
    rule = rules.Lagrangian(budgets=(5.0, 5.0), multiplier_step=0.1)
    agent = jaxrl.ppo(rule=rule, **SMALL)
    env = Toll(length=12.0)
    run = jax.jit(lambda key: jaxrl.train(key, agent, env, num_steps=32, num_records=2).metrics)
    metrics = jax.device_get(run(KEY))
    assert np.isnan(metrics["episode_cost_0"][0]) and metrics["episode_cost_0"][1] == 78.0
    np.testing.assert_array_equal(metrics["multiplier_0"][0], 0.0)
    # All costs since the start, 1 + ... + 12 and 1 + ... + 4, in an episode each: 88 less 5.
    np.testing.assert_allclose(metrics["multiplier_0"][1], 8.3, rtol=1e-6)
    assert metrics["cost_0"][1] == 88.0 and "multiplier_1" in metrics


@pytest.mark.parametrize("name", ["ppo", "dqn", pytest.param("pqn", marks=pytest.mark.slow)])
def test_channels_need_weights(name):
    agent, env = jaxrl.agents.preset(name), Toll(is_vector=True)
    with pytest.raises(ValueError, match=r"2 rewards.*ScalarReward\(env, weights\)"):
        jax.eval_shape(lambda: jaxrl.train(KEY, agent, env, num_steps=1, num_records=1))
    weighed = ScalarReward(env, (1.0, 0.5))
    jax.eval_shape(lambda: jaxrl.train(KEY, agent, weighed, num_steps=1, num_records=1))
    state, _ = weighed.reset(KEY)
    assert float(weighed.step(KEY, state, jnp.array(0))[1].reward) == 1.5
    with pytest.raises(ValueError, match="one weight for each"):
        ScalarReward(env, (1.0,)).step(KEY, state, jnp.array(0))


def test_a_rule_refuses_another_number_of_costs():
    agent = jaxrl.ppo(rule=rules.Lagrangian(budgets=1.0))
    for env, count in ((Toll(), 2), (jaxrl.envs.make("CartPole"), 0)):
        with pytest.raises(ValueError, match=f"each of 1 costs.* have {count}"):
            jax.eval_shape(lambda env=env: jaxrl.train(KEY, agent, env, num_steps=1, num_records=1))


@functools.partial(jax.jit, static_argnames="is_kept")
def stored(replay, is_kept=True):
    """Rows with costs (t, 10 t), rewards t, discount 1/2 and an end at row 2."""
    time = np.arange(1.0, 6.0, dtype=np.float32)[:, None]
    cost = np.stack([time, 10 * time], axis=-1) if is_kept else ()
    over = time == 3
    discount = np.float32(0.5) * ~over
    no = np.zeros_like(over)
    rows = Transition(time, time, time, discount, time, over, no, {}, cost=cost)
    state = replay.init(jax.tree.map(lambda leaf: leaf[0], rows))
    return replay.add(state, rows)


@jax.jit
def draw(replay, state):
    return replay.sample(KEY, state, 40)


def test_replay_sums_costs_as_it_does_rewards():
    """From row 1 two steps: 1 + 2 / 2; from row 3 the end comes at once."""
    replay = UniformReplay(capacity=5, num_step=2)
    drawn = jax.device_get(draw(replay, stored(replay))).transition
    assert set(np.unique(drawn.observation)) == {1, 2, 3, 4}
    np.testing.assert_array_equal(drawn.cost[:, 0], drawn.reward)
    np.testing.assert_array_equal(drawn.cost[:, 1], 10 * drawn.reward)
    assert set(np.asarray(drawn.cost[drawn.observation == 1, 0])) == {2.0}
    state = jax.eval_shape(lambda: stored(replay, is_kept=False))
    assert jax.eval_shape(draw, replay, state).transition.cost == ()


def test_sequences_keep_the_costs_of_their_steps():
    replay = EpisodeReplay(capacity=5, length=3)
    drawn = jax.device_get(draw(replay, stored(replay))).transition
    np.testing.assert_array_equal(drawn.cost[..., 1], 10 * drawn.reward)


def test_learners_from_replay_do_not_keep_costs():
    agent = jaxrl.dqn(warmup=0)
    state = jax.eval_shape(lambda: agent.init(KEY, Toll()))
    assert state.replay.memory.cost == ()
