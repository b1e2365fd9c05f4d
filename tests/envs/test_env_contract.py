"""One table of contracts for every environment that `make` knows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.key_reuse._core import KeyReuseError, check_key_reuse_jaxpr

from jaxrl.core import Box, Discrete
from jaxrl.envs import facts_of, make, names

EVERY_NAME = names()
# Further ones of gymnax that take long to build or to trace, and further tables.
LONG = (
    "AccessControlQueue",
    "Acrobot-v1",
    "AmericanOption",
    "Asterix-MinAtar",
    "BernoulliBandit-misc",
    "Chain",
    "CliffWalking",
    "DeepSea-bsuite",
    "FourRooms-misc",
    "Freeway-MinAtar",
    "FrozenLake-8x8",
    "Gambler",
    "Inventory",
    "MachineReplacement",
    "MetaMaze-misc",
    "Reacher-misc",
    "RegimeOption",
    "RegimePortfolio",
    "Seaquest-MinAtar",
    "SpaceInvaders-MinAtar",
    "Swimmer-misc",
    "WindyGridworld",
    "WindyWalk",
)
TABULAR = {name for name in EVERY_NAME if facts_of(name).is_tabular}
TRACED = tuple(name for name in EVERY_NAME if name not in LONG)
# Tables are of one class, and all are played in test_exact_optimum.py: here one without an end, one
# with illegal actions and one with ends.
TABLES = ("RiverSwim", "Gambler", "FrozenLake-4x4")
# Rollouts of this one are compiled in every run; where time is no matter those of our own, of the
# tables above and of what is cured in gymnax.
ROLLED = ("CartPole-v1",)
CURED = (
    "CartPole-v1",
    "MountainCarContinuous-v0",
    "Asterix-MinAtar",
    "Freeway-MinAtar",
    "DiscountingChain-bsuite",
    "SimpleBandit-bsuite",
    "MemoryChain-bsuite",
    "BernoulliBandit-misc",
    "GaussianBandit-misc",
    "FourRooms-misc",
    "MetaMaze-misc",
    "PointRobot-misc",
    "Reacher-misc",
    "Swimmer-misc",
    "Pong-misc",
)
ROLLED_SLOWLY = tuple(
    name
    for name in EVERY_NAME
    if name not in ROLLED
    and (name in (*TABLES, *CURED) or (facts_of(name).suite == "jaxrl" and name not in TABULAR))
)
NUM_STEPS = 120


def each(quick, slow=None):
    """Makes of a check of one environment a test of all of them that names those which fail.

    Those in `slow`, by default all that are not in `quick`, are a second, slow test.
    """

    def decorate(check):
        def test(names):
            failed = {}
            for name in names:
                try:
                    check(name)
                except (Exception, pytest.fail.Exception) as error:
                    failed[name] = error
            assert not failed, "\n".join(f"{name}: {error!r}" for name, error in failed.items())

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        rest = [name for name in EVERY_NAME if name not in quick] if slow is None else slow
        cases = [pytest.param(quick, id="default", marks=pytest.mark.held_for(*quick))]
        if rest:
            marks = [pytest.mark.slow, pytest.mark.held_for(*rest)]
            cases.append(pytest.param(rest, id="slow", marks=marks))
        return pytest.mark.parametrize("names", cases)(test)

    return decorate


def avals(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path), leaf.shape, leaf.dtype) for path, leaf in leaves]


@functools.cache
def made(name):
    return make(name)


def life(env, key):
    """A reset, an action and a step, each with a key of its own."""
    reset_key, act_key, step_key = jax.random.split(key, 3)
    state, observation = env.reset(reset_key)
    action = env.action_space.sample(act_key)
    return (state, observation, action), env.step(step_key, state, action)


@functools.cache
def traced(name):
    """The program of a life of one step, and the types of what it gives."""
    program, shapes = jax.make_jaxpr(life, return_shape=True)(made(name), jax.random.key(0))
    return program, jax.tree.unflatten(jax.tree.structure(shapes), program.out_avals)


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
    env = made(name)
    batch = jax.tree.map(lambda leaf: np.stack([np.asarray(leaf)] * 4), env)
    keys = jax.random.wrap_key_data(np.uint32([[0, 1], [0, 1], [0, 2], [0, 3]]))
    return env, jax.device_get(jax.jit(jax.vmap(rollout))(batch, keys))


@each(TRACED)
def test_reset_and_step_give_equal_types(name):
    env, (_, outputs) = made(name), traced(name)
    (state, observation, _), (next_state, outcome) = outputs
    assert avals(next_state) == avals(state)
    assert avals(outcome.observation) == avals(observation)
    assert [aval for aval in jax.tree.leaves(outputs) if aval.weak_type] == []
    space = env.observation_space
    assert (outcome.observation.shape, outcome.observation.dtype) == (space.shape, space.dtype)
    assert (outcome.reward.shape, outcome.reward.dtype) == ((), jnp.float32)
    assert (outcome.terminated.dtype, outcome.truncated.dtype) == (jnp.bool_, jnp.bool_)
    assert (outcome.cost.shape, outcome.cost.dtype) == ((facts_of(name).num_costs,), jnp.float32)


@each(TRACED)
def test_no_key_is_spent_twice(name):
    check_key_reuse_jaxpr(traced(name)[0].jaxpr)


def test_a_key_spent_twice_is_noticed():
    def twice(key):
        state, _ = made("CartPole").reset(key)
        return made("CartPole").reset(key), state

    with pytest.raises(KeyReuseError):
        check_key_reuse_jaxpr(jax.make_jaxpr(twice)(jax.random.key(0)).jaxpr)


@each(TRACED)
def test_spaces_are_ours(name):
    env, ((_, _, action), _) = made(name), traced(name)[1]
    assert (action.shape, action.dtype) == (env.action_space.shape, env.action_space.dtype)
    for space in (env.observation_space, env.action_space):
        assert isinstance(space, (Box, Discrete))
        if isinstance(space, Discrete):
            assert space.num_values >= 1
            continue
        low, high = (
            np.broadcast_to(np.asarray(end), space.shape) for end in (space.low, space.high)
        )
        assert np.all(low <= high)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in EVERY_NAME if n not in TABULAR - {*TABLES}])
def test_spaces_are_ours_and_samples_finite(name):
    env = made(name)
    for space in (env.observation_space, env.action_space):
        if len(space.shape) > 1:
            continue  # pictures: sampling compiles slowly for each shape and tells nothing new
        sample, inside = draw(space, jax.random.key(0))
        assert (sample.shape, sample.dtype) == (space.shape, space.dtype)
        assert np.all(np.isfinite(sample))
        assert bool(inside)


@each(TRACED)
def test_equal_environments_share_a_compilation(name):
    assert jax.tree.structure(made(name)) == jax.tree.structure(make(name))


@each(ROLLED, ROLLED_SLOWLY)
def test_rollout_is_finite_and_never_ends_twice(name):
    _, (first, steps, alive, _) = rolled(name)
    for leaf in (first, steps.observation[alive], steps.reward[alive]):
        assert np.all(np.isfinite(leaf))
    assert not np.any(steps.terminated & steps.truncated)


@each(ROLLED, ROLLED_SLOWLY)
def test_observations_lie_in_their_space(name):
    env, (first, _, alive, inside) = rolled(name)
    space = env.observation_space
    low, high = (space.low, space.high) if isinstance(space, Box) else (0, space.num_values - 1)
    assert np.all((first >= np.asarray(low)) & (first <= np.asarray(high)))
    assert np.all(inside[alive])


@each(ROLLED, ROLLED_SLOWLY)
def test_same_key_same_bits(name):
    _, (first, steps, _, _) = rolled(name)
    lanes = jax.tree.map(lambda leaf: np.array_equal(leaf[0], leaf[1]), (first, steps))
    assert all(jax.tree.leaves(lanes))


@pytest.mark.parametrize(
    "name",
    [
        "MountainCar-v0",
        "Pendulum-v1",
        "DiscountingChain-bsuite",
        pytest.param("MetaMaze-misc", marks=pytest.mark.slow),
    ],
)
def test_python_loop_compiles_once(name):
    """These four compile twice when gymnax is stepped as it is."""
    traces = []

    @jax.jit
    def step(env, key, state, action):
        traces.append(1)
        return env.step(key, state, action)

    env, key = made(name), jax.random.key(0)
    state, _ = jax.eval_shape(lambda e, k: e.reset(k), env, key)
    action = np.zeros(env.action_space.shape, env.action_space.dtype)
    for _ in range(3):
        state, _ = jax.eval_shape(step, env, key, state, action)
    limit = env.parameters["max_steps_in_episode"]
    jax.eval_shape(step, make(name, max_steps_in_episode=int(limit) + 1), key, state, action)
    assert len(traces) == 1
