"""An entropy bonus that answers to the rewards of late."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.core import Progress, Transition
from jaxrl.rules import AdvantageActorCritic, PolicyOutputs, lpg, reactive_entropy

START = Progress(np.int32(0), np.float32(np.inf))
KEY = jax.random.key(0)


@functools.cache
def made():
    return reactive_entropy(KEY, AdvantageActorCritic(), num_recent=3, highest=0.5, lowest=0.1)


def rollout_of(reward):
    nothing = np.zeros(4, np.float32)
    return Transition(
        observation=nothing,
        action=nothing,
        reward=np.full(4, reward, np.float32),
        discount=np.full(4, 0.9, np.float32),
        next_observation=nothing,
        terminated=np.zeros(4, bool),
        truncated=np.zeros(4, bool),
        extras={},
    )


OUTPUTS = PolicyOutputs(*(np.full(4, number, np.float32) for number in (-0.7, 0.6, 1.0, 1.0)))


@jax.jit
def targets_of(rule, memory, trajectory):
    return rule.targets(memory, OUTPUTS, trajectory, START)


@jax.jit
def loss_of(rule, targets):
    return rule.loss(OUTPUTS, targets, START)


def test_it_remembers_the_latest_rewards_first():
    memory = made().init({})
    for reward in (1.0, 2.0, 3.0, 4.0):
        _, memory = targets_of(made(), memory, rollout_of(reward))
    assert memory.tolist() == [4.0, 3.0, 2.0]


def test_the_loss_is_the_inner_rule_s_under_the_weight_of_the_network():
    rule = made()
    targets, memory = targets_of(rule, rule.init({}), rollout_of(2.0))
    weight = rule.weight(memory)
    # By hand: sigmoid of the network of (2, 0, 0).
    w = jax.device_get(rule.weights)
    units = np.maximum(2.0 * w["hidden"][0] + w["bias"], 0.0)
    np.testing.assert_allclose(
        weight, 0.1 + 0.4 / (1.0 + np.exp(-(units @ w["output"] + w["shift"]))), rtol=1e-5
    )
    inner = rule.rule.replace(entropy_weight=weight)
    np.testing.assert_allclose(loss_of(rule, targets), loss_of(inner, targets), rtol=1e-6)


def test_its_weights_have_a_slope_through_the_loss():
    """By hand: -0.6 nats, times 0.4 s (1 - s) of the sigmoid, times the network's own slopes."""
    trajectory = rollout_of(2.0)

    @jax.jit
    def slopes_of(weights):
        def loss(weights):
            rule = made().replace(weights=weights)
            targets, _ = rule.targets(rule.init({}), OUTPUTS, trajectory, START)
            return jnp.mean(rule.loss(OUTPUTS, targets, START))

        return jax.grad(loss)(weights)

    slopes = jax.device_get(slopes_of(made().weights))
    w = {name: np.asarray(leaf, np.float64) for name, leaf in made().weights.items()}
    before = 2.0 * w["hidden"][0] + w["bias"]
    units = np.maximum(before, 0.0)
    share = 1.0 / (1.0 + np.exp(-(units @ w["output"] + w["shift"])))
    top = -0.6 * 0.4 * share * (1.0 - share)
    back = top * w["output"] * (before > 0)
    expected = {"shift": top, "output": top * units, "bias": back}
    expected["hidden"] = np.outer([2.0, 0.0, 0.0], back)
    assert set(slopes) == set(expected)
    for name, slope in slopes.items():
        np.testing.assert_allclose(slope, expected[name], rtol=1e-4, atol=1e-7, err_msg=name)


@pytest.mark.parametrize(
    "rule, sizes, message",
    [
        (AdvantageActorCritic, {"num_hidden": 0}, "at least 1"),
        (AdvantageActorCritic, {"lowest": 0.5}, "lowest=0.5 and highest=0.5 must rise"),
        (lambda: lpg(KEY, 2, 2, 2), {}, "no entropy_weight"),
    ],
)
def test_what_does_not_fit_is_refused(rule, sizes, message):
    with pytest.raises(ValueError, match=message):
        reactive_entropy(KEY, rule(), **sizes)
