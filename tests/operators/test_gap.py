"""Gap-increasing corrections: identities, and fixed points on a small random MDP."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.operators.gap import (
    advantage_learning,
    consistent,
    gap_bonus,
    munchausen_bonus,
    persistent,
)
from jaxrl.operators.improvement import Greedy
from jaxrl.operators.regularised import MirrorDescent, Softmax
from jaxrl.operators.tsallis import Tsallis, log_of_order

pytestmark = pytest.mark.usefixtures("quick_compilation")

S, A, DISCOUNT, WEIGHT = 6, 3, 0.8, 0.6
rng = np.random.default_rng(0)
TRANSITION = jnp.asarray(rng.dirichlet(np.ones(S) * 0.5, size=(S, A)), jnp.float32)
REWARD = jnp.asarray(rng.normal(size=(S, A)), jnp.float32)
STATES, ACTIONS = (x.reshape(-1) for x in np.meshgrid(np.arange(S), np.arange(A), indexing="ij"))


def iterate(step, num_sweeps=400):
    """Sweeps of `step(q, state, action) -> target` over all pairs."""

    @jax.jit
    def run():
        def sweep(_, q):
            targets = jax.vmap(lambda s, a: step(q, s, a))(STATES, ACTIONS)
            return targets.reshape(S, A)

        return jax.lax.fori_loop(0, num_sweeps, sweep, jnp.zeros((S, A)))

    return run()


def bellman(q, s, a):
    return REWARD[s, a] + DISCOUNT * TRANSITION[s, a] @ jnp.max(q, axis=1)


def gaps(q):
    return np.asarray(jnp.max(q, axis=1, keepdims=True) - q)


OPTIMAL = iterate(bellman)


def learned(q, s, a):
    return advantage_learning(bellman(q, s, a), q[s], a, WEIGHT)


def repeated(q, s, a):
    again = REWARD[s, a] + DISCOUNT * TRANSITION[s, a] @ q[:, a]
    return persistent(bellman(q, s, a), again, q[s], a, WEIGHT)


def same_again(q, s, a):
    best = jnp.max(q, axis=1)
    targets = jax.vmap(lambda n: consistent(REWARD[s, a], DISCOUNT, best[n], q[s], a, n == s))
    return TRANSITION[s, a] @ targets(jnp.arange(S))


@pytest.mark.parametrize("step", [learned, repeated, same_again])
def test_optimality_is_kept_and_gaps_grow(step):
    """Theorem 1 of Bellemare et al. (2016): the same best values and actions, wider gaps."""
    q = iterate(step)
    np.testing.assert_allclose(jnp.max(q, axis=1), jnp.max(OPTIMAL, axis=1), atol=1e-4)
    np.testing.assert_array_equal(jnp.argmax(q, axis=1), jnp.argmax(OPTIMAL, axis=1))
    assert np.all(gaps(q) >= gaps(OPTIMAL) - 1e-4)
    assert np.sum(gaps(q)) > 1.01 * np.sum(gaps(OPTIMAL))


def test_advantage_learning_widens_by_the_stated_factor():
    np.testing.assert_allclose(gaps(iterate(learned)), gaps(OPTIMAL) / (1 - WEIGHT), atol=1e-3)


def test_persistent_lies_between():
    assert np.all(gaps(iterate(repeated)) <= gaps(iterate(learned)) + 1e-4)


def test_weight_zero_changes_nothing():
    q = jnp.array([1.0, 4.0, 2.0])
    assert float(advantage_learning(3.0, q, 0, 0.0)) == 3.0
    assert float(persistent(3.0, 2.5, q, 0, 0.0)) == 3.0
    assert float(munchausen_bonus(q, 0, 0.0, 1.0, -9.0)) == 0.0


def test_munchausen_is_mirror_descent_in_other_variables():
    """Theorem 1 of Vieillard et al. (2020): q' = q + a t log pi, with the KL to the last policy."""
    weight, temperature = 0.7, 0.5
    hidden, plain = jnp.zeros((S, A)), jnp.zeros((S, A))
    log_last = jnp.full((S, A), -jnp.log(float(A)))

    def value(improvement, q):
        probs, bonus = improvement(q)
        return jnp.sum(probs * (q + bonus)), jnp.log(probs)

    @jax.jit
    def both(hidden, plain, log_last):
        after, log_probs = jax.vmap(lambda q: value(Softmax(temperature), q))(hidden)
        bonus = jax.vmap(
            lambda q: jax.vmap(
                lambda a: munchausen_bonus(q, a, weight, temperature, clip=-jnp.inf)
            )(jnp.arange(A))
        )(hidden)
        np_ = REWARD + bonus + DISCOUNT * TRANSITION @ after
        kl, tau = weight * temperature, (1 - weight) * temperature
        step = jax.vmap(lambda q, r: value(MirrorDescent(kl, tau, log_reference=r), q))
        near, near_log = step(plain, log_last)
        return np_, REWARD + DISCOUNT * TRANSITION @ near, log_probs, near_log

    # The first policies agree when hidden = plain + a t log(uniform).
    hidden = hidden + weight * temperature * log_last
    for _ in range(30):
        hidden, plain, log_probs, log_last = both(hidden, plain, log_last)
        np.testing.assert_allclose(log_probs, log_last, atol=2e-4)
    np.testing.assert_allclose(hidden, plain + weight * temperature * log_last, atol=1e-3)


def test_gap_bonus_has_the_others_as_cases():
    q, mask = jnp.array([1.0, 4.0, 2.0, 9.0]), jnp.array([True, True, True, False])
    for a in range(3):
        munchausen = munchausen_bonus(q, a, 0.9, 0.5, -2.0, mask)
        ours = gap_bonus(Softmax(0.5), q, a, 0.9, -2.0, mask)
        np.testing.assert_allclose(ours, munchausen, atol=1e-6)
        learned_bonus = advantage_learning(0.0, q, a, 0.9, mask)
        assert float(gap_bonus(Greedy(), q, a, 0.9, mask=mask)) == float(learned_bonus)
    q = q[:3] / 4
    bonuses = jax.jit(jax.vmap(gap_bonus, (None, None, 0, None)))
    each = jnp.arange(3)
    tsallis = bonuses(Tsallis(0.5, 1.0001), q, each, 0.9)
    np.testing.assert_allclose(tsallis, bonuses(Softmax(0.5), q, each, 0.9), atol=1e-3)
    # Off the support the logarithm of order 2 is one number, the advantage is not.
    q = jnp.array([3.0, 0.0, -1.0])
    probs = jax.jit(Tsallis(0.5, 2.0))(q)[0]
    assert float(log_of_order(probs, 2.0)[1]) == float(log_of_order(probs, 2.0)[2]) == -1.0
    tsallis = bonuses(Tsallis(0.5, 2.0), q, each, 0.9)
    assert tsallis[1] > tsallis[2]


def test_munchausen_clips_before_it_weighs():
    q = jnp.array([0.0, 100.0])
    assert float(munchausen_bonus(q, 0, 0.5, 1.0, -3.0)) == -1.5
    assert jnp.isfinite(jax.grad(lambda q: munchausen_bonus(q, 0, 0.5, 0.03))(q)).all()


def test_consistent_at_the_end_is_the_reward():
    assert float(consistent(2.0, 0.0, jnp.inf, jnp.array([5.0]), 0, False)) == 2.0
