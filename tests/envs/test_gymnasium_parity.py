"""One step from many states against gymnasium, the reference for classic control."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.envs import make

NUM_STATES = 64

# name -> (fields of the gymnax state in gymnasium's order, half-widths of the box of states)
CASES = {
    "CartPole-v1": (("x", "x_dot", "theta", "theta_dot"), (2.5, 2.0, 0.22, 2.0)),
    "MountainCar-v0": (("position", "velocity"), (0.9, 0.07)),
    "MountainCarContinuous-v0": (("position", "velocity"), (0.9, 0.07)),
    "Pendulum-v1": (("theta", "theta_dot"), (3.0, 8.0)),
    "Acrobot-v1": (
        ("joint_angle1", "joint_angle2", "velocity_1", "velocity_2"),
        (3.0, 3.0, 4.0, 8.0),
    ),
}
CENTRES = {"MountainCar-v0": (-0.3, 0.0), "MountainCarContinuous-v0": (-0.3, 0.0)}


def reference_steps(name, states, actions):
    env = gymnasium.make(name).unwrapped
    env.reset(seed=0)
    rows = []
    for state, action in zip(states, actions, strict=True):
        env.state = np.array(state, np.float64)
        if name == "CartPole-v1":
            env.steps_beyond_terminated = None
        observation, reward, terminated, _, _ = env.step(action)
        rows.append((observation, reward, terminated))
    return tuple(np.array(column) for column in zip(*rows, strict=True))


@pytest.mark.parametrize(
    "name", [n if n == "CartPole-v1" else pytest.param(n, marks=pytest.mark.slow) for n in CASES]
)
def test_one_step_agrees(name):
    fields, widths = CASES[name]
    generator = np.random.default_rng(0)
    centre = np.array(CENTRES.get(name, (0.0,) * len(widths)))
    states = centre + generator.uniform(-1, 1, (NUM_STATES, len(widths))) * widths
    states = states.astype(np.float32)
    env = make(name)
    if name == "CartPole-v1":  # gymnasium pays for the step that leaves a terminal state, too
        states = states[(np.abs(states[:, 0]) < 2.4) & (np.abs(states[:, 2]) < 0.2094)]
    space = env.action_space
    if space.shape:
        low, high = np.broadcast_to(space.low, (1,)), np.broadcast_to(space.high, (1,))
        actions = generator.uniform(low, high, (len(states), 1)).astype(np.float32)
    else:
        actions = generator.integers(space.num_values, size=len(states))
    state, _ = jax.jit(env.reset)(jax.random.key(0))

    @jax.jit
    @jax.vmap
    def step(values, action):
        start = state.replace(**dict(zip(fields, values, strict=True)))
        return env.step(jax.random.key(0), start, action)[1]

    result = step(states, actions)
    observation, reward, terminated = reference_steps(name, states, actions)
    np.testing.assert_array_equal(result.terminated, terminated)
    np.testing.assert_allclose(result.observation, observation, atol=2e-4)
    np.testing.assert_allclose(result.reward, reward, atol=1e-4)
    assert len(states) > 0


@pytest.mark.slow
def test_energy_pumping_climbs_as_fast_as_in_gymnasium():
    """The good policy of MountainCarContinuous pushes the way the car moves; gymnax needs 165+."""
    env = make("MountainCarContinuous-v0")
    state, _ = env.reset(jax.random.key(0))
    starts = np.linspace(-0.6, -0.4, 5, dtype=np.float32)

    @jax.jit
    @jax.vmap
    def climb(position):
        def body(carry, _):
            state, alive, total = carry
            push = jnp.where(state.velocity >= 0, 1.0, -1.0)[None]
            state, step = env.step(jax.random.key(0), state, push)
            total = total + jnp.where(alive, step.reward, 0.0)
            return (state, alive & ~step.terminated, total), alive

        first = state.replace(position=position)
        carry = (first, jnp.ones((), bool), jnp.zeros(()))
        (_, _, total), alive = jax.lax.scan(body, carry, None, length=300)
        return jnp.sum(alive), total

    lengths, returns = climb(jnp.asarray(starts))
    reference = gymnasium.make("MountainCarContinuous-v0").unwrapped
    for start, length, total in zip(starts, lengths, returns, strict=True):
        reference.reset(seed=0)
        reference.state, steps, expected, terminated = np.array([start, 0.0]), 0, 0.0, False
        while not terminated:
            push = np.array([1.0 if reference.state[1] >= 0 else -1.0])
            _, reward, terminated, _, _ = reference.step(push)
            steps, expected = steps + 1, expected + reward
        assert abs(int(length) - steps) <= 1
        assert float(total) == pytest.approx(expected, abs=0.2)
