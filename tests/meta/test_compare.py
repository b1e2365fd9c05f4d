"""Comparisons: own best settings, new lives, pairs, and one program for all values."""

from __future__ import annotations

import warnings

import jax
import numpy as np
import pytest

from jaxrl import a2c
from jaxrl.core import struct
from jaxrl.meta import Comparison, HeldOut, RandomBandits, Task, compare
from jaxrl.networks import NetworkSettings

KEY = jax.random.key(0)
AGENT = a2c().replace(
    network=NetworkSettings(hidden_sizes=(), initialiser="lecun"), num_envs=4, rollout_length=4
)
STEPS = 16 * 20
TRACES = []


@struct.dataclass
class Counted:
    """Bandits that count how often they are traced."""

    bandits: RandomBandits = struct.field(
        default_factory=lambda: RandomBandits(float(STEPS), num_arms=3)
    )

    def sample(self, key) -> Task:
        TRACES.append(1)
        return self.bandits.sample(key)


HELD_OUT = HeldOut(Counted(), float(STEPS), num_lives=16)


def ran(tune, names=("a2c",), **kwargs):
    settings = {"num_tuning_lives": 4, "measure": "lifetime_rate", **kwargs}
    return compare(KEY, dict.fromkeys(names, AGENT), HELD_OUT, tune=tune, **settings)


@pytest.fixture(scope="module")
def found():
    """A learner and one that stands still, in one program."""
    TRACES.clear()
    tune = {
        "still": {"learning_rate": [1e-6]},
        "learner": {"learning_rate": [1e-5, 1.0, 1e38]},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a best value inside its list is no reason to warn
        return ran(tune, ("still", "learner"), num_tuning_lives=32)


def test_each_agent_gets_its_own_best_setting(found):
    learner = found.contenders["learner"]
    assert learner.settings == {"learning_rate": 1.0} and learner.at_end == ()
    np.testing.assert_allclose(learner.agent.optimiser.learning_rate, 1.0, rtol=1e-6)
    assert learner.tuning_scores.shape == (3, 32)
    assert int(np.argmax(learner.tuning_scores.mean(1))) == 1
    assert found.contenders["still"].settings == {"learning_rate": 1e-6}
    gain = found.difference("learner", "still")
    assert 0.0 < gain.low < gain.value < gain.high
    assert found.wins("learner", "still") > 0.7


@pytest.mark.slow
def test_scores_come_from_new_lives_that_all_share(found):
    learner = found.contenders["learner"]
    lives = jax.jit(lambda agent: HELD_OUT.lives(jax.random.fold_in(KEY, 1), agent))
    np.testing.assert_allclose(
        learner.scores, lives(learner.agent).lifetime_rate, rtol=1e-4, atol=1e-6
    )
    assert np.mean(learner.tuning_scores[1, :16] == learner.scores) < 0.2


def test_no_value_and_no_number_of_values_is_part_of_a_program(found):
    before = len(TRACES)
    again = ran({"learning_rate": [1.0]})
    assert ran({"learning_rate": [1e-6, 1.0, 2.0, 1e38]}, num_tuning_lives=5)
    assert len(TRACES) == before
    # The same lives under the same setting: a pair differs by nothing.
    ours, theirs = again.contenders["a2c"].scores, found.contenders["learner"].scores
    np.testing.assert_array_equal(ours, theirs)
    assert "settings chosen on 32 other lives" in found.table()
    assert "settings chosen" not in again.table()


def test_a_best_value_at_the_end_of_its_list_is_told():
    with pytest.warns(UserWarning, match=r"best learning_rate of a2c is 1, the end of.*beyond"):
        result = ran({"learning_rate": [1e-6, 1.0, 1e-7]}, num_tuning_lives=32)
    assert result.contenders["a2c"].at_end == ("learning_rate",)
    assert "learning_rate=1 (end of its list)" in result.table()


def by_hand(**scores):
    found = Comparison({}, "final_return", 0.95)
    for name, rows in scores.items():
        found = found.beside(name, AGENT, rows)
    return found


def test_differences_are_taken_life_by_life():
    # Lives differ by thousands, the agents by one in each: only pairs see it.
    lives = np.random.default_rng(0).normal(0.0, 1000.0, 40)
    result = by_hand(old=lives, new=lives + 1.0)
    gain = result.difference("new", "old")
    np.testing.assert_allclose([gain.low, gain.value, gain.high], 1.0, rtol=1e-9)
    alone = result.score("new")
    assert alone.high - alone.low > 100.0
    assert result.wins("new", "old") == 1.0 and result.wins("old", "old") == 0.5


def test_the_interval_of_a_mean_is_that_of_the_normal_law_for_many_lives():
    rows = np.random.default_rng(1).normal(3.0, 2.0, 400)
    score = by_hand(one=rows).score("one")
    half = 1.96 * rows.std() / 20.0
    np.testing.assert_allclose(
        [score.low, score.high], rows.mean() + half * np.array([-1, 1]), atol=0.03
    )


def test_a_life_without_a_score_is_never_dropped():
    result = by_hand(whole=[1.0, 2.0, 3.0], holed=[1.0, np.nan, 3.0])
    assert np.isnan(result.score("holed").value) and np.isneginf(result.score("holed").low)
    # Life 0 ties, life 1 is lost, life 2 ties.
    np.testing.assert_allclose(result.wins("holed", "whole"), 1.0 / 3.0)
    table = result.table().splitlines()
    assert table[-1].endswith("lives without a score: holed 1.")
    assert table[2].startswith("| whole | as given | 2 [")
    assert "more than holed" in result.table(baseline="holed")


def test_one_life_has_no_interval():
    score = by_hand(one=[2.0]).score("one")
    assert (score.low, score.value, score.high) == (-np.inf, 2.0, np.inf)


@pytest.mark.parametrize(
    "tune, kwargs, error, message",
    [
        ({"learning": [0.1]}, {}, KeyError, "did you mean optimiser.learning_rate"),
        ({"a3c": {"learning_rate": [0.1]}}, {}, KeyError, "did you mean a2c"),
        ({"discount": [0.9, 1.5]}, {}, ValueError, "out of range"),
        ({"num_envs": [2.0]}, {}, ValueError, "cannot be swept"),
        ({}, {"names": ()}, ValueError, "0 agents"),
        ({}, {"measure": "reward"}, ValueError, "final_rate"),
        ({}, {"num_tuning_lives": 0}, ValueError, "num_tuning_lives=0"),
        ({}, {"level": 1.0}, ValueError, "level=1.0"),
    ],
)
def test_what_cannot_be_compared_is_refused(tune, kwargs, error, message):
    with pytest.raises(error, match=message):
        ran(tune, **kwargs)


def test_an_unknown_baseline_is_refused():
    with pytest.raises(KeyError, match="did you mean old"):
        by_hand(old=[1.0, 2.0]).table(baseline="olt")


def test_settings_without_any_score_are_refused():
    endless = HeldOut(Counted(RandomBandits(float(STEPS), num_pulls=1e6, num_arms=3)), STEPS, 16)
    with pytest.raises(ValueError, match=r"a2c has lives without.*no episode ended.*final_rate"):
        compare(KEY, {"a2c": AGENT}, endless, tune={"learning_rate": [0.1, 1.0]})
