"""The drift family: its axioms for any weights, PPO as a member, ratios out of all bounds."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rule_cases as cases

from jaxrl import rules
from jaxrl.core import Progress
from jaxrl.networks import CategoricalPolicy
from jaxrl.rules import (
    ClipDrift,
    DiscoveredDrift,
    DriftPolicy,
    PolicyOutputs,
    PolicyTargets,
    ProximalPolicy,
    ZeroDrift,
    drift,
)

INF = float("inf")
LIFE = Progress(np.int32(250_000), np.float32(1e6))
NUM_NETWORKS = 64


LOG_RATIOS = np.array([-20.0, -3.0, -0.3, -1e-3, 0.0, 1e-3, 0.3, 3.0, 20.0], np.float32)
ADVANTAGES = np.array([-100.0, -1.0, -1e-3, 0.0, 1e-3, 1.0, 100.0], np.float32)


def networks():
    """Networks `[64]` of all sizes of weights, half of them started at PPO's drift."""
    generator = np.random.default_rng(0)
    sizes = 10.0 ** generator.uniform(-3.0, 3.0, size=(NUM_NETWORKS, 1, 1))
    weights = {
        "hidden": sizes * generator.normal(size=(NUM_NETWORKS, 24, 5)),
        "output": sizes[..., 0] * generator.normal(size=(NUM_NETWORKS, 5)),
    }
    weights = {name: leaf.astype(np.float32) for name, leaf in weights.items()}
    epsilon = np.where(np.arange(NUM_NETWORKS) % 2 == 0, 0.2, 1e9).astype(np.float32)
    margin = np.full(NUM_NETWORKS, 1e-4, np.float32)
    network = drift(jax.random.key(0), timed=True).drift
    return network.replace(weights=weights, start=ClipDrift(epsilon), margin=margin)


@pytest.fixture(scope="module")
def drifts():
    """Drift and its slope in the log-ratio, `[network, log-ratio, advantage]`."""

    def both(network, log_ratio, advantage):
        return jax.value_and_grad(network)(log_ratio, advantage, LIFE)

    over = jax.vmap(jax.vmap(jax.vmap(both, (None, None, 0)), (None, 0, None)), (0, None, None))
    return jax.device_get(jax.jit(over)(networks(), LOG_RATIOS, ADVANTAGES))


def test_a_network_of_any_weights_is_a_drift(drifts):
    """>= 0; zero at ratio 1, with zero slope."""
    value, slope = drifts
    at_one = LOG_RATIOS == 0
    assert np.all(value >= 0)
    assert np.all(value[:, at_one] == 0) and np.all(slope[:, at_one] == 0)


def test_no_ratio_makes_a_network_s_drift_or_slope_infinite(drifts):
    """Its values are those of the formula in float64, a quarter of a life of 10^6 steps gone."""
    value, slope = drifts
    assert np.all(np.isfinite(value)) and np.all(np.isfinite(slope))
    network = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), networks())
    log_ratio, advantage = np.float64(LOG_RATIOS)[:, None], np.float64(ADVANTAGES)
    fall = -np.expm1(log_ratio)
    plain = np.stack(np.broadcast_arrays(log_ratio, log_ratio**2, fall, fall**2), axis=-1)
    plain = plain + 0.0 * advantage[:, None]
    features = np.concatenate([plain, plain * advantage[:, None]], axis=-1)
    features = np.concatenate([features, 0.25 * features, 1.0 * features], axis=-1)
    before = np.einsum("raf,nfh->nrah", features, network.weights["hidden"])
    units = np.einsum("nrah,nh->nra", np.tanh(before), network.weights["output"])
    epsilon = network.start.epsilon[:, None, None]
    outside = -fall - np.clip(-fall, -epsilon, epsilon)
    total = np.maximum(outside * advantage, 0.0) + units - 1e-4
    # Where tanh is in doubt by float32, so is the value: the sums cancel at large ratios.
    size = np.sum(np.abs(network.weights["output"]), axis=1)[:, None, None]
    gap = np.abs(value - np.maximum(total, 0.0)) / (size + np.abs(total))
    for most, tolerance in ((0.3, 1e-3), (3.0, 1e-2)):
        near = np.abs(LOG_RATIOS) <= np.float32(most)
        assert gap[:, near].max() < tolerance, most


