"""Mirror-descent and gap-increasing value iteration: identities, limits and error bounds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp

from jaxrl import BellmanOperator, outcome_mdp, tabular_mdp
from jaxrl.functionals import TotalVariation
from jaxrl.operators import Softmax
from jaxrl.planning import (
    gap_increasing_value_iteration,
    mirror_descent_value_iteration,
    policy_evaluation,
    value_iteration,
)

K, DISCOUNT = 12, 0.9


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def random_mdp(seed, num_states=4, num_actions=3, discount=DISCOUNT):
    rng = np.random.default_rng(seed)
    mask = np.ones((num_states, num_actions), bool)
    mask[0, 0] = False
    transition = rng.dirichlet(np.ones(num_states), (num_states, num_actions))
    return tabular_mdp(transition, rng.normal(size=(num_states, num_actions)), discount, mask=mask)


def tables(mdp):
    """`P[S, A, S]` and `r[S, A]` of a dense model, and its legal actions."""
    prob, reward = np.asarray(mdp.prob), np.asarray(mdp.reward)
    return prob, (prob * reward).sum(-1), np.asarray(mdp.legal)


def stack(mdps):
    return jax.tree.map(lambda *x: np.stack(x), *mdps)


@functools.cache
def optimum(seed):
    """The optimum of a model, by policy iteration in NumPy: values and q-values."""
    kernel, reward, legal = tables(random_mdp(seed))
    policy = np.argmax(legal, axis=1)
    for _ in range(20):
        rows = np.arange(4), policy
        values = np.linalg.solve(np.eye(4) - DISCOUNT * kernel[rows], reward[rows])
        q_values = np.where(legal, reward + DISCOUNT * kernel @ values, -np.inf)
        policy = q_values.argmax(axis=1)
    return values, q_values


def solve(mdp, kl_weight, entropy_weight, errors, evaluation=1.0):
    return mirror_descent_value_iteration(
        mdp,
        kl_weight=kl_weight,
        entropy_weight=entropy_weight,
        regularised_evaluation=evaluation,
        num_iterations=K,
        errors=errors,
    )


_SOLVE = jax.jit(solve)


def solve_by_one_program(mdp, *numbers):
    """As `solve`, of one program: every number is traced, and comes back to NumPy."""
    kl_weight, entropy_weight, errors, *evaluation = numbers
    weights = (np.float64(x) for x in (kl_weight, entropy_weight))
    return jax.device_get(_SOLVE(mdp, *weights, errors, np.float64(*evaluation or [1.0])))


ERRORS = np.random.default_rng(9).normal(size=(K, 4, 3)) * 0.1


def legal_softmax(logits, legal):
    """Probabilities, and log-probabilities with zeros where illegal."""
    logs = log_softmax(np.where(legal, logits, -np.inf), axis=1)
    return np.exp(logs), np.where(legal, logs, 0.0)


@pytest.mark.parametrize("evaluation", [0.0, 1.0, 0.5])
def test_it_is_the_recursion_of_the_paper(evaluation):
    """The argmax is found as such, by its optimality condition, and penalties term by term."""
    mdp, kl_weight, entropy_weight = random_mdp(0), 0.7, 0.4
    kernel, reward, legal = tables(mdp)
    q_values, (policy, logs) = np.zeros((4, 3)), legal_softmax(np.zeros((4, 3)), legal)
    for error in [*ERRORS, None]:
        previous = logs
        pulled = (q_values + kl_weight * previous) / (kl_weight + entropy_weight)
        policy, logs = legal_softmax(pulled, legal)
        divergence = (policy * (logs - previous)).sum(1)
        entropy = -(policy * logs).sum(1)
        penalty = -kl_weight * divergence + entropy_weight * entropy
        value = (policy * np.where(legal, q_values, 0)).sum(1) + evaluation * penalty
        if error is not None:
            q_values = reward + DISCOUNT * kernel @ value + error
    found = solve_by_one_program(mdp, kl_weight, entropy_weight, ERRORS, evaluation)
    np.testing.assert_allclose(np.asarray(found.q_values)[legal], q_values[legal], rtol=1e-11)
    np.testing.assert_allclose(found.policy, policy, rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(found.values, value, rtol=1e-11)
    np.testing.assert_allclose(np.asarray(found.log_policy)[legal], logs[legal], rtol=1e-10)
    assert np.all(np.asarray(found.q_values)[~legal] == -np.inf)


def test_no_weight_is_value_iteration_with_the_same_errors():
    mdp = random_mdp(1)
    kernel, reward, legal = tables(mdp)
    q_values = np.zeros((4, 3))
    for error in ERRORS:
        best = np.where(legal, q_values, -np.inf).max(1)
        q_values = reward + DISCOUNT * kernel @ best + error
    found = solve_by_one_program(mdp, 0.0, 0.0, ERRORS)
    np.testing.assert_allclose(np.asarray(found.q_values)[legal], q_values[legal], rtol=1e-12)
    near = solve_by_one_program(mdp, 1e-14, 1e-8, ERRORS)
    np.testing.assert_allclose(near.values, found.values, atol=1e-5)


def test_vanishing_weights_of_a_fixed_ratio_are_advantage_learning():
    mdp, weight = random_mdp(1), 0.6
    kernel, reward, legal = tables(mdp)
    q_values = np.zeros((4, 3))
    for error in ERRORS:
        best = np.where(legal, q_values, -np.inf).max(1, keepdims=True)
        q_values = reward + error + DISCOUNT * kernel @ best[:, 0] - weight * (best - q_values)
    found = solve_by_one_program(mdp, 0.6e-8, 0.4e-8, ERRORS)
    best = np.where(legal, q_values, -np.inf).max(1)
    np.testing.assert_allclose(found.values, best, atol=1e-5)
    assert np.max(np.abs(best - solve_by_one_program(mdp, 0.0, 0.0, ERRORS).values)) > 0.01


def test_an_entropy_weight_alone_is_soft_value_iteration():
    """With the errors, by NumPy; without them and in the limit, in the longer suite."""
    mdp, temperature = random_mdp(2), 0.3
    kernel, reward, legal = tables(mdp)
    q_values = np.zeros((4, 3))
    for error in ERRORS:
        soft = temperature * logsumexp(np.where(legal, q_values, -np.inf) / temperature, axis=1)
        q_values = reward + DISCOUNT * kernel @ soft + error
    found = solve_by_one_program(mdp, 0.0, temperature, ERRORS)
    np.testing.assert_allclose(found.q_values[legal], q_values[legal], rtol=1e-11)
    np.testing.assert_allclose(
        found.policy, legal_softmax(q_values / temperature, legal)[0], rtol=1e-9, atol=1e-15
    )


@pytest.mark.slow
def test_an_entropy_weight_alone_finds_the_soft_optimum():
    mdp = random_mdp(2)
    found = mirror_descent_value_iteration(
        mdp, kl_weight=0.0, entropy_weight=0.3, num_iterations=400
    )
    soft = value_iteration(mdp, BellmanOperator(improvement=Softmax(0.3)), tolerance=1e-10)
    np.testing.assert_allclose(found.values, soft.values, atol=1e-9)
    np.testing.assert_allclose(found.policy, soft.policy, atol=1e-8)


def test_without_entropy_the_policy_is_the_softmax_of_the_average():
    mdp, kl_weight = random_mdp(3), 0.2
    found = solve_by_one_program(mdp, kl_weight, 0.0, ERRORS)
    legal = np.asarray(mdp.legal)
    total = np.where(legal, found.average_q_values, 0.0) * (K + 1)
    expected, _ = legal_softmax(total / kl_weight, legal)
    np.testing.assert_allclose(found.policy, expected, rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize(("kl_weight", "entropy_weight"), [(0.7, 0.4), (0.5, 0.0), (0.0, 0.5)])
def test_it_is_munchausen_value_iteration(kl_weight, entropy_weight):
    """Bonus weight l / (l + t), temperature l + t: the same policies, q shifted by l log pi."""
    mdp = random_mdp(4)
    kernel, reward, legal = tables(mdp)
    temperature = kl_weight + entropy_weight
    weight = kl_weight / temperature
    shifted = kl_weight * legal_softmax(np.zeros((4, 3)), legal)[1]  # q_0 + l log pi_0
    for error in ERRORS:
        policy, logs = legal_softmax(shifted / temperature, legal)
        soft = (policy * (shifted - temperature * logs)).sum(1)
        munchausen = weight * temperature * logs
        shifted = np.where(legal, reward + munchausen + DISCOUNT * kernel @ soft + error, 0.0)
    found = solve_by_one_program(mdp, kl_weight, entropy_weight, ERRORS)
    policy, _ = legal_softmax(shifted / temperature, legal)
    np.testing.assert_allclose(found.policy, policy, rtol=1e-9, atol=1e-15)


def test_it_is_the_form_without_policies():
    """s_k = q_k + a s_{k-1}, w = l+t log-sum-exp, v = w_k - a w_{k-1} (what DVW regresses on)."""
    mdp, kl_weight, entropy_weight = random_mdp(5), 0.7, 0.4
    kernel, reward, legal = tables(mdp)
    temperature = kl_weight + entropy_weight
    weight = kl_weight / temperature

    def soft(total):
        return temperature * logsumexp(np.where(legal, total, -np.inf) / temperature, axis=1)

    total, last = np.zeros((4, 3)), soft(np.zeros((4, 3)))
    q_values = np.zeros((4, 3))
    for _ in range(K):
        total = q_values + weight * total
        q_values = reward + DISCOUNT * kernel @ (soft(total) - weight * last)
        last = soft(total)
    found = solve_by_one_program(mdp, kl_weight, entropy_weight, np.zeros_like(ERRORS))
    np.testing.assert_allclose(np.asarray(found.q_values)[legal], q_values[legal], rtol=1e-11)


@pytest.mark.slow
def test_errors_average_out_under_a_divergence_and_not_without():
    """The bound of theorem 1 on the loss of the policy, and what it means for noise."""
    mdp, steps, kl_weight = random_mdp(6), 400, 0.5
    noise = np.random.default_rng(1).normal(size=(16, steps, 4, 3))
    optimum = value_iteration(mdp, tolerance=1e-10).values

    @jax.jit
    @jax.vmap
    def losses(errors):
        def loss(weight):
            found = mirror_descent_value_iteration(
                mdp, kl_weight=weight, num_iterations=steps, errors=errors
            )
            own = policy_evaluation(mdp, found.policy, tolerance=1e-9).values
            return jnp.max(optimum - own)

        return jax.vmap(loss)(jnp.array([kl_weight, 0.0]))

    regularised, plain = np.asarray(losses(jnp.asarray(noise))).T
    largest = float(np.max(np.abs(np.asarray(mdp.reward)))) + kl_weight * np.log(3)
    mean = np.abs(noise.mean(axis=1)).max(axis=(1, 2))
    bound = 2 / (1 - DISCOUNT) * mean + 4 * largest / (1 - DISCOUNT) ** 2 / steps
    assert np.all(regularised <= bound)
    assert np.mean(regularised) < 0.2 * np.mean(plain)


@pytest.mark.slow
def test_log_policies_do_not_underflow():
    found = mirror_descent_value_iteration(
        tabular_mdp([[[1.0], [1.0]]], [[1.0, 0.0]], 0.5), kl_weight=1e-3, num_iterations=50
    )
    assert float(found.policy[0, 1]) == 0.0
    # Both have value 0 and then gaps of 1 in each of 50 tables: log-odds 50 / 1e-3.
    np.testing.assert_allclose(found.log_policy[0, 1], -50 / 1e-3, rtol=1e-9)


@pytest.mark.slow
def test_a_robust_one_reaches_the_robust_optimum():
    """Within what the divergence costs: kl_weight log A / (1 - discount), divided by the steps."""
    mdp, worst = random_mdp(7), TotalVariation(0.2)
    found = mirror_descent_value_iteration(
        mdp, kl_weight=1e-3, num_iterations=400, successor_functional=worst
    )
    robust = value_iteration(mdp, BellmanOperator(successor_functional=worst), tolerance=1e-9)
    np.testing.assert_allclose(found.values, robust.values, atol=1e-2)


@pytest.mark.slow
def test_sweeps_over_weights_and_models_are_one_program():
    mdps = stack([random_mdp(seed) for seed in range(2)])
    weights = np.array([0.0, 0.5])
    swept = jax.vmap(lambda mdp, w: _SOLVE(mdp, w, w, ERRORS))(mdps, weights)
    at = lambda weight: solve_by_one_program(random_mdp(1), weight, 0.5, ERRORS).values  # noqa: E731
    exact = at(0.5)
    np.testing.assert_allclose(swept.values[1], exact, rtol=1e-10)
    slope = jax.grad(lambda w: jnp.sum(_SOLVE(random_mdp(1), w, 0.5, ERRORS).values))(0.5)
    difference = np.sum(at(0.5 + 1e-6) - at(0.5 - 1e-6)) / 2e-6
    np.testing.assert_allclose(slope, difference, rtol=1e-6)
    with jax.enable_x64(False):
        single = _SOLVE(random_mdp(1), 0.5, 0.5, ERRORS.astype(np.float32))
        assert single.values.dtype == jnp.float32
    np.testing.assert_allclose(single.values, exact, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kl_weight": -1.0}, "kl_weight=-1.0"),
        ({"kl_weight": 1.0, "entropy_weight": -0.1}, "entropy_weight"),
        ({"kl_weight": 1.0, "regularised_evaluation": 2.0}, "regularised_evaluation"),
        ({"kl_weight": 1.0, "num_iterations": 0}, "num_iterations"),
        ({"kl_weight": 1.0, "num_iterations": 3, "errors": ERRORS}, "errors must have shape"),
    ],
)
def test_what_is_wrong_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        mirror_descent_value_iteration(random_mdp(0), **arguments)


GAPS = jax.jit(
    jax.vmap(
        lambda mdp, weight, spare: gap_increasing_value_iteration(
            mdp, weight=weight, spare_repeated=spare, tolerance=1e-9
        )
    )
)
WEIGHTS, SPARE = np.array([0.3, 0.3, 0.6, 0.6, 0.9, 0.8, 0.9]), np.arange(7) % 2 == 1


@functools.cache
def widened():
    """Seven models with their weights: every second with what is repeated spared.

    The sixth is the first again at a cost: the 0 that stands for an illegal action is not the best.
    """
    mdps = [random_mdp(seed) for seed in range(7)]
    mdps[5] = mdps[0].replace(reward=np.asarray(mdps[0].reward) - 3.0)
    batch = stack(mdps)
    return jax.device_get(GAPS(batch, WEIGHTS, SPARE))


@pytest.mark.slow
def test_optima_are_kept_and_gaps_widened():
    found = widened()
    for row in (0, 1, 2, 3, 4, 6):
        (values, q_values), error = optimum(row), float(found.error_bound[row])
        legal = np.asarray(random_mdp(row).legal)
        assert bool(found.converged[row])
        assert np.max(np.abs(found.values[row] - values)) <= error + 1e-11
        assert error < 1e-7
        np.testing.assert_array_equal(found.policy[row].argmax(1), q_values.argmax(1))
        gap, plain = ((x.max(1, keepdims=True) - x)[legal] for x in (found.q_values[row], q_values))
        widest = plain / (1 - WEIGHTS[row])
        assert np.all(gap >= plain - 1e-8)
        assert np.all(gap <= widest + 1e-8)
        assert np.any(gap > plain + 1e-3)
        if not SPARE[row]:
            np.testing.assert_allclose(gap, widest, atol=1e-7)


def test_a_persistent_fixed_point_solves_its_equation():
    kernel, reward, legal = tables(random_mdp(0))
    q_values, reward = widened().q_values[5], reward - 3.0
    best = q_values.max(1)
    shrunk = reward + DISCOUNT * kernel @ best - 0.8 * (best[:, None] - q_values)
    # Where the action is not legal at a successor it cannot be repeated.
    held = np.where(legal, q_values, -np.inf)
    repeated = reward + DISCOUNT * np.einsum("sat,ta->sa", kernel, held)
    expected = np.maximum(shrunk, repeated)
    np.testing.assert_allclose(q_values[legal], expected[legal], atol=1e-8)
    assert np.any(repeated[legal] > shrunk[legal] + 1e-6)


@pytest.mark.slow
def test_sparse_and_dense_robust_models_agree():
    dense = random_mdp(3)
    sparse = outcome_mdp(
        dense.prob, np.broadcast_to(np.arange(4)[::-1], (4, 3, 4)), dense.reward, 0.9
    )
    flipped = tabular_mdp(np.asarray(dense.prob)[:, :, ::-1], dense.reward, 0.9)
    operator = BellmanOperator(successor_functional=TotalVariation(0.1))
    for spare in (False, True):
        a, b = (
            gap_increasing_value_iteration(x, operator, weight=0.5, spare_repeated=spare)
            for x in (sparse, flipped)
        )
        np.testing.assert_allclose(a.q_values, b.q_values, atol=1e-5)
        robust = value_iteration(flipped, operator, tolerance=1e-9)
        assert np.max(np.abs(a.values - robust.values)) <= float(a.error_bound) + 1e-9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": 1.0}, "weight=1.0"),
        ({"weight": -0.1}, "weight=-0.1"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"operator": BellmanOperator(improvement=Softmax(1.0))}, "Greedy"),
    ],
)
def test_what_a_gap_needs_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        gap_increasing_value_iteration(random_mdp(0), **arguments)
