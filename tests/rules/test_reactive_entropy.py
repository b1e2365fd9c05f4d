"""An entropy bonus that answers to the rewards of late."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.core.types import Progress, Transition
from jaxrl.rules import AdvantageActorCritic, PolicyOutputs, lpg, reactive_entropy

START = Progress.start()
RULE = reactive_entropy(
    jax.random.key(0), AdvantageActorCritic(), num_recent=3, highest=0.5, lowest=0.1
)


def rollout_of(reward):
    nothing = jnp.zeros(4)
    return Transition(
        observation=nothing,
        action=nothing,
        reward=jnp.full(4, reward),
        discount=jnp.full(4, 0.9),
        next_observation=nothing,
        terminated=jnp.zeros(4, bool),
        truncated=jnp.zeros(4, bool),
        extras={},
    )


OUTPUTS = PolicyOutputs(jnp.full(4, -0.7), jnp.full(4, 0.6), jnp.ones(4), jnp.ones(4))


def test_it_remembers_the_latest_rewards_first():
    memory = RULE.init({})
    for reward in (1.0, 2.0, 3.0, 4.0):
        _, memory = RULE.targets(memory, OUTPUTS, rollout_of(reward), START)
    assert memory.tolist() == [4.0, 3.0, 2.0]


def test_the_loss_is_the_inner_rule_s_under_the_weight_of_the_network():
    targets, memory = RULE.targets(RULE.init({}), OUTPUTS, rollout_of(2.0), START)
    weight = RULE.weight(memory)
    # By hand: sigmoid of the network of (2, 0, 0).
    w = RULE.weights
    units = np.maximum(2.0 * np.asarray(w["hidden"])[0] + w["bias"], 0.0)
    np.testing.assert_allclose(
        weight, 0.1 + 0.4 / (1.0 + np.exp(-(units @ w["output"] + w["shift"]))), rtol=1e-5
    )
    inner = RULE.rule.replace(entropy_weight=weight)
    np.testing.assert_allclose(
        RULE.loss(OUTPUTS, targets, START), inner.loss(OUTPUTS, targets, START), rtol=1e-6
    )


def test_its_weights_have_a_slope_through_the_loss():
    """By hand: -0.6 nats, times 0.4 s (1 - s) of the sigmoid, times the network's own slopes."""
    trajectory = rollout_of(2.0)

    @jax.jit
    def slopes_of(weights):
        def loss(weights):
            rule = RULE.replace(weights=weights)
            targets, _ = rule.targets(rule.init({}), OUTPUTS, trajectory, START)
            return jnp.mean(rule.loss(OUTPUTS, targets, START))

        return jax.grad(loss)(weights)

    slopes = jax.device_get(slopes_of(RULE.weights))
    w = {name: np.asarray(leaf, np.float64) for name, leaf in RULE.weights.items()}
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
        (AdvantageActorCritic(), {"num_hidden": 0}, "at least 1"),
        (AdvantageActorCritic(), {"lowest": 0.5}, "lowest=0.5 and highest=0.5 must rise"),
        (lpg(jax.random.key(0), 2, 2, 2), {}, "no entropy_weight"),
    ],
)
def test_what_does_not_fit_is_refused(rule, sizes, message):
    with pytest.raises(ValueError, match=message):
        reactive_entropy(jax.random.key(0), rule, **sizes)
