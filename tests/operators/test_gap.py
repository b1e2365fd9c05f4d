"""Gap-increasing corrections: identities, and fixed points on a small random MDP."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from jaxrl.operators import Greedy, MirrorDescent, Softmax, Tsallis
from jaxrl.operators.gap import (
    advantage_learning,
    consistent,
    gap_bonus,
    munchausen_bonus,
    persistent,
)
from jaxrl.operators.tsallis import log_of_order

S, A, DISCOUNT, WEIGHT = 6, 3, 0.8, 0.6
rng = np.random.default_rng(0)
TRANSITION = rng.dirichlet(np.ones(S) * 0.5, size=(S, A)).astype(np.float32)
REWARD = rng.normal(size=(S, A)).astype(np.float32)
STATES, ACTIONS = (x.reshape(-1) for x in np.meshgrid(np.arange(S), np.arange(A), indexing="ij"))


def bellman(q, s, a):
    return jnp.asarray(REWARD)[s, a] + DISCOUNT * jnp.asarray(TRANSITION)[s, a] @ jnp.max(q, axis=1)


def learned(q, s, a):
    return advantage_learning(bellman(q, s, a), q[s], a, WEIGHT)


def repeated(q, s, a):
    again = jnp.asarray(REWARD)[s, a] + DISCOUNT * jnp.asarray(TRANSITION)[s, a] @ q[:, a]
    return persistent(bellman(q, s, a), again, q[s], a, WEIGHT)


def same_again(q, s, a):
    best, reward = jnp.max(q, axis=1), jnp.asarray(REWARD)[s, a]
    targets = jax.vmap(lambda n: consistent(reward, DISCOUNT, best[n], q[s], a, n == s))
    return jnp.asarray(TRANSITION)[s, a] @ targets(jnp.arange(S))


@functools.cache
def fixed_points():
    """400 sweeps of each operator over all pairs, in one program."""

    @jax.jit
    def run():
        def sweep(_, tables):
            return {
                step: jax.vmap(lambda s, a, f=f, q=tables[step]: f(q, s, a))(
                    STATES, ACTIONS
                ).reshape(S, A)
                for step, f in steps.items()
            }

        zeros = {step: jnp.zeros((S, A)) for step in steps}
        return jax.lax.fori_loop(0, 400, sweep, zeros)

    steps = {f.__name__: f for f in (learned, repeated, same_again)}
    return jax.device_get(run())


@functools.cache
def optimal():
    q = np.zeros((S, A))
    for _ in range(400):
        q = REWARD + DISCOUNT * TRANSITION.astype(float) @ q.max(axis=1)
    return q


def gaps(q):
    return q.max(axis=1, keepdims=True) - q


@pytest.mark.parametrize("step", [learned, repeated, same_again])
def test_optimality_is_kept_and_gaps_grow(step):
    """Theorem 1 of Bellemare et al. (2016): the same best values and actions, wider gaps.

    And each table solves its own equation, written out in float64.
    """
    q = fixed_points()[step.__name__].astype(float)
    np.testing.assert_allclose(q.max(axis=1), optimal().max(axis=1), atol=2e-5)
    np.testing.assert_array_equal(np.argmax(q, axis=1), np.argmax(optimal(), axis=1))
    assert np.all(gaps(q) >= gaps(optimal()) - 1e-5)
    assert np.sum(gaps(q)) > 1.01 * np.sum(gaps(optimal()))
    best, kernel = q.max(axis=1), TRANSITION.astype(float)
    plain = REWARD + DISCOUNT * kernel @ best
    again = REWARD + DISCOUNT * np.einsum("sat,ta->sa", kernel, q)
    stays = kernel[np.arange(S), :, np.arange(S)]  # [S, A]
    expected = {
        "learned": plain - WEIGHT * gaps(q),
        "repeated": np.maximum(plain - WEIGHT * gaps(q), again),
        "same_again": plain - DISCOUNT * stays * gaps(q),
    }[step.__name__]
    np.testing.assert_allclose(q, expected, atol=2e-5)


def test_advantage_learning_widens_by_the_stated_factor():
    found = gaps(fixed_points()["learned"])
    np.testing.assert_allclose(found, gaps(optimal()) / (1 - WEIGHT), atol=5e-5)


def test_persistent_lies_between():
    found = fixed_points()
    assert np.all(gaps(found["repeated"]) <= gaps(found["learned"]) + 1e-5)


@functools.cache
def on_one_state():
    """Every correction of small tables, in one program."""
    mask, five = np.array([True, True, True, False]), np.float32([5.0])
    apart = np.float32([3.0, 0.0, -1.0])

    @jax.jit
    def run(q, apart, far, five, order):
        quarter = q[:3] / 4
        each = jnp.arange(3)
        bonuses = jax.vmap(gap_bonus, (None, None, 0, None))
        probs = Tsallis(0.5, order)(apart)[0]
        return {
            "learning": advantage_learning(3.0, q[:3], 0, 0.0),
            "persistent": persistent(3.0, 2.5, q[:3], 0, 0.0),
            "persistent_shrunk": persistent(3.0, 2.5, q[:3], 0, 0.5),
            "munchausen_zero": munchausen_bonus(q[:3], 0, 0.0, 1.0, -9.0),
            "munchausen": jax.vmap(lambda a: munchausen_bonus(q, a, 0.9, 0.5, -2.0, mask))(each),
            "soft": jax.vmap(lambda a: gap_bonus(Softmax(0.5), q, a, 0.9, -2.0, mask))(each),
            "learned": jax.vmap(lambda a: advantage_learning(0.0, q, a, 0.9, mask))(each),
            "greedy": jax.vmap(lambda a: gap_bonus(Greedy(), q, a, 0.9, mask=mask))(each),
            "near_soft": bonuses(Tsallis(0.5, 1.0001), quarter, each, 0.9),
            "quarter": bonuses(Softmax(0.5), quarter, each, 0.9),
            "logs": log_of_order(probs, order),
            "apart": bonuses(Tsallis(0.5, order), apart, each, 0.9),
            "clipped": munchausen_bonus(far, 0, 0.5, 1.0, -3.0),
            "slope": jax.grad(lambda q: munchausen_bonus(q, 0, 0.5, 0.03))(far),
            "free_slope": jax.grad(lambda q: munchausen_bonus(q, 0, 0.5, 1.0, -jnp.inf))(q[:3]),
            "ended": consistent(2.0, 0.0, jnp.inf, five, 0, False),
        }

    q, far = np.float32([1.0, 4.0, 2.0, 9.0]), np.float32([0.0, 100.0])
    return jax.device_get(run(q, apart, far, five, 2.0))


@pytest.mark.slow
def test_weight_zero_changes_nothing():
    found = on_one_state()
    assert found["learning"] == 3.0
    assert found["persistent"] == 3.0
    assert found["munchausen_zero"] == 0.0
    assert found["persistent_shrunk"] == 2.5  # of 3 - (4 - 1) / 2 and 2.5


def test_munchausen_is_mirror_descent_in_other_variables():
    """Theorem 1 of Vieillard et al. (2020): q' = q + a t log pi, with the KL to the last policy."""
    weight, temperature = 0.7, 0.5

    def value(improvement, q):
        probs, bonus = improvement(q)
        return jnp.sum(probs * (q + bonus)), jnp.log(probs)

    def both(tables, _):
        hidden, plain, log_last = tables
        after, log_probs = jax.vmap(lambda q: value(Softmax(temperature), q))(hidden)
        bonus = jax.vmap(
            lambda q: jax.vmap(
                lambda a: munchausen_bonus(q, a, weight, temperature, clip=-jnp.inf)
            )(jnp.arange(A))
        )(hidden)
        hidden = REWARD + bonus + DISCOUNT * TRANSITION @ after
        kl, tau = weight * temperature, (1 - weight) * temperature
        step = jax.vmap(lambda q, r: value(MirrorDescent(kl, tau, log_reference=r), q))
        near, near_log = step(plain, log_last)
        tables = hidden, REWARD + DISCOUNT * TRANSITION @ near, near_log
        return tables, (log_probs, near_log)

    # The first policies agree when hidden = plain + a t log(uniform).
    log_last = np.full((S, A), -np.log(A), np.float32)
    start = weight * temperature * log_last, np.zeros((S, A), np.float32), log_last
    tables, logs = jax.device_get(jax.jit(lambda x: jax.lax.scan(both, x, length=30))(start))
    hidden, plain, log_last = tables
    np.testing.assert_allclose(*logs, atol=1e-4)
    np.testing.assert_allclose(hidden, plain + weight * temperature * log_last, atol=1e-4)


