"""The error bound is never below the error, and not far above it."""

from __future__ import annotations

import functools
import itertools
import warnings
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import planning
from jaxrl.functionals import Contamination, Entropic, MeanStd
from jaxrl.operators import Boltzmann, Categorical
from jaxrl.planning import FrozenSweeps, value_iteration

NUM_STATES, NUM_ACTIONS, NUM_OUTCOMES = 4, 2, 3
DISCOUNTS = (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999)
PLAIN = jaxrl.BellmanOperator()
ROBUST = jaxrl.BellmanOperator(successor_functional=Contamination(0.2))


def random_mdp(seed: int, discount: float, ends: str = "never") -> jaxrl.TabularMDP:
    rng = np.random.default_rng(seed)
    shape = (NUM_STATES, NUM_ACTIONS, NUM_OUTCOMES)
    terminal = {
        "never": None,
        "partly": rng.choice([0.0, 0.25, 0.9], shape),  # a probability of ending, or none
        "surely": np.where(np.arange(3) == 0, True, rng.random(shape) < 0.1),
    }[ends]
    return jaxrl.outcome_mdp(
        rng.dirichlet(np.ones(NUM_OUTCOMES), shape[:2]),
        rng.integers(0, NUM_STATES, shape),
        rng.normal(size=shape) + rng.choice([-3.0, 0.0, 3.0]),
        discount,
        terminal=terminal,
    )


def rows_of(mdp: jaxrl.TabularMDP) -> tuple[np.ndarray, np.ndarray]:
    """Weights `[S, A, K, S]` of each outcome alone, and its reward, in extended precision."""
    discount = np.longdouble(np.asarray(mdp.discount))
    going_on = discount * (1 - np.asarray(mdp.terminal, np.longdouble))
    to = np.eye(NUM_STATES, dtype=np.longdouble)[np.asarray(mdp.next_state)]
    return going_on[..., None] * to, np.asarray(mdp.reward, np.longdouble)


def solve_precisely(weights: np.ndarray, reward: np.ndarray) -> np.ndarray:
    """x = reward + weights x for a batch, refined to extended precision."""
    system = np.eye(NUM_STATES, dtype=np.longdouble) - weights
    inverse = np.linalg.inv(system.astype(np.float64)).astype(np.longdouble)
    x = np.zeros_like(reward)
    for _ in range(8):
        x = x + np.einsum("...ij,...j->...i", inverse, reward - _times(system, x))
    return x


