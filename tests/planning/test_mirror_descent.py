"""Mirror-descent and gap-increasing value iteration: identities, limits and error bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp

from jaxrl import BellmanOperator, outcome_mdp, stack_mdps, tabular_mdp
from jaxrl.functionals.ambiguity import TotalVariation
from jaxrl.operators.regularised import Softmax
from jaxrl.planning.gap_increasing import gap_increasing_value_iteration
from jaxrl.planning.mirror_descent import mirror_descent_value_iteration
from jaxrl.planning.policy_evaluation import policy_evaluation
from jaxrl.planning.value_iteration import value_iteration

K, DISCOUNT = 12, 0.9
pytestmark = pytest.mark.usefixtures("quick_compilation")


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
    return (np.asarray(x) for x in (*mdp.dense(), mdp.legal))


def solve(mdp, kl_weight, entropy_weight, errors, evaluation=1.0):
    return mirror_descent_value_iteration(
        mdp,
        kl_weight=kl_weight,
        entropy_weight=entropy_weight,
        regularised_evaluation=evaluation,
        num_iterations=K,
        errors=errors,
    )


SOLVE = jax.jit(solve)
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
    found = SOLVE(mdp, kl_weight, entropy_weight, ERRORS, evaluation)
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
    found = SOLVE(mdp, 0.0, 0.0, ERRORS)
    np.testing.assert_allclose(np.asarray(found.q_values)[legal], q_values[legal], rtol=1e-12)
    near = SOLVE(mdp, 1e-14, 1e-8, ERRORS)
    np.testing.assert_allclose(near.values, found.values, atol=1e-5)


def test_vanishing_weights_of_a_fixed_ratio_are_advantage_learning():
    mdp, weight = random_mdp(1), 0.6
    kernel, reward, legal = tables(mdp)
    q_values = np.zeros((4, 3))
    for error in ERRORS:
        best = np.where(legal, q_values, -np.inf).max(1, keepdims=True)
        q_values = reward + error + DISCOUNT * kernel @ best[:, 0] - weight * (best - q_values)
    found = SOLVE(mdp, 0.6e-8, 0.4e-8, ERRORS)
    best = np.where(legal, q_values, -np.inf).max(1)
    np.testing.assert_allclose(found.values, best, atol=1e-5)
    assert np.max(np.abs(best - SOLVE(mdp, 0.0, 0.0, ERRORS).values)) > 0.01


def test_an_entropy_weight_alone_is_soft_value_iteration():
    mdp = random_mdp(2)
    found = mirror_descent_value_iteration(
        mdp, kl_weight=0.0, entropy_weight=0.3, num_iterations=400
    )
    soft = value_iteration(mdp, BellmanOperator(improvement=Softmax(0.3)), tolerance=1e-10)
    np.testing.assert_allclose(found.values, soft.values, atol=1e-9)
    np.testing.assert_allclose(found.policy, soft.policy, atol=1e-8)


def test_without_entropy_the_policy_is_the_softmax_of_the_average():
    mdp, kl_weight = random_mdp(3), 0.2
    found = SOLVE(mdp, kl_weight, 0.0, ERRORS)
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
    found = SOLVE(mdp, kl_weight, entropy_weight, ERRORS)
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
    found = SOLVE(mdp, kl_weight, entropy_weight, np.zeros_like(ERRORS))
    np.testing.assert_allclose(np.asarray(found.q_values)[legal], q_values[legal], rtol=1e-11)


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


def test_log_policies_do_not_underflow():
    found = mirror_descent_value_iteration(
        tabular_mdp([[[1.0], [1.0]]], [[1.0, 0.0]], 0.5), kl_weight=1e-3, num_iterations=50
    )
    assert float(found.policy[0, 1]) == 0.0
    # Both have value 0 and then gaps of 1 in each of 50 tables: log-odds 50 / 1e-3.
    np.testing.assert_allclose(found.log_policy[0, 1], -50 / 1e-3, rtol=1e-9)


def test_a_robust_one_reaches_the_robust_optimum():
    mdp, worst = random_mdp(7), TotalVariation(0.2)
    found = mirror_descent_value_iteration(
        mdp, kl_weight=1e-3, num_iterations=400, successor_functional=worst
    )
    robust = value_iteration(mdp, BellmanOperator(successor_functional=worst), tolerance=1e-9)
    np.testing.assert_allclose(found.values, robust.values, atol=1e-2)


def test_sweeps_over_weights_and_models_are_one_program():
    mdps = stack_mdps([random_mdp(seed) for seed in range(2)])
    weights = jnp.array([0.0, 0.5])
    swept = jax.vmap(lambda mdp, w: SOLVE(mdp, w, w, ERRORS))(mdps, weights)
    np.testing.assert_allclose(
        swept.values[1], SOLVE(random_mdp(1), 0.5, 0.5, ERRORS).values, rtol=1e-10
    )
    exact = np.asarray(swept.values[1])
    slope = jax.grad(lambda w: jnp.sum(SOLVE(random_mdp(1), w, 0.5, ERRORS).values))(0.5)
    assert np.isfinite(slope)
    with jax.enable_x64(False):
        single = SOLVE(random_mdp(1), 0.5, 0.5, ERRORS.astype(np.float32))
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


def test_optima_are_kept_and_gaps_widened():
    mdps = [random_mdp(seed) for seed in range(6)]
    batch, spare = stack_mdps(mdps), np.arange(6) % 2 == 1
    weights = jnp.array([0.3, 0.3, 0.6, 0.6, 0.9, 0.9])
    found = GAPS(batch, weights, jnp.asarray(spare))
    for row, mdp in enumerate(mdps):
        optimum = value_iteration(mdp, tolerance=1e-11)
        legal, error = np.asarray(mdp.legal), float(found.error_bound[row])
        assert bool(found.converged[row])
        assert np.max(np.abs(found.values[row] - optimum.values)) <= error + 1e-11
        np.testing.assert_array_equal(found.policy[row], optimum.policy)
        gap, plain = (
            (x.max(1, keepdims=True) - x)[legal]
            for x in (np.asarray(found.q_values[row]), np.asarray(optimum.q_values))
        )
        widest = plain / (1 - float(weights[row]))
        assert np.all(gap >= plain - 1e-8)
        assert np.all(gap <= widest + 1e-8)
        assert np.any(gap > plain + 1e-3)
        if not spare[row]:
            np.testing.assert_allclose(gap, widest, atol=1e-7)


def test_a_persistent_fixed_point_solves_its_equation():
    mdp = random_mdp(0)
    kernel, reward, legal = tables(mdp)
    found = GAPS(stack_mdps([mdp]), jnp.array([0.8]), jnp.array([True]))
    q_values = np.asarray(found.q_values[0])
    best = q_values.max(1)
    shrunk = reward + DISCOUNT * kernel @ best - 0.8 * (best[:, None] - q_values)
    # Where the action is not legal at a successor it cannot be repeated.
    held = np.where(legal, q_values, -np.inf)
    repeated = reward + DISCOUNT * np.einsum("sat,ta->sa", kernel, held)
    expected = np.maximum(shrunk, repeated)
    np.testing.assert_allclose(q_values[legal], expected[legal], atol=1e-8)
    assert np.any(repeated[legal] > shrunk[legal] + 1e-6)


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
