"""`jaxrl train` from beginning to end, on runs of seconds."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from small_run import SMALL, Run, no_pictures, strong, train_job

from jaxrl.cli import evaluate as played_by_command, job as jobs, main
from jaxrl.report import final_scores
from jaxrl.training import (
    Checkpoints,
    RunFolder,
    evaluate,
    load_metrics,
    open_run,
    sweep,
)

SWEEP = ["--sweep", "learning_rate=1e-3,1e30"]


def values_of(folder: Path, setting: str = "") -> dict[tuple, bytes]:
    """Every metric of a setting by (metric, seed, step), as bits: NaN equals NaN."""
    table = load_metrics(folder).to_pylist()
    rows = [row for row in table if row["setting"] == setting]
    return {
        (row["metric"], row["seed"], row["step"]): np.float64(row["value"]).tobytes()
        for row in rows
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that never stopped; learning_rate=1e30 diverges."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert main(["train", *SMALL, *SWEEP, "--run-dir", str(folder)]) == 0
    return folder


def test_a_run_leaves_everything_that_is_promised(whole: Path) -> None:
    present = {path.name for path in whole.iterdir()}
    assert {"config.yaml", "command.txt", "versions.json", "status.json"} <= present
    assert {"metrics.parquet", "summary.json", "checkpoints", "plots"} <= present
    assert "metrics.jsonl" not in present
    assert (whole / "plots" / "curve.png").read_bytes().startswith(b"\x89PNG")
    config = yaml.safe_load((whole / "config.yaml").read_text())
    assert config["agent"] == "pqn" and config["env"] == "CartPole-v1"
    assert config["settings"]["network.hidden_sizes"] == []
    assert config["sweep"] == {"optimiser.learning_rate": [1e-3, 1e30]}
    assert config["resolved"]["num_envs"] == 4
    table = load_metrics(whole).to_pandas()
    returns = table[table["metric"] == "episode_return"]
    assert len(returns) == 2 * 2 * 40  # settings x seeds x records
    assert returns["step"].max() == 1280
    summary = json.loads((whole / "summary.json").read_text())
    assert {"device", "compile_seconds", "run_seconds", "steps_per_second"} <= set(summary)


@pytest.mark.usefixtures("undrawn")
def test_diverged_seeds_are_named_and_the_others_finish_untouched(
    whole: Path, jaxrl: Run, tmp_path: Path
) -> None:
    assert RunFolder(whole).status()["state"] == "diverged"
    code, out, _ = jaxrl("train", *SMALL, *SWEEP, "--run-dir", whole)
    assert code == 0
    for seed in (0, 1):
        # The first loss is of the fresh network; the second, 32 steps on, of what 1e30 made of it.
        assert f"seed {seed} (learning_rate=1e+30) diverged at step 64" in out
    assert "(learning_rate=0.001) diverged" not in out
    alone = ["--sweep", "learning_rate=1e-3", "--run-dir", tmp_path / "alone"]
    assert jaxrl("train", *SMALL, *alone)[0] == 0
    setting = "learning_rate=0.001"
    assert values_of(whole, setting) == values_of(tmp_path / "alone", setting)
    assert RunFolder(tmp_path / "alone").status()["state"] == "done"


@pytest.mark.usefixtures("undrawn")
def test_when_every_run_diverges_the_exit_code_says_so(jaxrl: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code, out, _ = jaxrl("train", *SMALL, "--sweep", "learning_rate=1e30", "--run-dir", folder)
    assert code == 1
    assert RunFolder(folder).status()["state"] == "diverged"
    assert "seed 0 (learning_rate=1e+30) diverged" in out
    # And once while it runs, not at every record after.
    told = "seed 0 (learning_rate=1e+30): a metric is not finite at step 64"
    assert out.count(told) == 1 and out.index(told) < out.index("100%")


def test_a_finished_run_is_shown_again_and_not_trained(whole: Path, jaxrl: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.glob("checkpoints/*")}
    for command in (["--resume", whole], [*SMALL, *SWEEP, "--run-dir", whole]):
        code, out, _ = jaxrl("train", *command)
        assert code == 0 and "finished already" in out and "interquartile mean" in out
    assert {path: path.stat().st_mtime_ns for path in whole.glob("checkpoints/*")} == before


SMALL_FILES = ("metrics.parquet", "summary.json", "status.json")


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_small_files_are_rebuilt_from_the_checkpoint(
    unswept: Path, jaxrl: Run, tmp_path: Path
) -> None:
    """Lost, cut or changed: a finished run never asks to be trained again for them."""
    folder = shutil.copytree(unswept, tmp_path / "run")
    table, known = (folder / "metrics.parquet").read_bytes(), values_of(folder)
    damages = [lambda old: None, lambda old: old[:-3], lambda old: old[:40] + b"!" + old[41:]]
    for name in SMALL_FILES:
        for damage in damages:
            changed = damage((folder / name).read_bytes())
            (folder / name).unlink()
            if changed is not None:
                (folder / name).write_bytes(changed)
            code, out, _ = jaxrl("train", "--resume", folder)
            assert code == 0 and "finished already" not in out, name
            assert (folder / "metrics.parquet").read_bytes() == table
            assert RunFolder(folder).is_finished() and values_of(folder) == known
    assert "finished already" in jaxrl("train", "--resume", folder)[1]


@pytest.mark.usefixtures("undrawn")
def test_what_cannot_be_gone_on_from_is_one_line(unswept: Path, jaxrl: Run, tmp_path: Path) -> None:
    """All checkpoints damaged, or an edited configuration: nothing else is touched."""
    folder = shutil.copytree(unswept, tmp_path / "run")
    (folder / "metrics.parquet").unlink()  # so that it is gone on with
    config = (folder / "config.yaml").read_text()
    edited = re.sub(r"(?m)^seed: 1$", "seed: 5", config)
    assert edited != config
    (folder / "config.yaml").write_text(edited)
    saved = {path: path.read_bytes() for path in folder.glob("checkpoints/**/*") if path.is_file()}
    code, _, complaint = jaxrl("train", "--resume", folder)
    assert code == 2 and "saved by another run" in complaint and "key" in complaint
    (folder / "config.yaml").write_text(config)
    for file in folder.glob("checkpoints/*/DIGESTS.json"):
        file.unlink()
    code, _, complaint = jaxrl("train", "--resume", folder)
    assert code == 2 and "every checkpoint" in complaint and "--overwrite" in complaint
    for path, content in saved.items():
        assert path.name == "DIGESTS.json" or path.read_bytes() == content


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_lost_its_checkpoints_does_not_begin_anew_unasked(
    unswept: Path, jaxrl: Run, tmp_path: Path
) -> None:
    """Removed or put aside, whatever is left to tell that it had begun: nothing is touched."""
    folder = shutil.copytree(unswept, tmp_path / "run")
    job = jobs.job_from_config(jobs.read_config(folder))
    table = (folder / "metrics.parquet").read_bytes()
    shutil.move(folder / "checkpoints", tmp_path / "saved")
    assert "finished already" in jaxrl("train", "--resume", folder)[1]

    def refused() -> None:
        before = contents(folder)
        for more in ([], ["--dry-run"]):
            code, _, error = jaxrl("train", "--resume", folder, *more)
            assert code == 2 and error.count("\n") == 1
            assert "no good checkpoint" in error and "--overwrite" in error
        assert contents(folder) == before

    (folder / "status.json").unlink()
    refused()
    (folder / "metrics.parquet").unlink()
    with open_run(folder, job.config) as run:
        run.append_metrics(records_of(unswept)[:3])
        refused()
        run.set_status("running")
        refused()
        run.set_status("failed", {"checkpoint": True})
        refused()
        run.rewrite_metrics([])
        run.set_status("interrupted", {"share": 0.5})
        refused()
        run.set_status("running", {"checkpoint": False})
        (run.checkpoints / "damaged").mkdir(parents=True)
        refused()
        # Killed before its first checkpoint: then there is nothing to lose.
        (run.checkpoints / "damaged").rmdir()
        run.append_metrics(records_of(unswept)[:3])
    assert jaxrl("train", "--resume", folder)[0] == 0
    assert (folder / "metrics.parquet").read_bytes() == table


@pytest.mark.usefixtures("undrawn")
def test_the_status_says_whether_there_is_a_checkpoint(
    jaxrl: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(
        "jaxrl.training.RunFolder.set_status",
        lambda run, state, details=None, names=(): seen.append((details or {}).get("checkpoint")),
    )
    assert jaxrl("train", *SMALL, "--checkpoint-seconds", "0", "--run-dir", tmp_path)[0] == 0
    assert seen[:2] == [False, True]


@pytest.mark.parametrize("name", ["status.json", "versions.json", "metrics.parquet"])
def test_pipes_and_folders_in_a_run_are_one_line(
    name: str, unswept: Path, jaxrl: Run, tmp_path: Path
) -> None:
    folder = shutil.copytree(unswept, tmp_path / "run")
    for make in (os.mkfifo, os.mkdir):
        path = folder / name
        path.rmdir() if path.is_dir() else path.unlink()
        make(path)
        commands = [["train", "--resume", folder], ["plot", folder]]
        for command in commands[: 1 if name == "versions.json" else 2]:
            code, _, error = jaxrl(*command)
            assert code == 2 and name in error and error.count("\n") == 1


def test_the_settings_are_shown_best_first_with_their_scores(whole: Path, jaxrl: Run) -> None:
    _, out, _ = jaxrl("train", "--resume", whole)
    assert out.index("│ learning_rate=0.001") < out.index("│ learning_rate=1e+30")
    summary = json.loads((whole / "summary.json").read_text())
    good = next(row for row in summary["settings"] if row["setting"] == "learning_rate=0.001")
    scores = list(good["scores"].values())
    assert good["worst"] == min(scores) and good["num_seeds"] == 2
    assert good["iqm_low"] <= good["iqm"] <= good["iqm_high"]


@pytest.mark.usefixtures("undrawn")
def test_overwriting_trains_anew_with_the_same_numbers(
    whole: Path, jaxrl: Run, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "evaluation.json").touch()
    before = values_of(whole, "learning_rate=0.001")
    words = [*SMALL, *SWEEP, "--run-dir", tmp_path / "run", "--overwrite"]
    code, out, _ = jaxrl("train", *words)
    assert code == 0 and "compiling" in out
    assert values_of(tmp_path / "run", "learning_rate=0.001") == before
    assert not (tmp_path / "run" / "evaluation.json").exists()


def test_a_dry_run_shows_the_plan_and_touches_nothing(jaxrl: Run, tmp_path: Path) -> None:
    code, out, error = jaxrl("train", *SMALL, *SWEEP, "--num-steps", "1000", "--dry-run")
    assert code == 0 and error == ""
    assert "4 runs: 4 groups of 1" in out
    assert "1,024 steps each (1,000 rounded up to whole records), 32 records" in out
    assert "setting: learning_rate=0.001" in out and "num_minibatches: 1" in out
    assert not (tmp_path / "runs").exists()


@pytest.fixture(scope="module")
def unswept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of seed 1 without a sweep in its default folder, with greedy episodes at the end."""
    base = tmp_path_factory.mktemp("unswept")
    with contextlib.chdir(base), no_pictures():
        assert main(["train", *SMALL, "--seed", "1", "--eval-episodes", "20"]) == 0
    (folder,) = (base / "runs").iterdir()
    return folder


