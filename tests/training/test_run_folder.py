"""The run folder: continued when asked the same, refused when not; equal metrics, equal bytes."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml

from jaxrl.training import RunFolder, load_metrics, metrics_file, open_run, run_config

CONFIG = {
    "agent": {"name": "ppo", "learning_rate": 0.001, "hidden": (64, 64), "clip": None},
    "env": "CartPole-v1",
    "num_seeds": 4,
}


def record(step: int, seeds: tuple = (0, 1), shift: float = 0.0) -> dict:
    """A record whose values are told apart by step and seed; the first return is not known."""
    values = np.asarray([10.0 * step + seed + shift for seed in seeds], np.float32) / 3
    returns = np.where(step == 1, np.nan, values)
    return {"step": step, "seeds": seeds, "metrics": {"loss": values, "episode_return": returns}}


def rows_of(table) -> list[tuple]:
    """Rows that compare equal when their bits do, NaN included."""
    columns = [table[name].to_pylist() for name in ("metric", "setting", "seed", "step")]
    values = [np.float64(value).tobytes() for value in table["value"].to_pylist()]
    return list(zip(*columns, values, strict=True))


def test_a_new_folder_says_what_was_asked_and_what_it_runs_on(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "first"
    with open_run(path, CONFIG, command=["jaxrl", "train", "--name", "a b"]) as run:
        assert not run.resumed
        run.set_status("running", {"step": 0})
        assert run.status()["state"] == "running" and run.status()["step"] == 0
    loaded = yaml.safe_load((path / "config.yaml").read_text())
    assert loaded == run.config() == {**CONFIG, "agent": {**CONFIG["agent"], "hidden": [64, 64]}}
    assert (path / "command.txt").read_text() == "jaxrl train --name 'a b'\n"
    versions = json.loads((path / "versions.json").read_text())
    expected = {"python", "jax", "jaxlib", "flax", "optax", "gymnax", "numpy", "jaxrl", "device"}
    assert expected <= set(versions)
    assert versions["numpy"] == np.__version__


VALUES = [1e-5, 3e-4, 1e20, 0.1, 1 / 3, math.inf, -0.0, 2**53 + 1, True, None, "", "yes", "3e-4"]
VALUES += ["1_000", "null", "~", "a: b", "# no", "é\n", [], {}, [1, [2.5, "x"]], "2020-01-01"]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_configuration_values_round_trip(value: object) -> None:
    loaded = run_config.parse(run_config.to_text({"setting": value}))["setting"]
    assert type(loaded) is type(value) and loaded == value
    assert run_config.describe_difference({"setting": loaded}, {"setting": value}) == []


def test_not_a_number_round_trips_and_equals_itself() -> None:
    loaded = run_config.parse(run_config.to_text({"a": math.nan}))
    assert math.isnan(loaded["a"]) and run_config.describe_difference(loaded, {"a": math.nan}) == []


def test_only_plain_data_is_taken(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"config.agent.torso\[1\] is a function"):
        open_run(tmp_path / "run", {"agent": {"torso": [1, record]}})
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="not YAML"):  # a tag that would build a Python object
        run_config.parse("!!python/object/apply:os.system ['true']")


DIFFERENCES = {
    "changed": (
        {"agent": {**CONFIG["agent"], "learning_rate": 0.0003}},
        ["agent.learning_rate: 0.001 (folder) != 0.0003 (asked)"],
    ),
    "added": ({"notes": "x"}, ["notes: absent (folder) != 'x' (asked)"]),
    "list": (
        {"agent": {**CONFIG["agent"], "hidden": (64,)}},
        ["agent.hidden: [64, 64] (folder) != [64] (asked)"],
    ),
    "two": (
        {"env": "Acrobot-v1", "num_seeds": 5},
        [
            "env: 'CartPole-v1' (folder) != 'Acrobot-v1' (asked)",
            "num_seeds: 4 (folder) != 5 (asked)",
        ],
    ),
    "number-or-text": ({"num_seeds": "4"}, ["num_seeds: 4 (folder) != '4' (asked)"]),
    "none": ({"num_seeds": 4.0}, []),
}


TRICKS = {
    "alias": ("a: &big [1, 2]\nb: [*big, *big]\n", "an alias"),
    "name twice": ("agent: ppo\nagent: dqn\n", "gives 'agent' twice"),
    "name twice inside": ("settings: {discount: 1, discount: 2}\n", "gives 'discount' twice"),
    "too large": ("a: " + "x" * 1_000_001, "more than 1,000,000 characters"),
    "too deep": ("[" * 1_100, "not YAML"),
    "code": ("a: !!python/object/apply:os.getcwd []\n", "not YAML"),
    "no mapping": ("- 1\n", "not a mapping"),
}


@pytest.mark.parametrize(("text", "message"), TRICKS.values(), ids=TRICKS)
def test_configurations_that_no_run_writes_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        run_config.parse(text)
    assert "\n" not in str(error.value)


PLANTED = ["config.yaml", "metrics.jsonl", "checkpoints", "plots/curve.png", ".config.yaml.draft"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", PLANTED)
def test_no_link_in_a_folder_is_followed(tmp_path: Path, name: str, overwrite: bool) -> None:
    """What it points to stays as it is; the folder itself may be a link."""
    folder, linked = tmp_path / "real", tmp_path / "run"
    linked.symlink_to(folder)
    folder.mkdir()
    open_run(linked, {"agent": "ppo"}).close()
    target = tmp_path / "target"
    target.write_text("of another")
    place = folder / name
    place.parent.mkdir(exist_ok=True)
    place.unlink(missing_ok=True)
    place.symlink_to(target)
    with pytest.raises(ValueError, match=f"{re.escape(name)} is a link"):
        open_run(linked, {"agent": "ppo"}, overwrite=overwrite)
    readers = (RunFolder(linked).config, RunFolder(linked).status, RunFolder(linked).summary)
    for read in (*readers, RunFolder(linked).metrics):
        with pytest.raises(ValueError, match="is a link"):
            read()
    assert target.read_text() == "of another" and place.is_symlink()


@pytest.mark.parametrize(("change", "lines"), DIFFERENCES.values(), ids=DIFFERENCES)
def test_another_configuration_is_refused_line_by_line(tmp_path, change, lines) -> None:
    open_run(tmp_path, CONFIG).close()
    before = (tmp_path / "config.yaml").read_bytes()
    asked = {**CONFIG, **change}
    assert run_config.describe_difference(CONFIG, asked) == lines
    if lines:
        with pytest.raises(ValueError, match=r"--overwrite .*--run-dir") as refusal:
            open_run(tmp_path, asked)
        assert all(f"\n  {line}\n" in str(refusal.value) for line in lines)
    else:
        open_run(tmp_path, asked).close()
    assert (tmp_path / "config.yaml").read_bytes() == before
    open_run(tmp_path, CONFIG).close()  # the refusal let the lock go


def test_a_missing_setting_is_a_difference() -> None:
    moved = {"resolved": {"smoothing": 0.2}}, {"resolved": {"actor.smoothing": 0.2}}
    assert run_config.describe_difference(*moved) == []  # into a part, since the run began
    assert run_config.describe_difference({"a": 1, "b": 2}, {"a": 1}) == [
        "b: 2 (folder) != absent (asked)"
    ]


def test_overwrite_clears_a_run_and_nothing_else(tmp_path: Path) -> None:
    with open_run(tmp_path, CONFIG) as run:
        run.append_metrics([record(1)])
        (run.checkpoints / "7").mkdir(parents=True)
        (run.plots / "curve.png").write_text("")
    (tmp_path / "notes.txt").write_text("mine")
    with open_run(tmp_path, {"env": "other"}, overwrite=True) as run:
        assert not run.resumed and run.config() == {"env": "other"} and run.status() == {}
        assert not run.checkpoints.exists()
        with pytest.raises(FileNotFoundError, match="no metrics"):
            run.metrics()
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "plots").exists()


MINE = ["checkpoints/precious.pt", "checkpoints/2024-best/model", "plots/thesis.tex", "report.html"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_a_run_does_not_write_is_never_deleted(tmp_path: Path, overwrite: bool) -> None:
    """A configuration alone makes no folder a run's; and in a run's folder others' files stay."""
    other, run = tmp_path / "other", tmp_path / "run"
    open_run(run, CONFIG).close()
    (run / "checkpoints" / "7").mkdir(parents=True)
    for folder in (other, run):
        for name in MINE:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("mine")
    for text in ("lr: 1\n", run_config.to_text(CONFIG), "["):
        (other / "config.yaml").write_text(text)
        before = sorted(other.rglob("*"))
        if overwrite:
            with pytest.raises(ValueError, match=r"not a run's folder.*versions.json"):
                open_run(other, {"agent": "ppo"}, overwrite=True)
        assert sorted(other.rglob("*")) == before
    (other / "config.yaml").unlink()
    with pytest.raises(ValueError, match=r"not a run's folder: it has no config.yaml"):
        open_run(other, CONFIG, overwrite)
    open_run(run, CONFIG, overwrite).close()
    assert all((folder / name).read_text() == "mine" for folder in (run, other) for name in MINE)
    assert (run / "checkpoints" / "7").exists() != overwrite


