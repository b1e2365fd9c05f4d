"""Classic control against gymnasium: the same rows of states, actions and constants through both.

One compiled step per environment and float type takes a whole table of rows: random states with
gymnasium's constants, random states with random constants, and the states of whole episodes.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.envs import make
from jaxrl.envs.control import Acrobot, CartPole, MountainCar, Pendulum

NUM_PLAIN, NUM_CHANGED, NUM_EPISODE = 300, 300, 700
SEED = 20


@dataclasses.dataclass(frozen=True)
class Case:
    """How one environment maps to gymnasium's."""

    kind: Callable  # builds the environment from its constants
    reference: str  # gymnasium's id
    low: tuple[float, ...]  # box of states, in gymnasium's order
    high: tuple[float, ...]
    attributes: dict[str, str]  # our constant -> gymnasium's attribute of the same meaning
    tolerance: tuple[float, float]  # of state and observation, in float32 and in float64
    angles: tuple[int, ...] = ()  # entries of the state that are directions


def mountain_car_continuous():
    return make("MountainCarContinuous")


CASES = {
    "CartPole": Case(
        CartPole,
        "CartPole-v1",
        low=(-2.6, -3.0, -0.25, -3.0),
        high=(2.6, 3.0, 0.25, 3.0),
        attributes={
            "gravity": "gravity",
            "cart_mass": "masscart",
            "pole_mass": "masspole",
            "pole_half_length": "length",
            "force": "force_mag",
            "time_step": "tau",
            "position_limit": "x_threshold",
            "angle_limit": "theta_threshold_radians",
        },
        tolerance=(2e-6, 1e-13),
    ),
    "Pendulum": Case(
        Pendulum,
        "Pendulum-v1",
        low=(-math.pi, -8.0),
        high=(math.pi, 8.0),
        attributes={
            "gravity": "g",
            "mass": "m",
            "length": "l",
            "time_step": "dt",
            "max_torque": "max_torque",
            "max_speed": "max_speed",
        },
        tolerance=(5e-6, 1e-12),
        angles=(0,),
    ),
    "Acrobot": Case(
        Acrobot,
        "Acrobot-v1",
        low=(-math.pi, -math.pi, -9.0, -20.0),
        high=(math.pi, math.pi, 9.0, 20.0),
        attributes={
            "link_mass_1": "LINK_MASS_1",
            "link_mass_2": "LINK_MASS_2",
            "link_length_1": "LINK_LENGTH_1",
            "link_length_2": "LINK_LENGTH_2",
            "max_speed_1": "MAX_VEL_1",
            "max_speed_2": "MAX_VEL_2",
            "time_step": "dt",
        },
        tolerance=(5e-4, 1e-11),
        angles=(0, 1),
    ),
    "MountainCar": Case(
        MountainCar,
        "MountainCar-v0",
        low=(-1.2, -0.07),
        high=(0.6, 0.07),
        attributes={
            "gravity": "gravity",
            "force": "force",
            "max_speed": "max_speed",
            "min_position": "min_position",
            "max_position": "max_position",
            "goal_position": "goal_position",
            "goal_velocity": "goal_velocity",
        },
        tolerance=(3e-7, 1e-15),
    ),
    "MountainCarContinuous": Case(
        mountain_car_continuous,
        "MountainCarContinuous-v0",
        low=(-1.2, -0.07),
        high=(0.6, 0.07),
        attributes={
            "force": "power",
            "max_speed": "max_speed",
            "min_position": "min_position",
            "max_position": "max_position",
            "goal_position": "goal_position",
            "goal_velocity": "goal_velocity",
        },
        tolerance=(3e-7, 1e-7),  # gymnasium keeps this state in float32
    ),
}


def constants_of(env):
    return [field for field in dataclasses.fields(env) if field.metadata["pytree_node"]]


@jax.jit
def step_rows(env, states, actions):
    """`env` and `states` with a leading axis of rows."""
    return jax.vmap(lambda e, s, a: e.step(jax.random.key(0), s, a))(env, states, actions)


def set_reference(env, state, constants, case):
    """Give gymnasium's environment a state and constants."""
    env.state = np.array(state)
    if case.kind is CartPole:
        env.steps_beyond_terminated = None
        env.masscart, env.masspole, env.length = (
            constants.get(name, default)
            for name, default in (("cart_mass", 1.0), ("pole_mass", 0.1), ("pole_half_length", 0.5))
        )
        env.total_mass = env.masscart + env.masspole
        env.polemass_length = env.masspole * env.length
    if case.kind is Acrobot and constants:
        env.LINK_COM_POS_1 = constants["link_centre_1"] * constants["link_length_1"]
        env.LINK_COM_POS_2 = constants["link_centre_2"] * constants["link_length_2"]
        env.LINK_MOI = constants["link_inertia_1"]
        env.AVAIL_TORQUE = [-constants["torque"], 0.0, constants["torque"]]
    for ours, theirs in case.attributes.items():
        if ours in constants:
            setattr(env, theirs, constants[ours])


