"""Leaving out actions that cannot be the best changes nothing that a caller sees."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import BellmanOperator, outcome_mdp, planning
from jaxrl.functionals import CVaR
from jaxrl.operators import Softmax
from jaxrl.planning import backups, certificates

A, K, LEVEL, DISCOUNT = 8, 8, 0.3, 0.9
OPERATOR = BellmanOperator(successor_functional=CVaR(LEVEL))
LARGE, SMALL = 4_200, 23  # states: just enough to be large, and as many as are told to be large


@pytest.fixture(params=[SMALL, pytest.param(LARGE, marks=pytest.mark.slow)])
def num_states(request, monkeypatch):
    """A small model passes for a large one; no other test has programs of its size."""
    if request.param == SMALL:
        monkeypatch.setattr(backups, "CHUNK", SMALL * A * K // 16 - 1)
    return request.param


@functools.cache
def problem(num_states):
    """A model, as arrays; some pairs end, some are illegal."""
    rng = np.random.default_rng(0)
    shape = (num_states, A, K)
    prob = rng.dirichlet(np.ones(K), shape[:2])
    following = rng.integers(0, num_states, shape)
    reward = rng.normal(size=shape)
    ends = rng.random(shape) < 0.05
    mask = rng.random(shape[:2]) < 0.9
    mask[:, 0] |= ~mask.any(axis=1)
    return prob, following, reward, ends, mask


def model(num_states):
    prob, following, reward, ends, mask = problem(num_states)
    return outcome_mdp(prob, following, reward, DISCOUNT, terminal=ends, mask=mask)


def cvar(prob, values):
    """Mean of the worst part of mass LEVEL, by sorting."""
    order = np.argsort(values, axis=-1)
    prob, values = (np.take_along_axis(x, order, -1) for x in (prob, values))
    before = np.cumsum(prob, axis=-1) - prob
    return np.sum(np.clip(LEVEL - before, 0.0, prob) * values, axis=-1) / LEVEL


def action_values(values):
    prob, following, reward, ends, mask = problem(len(values))
    outcomes = reward + DISCOUNT * ~ends * values[following]
    return np.where(mask, cvar(prob, outcomes), -np.inf)


@functools.cache
def exact(num_states):
    """Backups of all actions, and between them some of the best one alone."""
    prob, following, reward, ends, _ = problem(num_states)
    values, states = np.zeros(num_states), np.arange(num_states)
    while True:
        q_values = action_values(values)
        before, values, best = values, q_values.max(axis=1), (states, q_values.argmax(axis=1))
        if np.max(np.abs(values - before)) < 1e-10:  # the error is 9 times as large at most
            return values
        for _ in range(12):
            outcomes = reward[best] + DISCOUNT * ~ends[best] * values[following[best]]
            values = cvar(prob[best], outcomes)


@pytest.mark.slow
def test_the_solution_is_that_of_numpy(num_states):
    with jax.enable_x64(True):
        mdp = model(num_states)
        assert backups.is_large(mdp) or jax.default_backend() != "cpu"
        solution = jax.device_get(planning.value_iteration(mdp, OPERATOR, tolerance=1e-7))
    assert bool(solution.converged)
    q_values = action_values(exact(num_states))
    np.testing.assert_allclose(
        solution.values, exact(num_states), atol=float(solution.error_bound) + 1e-8
    )
    # The actions left out too: theirs are made good at the end.
    np.testing.assert_allclose(solution.q_values, q_values, atol=2e-7)
    gaps = q_values - q_values.max(axis=1, keepdims=True)
    assert (gaps[np.arange(num_states), np.argmax(solution.policy, axis=1)] > -3e-7).all()


def test_sweeps_are_exact_and_their_bounds_hold(num_states):
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        mdp = model(num_states)

        @jax.jit
        def first(mdp):
            prepared = backups.prepare(mdp, OPERATOR)
            return (
                prepared,
                certificates.certify(prepared),
                certificates.candidates(prepared, jnp.zeros(num_states)),
            )

        @jax.jit
        def sweep(prepared, certificate, known, v):
            parts, known = known.backup(prepared, certificate, v)
            return parts, known, known.complete(prepared, v)

        prepared, certificate, known = first(mdp)
        shares = []
        for scale in (1.0, 0.03, 0.003):  # moves to both sides, and ever smaller ones
            values = exact(num_states) + scale * rng.normal(size=num_states)
            (value, _, policy), known, complete = sweep(prepared, certificate, known, values)
            wanted = action_values(values)
            np.testing.assert_allclose(value, wanted.max(axis=1), atol=1e-10)
            np.testing.assert_array_equal(np.argmax(policy, axis=1), wanted.argmax(axis=1))
            legal = np.isfinite(wanted)
            low, high = np.asarray(known.low), np.asarray(known.high)
            assert (low[legal] <= wanted[legal] + 1e-10).all()
            assert (high[legal] >= wanted[legal] - 1e-10).all()
            shares.append(np.mean((low == high)[legal]))
            np.testing.assert_allclose(np.asarray(complete)[legal], wanted[legal], atol=1e-10)
        assert shares[0] == 1.0 and shares[2] < 0.5


def test_only_where_a_bound_carries_over(num_states):
    mdp = model(num_states)
    soft = BellmanOperator(successor_functional=CVaR(LEVEL))

    def has_candidates(operator):
        found = []

        def look(mdp):
            prepared = backups.prepare(mdp, operator)
            found.append(certificates.candidates(prepared, jnp.zeros(num_states)) is not None)

        jax.eval_shape(look, mdp)
        return found[0]

    assert has_candidates(soft)
    assert not has_candidates(soft.replace(improvement=Softmax(0.1)))
    assert not has_candidates(BellmanOperator())
