"""One step of a sampled dual, by hand: which parameters move, how far, and what the targets are."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from tables import DESCENT, DUALS, NETWORK, Line, filled, kernel

from jaxrl.agents import Dual
from jaxrl.core import Law, Progress, Transition
from jaxrl.functionals import CVaR, Entropic
from jaxrl.operators import BellmanOperator
from jaxrl.replay import Batch

# Three transitions, of which the second does not count and the third counts twice.
STATE, ACTION = np.array([0, 0, 1], np.int32), np.array([0, 0, 1], np.int32)
WEIGHTS = np.array([1.0, 0.0, 2.0], np.float32)
VALUE = np.array([1.0, 5.0, 4.0], np.float32)  # what was backed up
LAGGED = np.array([3.0, 3.0, 2.0], np.float32)  # what the lagged copy said before
DATA = Transition(
    observation=STATE,
    action=ACTION,
    reward=VALUE,
    discount=VALUE,
    next_observation=STATE,
    terminated=VALUE,
    truncated=VALUE,
    extras={},
)
LAW = Law(np.ones((3, 1), np.float32), VALUE[:, None])
SCALE = 2.0
TABLE = np.array([[0.5, 7.0], [7.0, -1.0], [7.0, 7.0]], np.float32)
# The dual's parameter of each: the lagged value, and twice what the table adds.
X = np.array([4.0, 4.0, 0.0])
CASES = {
    # x - (x - v)^+ / level
    "cvar": (CVaR(0.25), np.array([4.0 - 3.0 / 0.25, 4.0, 0.0]), 1.0 - (X > VALUE) / 0.25),
    # x + 1 - exp(x - v)
    "entropic": (Entropic(1.0), X + 1.0 - np.exp(X - VALUE), 1.0 - np.exp(X - VALUE)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_table_climbs_the_dual_and_targets_are_those_before(name):
    functional, duals, slopes = CASES[name]
    operator, source = BellmanOperator(successor_functional=functional), Dual(SCALE)
    source = source.replace(optimiser=DESCENT)
    backup = Batch(DATA, WEIGHTS, ACTION), LAW, LAGGED

    @jax.jit
    def step(key, backup):
        state = source.init(key, Line(), operator, NETWORK)
        params = filled(state.learned.params, advantage=TABLE)
        learned, law = source.learn(
            state.replace(learned=state.learned.replace(params=params)),
            operator,
            *backup,
            Progress.start(),
        )
        return learned.params, law

    params, law = step(jax.random.key(0), backup)
    np.testing.assert_allclose(law.mean(), duals, rtol=1e-5)
    # Up the weighted sum of duals over the number of those that count, two.
    expected = TABLE.copy()
    for row in (0, 2):
        expected[STATE[row], ACTION[row]] += WEIGHTS[row] * SCALE * slopes[row] / 2.0
    assert expected.shape == (3, 2)
    np.testing.assert_allclose(kernel(params, "advantage").reshape(3, 2), expected, rtol=1e-5)


def test_a_bound_above_what_was_seen_is_pulled_down_and_climbs_from_there():
    """Of d = (1 - r) v + r b at b = v: slope r, less the penalty's, though b was far above v.

    At values such that b + (v - b) is rounded to more than v every other time.
    """
    rng = np.random.default_rng(0)
    value, bound = rng.uniform(0.1, 0.3, 64), rng.uniform(1.0, 4.0, 64)
    value, bound = value.astype(np.float32), bound.astype(np.float32)
    assert np.sum(bound + (value - bound) > value) > 10
    place, ones = np.zeros(64, np.int32), np.ones(64, np.float32)
    data = DATA.replace(observation=place, action=place)
    backup = Batch(data, ones, place), Law(ones[:, None], value[:, None]), bound
    operator = BellmanOperator(successor_functional=DUALS["contamination"])
    source = Dual(SCALE).replace(optimiser=DESCENT)

    @jax.jit
    def step(key, backup):
        state = source.init(key, Line(), operator, NETWORK)
        params = filled(state.learned.params)
        state = state.replace(learned=state.learned.replace(params=params))
        learned, law = source.learn(state, operator, *backup, Progress.start())
        return learned.params, law

    params, law = step(jax.random.key(0), backup)
    np.testing.assert_allclose(law.mean(), value, rtol=1e-5)  # the bound at the value
    pull = source.penalty * np.mean(bound.astype(float) - value)
    moved = kernel(params, "advantage").reshape(3, 2)[0, 0]
    np.testing.assert_allclose(moved, SCALE * 0.15 - pull, rtol=1e-5)


def test_the_dual_comes_after_the_mean_over_successors():
    operator = BellmanOperator(successor_functional=CVaR(0.25))
    assert Dual().operator(operator) == BellmanOperator()


@pytest.mark.slow  # for what eight duals compile
@pytest.mark.parametrize("name", DUALS)
def test_every_dual_is_climbed_from_where_it_starts(name):
    """By central differences of the dual itself, which tests/functionals checks."""
    operator = BellmanOperator(successor_functional=DUALS[name])
    source = Dual(SCALE).replace(optimiser=DESCENT)
    dual = source.dual(operator.successor_functional)
    # A bound above the value seen would not be climbed but pulled down.
    bounds = name in ("total_variation", "contamination")
    lagged = np.minimum(LAGGED, VALUE - 0.5) if bounds else LAGGED
    backup = Batch(DATA, WEIGHTS, ACTION), LAW, lagged
    step_size = 1e-2

    @jax.jit
    def step(key, backup):
        state = source.init(key, Line(), operator, NETWORK)
        state = state.replace(learned=state.learned.replace(params=filled(state.learned.params)))
        start = jax.vmap(dual.initial, (0, None))(lagged, SCALE)
        shifts = step_size * np.eye(dual.shape[0], dtype=np.float32)
        rise = [
            jax.vmap(jax.vmap(dual, (None, 0)), (0, 0))(VALUE, start[:, None] + sign * shifts)
            for sign in (1, -1)
        ]
        slopes = (rise[0] - rise[1]) / (2 * step_size)  # [B, parameter]
        learned, law = source.learn(state, operator, *backup, Progress.start())
        return learned.params, law, slopes, jax.vmap(dual.estimate)(VALUE, start)

    params, law, slopes, estimates = jax.device_get(step(jax.random.key(0), backup))
    np.testing.assert_allclose(law.atoms[:, 0], estimates, rtol=1e-5)
    moved = np.zeros((3, 2, slopes.shape[1]))
    for row in (0, 2):
        moved[STATE[row], ACTION[row]] += WEIGHTS[row] * SCALE * slopes[row] / 2.0
    found = kernel(params, "advantage").reshape(moved.shape)
    np.testing.assert_allclose(found, moved, rtol=2e-2, atol=2e-3)
