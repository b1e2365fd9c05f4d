"""Classic control beyond gymnasium: mechanics, disturbances, sets of constants, derivatives."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.envs import make
from jaxrl.envs.control import Acrobot, CartPole, MountainCar, Pendulum


def mountain_car_continuous(**constants):
    return make("MountainCarContinuous", **constants)


KINDS = [CartPole, Pendulum, Acrobot, MountainCar, mountain_car_continuous]
# A law with long programs for each kind: of the pendulum in every run, of all where time is none.
SOME = [kind if kind is Pendulum else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
MECHANICAL = [CartPole, Pendulum, Acrobot]
NUM_STATES = 64


def an_action(env):
    return jnp.full(env.action_space.shape, 1, env.action_space.dtype)


def constants_of(env):
    return [f.name for f in dataclasses.fields(env) if f.metadata["pytree_node"]]


def state_from(env, numbers):
    """A state at time 0 from its numbers, in field order."""
    state, _ = jax.eval_shape(env.reset, jax.random.key(0))
    names = [field.name for field in dataclasses.fields(state)]
    return type_of_state(env)(**dict(zip(names, [*numbers, jnp.zeros((), jnp.int32)], strict=True)))


def type_of_state(env):
    return type(jax.eval_shape(env.reset, jax.random.key(0))[0])


def numbers_of(state):
    return jnp.stack([getattr(state, f.name) for f in dataclasses.fields(state)[:-1]])


def advance(env, numbers, action):
    """Numbers of the state one step later."""
    return numbers_of(env.step(jax.random.key(0), state_from(env, numbers), action)[0])


def some_states(kind, dtype=np.float32):
    generator = np.random.default_rng(5)
    width = {CartPole: 4, Pendulum: 2, Acrobot: 4}.get(kind, 2)
    scale = 0.05 if width == 2 and kind is not Pendulum else 1.5
    return generator.uniform(-scale, scale, (NUM_STATES, width)).astype(dtype)


# --- mechanics: what is put in is kinetic and potential energy, and what friction eats -----------


def cart_pole_energy(env, numbers):
    """A rod (moment of inertia m (2 l)^2 / 12) whose middle rides at l on a cart."""
    _, v, angle, omega = numbers
    m, half = env.pole_mass, env.pole_half_length
    across, up = v + half * omega * jnp.cos(angle), -half * omega * jnp.sin(angle)
    spin = m * (2 * half) ** 2 / 12
    kinetic = 0.5 * (env.cart_mass * v**2 + m * (across**2 + up**2) + spin * omega**2)
    return kinetic + m * env.gravity * half * jnp.cos(angle)


def pendulum_energy(env, numbers):
    angle, omega = numbers
    kinetic = 0.5 * env.mass * env.length**2 / 3 * omega**2
    return kinetic + env.mass * env.gravity * env.length / 2 * jnp.cos(angle)


def acrobot_energy(env, numbers):
    """Two links; angle 2 counts from the direction of link 1, heights from the first joint."""
    a, b, speed_a, speed_b = numbers
    c1, c2 = env.link_centre_1 * env.link_length_1, env.link_centre_2 * env.link_length_2
    turn = speed_a + speed_b
    across = env.link_length_1 * speed_a * jnp.cos(a) + c2 * turn * jnp.cos(a + b)
    up = env.link_length_1 * speed_a * jnp.sin(a) + c2 * turn * jnp.sin(a + b)
    kinetic = 0.5 * (env.link_mass_1 * c1**2 + env.link_inertia_1) * speed_a**2
    kinetic += 0.5 * env.link_mass_2 * (across**2 + up**2) + 0.5 * env.link_inertia_2 * turn**2
    height_2 = -env.link_length_1 * jnp.cos(a) - c2 * jnp.cos(a + b)
    return kinetic + env.gravity * (-env.link_mass_1 * c1 * jnp.cos(a) + env.link_mass_2 * height_2)


def cart_pole_power(env, numbers):
    _, v, _, omega = numbers
    eaten = env.cart_friction * jnp.abs(v) + env.pole_friction * omega**2
    return (env.force + env.disturbance) * v - eaten


def pendulum_power(env, numbers):
    omega = numbers[1]
    return (1.0 + env.disturbance - env.friction * omega) * omega


def acrobot_power(env, numbers):
    _, _, speed_a, speed_b = numbers
    eaten = env.friction * (speed_a**2 + speed_b**2)
    return (env.torque + env.disturbance) * speed_b - eaten


BALANCE = {
    # Constants of no special size, every one of them at work.
    CartPole: (
        {"gravity": 7.0, "cart_mass": 1.3, "pole_mass": 0.4, "pole_half_length": 0.7}
        | {"cart_friction": 0.6, "pole_friction": 0.2, "disturbance": 2.5},
        cart_pole_energy,
        cart_pole_power,
        1,
    ),
    Pendulum: (
        {"gravity": 7.0, "mass": 1.4, "length": 0.8, "friction": 0.3, "disturbance": 1.5},
        pendulum_energy,
        pendulum_power,
        1.0,
    ),
    Acrobot: (
        {"gravity": 7.0, "link_mass_1": 1.2, "link_mass_2": 0.7, "link_length_1": 0.9}
        | {"link_length_2": 1.1, "link_centre_1": 0.4, "link_centre_2": 0.6}
        | {"link_inertia_1": 0.8, "link_inertia_2": 0.5, "friction": 0.3, "disturbance": 0.4},
        acrobot_energy,
        acrobot_power,
        2,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MECHANICAL)
def test_power_balance(kind):
    """dE/dt = force times speed at the point where it acts, less friction.

    The equations of motion are never written here: a wrong sign, a friction in the wrong joint or
    a disturbance that acts elsewhere than documented breaks the balance.
    """
    constants, energy, power, action = BALANCE[kind]
    with jax.enable_x64(True):
        env = kind(time_step=1e-6, **constants)
        states = some_states(kind, np.float64)

        @jax.jit
        @jax.vmap
        def gap(numbers):
            rate = (advance(env, numbers, action) - numbers) / env.time_step
            gained = jnp.dot(jax.grad(energy, argnums=1)(env, numbers), rate)
            return gained - power(env, numbers), gained

        difference, gained = jax.device_get(gap(states))
    assert np.median(np.abs(gained)) > 0.5
    assert np.max(np.abs(difference)) < 1e-4


@pytest.mark.slow
def test_acrobot_keeps_its_energy_to_fourth_order():
    """Over a fixed second, a Runge-Kutta step half as long errs by a sixteenth."""
    with jax.enable_x64(True):
        # No torque (action 1), mild angles: neither wrapping nor clipping interferes.
        start = jnp.array([0.9, -0.5, 0.3, 0.8])

        @jax.jit
        def drift(time_step, num_steps):
            env = Acrobot(gravity=6.0, link_mass_2=1.5, time_step=time_step)
            move = lambda _, numbers: advance(env, numbers, 1)  # noqa: E731
            end = jax.lax.fori_loop(0, num_steps, move, start)
            return acrobot_energy(env, end) - acrobot_energy(env, start)

        coarse, fine = abs(float(drift(0.1, 10))), abs(float(drift(0.05, 20)))
    assert 0 < fine < coarse < 1e-2
    assert coarse / fine > 10


def test_derived_masses_follow_the_masses():
    """Twice every mass and force: the same motion. Twice the pole's mass alone: another."""
    numbers = some_states(CartPole)
    env = CartPole(cart_friction=0.3, pole_friction=0.01, disturbance=1.0)
    doubled = ("cart_mass", "pole_mass", "force", "cart_friction", "pole_friction", "disturbance")
    heavier = env.replace(**{name: 2.0 * getattr(env, name) for name in doubled})
    move = jax.jit(lambda e: jax.vmap(lambda n: advance(e, n, 1))(numbers))
    np.testing.assert_allclose(move(heavier), move(env), rtol=1e-5, atol=1e-6)
    assert np.max(np.abs(move(env.replace(pole_mass=0.2)) - move(env))) > 1e-3


