"""Gap-increasing bonuses: identities on one state, and mirror descent on a small random MDP.

Their fixed points are those of `gap_increasing_value_iteration`, in tests/planning.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import log_softmax

from jaxrl.operators import Greedy, MirrorDescent, Softmax, Tsallis, improvement, tsallis

S, A, DISCOUNT = 6, 3, 0.8
rng = np.random.default_rng(0)
TRANSITION = rng.dirichlet(np.ones(S) * 0.5, size=(S, A)).astype(np.float32)
REWARD = rng.normal(size=(S, A)).astype(np.float32)

gap_bonus = improvement.gap_bonus


@functools.cache
def on_one_state():
    """Every bonus of small tables, in one program."""
    mask = np.array([True, True, True, False])
    apart = np.float32([3.0, 0.0, -1.0])

    @jax.jit
    def run(q, apart, far, order):
        quarter = q[:3] / 4
        each = jnp.arange(3)
        bonuses = jax.vmap(gap_bonus, (None, None, 0, None))
        soft = Softmax(1.0)
        return {
            "soft": jax.vmap(lambda a: gap_bonus(Softmax(0.5), q, a, 0.9, -2.0, mask))(each),
            "greedy": jax.vmap(lambda a: gap_bonus(Greedy(), q, a, 0.9, mask=mask))(each),
            "near_soft": bonuses(Tsallis(0.5, 1.0001), quarter, each, 0.9),
            "quarter": bonuses(Softmax(0.5), quarter, each, 0.9),
            "logs": tsallis.log_of_order(Tsallis(0.5, order)(apart)[0], order),
            "apart": bonuses(Tsallis(0.5, order), apart, each, 0.9),
            "clipped": gap_bonus(soft, far, 0, 0.5, -3.0),
            "slope": jax.grad(lambda q: gap_bonus(Softmax(0.03), q, 0, 0.5, -1.0))(far),
            "free_slope": jax.grad(lambda q: gap_bonus(soft, q, 0, 0.5))(q[:3]),
        }

    q, far = np.float32([1.0, 4.0, 2.0, 9.0]), np.float32([0.0, 100.0])
    return jax.device_get(run(q, apart, far, 2.0))


def test_munchausen_is_mirror_descent_in_other_variables():
    """Theorem 1 of Vieillard et al. (2020): q' = q + a t log pi, with the KL to the last policy."""
    weight, temperature = 0.7, 0.5

    def value(improvement, q):
        probs, bonus = improvement(q)
        return jnp.sum(probs * (q + bonus)), jnp.log(probs)

    def both(tables, _):
        hidden, plain, log_last = tables
        after, log_probs = jax.vmap(lambda q: value(Softmax(temperature), q))(hidden)
        bonuses = jax.vmap(gap_bonus, (None, None, 0, None))
        bonus = jax.vmap(lambda q: bonuses(Softmax(temperature), q, jnp.arange(A), weight))(hidden)
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


def test_the_bonus_is_the_advantage_under_the_improvement():
    found = on_one_state()
    by_scipy = 0.9 * np.maximum(0.5 * log_softmax(np.array([1.0, 4.0, 2.0]) / 0.5), -2.0)
    np.testing.assert_allclose(found["soft"], by_scipy, atol=1e-6)
    np.testing.assert_allclose(found["greedy"], -0.9 * np.array([3.0, 0.0, 2.0]), rtol=1e-6)
    np.testing.assert_allclose(found["near_soft"], found["quarter"], atol=1e-3)
    # Off the support the logarithm of order 2 is one number, the advantage is not: the best action
    # has all the probability, V = 3 and no entropy.
    assert found["logs"][1] == found["logs"][2] == -1.0
    np.testing.assert_allclose(found["apart"], 0.9 * np.array([0.0, -3.0, -4.0]), atol=1e-6)


def test_it_is_clipped_before_it_is_weighed():
    found = on_one_state()
    assert found["clipped"] == -1.5
    np.testing.assert_array_equal(found["slope"], 0.0)  # below the clip
    # Without a clip: weight (1 - pi_0, -pi_1, -pi_2), at temperature 1.
    probs = np.exp(log_softmax(np.array([1.0, 4.0, 2.0])))
    np.testing.assert_allclose(found["free_slope"], 0.5 * ([1.0, 0.0, 0.0] - probs), atol=1e-6)