def test_the_default_folder_follows_from_the_configuration(
    unswept: Path, jaxrl: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(unswept.parent.parent)
    assert unswept.name.startswith("CartPole-v1-pqn-")
    _, out, _ = jaxrl("train", *SMALL, "--seed", "1", "--dry-run")
    assert f"{unswept.name} (would continue)" in out
    _, out, _ = jaxrl("train", *SMALL, "--seed", "2", "--dry-run")
    assert unswept.name not in out and "(new)" in out


def test_a_run_is_the_sweep_of_its_seed_and_evaluates_the_agents_it_trained(
    unswept: Path,
) -> None:
    """The numbers in the table, and of the greedy episodes, are those of the library."""
    job = jobs.job_from_config(jobs.read_config(unswept))
    swept = sweep(
        jax.random.key(1), job.agent, job.env, num_seeds=2, num_steps=1280, num_records=40
    )
    found = values_of(unswept)
    for name, values in swept.metrics.items():
        for seed in range(2):
            ours = [found[name, seed, int(step)] for step in swept.steps]
            assert ours == [np.float64(value).tobytes() for value in values[0, seed]], name
    means = [
        evaluate(
            jax.random.fold_in(played_by_command.episodes_key(0), seed),
            strong(job.agent),
            strong(job.env),
            swept.agent_state(0, seed),
            num_episodes=20,
        ).summary()["mean"]
        for seed in range(2)
    ]
    row = RunFolder(unswept).summary()["settings"][0]
    assert row["evaluation"]["mean"] == pytest.approx(sum(means) / 2)


def test_greedy_episodes_at_the_end_join_the_table(unswept: Path, jaxrl: Run) -> None:
    code, out, _ = jaxrl("train", "--resume", unswept)
    assert code == 0 and "greedy mean" in out
    row = RunFolder(unswept).summary()["settings"][0]
    assert row["evaluation"]["num_episodes"] == 2 * 20


@pytest.mark.usefixtures("undrawn")
def test_a_run_whose_time_is_up_goes_on_bit_for_bit(
    whole: Path, jaxrl: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    for words in ([*SMALL, *SWEEP, "--run-dir", folder], ["--resume", folder]):
        code, out, _ = jaxrl("train", *words, "--time-limit", "1e-3")
        assert code == 124 and f"jaxrl train --resume {folder}" in out
        status = RunFolder(folder).status()
        assert status["state"] == "interrupted" and status["signal"] is None
    assert jaxrl("train", "--resume", folder)[0] == 0
    assert (folder / "metrics.parquet").read_bytes() == (whole / "metrics.parquet").read_bytes()


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_stopped_run_goes_on_bit_for_bit(
    number: signal.Signals, whole: Path, jaxrl: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "run"

    def stop() -> None:
        until = time.monotonic() + 120
        while not (folder / "metrics.jsonl").exists() and time.monotonic() < until:
            time.sleep(0.002)
        os.kill(os.getpid(), number)

    stopper = threading.Thread(target=stop)
    stopper.start()
    # The least time between checkpoints is never over: only the signal saves one.
    slow = ["--checkpoint-seconds", "1e9", "--run-dir", folder]
    code, out, _ = jaxrl("train", *SMALL, *SWEEP, *slow)
    stopper.join()
    assert code == 128 + number
    assert f"jaxrl train --resume {folder}" in out
    assert RunFolder(folder).status()["state"] == "interrupted"
    assert 0 < len((folder / "metrics.jsonl").read_text().splitlines()) < 40
    code, out, _ = jaxrl("train", "--resume", folder)
    assert code == 0
    assert (folder / "metrics.parquet").read_bytes() == (whole / "metrics.parquet").read_bytes()
    assert RunFolder(folder).summary()["settings"] == RunFolder(whole).summary()["settings"]
    assert len((folder / "command.txt").read_text().splitlines()) == 2


def damage(folder: Path) -> int:
    """Flip a bit of the newest checkpoint's largest file; its step."""
    newest = Checkpoints(folder / "checkpoints").steps()[-1]
    files = [path for path in (folder / "checkpoints" / str(newest)).rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    return newest


def records_of(folder: Path) -> list[dict]:
    """The records that a finished run wrote, from its table."""
    by_step: dict[int, dict] = {}
    for row in load_metrics(folder).to_pylist():
        record = by_step.setdefault(row["step"], {})
        record.setdefault(row["metric"], {})[row["setting"], row["seed"]] = row["value"]
    made = []
    for step, metrics in sorted(by_step.items()):
        lanes = sorted(next(iter(metrics.values())))
        values = {name: [value[lane] for lane in lanes] for name, value in metrics.items()}
        settings, seeds = zip(*lanes, strict=True)
        made.append({"step": step, "seeds": seeds, "settings": settings, "metrics": values})
    return made


@pytest.mark.usefixtures("undrawn")
def test_a_run_with_a_damaged_checkpoint_goes_on_from_the_one_before(
    whole: Path, jaxrl: Run, tmp_path: Path
) -> None:
    """As if it had been killed at its end: records after the good checkpoint are there already,
    and are made again; the table is that of the run that never stopped."""
    folder = tmp_path / "run"
    words = [*SMALL, *SWEEP, "--run-dir", folder, "--checkpoint-seconds", "0"]
    assert jaxrl("train", *words)[0] == 0
    steps = Checkpoints(folder / "checkpoints").steps()
    assert len(steps) == 2 and 0 < steps[0] < steps[1] == 1280
    with open_run(folder, RunFolder(folder).config()) as run:
        (folder / "metrics.parquet").unlink()
        run.append_metrics(records_of(whole))
        run.set_status("running")
    newest = damage(folder)
    code, out, error = jaxrl("train", "--resume", folder)
    assert code == 0 and f"continuing after record {steps[0] // 32} of 40 records" in out
    assert error.startswith(f"jaxrl: warning: checkpoint {newest}") and error.count("\n") == 1
    assert (folder / "metrics.parquet").read_bytes() == (whole / "metrics.parquet").read_bytes()
    assert RunFolder(folder).summary()["settings"] == RunFolder(whole).summary()["settings"]


def test_the_score_is_the_mean_of_the_last_tenth() -> None:
    returns = np.full((1, 5, 20), np.nan)
    returns[0, 0] = np.arange(20.0)  # mean of the last two records: 18.5
    returns[0, 1, 19] = 7.0  # one of the two has no episode
    returns[0, 2, 3] = 5.0  # none in the tail: the last one with an episode
    returns[0, 4] = 100.0  # diverged: no score
    diverged = np.asarray([[False, False, False, False, True]])
    scores = final_scores(returns, diverged)
    np.testing.assert_array_equal(scores, [[18.5, 7.0, 5.0, np.nan, np.nan]])


def test_normalisation_is_part_of_the_configuration() -> None:
    job = train_job("pqn", "RiverSwim", normalise=("rewards", "observations"))
    assert (job.agent.observations, job.agent.rewards) == (True, True)
    config = job.config
    assert config["normalise"] == ["observations", "rewards"]
    again = jobs.job_from_config(config)
    assert again.agent == job.agent and again.config == config
    assert config != train_job("pqn", "RiverSwim").config


@pytest.mark.slow
def test_normalised_observations_are_part_of_the_run(jaxrl: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = ("train", *SMALL, "--normalise", "observations", "--run-dir", folder)
    assert jaxrl(*words)[0] == 0
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["normalise"] == ["observations"]
    assert config["resolved"]["observations"] is True
    code, _, complaint = jaxrl("train", *SMALL, "--run-dir", folder)
    assert code == 2
    assert "normalise" in complaint
    assert jaxrl("evaluate", folder, "--num-episodes", "4")[0] == 0


def test_normalisation_is_refused_for_agents_with_a_replay(jaxrl: Run, tmp_path: Path) -> None:
    code, _, complaint = jaxrl("train", "--agent", "dqn", "--normalise", "rewards", "--dry-run")
    assert code == 2
    assert "fresh rollouts" in complaint
