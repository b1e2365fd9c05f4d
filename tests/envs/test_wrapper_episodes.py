"""What wrappers keep belongs to one episode of one lane: exact examples through the rollout.

Three lanes of six steps: the first terminates after its third step, the second is truncated there,
the third runs on. All wrappers play in one program, some of them one over the other; what each
should give is worked out in plain Python from its docstring.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.key_reuse._core import KeyReuseError, check_key_reuse

from jaxrl.core import Box, TimeStep, struct
from jaxrl.envs.wrappers import (
    DiscreteActions,
    EpisodeStatistics,
    ExpectedConditionalRisk,
    FrameStack,
    HeldActions,
    NoisyActions,
    NormaliseObservation,
    NormaliseReward,
    ObservationNoise,
    RewardNoise,
    RewardScale,
    RunningMoments,
    StickyActions,
    Stock,
    TimeLimit,
    Uniform,
    domain_randomisation,
)
from jaxrl.training import rollout, start_rollout

NUM_STEPS, NUM_LANES, END = 6, 3, 2
TERMINATES, TRUNCATES = 1.0, -1.0
# Steps pay 1 to 6 in the first lane, 11 to 16 in the second, 21 to 26 in the third.
PAY = np.arange(1.0, 7.0)[:, None] + 10.0 * np.arange(3)
ENDS = np.zeros((NUM_STEPS, NUM_LANES))
ENDS[END] = TERMINATES, TRUNCATES, 0.0
FIRST = np.zeros((NUM_STEPS, NUM_LANES), bool)
FIRST[0] = FIRST[END + 1, :2] = True  # steps that begin an episode
TIME = np.array([[0, 0, 0], [1, 1, 1], [2, 2, 2], [0, 0, 3], [1, 1, 4], [2, 2, 5]])  # in it


@struct.dataclass
class Told:
    """Does as it is told: an action (pay, end, ...) pays the first, and ends by the second.

    Observes (time in the episode, action executed last).
    """

    bonus: float = 0.0  # added to every reward

    @property
    def observation_space(self):
        return Box(-jnp.inf, jnp.inf, (2,))

    @property
    def action_space(self):
        return Box(-100.0, 100.0, (2,))

    def reset(self, key):
        return jnp.zeros((), jnp.float32), jnp.zeros(2)

    def step(self, key, state, action):
        state = state + 1.0
        return state, TimeStep(
            observation=jnp.stack([state, action[0]]),
            reward=action[0] + self.bonus,
            terminated=action[1] == TERMINATES,
            truncated=action[1] == TRUNCATES,
            cost=jnp.zeros((0,)),
            info={},
        )


@struct.dataclass
class Script:
    """Plays the actions that stand for the agent's state."""

    num_envs: int = struct.field(pytree_node=False, default=NUM_LANES)
    rollout_length: int = struct.field(pytree_node=False, default=1)
    discount: float = 0.5

    def initial_memory(self, num_envs):
        return ()

    def act(self, key, state, observation, explore=True, memory=()):
        return state, {}


def moments(mean, variance):
    mean, variance = np.float32(mean), np.float32(variance)
    return RunningMoments(mean, variance, np.float32(100.0))


THRESHOLD = 4.0 * np.ones((NUM_STEPS, NUM_LANES))
THRESHOLD[1] = -3.0
ACTION = np.stack([PAY, ENDS], axis=-1)
ENDLESS = np.stack([PAY, 0.0 * ENDS], axis=-1)
WRAPPED = {  # an environment and the actions of all steps
    "statistics": (EpisodeStatistics(Told()), ACTION),  # all else is as without a wrapper
    "clock and ends": (TimeLimit(Told(), 4), ACTION),
    "sticky": (TimeLimit(StickyActions(Told(), 1.0), 2), ENDLESS),
    "sticky to a horizon": (TimeLimit(StickyActions(Told(), 1.0), 2, True), ENDLESS),
    "frames, no noise, and scale": (
        RewardScale(NoisyActions(FrameStack(Told(), 2), scale=0.0), -0.25),
        ACTION,
    ),
    "normalised": (
        NormaliseReward(
            NormaliseObservation(Told(), moments([1.0, 2.0], [4.0, 13.0]), 12.0, 3.0),
            moments(9.0, 4.0),
            0.5,
            12.0,
            5.0,
        ),
        ACTION,
    ),
    "stock": (Stock(Told(), 7.0, 7.0, 0.5, 60.0), ACTION),
    "risk": (
        ExpectedConditionalRisk(Told(), 0.25, 0.5, 0.5, -2.0, 20.0),
        np.concatenate([ACTION, THRESHOLD[..., None]], axis=-1),
    ),
    "held": (HeldActions(Told(), (2,), 0.0, 0.5), ACTION),
    "held and cut": (HeldActions(TimeLimit(Told(), 3), (2,), 0.0, 0.5), ENDLESS),
    "noise": (ObservationNoise(RewardNoise(Told(), 2.0), 0.5), ACTION),
    "drawn": (
        Stock(domain_randomisation(Told(), {"bonus": Uniform(0.0, 1.0)}), -2.0, 3.0, 0.5, 60.0),
        ACTION,
    ),
}
SLOW = ("sticky to a horizon", "held and cut")  # a second program, of -m slow


