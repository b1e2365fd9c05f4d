"""Input that cannot be used: one line on standard error, exit code 2, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from small_run import SMALL, Run, train_job

from jaxrl.cli import arguments, job
from jaxrl.training import open_run

# What is asked -> what the line must say.
CASES = {
    "unknown option": (["train", "--agnt", "ppo"], "--agent"),
    "unknown command": (["trian"], "train, plan, evaluate, plot, meta, list"),
    "help of an unknown command": (["trian", "--help"], "train, plan, evaluate, plot, meta, list"),
    "missing value": (["train", "--agent"], "--agent"),
    "stray word": (["train", "ppo"], "ppo"),
    "not a number": (["train", "--num-seeds", "many"], "'many'"),
    "half a seed": (["train", "--num-seeds", "1.5"], "'1.5'"),
    "no seeds": (["train", "--num-seeds", "0"], "--num-seeds 0"),
    "no steps": (["train", "--num-steps", "0"], "--num-steps 0"),
    "no records": (["train", "--num-records", "0"], "--num-records 0"),
    "no lanes": (["train", "--lanes", "0"], "--lanes 0"),
    "negative seed": (["train", "--seed=-1"], "--seed -1"),
    "a seed of 65 bits": (["train", "--seed", str(2**64)], f"{2**64 - 1:,}"),
    "too many steps": (["train", "--num-steps", "100_000_000_000_000"], "[1, 10,000,000,000,000]"),
    "evaluate a seed of 65 bits": (["evaluate", "nowhere", "--seed", str(2**64)], "out of range"),
    "a meta-seed of 33 bits": (["meta", "lpg", "--seed", str(2**32)], f"{2**32 - 1:,}"),
    "negative episodes": (["train", "--eval-episodes=-1"], "--eval-episodes -1"),
    "unknown agent": (["train", "--agent", "poo"], "did you mean ppo"),
    "help of an unknown agent": (["train", "--agent", "poo", "--help"], "did you mean ppo"),
    "unknown environment": (["train", "--env", "CartPol-v1"], "CartPole-v1"),
    "unknown setting": (["train", "--set", "learning_rat=1"], "optimiser.learning_rate"),
    "ambiguous setting": (["train", "--agent", "td3", "--set", "hidden=1"], "hidden"),
    "no value": (["train", "--set", "learning_rate"], "NAME=VALUE"),
    "wrong type": (["train", "--set", "learning_rate=fast"], "'fast' is not a number"),
    "half an environment": (["train", "--set", "num_envs=2.5"], "a whole number"),
    "not a boolean": (["train", "--set", "shared_torso=maybe"], "true or false"),
    "not a list": (["train", "--set", "hidden_sizes=a,b"], "a list"),
    "not a choice": (["train", "--set", "activation=sine"], "tanh"),
    "out of range": (["train", "--set", "discount=1.1"], "[0, 1]"),
    "NaN": (["train", "--set", "discount=nan"], "out of range"),
    "too large": (["train", "--set", "num_envs=1e12"], "out of range"),
    "set twice": (["train", "--set", "discount=0.9", "--set", "discount=0.8"], "twice"),
    "schedule where none fits": (["train", "--set", "discount=linear:1:0"], "not a number"),
    "half a schedule": (["train", "--set", "learning_rate=linear:1"], "linear:INITIAL:FINAL"),
    "schedule out of range": (["train", "--set", "learning_rate=linear:-1:0"], "out of range"),
    "sweep of an integer": (["train", "--sweep", "num_envs=4,8"], "cannot be swept"),
    "sweep of words": (["train", "--sweep", "learning_rate=a,b"], "'a' is not a number"),
    "sweep of nothing": (["train", "--sweep", "learning_rate="], "no values"),
    "sweep out of range": (["train", "--sweep", "discount=0.9,1.5"], "[0, 1]"),
    "swept and set": (["train", "--sweep", "discount=0.9", "--set", "discount=0.8"], "twice"),
    "same value twice": (["train", "--sweep", "discount=0.9,0.90"], "twice"),
    "unknown parameter": (["train", "--env-set", "gravty=1"], "did you mean gravity"),
    "bad parameter": (["train", "--env-set", "gravity=low"], "gravity"),
    "agent and environment": (["train", "--agent", "dqn", "--env", "Pendulum-v1"], "continuous"),
    "batch and replay": (["train", "--agent", "dqn", "--set", "capacity=64"], "capacity"),
    "minibatches": (["train", "--set", "num_minibatches=3"], "num_minibatches"),
    "memory": (["train", *SMALL[:-6], "--num-seeds", "1_000_000_000"], "At most --num-seeds"),
    "no such run": (["train", "--resume", "nowhere"], "nowhere"),
    "resume with more": (["train", "--resume", "nowhere", "--agent", "ppo"], "leave out --agent"),
    "evaluate nothing": (["evaluate", "nowhere"], "nowhere"),
    "no episodes": (["evaluate", "nowhere", "--num-episodes", "0"], "--num-episodes"),
    "plot nothing": (["plot"], "at least one"),
    "plot no run": (["plot", "nowhere"], "nowhere"),
    "list of what": (["list", "robots"], "agents"),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line_and_code_2(name: str, jaxrl: Run, tmp_path: Path) -> None:
    argv, expected = CASES[name]
    code, _, error = jaxrl(*argv)
    assert code == 2
    assert error.startswith("jaxrl: error: ") and error.count("\n") == 1 and error.endswith("\n")
    assert expected in error
    assert not (tmp_path / "runs").exists()


def test_a_folder_with_another_configuration_is_refused_with_a_diff(
    jaxrl: Run, tmp_path: Path
) -> None:
    with open_run(tmp_path / "run", {"agent": "dqn", "env": "CartPole-v1"}):
        pass
    before = (tmp_path / "run" / "config.yaml").read_text()
    for more in ([], ["--dry-run"]):
        code, _, error = jaxrl("train", *SMALL, *more, "--run-dir", tmp_path / "run")
        assert code == 2
        assert error.startswith("jaxrl: error: ") and "another configuration" in error
        assert "agent: 'dqn' (folder) != 'pqn' (asked)" in error
    assert (tmp_path / "run" / "config.yaml").read_text() == before


def test_a_folder_in_use_is_refused(jaxrl: Run, tmp_path: Path) -> None:
    with open_run(tmp_path / "run", {"agent": "ppo"}):
        code, _, error = jaxrl("train", *SMALL, "--run-dir", tmp_path / "run")
    assert code == 2 and "in use" in error and error.count("\n") == 1


def test_a_folder_that_cannot_be_made_is_refused(jaxrl: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        code, _, error = jaxrl("train", *SMALL, "--run-dir", path)
        assert code == 2 and str(tmp_path / "file") in error and error.count("\n") == 1


def test_a_configuration_that_was_broken_by_hand_is_refused(jaxrl: Run, tmp_path: Path) -> None:
    for text in ("agent: [", "agent: ppo", "- 1"):
        (tmp_path / "config.yaml").write_text(text)
        for command in (["train", "--resume", tmp_path], ["evaluate", tmp_path]):
            code, _, error = jaxrl(*command)
            assert code == 2 and "config.yaml" in error and error.count("\n") == 1


def test_a_folder_that_no_run_made_is_not_overwritten(jaxrl: Run, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    files = {"config.yaml": "lr: 1", "checkpoints/precious.pt": "mine", "report.html": "mine"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    for command in (["train", *SMALL], ["plan"]):
        code, _, error = jaxrl(*command, "--run-dir", tmp_path, "--overwrite")
        assert code == 2 and "not a run's folder" in error and error.count("\n") == 1
    code, _, error = jaxrl("meta", "lpo", "--run-dir", tmp_path)
    assert code == 2 and "checkpoints, config.yaml" in error and error.count("\n") == 1
    assert {name: (tmp_path / name).read_text() for name in files} == files


@pytest.mark.parametrize("name", ["plots", "plots/episode_return.png", "metrics.parquet"])
def test_a_plot_follows_no_link(name: str, jaxrl: Run, tmp_path: Path) -> None:
    folder, target = tmp_path / "run", tmp_path / "target"
    with open_run(folder, {"agent": "ppo"}) as run:
        metrics = {"episode_return": [1.0]}
        run.append_metrics([{"step": 1, "seeds": [0], "metrics": metrics}])
        run.finish({})
    if name == "metrics.parquet":
        (folder / name).rename(target)
    elif name == "plots":
        target.mkdir()
    else:
        (folder / name).parent.mkdir()
        target.write_text("of another")
    (folder / name).symlink_to(target)
    before = target.read_bytes() if target.is_file() else []
    code, _, error = jaxrl("plot", folder)
    assert code == 2 and f"{name} is a link" in error and error.count("\n") == 1
    assert (target.read_bytes() if target.is_file() else list(target.iterdir())) == before
    code, _, error = jaxrl("plot", folder, "--metric", "wins")
    assert code == 2 and error.count("\n") == 1


WRONG = [None, "x", [1], ["x"], {"a": 1}, 1.5, True, -1, [[1]], {"discount": {}}, {"b": None}]


def test_no_edit_of_a_configuration_is_a_traceback() -> None:
    """Every entry of a run's configuration with values of every kind: taken, or one line."""
    good = train_job(
        "dqn", "Catch-bsuite", sweep="learning_rate=1e-3,1e-4", set="target.period=50"
    ).config
    num_refused = 0
    for name in good:
        for value in WRONG:
            try:
                job.job_from_config(yaml.safe_load(yaml.safe_dump({**good, name: value})))
            except arguments.BadInput as error:
                num_refused += 1
                assert "\n" not in str(error) and len(str(error)) < 500
    assert num_refused > 100
    assert job.job_from_config(good).config == good
