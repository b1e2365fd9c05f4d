"""One table of contracts for every environment that `make` knows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.core.spaces import Box, Discrete
from jaxrl.envs import make, names

SLOW_TO_COMPILE = (
    "Asterix-MinAtar",
    "Freeway-MinAtar",
    "SpaceInvaders-MinAtar",
    "Seaquest-MinAtar",
)
EVERY_NAME = names()
ROLLED = [
    pytest.param(name, marks=pytest.mark.slow) if name in SLOW_TO_COMPILE else name
    for name in EVERY_NAME
]
NUM_STEPS = 120


def avals(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path), leaf.shape, leaf.dtype) for path, leaf in leaves]


def weak_leaves(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [jax.tree_util.keystr(path) for path, leaf in leaves if leaf.weak_type]


def rollout(env, key):
    """Steps of one episode under random actions; `alive` is false from the step after its end."""
    reset_key, loop_key = jax.random.split(key)
    state, observation = env.reset(reset_key)

    def body(carry, step_key):
        state, alive = carry
        act_key, env_key = jax.random.split(step_key)
        state, step = env.step(env_key, state, env.action_space.sample(act_key))
        inside = env.observation_space.contains(step.observation)
        ended = (step.terminated > 0) | step.truncated
        return (state, alive & ~ended), (step, alive, inside)

    keys = jax.random.split(loop_key, NUM_STEPS)
    _, (steps, alive, inside) = jax.lax.scan(body, (state, jnp.ones((), bool)), keys)
    return observation, steps, alive, inside


@jax.jit
def draw(space, key):
    sample = space.sample(key)
    return sample, space.contains(sample)


@functools.cache
def rolled(name):
    """Four lanes with an environment and a key each; the first two have equal keys."""
    env = make(name)
    batch = jax.tree.map(lambda leaf: jnp.stack([jnp.asarray(leaf)] * 4), env)
    keys = jax.random.split(jax.random.key(0), 3)[jnp.array([0, 0, 1, 2])]
    return env, jax.device_get(jax.jit(jax.vmap(rollout))(batch, keys))


@pytest.mark.parametrize("name", EVERY_NAME)
def test_reset_and_step_give_equal_types(name):
    env, key = make(name), jax.random.key(0)
    state, observation = jax.eval_shape(lambda e, k: e.reset(k), env, key)
    action = jax.eval_shape(lambda e, k: e.action_space.sample(k), env, key)
    step = lambda e, k, s, a: e.step(k, s, a)  # noqa: E731
    next_state, outcome = jax.eval_shape(step, env, key, state, action)
    assert avals(next_state) == avals(state)
    assert avals(outcome.observation) == avals(observation)
    assert weak_leaves((state, observation, next_state, outcome)) == []
    space = env.observation_space
    assert (outcome.observation.shape, outcome.observation.dtype) == (space.shape, space.dtype)
    assert (outcome.reward.shape, outcome.reward.dtype) == ((), jnp.float32)
    assert (outcome.terminated.dtype, outcome.truncated.dtype) == (jnp.bool_, jnp.bool_)
    assert outcome.cost.shape == (0,)


@pytest.mark.parametrize("name", EVERY_NAME)
def test_spaces_are_ours_and_samples_finite(name):
    env = make(name)
    for space in (env.observation_space, env.action_space):
        assert isinstance(space, (Box, Discrete))
        if len(space.shape) > 1:
            continue  # pictures: sampling compiles slowly for each shape and tells nothing new
        sample, inside = draw(space, jax.random.key(0))
        assert (sample.shape, sample.dtype) == (space.shape, space.dtype)
        assert np.all(np.isfinite(sample))
        assert bool(inside)


@pytest.mark.parametrize("name", EVERY_NAME)
def test_equal_environments_share_a_compilation(name):
    assert jax.tree.structure(make(name)) == jax.tree.structure(make(name))


@pytest.mark.parametrize("name", ROLLED)
def test_rollout_is_finite_and_never_ends_twice(name):
    _, (first, steps, alive, _) = rolled(name)
    for leaf in (first, steps.observation[alive], steps.reward[alive]):
        assert np.all(np.isfinite(leaf))
    assert not np.any(steps.terminated & steps.truncated)


@pytest.mark.parametrize("name", ROLLED)
def test_observations_lie_in_their_space(name):
    env, (first, _, alive, inside) = rolled(name)
    assert bool(env.observation_space.contains(first[0]))
    assert np.all(inside[alive])


@pytest.mark.parametrize("name", ROLLED)
def test_same_key_same_bits(name):
    _, (first, steps, _, _) = rolled(name)
    lanes = jax.tree.map(lambda leaf: np.array_equal(leaf[0], leaf[1]), (first, steps))
    assert all(jax.tree.leaves(lanes))


@pytest.mark.parametrize(
    "name", ["MountainCar-v0", "Pendulum-v1", "DiscountingChain-bsuite", "MetaMaze-misc"]
)
def test_python_loop_compiles_once(name):
    """These four compile twice when gymnax is stepped as it is."""
    traces = []

    @jax.jit
    def step(env, key, state, action):
        traces.append(1)
        return env.step(key, state, action)

    env, key = make(name), jax.random.key(0)
    state, _ = jax.jit(lambda e, k: e.reset(k))(env, key)
    for _ in range(3):
        state, _ = step(env, key, state, env.action_space.sample(key))
    limit = env.parameters["max_steps_in_episode"]
    step(make(name, max_steps_in_episode=int(limit) + 1), key, state, env.action_space.sample(key))
    assert len(traces) == 1