@pytest.mark.parametrize("kind", [MountainCar, mountain_car_continuous])
def test_car_friction_takes_a_share_of_the_velocity(kind):
    numbers = jnp.array([-0.5, 0.03])
    move = jax.jit(lambda friction: advance(kind(friction=friction), numbers, an_action(kind())))
    np.testing.assert_allclose(move(0.0) - move(0.2), 0.2 * 0.03, rtol=1e-4)


# --- the disturbance channel ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "strength", "weak_action", "strong_action"),
    [  # the power balance has the disturbances of the others in every run
        pytest.param(CartPole, "force", 0, 1, marks=pytest.mark.slow),
        pytest.param(Pendulum, None, -0.25, 0.5, marks=pytest.mark.slow),
        pytest.param(Acrobot, "torque", 0, 2, marks=pytest.mark.slow),
        (MountainCar, "force", 0, 2),
        (mountain_car_continuous, None, -0.25, 0.5),
    ],
)
def test_disturbance_enters_beside_the_action(kind, strength, weak_action, strong_action):
    """What the action gives up is made good by an equal disturbance: the same next state."""
    env = kind()
    if strength:
        missing = 2.0 * getattr(env, strength)  # from -strength to strength
    else:
        missing = 0.75 * getattr(env, "force", 1.0)  # the pendulum's action is the torque itself
    states = some_states(kind)

    @jax.jit
    def move(disturbance, action):
        pushed = env.replace(disturbance=disturbance)
        return jax.vmap(lambda n: advance(pushed, n, action))(states)

    as_action = np.asarray(strong_action), np.asarray(weak_action)
    np.testing.assert_allclose(
        move(missing, as_action[1]), move(0.0, as_action[0]), rtol=1e-4, atol=1e-5 * missing
    )
    moved = np.abs(move(missing, as_action[1]) - move(0.0, as_action[1]))
    assert np.max(moved) > 1e-2 * missing