def changed_constants(case, generator):
    """Every constant that gymnasium can change, moved by up to a fifth."""
    names = list(case.attributes)
    if case.kind is Acrobot:
        names += ["link_centre_1", "link_centre_2", "link_inertia_1", "torque"]
    drawn = {n: getattr(case.kind(), n) * generator.uniform(0.8, 1.2) for n in names}
    if case.kind is Acrobot:
        drawn["link_inertia_2"] = drawn["link_inertia_1"]  # gymnasium has one for both links
    if "goal_velocity" in drawn:
        drawn["goal_velocity"] = generator.uniform(0.0, 0.05)
    return drawn


def random_action(case, generator):
    space = case.kind().action_space
    if not space.shape:
        return int(generator.integers(space.num_values))
    return generator.uniform(-1.5, 1.5, 1) * np.asarray(space.high)  # beyond the range, too


def reference_episodes(case, generator):
    """Rows of whole episodes of `gymnasium.make`, time limit included."""
    env = gymnasium.make(case.reference)
    rows, time = [], None
    for _ in range(NUM_EPISODE):
        if time is None:
            env.reset(seed=int(generator.integers(1 << 30)))
            time = 0
        state = np.array(env.unwrapped.state, np.float64)
        action = random_action(case, generator)
        if case.kind is CartPole and generator.uniform() < 0.98:  # fall late, some never
            action = int(state @ [0.1, 0.3, 1.0, 1.0] > 0)
        if case.kind is mountain_car_continuous:
            action = np.array([np.sign(state[1]) or 1.0]) * generator.uniform(0.2, 1.0)
        observation, reward, terminated, truncated, _ = env.step(action)
        after = np.array(env.unwrapped.state, np.float64)
        rows.append((state, time, action, {}, after, observation, reward, terminated, truncated))
        time = None if terminated or truncated else time + 1
    return rows


@functools.cache
def table(name):
    """Every row -> state, time, action, constants, then what gymnasium makes of it."""
    case, generator = CASES[name], np.random.default_rng(SEED)
    rows, low, high = [], np.array(case.low), np.array(case.high)
    env = gymnasium.make(case.reference).unwrapped
    env.reset(seed=0)
    for index in range(NUM_PLAIN + NUM_CHANGED):
        # Values that float32 holds, so that both sides start from the same numbers.
        state = generator.uniform(low, high).astype(np.float32).astype(np.float64)
        action = random_action(case, generator)
        constants = changed_constants(case, generator) if index >= NUM_PLAIN else {}
        set_reference(env, state, constants, case)
        observation, reward, terminated, _, _ = env.step(action)
        after = np.array(env.state, np.float64)
        rows.append((state, 0, action, constants, after, observation, reward, terminated, False))
    rows += reference_episodes(case, generator)
    names = ("state", "time", "action", "constants", "after")
    names += ("observation", "reward", "terminated", "truncated")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    constants = columns.pop("constants")
    columns = {key: np.array(column) for key, column in columns.items()}
    defaults = case.kind()
    leaves = {
        field.name: np.array([c.get(field.name, getattr(defaults, field.name)) for c in constants])
        for field in constants_of(defaults)
    }
    return defaults.replace(**leaves), columns


def numbers_of(state):
    """The state `[N, D]` in gymnasium's order."""
    return np.stack([getattr(state, f.name) for f in dataclasses.fields(state)[:-1]], axis=-1)


def stepped(name, dtype):
    """All rows through our step in one float type -> next state `[N, D]`, `TimeStep`."""
    case = CASES[name]
    env, columns = table(name)
    state, _ = jax.eval_shape(case.kind().reset, jax.random.key(0))
    fields = [f.name for f in dataclasses.fields(state)]
    values = [*columns["state"].T.astype(dtype), columns["time"].astype(np.int32)]
    state = type(state)(**dict(zip(fields, values, strict=True)))
    env = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), env)
    after, step = jax.device_get(step_rows(env, state, columns["action"]))
    assert after.time.dtype == jnp.int32
    assert numbers_of(after).dtype == dtype
    return numbers_of(after), step


def state_error(name, after, expected):
    error = after - expected
    for entry in CASES[name].angles:  # only the direction counts
        error[:, entry] = np.angle(np.exp(1j * error[:, entry]))
    return np.abs(error)


def compare(name, after, step, tolerance):
    _, columns = table(name)
    assert np.max(state_error(name, after, columns["after"])) < tolerance
    np.testing.assert_allclose(step.observation, columns["observation"], atol=max(tolerance, 1e-6))
    scale = max(1.0, np.abs(columns["reward"]).max())
    np.testing.assert_allclose(step.reward, columns["reward"], atol=1e-6 * scale)
    np.testing.assert_array_equal(step.terminated, columns["terminated"])
    ended = columns["truncated"] & ~columns["terminated"]
    np.testing.assert_array_equal(step.truncated, ended)


