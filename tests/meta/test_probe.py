"""What a probe shows: drifts and slopes known by hand, responses known in closed form."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import a2c, ppo, rules
from jaxrl.core import Cosine, Linear
from jaxrl.functionals import CVaR
from jaxrl.meta import probe

KEY = jax.random.key(0)


def test_the_drift_of_a_clip_and_its_slope():
    found = probe(ppo_drift(), most_ratio=2.0, most_advantage=1.0, num_points=5).drift
    # ratios 1/2, 0.71, 1, 1.41, 2; advantages -1, -1/2, 0, 1/2, 1: the clip ends at 0.8 and 1.2.
    ratio, advantage = np.asarray(found.ratio), np.asarray(found.advantage)[:, None]
    outside = np.where(advantage > 0, ratio > 1.2, (ratio < 0.8) & (advantage < 0))
    excess = np.where(ratio > 1.0, ratio - 1.2, ratio - 0.8)
    np.testing.assert_allclose(found.drift[0], np.where(outside, excess * advantage, 0), atol=1e-6)
    # Outside, the drift takes the whole push away.
    np.testing.assert_allclose(found.slope[0], np.where(outside, advantage, 0), atol=1e-6)
    np.testing.assert_allclose(found.push[0], np.where(outside, 0, advantage), atol=1e-6)


def ppo_drift():
    return rules.DriftPolicy(rules.ClipDrift(0.2))


@pytest.mark.slow
def test_points_of_a_life_are_kept_where_they_matter():
    assert probe(ppo_drift(), num_points=3).drift.drift.shape == (1, 3, 3)
    timed = rules.drift(KEY, num_hidden=4, timed=True, scale=1.0)
    found = probe(timed, num_points=3, shares=(0.0, 1.0)).drift
    assert found.drift.shape == (2, 3, 3) and found.shares.tolist() == [0.0, 1.0]
    np.testing.assert_array_equal(found.push[:, :, 1], np.tile(found.advantage, (2, 1)))
    narrowing = rules.ClipDrift(Linear(0.5, 0.1))
    found = probe(narrowing, most_ratio=1.4, num_points=3).drift
    # At ratio 1.4 and advantage 3 the clip takes nothing, then (0.4 - 0.3) 3, then (0.4 - 0.1) 3.
    np.testing.assert_allclose(found.drift[:, 2, 2], [0.0, 0.3, 0.9], atol=1e-5)


@pytest.mark.parametrize(
    "discount, lambda_",
    [
        (0.9, 0.8),
        pytest.param(1.0, 0.5, marks=pytest.mark.slow),
        pytest.param(0.5, 0.0, marks=pytest.mark.slow),
    ],
)
def test_generalised_advantages_answer_with_a_geometric_decay(discount, lambda_):
    agent = ppo().replace(lambda_=lambda_, discount=discount)
    found = probe(agent, num_lags=6, pulses=(2.0, -1.0)).response
    powers = (discount * lambda_) ** np.arange(6)
    np.testing.assert_allclose(found.advantage[0], np.outer([2.0, -1.0], powers), atol=1e-5)
    np.testing.assert_allclose(found.decay[0], discount * lambda_, atol=1e-5)


@pytest.mark.slow
def test_a_learned_gradient_answers_through_its_reward_weights_alone():
    rule = rules.lpg(KEY, num_hidden=4, num_predictions=3, num_embedded=2, timed=True)
    found = probe(rule, num_lags=5).response
    assert found.advantage.shape == (3, 2, 5)  # timed: every point of the life differs
    assert bool(jnp.all(found.advantage[:, :, :2] != 0))
    deaf = rule.replace(weights={**rule.weights, "inputs": rule.weights["inputs"].at[0].set(0.0)})
    found = probe(deaf, num_lags=5).response
    np.testing.assert_array_equal(found.advantage, 0.0)
    assert bool(jnp.all(jnp.isnan(found.decay)))


def test_every_schedule_has_its_curve():
    agent = ppo().replace(rule=rules.StaticRiskGradient(CVaR(Linear(1.0, 0.2, end=0.5))))
    found = probe(agent, num_points=5, total_steps=100.0).curves
    assert set(found) == {"rule.functional.level", "optimiser.learning_rate"}
    np.testing.assert_allclose(found["rule.functional.level"], [1, 0.6, 0.2, 0.2, 0.2], rtol=1e-6)
    curve = probe(Cosine(1.0), num_points=3).curves[""]
    np.testing.assert_allclose(curve, [1.0, 0.5, 0.0], atol=1e-6)


def test_a_probe_holds_what_there_is():
    inner = probe(rules.with_reward(ppo_drift(), lambda seen, action, reward: reward), num_points=3)
    assert inner.drift is not None and inner.response is not None and not inner.curves
    plain = probe(a2c(), num_points=3)
    assert plain.drift is None and plain.response is not None
    assert plain.response.discount == a2c().discount
    static = probe(rules.StaticRiskGradient(), num_points=3)
    assert static.drift is None and static.response is None
    bare = probe(rules.DiscoveredDrift(), num_points=3)
    assert bare.drift is not None and bare.response is None
    assert list(probe(Linear(1.0, 0.0), num_points=3).curves) == [""]


def test_what_cannot_be_looked_at_is_refused():
    with pytest.raises(ValueError, match="num_points=1"):
        probe(ppo_drift(), num_points=1)
    with pytest.raises(ValueError, match="most_ratio"):
        probe(ppo_drift(), most_ratio=1.0)
    with pytest.raises(ValueError, match="num_lags=1"):
        probe(rules.ProximalPolicy(), num_lags=1)
