"""Schedules: their values by hand, their ends, and that a longer life is no new program."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.core import Cosine, Exponential, Linear, LinearSteps, Progress, schedules


def at(step: int, total: float = 1000.0) -> Progress:
    return Progress.start(total).advance(step)


@pytest.mark.parametrize(
    "schedule, step, value",
    [
        (Linear(1.0, 0.0), 0, 1.0),
        (Linear(1.0, 0.0), 250, 0.75),
        (Linear(1.0, 0.0), 1000, 0.0),
        (Linear(1.0, 0.0), 5000, 0.0),  # past the end of the life
        (Linear(0.0, 4.0, start=0.5), 400, 0.0),
        (Linear(0.0, 4.0, start=0.5), 750, 2.0),
        (Linear(1.0, 0.2, end=0.1), 50, 0.6),
        (Linear(1.0, 0.2, end=0.1), 200, 0.2),
        (LinearSteps(2.0, 1.0, num_steps=100.0), 25, 1.75),
        (LinearSteps(2.0, 1.0, num_steps=100.0), 300, 1.0),
        (Exponential(9.0, 1.0, half_life=100.0), 0, 9.0),
        (Exponential(9.0, 1.0, half_life=100.0), 100, 5.0),
        (Exponential(9.0, 1.0, half_life=100.0), 300, 2.0),
        (Cosine(3.0, 1.0), 0, 3.0),
        (Cosine(3.0, 1.0), 500, 2.0),
        (Cosine(3.0, 1.0), 250, 2.0 + 0.5**0.5),  # cos 45 degrees
        (Cosine(3.0, 1.0), 1000, 1.0),
        (0.3, 700, 0.3),
    ],
)
def test_values_are_those_worked_out_by_hand(schedule, step, value):
    np.testing.assert_allclose(schedules.value_at(schedule, at(step)), value, atol=1e-6)


@pytest.mark.parametrize("schedule", [Linear(1.0, 0.0), Cosine(1.0)])
def test_an_unlimited_life_stays_at_its_start(schedule):
    assert float(schedule(Progress.start().advance(10**6))) == 1.0


def test_an_empty_stretch_is_a_jump():
    jump = Linear(1.0, 0.0, start=0.5, end=0.5)
    assert [float(jump(at(step))) for step in (499, 501)] == [1.0, 0.0]


def test_a_changed_total_or_setting_does_not_retrace():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def value(schedule, progress):
        return schedules.value_at(schedule, progress)

    first = value(Linear(1.0, 0.0), at(500, 1000.0))
    second = value(Linear(1.0, 0.5), at(500, 2000.0))
    assert (float(first), float(second)) == (0.5, 0.875)


def test_progress_counts_and_saturates():
    progress = at(250)
    assert int(progress.step) == 250 and float(progress.fraction) == 0.25
    assert float(at(4000).fraction) == 1.0
    assert progress.step.dtype == jnp.float32 and progress.total_steps.dtype == jnp.float32
