"""Returns and advantages against their definitions."""

import jax
import numpy as np
import pytest

from jaxrl.returns import generalised_advantages, lambda_returns, next_stock

T = 9
lambda_jit = jax.jit(lambda_returns)
advantages_jit = jax.jit(generalised_advantages)
n_step_jit = jax.jit(lambda_returns, static_argnames="num_steps")


def stretch(seed=0, truncated_at=4, terminated_at=6, shape=(T,)):
    """Rewards, discounts, values, true-successor values, and the flags, as float64 numpy."""
    rng = np.random.default_rng(seed)
    rewards = rng.normal(size=shape)
    values = rng.normal(size=shape)
    discounts = np.full(shape, 0.9)
    cut = np.ones(shape)
    next_values = np.concatenate([values[1:], rng.normal(size=(1, *shape[1:]))])
    if terminated_at is not None:
        discounts[terminated_at] = 0.0
        next_values[terminated_at] = rng.normal()  # never looked at
    if truncated_at is not None:
        cut[truncated_at] = 0.0
        next_values[truncated_at] = rng.normal()  # the true successor is not values[t + 1]
    return rewards, discounts, values, next_values, cut


def f32(*arrays):
    return tuple(np.asarray(a, np.float32) for a in arrays)


def advantages_by_definition(rewards, discounts, values, next_values, lambda_):
    """A_t = sum_k (prod_{i<k} d lambda) td_error_{t+k}: O(T^2), in float64."""
    td_errors = rewards + discounts * next_values - values
    result = np.zeros(T)
    for t in range(T):
        weight = 1.0
        for k in range(t, T):
            result[t] += weight * td_errors[k]
            weight *= discounts[k] * lambda_[k]
    return result


def n_step_by_definition(rewards, discounts, next_values, cut, n):
    result = np.zeros(T)
    for t in range(T):
        weight = 1.0
        for k in range(t, min(t + n, T)):
            result[t] += weight * rewards[k]
            weight *= discounts[k]
            if k == min(t + n, T) - 1 or cut[k] == 0:
                result[t] += weight * next_values[k]
                break
    return result