def test_gap_bonus_has_the_others_as_cases():
    found = on_one_state()
    np.testing.assert_allclose(found["soft"], found["munchausen"], atol=1e-6)
    by_scipy = 0.9 * np.maximum(0.5 * log_softmax(np.array([1.0, 4.0, 2.0]) / 0.5), -2.0)
    np.testing.assert_allclose(found["munchausen"], by_scipy, atol=1e-6)
    np.testing.assert_allclose(found["learned"], -0.9 * np.array([3.0, 0.0, 2.0]), rtol=1e-6)
    np.testing.assert_array_equal(found["greedy"], found["learned"])
    np.testing.assert_allclose(found["near_soft"], found["quarter"], atol=1e-3)
    # Off the support the logarithm of order 2 is one number, the advantage is not: the best action
    # has all the probability, V = 3 and no entropy.
    assert found["logs"][1] == found["logs"][2] == -1.0
    np.testing.assert_allclose(found["apart"], 0.9 * np.array([0.0, -3.0, -4.0]), atol=1e-6)


def test_munchausen_clips_before_it_weighs():
    found = on_one_state()
    assert found["clipped"] == -1.5
    np.testing.assert_array_equal(found["slope"], 0.0)  # below the clip
    # Without a clip: weight (1 - pi_0, -pi_1, -pi_2), at temperature 1.
    probs = np.exp(log_softmax(np.array([1.0, 4.0, 2.0])))
    np.testing.assert_allclose(found["free_slope"], 0.5 * ([1.0, 0.0, 0.0] - probs), atol=1e-6)


def test_consistent_at_the_end_is_the_reward():
    assert on_one_state()["ended"] == 2.0