def played(name):
    """`[T, B, ...]` of a wrapper: the trajectory, with the states acted in."""
    return play_all(name in SLOW)[name]


@functools.cache
def play_all(slow):
    agent, key = Script(), jax.random.key(0)

    def play(env, actions):
        start_key, loop_key = jax.random.split(key)

        def body(state, inputs):
            step_key, action = inputs
            state, trajectory, _ = rollout(step_key, agent, env, action, state, keep_env_state=True)
            return state, trajectory

        keys = jax.random.split(loop_key, NUM_STEPS)
        start = start_rollout(start_key, agent, env)
        trajectory = jax.lax.scan(body, start, (keys, actions))[1]
        return jax.tree.map(lambda leaf: leaf[:, 0], trajectory)

    @jax.jit
    def run(wrapped):
        return {name: play(*wrapped[name]) for name in wrapped}

    names = [name for name in WRAPPED if (name in SLOW) == slow]
    wrapped = {name: (WRAPPED[name][0], WRAPPED[name][1].astype(np.float32)) for name in names}
    return jax.device_get(run(wrapped))


def backwards(pay, discount, first=FIRST):
    """What an accumulator holds before each step, emptied where an episode begins."""
    held = np.zeros_like(pay)
    for time in range(1, NUM_STEPS):
        held[time] = np.where(first[time], 0.0, pay[time - 1] + discount * held[time - 1])
    return held


def test_the_example_is_as_described():
    steps = played("statistics")
    np.testing.assert_array_equal(steps.terminated, ENDS == TERMINATES)
    np.testing.assert_array_equal(steps.truncated, ENDS == TRUNCATES)
    np.testing.assert_array_equal(steps.env_state.inner, TIME)
    np.testing.assert_array_equal(steps.observation[..., 0], TIME)
    np.testing.assert_array_equal(steps.next_observation[..., 0], TIME + 1)
    np.testing.assert_array_equal(steps.reward, PAY)
    np.testing.assert_array_equal(steps.discount, np.where(ENDS == TERMINATES, 0.0, 0.5))


def test_a_clock_starts_again_where_the_inner_episode_ends():
    steps = played("clock and ends")
    np.testing.assert_array_equal(steps.terminated, ENDS == TERMINATES)
    cut = ENDS == TRUNCATES
    cut[3, 2] = True  # the third lane's fourth step
    np.testing.assert_array_equal(steps.truncated, cut)
    expected = TIME.copy()
    expected[4:, 2] = 0, 1
    np.testing.assert_array_equal(steps.env_state.kept, expected)


def test_totals_start_again_after_an_end_and_after_a_cut():
    state = played("statistics").env_state
    np.testing.assert_array_equal(state.kept[0], backwards(PAY, 1.0))
    np.testing.assert_array_equal(state.kept[1], TIME)