@pytest.mark.parametrize("kind", SOME)
def test_noise_is_a_uniform_disturbance(kind):
    """The noisy step is the step under some |w| <= noise_scale; w has a uniform law; 0 is none."""
    scale = 1e-4 if kind in (MountainCar, mountain_car_continuous) else 0.5
    state, _ = jax.jit(kind().reset)(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 2000)
    action = an_action(kind())

    @jax.jit
    def next_speeds(env, keys):
        step = lambda key: numbers_of(env.step(key, state, action)[0])[-1]  # noqa: E731
        return jax.vmap(step)(keys)

    noisy = next_speeds(kind(noise_scale=scale), keys)
    low, middle, high = (
        float(np.asarray(next_speeds(kind(disturbance=w), keys))[0]) for w in (-scale, 0.0, scale)
    )
    share = (np.asarray(noisy) - middle) / (high - middle)  # w / noise_scale, nearly linear
    assert low != high
    assert np.all(np.abs(share) < 1.01)
    # Uniform on [-1, 1]: mean 0 and variance 1/3, each within five standard errors (and 1 %).
    assert abs(share.mean()) < 5 * (1 / 3 / 2000) ** 0.5 + 0.01
    assert abs(share.var() - 1 / 3) < 5 * (4 / 45 / 2000) ** 0.5 + 0.01
    quiet = np.asarray(next_speeds(kind(), keys))
    assert np.all(quiet == quiet[0])