def test_the_closed_forms_are_drifts():
    log_ratios = np.append(np.linspace(-20.0, 20.0, 10), 0.0).astype(np.float32)
    advantages = np.array([-30.0, -1.0, 0.0, 1.0, 30.0], np.float32)

    @jax.jit
    def values_and_slopes():
        return [
            jax.vmap(jax.vmap(jax.value_and_grad(closed), (None, 0, None)), (0, None, None))(
                log_ratios, advantages, LIFE
            )
            for closed in (ClipDrift(0.2), DiscoveredDrift(), ZeroDrift())
        ]

    for value, slope in values_and_slopes():
        assert np.all(value >= 0) and np.all(np.isfinite(value)) and np.all(np.isfinite(slope))
        assert np.all(value[-1] == 0) and np.all(slope[-1] == 0)


def test_the_discovered_drift_by_hand():
    """A bad action of A = -1 at log-ratio -0.6: relu(0.6 - 0.6 tanh 1); a good one at ratio 3."""
    log_ratios = np.float32([-0.6, np.log(3.0), 0.6, np.log(0.2)])
    advantages = np.float32([-1.0, 1.0, -1.0, 1.0])
    found = jax.jit(lambda r, a: DiscoveredDrift()(r, a, LIFE))(log_ratios, advantages)
    np.testing.assert_allclose(found[:2], np.array([0.6, 2.0]) * (1 - np.tanh(1.0)), rtol=1e-5)
    # On the side that improvement goes to, a drift; on the other, where it would help, none.
    np.testing.assert_array_equal(found[2:], 0.0)


def step_of(log_prob, advantage):
    outputs = PolicyOutputs(jnp.asarray(log_prob), jnp.float32(0.4), jnp.float32(0.9))
    return outputs, PolicyTargets(advantage, returns=1.0, log_prob=0.0, value=0.3)


@pytest.fixture(scope="module")
def compare():
    """Losses and slopes of the two rules at `epsilon`, `[advantage, log-ratio]`, by one program."""

    def loss_of(rule, log_prob, advantage):
        loss = lambda outputs, targets: rule.loss(outputs, targets, LIFE)  # noqa: E731
        return jax.value_and_grad(loss)(*step_of(log_prob, advantage))

    @jax.jit
    def both(epsilon, log_probs, advantages):
        over = jax.vmap(jax.vmap(loss_of, (None, 0, None)), (None, None, 0))
        rules = DriftPolicy(ClipDrift(epsilon)), ProximalPolicy(clip_epsilon=epsilon)
        return [over(rule, log_probs, advantages) for rule in rules]

    return both