@pytest.mark.parametrize(
    "name", ["sticky", pytest.param("sticky to a horizon", marks=pytest.mark.slow)]
)
def test_the_memory_of_an_action_ends_with_its_episode(name):
    """At probability one the first action of each episode of two steps is executed twice."""
    steps = played(name)
    first = PAY[[0, 0, 2, 2, 4, 4]]
    np.testing.assert_array_equal(steps.next_observation[..., 1], first)
    np.testing.assert_array_equal(steps.reward, first)
    ends, other = steps.truncated, steps.terminated
    if name == "sticky to a horizon":
        ends, other = other, ends
    np.testing.assert_array_equal(ends, np.arange(NUM_STEPS)[:, None] % 2 == 1 + 0 * TIME)
    assert not other.any()
    np.testing.assert_array_equal(
        steps.env_state.kept, np.arange(NUM_STEPS)[:, None] % 2 + 0 * TIME
    )
    sticky = steps.env_state.inner
    np.testing.assert_array_equal(sticky.kept[1], np.arange(NUM_STEPS)[:, None] % 2 == 0 * TIME)
    np.testing.assert_array_equal(sticky.kept[0][1::2, :, 0], PAY[::2])


def test_stacked_frames_are_those_of_the_episode():
    steps = played("frames, no noise, and scale")
    seen = np.stack([TIME, np.where(FIRST, 0.0, np.roll(PAY, 1, axis=0))], axis=-1)
    before = np.roll(seen, 1, axis=0)
    before[FIRST] = seen[FIRST]  # the first observation stands in for those before it
    np.testing.assert_array_equal(steps.observation, np.concatenate([before, seen], axis=-1))
    last = np.stack([TIME + 1, PAY], axis=-1)  # the true successor, also where an episode ends
    np.testing.assert_array_equal(steps.next_observation, np.concatenate([seen, last], axis=-1))


def test_the_discounted_return_starts_again_after_an_end_and_after_a_cut():
    steps = played("normalised")
    np.testing.assert_array_equal(steps.env_state.kept, backwards(PAY, 0.5))
    # Variance 4 and epsilon 12: a quarter; cut at 5 in the third lane.
    np.testing.assert_array_equal(steps.reward, np.minimum(PAY / 4.0, 5.0))
    assert (steps.reward[:, 2] == 5.0).all() and (steps.reward[:, :2] < 5.0).all()


def test_observations_are_normalised_at_reset_in_steps_and_at_ends():
    steps, plain = played("normalised"), played("statistics")
    for name in ("observation", "next_observation"):
        # Means 1 and 2, deviations 4 and 5 with the epsilon; cut at 3.
        expected = (getattr(plain, name) - [1.0, 2.0]) / [4.0, 5.0]
        np.testing.assert_allclose(getattr(steps, name), np.clip(expected, -3, 3), rtol=1e-6)


def test_the_stock_starts_again_after_an_end_and_after_a_cut():
    steps = played("stock")
    stock, after = np.zeros_like(PAY), np.zeros_like(PAY)
    for time in range(NUM_STEPS):
        stock[time] = np.where(FIRST[time], 7.0, after[time - 1])
        after[time] = np.clip((stock[time] + PAY[time]) / 0.5, -60.0, 60.0)
    np.testing.assert_array_equal(steps.env_state.kept, stock)
    np.testing.assert_array_equal(steps.observation[..., -1], stock)
    np.testing.assert_array_equal(steps.next_observation[..., -1], after)
    np.testing.assert_array_equal(steps.next_observation[..., 0], TIME + 1)
    assert after[0, 0] == 16.0 and after[0, 2] == 56.0 and after[1, 2] == 60.0


def test_initial_stocks_are_drawn_anew_for_every_episode_and_lane():
    stock = played("drawn").env_state.kept[FIRST]
    assert len(stock) == len(set(stock.tolist())) == 5
    assert stock.min() >= -2.0 and stock.max() <= 3.0


def test_what_was_announced_is_forgotten_after_an_end_and_after_a_cut():
    """By hand, with level 1/4, weight 1/2, discount 1/2 and thresholds cut to [-2, 20]."""
    steps = played("risk")
    announced = np.where(THRESHOLD == -3.0, -2.0, 4.0)
    before = np.where(FIRST, 0.0, np.roll(announced, 1, axis=0))
    np.testing.assert_array_equal(steps.env_state.kept[..., 0], before)
    np.testing.assert_array_equal(steps.env_state.kept[..., 1], FIRST)
    expected = np.where(FIRST, PAY, 0.5 * PAY - 2.0 * np.maximum(before - PAY, 0.0))
    # An end settles the last threshold against nothing to come; a cut leaves it open.
    settled = np.where(ENDS == TERMINATES, 2.0 * np.maximum(announced, 0.0), 0.0)
    expected = expected + 0.5 * (0.5 * announced - settled)
    np.testing.assert_allclose(steps.reward, expected, rtol=1e-6)
    np.testing.assert_array_equal(steps.observation[..., 2], before)
    np.testing.assert_array_equal(steps.observation[..., 3], FIRST)
    np.testing.assert_array_equal(steps.next_observation[..., 2], announced)
    np.testing.assert_array_equal(steps.next_observation[..., 3], 0.0)