def _times(matrix: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.einsum("...ij,...j->...i", matrix, x)


def exact_values(mdp: jaxrl.TabularMDP, radius: float = 0.0) -> np.ndarray:
    """max over policies of min over nature's outcomes, by trying all of both.

    With contamination nature's law is (1 - radius) p + radius (one outcome).
    """
    weights, reward = rows_of(mdp)
    prob = np.asarray(mdp.prob, np.longdouble)
    share = np.longdouble(np.asarray(radius, np.asarray(mdp.prob).dtype))
    # [A, K, S, ...]: state s under action a, when nature favours outcome k
    lean = (1 - share) * prob[:, :, None, :] + share * np.eye(NUM_OUTCOMES)
    kernels = np.einsum("sajk,sakt->sajt", lean, weights)
    rewards = np.einsum("sajk,sak->saj", lean, reward)
    states = np.arange(NUM_STATES)
    replies = range(NUM_OUTCOMES) if radius else (0,)
    nature = np.array(list(itertools.product(replies, repeat=NUM_STATES)))  # [R, S]
    best = np.full(NUM_STATES, -np.inf, np.longdouble)
    for actions in itertools.product(range(NUM_ACTIONS), repeat=NUM_STATES):
        found = solve_precisely(kernels[states, actions, nature], rewards[states, actions, nature])
        best = np.maximum(best, found.min(axis=0))
    return best


@partial(jax.jit, static_argnames="acceleration")
def solve_all(mdps, operator, tolerance, acceleration):
    solver = partial(value_iteration, tolerance=tolerance, acceleration=acceleration)
    return jax.vmap(solver, (0, None))(mdps, operator)


def stack(mdps: list[jaxrl.TabularMDP]) -> jaxrl.TabularMDP:
    return jax.tree.map(lambda *x: np.stack(x), *mdps)


KINDS = {
    "mean-never": (PLAIN, 0.0, "never"),
    "mean-partly": (PLAIN, 0.0, "partly"),
    "robust-partly": (ROBUST, 0.2, "partly"),
}


@functools.cache
def models_of(kind: str, x64: bool) -> tuple:
    """Models of every discount, stacked, and their exact values `[M, S]`."""
    _, radius, ends = KINDS[kind]
    with jax.enable_x64(x64):
        models = [random_mdp(s, d, ends) for d in DISCOUNTS for s in range(2 if radius else 6)]
        exact = np.stack([exact_values(mdp, radius) for mdp in models])
        return stack(models), exact


@functools.cache
def solved(kind: str, x64: bool, tolerance: float, acceleration: object) -> Any:
    with jax.enable_x64(x64):
        mdps, _ = models_of(kind, x64)
        return jax.device_get(solve_all(mdps, KINDS[kind][0], tolerance, acceleration))


def by_rounding(mdps: jaxrl.TabularMDP, exact: np.ndarray, radius: float) -> np.ndarray:
    """What rounding may add to a bound, twice over."""
    terms = 64 * NUM_OUTCOMES if radius else NUM_OUTCOMES + 4
    most = np.abs(exact).max(axis=1) + np.abs(mdps.reward).max((1, 2, 3))
    rounding = terms * np.finfo(mdps.reward.dtype).eps * most
    return 2 * rounding / (1 - np.asarray(mdps.discount, np.float64))


@pytest.mark.parametrize(
    "x64", [pytest.param(False, marks=pytest.mark.slow), True], ids=["float32", "float64"]
)
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("mean-never", marks=pytest.mark.slow),
        "mean-partly",
        pytest.param("robust-partly", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    "acceleration",
    [pytest.param(FrozenSweeps(0), marks=pytest.mark.slow), FrozenSweeps()],
    ids=["Plain", "FrozenSweeps"],
)
def test_error_bound_holds_and_is_not_loose(kind, x64, acceleration) -> None:
    radius, (mdps, exact) = KINDS[kind][1], models_of(kind, x64)
    for tolerance in (1e-2, 1e-6):
        found = solved(kind, x64, tolerance, acceleration)
        errors = np.abs(np.asarray(found.values, np.longdouble) - exact).max(axis=1)
        bounds = np.asarray(found.error_bound, np.longdouble)
        assert np.all(errors <= bounds)
        assert np.all((bounds <= tolerance) == found.converged)
        if x64:
            assert np.all(found.converged)
        # Converged, or rounding alone accounts for the bound.
        assert np.all(bounds <= tolerance + by_rounding(mdps, exact, radius))


def of_discount(found: Any, discount: float) -> Any:
    """The rows of `solved` of one discount."""
    rows = slice(6 * DISCOUNTS.index(discount), 6 * DISCOUNTS.index(discount) + 6)
    return jax.tree.map(lambda x: x[rows], found)


@pytest.mark.slow
def test_float32_says_what_it_did_not_reach() -> None:
    found = of_discount(solved("mean-never", False, 1e-6, FrozenSweeps()), 0.9999)
    mdps, exact = models_of("mean-never", False)
    assert not np.any(found.converged)
    assert np.all(found.num_iterations < 100)  # stalls are noticed
    errors = np.abs(found.values - exact[-6:]).max(axis=1)
    most = 1e-6 + by_rounding(mdps, exact, 0.0)[-6:]
    assert np.all(errors <= found.error_bound) and np.all(found.error_bound <= most)


@pytest.mark.slow
def test_every_solver_says_that_float32_stops_it() -> None:
    """Values of 100 / (1 - 0.999): the next number of float32 is 0.008 away."""
    mdp = jaxrl.tabular_mdp([[[0.5, 0.5]] * 2] * 2, [[99.1, 99.3], [100.7, 100.9]], discount=0.999)
    laws = jaxrl.BellmanOperator(Categorical(0.0, 2e5, num_atoms=11))
    for solver in (
        planning.value_iteration,
        planning.gap_increasing_value_iteration,
        partial(planning.relative_value_iteration, tolerance=1e-7),
        partial(planning.distributional_value_iteration, operator=laws),
        partial(planning.iwocs, operator=ROBUST, max_models=2),
    ):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = solver(mdp)
        assert not bool(found.converged)
        assert [str(one.message)[:19] for one in told] == ["Rounding of float32"]
        assert told[0].filename == __file__


@pytest.mark.slow
@pytest.mark.parametrize(
    "operator, radius",
    [(PLAIN, 0.0), pytest.param(ROBUST, 0.2, marks=pytest.mark.slow)],
    ids=["mean", "robust"],
)
def test_without_discount_the_time_to_the_end_certifies(operator, radius) -> None:
    """And where it is for ever, in a corridor, nothing does: the last of the models."""
    with jax.enable_x64(True):
        models = [random_mdp(seed, 1.0, "surely") for seed in range(3)]
        stacked = stack([*models, corridor(NUM_STATES, 1.0)])
        found = jax.device_get(solve_all(stacked, operator, 1e-6, FrozenSweeps()))
    exact = np.stack([exact_values(mdp, radius) for mdp in models])
    errors = np.abs(np.asarray(found.values[:3], np.longdouble) - exact).max(axis=1)
    assert np.all(found.converged)
    assert np.all(errors <= found.error_bound[:3])
    assert np.all(found.error_bound[:3] <= 1e-6)
    assert np.isinf(found.error_bound[3])
    assert found.residual[3] <= 1e-6
    if operator is PLAIN:
        np.testing.assert_allclose(found.values[3], [-3.0, -2.0, -1.0, 0.0], atol=1e-9)


def corridor(length: int, discount: float) -> jaxrl.TabularMDP:
    """Walk right to the end at a cost of 1 for each step, or stay where you are for ever.

    The other two outcomes of each pair are the first again.
    """
    states = np.arange(length)
    next_state = np.stack([np.minimum(states + 1, length - 1), states], axis=1)[..., None]
    shape = (length, NUM_ACTIONS, NUM_OUTCOMES)
    over = (states == length - 1)[:, None, None]
    return jaxrl.outcome_mdp(
        np.full(shape, 1 / 3),
        np.broadcast_to(next_state, shape),
        np.where(over, 0.0, -np.ones(shape)),
        discount,
        terminal=np.broadcast_to(over, shape) | (next_state == length - 1),
    )


@pytest.mark.slow
def test_no_certificate_when_some_policy_never_ends() -> None:
    with jax.enable_x64(True):
        found = value_iteration(corridor(NUM_STATES, 1.0), tolerance=1e-6)
        assert np.isinf(found.error_bound)
        assert bool(found.converged)
        assert float(found.residual) <= 1e-6
        np.testing.assert_allclose(found.values, [-3.0, -2.0, -1.0, 0.0], atol=1e-9)


@pytest.mark.slow
def test_no_certificate_for_operators_that_do_not_contract() -> None:
    mdp = random_mdp(0, 0.9)
    for operator in (
        jaxrl.BellmanOperator(improvement=Boltzmann(1.0)),
        jaxrl.BellmanOperator(successor_functional=MeanStd(0.1)),
    ):
        found = value_iteration(mdp, operator, tolerance=1e-3)
        assert np.isinf(found.error_bound)
        assert bool(found.converged) == (float(found.residual) <= 1e-3)
        assert bool(found.converged)


@pytest.mark.slow
def test_a_functional_without_a_worst_case_set_still_certifies_ends() -> None:
    """Entropic risk has no set of laws; its certificate looks at every possible outcome."""
    with jax.enable_x64(True):
        sure = random_mdp(1, 1.0, "surely")
        sure = sure.replace(terminal=jnp.ones_like(sure.terminal))
        found = value_iteration(sure, jaxrl.BellmanOperator(successor_functional=Entropic(0.5)))
        assert bool(found.converged)
        worth = -2.0 * np.log(np.sum(sure.prob * np.exp(-0.5 * sure.reward), axis=-1))
        error = np.abs(np.asarray(found.values) - worth.max(axis=1)).max()
        assert error <= float(found.error_bound) <= 1e-6


@pytest.mark.slow
def test_span_bounds_certify_far_sooner_than_the_discount_allows() -> None:
    found = of_discount(solved("mean-never", True, 1e-6, FrozenSweeps(0)), 0.999)
    assert np.all(found.converged)
    # The sup norm alone needs log(1e-6) / log(0.999), some 14,000 sweeps, and more.
    assert np.median(found.num_iterations) < 300
