"""Counts and sums beyond what float32 can hold."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.core import Cosine, Exponential, Linear, LinearSteps, Progress, totals


def exact(progress):
    return int(progress.step) + int(progress.rest)


@pytest.mark.parametrize("start", [0, 2**24 - 3, 2**31 - 1000, 2**40 + 1, 10**13])
def test_a_million_advances_count_as_python_does(start):
    """By 1, 7 and 2048 in turn, inside one compiled loop."""
    amounts = jnp.array([1, 7, 2048], jnp.int32)

    @jax.jit
    def run(progress):
        body = lambda i, p: p.advance(amounts[i % 3])  # noqa: E731
        return jax.lax.fori_loop(0, 3 * 1000, body, progress)

    high = np.float32(start)
    begin = Progress(high, np.float32(1e13), np.float32(start - int(high)))
    assert exact(begin) == start
    assert exact(run(begin)) == start + 1000 * 2056


def test_a_single_step_is_never_lost():
    """2^24 + 1 is no float32."""
    total, rest = totals.add_exactly(jnp.float32(2**24), jnp.float32(0), 1)
    assert int(total) + int(rest) == 2**24 + 1
    assert float(total) in (2**24, 2**24 + 2)


def test_what_is_not_finite_has_no_rest():
    for bad in (jnp.inf, -jnp.inf, jnp.nan):
        total, rest = totals.add_exactly(jnp.float32(3), jnp.float32(0.25), jnp.float32(bad))
        assert np.array_equal(total, bad, equal_nan=True) and float(rest) == 0.0


@pytest.mark.parametrize(
    "schedule",
    [Linear(1.0, 0.0), LinearSteps(1.0, 0.0, 4e9), Exponential(1.0, 0.0, 2e9), Cosine(1)],
)
def test_schedules_go_on_past_two_to_the_31(schedule):
    life = Progress.start(4e9)
    values = []
    for _ in range(8):
        life = life.advance(2**29 - 1)
        values.append(float(schedule(life)))
    assert exact(life) == 8 * (2**29 - 1)
    assert all(later < earlier for earlier, later in itertools.pairwise(values[:-1]))
    assert values[-1] <= values[-2]


def test_a_count_that_was_an_integer_goes_on():
    life = Progress.start(4e9).replace(step=jnp.asarray(2**31 - 1000, jnp.int32)).advance(2048)
    assert 2**31 <= int(life.step) <= 2**31 + 2048
