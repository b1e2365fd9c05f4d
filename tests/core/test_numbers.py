"""Numbers in ranges, of lives, with intervals: by hand."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxrl.core import Progress, estimates, lifetime, ranges

INF = float("inf")


@pytest.mark.parametrize(
    "span, value, free",
    [
        (ranges.Range(0.0, 1.0), 0.99, np.log(99.0)),
        (ranges.Range(-1.0, 3.0), 0.0, np.log(1.0 / 3.0)),
        (ranges.Range(2.0, INF), 5.0, np.log(3.0)),
        (ranges.Range(-INF, 2.0), -5.0, np.log(7.0)),
        (ranges.Range(), -5.0, -5.0),
    ],
)
def test_a_number_in_a_range_is_a_free_one_and_back(span, value, free):
    both = jax.jit(lambda x, y: (span.free(x), span.value(y)))
    np.testing.assert_allclose(both(np.float32(value), np.float32(free)), (free, value), rtol=1e-5)


@pytest.mark.parametrize(
    "total, step, features",
    [
        (1e3, 500, (0.5, -2.0)),
        (1e5, 25_000, (0.25, 0.0)),
        (1e6, 250_000, (0.25, 1.0)),
        (1e7, 10**7, (1.0, 2.0)),
        (1e12, 0, (0.0, 5.0)),
        (INF, 10**6, (0.0, 5.0)),
    ],
)
def test_a_life_is_told_by_its_share_and_decades(total, step, features):
    found = lifetime.lifetime_features(Progress.start(total).advance(step))
    np.testing.assert_allclose(found, features, atol=1e-6)


def test_an_interval_is_rounded_outwards_and_nan_has_no_lower_bound():
    replicates = np.stack([np.arange(101.0), np.arange(101.0)[::-1] ** 2], 1)
    low, high = estimates.percentile_interval(replicates, 0.9)
    assert (low.tolist(), high.tolist()) == ([5.0, 25.0], [95.0, 95.0**2])
    low, high = estimates.percentile_interval(np.arange(10.0), 0.5)  # 2.25 from either end
    assert (float(low), float(high)) == (2.0, 7.0)
    low, high = estimates.percentile_interval(np.array([np.nan, 1.0, 2.0]), 0.9)
    assert (float(low), float(high)) == (-np.inf, 2.0)
