"""The collecting grid against a slow one of our own, its model against its steps."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from jaxrl import planning
from jaxrl.envs import make

collecting_grid = functools.partial(make, "CollectingGrid")
OFFSETS = [(-1, 0), (0, 1), (1, 0), (0, -1), (0, 0), (-1, 1), (1, 1), (1, -1), (-1, -1)]
HEIGHT, WIDTH, NUM_OBJECTS, NUM_STEPS = 3, 4, 3, 60


def random_grids(seed, num_grids):
    """Grids whose probabilities are 0 or 1, so that nothing is left to chance; cells may agree."""
    source = np.random.default_rng(seed)
    shape = (num_grids, NUM_OBJECTS)
    return make("CollectingGrid").replace(
        positions=source.integers(0, HEIGHT * WIDTH, shape).astype(np.int32),
        rewards=(source.integers(-4, 5, shape) / 4).astype(np.float32),
        end_probs=source.integers(0, 2, shape).astype(np.float32),
        respawn_probs=source.integers(0, 2, shape).astype(np.float32),
        start=source.integers(0, HEIGHT * WIDTH, num_grids).astype(np.int32),
        time_limit=source.integers(1, 50, num_grids).astype(np.float32),
        height=HEIGHT,
        width=WIDTH,
        num_moves=9,
    )


@jax.jit
def play(env, actions, keys):
    """Observations before and after each of `actions[T]`, with rewards and ends."""
    state, first = env.reset(keys[0])

    def body(state, given):
        state, step = env.step(given[0], state, given[1])
        return state, step

    return first, jax.lax.scan(body, state, (keys, actions))[1]


def play_slowly(env, actions):
    """The same in plain Python, from the words of the docstring."""
    row, column = divmod(int(env.start), WIDTH)
    present, seen = [True] * NUM_OBJECTS, []
    for time, action in enumerate(actions, start=1):
        row = min(max(row + OFFSETS[action][0], 0), HEIGHT - 1)
        column = min(max(column + OFFSETS[action][1], 0), WIDTH - 1)
        reward, ended, before = 0.0, False, list(present)
        for i in range(NUM_OBJECTS):
            if before[i] and int(env.positions[i]) == row * WIDTH + column:
                present[i] = False
                reward += float(env.rewards[i])
                ended = ended or float(env.end_probs[i]) == 1.0
            elif not before[i] and float(env.respawn_probs[i]) == 1.0:
                present[i] = True
        mask = sum(2**i for i in range(NUM_OBJECTS) if present[i])
        index = row * WIDTH + column + HEIGHT * WIDTH * mask
        seen.append((index, reward, ended, time >= float(env.time_limit) and not ended))
    return seen


def test_grids_play_as_a_slow_reference():
    grids = random_grids(0, 16)
    actions = np.random.default_rng(1).integers(0, 9, (16, NUM_STEPS))
    keys = jax.random.split(jax.random.key(0), (16, NUM_STEPS))
    first, steps = jax.device_get(jax.jit(jax.vmap(play))(grids, actions, keys))
    num_cells = HEIGHT * WIDTH
    np.testing.assert_array_equal(first, grids.start + num_cells * (2**NUM_OBJECTS - 1))
    for lane in range(16):
        env = jax.tree.map(lambda leaf, lane=lane: np.asarray(leaf)[lane], grids)
        index, reward, ended, cut = (
            np.array(column) for column in zip(*play_slowly(env, actions[lane]), strict=True)
        )
        np.testing.assert_array_equal(steps.observation[lane], index)
        np.testing.assert_array_equal(steps.reward[lane], reward)  # quarters: exact in float32
        np.testing.assert_array_equal(steps.terminated[lane], ended)
        np.testing.assert_array_equal(steps.truncated[lane], cut)
    assert steps.terminated.any() and steps.truncated.any() and (steps.reward != 0).any()


@functools.partial(jax.jit, static_argnames="num_draws")
def outcomes(env, key, num_draws):
    """Steps `[S, A, num_draws]` from every state under every action."""
    num_cells = env.height * env.width
    index = jnp.arange(env.observation_space.num_values)
    present = index[:, None] // num_cells >> jnp.arange(env.num_objects) & 1 == 1
    state, _ = env.reset(key)
    states = state.replace(cell=index % num_cells, present=present, time=jnp.zeros_like(index))
    keys = jax.random.split(key, (len(index), env.num_moves, num_draws))
    draw = jax.vmap(env.step, (0, None, None))
    draw = jax.vmap(jax.vmap(draw, (0, None, 0)), (0, 0, None))
    return draw(keys, states, jnp.arange(env.num_moves))[1]


def small_grid():
    return collecting_grid(
        height=2,
        width=2,
        positions=[(0, 1), (1, 1), (1, 1)],  # two in one cell
        rewards=[1.0, -0.5, 0.25],
        end_probs=[0.3, 0.0, 0.9],
        respawn_probs=[0.05, 0.4, 0.7],
        start=(0, 0),
    )


def test_model_is_the_law_of_the_steps():
    env, num_draws = small_grid(), 3000
    mdp = jax.device_get(model(env))
    steps = jax.device_get(outcomes(env, jax.random.key(1), num_draws))
    num_states = mdp.num_states
    assert num_states == 32 and mdp.prob.shape == (32, 4, 8)
    np.testing.assert_allclose(mdp.prob.sum(-1), 1.0, atol=1e-6)
    np.testing.assert_array_equal(steps.reward, np.broadcast_to(mdp.reward, steps.reward.shape))
    for state in range(num_states):
        for action in range(4):
            law = np.zeros(2 * num_states)
            ends = mdp.terminal[state, action]
            np.add.at(
                law, mdp.next_state[state, action] + num_states * ends, mdp.prob[state, action]
            )
            pair = (state, action)
            found = steps.observation[pair] + num_states * steps.terminated[pair]
            share = np.bincount(found, minlength=2 * num_states) / num_draws
            allowed = 5 * np.sqrt(law * (1 - law) / num_draws)  # 8,192 numbers: five deviations
            assert np.all(abs(share - law) <= allowed + 1e-6), pair


def test_events_of_one_step_are_independent():
    """Two numbers come from one word of random bits."""
    env = collecting_grid(
        positions=[(0, 0)] * 3,
        rewards=[0.0] * 3,
        end_probs=[0.0] * 3,
        respawn_probs=[0.02, 0.1, 0.6],
    )

    @jax.jit
    def after(key):
        state = env.reset(jax.random.key(0))[0].replace(present=jnp.zeros(3, bool))
        step = lambda key: env.step(key, state, jnp.array(0))[0].present  # noqa: E731
        return jax.vmap(step)(jax.random.split(key, 40_000))

    bits = np.arange(8)[:, None] >> np.arange(3) & 1
    chance = np.where(bits, np.asarray(env.respawn_probs), 1 - np.asarray(env.respawn_probs))
    counts = np.bincount(np.asarray(after(jax.random.key(2))) @ np.array([1, 2, 4]), minlength=8)
    law = chance.astype(float).prod(1)
    assert chisquare(counts, 40_000 * law / law.sum()).pvalue > 1e-3


@jax.jit
def model(env):
    return env.as_mdp(0.9)


@functools.partial(jax.jit, static_argnames="num_steps")
def earned(env, actions, discount, keys, num_steps):
    """Discounted return `[B]` of the policy `actions[S]`."""

    def episode(key):
        reset_key, loop_key = jax.random.split(key)
        state, observation = env.reset(reset_key)

        def body(carry, time):
            state, observation, total, weight = carry
            key = jax.random.fold_in(loop_key, time)
            state, step = env.step(key, state, actions[observation])
            total = total + weight * step.reward
            weight = jnp.where(step.terminated, 0.0, weight * discount)
            return (state, step.observation, total, weight), None

        carry = (state, observation, jnp.zeros(()), jnp.ones(()))
        return jax.lax.scan(body, carry, jnp.arange(num_steps))[0][2]

    return jax.vmap(episode)(keys)


@pytest.mark.slow
def test_planned_optimum_is_earned():
    env = collecting_grid(
        height=3, width=3, positions=[(0, 2), (2, 0)], start=(1, 1), time_limit=math.inf
    )
    mdp = model(env)
    solution = planning.value_iteration(mdp, tolerance=1e-4)
    assert bool(solution.converged)
    expected = float(solution.values @ mdp.initial)
    keys = jax.random.split(jax.random.key(3), 2048)
    returns = earned(env, jnp.argmax(solution.policy, axis=-1), 0.9, keys, num_steps=120)
    error = float(returns.std()) / math.sqrt(len(keys))
    assert error < 0.01 * expected
    assert abs(float(returns.mean()) - expected) < 4 * error + 1e-3


@pytest.mark.slow
def test_a_corridor_is_worth_what_it_should_be():
    # The first object is five moves away, pays 2 and ends; the other pays nothing: 2 * 0.9^4.
    env = collecting_grid(
        height=1,
        width=9,
        positions=[(0, 5), (0, 8)],
        rewards=[2.0, 0.0],
        end_probs=[1.0, 0.0],
        respawn_probs=[0.0, 0.0],
        start=(0, 0),
    )
    mdp = model(env)
    values = planning.value_iteration(mdp, tolerance=1e-4).values
    assert float(values @ mdp.initial) == pytest.approx(2 * 0.9**4, abs=1e-4)


def test_other_numbers_do_not_retrace():
    traces = []

    @jax.jit
    def step(env, key):
        traces.append(1)
        return env.step(key, env.reset(key)[0], 1)

    other = collecting_grid(
        positions=[(1, 1), (2, 2)], rewards=(0.5, 3.0), start=(4, 4), time_limit=7.0
    )
    for env in (collecting_grid(), other):
        jax.eval_shape(step, env, jax.random.key(0))
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"height": 0}, "at least one cell"),
        ({"num_moves": 8}, "num_moves=8"),
        ({"positions": [(0, 5), (1, 1)]}, r"position \(0, 5\) is off the grid"),
        ({"start": (-1, 0)}, "start"),
        ({"positions": []}, "1 to 12 objects"),
        ({"rewards": [1.0]}, "rewards has 1 numbers for 2"),
        ({"end_probs": [0.0, 1.5]}, "end_probs"),
        ({"respawn_probs": [math.nan, 0.0]}, "respawn_probs"),
        ({"time_limit": 0.0}, "time_limit=0.0"),
    ],
)
def test_bad_grids_give_one_clear_line(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        collecting_grid(**arguments)
    assert "\n" not in str(error.value)
