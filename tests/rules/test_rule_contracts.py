"""What every rule and every optimiser keeps: its floats are traced, and an outer loop sees them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rule_cases as cases

STEP = 1e-6
# The outcome jumps where a threshold is passed and does not move between: an outer gradient of
# zero, which evolution does not share.
THRESHOLDS = {
    "ppo": {"rule.clip_epsilon", "rule.value_clip"},
    "clip_drift": {"rule.drift.epsilon", "rule.value_clip"},
    "zero_drift": {"rule.value_clip"},
    "dpo": {"rule.value_clip"},
    "lpo": {"rule.drift.start.epsilon", "rule.drift.margin", "rule.value_clip"},
    "mdpo": {"rule.value_clip"},
    "tsallis": {"rule.value_clip"},
}


class Trial:
    """One row: its leaves, the outcomes near them, as lanes, and their slopes, in reverse."""

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

        lanes = jax.jit(jax.vmap(life))
        self.neighbours = self._lanes(1.0)
        self.outcomes = lanes(self.neighbours)
        self.differences = (self.outcomes - lanes(self._lanes(-1.0))) / (2 * STEP)
        self.life, self.alone = life, jax.jit(jax.value_and_grad(life))
        _, grads = self.alone(self.agent)
        pairs = zip(jax.tree.leaves(grads), self.directions, strict=True)
        self.slopes = np.array([jnp.sum(grad * direction) for grad, direction in pairs])

    def _lanes(self, sign):
        """Agents `[number of leaves]`, each with one leaf moved along its direction."""
        stacked = []
        for row, (leaf, direction) in enumerate(zip(self.leaves, self.directions, strict=True)):
            moves = np.zeros((len(self.leaves), *leaf.shape))
            moves[row] = sign * direction
            stacked.append(leaf + STEP * moves)
        return jax.tree.unflatten(self.treedef, stacked)


def check_slopes(name, trial):
    """Central differences of the outcome, and no leaf is without influence."""
    assert np.all(np.isfinite(trial.slopes))
    tolerance = 1e-8 * np.abs(trial.slopes).max()
    np.testing.assert_allclose(trial.slopes, trial.differences, rtol=1e-4, atol=tolerance)
    flat = {leaf for leaf, slope in zip(trial.names, trial.slopes, strict=True) if slope == 0}
    assert flat == THRESHOLDS.get(name, set())


@pytest.mark.slow
def test_outer_derivatives_forward_are_those_in_reverse():
    with jax.enable_x64(True):
        trial = Trial("a2c, descent")
        ways = jax.tree.unflatten(trial.treedef, trial.directions)
        _, forward = jax.jvp(jax.jit(trial.life), (trial.agent,), (ways,))
        np.testing.assert_allclose(forward, trial.slopes.sum(), rtol=1e-7)


# Compiled as tests are (unoptimised, without XLA's emitters) and only so, LPO's reverse gradient is
# off by up to a half; the forward one is right. Not followed into XLA.
ROWS = [
    pytest.param(name, marks=[pytest.mark.slow] + [pytest.mark.optimised] * (name == "lpo"))
    for name in cases.ROWS
]


@pytest.mark.parametrize("name", ROWS)
def test_outer_gradients_are_right_and_a_lane_is_a_life(name):
    """A change of floats does not trace again."""
    with jax.enable_x64(True):
        trial = Trial(name)
        check_slopes(name, trial)
        for row in (0, len(trial.leaves) - 1):
            moved = jax.tree.map(lambda leaf, row=row: leaf[row], trial.neighbours)
            value, _ = trial.alone(moved)
            np.testing.assert_allclose(value, trial.outcomes[row], rtol=1e-10)
        assert trial.traces == 2
