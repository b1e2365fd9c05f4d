"""Reward channels stored through mappings, as tables: what the two rates average to."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

from jaxrl import BellmanOperator, Lookahead
from jaxrl.agents import BySign, ValueChannels, Whole
from jaxrl.operators import HTransform, Identity, LogMapping


def learn(channels, params, reward, discount, next_params, rate):
    """One step of gradient descent on a row `params[J]` of a table."""
    step = Lookahead(
        reward=reward[None],
        discount=jnp.full((1,), discount),
        probs=jnp.ones(1),
        next_params=next_params[None],
    )
    target = channels.backup(BellmanOperator(), step)
    return params - rate * jax.grad(channels.loss)(params, target)


def test_identity_channels_are_q_learning_exactly():
    channels = ValueChannels(BySign(), (Identity(), Identity()), value_rate=0.3)
    rng = np.random.default_rng(3)
    next_params, current, reward = rng.normal(size=(4, 2)), rng.normal(size=2), np.float32(0.7)

    @jax.jit
    def update(*given):
        ours = learn(channels, *given)
        return ours, channels.mean(ours)

    ours, q_value = update(current, reward, 0.9, next_params, 0.5)
    best = np.argmax(next_params @ [1.0, -1.0])
    target = np.array([0.7, 0.0]) + 0.9 * next_params[best]
    np.testing.assert_allclose(ours, current + 0.15 * (target - current), atol=1e-6)
    # The weighted sum of the channels is what plain Q-learning on the reward itself stores.
    after = 0.7 + 0.9 * (next_params @ [1, -1])[best]
    summed = current @ [1, -1] + 0.15 * (after - current @ [1, -1])
    np.testing.assert_allclose(q_value, summed, atol=1e-6)


RATES = np.float32([1.0, 0.3, 2e-3])
NOISY = {"log": LogMapping(0.02, 4.0), "root": HTransform(0.0)}


@functools.cache
def stationary():
    """Values at each of the `RATES` of the first step, where every second reward is 4."""
    rate = 2e-3

    @jax.jit
    def run(value_rates):
        def of_mapping(mapping, value_rate):
            channels = ValueChannels(Whole(), (mapping,), value_rate)

            def step(params, reward):
                new = learn(channels, params, reward, 0.0, jnp.zeros((1, 1)), rate / value_rate)
                return new, channels.mean(new)

            rewards = 4.0 * (jnp.arange(8000) % 2)
            path = jax.lax.scan(step, mapping.forward(jnp.ones(1)), rewards)[1]
            return jnp.mean(path[-2:])

        over_rates = jax.vmap(of_mapping, (None, 0))
        return {name: over_rates(mapping, value_rates) for name, mapping in NOISY.items()}

    return jax.device_get(run(RATES))


@pytest.mark.parametrize("name", NOISY)
def test_stationary_value_goes_from_the_f_mean_to_the_mean(name):
    """Rewards 0 or 4 with even odds, discount 0: at value_rate 1 the stationary value is
    f^-1((f(0) + f(4)) / 2), far below the mean 2 that value_rate -> 0 gives, and in between v
    solves f(v) = (f((1 - rate) v) + f((1 - rate) v + 4 rate)) / 2."""
    mapped = {
        "log": lambda x: 4 + 4.02 * np.log((x + 0.02) / 4.02),
        "root": lambda x: np.sqrt(x + 1) - 1,
    }[name]
    for found, rate in zip(stationary()[name], RATES.astype(float), strict=True):

        def off(v, rate=rate):
            low, high = mapped((1 - rate) * v), mapped((1 - rate) * v + 4 * rate)
            return mapped(v) - 0.5 * (low + high)

        np.testing.assert_allclose(found, brentq(off, 0.01, 3.99), atol=2e-3)
    assert stationary()[name][0] < 1.7 and abs(stationary()[name][2] - 2.0) < 5e-3


def test_decomposition_keeps_the_greedy_policy():
    """Reward split into its positive and negative parts: the same best actions and values."""
    num_states, num_actions, discount = 5, 3, 0.7
    rng = np.random.default_rng(4)
    after = rng.integers(num_states, size=(num_states, num_actions))
    reward = rng.normal(size=(num_states, num_actions)).astype(np.float32)
    mapping = LogMapping(0.05, 10.0)
    channels = ValueChannels(BySign(), (mapping, mapping), value_rate=0.5)

    @jax.jit
    def solve():
        def sweep(_, params):
            step = lambda c, r, n: learn(channels, c, r, discount, params[n], 0.9)  # noqa: E731
            return jax.vmap(jax.vmap(step))(params, reward, after)

        zero = mapping.forward(jnp.zeros((num_states, num_actions, 2)))
        return jax.vmap(jax.vmap(channels.mean))(jax.lax.fori_loop(0, 400, sweep, zero))

    q = np.zeros((num_states, num_actions))
    for _ in range(400):
        q = reward + discount * q.max(axis=1)[after]
    found = np.asarray(solve())
    np.testing.assert_allclose(found, q, atol=2e-3)
    np.testing.assert_array_equal(np.argmax(found, 1), np.argmax(q, axis=1))
