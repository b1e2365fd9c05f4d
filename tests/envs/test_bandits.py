"""Bandits pay what their arms promise."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.envs import NormalPayout, make

MEANS = [0.0, 0.25, 0.9, 1.0]


def bandit(*means, **parameters):
    return make("Bandit", **dict(zip(("means", "payout"), means, strict=False)), **parameters)


@jax.jit
def pull_all(env, keys):
    """Rewards `[A, num_keys]` of each arm."""
    state, _ = env.reset(keys[0])
    arms = jnp.arange(env.means.shape[0])
    pay = lambda arm, key: env.step(key, state, arm)[1].reward  # noqa: E731
    return jax.vmap(lambda arm: jax.vmap(lambda key: pay(arm, key))(keys))(arms)


def test_coins_fall_with_their_means():
    rewards = np.asarray(pull_all(bandit(MEANS), jax.random.split(jax.random.key(0), 4000)))
    assert set(np.unique(rewards)) == {0.0, 1.0}
    error = np.sqrt(np.array(MEANS) * (1 - np.array(MEANS)) / 4000)
    assert np.all(abs(rewards.mean(1) - MEANS) <= 4 * error)  # exact at 0 and 1


def test_normal_pay_has_its_mean_and_scale():
    env = bandit([-1.0, 2.0, 0.0, 5.0], NormalPayout(0.5))
    rewards = np.asarray(pull_all(env, jax.random.split(jax.random.key(1), 4000)))
    assert np.all(abs(rewards.mean(1) - [-1, 2, 0, 5]) <= 4 * 0.5 / math.sqrt(4000))
    assert np.all(abs(rewards.std(1) - 0.5) <= 4 * 0.5 / math.sqrt(8000))


@jax.jit
def pull(env, key, state, arm):
    return env.step(key, state, arm)


@pytest.mark.parametrize("num_pulls", [1.0, 3.0, math.inf])
def test_an_episode_is_so_many_pulls(num_pulls):
    env = bandit(MEANS, num_pulls=num_pulls)
    state, observation = env.reset(jax.random.key(0))
    assert int(observation) == 0
    for count in range(1, 6):
        state, step = pull(env, jax.random.key(count), state, jnp.array(1))
        assert bool(step.terminated) == (count >= num_pulls) and not bool(step.truncated)


def test_other_numbers_do_not_retrace():
    traces = []

    @jax.jit
    def step(env, key):
        traces.append(1)
        return env.step(key, env.reset(key)[0], 1)

    for env in (bandit(MEANS), bandit([0.5] * 4, num_pulls=9.0)):
        jax.eval_shape(step, env, jax.random.key(0))
    for scale in (0.0, 2.0):
        jax.eval_shape(step, bandit(MEANS, NormalPayout(scale)), jax.random.key(0))
    assert len(traces) == 2  # one for each kind of payout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"means": []}, "at least one arm"),
        ({"means": [1.5]}, r"must lie in \[0, 1\]"),
        ({"payout": NormalPayout(-1.0)}, "payout.scale=-1.0"),
        ({"num_pulls": 0}, "num_pulls=0"),
    ],
)
def test_bad_bandits_give_one_clear_line(arguments, message):
    with pytest.raises(ValueError, match=message):
        bandit(**arguments)