@pytest.mark.slow
def test_adversary_by_gradient():
    """A bounded adversary of the pendulum pushes the way it falls already."""
    env = Pendulum()
    angles = np.float32([-0.4, 0.4])

    @jax.jit
    @jax.vmap
    def slope(angle):
        """Of the cost two steps on in the disturbance now."""

        def cost(disturbance):
            pushed = env.replace(disturbance=disturbance)
            numbers = advance(pushed, jnp.stack([angle, jnp.zeros(())]), jnp.zeros(1))
            after = state_from(env, numbers)
            after, _ = env.step(jax.random.key(0), after, jnp.zeros(1))
            return -env.step(jax.random.key(0), after, jnp.zeros(1))[1].reward

        return jax.grad(cost)(0.0)

    np.testing.assert_array_equal(np.sign(slope(angles)), [-1.0, 1.0])


# --- sets of constants, derivatives, types --------------------------------------------------------


@pytest.mark.parametrize("kind", SOME)
def test_vmap_over_the_struct_is_an_uncertainty_set(kind):
    env, count = kind(), 5
    factors = np.linspace(0.7, 1.3, count, dtype=np.float32)
    sets = jax.tree.map(lambda leaf: np.float32(leaf) * factors, env)
    numbers = some_states(kind)[0]
    move = jax.jit(lambda e: advance(e, numbers, an_action(env)))
    batched = jax.jit(jax.vmap(lambda e: advance(e, numbers, an_action(env))))(sets)
    for index in range(count):
        single = move(jax.tree.map(lambda leaf, index=index: leaf[index], sets))
        np.testing.assert_allclose(batched[index], single, rtol=2e-5, atol=2e-6)
    assert len(np.unique(np.asarray(batched), axis=0)) == count


# Constants that no single step from the middle of the state space can feel.
SILENT = {
    "position_limit",
    "angle_limit",
    "goal_height",
    "initial_spread",
    "initial_angle",
    "initial_speed",
    "initial_low",
    "initial_high",
    "time_limit",
    "max_torque",
    "min_position",
    "max_position",
    "goal_position",
    "goal_velocity",
    "max_speed",
    "max_speed_1",
    "max_speed_2",
}


@pytest.mark.parametrize("kind", SOME)
def test_derivatives_in_constants(kind):
    """Finite everywhere, and right: equal to differences in float64."""
    with jax.enable_x64(True):
        leaves = {name: float(getattr(kind(), name)) for name in constants_of(kind())}
        leaves |= dict.fromkeys(("disturbance", "noise_scale"), leaves.get("force", 1.0) / 50)
        leaves |= {name: 0.1 for name in leaves if "friction" in name}
        names = list(leaves)
        states = some_states(kind, np.float64)
        action = 1.0 if kind in (Pendulum, mountain_car_continuous) else 2

        @jax.jit
        @jax.vmap
        def derivatives(numbers):
            def at(vector):
                env = kind(**dict(zip(names, vector, strict=True)))
                return advance(env, numbers, action)

            base = jnp.array([leaves[name] for name in names])
            size = 1e-6 * jnp.eye(len(names))
            differences = jax.vmap(lambda d: (at(base + d) - at(base - d)) / 2e-6)(size)
            return jax.jacfwd(at)(base).T, differences

        exact, differences = jax.device_get(derivatives(states))
    assert np.all(np.isfinite(exact))
    np.testing.assert_allclose(exact, differences, rtol=1e-4, atol=1e-5)
    felt = {name for i, name in enumerate(names) if np.any(np.abs(exact[:, i]) > 1e-9)}
    assert felt == set(names) - SILENT


