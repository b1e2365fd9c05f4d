"""`jaxrl train` from beginning to end, on runs of seconds."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from small_run import SMALL, Run

from jaxrl.cli.summary import final_scores
from jaxrl.training.checkpoint import Checkpoints
from jaxrl.training.run_folder import RunFolder, load_metrics

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
    from jaxrl.cli.main import main

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
    assert config["agent"] == "ppo" and config["env"] == "CartPole-v1"
    assert config["settings"]["network.hidden_sizes"] == [8]
    assert config["sweep"] == {"optimiser.learning_rate": [1e-3, 1e30]}
    assert config["resolved"]["num_envs"] == 4
    table = load_metrics(whole).to_pandas()
    returns = table[table["metric"] == "episode_return"]
    assert len(returns) == 2 * 2 * 40  # settings x seeds x records
    assert returns["step"].max() == 1280
    summary = json.loads((whole / "summary.json").read_text())
    assert {"device", "compile_seconds", "run_seconds", "steps_per_second"} <= set(summary)


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


def test_when_every_run_diverges_the_exit_code_says_so(jaxrl: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code, out, _ = jaxrl("train", *SMALL, "--sweep", "learning_rate=1e30", "--run-dir", folder)
    assert code == 1
    assert RunFolder(folder).status()["state"] == "diverged"
    assert "seed 0 (learning_rate=1e+30) diverged" in out


def test_a_finished_run_is_shown_again_and_not_trained(whole: Path, jaxrl: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.glob("checkpoints/*")}
    for command in (["--resume", whole], [*SMALL, *SWEEP, "--run-dir", whole]):
        code, out, _ = jaxrl("train", *command)
        assert code == 0 and "finished already" in out and "interquartile mean" in out
    assert {path: path.stat().st_mtime_ns for path in whole.glob("checkpoints/*")} == before


def test_the_settings_are_shown_best_first_with_their_scores(whole: Path, jaxrl: Run) -> None:
    _, out, _ = jaxrl("train", "--resume", whole)
    assert out.index("│ learning_rate=0.001") < out.index("│ learning_rate=1e+30")
    summary = json.loads((whole / "summary.json").read_text())
    good = next(row for row in summary["settings"] if row["setting"] == "learning_rate=0.001")
    scores = list(good["scores"].values())
    assert good["worst"] == min(scores) and good["num_seeds"] == 2
    assert good["iqm_low"] <= good["iqm"] <= good["iqm_high"]


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


def test_the_default_folder_follows_from_the_configuration(jaxrl: Run, tmp_path: Path) -> None:
    assert jaxrl("train", *SMALL)[0] == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("CartPole-v1-ppo-")
    _, out, _ = jaxrl("train", *SMALL, "--dry-run")
    assert f"{folder.name} (would continue)" in out
    _, out, _ = jaxrl("train", *SMALL, "--seed", "1", "--dry-run")
    assert folder.name not in out


def test_greedy_episodes_at_the_end_join_the_table(jaxrl: Run, tmp_path: Path) -> None:
    code, out, _ = jaxrl("train", *SMALL, "--eval-episodes", "4", "--run-dir", tmp_path / "run")
    assert code == 0 and "greedy mean" in out
    row = RunFolder(tmp_path / "run").summary()["settings"][0]
    assert row["evaluation"]["num_episodes"] == 2 * 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
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


def test_a_killed_run_with_a_damaged_checkpoint_goes_on_bit_for_bit(
    whole: Path, jaxrl: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    checkpoints = Checkpoints(folder / "checkpoints")
    words = [*SMALL, *SWEEP, "--run-dir", str(folder)]
    process = subprocess.Popen(
        [sys.executable, "-m", "jaxrl", "train", *words, "--checkpoint-seconds", "0"],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 240
        while len(checkpoints.steps()) < 2 and time.monotonic() < until:
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.001)
    finally:
        process.kill()
        process.wait()
    assert RunFolder(folder).status()["state"] == "running"
    newest = checkpoints.steps()[-1]
    files = [path for path in (folder / "checkpoints" / str(newest)).rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    code, _, error = jaxrl("train", *words)
    assert code == 0
    assert error.startswith(f"jaxrl: warning: checkpoint {newest}") and error.count("\n") == 1
    assert (folder / "metrics.parquet").read_bytes() == (whole / "metrics.parquet").read_bytes()


def test_the_score_is_the_mean_of_the_last_tenth() -> None:
    returns = np.full((1, 5, 20), np.nan)
    returns[0, 0] = np.arange(20.0)  # mean of the last two records: 18.5
    returns[0, 1, 19] = 7.0  # one of the two has no episode
    returns[0, 2, 3] = 5.0  # none in the tail: the last one with an episode
    returns[0, 4] = 100.0  # diverged: no score
    diverged = np.asarray([[False, False, False, False, True]])
    scores = final_scores(returns, diverged)
    np.testing.assert_array_equal(scores, [[18.5, 7.0, 5.0, np.nan, np.nan]])


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