@pytest.mark.parametrize("lambda_", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_advantages_are_the_sum_of_td_errors(lambda_, seed):
    rewards, discounts, values, next_values, cut = stretch(seed)
    decays = lambda_ * cut
    ours = advantages_jit(*f32(rewards, discounts, values, next_values, decays))
    expected = advantages_by_definition(rewards, discounts, values, next_values, decays)
    np.testing.assert_allclose(ours, expected, atol=2e-6)
    returns = lambda_jit(*f32(rewards, discounts, next_values, decays))
    np.testing.assert_allclose(returns, expected + values, atol=2e-6)


@pytest.mark.parametrize("num_steps", [1, 2, 5, 50])
def test_n_step_returns_are_their_definition(num_steps):
    rewards, discounts, _, next_values, cut = stretch(3)
    ours = n_step_jit(*f32(rewards, discounts, next_values, cut), num_steps=num_steps)
    expected = n_step_by_definition(rewards, discounts, next_values, cut, num_steps)
    np.testing.assert_allclose(ours, expected, atol=2e-6)


def test_lambda_returns_are_the_mixture_of_n_step_returns():
    """G = (1 - l) sum_{n<T} l^(n-1) G^(n) + l^(T-1) G^(T), for the first step."""
    rewards, discounts, _, next_values, _ = stretch(2, None, None)
    lambda_, one = 0.6, np.ones(T)
    steps = [
        n_step_by_definition(rewards, discounts, next_values, one, n)[0] for n in range(1, T + 1)
    ]
    mixed = sum((1 - lambda_) * lambda_ ** (n - 1) * steps[n - 1] for n in range(1, T))
    mixed += lambda_ ** (T - 1) * steps[T - 1]
    ours = lambda_jit(*f32(rewards, discounts, next_values, lambda_))
    np.testing.assert_allclose(ours[0], mixed, atol=1e-6)


def test_lambda_zero_and_one():
    rewards, discounts, _, next_values, cut = stretch(4)
    data = f32(rewards, discounts, next_values)
    one_step = data[0] + data[1] * data[2]
    np.testing.assert_allclose(lambda_jit(*data, np.float32(0.0)), one_step, atol=1e-6)
    np.testing.assert_allclose(n_step_jit(*data, num_steps=1), one_step, atol=1e-6)
    whole = n_step_jit(*data, *f32(cut), num_steps=T)
    np.testing.assert_allclose(lambda_jit(*data, *f32(cut)), whole, atol=1e-6)


@pytest.mark.parametrize("lambda_", [0.0, 0.8, 1.0])
def test_truncation_cuts_the_trace_and_keeps_the_bootstrap(lambda_):
    """A truncated stretch is two stretches: what follows it changes nothing before it."""
    end = 5
    rewards, discounts, _, next_values, cut = stretch(5, truncated_at=end - 1, terminated_at=None)
    whole = lambda_jit(*f32(rewards, discounts, next_values, lambda_ * cut))
    first = lambda_jit(*f32(rewards[:end], discounts[:end], next_values[:end], lambda_ * cut[:end]))
    np.testing.assert_allclose(whole[:end], first, atol=1e-6)
    expected = rewards[end - 1] + discounts[end - 1] * next_values[end - 1]
    np.testing.assert_allclose(whole[end - 1], expected, atol=1e-6)


def test_termination_drops_the_bootstrap():
    rewards, discounts, _, next_values, cut = stretch(6, None, terminated_at=4)
    first = lambda_jit(*f32(rewards, discounts, next_values, 0.8 * cut))
    assert float(first[4]) == np.float32(rewards[4])
    next_values[4], rewards[5:] = 1e6, -1e6  # neither is reachable from before the end
    changed = lambda_jit(*f32(rewards, discounts, next_values, 0.8 * cut))
    np.testing.assert_array_equal(first[:5], changed[:5])


def test_trailing_axes_are_a_batch():
    rewards, discounts, values, next_values, cut = stretch(7, shape=(T, 3))
    decays = np.linspace(0.0, 1.0, T) * cut[:, 0]
    data = f32(rewards, discounts, values, next_values)
    together = advantages_jit(*data, *f32(decays))
    apart = [
        advantages_by_definition(
            *(x[:, i] for x in (rewards, discounts, values, next_values)), decays
        )
        for i in range(3)
    ]
    np.testing.assert_allclose(together, np.stack(apart, 1), atol=3e-6)
    full = np.tile(decays[:, None], 3)
    np.testing.assert_array_equal(together, advantages_jit(*data, *f32(full)))


def test_gradients_reach_rewards_values_and_lambda():
    """dG_0 / dr_k = prod_{i<k} d_i lambda_i, by hand (0.9 * 0.7)^k."""
    one = np.ones(T, np.float32)
    by_reward, by_value, by_lambda = jax.jit(
        jax.grad(lambda r, v, l: lambda_returns(r, 0.9 * one, v, l)[0], argnums=(0, 1, 2))
    )(one, one, np.float32(0.7))
    steps = np.arange(T)
    weights = (0.9 * 0.7) ** steps
    np.testing.assert_allclose(by_reward, weights, rtol=1e-6)
    # v_k enters by 0.9 (1 - lambda) of its step, but the last one whole.
    np.testing.assert_allclose(by_value, weights * 0.9 * np.where(steps < T - 1, 0.3, 1), rtol=1e-5)
    # With reward 1 and value 1 every error is 0.9: G_0 = 1 + sum_k (0.9 lambda)^k 0.9.
    expected = np.sum(steps * 0.9**steps * 0.7 ** (steps - 1.0) * 0.9)
    np.testing.assert_allclose(by_lambda, expected, rtol=1e-5)


def test_one_step_stretch_ignores_lambda():
    for lambda_ in (0.0, 1.0):
        assert lambda_jit(*f32([1.0], [0.5], [4.0], lambda_)).tolist() == [3.0]


def test_the_stock_telescopes():
    """discount^t c_t = c_0 + sum_{u < t} discount^u r_u."""
    discount, rewards = 0.8, np.array([1.0, 2.0, 0.5])
    step, stock = jax.jit(next_stock), np.float32(0.3)
    for reward in np.float32(rewards):
        stock = step(stock, reward, np.float32(discount))
    expected = (0.3 + np.sum(discount ** np.arange(3) * rewards)) / discount**3
    np.testing.assert_allclose(stock, expected, rtol=1e-6)
