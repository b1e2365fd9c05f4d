"""Policy distributions against SciPy and Monte Carlo."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jaxrl.networks import CategoricalPolicy, GaussianPolicy

NUM_DRAWS = 20_000
LOGITS = {
    "uniform": [0.0, 0.0, 0.0, 0.0],
    "peaked": [9.0, 0.0, -3.0, 1.0],
    "masked": [0.5, -np.inf, 1.5, -np.inf],
    "certain": [-np.inf, 2.0, -np.inf, -np.inf],
    "shifted": [1000.0, 1001.0, 999.0, 1000.5],
}


@pytest.mark.parametrize("name", LOGITS)
def test_categorical_agrees_with_scipy(name):
    logits = np.array(LOGITS[name])
    policy = CategoricalPolicy(jnp.asarray(logits, jnp.float32))
    probs = scipy.special.softmax(logits)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(policy.log_prob(jnp.arange(4)), np.log(probs), rtol=2e-4)
    np.testing.assert_allclose(policy.entropy(), scipy.stats.entropy(probs), atol=1e-5)
    assert int(policy.mode()) == int(np.argmax(logits))


def broadcast(policy: CategoricalPolicy, size: int) -> CategoricalPolicy:
    return CategoricalPolicy(jnp.broadcast_to(policy.logits, (size, *policy.logits.shape)))


@pytest.mark.parametrize("name", ["uniform", "masked", "certain"])
def test_categorical_draws_follow_the_law(name):
    policy = CategoricalPolicy(jnp.array(LOGITS[name]))
    drawn = broadcast(policy, NUM_DRAWS).sample(jax.random.key(0))
    assert drawn.dtype == jnp.int32
    counts = np.bincount(drawn, minlength=4)
    expected = scipy.special.softmax(LOGITS[name]) * NUM_DRAWS
    possible = expected > 0
    assert counts[~possible].sum() == 0
    if possible.sum() > 1:
        assert scipy.stats.chisquare(counts[possible], expected[possible]).pvalue > 1e-3


@pytest.mark.parametrize("name", ["uniform", "peaked", "masked", "certain"])
def test_categorical_kl(name):
    policy, other = CategoricalPolicy(jnp.array(LOGITS[name])), CategoricalPolicy(jnp.arange(4.0))
    probs, other_probs = (scipy.special.softmax(np.asarray(p.logits)) for p in (policy, other))
    np.testing.assert_allclose(policy.kl(other), scipy.stats.entropy(probs, other_probs), rtol=1e-4)
    np.testing.assert_allclose(policy.kl(policy), 0.0, atol=1e-6)


def test_categorical_kl_to_a_law_that_forbids_what_happens_is_infinite():
    some, none = (CategoricalPolicy(jnp.array(LOGITS[name])) for name in ("uniform", "masked"))
    assert float(some.kl(none)) == np.inf and np.isfinite(float(none.kl(some)))


@pytest.mark.parametrize("name", LOGITS)
def test_categorical_gradients_are_finite_and_right(name):
    logits = jnp.array(LOGITS[name])

    def log_prob(logits):
        return CategoricalPolicy(logits).log_prob(jnp.argmax(logits))

    chosen = np.eye(4)[int(jnp.argmax(logits))]
    probs = scipy.special.softmax(np.asarray(logits))
    np.testing.assert_allclose(jax.grad(log_prob)(logits), chosen - probs, atol=1e-5)
    slope = jax.grad(lambda logits: CategoricalPolicy(logits).entropy())(logits)
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise = -np.where(probs > 0, probs * np.log(probs), 0.0)
        # d/dl_i of -sum p log p is -p_i (log p_i + entropy).
        expected = surprise - probs * surprise.sum()
    np.testing.assert_allclose(slope, expected, atol=1e-5)


GAUSSIAN = GaussianPolicy(
    jnp.array([[0.0, 1.0, -2.0], [3.0, 0.5, 0.0]]), jnp.log(jnp.array([1.0, 0.1, 3.0]))
)


def laws(policy: GaussianPolicy) -> scipy.stats.rv_continuous:
    scale = np.exp(np.broadcast_to(policy.log_scale, policy.loc.shape))
    return scipy.stats.norm(np.asarray(policy.loc), scale)


def test_gaussian_agrees_with_scipy():
    action = jnp.array([[0.3, 1.2, 4.0], [-1.0, 0.5, 0.1]])
    reference = laws(GAUSSIAN)
    np.testing.assert_allclose(
        GAUSSIAN.log_prob(action), reference.logpdf(action).sum(-1), rtol=1e-5
    )
    np.testing.assert_allclose(GAUSSIAN.entropy(), reference.entropy().sum(-1), rtol=1e-5)
    np.testing.assert_array_equal(GAUSSIAN.mode(), GAUSSIAN.loc)


def test_gaussian_draws_follow_the_law_and_move_with_the_mean():
    many = GaussianPolicy(
        jnp.broadcast_to(GAUSSIAN.loc, (NUM_DRAWS, 2, 3)), jnp.broadcast_to(GAUSSIAN.log_scale, 3)
    )
    drawn = np.asarray(many.sample(jax.random.key(0)))
    for row in range(2):
        for column in range(3):
            law = scipy.stats.norm(
                float(GAUSSIAN.loc[row, column]), float(jnp.exp(GAUSSIAN.log_scale[column]))
            )
            assert scipy.stats.kstest(drawn[:, row, column], law.cdf).pvalue > 1e-3
    log_prob = np.asarray(many.log_prob(drawn))
    spread = log_prob.std(0) / NUM_DRAWS**0.5
    np.testing.assert_array_less(np.abs(-log_prob.mean(0) - GAUSSIAN.entropy()), 5 * spread)
    moves = jax.grad(lambda loc: GAUSSIAN.replace(loc=loc).sample(jax.random.key(0)).sum())
    np.testing.assert_array_equal(moves(GAUSSIAN.loc), np.ones((2, 3)))


def test_gaussian_kl_agrees_with_monte_carlo_and_vanishes_on_itself():
    other = GaussianPolicy(jnp.array([[0.5, 1.0, -1.0], [2.0, 0.4, 1.0]]), jnp.zeros(3) + 0.2)
    many, others = (
        p.replace(loc=jnp.broadcast_to(p.loc, (NUM_DRAWS, 2, 3))) for p in (GAUSSIAN, other)
    )
    drawn = many.sample(jax.random.key(3))
    ratio = np.asarray(many.log_prob(drawn) - others.log_prob(drawn))
    error = ratio.std(0) / NUM_DRAWS**0.5
    np.testing.assert_array_less(np.abs(ratio.mean(0) - GAUSSIAN.kl(other)), 5 * error)
    np.testing.assert_allclose(GAUSSIAN.kl(GAUSSIAN), 0.0, atol=1e-6)
