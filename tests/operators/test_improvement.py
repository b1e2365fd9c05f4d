"""Contracts of every improvement."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from jaxrl.operators import EpsilonGreedy, Greedy, Softmax

IMPROVEMENTS = {
    "greedy": Greedy(),
    "epsilon_greedy": EpsilonGreedy(0.3),
    "softmax": Softmax(0.5),
    "cold_softmax": Softmax(1e-3),
}
B, A = 32, 5


@pytest.fixture(params=IMPROVEMENTS.values(), ids=IMPROVEMENTS.keys())
def improvement(request):
    return request.param


@jax.jit
def batch(improvement, q_values, mask):
    probs, bonus = jax.vmap(improvement)(q_values, mask)
    return probs, bonus, jnp.sum(probs * (jnp.where(mask, q_values, 0.0) + bonus), axis=1)


def cases():
    q_values = jax.random.normal(jax.random.key(0), (B, A))
    mask = jax.random.bernoulli(jax.random.key(1), 0.6, (B, A)).at[:, 2].set(True)
    return q_values, mask


def test_probabilities_are_a_law_on_the_legal_actions(improvement):
    q_values, mask = cases()
    probs, bonus, _ = batch(improvement, jnp.where(mask, q_values, -jnp.inf), mask)
    np.testing.assert_allclose(jnp.sum(probs, 1), 1.0, rtol=1e-6)
    assert jnp.all(probs >= 0) and jnp.all(jnp.where(mask, 0.0, probs) == 0)
    assert jnp.all(jnp.isfinite(bonus))


def test_value_is_monotone_and_nonexpansive(improvement):
    assert improvement.nonexpansive
    q_values, mask = cases()
    other = q_values + jax.random.normal(jax.random.key(2), (B, A))
    value, other_value = (batch(improvement, q, mask)[2] for q in (q_values, other))
    gap = jnp.max(jnp.abs(jnp.where(mask, q_values - other, 0.0)), axis=1)
    assert jnp.all(jnp.abs(value - other_value) <= gap + 1e-5)
    more = batch(improvement, jnp.maximum(q_values, other), mask)[2]
    assert jnp.all(more >= jnp.maximum(value, other_value) - 1e-5)


def test_a_mask_of_all_is_no_mask(improvement):
    q_values, _ = cases()
    unmasked = jax.vmap(improvement)(q_values)
    masked = batch(improvement, q_values, jnp.ones((B, A), bool))
    np.testing.assert_allclose(unmasked[0], masked[0], atol=1e-6)
    np.testing.assert_allclose(unmasked[1], masked[1], atol=1e-5)


def test_one_action(improvement):
    probs, bonus = improvement(jnp.array([3.0]))
    assert (probs.tolist(), abs(float(bonus[0]))) == ([1.0], 0.0)


def test_no_legal_action_is_finite(improvement):
    probs, bonus = improvement(jnp.arange(3.0), jnp.zeros(3, bool))
    assert jnp.all(jnp.isfinite(probs)) and jnp.all(jnp.isfinite(bonus))


def test_deterministic_improvements_select_their_action(improvement):
    q_values, mask = cases()
    probs, bonus, _ = batch(improvement, q_values, mask)
    if improvement.deterministic:
        index = jax.vmap(improvement.select)(q_values, mask)
        np.testing.assert_array_equal(probs, jax.nn.one_hot(index, A))
        assert jnp.all(bonus == 0)
    else:
        # A tie between three actions must be shared.
        assert jnp.sum(improvement(jnp.zeros(3))[0] > 0) > 1


def test_greedy_takes_the_first_of_the_best_legal():
    q_values = jnp.array([9.0, 2.0, 5.0, 5.0])
    mask = jnp.array([False, True, True, True])
    assert int(Greedy().select(q_values, mask)) == 2


def test_softmax_is_log_sum_exp():
    q_values, mask = cases()
    value = batch(Softmax(0.5), q_values, mask)[2]
    q = np.where(np.asarray(mask), np.asarray(q_values, float), -np.inf)
    np.testing.assert_allclose(value, 0.5 * logsumexp(q / 0.5, axis=1), atol=1e-5)


def test_softmax_policy_is_the_gradient_of_its_value():
    q_values, mask = cases()
    improvement = Softmax(0.5)
    by_q = jax.grad(lambda q: jnp.sum(batch(improvement, q, mask)[2]))(q_values)
    np.testing.assert_allclose(by_q, batch(improvement, q_values, mask)[0], atol=1e-5)


def test_limits_are_greedy():
    q_values, mask = cases()
    greedy = batch(Greedy(), q_values, mask)[2]
    np.testing.assert_allclose(batch(Softmax(1e-4), q_values, mask)[2], greedy, atol=2e-4)
    np.testing.assert_allclose(batch(EpsilonGreedy(0.0), q_values, mask)[2], greedy, atol=1e-6)


def test_epsilon_greedy_by_hand():
    """Legal 1, 3, with epsilon 0.5: 0.5 * 3 + 0.5 * (1 + 3) / 2 = 2.5."""
    q_values, mask = jnp.array([[1.0, 9.0, 3.0]]), jnp.array([[True, False, True]])
    probs, _, value = batch(EpsilonGreedy(0.5), q_values, mask)
    assert probs.tolist() == [[0.25, 0.0, 0.75]]
    assert float(value[0]) == 2.5
