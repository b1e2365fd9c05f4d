"""Domain randomisation: what is drawn, for how long it holds, and parameters by name."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxrl
from jaxrl.core import Transition, struct
from jaxrl.envs import TabularEnv, riverswim
from jaxrl.envs.control import CartPole, Pendulum
from jaxrl.envs.wrappers import (
    LogUniform,
    ObservationNoise,
    OneOf,
    TimeLimit,
    Uniform,
    domain_randomisation,
)
from jaxrl.training import start_rollout

KEY = jax.random.key(0)
RANGES = {
    "pole_mass": LogUniform(0.05, 0.5),
    "gravity": Uniform(8.0, 12.0),
    "force": OneOf((5.0, 10.0)),
}


@struct.dataclass
class Pushing:
    """Pushes right for ever: the pole falls after about ten steps."""

    discount: float = 0.9
    num_envs: int = struct.field(pytree_node=False, default=4)
    rollout_length: int = struct.field(pytree_node=False, default=60)

    def initial_memory(self, num_envs):
        return ()

    def act(self, key, state, observation, explore=True, memory=()):
        return jnp.ones(observation.shape[0], jnp.int32), {}


@pytest.fixture(scope="module")
def played() -> Transition:
    env = domain_randomisation(CartPole(), RANGES)
    state = start_rollout(KEY, Pushing(), env)
    return jaxrl.rollout(KEY, Pushing(), env, (), state, keep_env_state=True)[1]


def test_draws_follow_their_laws():
    env = domain_randomisation(CartPole(), RANGES)
    states, _ = jax.jit(jax.vmap(env.reset))(jax.random.split(KEY, 4000))
    laws = {"pole_mass": stats.loguniform(0.05, 0.5), "gravity": stats.uniform(8.0, 4.0)}
    for name, law in laws.items():
        assert stats.kstest(np.asarray(states.kept[name], np.float64), law.cdf).pvalue > 1e-4
    shares = [np.mean(states.kept["force"] == value) for value in (5.0, 10.0)]
    np.testing.assert_allclose(shares, 0.5, atol=5 * 0.5 / 4000**0.5)
    drawn = np.stack([states.kept[name] for name in RANGES])
    assert np.all(np.abs(np.corrcoef(drawn) - np.eye(3)) < 5 / 4000**0.5)


@struct.dataclass
class Places(CartPole):
    """Starts at places drawn with the keys that `split` gives: what `fold_in` gives too."""

    def reset(self, key):
        state, _ = super().reset(key)
        return state, jax.vmap(jax.random.uniform)(jax.random.split(key, 3))


def test_draws_and_the_start_of_the_episode_are_independent():
    env = domain_randomisation(Places(), {"gravity": Uniform(8.0, 12.0)})
    states, places = jax.jit(jax.vmap(env.reset))(jax.random.split(KEY, 2000))
    for place in np.asarray(places).T:
        assert abs(np.corrcoef(place, states.kept["gravity"])[0, 1]) < 5 / 2000**0.5


@pytest.mark.slow
def test_a_draw_holds_for_an_episode_and_is_made_anew_at_reset(played):
    ended = np.asarray((played.terminated >= 1) | played.truncated)[:-1]
    assert ended.sum(0).min() >= 3
    for name in ("pole_mass", "gravity"):
        drawn = np.asarray(played.env_state.kept[name])
        changed = drawn[1:] != drawn[:-1]
        np.testing.assert_array_equal(changed, ended)
    assert len(np.unique(played.env_state.kept["gravity"][0])) == 4  # each lane its own


@pytest.mark.slow
def test_a_stored_state_is_stepped_again_in_the_same_environment(played):
    """The recorded successor is that of a plain CartPole with the drawn constants."""
    env = domain_randomisation(CartPole(), RANGES)
    state = jax.tree.map(lambda leaf: leaf[:50, 0], played.env_state)
    action = played.action[:50, 0]
    keys = jax.random.split(jax.random.key(7), 50)

    @jax.jit
    def both(keys, state, action):
        def plain(key, state, action):
            return CartPole().replace(**state.kept).step(key, state.inner, action)[1]

        again = jax.vmap(env.step)(keys, state, action)[1]
        return again.observation, jax.vmap(plain)(keys, state, action).observation

    again, plain = both(keys, state, action)
    np.testing.assert_allclose(again, played.next_observation[:50, 0], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(plain, again, rtol=1e-6, atol=1e-7)
    nominal = jax.vmap(CartPole().step)(keys, state.inner, action)[1].observation
    assert np.max(np.abs(nominal - plain)) > 1e-3


@pytest.mark.slow
def test_a_range_without_width_is_the_plain_environment():
    env = domain_randomisation(Pendulum(), {"mass": Uniform(0.7, 0.7), "length": OneOf((1.3,))})
    plain = Pendulum(mass=0.7, length=1.3)
    state, observation = env.reset(KEY)
    inner = plain.reset(jax.random.split(KEY)[1])
    np.testing.assert_array_equal(observation, inner[1])
    _, step = env.step(KEY, state, jnp.ones(1))
    _, expected = plain.step(KEY, inner[0], jnp.ones(1))
    np.testing.assert_allclose(step.observation, expected.observation, rtol=1e-6)


ENVIRONMENTS = {
    "wrapped inside": lambda: domain_randomisation(
        TimeLimit(CartPole(), 20), {"max_steps": Uniform(5.0, 9.0), "env.force": OneOf((9.0,))}
    ),
    "wrapped outside": lambda: ObservationNoise(domain_randomisation(CartPole(), RANGES)),
    "gymnax": lambda: domain_randomisation(
        jaxrl.envs.make("CartPole-v1"), {"length": Uniform(0.3, 0.7)}
    ),
    "tabular": lambda: domain_randomisation(
        TabularEnv(riverswim(), one_hot=True), {"time_limit": OneOf((3.0, 5.0))}
    ),
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_types_agree_whatever_is_randomised(name):
    env = ENVIRONMENTS[name]()
    action = jnp.zeros(env.action_space.shape, env.action_space.dtype)
    state, observation = jax.eval_shape(env.reset, KEY)
    next_state, step = jax.eval_shape(lambda s: env.step(KEY, s, action), state)
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(next_state), strict=True):
        assert (before.shape, before.dtype) == (after.shape, after.dtype)
        assert not before.weak_type and not after.weak_type
    assert observation.shape == step.observation.shape == env.observation_space.shape


@pytest.mark.slow
def test_evaluation_needs_to_know_nothing_of_it():
    env = domain_randomisation(
        TabularEnv(riverswim(), one_hot=True), {"time_limit": OneOf((3.0, 5.0))}
    )
    lengths = jaxrl.evaluate(KEY, Pushing(), env, (), num_episodes=400).lengths
    assert set(lengths.tolist()) == {3, 5}
    assert abs(float(np.mean(lengths == 3)) - 0.5) < 5 * 0.5 / 400**0.5


def test_another_range_does_not_retrace():
    traces = []

    @jax.jit
    def reset(env):
        traces.append(1)
        return env.reset(KEY)[0].kept["gravity"]

    drawn = [
        reset(domain_randomisation(CartPole(), {"gravity": Uniform(low, low + 1.0)}))
        for low in (8.0, 9.0)
    ]
    assert len(traces) == 1
    np.testing.assert_allclose(drawn[1] - drawn[0], 1.0, rtol=1e-5)


def test_parameters_are_named_by_path_or_by_their_last_part():
    env, at = TimeLimit(CartPole(), 50), OneOf((0.4,))
    named = domain_randomisation(
        env, {"pole_mass": at, "env.gravity": at, "max_steps": OneOf((7,))}
    )
    assert set(named.ranges) == {"env.pole_mass", "env.gravity", "max_steps"}
    gymnax = jaxrl.envs.make("CartPole-v1")
    assert set(domain_randomisation(gymnax, {"length": at}).ranges) == {"length"}
    with pytest.raises(KeyError, match="total_mass"):  # derived
        domain_randomisation(gymnax, {"total_mass": at})


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(KeyError, match="pole_mass"):
        domain_randomisation(CartPole(), {"pole_mess": Uniform(0.1, 0.2)})
    bad = {
        "out of range": {"pole_mass": Uniform(-0.1, 0.2)},
        "empty": {"gravity": Uniform(9.0, 8.0)},
        "above 0": {"gravity": LogUniform(0.0, 8.0)},
        "list of numbers": {"gravity": OneOf(())},
        "nothing is randomised": {},
    }
    for message, ranges in bad.items():
        with pytest.raises(ValueError, match=message):
            domain_randomisation(CartPole(), ranges)
    twice = {"env.gravity": Uniform(8.0, 9.0), "gravity": Uniform(8.0, 9.0)}
    with pytest.raises(ValueError, match="twice"):
        domain_randomisation(TimeLimit(CartPole(), 5), twice)
