"""What a run is told of beforehand and at the end, and what it amounts to, on numbers known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_run import train_job

from jaxrl.cli import notices, summary
from jaxrl.core import Box, Discrete, TimeStep, struct
from jaxrl.training import SweepResult


@struct.dataclass
class Ladder:
    """Pays 1, 2, 3, ...; ends after `length` steps with a probability, or by the clock."""

    length: jax.Array
    terminates: jax.Array
    truncates: jax.Array

    observation_space, action_space = Box(0.0, 1.0, (1,)), Discrete(2)

    def reset(self, key):
        return jnp.zeros(()), jnp.zeros(1)

    def step(self, key, state, action):
        state = state + 1
        over = state >= self.length
        return state, TimeStep(
            observation=jnp.zeros(1),
            reward=state,
            terminated=jnp.where(over, self.terminates, 0.0),
            truncated=over & (self.truncates > 0),
            cost=jnp.zeros((0,)),
            info={},
        )


def test_random_play_counts_what_follows_a_step_until_the_episode_ends() -> None:
    """By 0.9: 1 + 0.9 x 2 and 2, over and over, by either end; with a step that pays 1, 2, ...
    and goes on with probability 1/2, the last paid 256 and counts alone."""
    ends = np.array([[2, 1, 0], [2, 0, 1], [1, 0.5, 0]], np.float32).T
    play = jax.jit(jax.vmap(notices._random_play, (None, 0, None)))
    reward, returns = map(np.asarray, play(jax.random.key(0), Ladder(*ends), 0.9))
    for lane in range(2):
        np.testing.assert_array_equal(reward[lane], np.tile([[1.0], [2.0]], (128, 16)))
        np.testing.assert_allclose(returns[lane], np.tile([[2.8], [2.0]], (128, 16)), rtol=1e-6)
    np.testing.assert_array_equal(reward[2, :, 0], np.arange(1, 257))
    np.testing.assert_allclose(returns[2, -2:, 0], [255 + 0.45 * 256, 256], rtol=1e-6)


def result(metrics: dict, diverged_at: list, settings: list) -> SweepResult:
    """A sweep of so many settings and three seeds, over 20 records of 10 steps."""
    return SweepResult(
        settings=settings,
        seeds=range(3),
        steps=10 * np.arange(1, 21),
        metrics={name: np.asarray(values, np.float32) for name, values in metrics.items()},
        groups=[],
        diverged_at=np.asarray(diverged_at),
        forecast=None,  # pyright: ignore
        run_seconds=1.0,
        interrupted=False,
    )


@pytest.mark.parametrize(("agent", "env"), [("c51", "WindyCliff"), ("td3", "Pendulum")])
def test_a_head_that_was_too_narrow_in_the_end_is_named(agent: str, env: str) -> None:
    """A tenth, two tenths and an unknown share at the end: 15 %; a hundredth is not worth a word,
    nor is what was clipped before."""
    job = train_job(agent, env, head="categorical:0,100", sweep="discount=0.9,0.99")
    clipped = np.zeros((2, 3, 20))
    clipped[0, :, -1], clipped[1, :, -1] = [0.1, 0.2, np.nan], 0.01
    clipped[1, :, :-1] = 1.0
    swept = result({"clipped_fraction": clipped}, [[-1] * 3] * 2, job.combinations)
    (text,) = notices.final_notices(job, swept)
    assert text.startswith("at the end 15.0% of the targets (discount=0.9) lay beyond the ends of")
    assert "Categorical(low=0.0" in text
    assert (
        notices.final_notices(job, result({"loss": clipped}, [[-1] * 3] * 2, job.combinations))
        == []
    )


def test_a_row_of_the_summary_is_that_of_its_setting() -> None:
    """Of scores 3, 1 and 2 the mean of the middle half is 2. Of the second setting's seeds one
    diverged, one never ended an episode, and one scored 7."""
    returns = np.full((2, 3, 20), np.nan)
    returns[0] = np.array([3.0, 1.0, 2.0])[:, None]
    returns[1, 0], returns[1, 2] = 100.0, 7.0
    settings = [{"discount": 0.9}, {"discount": 0.8}]
    diverged = [[-1, -1, -1], [50, -1, -1]]
    found = summary.settings_summary(
        result({"episode_return": returns}, diverged, settings), ["a", "b"]
    )
    first, second = found
    assert [row["setting"] for row in found] == ["a", "b"]
    assert [row["values"] for row in found] == settings
    assert (first["iqm"], first["median"], first["mean"]) == (2.0, 2.0, 2.0)
    assert (first["worst"], first["worst_seed"], first["num_seeds"]) == (1.0, 1, 3)
    assert first["diverged"] == [] and first["without_episodes"] == []
    assert first["scores"] == {"0": 3.0, "1": 1.0, "2": 2.0}
    assert 1.0 <= first["iqm_low"] <= 2.0 <= first["iqm_high"] <= 3.0
    assert second["diverged"] == [{"seed": 0, "step": 50}] and second["without_episodes"] == [1]
    assert second["scores"] == {"0": None, "1": None, "2": 7.0}