def test_a_shortfall_of_the_announced_threshold_is_paid_for():
    """The pay of one falls short of a threshold of four by three: -0.5/0.25 of it, once."""
    env = ExpectedConditionalRisk(Told(), 0.25, 0.5, 0.5, -2.0, 20.0)
    state = env.reset(jax.random.key(0))[0].replace(kept=np.float32([4.0, 0.0]))
    _, step = hold(env, state, np.float32([1.0, 0.0, 0.0]))
    assert float(step.reward) == 0.5 * 1.0 - 2.0 * 3.0
    assert float(step.info["reward"]) == 1.0


def test_a_hold_stops_at_an_end_and_at_a_cut():
    steps = played("held")
    over = ENDS != 0.0
    # Two unit steps at discount 1/2, or the one that ends the episode.
    np.testing.assert_array_equal(steps.reward, np.where(over, PAY, 1.5 * PAY))
    expected = np.where(over, np.where(ENDS == TERMINATES, 1.0, 0.0), 0.5)
    np.testing.assert_array_equal(steps.terminated, expected)
    np.testing.assert_array_equal(steps.truncated, ENDS == TRUNCATES)
    # gamma^tau (1 - e): a quarter after two steps, a half after the one that was cut.
    expected = np.where(over, np.where(ENDS == TERMINATES, 0.0, 0.5), 0.25)
    np.testing.assert_array_equal(steps.discount, expected)
    units = [[0, 0, 0], [2, 2, 2], [4, 4, 4], [0, 0, 6], [2, 2, 8], [4, 4, 10]]
    np.testing.assert_array_equal(steps.env_state, units)


@pytest.mark.slow
def test_a_hold_counts_unit_steps_where_the_inner_clock_cuts():
    """An inner clock of three: holds of two and one unit steps take turns."""
    steps = played("held and cut")
    cut = np.arange(NUM_STEPS)[:, None] % 2 == 1 + 0 * TIME
    np.testing.assert_array_equal(steps.truncated, cut)
    np.testing.assert_array_equal(steps.reward, np.where(cut, PAY, 1.5 * PAY))
    np.testing.assert_array_equal(steps.discount, np.where(cut, 0.5, 0.25))
    np.testing.assert_array_equal(steps.env_state.kept, np.where(cut, 2, 0))


@pytest.mark.parametrize(
    ("duration", "action", "stop_probability"),
    [(1, 6, 0.0), (2, 7, 0.0), (4, 8, 0.0), (1, 8, 1.0)],
)
def test_the_duration_is_the_one_chosen_with_the_action(duration, action, stop_probability):
    """Action 2 with the first, second or third of three durations; or stopped at once."""
    env = HeldActions(DiscreteActions(Told(), 5), (1, 2, 4), stop_probability, 0.5)
    assert env.action_space.num_values == 25 * 3
    state, step = hold(env, np.float32(0.0), np.int32(action))
    # Of 25 grid actions the third is (-100, 0).
    pay = -100.0 * sum(0.5**j for j in range(duration))
    assert (float(step.info["duration"]), float(state)) == (duration, duration)
    assert float(step.reward) == pay
    assert float(step.terminated) == 1.0 - 0.5 ** (duration - 1)


@jax.jit
def hold(env, state, action):
    return env.step(jax.random.key(0), state, action)


def test_parameters_are_drawn_anew_for_every_episode_and_hold_through_it():
    steps = played("drawn")
    (drawn,) = steps.env_state.inner.kept.values()
    np.testing.assert_allclose(steps.reward, PAY + drawn, rtol=1e-6)
    for time in range(1, NUM_STEPS):
        kept = drawn[time] == drawn[time - 1]
        np.testing.assert_array_equal(kept, ~FIRST[time])
    assert len(np.unique(drawn[FIRST])) == 5
    assert drawn.min() >= 0.0 and drawn.max() <= 1.0


