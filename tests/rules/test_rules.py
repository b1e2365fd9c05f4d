"""Rules of the actor-critic: their gradients by hand, their limits, and the ends of episodes."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxrl.core import Progress, Transition
from jaxrl.rules import AdvantageActorCritic, PolicyOutputs, PolicyTargets, ProximalPolicy

INF = float("inf")
START = Progress(np.int32(0), np.float32(INF))
RULES = {"a2c": AdvantageActorCritic(), "ppo": ProximalPolicy()}


def outputs_of(log_prob, value=0.0, entropy=0.0):
    return PolicyOutputs(np.float32(log_prob), np.float32(entropy), np.float32(value))


def targets_of(advantage=0.0, returns=0.0, log_prob=0.0, value=0.0):
    return PolicyTargets(*map(np.float32, (advantage, returns, log_prob, value)))


@jax.jit
def slopes(rule, outputs, targets):
    return jax.grad(lambda outputs: rule.loss(outputs, targets, START))(outputs)


@pytest.mark.parametrize("advantage", [-1.5, 0.0, 2.0])
def test_a2c_slopes_by_hand(advantage):
    rule = AdvantageActorCritic(value_weight=0.5, entropy_weight=0.1)
    slope = slopes(rule, outputs_of(-0.7, value=3.0), targets_of(advantage, returns=1.0))
    # -log_prob A + 0.5 (v - R)^2 / 2 - 0.1 H at v - R = 2
    np.testing.assert_allclose(
        [slope.log_prob, slope.value, slope.entropy], [-advantage, 1.0, -0.1], rtol=1e-6
    )


@pytest.mark.parametrize("advantage", [-1.5, 0.0, 2.0])
@pytest.mark.parametrize("value", [-2.0, 0.3, 5.0])
@pytest.mark.parametrize("clip", [0.2, INF])
def test_the_first_step_of_ppo_is_a2c_s(advantage, value, clip):
    """Before any update the ratio is 1 and the value unmoved: no clip binds, finite or not."""
    ppo = ProximalPolicy(clip_epsilon=clip, value_clip=clip)
    outputs = outputs_of(-0.7, value=value, entropy=0.4)
    targets = targets_of(advantage, returns=1.0, log_prob=-0.7, value=value)
    first, second = (slopes(rule, outputs, targets) for rule in (ppo, RULES["a2c"]))
    for name in ("log_prob", "entropy", "value"):
        np.testing.assert_allclose(getattr(first, name), getattr(second, name), atol=1e-6)


@pytest.mark.parametrize(
    "ratio, advantage, moves",
    [
        (1.5, 1.0, False),  # better and already likelier: enough
        (1.5, -1.0, True),  # worse and likelier: take it back
        (0.5, 1.0, True),  # better and rarer: take it back
        (0.5, -1.0, False),  # worse and already rarer: enough
        (1.1, 1.0, True),
        (0.9, -1.0, True),
    ],
)
def test_the_clip_kills_the_gradient_on_the_right_sides(ratio, advantage, moves):
    slope = slopes(
        ProximalPolicy(clip_epsilon=0.2), outputs_of(np.log(ratio)), targets_of(advantage)
    )
    # d(-ratio A) / d log_prob = -ratio A inside the clip, 0 outside.
    np.testing.assert_allclose(slope.log_prob, -ratio * advantage * moves, rtol=1e-5)


@pytest.mark.parametrize(
    "value, returns, moves",
    [
        (1.0, 5.0, False),  # moved by more than the clip towards the target: enough
        (1.0, -5.0, True),  # moved away from it: come back
        (0.1, 5.0, True),
        (-1.0, -5.0, False),
        (-1.0, 5.0, True),
    ],
)
def test_the_value_clip_holds_back_what_has_moved_enough(value, returns, moves):
    rule = ProximalPolicy(value_clip=0.2, value_weight=1.0)
    slope = slopes(rule, outputs_of(0.0, value=value), targets_of(returns=returns, value=0.0))
    np.testing.assert_allclose(slope.value, (value - returns) * moves, rtol=1e-6)


def trajectory_of(reward, discount, truncated):
    size = len(reward)
    nothing = np.zeros(size, np.float32)
    return Transition(
        observation=nothing,
        action=nothing,
        reward=np.float32(reward),
        discount=np.float32(discount),
        next_observation=nothing,
        terminated=np.array(discount) == 0,
        truncated=np.array(truncated),
        extras={},
    )


@jax.jit
def targets_under(rule, outputs, trajectory):
    return rule.targets((), outputs, trajectory, START)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(
    "discount, truncated, first_return",
    [
        # Step 0 pays 1 and its successor is worth 10. Step 1 pays 100 and is the last; its
        # successor is worth 20: with gamma = lambda = 1/2 its return is 100 + 10 = 110.
        # Going on: 1 + 0.5 (0.5 x 10 + 0.5 x 110) = 31.
        (0.5, False, 31.0),
        # Terminated: the reward alone.
        (0.0, False, 1.0),
        # Truncated: bootstraps from the successor and looks no further.
        (0.5, True, 6.0),
    ],
)
def test_termination_cuts_and_truncation_bootstraps(name, discount, truncated, first_return):
    rule = RULES[name].replace(lambda_=0.5)
    outputs = PolicyOutputs(
        log_prob=np.float32([-0.1, -0.2]),
        entropy=np.zeros(2, np.float32),
        value=np.float32([4.0, 0.0]),
        next_value=np.float32([10.0, 20.0]),
    )
    trajectory = trajectory_of([1.0, 100.0], [discount, 0.5], [truncated, False])
    targets, state = targets_under(rule, outputs, trajectory)
    assert state == ()
    np.testing.assert_allclose(targets.returns, [first_return, 110.0])
    np.testing.assert_allclose(targets.advantage, [first_return - 4.0, 110.0])
    np.testing.assert_array_equal(targets.log_prob, outputs.log_prob)


@pytest.mark.parametrize("name", RULES)
def test_rules_remember_nothing_and_leave_their_settings_traced(name):
    rule = RULES[name]
    assert rule.init({}) == () and rule.outputs == {}
    traces = []

    def loss_of(rule):
        traces.append(1)
        return rule.loss(outputs_of(0.0), targets_of(1.0), START)

    loss = jax.jit(loss_of)
    jax.tree.leaves(loss(rule)), loss(jax.tree.map(lambda leaf: leaf * 0.5, rule))
    assert len(traces) == 1
