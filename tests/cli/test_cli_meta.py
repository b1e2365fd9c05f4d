"""`jaxrl meta`: a rule is learned, saved, compared, gone on with."""

from __future__ import annotations

import dataclasses
import json
import os
import signal

import jax
import numpy as np
import pytest

from jaxrl import meta
from jaxrl.cli import main
from jaxrl.meta.experiments import EXPERIMENTS, table_agent
from jaxrl.training import Checkpoints, open_run


def tiny():
    agent = table_agent(num_envs=2, rollout_length=5)
    tasks = meta.RandomBandits(total_steps=40.0, num_arms=3)

    def learn(seed):
        free = meta.tuned(agent, ["learning_rate", "entropy_weight"])
        return meta.MetaGradient(free, tasks, num_lives=2, num_updates=2)

    return dataclasses.replace(
        EXPERIMENTS["timed"](),
        about="two numbers on bandits",
        learned={"numbers": learn},
        num_steps=2,
        held_out={"bandits": meta.HeldOut(tasks, 40.0, num_lives=4)},
        baselines={"a2c": agent},
        tune={"optimiser.learning_rate": [0.05, 0.1, 0.2]},
        num_tuning_lives=2,
        measures=("lifetime_rate",),
    )


LONG = ("groove", "lpg")  # to lay out
NAMES = [pytest.param(n, marks=[pytest.mark.slow] if n in LONG else []) for n in EXPERIMENTS]


def test_a_folder_in_use_or_with_a_link_or_of_another_run_is_refused(tmp_path, capsys):
    def refused(folder, message):
        assert main(["meta", "lpo", "--run-dir", str(folder)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and message in error

    used, linked, other = (tmp_path / name for name in ("used", "linked", "other"))
    for folder in (linked, other):
        folder.mkdir()
    with open_run(used, {"agent": "ppo"}):
        refused(used, "is in use by process")
    (linked / "lpo.rule").symlink_to(tmp_path / "outside")
    refused(linked, "lpo.rule is a link")
    (other / "experiment.json").write_text('{"experiment": "lpo", "seed": 1}\n')
    refused(other, 'holds another run ({"experiment": "lpo", "seed": 1})')
    assert not (used / "experiment.json").exists() and not (tmp_path / "outside").exists()


@pytest.mark.parametrize("name", NAMES)
def test_every_named_experiment_can_be_laid_out(name):
    experiment = EXPERIMENTS[name]()
    for make in experiment.learned.values():
        outer = make(0)
        if isinstance(outer, meta.SelfTuning):  # which has no state of an outer loop
            assert jax.tree.leaves(outer.tuned.init())
            continue
        shapes = jax.eval_shape(outer.init, jax.random.key(0))
        rule_params = (
            shapes.outer.rule_params if isinstance(outer, meta.Curated) else shapes.rule_params
        )
        assert jax.tree.leaves(rule_params)
    assert experiment.about and list(experiment.learned) and experiment.num_steps > 0


@pytest.mark.parametrize(
    "words, message",
    [
        (["timd"], "unknown experiment 'timd'; did you mean timed?"),
        (["lpg", "--num-steps", "0"], "--num-steps 0 is out of range: give a value in [1"),
    ],
)
def test_what_cannot_be_run_is_refused(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["meta", *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_list_names_what_is_learned(capsys):
    assert main(["list", "experiments"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in EXPERIMENTS)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_stops_after_a_chunk_which_is_saved(number, capsys, tmp_path, monkeypatch):
    def learn(seed):
        os.kill(os.getpid(), number)  # as the first chunk is about to be made
        return tiny().learned["numbers"](seed)

    monkeypatch.setitem(
        EXPERIMENTS, "tiny", lambda: dataclasses.replace(tiny(), learned={"numbers": learn})
    )
    folder = tmp_path / "run"
    words = ["meta", "tiny", "--seed", "3", "--run-dir", str(folder)]
    assert main([*words, "--num-steps", "20"]) == 128 + number
    assert f"To continue: jaxrl {' '.join(words)}" in capsys.readouterr().out
    assert Checkpoints(folder / "checkpoints" / "numbers").steps() == [10]
    assert not (folder / "result.md").exists()


@pytest.mark.slow
def test_a_rule_is_learned_saved_and_gone_on_with(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, "tiny", tiny)
    folder = tmp_path / "run"
    words = ["meta", "tiny", "--seed", "3", "--run-dir", str(folder)]
    assert main([*words, "--num-steps", "1"]) == 0
    said = capsys.readouterr().out
    assert "| numbers | as given |" in said and "| a2c | optimiser.learning_rate=" in said
    assert (folder / "result.md").read_text().strip() in said
    early = meta.load(folder / "numbers.rule")
    assert "experiment tiny" in meta.Card.read(folder / "numbers.rule").summary
    # A step and one more are the two steps of a run that was not cut: one program makes all.
    assert main(words) == 0
    outer, key = tiny().learned["numbers"](3), jax.random.fold_in(jax.random.key(1), 3)
    whole = meta.fit(key, outer, num_steps=2, chunk_steps=1)
    late = meta.load(folder / "numbers.rule")
    np.testing.assert_allclose(late.optimiser.learning_rate, whole.agent.optimiser.learning_rate)
    assert float(late.optimiser.learning_rate) != float(early.optimiser.learning_rate)
    assert main(["meta", "tiny", "--seed", "4", "--run-dir", str(folder)]) == 2
    assert json.dumps({"experiment": "tiny", "seed": 3}) in capsys.readouterr().err


@pytest.mark.slow
def test_learners_that_tune_themselves_leave_a_table_and_their_curves(
    capsys, tmp_path, monkeypatch
):
    agent = table_agent(num_envs=2, rollout_length=5)
    learner = meta.SelfTuning(meta.tuned(agent, ["learning_rate"]), num_updates=2)
    tiny = dataclasses.replace(
        EXPERIMENTS["timed"](),
        about="a rate, on bandits",
        learned={"tuned": lambda seed: learner},
        num_steps=6,
        held_out={"bandits": meta.HeldOut(meta.RandomBandits(60.0, num_arms=3), 60.0, 3)},
        baselines={"untuned": agent},
        tune={},
        measures=("lifetime_rate",),
    )
    monkeypatch.setitem(EXPERIMENTS, "tiny", lambda: tiny)
    assert main(["meta", "tiny", "--run-dir", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "| untuned | as given |" in said and "| tuned | as given |" in said
    curves = np.load(tmp_path / "run" / "curves.npz")
    assert curves["tuned/steps"].tolist() == [20, 40, 60]
    assert curves["tuned/optimiser.learning_rate"].shape == (3, 3)