@pytest.mark.parametrize("epsilon", [0.05, 0.2, INF])
def test_the_clip_s_drift_is_ppo(compare, epsilon):
    """Loss and slopes, on both sides of both clips."""
    log_probs = np.log(np.float32([0.1, 0.79, 0.9, 1.0, 1.1, 1.3, 4.0]))
    first, second = compare(epsilon, log_probs, np.float32([-2.0, 0.0, 1.5]))
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_an_agent_under_the_clip_s_drift_learns_as_under_ppo():
    """Two updates of two epochs of three minibatches, at a rate at which both clips bind."""
    with jax.enable_x64(True):
        lives = []
        for rule in (ProximalPolicy(clip_epsilon=0.05), DriftPolicy(ClipDrift(0.05))):
            agent = cases.double(cases.agent_of("ppo", num_minibatches=3, rule=rule))
            start = cases.start_of(agent)
            lives.append(jax.jit(lambda agent, start: cases.live(agent, *start))(agent, start))
        for one, other in zip(*(jax.tree.leaves(life.params) for life in lives), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


LIKE_ANOTHER = [pytest.param(name, marks=pytest.mark.slow) for name in ("zero_drift", "lpo")]


@pytest.mark.parametrize("name", ["clip_drift", "dpo", "mdpo", *LIKE_ANOTHER])
def test_no_ratio_makes_a_loss_or_its_slopes_infinite(name):
    rule = cases.made(name).replace(**({"step_size": INF} if name == "mdpo" else {}))
    gaps = np.float32([-INF, -1e4, -20.0, 20.0, 1e4, INF])

    def loss_of(gap, advantage):
        outputs, targets = step_of(gap, advantage)
        law = CategoricalPolicy(np.zeros(2, np.float32))
        outputs, targets = outputs.replace(policy=law), targets.replace(policy=law)
        return jax.value_and_grad(lambda outputs: rule.loss(outputs, targets, LIFE))(outputs)

    over = jax.jit(jax.vmap(jax.vmap(loss_of, (0, None)), (None, 0)))
    results = jax.device_get(over(gaps, np.array([-5.0, 0.0, 5.0], np.float32)))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(results))
    losses, slopes = results
    # Log-ratios are held in [-20, 20]: beyond, loss and slope are those of the end, but infinite
    # ones have no slope.
    ends = np.array([2, 2, 2, 3, 3, 3])
    np.testing.assert_allclose(losses, losses[:, ends], rtol=1e-6)
    np.testing.assert_allclose(slopes.log_prob[:, 1:5], slopes.log_prob[:, ends[1:5]], rtol=1e-6)
    assert np.all(slopes.log_prob[:, [0, 5]] == 0)


def test_a_network_without_weight_is_its_start_less_the_margin():
    rule = drift(jax.random.key(0), num_hidden=8, scale=0.0)
    log_ratio, advantage = np.log(np.float32([0.5, 1.0, 1.5])), np.float32([-2.0, 1.0, 1.0])

    @jax.jit
    def both(drift):
        return drift(log_ratio, advantage, LIFE), ClipDrift(0.2)(log_ratio, advantage, LIFE)

    found, start = both(rule.drift)
    assert start[0] > 0.5
    np.testing.assert_allclose(found, np.maximum(start - 1e-4, 0.0), atol=1e-7)


def test_only_a_timed_network_sees_the_life():
    """Lives of other lengths, and other points of one: tanh of the sum of all features."""
    lives = [(1e6, 0), (1e6, 500_000), (1e7, 5_000_000), (INF, 500)]
    shares_and_lengths = [(0.0, 1.0), (0.5, 1.0), (0.5, 2.0), (0.0, 5.0)]
    weights = {"hidden": np.ones((24, 1), np.float32), "output": np.ones(1, np.float32)}
    fall = -np.expm1(0.1)
    plain = 2.0 * (0.1 + 0.1**2 + fall + fall**2)  # and again, times the advantage
    for timed in (False, True):
        network = drift(jax.random.key(0), timed=timed).drift.replace(
            weights={name: leaf if timed else leaf[:8] for name, leaf in weights.items()}
        )
        drift_at = jax.jit(lambda life, network=network: network(jnp.float32(0.1), 1.0, life))
        for (total, step), (share, length) in zip(lives, shares_and_lengths, strict=True):
            found = drift_at(Progress(np.int32(step), np.float32(total)))
            times = 1.0 + share + length if timed else 1.0
            np.testing.assert_allclose(found, np.tanh(plain * times) - 1e-4, rtol=1e-5)


def test_a_function_is_a_drift_and_a_width_of_none_is_refused():
    rule = drift(lambda log_ratio, advantage, progress: log_ratio**2)
    outputs, targets = step_of(0.5, 2.0)
    plain = DriftPolicy(ZeroDrift()).loss(outputs, targets, LIFE)
    np.testing.assert_allclose(rule.loss(outputs, targets, LIFE) - plain, 0.25, rtol=1e-5)
    assert rule.facts.learned == ()
    assert rules.DriftPolicy(networks()).facts.learned == ("drift.weights",)
    with pytest.raises(ValueError, match="num_hidden=0"):
        drift(jax.random.key(0), num_hidden=0)
