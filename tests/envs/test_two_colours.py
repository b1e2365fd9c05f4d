"""The two-colour grid against its words, step by step, and against its model."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from jaxrl import planning
from jaxrl.envs import TwoColours, make

OFFSETS = [(-1, 0), (0, 1), (1, 0), (0, -1)]
NUM_STEPS = 500


@jax.jit
def play(env, actions, key):
    """States `[T + 1]` and steps `[T]`."""
    reset_key, loop_key = jax.random.split(key)
    first, observation = env.reset(reset_key)

    def body(state, given):
        state, step = env.step(given[0], state, given[1])
        return state, (state, step)

    keys = jax.random.split(loop_key, len(actions))
    states, steps = jax.lax.scan(body, first, (keys, actions))[1]
    states = jax.tree.map(lambda one, rest: jnp.concatenate([one[None], rest]), first, states)
    return observation, states, steps


def test_every_step_is_as_described():
    env = TwoColours(swap_period=7.0, good_reward=2.0, bad_reward=-3.0, height=2, width=3)
    actions = np.random.default_rng(0).integers(0, 4, NUM_STEPS)
    first, states, steps = jax.device_get(play(env, jnp.asarray(actions), jax.random.key(0)))
    seen = np.concatenate([first[None], steps.observation])
    entered = [0, 0]
    for time in range(NUM_STEPS):
        row, column = divmod(states.cell[time], 3)
        row = min(max(row + OFFSETS[actions[time]][0], 0), 1)
        column = min(max(column + OFFSETS[actions[time]][1], 0), 2)
        cell = row * 3 + column
        assert states.cell[time + 1] == cell
        good, pay = (time // 7) % 2, -0.04
        for i in (0, 1):
            new = states.objects[time + 1][i]
            if states.objects[time][i] == cell:
                pay, entered[i] = (2.0 if i == good else -3.0), entered[i] + 1
                assert new not in (cell, states.objects[time][1 - i])
            else:
                assert new == states.objects[time][i]
        assert steps.reward[time] == np.float32(pay)
    assert min(entered) > 20
    assert not steps.terminated.any() and not steps.truncated.any()
    for time in range(NUM_STEPS + 1):
        expected = np.zeros((3, 5), np.float32)
        for i, cell in enumerate([states.cell[time], *states.objects[time]]):
            expected[i, cell // 3] = expected[i, 2 + cell % 3] = 1.0
        np.testing.assert_array_equal(seen[time], expected.reshape(-1))


def standing(env, since):
    """Beside the first object, `since` steps after a swap."""
    state, _ = env.reset(jax.random.key(0))
    return state.replace(cell=jnp.int32(7), objects=jnp.int32([8, 3]), since_swap=jnp.int32(since))


def test_swaps_come_exactly_even_late_in_a_long_period():
    env = TwoColours(swap_period=2.0**24)
    step = jax.jit(env.step)
    swapped = []
    for since in (2**24 - 2, 2**24 - 1):
        late = standing(env, since)
        swapped.append(bool(step(jax.random.key(1), late, jnp.array(0))[0].swapped))
    assert swapped == [False, True]


def test_places_are_uniform():
    env = TwoColours(height=2, width=2)
    states = jax.jit(jax.vmap(lambda key: env.reset(key)[0]))(
        jax.random.split(jax.random.key(1), 4800)
    )
    triples = np.asarray(states.cell) * 16 + np.asarray(states.objects) @ np.array([4, 1])
    found, counts = np.unique(triples, return_counts=True)
    assert len(found) == 4 * 3 * 2 and chisquare(counts).pvalue > 1e-3
    # On the full grid, stand beside the first object and enter it, again and again.
    env = TwoColours()
    state = standing(env, 0)
    after = jax.jit(jax.vmap(lambda key: env.step(key, state, jnp.array(1))[0].objects))(
        jax.random.split(jax.random.key(2), 4600)
    )
    found, counts = np.unique(np.asarray(after)[:, 0], return_counts=True)
    assert set(found) == set(range(25)) - {8, 3} and chisquare(counts).pvalue > 1e-3
    assert np.all(np.asarray(after)[:, 1] == 3)


@functools.partial(jax.jit, static_argnames="num_steps")
def earned(env, actions, discount, keys, num_steps):
    """Discounted return `[B]` of the policy `actions[C, C, C]`."""

    def life(key):
        reset_key, loop_key = jax.random.split(key)

        def body(carry, time):
            state, total = carry
            action = actions[state.cell, state.objects[0], state.objects[1]]
            state, step = env.step(jax.random.fold_in(loop_key, time), state, action)
            return (state, total + discount**time * step.reward), None

        carry = (env.reset(reset_key)[0], jnp.zeros(()))
        return jax.lax.scan(body, carry, jnp.arange(num_steps))[0][1]

    return jax.vmap(life)(keys)


@pytest.mark.slow
def test_planned_optimum_between_swaps_is_earned():
    env = TwoColours(height=2, width=3)
    mdp = env.as_mdp(0.9)
    np.testing.assert_allclose(mdp.prob.sum(-1), 1.0, atol=1e-6)
    solution = planning.value_iteration(mdp, tolerance=1e-4)
    assert bool(solution.converged)
    expected = float(mdp.initial @ solution.values)
    keys = jax.random.split(jax.random.key(3), 2048)
    actions = jnp.argmax(solution.policy, axis=-1).reshape(6, 6, 6)
    returns = earned(env, actions, 0.9, keys, num_steps=100)
    error = float(returns.std()) / math.sqrt(len(keys))
    assert error < 0.01 * expected
    assert abs(float(returns.mean()) - expected) < 4 * error + 1e-3
    # With the colours exchanged, it is the same problem with the objects' names exchanged.
    swapped = planning.value_iteration(env.as_mdp(0.9, swapped=True), tolerance=1e-4)
    other = swapped.values.reshape(6, 6, 6)
    np.testing.assert_allclose(
        other.transpose(0, 2, 1), solution.values.reshape(6, 6, 6), atol=1e-4
    )


def test_other_numbers_do_not_retrace():
    traces = []

    @jax.jit
    def step(env, key):
        traces.append(1)
        return env.step(key, env.reset(key)[0], 1)

    for env in (TwoColours(), TwoColours(swap_period=5.0, step_reward=0.0)):
        jax.eval_shape(step, env, jax.random.key(0))
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"swap_period": 0.5}, "swap_period=0.5"),
        ({"height": 1, "width": 2}, "at least 3 cells"),
        ({"height": -1}, "at least one cell"),
    ],
)
def test_bad_numbers_give_one_clear_line(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        TwoColours(**arguments)
    assert "\n" not in str(error.value)


def test_default_is_the_published_grid():
    env = TwoColours()
    assert env.observation_space.shape == (30,) and env.action_space.num_values == 4
    assert jax.tree.structure(env) == jax.tree.structure(make("TwoColours"))