@pytest.mark.parametrize("name", ["thesis.tex", "checkpoints"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_another_kind_is_left_alone(tmp_path, name, overwrite) -> None:
    (tmp_path / name).write_text("mine")
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="not a run's folder"):
        open_run(tmp_path, CONFIG, overwrite)
    assert (tmp_path / name).read_text() == "mine"
    assert set(os.listdir(tmp_path)) == {name, "thesis.tex"}
    with pytest.raises(ValueError, match="is a file"):
        open_run(tmp_path / name, CONFIG, overwrite)


def test_a_run_killed_before_its_configuration_starts_anew(tmp_path: Path) -> None:
    (tmp_path / "command.txt").write_text("jaxrl train\n")
    (tmp_path / ".config.yaml.draft").write_text("age")
    with open_run(tmp_path, CONFIG) as run:
        assert not run.resumed and run.config()["env"] == "CartPole-v1"


def test_continuing_notes_the_command_and_warns_of_other_versions(tmp_path: Path) -> None:
    open_run(tmp_path, CONFIG, command=["one"]).close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with open_run(tmp_path, CONFIG, command=["two"]) as run:
            assert run.resumed
    assert (tmp_path / "command.txt").read_text() == "one\ntwo\n"
    versions = json.loads((tmp_path / "versions.json").read_text())
    (tmp_path / "versions.json").write_text(json.dumps({**versions, "jax": "0.0.1"}))
    with pytest.warns(UserWarning, match=r"jax: 0\.0\.1 -> "):
        open_run(tmp_path, CONFIG).close()


HOLDER = """
import sys
from jaxrl.training import open_run
run = open_run(sys.argv[1], {"a": 1})
print("open", flush=True)
sys.stdin.read()
"""


def test_one_writer_at_a_time_in_one_process(tmp_path: Path) -> None:
    with open_run(tmp_path, {"a": 1}):
        for asked, options in (({"a": 1}, {}), ({"a": 2}, {"overwrite": True})):
            with pytest.raises(ValueError, match=f"in use by process {os.getpid()} on"):
                open_run(tmp_path, asked, **options)
        assert RunFolder(tmp_path).config() == {"a": 1}  # readers need no lock
    with open_run(tmp_path, {"a": 1}) as run:
        assert run.resumed


@pytest.mark.slow  # a process of its own
def test_one_writer_at_a_time(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, text=True) as holder:
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(ValueError, match=f"in use by process {holder.pid} on"):
            open_run(tmp_path, {"a": 1})
        with pytest.raises(ValueError, match="in use by"):
            open_run(tmp_path, {"a": 2}, overwrite=True)
        assert RunFolder(tmp_path).config() == {"a": 1}  # readers need no lock
        holder.kill()
    with open_run(tmp_path, {"a": 1}) as run:  # kill -9 frees the folder
        assert run.resumed
        with pytest.raises(ValueError, match="in use by"):
            open_run(tmp_path, {"a": 1})


def test_unknown_states_are_refused(tmp_path: Path) -> None:
    with open_run(tmp_path, CONFIG) as run, pytest.raises(ValueError, match="running, done"):
        run.set_status("finished")


def test_the_long_table_holds_every_value_exactly(tmp_path: Path) -> None:
    with open_run(tmp_path, CONFIG) as run:
        lanes = {"step": 5, "seeds": [3, 3], "settings": ["lr=1", "lr=2"]}
        run.append_metrics([record(1), {**lanes, "metrics": {"loss": [0.1, np.inf]}}])
        third = float(np.float32(10) / np.float32(3))
        expected = [
            ("episode_return", "", 0, 1, math.nan),
            ("episode_return", "", 1, 1, math.nan),
            ("loss", "", 0, 1, third),
            ("loss", "", 1, 1, float(np.float32(11) / np.float32(3))),
            ("loss", "lr=1", 3, 5, 0.1),
            ("loss", "lr=2", 3, 5, math.inf),
        ]
        expected = [(*row[:4], np.float64(row[4]).tobytes()) for row in expected]
        assert rows_of(run.metrics()) == expected
        run.finish({"iqm": np.float32(0.5), "interval": (0.25, 1.0)})
        assert rows_of(load_metrics(tmp_path)) == expected
        types = {field.name: str(field.type) for field in load_metrics(tmp_path).schema}
        assert (types["seed"], types["step"], types["value"]) == ("int64", "int64", "double")
    assert not (tmp_path / "metrics.jsonl").exists()
    assert RunFolder(tmp_path).summary() == {"iqm": 0.5, "interval": [0.25, 1.0]}
    assert RunFolder(tmp_path).status()["state"] == "done"


def test_a_resumed_run_gives_the_table_of_one_that_never_stopped(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    with open_run(whole, CONFIG) as run:
        run.append_metrics([record(step) for step in range(1, 6)])
        run.finish({})
    with open_run(broken, CONFIG) as run:
        run.append_metrics([record(step) for step in range(1, 4)])
    with open(broken / "metrics.jsonl", "a") as stream:
        stream.write('{"step": 4, "seeds": [0,')  # killed in the middle of a line
    assert set(RunFolder(broken).metrics()["step"].to_pylist()) == {1, 2, 3}
    with open_run(broken, CONFIG) as run:
        run.rewrite_metrics([record(1), record(2)])  # those that the checkpoint holds
        run.append_metrics([record(3), record(4)])
        run.append_metrics([record(5)])
        run.finish({})
    assert rows_of(load_metrics(broken)) == rows_of(load_metrics(whole))
    assert (broken / "metrics.parquet").read_bytes() == (whole / "metrics.parquet").read_bytes()


def test_the_table_does_not_depend_on_how_lanes_were_grouped(tmp_path: Path) -> None:
    groups = {"together": [(0, 1, 2, 3)], "apart": [(2, 3), (0, 1)]}
    for name, seeds in groups.items():
        with open_run(tmp_path / name, CONFIG) as run:
            run.append_metrics([record(step, group) for group in seeds for step in (1, 2)])
            run.finish({})
    tables = [(tmp_path / name / "metrics.parquet").read_bytes() for name in groups]
    assert tables[0] == tables[1]


def test_a_kill_while_finishing_leaves_a_run_that_finishes_again(tmp_path: Path) -> None:
    with open_run(tmp_path, CONFIG) as run:
        run.append_metrics([record(1), record(2)])
        lines = (tmp_path / "metrics.jsonl").read_bytes()
        run.finish({})
        table = (tmp_path / "metrics.parquet").read_bytes()
        (tmp_path / "metrics.jsonl").write_bytes(lines)  # killed before the last act
        run.rewrite_metrics([record(1)])
        assert set(run.metrics()["step"].to_pylist()) == {1}  # no rows of a stale table
        run.append_metrics([record(2)])
        run.finish({})
    assert (tmp_path / "metrics.parquet").read_bytes() == table


def test_misshapen_metrics_are_errors(tmp_path: Path) -> None:
    with open_run(tmp_path, CONFIG) as run:
        run.append_metrics([record(1)])
        with pytest.raises(ValueError, match="'loss' at step 3 has shape"):
            run.append_metrics([{"step": 3, "seeds": [0, 1], "metrics": {"loss": [1.0]}}])
        assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
        (tmp_path / "metrics.jsonl").write_text('{"ste\n{}\n')
        with pytest.raises(ValueError, match="line 1 is not a record"):
            run.metrics()


def test_a_run_without_records_has_an_empty_table(tmp_path: Path) -> None:
    with open_run(tmp_path, CONFIG) as run:
        run.append_metrics([])
        assert run.metrics().num_rows == 0
        run.append_metrics([{"step": 1, "seeds": [0], "metrics": {}}])
        run.finish({}, state="failed", details={"reason": "no step"})
        assert run.metrics().num_rows == 0 and run.status()["reason"] == "no step"


def test_curves_of_a_table(tmp_path: Path) -> None:
    with open_run(tmp_path, CONFIG) as run:
        run.append_metrics([record(1), record(2), record(2, seeds=(7,))])
        steps, seeds, values = metrics_file.curves_of(run.metrics(), "loss")[""]
        assert steps.tolist() == [1, 2] and seeds.tolist() == [0, 1, 7]
        expected = np.asarray([[10, 20], [11, 21], [np.nan, 27]], np.float32) / 3
        np.testing.assert_array_equal(values, expected)
        with pytest.raises(KeyError, match="known: episode_return, loss"):
            metrics_file.curves_of(run.metrics(), "retrun")


def test_a_finished_run_knows_its_files(tmp_path: Path) -> None:
    """Every bit of the three small files, one at a time: none is flipped without being seen."""
    with open_run(tmp_path, CONFIG) as run:
        run.append_metrics([record(1), record(2)])
        run.finish({"iqm": 1.5})
        assert run.is_finished()
        rng = np.random.default_rng(0)
        for name in ("metrics.parquet", "summary.json", "status.json"):
            content = (tmp_path / name).read_bytes()
            for bit in rng.choice(8 * len(content), 100, replace=False):
                changed = bytearray(content)
                changed[bit // 8] ^= 1 << bit % 8
                (tmp_path / name).write_bytes(changed)
                told = dict(run.status())
                assert not run.is_finished() or (name == "status.json" and "sha256" not in told)
            (tmp_path / name).unlink()
            assert not run.is_finished()
            (tmp_path / name).write_bytes(content)
        assert run.is_finished()


def test_a_flipped_table_is_refused_when_read(tmp_path: Path) -> None:
    with open_run(tmp_path, CONFIG) as run:
        run.append_metrics([record(step) for step in range(1, 30)])
        run.finish({})
    table = tmp_path / "metrics.parquet"
    content, known = table.read_bytes(), rows_of(load_metrics(tmp_path))
    for bit in np.random.default_rng(1).choice(8 * len(content), 100, replace=False):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        table.write_bytes(changed)
        try:
            assert rows_of(load_metrics(tmp_path)) == known
        except ValueError as error:
            assert "damaged" in str(error)


def change_a_digit(file: Path) -> bytes:
    """Change the last digit before a comma; what the file held."""
    content = file.read_bytes()
    place = [found.start() for found in re.finditer(rb"\d[,\]]", content)][-1]
    digit = b"1" if content[place : place + 1] != b"1" else b"2"
    file.write_bytes(content[:place] + digit + content[place + 1 :])
    return content


def test_no_changed_digit_is_read_silently(tmp_path: Path) -> None:
    with open_run(tmp_path, CONFIG) as run:
        run.append_metrics([record(1), record(2)])
        content = change_a_digit(tmp_path / "metrics.jsonl")
        with pytest.raises(ValueError, match=r"metrics.jsonl, line 2 .*train --resume"):
            run.metrics()
        for taken in (0, 1):  # whole lines, of which each is as it was written
            run.rewrite_metrics([record(1), record(2)])
            run.append_metrics([record(3)])
            lines = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
            assert run.metrics().num_rows == 3 * 2 * 2
            del lines[taken]
            (tmp_path / "metrics.jsonl").write_text("".join(lines))
            with pytest.raises(ValueError, match=rf"line {taken + 1} .*not the next.*--resume"):
                run.metrics()
        for damaged in (content.replace(b"\n", b"\x0b", 1), content.replace(b"sha256", b"sha257")):
            (tmp_path / "metrics.jsonl").write_bytes(damaged)
            with pytest.raises(ValueError, match=r"metrics.jsonl, line 1 .*train --resume"):
                run.metrics()
        (tmp_path / "metrics.jsonl").write_bytes(content)
        run.finish({"iqm": [1.25, 2.5]})
    assert run.summary() == {"iqm": [1.25, 2.5]}
    content = change_a_digit(tmp_path / "summary.json")
    with pytest.raises(ValueError, match=r"summary.json is damaged.*train --resume"):
        run.summary()
    (tmp_path / "summary.json").write_bytes(content)
    for status in ('{"state": "done", "files": "abc"}', "[1, 2]", "[" * 200_000, None):
        (tmp_path / "status.json").unlink()
        if status is not None:
            (tmp_path / "status.json").write_text(status)
        assert run.status() == {} and not run.is_finished()
        for read in (run.summary, run.metrics):  # nothing vouches for what they hold
            with pytest.raises(ValueError, match=r"or its run's status.json is: .*train --resume"):
                read()


def test_folders_from_before_there_were_digests_are_read(tmp_path: Path) -> None:
    with open_run(tmp_path, CONFIG) as run:
        run.append_metrics([record(1), record(2)])
        known = rows_of(run.metrics())
        lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
        lines = [{name: line[name] for name in GOOD} for line in lines]
        digests = [json.dumps(line, sort_keys=True).encode() for line in lines]
        digests = [{"sha256": hashlib.sha256(text).hexdigest()} for text in digests]
        alone = [line | digest for line, digest in zip(lines, digests, strict=True)]
        for older in (alone, lines):  # each with its own digest; without any
            text = "".join(json.dumps(line) + "\n" for line in older)
            (tmp_path / "metrics.jsonl").write_text(text)
            assert rows_of(run.metrics()) == known
        run.finish({"iqm": 1.5})
    (tmp_path / "status.json").write_text('{"state": "done", "pid": 1}')
    assert run.is_finished() and run.summary() == {"iqm": 1.5}
    assert rows_of(run.metrics()) == known


GOOD = {"step": 1, "seeds": [0], "settings": [""], "metrics": {"loss": [1.0]}}
LINES = {
    "list": "[1]",
    "deep": "[" * 200_000,
    "parts missing": '{"step": 1}',
    "step": json.dumps({**GOOD, "step": 1.5}),
    "large step": json.dumps({**GOOD, "step": 10**30}),
    "text": json.dumps({**GOOD, "metrics": {"loss": ["1.0"]}}),
    "none": json.dumps({**GOOD, "metrics": {"loss": [None]}}),
    "too many": json.dumps({**GOOD, "metrics": {"loss": [1.0, 2.0]}}),
    "ragged": json.dumps({**GOOD, "metrics": {"loss": [[1.0], 2.0]}}),
    "half a seed": json.dumps({**GOOD, "seeds": [0.5]}),
    "setting": json.dumps({**GOOD, "settings": [["a"]]}),
    "no names": json.dumps({**GOOD, "metrics": [1.0]}),
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_lines_that_no_run_writes_are_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(f"{json.dumps(GOOD)}\n{line}\n")
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 2 is not a record") as error:
        load_metrics(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
@pytest.mark.parametrize(
    "name", ["config.yaml", "versions.json", "command.txt", "status.json", "metrics.parquet"]
)
def test_pipes_and_folders_in_place_of_files_are_refused(tmp_path: Path, name: str, make) -> None:
    with open_run(tmp_path, CONFIG) as run:
        run.append_metrics([record(1)])
        run.finish({})
    (tmp_path / name).unlink()
    make(tmp_path / name)
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=f"{name} is not what a run writes"):
            open_run(tmp_path, CONFIG, overwrite)
    if name in ("status.json", "metrics.parquet"):
        for read in (run.metrics, run.is_finished):
            with pytest.raises(OSError, match=f"not a plain file.*{name}"):
                read()


@pytest.mark.parametrize("name", ["versions.json", "command.txt"])
def test_notes_that_cannot_be_read_are_named(tmp_path: Path, name: str) -> None:
    open_run(tmp_path, CONFIG).close()
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.name != ".lock"}
    for content in (b"\xff", b"[1]", b"{", b"[" * 200_000):
        if name == "command.txt" and content != b"\xff":
            continue
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is damaged"):
            open_run(tmp_path, CONFIG)
        now = {path: path.read_bytes() for path in tmp_path.iterdir() if path.name != ".lock"}
        assert now == {**before, tmp_path / name: content}


def test_a_table_of_another_kind_is_refused(tmp_path: Path) -> None:
    import pyarrow.parquet

    (tmp_path / "status.json").write_text('{"state": "done"}')
    for columns in ({"a": [1]}, {"seed": [1], "step": [1], "value": ["x"]}):
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "metrics.parquet")
        with pytest.raises(ValueError, match=r"metrics.parquet is damaged"):
            load_metrics(tmp_path)