def test_noise_is_independent_over_steps_lanes_entries_and_purposes():
    steps, plain = played("noise"), played("statistics")
    seen = (steps.next_observation - plain.next_observation) / 0.5
    paid = (steps.reward - plain.reward) / 2.0
    first = (steps.observation - plain.observation)[FIRST] / 0.5
    drawn = np.concatenate([seen.ravel(), paid.ravel(), first.ravel()])
    # 64 normals: equal keys would give equal numbers, up to the rounding of pays near 26.
    assert np.diff(np.sort(drawn)).min() > 2e-5
    between = ~FIRST[1:]  # what is seen next is what was seen last, noise and all
    np.testing.assert_array_equal(
        steps.observation[1:][between], steps.next_observation[:-1][between]
    )
    np.testing.assert_array_equal(steps.env_state, TIME)


def test_what_keeps_nothing_leaves_ends_alone():
    steps, plain = played("frames, no noise, and scale"), played("statistics")
    np.testing.assert_array_equal(steps.reward, -0.25 * PAY)
    for part in ("observation", "next_observation"):  # the last frame
        found = getattr(steps, part)[..., 2:]
        np.testing.assert_array_equal(found, getattr(plain, part), err_msg=part)
    for part in ("terminated", "truncated"):
        np.testing.assert_array_equal(getattr(steps, part), getattr(plain, part), err_msg=part)
    np.testing.assert_array_equal(steps.env_state.inner, TIME)


# Keys


@struct.dataclass
class Spender:
    """Spends its keys, at reset and in steps."""

    bonus: float = 0.0

    @property
    def observation_space(self):
        return Box(-jnp.inf, jnp.inf, (2,))

    @property
    def action_space(self):
        return Box(-1.0, 1.0, (2,))

    def reset(self, key):
        observation = jax.random.normal(key, (2,))
        return observation, observation

    def step(self, key, state, action):
        observation = state + action + jax.random.normal(key, (2,))
        flag = jnp.zeros((), bool)
        return observation, TimeStep(
            observation=observation,
            reward=observation[0] + self.bonus,
            terminated=flag,
            truncated=flag,
            cost=jnp.zeros((0,)),
            info={},
        )


SPENDERS = {
    "TimeLimit": lambda: TimeLimit(Spender(), 5),
    "EpisodeStatistics": lambda: EpisodeStatistics(Spender()),
    "StickyActions": lambda: StickyActions(Spender()),
    "NoisyActions": lambda: NoisyActions(Spender()),
    "NoisyActions of few": lambda: NoisyActions(DiscreteActions(Spender())),
    "ObservationNoise": lambda: ObservationNoise(Spender()),
    "RewardNoise": lambda: RewardNoise(Spender()),
    "RewardScale": lambda: RewardScale(Spender()),
    "FrameStack": lambda: FrameStack(Spender()),
    "NormaliseObservation": lambda: NormaliseObservation.start(Spender()),
    "NormaliseReward": lambda: NormaliseReward(Spender()),
    "DiscreteActions": lambda: DiscreteActions(Spender()),
    "Stock": lambda: Stock(Spender()),
    "ExpectedConditionalRisk": lambda: ExpectedConditionalRisk(Spender()),
    "HeldActions": lambda: HeldActions(Spender(), (3,), 0.5),
    "DomainRandomisation": lambda: domain_randomisation(Spender(), {"bonus": Uniform(0.0, 1.0)}),
}


def spend(env, key):
    """A reset, an action and a step, each with a key of its own."""
    reset_key, act_key, step_key = jax.random.split(key, 3)
    state, _ = env.reset(reset_key)
    return env.step(step_key, state, env.action_space.sample(act_key))


@pytest.mark.parametrize("name", SPENDERS)
def test_no_key_is_spent_twice(name):
    check_key_reuse(spend, SPENDERS[name](), jax.random.key(0))


def test_a_key_spent_twice_is_noticed():
    def twice(key):
        state, _ = Spender().reset(key)
        return Spender().step(key, state, jnp.zeros(2))

    with pytest.raises(KeyReuseError):
        check_key_reuse(twice, jax.random.key(0))