@pytest.mark.parametrize("name", CASES)
def test_steps_equal_gymnasium_in_float64(name):
    """The law itself: no room for a wrong term."""
    with jax.enable_x64(True):
        after, step = stepped(name, np.float64)
    compare(name, after, step, CASES[name].tolerance[1])


@pytest.mark.parametrize(
    "name", [n if n == "CartPole" else pytest.param(n, marks=pytest.mark.slow) for n in CASES]
)
def test_steps_equal_gymnasium_in_float32(name):
    after, step = stepped(name, np.float32)
    compare(name, after, step, CASES[name].tolerance[0])


@pytest.mark.parametrize("name", CASES)
def test_rows_reach_every_ending(name):
    """The comparison means something: ends of both kinds occur where the task has them."""
    _, columns = table(name)
    if name != "Pendulum":
        assert 10 < columns["terminated"].sum() < 0.9 * len(columns["terminated"])
    # MountainCarContinuous is solved before its clock rings; its limit is tested elsewhere.
    assert columns["truncated"].any() or name == "MountainCarContinuous"


@pytest.mark.parametrize("name", CASES)
def test_time_limits_are_those_of_gymnasium(name):
    assert make(name).time_limit == gymnasium.spec(CASES[name].reference).max_episode_steps


@pytest.mark.parametrize("name", CASES)
def test_spaces_are_those_of_gymnasium(name):
    env, reference = make(name), gymnasium.make(CASES[name].reference)
    for ours, theirs in (
        (env.observation_space, reference.observation_space),
        (env.action_space, reference.action_space),
    ):
        assert ours.shape == theirs.shape
        if ours.shape:
            np.testing.assert_allclose(np.broadcast_to(ours.low, ours.shape), theirs.low, rtol=1e-6)
            np.testing.assert_allclose(
                np.broadcast_to(ours.high, ours.shape), theirs.high, rtol=1e-6
            )
        else:
            assert ours.num_values == theirs.n


@pytest.mark.parametrize("name", CASES)
def test_resets_follow_gymnasium(name):
    """Means and spreads of 2,000 first states, within five standard errors of the reference's."""
    keys = jax.random.split(jax.random.key(0), 2000)
    states, observations = jax.jit(jax.vmap(CASES[name].kind().reset))(keys)
    ours, env = numbers_of(jax.device_get(states)), gymnasium.make(CASES[name].reference).unwrapped
    env.reset(seed=0)
    theirs = []
    for _ in range(2000):
        env.reset()
        theirs.append(np.array(env.state, np.float64))
    theirs = np.array(theirs)
    spread = theirs.std(axis=0)
    assert np.all(np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) <= 5 * spread * (2 / 2000) ** 0.5)
    np.testing.assert_allclose(ours.std(axis=0), spread, rtol=0.06, atol=1e-9)
    # Both fill the same box: 2,000 uniform draws leave no hundredth of the range empty at its ends.
    room = 0.01 * (theirs.max(axis=0) - theirs.min(axis=0))
    assert np.all(np.abs(ours.min(axis=0) - theirs.min(axis=0)) <= room)
    assert np.all(np.abs(ours.max(axis=0) - theirs.max(axis=0)) <= room)
    assert not np.any(states.time)
    assert observations.dtype == jnp.float32


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_free_running_episode_equals_gymnasium(name):
    """80 steps from one state without setting it again: no drift between the two."""
    case, generator = CASES[name], np.random.default_rng(1)
    env = gymnasium.make(case.reference).unwrapped
    env.reset(seed=3)
    start = np.array(env.state, np.float64)
    # Even a falling pole is followed: the dynamics go on where the task has ended.
    actions = [random_action(case, generator) for _ in range(80)]
    expected = []
    for action in actions:
        if case.kind is CartPole:
            env.steps_beyond_terminated = None
        env.step(action)
        expected.append(np.array(env.state, np.float64))
    with jax.enable_x64(True):
        state, _ = case.kind().reset(jax.random.key(0))
        fields = [f.name for f in dataclasses.fields(state)]
        values = [*map(jnp.asarray, start), state.time]
        state = type(state)(**dict(zip(fields, values, strict=True)))

        def body(state, action):
            state, _ = case.kind().step(jax.random.key(0), state, action)
            return state, state

        _, states = jax.jit(lambda s, a: jax.lax.scan(body, s, a))(state, jnp.array(actions))
        after = numbers_of(jax.device_get(states))
    # The continuous car drifts by gymnasium's float32 state.
    tolerance = 1e-5 if name == "MountainCarContinuous" else 1e-6
    assert np.max(state_error(name, after, np.array(expected))) < tolerance
