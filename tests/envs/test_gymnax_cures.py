"""Each cure, next to the defect of raw gymnax that it cures.

A scenario runs through the adapter, and through gymnax's own functions. The second half of each
test fails on the day gymnax mends the defect, and the cure can go; it is slow where it compiles.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.envs import make

KEY = jax.random.key(0)


def ours(name, **parameters):
    """Functions `reset(key)` and `step(key, state, action)` of the adapter."""
    env = make(name, **parameters)

    def step(key, state, action):
        state, outcome = env.step(key, state, action)
        return state, outcome.observation, outcome.reward, outcome.terminated

    return env.reset, step


def raw(name, options=None, **parameters):
    """The same functions of gymnax."""
    import gymnax  # takes seconds

    env, params = gymnax.make(name, **(options or {}))
    params = params.replace(**parameters)

    def step(key, state, action):
        observation, state, reward, terminated, _ = env.step_env(key, state, action, params)
        return state, observation, reward, terminated

    return lambda key: env.reset_env(key, params)[::-1], step


def keys():
    return jax.random.split(KEY, 256)


BOTH = pytest.mark.parametrize("functions", [ours, pytest.param(raw, marks=pytest.mark.slow)])


@BOTH
def test_mountain_car_continuous_leaves_the_left_wall(functions):
    def frames_at_wall(reset, step):
        def run(key):
            state, _ = reset(key)
            state = state.replace(position=jnp.float32(-1.19), velocity=jnp.float32(-0.07))
            positions = []
            for _ in range(6):
                state, *_ = step(key, state, jnp.ones((1,)))
                positions.append(state.position)
            return jnp.sum(jnp.stack(positions) <= -1.2)

        return int(jax.jit(run)(KEY))

    # The wall swallows all speed at once, so the car leaves in the next frame.
    expected = 1 if functions is ours else 6
    assert frames_at_wall(*functions("MountainCarContinuous-v0")) == expected


@BOTH
def test_mountain_car_continuous_gives_no_prize_for_going_left(functions):
    def prize(reset, step):
        def run(key):
            state, _ = reset(key)
            state = state.replace(position=jnp.float32(0.5), velocity=jnp.float32(-0.02))
            return step(key, state, jnp.zeros((1,)))[2]

        return float(jax.jit(run)(KEY))

    expected = 0.0 if functions is ours else 100.0
    assert prize(*functions("MountainCarContinuous-v0")) == expected


@pytest.mark.slow
def test_simple_bandit_keeps_its_arms():
    def rewards(reset, step):
        @jax.jit
        @jax.vmap
        def run(key):
            state, _ = reset(key)
            return jax.vmap(lambda arm: step(key, state, arm)[2])(jnp.arange(11))

        return np.asarray(run(keys()))

    kept, shuffled = rewards(*ours("SimpleBandit-bsuite")), rewards(*raw("SimpleBandit-bsuite"))
    np.testing.assert_allclose(np.sort(kept[0]), np.linspace(0, 1, 11), atol=1e-6)
    assert np.ptp(kept, axis=0).max() == 0.0
    assert np.ptp(shuffled.mean(axis=0)) < 0.25  # every arm is worth a half
    arms = jnp.arange(11.0)
    np.testing.assert_array_equal(
        rewards(*ours("SimpleBandit-bsuite", arm_rewards=arms))[0], np.arange(11.0)
    )


@pytest.mark.slow
def test_meta_maze_never_terminates_at_the_goal():
    def ends(reset, step):
        @jax.jit
        @jax.vmap
        def run(key):
            state, _ = reset(key)
            corner = jnp.array([1, 1])  # open cells [1, 1] and [1, 2]; action 1 goes right
            state = state.replace(pos=corner, goal=corner + jnp.array([0, 1]))
            _, _, reward, terminated = step(key, state, jnp.int32(1))
            return reward, terminated

        return run(keys())

    reward, terminated = ends(*ours("MetaMaze-misc"))
    assert np.all(np.asarray(reward) == 10.0)
    assert not np.any(terminated)
    assert np.any(ends(*raw("MetaMaze-misc"))[1])


@BOTH
@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("MetaMaze-misc", 200),
        ("GaussianBandit-misc", 50),
        pytest.param("PointRobot-misc", 400, marks=pytest.mark.slow),
    ],
)
def test_clock_is_scaled_by_the_true_limit(functions, name, limit):
    def clock(reset, step):
        def run(key):
            state, observation = reset(key)
            state = state.replace(time=jnp.full_like(state.time, limit - 1.0))
            action = jnp.zeros((2,)) if name == "PointRobot-misc" else jnp.int32(0)
            return observation[-1], step(key, state, action)[1][-1]

        return tuple(float(part) for part in jax.jit(run)(KEY))

    settings = {"normalize_time": True, "max_steps_in_episode": limit}
    assert (clock(*functions(name, **settings)) == (-1.0, 1.0)) == (functions is ours)


@BOTH
def test_pong_ball_stays_on_the_board(functions):
    def rows(reset, step):
        def run(key):
            state, _ = reset(key)
            state = state.replace(
                ball_position=jnp.array([1.0, 20.0]), ball_velocity=jnp.array([-3, 1])
            )
            state, *_ = step(key, state, jnp.int32(0))
            return state.ball_position[0], state.ball_velocity[0]

        return tuple(float(part) for part in jax.jit(run)(KEY))

    # From row 1 three rows up would be row -2: mirrored at row 0 it is row 2, going down.
    expected = (2.0, 3.0) if functions is ours else (-2.0, -3.0)
    assert rows(*functions("Pong-misc")) == expected


@pytest.fixture(scope="module")
def asterix():
    """Entities after a spawn on a board with seven or eight filled, and the ramped move speed."""

    def run(functions):
        reset, step = functions

        @jax.jit
        @jax.vmap
        def spawn(key):
            state, _ = reset(key)
            rows = jnp.arange(8)
            entity = jnp.stack([jnp.full(8, 2), rows + 1, rows * 0 + 1, rows * 0 + 1, rows * 0 + 1])
            full = state.replace(
                entities=entity.T.astype(state.entities.dtype),
                player_x=jnp.full_like(state.player_x, 9),
                spawn_timer=jnp.zeros_like(state.spawn_timer),
                move_speed=jnp.ones_like(state.move_speed),
                ramp_timer=jnp.full_like(state.ramp_timer, -1),
                ramp_index=jnp.ones_like(state.ramp_index),
            )
            seven = full.replace(entities=full.entities.at[3].set(0))
            boards = jax.tree.map(lambda *leaves: jnp.stack(leaves), full, seven)
            after = jax.vmap(lambda board: step(key, board, jnp.int32(0))[0])(boards)
            return (
                jnp.sum(after.entities[:, :, 4], axis=1),
                after.move_speed,
                after.entities[0, :, 0],
            )

        return jax.device_get(spawn(keys()))

    return run(ours("Asterix-MinAtar")), run(raw("Asterix-MinAtar"))


@pytest.mark.slow
def test_asterix_spawning_deletes_nothing(asterix):
    (filled, _, columns), (raw_filled, _, _) = asterix
    assert np.all(filled == 8)
    assert np.all(columns == 2)  # a full board is left alone
    assert np.all(raw_filled[:, 0] == 7)
    assert 0.02 < np.mean(raw_filled[:, 1] == 6) < 0.3  # the free slot is missed one time in eight


@pytest.mark.slow
def test_asterix_move_interval_stays_positive(asterix):
    (_, speed, _), (_, raw_speed, _) = asterix
    assert np.all(speed == 1)
    assert np.all(raw_speed == 0)


@pytest.mark.slow
def test_four_rooms_draws_the_agent_in_the_open():
    def in_wall(reset, _):
        picture = jax.jit(jax.vmap(lambda key: reset(key)[1]))(keys())
        assert np.all(np.sum(picture[..., 1], axis=(1, 2)) == 1)
        return float(np.sum(picture[..., 0] * picture[..., 1]))

    assert in_wall(*ours("FourRooms-misc", use_visual_obs=True, resample_init_pos=True)) == 0
    assert in_wall(*raw("FourRooms-misc", {"use_visual_obs": True}, resample_init_pos=True)) > 0


@BOTH
def test_cartpole_masses_follow_their_parts(functions):
    def speeds(reset, step):

        def run(key):
            state, _ = reset(key)
            state = state.replace(theta=jnp.float32(0.1), theta_dot=jnp.float32(0.5))
            return step(key, state, jnp.int32(1))[1]

        return np.asarray(jax.jit(run)(KEY))

    parts = {"masspole": 1.0, "length": 2.0}
    consistent = speeds(*raw("CartPole-v1", **parts, total_mass=2.0, polemass_length=2.0))
    found = speeds(*functions("CartPole-v1", **parts))
    if functions is ours:
        np.testing.assert_allclose(found, consistent, atol=1e-6)
    else:
        assert np.abs(found - consistent).max() > 0.01


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("Reacher-misc", marks=pytest.mark.slow),
        pytest.param("Swimmer-misc", marks=pytest.mark.slow),
        "PointRobot-misc",
    ],
)
@BOTH
def test_actions_are_clipped(functions, name):
    def first(reset, step):

        @jax.jit
        def run(key, sizes):
            state, _ = reset(key)
            return jax.vmap(lambda size: step(key, state, jnp.full((2,), size))[1])(sizes)

        return np.asarray(run(KEY, np.float32([1.0, 1000.0])))

    mild, wild = first(*functions(name))
    assert np.array_equal(mild, wild) == (functions is ours)


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("DiscountingChain-bsuite", True),
        ("BernoulliBandit-misc", True),
        ("GaussianBandit-misc", True),
        ("MetaMaze-misc", True),
        ("PointRobot-misc", True),
        ("Freeway-MinAtar", True),
        ("Reacher-misc", False),
        ("Swimmer-misc", False),
        ("MountainCar-v0", False),
        ("Breakout-MinAtar", False),
    ],
)
def test_horizon_switch(name, ends):
    assert make(name).horizon_is_terminal is ends
    assert make(name, horizon_is_terminal=not ends).horizon_is_terminal is not ends


@pytest.mark.parametrize("horizon_is_terminal", [True, False])
def test_horizon_terminates_or_truncates(horizon_is_terminal):
    env = make(
        "DiscountingChain-bsuite", max_steps_in_episode=2, horizon_is_terminal=horizon_is_terminal
    )
    state, _ = jax.jit(env.reset)(KEY)
    step = jax.jit(lambda state: env.step(KEY, state, 0))
    state, first = step(state)
    state, second = step(state)
    assert not bool(first.terminated) and not bool(first.truncated)
    assert bool(second.terminated) is horizon_is_terminal
    assert bool(second.truncated) is not horizon_is_terminal


def test_an_end_wins_over_the_clock():
    """The last row of DeepSea is an end, and falls on its time limit every time."""
    env = make("DeepSea-bsuite", size=3)

    import gymnax

    base, params = gymnax.make("DeepSea-bsuite", size=3)

    @jax.jit
    def life():
        state, _ = env.reset(KEY)
        for _ in range(3):
            state, outcome = env.step(KEY, state, 0)
        return outcome, base.is_terminated(state, params), base.is_truncated(state, params)

    outcome, terminated, truncated = life()
    assert bool(outcome.terminated) and not bool(outcome.truncated)
    assert bool(terminated) and bool(truncated)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Pendulum-v1", "MountainCarContinuous-v0"])
def test_gradients_flow_when_asked(name):
    env = make(name, transition_gradients=True)
    state, _ = env.reset(KEY)

    def speed(action):
        return env.step(KEY, state, action)[1].observation[-1]

    assert float(jax.grad(speed)(jnp.full((1,), 0.1))[0]) > 0


@pytest.mark.slow
def test_gradient_reaches_the_parameters():
    env = make("Pendulum-v1", transition_gradients=True)
    state, _ = env.reset(KEY)

    def speed(gravity):
        changed = env.with_parameters({"g": gravity})
        return changed.step(KEY, state, jnp.zeros((1,)))[1].observation[-1]

    # d(speed)/dg = 3 dt sin(theta) / (2 l), with dt = 0.05 and l = 1.
    slope = 1.5 * 0.05 * np.sin(float(state.theta))
    assert float(jax.grad(speed)(10.0)) == pytest.approx(slope, rel=1e-4)
