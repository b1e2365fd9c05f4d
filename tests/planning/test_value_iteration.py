"""Value iteration against a linear program, and its options against each other."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

import jaxrl
from jaxrl.functionals import Contamination, CVaR, Entropic, PerPair
from jaxrl.operators import MinForm, Quantile, Softmax
from jaxrl.planning import Anderson, FrozenSolve, FrozenSweeps, GaussSeidel, value_iteration

NUM_STATES, NUM_ACTIONS, NUM_OUTCOMES = 6, 3, 3
ACCELERATIONS = (FrozenSweeps(0), FrozenSweeps(), FrozenSolve(), GaussSeidel(3), Anderson(3))
OPERATORS = {
    "mean": jaxrl.BellmanOperator(),
    "cvar": jaxrl.BellmanOperator(successor_functional=CVaR(0.4)),
    "entropic-softmax": jaxrl.BellmanOperator(
        improvement=Softmax(0.5), successor_functional=Entropic(0.3)
    ),
}


def random_mdp(
    seed: int = 0, discount: float = 0.9, dense: bool = False, ends: bool = True
) -> jaxrl.TabularMDP:
    rng = np.random.default_rng(seed)
    shape = (NUM_STATES, NUM_ACTIONS, NUM_OUTCOMES)
    prob, next_state = rng.dirichlet(np.ones(3), shape[:2]), rng.integers(0, NUM_STATES, shape)
    legal = rng.random(shape[:2]) < 0.8
    legal[:, 0] = True
    reward, over = rng.normal(size=shape[:2]), np.arange(NUM_STATES) == NUM_STATES - 1
    settings = {"discount": discount, "terminal": over & ends, "mask": legal}
    if not dense:
        return jaxrl.outcome_mdp(prob, next_state, reward, **settings)
    table = np.einsum("sak,sakt->sat", prob, np.eye(NUM_STATES)[next_state])
    return jaxrl.tabular_mdp(table, reward, **settings)


@partial(jax.jit, static_argnames="acceleration")
def solve(mdp, operator, acceleration=FrozenSweeps()):
    return value_iteration(mdp, operator, tolerance=1e-9, acceleration=acceleration)


def linear_program(mdp: jaxrl.TabularMDP) -> np.ndarray:
    """min sum v  subject to  v >= r + P v for every legal pair."""
    prob = np.asarray(mdp.prob, np.float64)
    there = np.eye(NUM_STATES)[np.asarray(mdp.next_state)]
    table = np.einsum("sak,sakt->sat", prob * (1.0 - np.asarray(mdp.terminal)), there)
    reward = np.sum(prob * np.asarray(mdp.reward), axis=-1)
    legal = np.asarray(mdp.legal)
    rows = float(mdp.discount) * table - np.eye(NUM_STATES)[:, None, :]
    result = linprog(
        np.ones(NUM_STATES), A_ub=rows[legal], b_ub=-reward[legal], bounds=(None, None)
    )
    assert result.success
    return result.x


@pytest.mark.parametrize("dense", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_values_solve_the_linear_program(dense) -> None:
    with jax.enable_x64(True):
        mdp = random_mdp(dense=dense)
        solution = solve(mdp, OPERATORS["mean"])
        np.testing.assert_allclose(solution.values, linear_program(mdp), atol=1e-7)
        assert np.all(np.isneginf(np.asarray(solution.q_values)[~np.asarray(mdp.legal)]))
        np.testing.assert_allclose(np.max(solution.q_values, 1), solution.values, atol=1e-9)
        best = np.argmax(solution.q_values, 1)
        np.testing.assert_array_equal(np.argmax(solution.policy, 1), best)


@pytest.mark.parametrize(
    "name, solved",
    [
        pytest.param("mean", (FrozenSweeps(0), FrozenSolve()), marks=pytest.mark.slow),
        pytest.param("mean", ACCELERATIONS, marks=pytest.mark.slow),
        pytest.param("cvar", ACCELERATIONS[:2], marks=pytest.mark.slow),
        pytest.param("entropic-softmax", ACCELERATIONS[:2], marks=pytest.mark.slow),
    ],
)
def test_accelerations_agree_and_are_certified(name, solved) -> None:
    with jax.enable_x64(True):
        # Nearly two halves: value iteration mixes them slowly.
        mdp = jax.device_get(random_mdp(1, 0.99))
        half = np.arange(NUM_STATES)[:, None, None] % 2
        next_state = mdp.next_state // 2 * 2 + half
        next_state[0, :, 0], next_state[1, :, 0] = 1, 0
        mdp = mdp.replace(next_state=next_state, terminal=np.zeros_like(mdp.terminal))
        exact = linear_program(mdp)
        plain, *others = (solve(mdp, OPERATORS[name], acc) for acc in solved)
        for found in (plain, *others):
            assert bool(found.converged)
            if name == "mean":
                assert np.max(np.abs(found.values - exact)) <= float(found.error_bound) + 1e-9
            error = np.max(np.abs(found.values - plain.values))
            assert error <= float(found.error_bound + plain.error_bound) <= 2e-9
        quick = [int(found.num_iterations) for found in others[:2]]  # of the linear equations
        assert max(quick) < plain.num_iterations / 2


@pytest.mark.slow
def test_maps_over_models_operators_and_tolerances() -> None:
    mdps = [random_mdp(seed, 0.8) for seed in range(3)]
    levels = jnp.array([0.2, 0.5, 1.0])
    tolerances = jnp.array([1e-1, 1e-2, 5e-3])

    @jax.jit
    def one(mdp, level, tolerance):
        operator = jaxrl.BellmanOperator(successor_functional=CVaR(level))
        return value_iteration(mdp, operator, tolerance=tolerance)

    together = jax.jit(jax.vmap(one))(jaxrl.stack_mdps(mdps), levels, tolerances)
    for i, mdp in enumerate(mdps):
        alone = one(mdp, levels[i], tolerances[i])
        np.testing.assert_allclose(together.values[i], alone.values, rtol=1e-5, atol=1e-5)
        assert int(together.num_iterations[i]) == int(alone.num_iterations)
    assert np.all(together.error_bound <= tolerances)
    assert one._cache_size() == 1
    # CVaR at level 1 is the mean.
    np.testing.assert_allclose(together.values[2], linear_program(mdps[2]), atol=1e-2)


@pytest.mark.slow
def test_settings_of_each_pair() -> None:
    with jax.enable_x64(True):
        mdp = random_mdp(2)
        levels = jnp.full(mdp.legal.shape, 0.4)
        alike = OPERATORS["cvar"].replace(successor_functional=PerPair(CVaR(levels)))
        expected = solve(mdp, OPERATORS["cvar"])
        for acceleration in (None, GaussSeidel(3)):
            found = solve(mdp, alike, acceleration)
            np.testing.assert_allclose(found.values, expected.values, atol=1e-8)
        careful = solve(mdp, alike.replace(successor_functional=PerPair(CVaR(levels / 2))), None)
        assert np.all(careful.values <= expected.values + 1e-9)
        assert np.any(careful.values < expected.values - 1e-3)


@partial(jax.jit, static_argnames="acceleration")
def run(mdp, initial_values, max_iterations, acceleration):
    return value_iteration(
        mdp,
        tolerance=1e-3,
        max_iterations=max_iterations,
        initial_values=initial_values,
        acceleration=acceleration,
    )


def test_stops_where_it_must() -> None:
    mdp, zero = jax.device_get(random_mdp(0, 0.99)), np.zeros(NUM_STATES, np.float32)
    few = run(mdp, zero, 3, FrozenSweeps(0))
    assert int(few.num_iterations) == 3
    assert not bool(few.converged)
    assert float(few.error_bound) > 1e-3
    error = np.max(np.abs(np.asarray(few.values) - linear_program(mdp)))
    assert error <= float(few.error_bound)
    reward = mdp.reward.copy()
    reward[0, 0, 0] = np.nan
    found = run(mdp.replace(reward=reward), zero, 1000, FrozenSweeps(0))
    assert int(found.num_iterations) == 1
    assert not bool(found.converged)
    assert np.isinf(found.error_bound)
    assert np.isnan(found.values[0])


def test_starts_where_it_is_told() -> None:
    mdp = jax.device_get(random_mdp(3))
    exact = linear_program(mdp).astype(np.float32)
    again = run(mdp, exact, 1000, FrozenSweeps(0))
    assert int(again.num_iterations) == 1
    np.testing.assert_allclose(again.values, exact, atol=1e-5)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"tolerance": 0.0}, "tolerance=0.0 is out of range"),
        ({"max_iterations": 0}, "max_iterations=0"),
        ({"initial_values": np.zeros(2)}, "initial_values must have shape"),
        ({"operator": jaxrl.BellmanOperator(head=Quantile(3))}, "stores more than a value"),
        ({"operator": jaxrl.BellmanOperator(composition=MinForm())}, "does not commute"),
        ("a batch", "vmap"),
    ],
)
def test_bad_arguments_are_refused(change, message) -> None:
    if change == "a batch":
        change = {"mdp": jax.tree.map(lambda x: np.asarray(x)[None], random_mdp())}
    with pytest.raises(ValueError, match=message):
        value_iteration(**({"mdp": random_mdp()} | change))


@pytest.mark.slow
def test_no_radius_is_the_nominal_model() -> None:
    with jax.enable_x64(True):
        mdp = random_mdp(4)
        robust = jaxrl.BellmanOperator(successor_functional=Contamination(0.0))
        found = solve(mdp, robust)
        np.testing.assert_allclose(found.values, linear_program(mdp), atol=1e-7)
