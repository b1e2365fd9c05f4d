"""Closed forms: known drifts are found again, and whatever is found is a drift."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxrl import a2c, ppo, rules
from jaxrl.core import Linear, Progress
from jaxrl.meta import distil
from jaxrl.meta.distilling import TERMS, fit_weights, select_terms

START = Progress(np.int32(0), np.float32(np.inf))


def drift_of(weights, scales, terms):
    nothing = distil(rules.ZeroDrift()).drift
    return nothing.replace(weights=weights, scales=scales, terms=terms)


def known(*rows):
    names, weights, scales = zip(*rows, strict=True)
    return drift_of(np.float32(weights), np.float32(scales), names)


@pytest.mark.slow
def test_the_discovered_drift_is_found_again_with_scales_that_no_list_holds():
    found = distil(rules.DriftPolicy(rules.DiscoveredDrift(alpha=1.7, beta=0.45)))
    assert found.drift.terms == (
        "[A>=0] ((r-1)A - s tanh((r-1)A/s))",
        "[A<0] (log(r)A - s tanh(log(r)A/s))",
    )
    np.testing.assert_allclose(found.drift.weights, 1.0, rtol=1e-3)
    np.testing.assert_allclose(found.drift.scales, [1.7, 0.45], rtol=1e-3)
    assert found.r_squared > 0.99999 and found.worst_error < 1e-3
    assert "1.7 tanh((r-1)A/1.7)" in str(found)


@pytest.mark.slow
def test_what_serves_both_signs_is_written_once():
    found = distil(ppo().replace(rule=rules.DriftPolicy(rules.ClipDrift(0.13))))
    assert found.drift.terms == ("(r-1 outside +-s)A",)
    np.testing.assert_allclose(found.drift.scales, 0.13, rtol=1e-3)
    outputs = rules.PolicyOutputs(log_prob=np.float32(np.log(2.0)), entropy=0.0, value=0.0)
    targets = rules.PolicyTargets(advantage=1.0, returns=0.0, log_prob=0.0, value=0.0)
    drifts = found.rule, rules.DriftPolicy(rules.ClipDrift(0.13))
    ours, theirs = jax.jit(lambda drifts: [d.loss(outputs, targets, START) for d in drifts])(drifts)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)


@pytest.mark.parametrize(
    "drift",
    [
        known(("[A>=0] (r-1)^2", 2.0, 1.0), ("[A<0] log(r)^2", 0.5, 1.0)),
        pytest.param(
            known(("[A>=0] ((r-1)A)^2", 0.7, 1.0), ("[A>=0] (log(r) outside +-s)A", -0.5, 0.3)),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["squares", "difference"],
)
def test_a_known_sum_is_found_again(drift):
    found = distil(drift).drift
    assert sorted(found.terms) == sorted(drift.terms)
    order = [found.terms.index(name) for name in drift.terms]
    np.testing.assert_allclose(np.asarray(found.weights)[order], drift.weights, rtol=2e-3)


def test_weights_through_a_positive_part_are_the_minimum_of_their_convex_bound():
    generator = np.random.default_rng(0)
    columns = generator.normal(size=(300, 3))
    target = np.maximum(columns @ [1.0, -2.0, 0.5] + generator.normal(size=300), 0.0)

    def bound(weights):
        total = columns @ weights
        return np.sum(np.where(target > 0, target - total, np.maximum(total, 0.0)) ** 2)

    weights, error = fit_weights(list(columns.T), target)
    least = scipy.optimize.minimize(bound, np.zeros(3), tol=1e-12)
    np.testing.assert_allclose(weights, least.x, atol=1e-4)
    np.testing.assert_allclose(error, np.sum((target - np.maximum(columns @ weights, 0)) ** 2))
    plain = np.linalg.lstsq(columns, target, rcond=None)[0]
    assert np.abs(plain - weights).max() > 0.1


def test_a_term_that_others_make_superfluous_is_exchanged():
    # The third column is nearest to the target on its own; the first two together are the target.
    columns = {"a": [1.0, 0.0, 0.0], "b": [0.0, 1.0, 0.0], "c": [1.0, 1.0, 0.3]}
    families = {name: (lambda s, row=row: np.array(row), ()) for name, row in columns.items()}
    one, two = (select_terms(families, np.array([1.0, 1.0, 0.0]), k, 1e-9) for k in (1, 2))
    assert one.names == ("c",) and sorted(two.names) == ["a", "b"]
    np.testing.assert_allclose(two.error, 0.0, atol=1e-12)


@pytest.mark.slow
def test_the_positive_part_is_no_part_of_the_fit():
    # relu((r-1)^2 - (r-1-log r)) is zero on a whole side: plain least squares is far off.
    found = distil(known(("(r-1)^2", 1.0, 1.0), ("r-1-log(r)", -1.0, 1.0)), num_terms=2)
    assert found.r_squared > 0.9999


def test_a_learned_drift_near_ppo_reads_as_a_clip():
    found = distil(rules.drift(jax.random.key(0), num_hidden=16), num_terms=1)
    assert found.r_squared > 0.97
    assert all("outside" in name for name in found.drift.terms)


def test_nothing_is_made_of_nothing():
    found = distil(rules.ZeroDrift())
    assert found.drift.terms == () and found.drift.formula == "0" and found.r_squared == 1.0
    np.testing.assert_array_equal(
        found.drift(np.float32([1, 1, 1]), np.float32([1, 1, 1]), START), 0.0
    )


@pytest.mark.parametrize("step, width", [pytest.param(0, 0.4, marks=pytest.mark.slow), (50, 0.25)])
def test_a_timed_drift_is_read_where_asked(step, width):
    narrowing = rules.ClipDrift(Linear(0.4, 0.1))
    found = distil(narrowing, progress=Progress(np.int32(step), np.float32(100.0)))
    np.testing.assert_allclose(found.drift.scales, width, rtol=1e-3)


@pytest.mark.slow
def test_any_sum_of_terms_is_a_drift():
    names = tuple(TERMS)
    scales = jnp.linspace(0.1, 2.0, len(names))
    advantages = jnp.array([-3.0, -0.1, 0.0, 0.1, 3.0])
    step, middle = 1e-3, 2
    grid = jnp.array([-1.0, -step, 0.0, step, 1.0, -20.0, 20.0])
    nothing = distil(rules.ZeroDrift()).drift
    alone = jnp.concatenate([jnp.eye(len(names)), -jnp.eye(len(names))])

    @jax.jit
    def look(weights):
        drift = nothing.replace(weights=weights, scales=scales, terms=names)
        over_ratios = jax.vmap(jax.value_and_grad(lambda l, a: drift(l, a, START)), (0, None))
        return jax.vmap(over_ratios, (None, 0))(grid, advantages)

    for seed in range(3):
        weights = jax.random.normal(jax.random.key(seed), (len(names),))
        values, slopes = look(weights)
        assert bool(jnp.all(values >= 0)) and bool(jnp.any(values > 0))
        assert bool(jnp.all(jnp.isfinite(values) & jnp.isfinite(slopes)))
        np.testing.assert_array_equal(values[:, middle], 0.0)
    # The slope of relu at 0 is 0 whatever it is put on: so each term, just beside ratio 1.
    near = np.asarray(jax.vmap(lambda weights: look(weights)[0])(alone))[
        :, :, [middle - 1, middle + 1]
    ]
    assert near.max() > 0 and near.max() < 20 * step**2


def test_what_has_no_closed_form_is_refused():
    with pytest.raises(TypeError, match="AdvantageActorCritic has no drift"):
        distil(a2c())
    with pytest.raises(ValueError, match="num_terms=0"):
        distil(rules.ClipDrift(), num_terms=0)
    with pytest.raises(ValueError, match="advantage_spread=0"):
        distil(rules.ClipDrift(), advantage_spread=0.0)
