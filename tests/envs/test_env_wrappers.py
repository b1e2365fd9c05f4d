"""Wrappers: a table of contracts, then the law of each on environments with known answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.core import Box, TimeStep, outcome_mdp, struct
from jaxrl.envs import TabularEnv
from jaxrl.envs.wrappers import (
    DiscreteActions,
    EpisodeStatistics,
    FrameStack,
    NoisyActions,
    NormaliseObservation,
    NormaliseReward,
    ObservationNoise,
    RewardNoise,
    RewardScale,
    RunningMoments,
    StickyActions,
    TimeLimit,
)

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


@struct.dataclass
class Echo:
    """Observes (time, executed action), pays `reward`, ends at `length`."""

    reward: float = 1.0
    length: float = float("inf")
    size: int = struct.field(pytree_node=False, default=1)

    @property
    def observation_space(self):
        return Box(-jnp.inf, jnp.inf, (1 + self.size,))

    @property
    def action_space(self):
        return Box(-2.0, 2.0, (self.size,))

    def reset(self, key):
        return jnp.zeros((), jnp.int32), jnp.zeros((1 + self.size,))

    def step(self, key, state, action):
        state = state + 1
        return state, TimeStep(
            observation=jnp.append(state.astype(jnp.float32), action),
            reward=jnp.asarray(self.reward, jnp.float32),
            terminated=state >= self.length,
            truncated=jnp.zeros((), bool),
            cost=jnp.zeros((0,)),
            info={},
        )


def mover(num_states=10):
    """Action a moves to state a, whatever the state: the observation tells the executed action."""
    actions = np.broadcast_to(np.arange(num_states)[:, None], (num_states, num_states, 1))
    return TabularEnv(outcome_mdp(np.ones(actions.shape), actions, np.zeros(actions.shape)))


@jax.jit
def trace(env, key, actions):
    """First observation and the time steps of one episode under given actions."""
    state, first = env.reset(key)
    keys = jax.random.split(key, actions.shape[0])
    state, steps = jax.lax.scan(
        lambda state, pair: env.step(pair[0], state, pair[1]), state, (keys, actions)
    )
    return first, steps, state


WRAPPERS = {
    "TimeLimit": lambda env: TimeLimit(env, 5),
    "EpisodeStatistics": EpisodeStatistics,
    "StickyActions": StickyActions,
    "NoisyActions": NoisyActions,
    "ObservationNoise": ObservationNoise,
    "RewardNoise": RewardNoise,
    "RewardScale": RewardScale,
    "FrameStack": FrameStack,
    "NormaliseObservation": NormaliseObservation.start,
    "NormaliseReward": NormaliseReward,
}
IDENTITIES = {
    "TimeLimit": lambda env: TimeLimit(env, 1000),
    "EpisodeStatistics": EpisodeStatistics,
    "StickyActions": lambda env: StickyActions(env, 0.0),
    "NoisyActions": lambda env: NoisyActions(env, 0.0, 0.0),
    "ObservationNoise": lambda env: ObservationNoise(env, 0.0),
    "RewardNoise": lambda env: RewardNoise(env, 0.0),
    "RewardScale": RewardScale,
    "FrameStack": lambda env: FrameStack(env, 1),
    "NormaliseObservation": lambda env: NormaliseObservation.start(env).replace(epsilon=0.0),
    "NormaliseReward": lambda env: NormaliseReward(env, epsilon=0.0),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_types_agree_and_match_the_space(name):
    env = WRAPPERS[name](Echo())
    state, observation = jax.eval_shape(lambda e: e.reset(KEY), env)
    next_state, step = jax.eval_shape(
        lambda e, s: e.step(KEY, s, jnp.zeros(e.action_space.shape)), env, state
    )
    assert jax.tree.structure(state) == jax.tree.structure(next_state)
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(next_state), strict=True):
        assert (before.shape, before.dtype) == (after.shape, after.dtype)
        assert not before.weak_type and not after.weak_type
    assert (observation.shape, observation.dtype) == (step.observation.shape, jnp.float32)
    assert env.observation_space.shape == observation.shape
    assert (step.reward.shape, step.reward.dtype) == ((), jnp.float32)


QUICK = ("StickyActions", "NormaliseObservation")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in IDENTITIES]
)
def test_neutral_settings_change_nothing(name):
    actions = np.linspace(-1.0, 1.0, 6, dtype=np.float32)[:, None]
    first, steps, _ = trace(IDENTITIES[name](Echo()), KEY, actions)
    plain_first, plain, _ = trace(Echo(), KEY, actions)
    np.testing.assert_array_equal(first, plain_first)
    for part in ("observation", "reward", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(steps, part), getattr(plain, part))


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_changed_float_does_not_retrace(name):
    traces = []

    @jax.jit
    def count(env):
        traces.append(1)
        return env.step(KEY, env.reset(KEY)[0], jnp.zeros((1,)))[1].reward

    for reward in (1.0, 2.0):
        jax.eval_shape(count, WRAPPERS[name](Echo(reward)))
    assert len(traces) == 1


def test_time_limit_truncates_but_an_end_wins():
    actions = np.zeros((4, 1), np.float32)
    _, free, _ = trace(TimeLimit(Echo(), 3), KEY, actions)
    assert free.truncated.tolist() == [False, False, True, True]
    assert not np.any(free.terminated)
    _, ending, _ = trace(TimeLimit(Echo(length=3.0), 3), KEY, actions)
    assert ending.terminated.tolist() == [False, False, True, True]
    assert not np.any(ending.truncated)


def test_time_limit_as_horizon_terminates():
    _, steps, _ = trace(TimeLimit(TimeLimit(Echo(), 3), 3, True), KEY, np.zeros((4, 1), np.float32))
    assert steps.terminated.tolist() == [False, False, True, True]
    assert not np.any(steps.truncated)


def test_time_limit_is_a_leaf():
    limits = np.array([1, 2, 3])
    actions = np.zeros((3, 1), np.float32)
    each = jax.jit(jax.vmap(lambda limit: trace(TimeLimit(Echo(), limit), KEY, actions)))
    np.testing.assert_array_equal(each(limits)[1].truncated, np.arange(1, 4) >= limits[:, None])


def test_episode_statistics_by_hand():
    _, steps, state = trace(EpisodeStatistics(Echo(reward=1.5)), KEY, np.zeros((3, 1), np.float32))
    assert steps.info["episode_return"].tolist() == [1.5, 3.0, 4.5]
    assert steps.info["episode_length"].tolist() == [1, 2, 3]
    fresh, _ = EpisodeStatistics(Echo()).reset(KEY)
    assert (float(fresh.kept[0]), int(fresh.kept[1])) == (0.0, 0)
    assert int(state.kept[1]) == 3


@pytest.mark.slow
def test_sticky_actions_repeat_for_ever_at_probability_one():
    _, steps, _ = trace(StickyActions(mover(), 1.0), KEY, np.int32([7, 1, 2, 3]))
    # The first action is executed although there is none before it: the memory is the episode's.
    assert steps.observation.tolist() == [7, 7, 7, 7]


def test_sticky_actions_repeat_at_their_rate():
    actions = RNG.integers(0, 10, 4000).astype(np.int32)
    _, steps, _ = trace(StickyActions(mover(), 0.25), KEY, actions)
    seen = np.asarray(steps.observation)
    repeated = seen[1:] == seen[:-1]
    # Stuck with 0.25, else the same by chance in one of ten: 0.25 + 0.75 * 0.1; error 0.0074.
    assert abs(repeated.mean() - 0.325) < 0.037


@pytest.mark.parametrize("probability", [0.3, 1.0])
def test_noisy_discrete_actions_are_uniform(probability):
    _, steps, _ = trace(NoisyActions(mover(), probability), KEY, np.full((4000,), 4, np.int32))
    shares = np.bincount(np.asarray(steps.observation), minlength=10) / 4000
    expected = np.full(10, probability / 10) + (1 - probability) * np.eye(10)[4]
    np.testing.assert_allclose(shares, expected, atol=5 * 0.5 / np.sqrt(4000))


def test_noisy_box_actions_are_gaussian_and_clipped():
    env = NoisyActions(Echo(size=4000), scale=0.5)
    _, steps, _ = trace(env, KEY, np.zeros((1, 4000), np.float32))
    executed = np.asarray(steps.observation)[0, 1:]
    assert abs(float(executed.mean())) < 5 * 0.5 / np.sqrt(4000)
    assert abs(float(executed.std()) - 0.5) < 0.03
    _, steps, _ = trace(env, KEY, np.full((1, 4000), 1.9, np.float32))
    assert np.asarray(steps.observation)[0, 1:].max() == 2.0


def test_observation_noise_leaves_the_state_alone():
    env = Echo(size=4000)
    first, steps, state = jax.device_get(
        trace(ObservationNoise(env, 0.5), KEY, np.zeros((2, 4000), np.float32))
    )
    for seen in (first[1:], steps.observation[0, 1:], steps.observation[1, 1:]):
        assert abs(float(seen.mean())) < 5 * 0.5 / np.sqrt(4000)
        assert abs(float(seen.std()) - 0.5) < 0.03
    assert not np.array_equal(steps.observation[0], steps.observation[1])
    assert int(state) == 2


@pytest.mark.parametrize("wrapper", [ObservationNoise, NormaliseObservation.start, FrameStack])
def test_float_observations_are_asked_for(wrapper):
    with pytest.raises(ValueError, match="needs"):
        _ = wrapper(mover()).observation_space


def test_reward_noise_and_scale():
    _, steps, _ = jax.device_get(
        trace(RewardNoise(Echo(2.0), 0.5), KEY, np.zeros((4000, 1), np.float32))
    )
    assert abs(float(steps.reward.mean()) - 2.0) < 5 * 0.5 / np.sqrt(4000)
    assert abs(float(steps.reward.std()) - 0.5) < 0.03
    _, steps, _ = trace(RewardScale(Echo(2.0), -0.25), KEY, np.zeros((2, 1), np.float32))
    assert steps.reward.tolist() == [-0.5, -0.5]


@pytest.mark.slow
def test_frame_stack_keeps_order_and_fills_at_reset():
    actions = np.float32([[0.1], [0.2], [0.3]])
    first, steps, _ = jax.device_get(trace(FrameStack(Echo(), 3), KEY, actions))
    np.testing.assert_allclose(first, np.zeros(6))
    np.testing.assert_allclose(steps.observation[0], [0, 0, 0, 0, 1, 0.1])
    np.testing.assert_allclose(steps.observation[2], [1, 0.1, 2, 0.2, 3, 0.3])
    assert bool(FrameStack(Echo(), 3).observation_space.contains(first))


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_running_moments_in_pieces_are_those_of_the_whole(offset):
    samples = (offset + RNG.normal(size=(600, 3)) * [1.0, 2.0, 5.0]).astype(np.float32)
    moments = RunningMoments.start((3,))
    merged = jax.jit(lambda moments, piece: moments.merged(piece))
    for piece in np.split(samples, 6):
        moments = merged(moments, piece)
    one = jax.jit(lambda moments, piece: moments.merged(piece[:, None]))  # any leading axes
    jax.tree.map(np.testing.assert_array_equal, one(moments, samples), merged(moments, samples))
    exact = np.asarray(samples, np.float64)
    np.testing.assert_allclose(moments.mean, exact.mean(axis=0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(moments.variance, exact.var(axis=0), rtol=1e-3 if offset else 1e-5)
    assert float(moments.count) == 600


def test_normalise_observation_whitens_what_it_has_counted():
    env = NormaliseObservation.start(Echo())
    batch = (3.0 + 2.0 * RNG.normal(size=(4, 50, 2))).astype(np.float32)
    updated = jax.jit(lambda env, batch: env.updated(batch))(env, batch)
    normalised = jax.jit(lambda env, batch: env.normalised(batch))
    seen = np.asarray(normalised(updated, batch))
    np.testing.assert_allclose(seen.mean(axis=(0, 1)), 0.0, atol=1e-5)
    np.testing.assert_allclose(seen.var(axis=(0, 1)), 1.0, atol=1e-4)
    assert float(env.moments.count) == 0.0  # the old wrapper is unchanged
    _, steps, _ = trace(updated, KEY, np.zeros((2, 1), np.float32))
    raw = np.asarray(steps.info["raw_observation"])
    spread = np.sqrt(batch.var(axis=(0, 1)) + 1e-8)
    np.testing.assert_allclose(
        steps.observation, (raw - batch.mean(axis=(0, 1))) / spread, rtol=1e-4
    )
    np.testing.assert_array_equal(raw[:, 0], [1.0, 2.0])
    far = np.full((4, 50, 2), 1e6, np.float32)
    np.testing.assert_array_equal(normalised(updated, far), 10.0)


def test_normalise_reward_accumulates_and_divides():
    env = NormaliseReward(Echo(2.0), discount=0.5, epsilon=0.0)
    _, steps, _ = trace(env, KEY, np.zeros((3, 1), np.float32))
    assert steps.info["discounted_return"].tolist() == [2.0, 3.0, 3.5]
    assert steps.reward.tolist() == [2.0, 2.0, 2.0]  # no statistics yet: nothing changes
    counted = jax.jit(lambda env: env.updated(np.float32([1.0, 5.0])))(env)  # variance 4
    _, steps, _ = trace(counted, KEY, np.zeros((1, 1), np.float32))
    assert steps.reward.tolist() == [1.0]
    assert steps.info["raw_reward"].tolist() == [2.0]
    assert float(env.reset(KEY)[0].kept) == 0.0


@pytest.mark.slow
def test_normalise_reward_does_not_see_the_scale_of_rewards():
    def normalised(scale):
        env = NormaliseReward(RewardNoise(Echo(0.0), 1.0), epsilon=0.0)
        env = env.replace(env=RewardScale(env.env, scale))
        _, steps, _ = trace(env, KEY, jnp.zeros((50, 1)))
        env = env.updated(steps.info["discounted_return"])
        return trace(env, KEY, jnp.zeros((50, 1)))[1].reward

    np.testing.assert_allclose(normalised(1.0), normalised(100.0), rtol=1e-4)


def test_discrete_actions_are_a_grid_of_the_box():
    """Two numbers of three values: the last one changes fastest, and both ends are there."""
    env = DiscreteActions(Echo(size=2), 3)
    grid = [(a, b) for a in (-2.0, 0.0, 2.0) for b in (-2.0, 0.0, 2.0)]
    assert env.action_space.num_values == 9
    _, steps, _ = trace(env, KEY, np.arange(9, dtype=np.int32))
    _, plain, _ = trace(Echo(size=2), KEY, np.float32(grid))
    np.testing.assert_array_equal(steps.observation, plain.observation)


def test_discrete_actions_need_a_bounded_box():
    with pytest.raises(ValueError, match="finite bounds"):
        _ = DiscreteActions(mover()).action_space
    with pytest.raises(ValueError, match="num_values"):
        DiscreteActions(Echo(), 1)
