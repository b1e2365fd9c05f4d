"""What is not finite never enters what lasts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.agents import AverageReward, VarianceAdjustment
from jaxrl.core import Progress, Transition
from jaxrl.envs.wrappers import RunningMoments
from jaxrl.replay import PrioritisedReplay, UniformReplay

REPLAY = PrioritisedReplay(capacity=8, num_envs=2, alpha=1.0, epsilon=0.0)
ONE, NO = np.ones((4, 2), np.float32), np.zeros((4, 2), bool)
ROWS = Transition(ONE, ONE.astype(np.int32), ONE, np.float32(0.9) * ONE, ONE, NO, NO, {})


def filled(replay=REPLAY, rows=ROWS):
    return replay.add(replay.init(jax.tree.map(lambda x: x[0], rows)), rows)


@jax.jit
def told_twice(bad):
    """What is kept after two updates of priorities, the second with a bad one."""
    state = REPLAY.update_priorities(filled(), jnp.array([0, 1]), jnp.array([4.0, 2.0]))
    state = REPLAY.update_priorities(state, jnp.array([0, 3]), jnp.stack([bad, 1.0]))
    probs = REPLAY.probs_at(state, jnp.arange(8))
    return probs / jnp.max(probs), state.max_priority, state.tree.total


@pytest.mark.parametrize(
    "bad", [np.nan, *(pytest.param(s * np.inf, marks=pytest.mark.slow) for s in (1, -1))]
)
def test_a_priority_that_is_not_finite_is_left_out(bad):
    weights, max_priority, total = told_twice(bad)
    np.testing.assert_allclose(np.asarray(weights)[[0, 1, 3]], [1.0, 0.5, 0.25], rtol=1e-6)
    assert float(max_priority) == 4.0 and float(total) > 0


def test_moments_leave_out_samples_with_an_entry_that_is_not_finite():
    rng = np.random.default_rng(0)
    first, then = rng.normal(3.0, 2.0, (2, 5, 4, 3)).astype(np.float32)
    spoilt = then.copy()
    spoilt[0, 1, 2], spoilt[3, 3, 0] = np.nan, np.inf
    merged = jax.jit(RunningMoments.merged)
    moments = merged(merged(RunningMoments.start((3,)), first), spoilt)
    kept = then.reshape(-1, 3)[[i for i in range(20) if i not in (1, 15)]]
    known = np.concatenate([first.reshape(-1, 3), kept])
    np.testing.assert_allclose(moments.mean, known.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(moments.variance, known.var(axis=0), rtol=1e-5)
    assert float(moments.count) == 38.0
    nothing = merged(moments, np.full_like(spoilt, np.nan))
    assert jax.tree.all(jax.tree.map(np.array_equal, nothing, moments))


def test_moments_stay_finite_where_squares_overflow():
    merged = jax.jit(RunningMoments.merged)
    moments = merged(RunningMoments.start(), jnp.array([1.0, 2.0, 3.0]))
    for far in (1e16, -1e20, 3e38):
        moments = merged(moments, jnp.array([far, 2.0]))
    np.testing.assert_allclose([moments.mean, moments.variance], [2.0, 1 / 3], rtol=1e-6)
    large = merged(moments, jnp.array([-1e14, 1e14]).repeat(1000))
    assert np.isfinite(merged(large, jnp.ones(1000)).variance)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_running_means_of_agents_leave_out_what_is_not_finite(bad):
    gain = AverageReward(0.5).moved(jnp.array(1.0), jnp.array(bad), Progress.start())
    assert float(gain) == 1.0
    adjustment, weights = VarianceAdjustment(step_size=0.5), jnp.array([0.5, 0.5])
    scales = jnp.array([[bad, 1.0], [3.0, 3.0]])
    assert adjustment.move(jnp.array([1.0, 1.0]), scales, weights).tolist() == [1.0, 2.0]
    assert adjustment.move(adjustment.init(2), scales, weights).tolist() == [-1.0, 3.0]


@pytest.mark.parametrize(
    "kind", [UniformReplay, pytest.param(PrioritisedReplay, marks=pytest.mark.slow)]
)
def test_rows_that_the_clock_cut_count(kind):
    """Every episode one truncated step: all windows are good, and none without successors."""
    rows = ROWS.replace(truncated=~NO, next_observation=7.0 * ONE)
    for store_next, share in ((True, 1.0), (False, 0.0)):
        replay = kind(capacity=8, num_envs=2, store_next=store_next)
        draw = jax.jit(lambda key, replay=replay: replay.sample(key, filled(replay, rows), 16))
        batch = draw(jax.random.key(0))
        np.testing.assert_array_equal(batch.weights, share)
        if store_next:
            np.testing.assert_array_equal(batch.transition.next_observation, 7.0)
    assert kind(capacity=8, num_envs=2).store_next