@pytest.mark.parametrize(
    ("kind", "x64"),
    [
        *((kind, False) for kind in KINDS),
        (Pendulum, True),
        *(pytest.param(k, True, marks=pytest.mark.slow) for k in KINDS if k is not Pendulum),
    ],
)
def test_types_close_a_scan_and_a_python_loop(kind, x64):
    """One trace serves first and later steps and changed constants; arrays as constants fit in."""
    with jax.enable_x64(x64):
        traces = []

        @jax.jit
        def step(env, key, state, action):
            traces.append(1)
            return env.step(key, state, action)

        env, key = kind(), jax.random.key(0)
        action = an_action(env)
        state, _ = jax.eval_shape(env.reset, key)
        for name in ("disturbance", "time_limit", "gravity"):
            changed = env.replace(**{name: 2.0 * getattr(env, name)})
            state, outcome = jax.eval_shape(step, changed, key, state, action)
        assert len(traces) == 1
        assert outcome.reward.dtype == outcome.observation.dtype == jnp.float32
        # A constant in another precision changes no type either, not even a float32 state's.
        exact = env.replace(gravity=jnp.asarray(9.0, float), time_limit=jnp.int32(7))
        single = lambda x: x.astype(jnp.float32) if x.dtype == float else x  # noqa: E731
        start = lambda: jax.tree.map(single, env.reset(key)[0])  # noqa: E731
        body = lambda s, k: (exact.step(k, s, action)[0], None)  # noqa: E731
        jax.eval_shape(lambda: jax.lax.scan(body, start(), jax.random.split(key, 3)))


@pytest.mark.parametrize(
    "kind",
    [
        CartPole,
        MountainCar,
        *(pytest.param(k, marks=pytest.mark.slow) for k in (Pendulum, Acrobot)),
        pytest.param(mountain_car_continuous, marks=pytest.mark.slow),
    ],
)
def test_clock_yields_to_the_end_of_the_task(kind):
    """At the limit, `truncated` is the negation of `terminated`, whatever the latter is."""
    env = kind(time_limit=1.0)
    states = some_states(kind)
    if kind is Acrobot:
        states[:, 0] += math.pi  # half of them upside down
    if kind in (MountainCar, mountain_car_continuous):
        states[:, 0] += env.goal_position

    @jax.jit
    @jax.vmap
    def flags(numbers):
        outcome = env.step(jax.random.key(0), state_from(env, numbers), an_action(env))[1]
        return outcome.terminated, outcome.truncated

    terminated, truncated = jax.device_get(flags(states))
    np.testing.assert_array_equal(truncated, ~terminated)
    assert kind is Pendulum or 0 < int(terminated.sum()) < NUM_STATES


# --- by name --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["CartPole", "Pendulum", "Acrobot", "MountainCar", "MountainCarContinuous"]
)
def test_make_sets_leaves(name):
    env, plain = make(name, gravity=3, time_limit=math.inf), make(name)
    assert env == plain.replace(gravity=3.0, time_limit=math.inf)
    assert jax.tree.structure(env) == jax.tree.structure(plain)
    assert len(jax.tree.leaves(env)) == len(constants_of(env))
    traced = jax.jit(lambda g: make(name, gravity=g).gravity + 1.0)(2.0)
    assert float(traced) == 3.0


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("CartPole", {"pole_mas": 1.0}, "did you mean pole_mass"),
        ("CartPole", {"total_mass": 1.0}, "no parameter 'total_mass'"),
        (
            "CartPole",
            {"pole_mass": 0.0},
            r"pole_mass=0.0 is out of range: give a value in \(0, inf",
        ),
        ("Pendulum", {"gravity": float("nan")}, "gravity=nan is out of range"),
        ("Pendulum", {"mass": "heavy"}, "mass must be a number; got 'heavy'"),
        ("Acrobot", {"torque": True}, "torque must be a number"),
        ("Acrobot", {"link_centre_1": 1.5}, r"link_centre_1=1.5 is out of range.*\[0, 1\]"),
        ("MountainCar", {"gravity": np.ones(3)}, r"one number; got shape \[3\]: use `vmap`"),
        ("MountainCarContinuous", {"time_limit": 0}, "time_limit=0.0 is out of range"),
        ("Mountaincar", {}, "did you mean MountainCar"),
    ],
)
def test_bad_requests_name_the_remedy(name, parameters, message):
    with pytest.raises(ValueError, match=message) as error:
        make(name, **parameters)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_versioned_names_stay_gymnax():
    assert make("CartPole-v1").name == "CartPole-v1"
    assert isinstance(make("CartPole"), CartPole)
