"""The folder a run leaves: what was asked, what it ran on, how it went, and every metric.

    config.yaml  command.txt  versions.json  status.json  summary.json
    metrics.jsonl while running, metrics.parquet at the end
    checkpoints/  plots/

Every file but `metrics.jsonl` is replaced in one move, so a reader never sees half of one. One
process writes at a time: a lock, which the system frees when the process dies, refuses a second.

The last status holds the digests of what the end of a run leaves, and every line of
`metrics.jsonl` its own, which covers that of the line before: what was changed or taken out since
is refused, and made again from the checkpoint by whoever goes on with the run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
import shutil
import socket
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from jaxrl.core import files
from jaxrl.training import metrics_file, run_config
from jaxrl.training.metrics_file import load_metrics as load_metrics

STATES = ("running", "done", "diverged", "interrupted", "failed")
_FOLDERS = ("checkpoints", "plots")
_KEPT = ("config.yaml", "command.txt", "versions.json")  # replaced, never away
_OURS = re.compile(
    r"(status|summary|evaluation|evaluation_over)\.json|metrics\.(jsonl|parquet)|solution\.npz"
    r"|checkpoints/([0-9]+|damaged|\.tmp-.+)|plots/(.+\.png|\..+\.draft)"
)


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A run's folder. `open_run` gives one that may be written; `RunFolder(path)` only reads.

    Example:
        >>> import tempfile
        >>> with open_run(tempfile.mkdtemp(), {"agent": "ppo", "num_seeds": 2}) as run:
        ...     run.append_metrics(
        ...         [{"step": 128, "seeds": [0, 1], "metrics": {"episode_return": [9.0, 11.0]}}]
        ...     )
        ...     run.finish({"iqm": 10.0})
        >>> run.status()["state"], run.metrics()["value"].to_pylist()
        ('done', [9.0, 11.0])
    """

    path: Path
    resumed: bool = False  # whether the folder held this configuration before
    lock: IO[str] | None = dataclasses.field(default=None, repr=False, compare=False)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes write here."""
        if self.lock is not None:
            self.lock.close()

    @property
    def checkpoints(self) -> Path:
        """The folder for `Checkpoints`."""
        return Path(self.path) / "checkpoints"

    @property
    def plots(self) -> Path:
        """The folder for pictures; made when asked for."""
        folder = Path(self.path) / "plots"
        folder.mkdir(exist_ok=True)
        return folder

    def config(self) -> dict[str, Any]:
        """The configuration the run was started with."""
        files.refuse_links(Path(self.path))
        return run_config.parse(files.read_text(Path(self.path) / "config.yaml"))

    def status(self) -> dict[str, Any]:
        """The last status: `state`, `updated`, `pid`, `host` and what the run added; or `{}`, also
        where the file is not as it was written."""
        files.refuse_links(Path(self.path))
        status = metrics_file.read_status(self.path)
        return {name: value for name, value in status.items() if name != "sha256"}

    def summary(self) -> dict[str, Any]:
        """What `finish` was given; `{}` before.

        Raises:
            ValueError: it was changed since, or nothing says that it was not.
        """
        file = Path(self.path) / "summary.json"
        if self.status().get("state") in ("running", "interrupted") or not file.exists():
            return {}
        return files.parse_json(metrics_file.vouched_for(file), str(file))

    def metrics(self) -> Any:
        """The metrics so far as a table: see `load_metrics`."""
        return load_metrics(self.path)

    def set_status(
        self, state: str, details: Mapping[str, Any] | None = None, names: Sequence[str] = ()
    ) -> None:
        """Replace `status.json`.

        Args:
            state: one of `running`, `done`, `diverged`, `interrupted`, `failed`.
            details: JSON data to stand beside it, such as `{"step": 1000}`.
            names: of files here whose digests it is to hold, at a run's end.

        Raises:
            ValueError: no such state.
        """
        if state not in STATES:
            raise ValueError(f"state {state!r} is not one of: {', '.join(STATES)}.")
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        about = {"state": state, "updated": now, "pid": os.getpid(), "host": socket.gethostname()}
        status = run_config.plain({**about, **(details or {})})
        if names:
            status["files"] = {name: _file_digest(Path(self.path) / name) for name in names}
        status["sha256"] = metrics_file.digest_of(status)
        _replace(Path(self.path) / "status.json", _to_json(status))

    def append_metrics(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Add records to `metrics.jsonl` and flush them to disk: see `metrics_file.lines_of`."""
        with open(Path(self.path) / "metrics.jsonl", "a+b") as stream:
            stream.seek(max(stream.tell() - metrics_file.TAIL, 0))
            lines = metrics_file.lines_of(records, stream.read().decode("latin-1"))
            stream.write("".join(lines).encode())
            stream.flush()
            os.fsync(stream.fileno())

    def rewrite_metrics(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Replace every record: what a run does first, by those that its checkpoint holds."""
        with files.replacing(Path(self.path) / "metrics.jsonl") as stream:
            stream.writelines(line.encode() for line in metrics_file.lines_of(records))
        (Path(self.path) / "metrics.parquet").unlink(missing_ok=True)  # made from others

    def is_finished(self) -> bool:
        """Whether the run was ended, and every small file is as it was written then."""
        status = self.status()
        stated = status.get("files", {})
        as_written = {name: _file_digest(Path(self.path) / name) for name in stated} == stated
        return status.get("state") in ("done", "diverged") and as_written

    def has_begun(self) -> bool:
        """Whether the run came so far that a checkpoint was saved, as far as the folder tells.

        Without a checkpoint now, it was taken away, and to begin anew would lose what is recorded.
        """
        status, path = self.status(), Path(self.path)
        records = [path / "metrics.jsonl", path / "metrics.parquet"]
        told = status.get("share") or status.get("state") in ("done", "diverged")
        told = told or any(file.exists() and file.stat().st_size for file in records)
        lost = (self.checkpoints / "damaged").exists()
        return bool(lost or (told and status.get("checkpoint") is not False))

    def finish(
        self,
        summary: Mapping[str, Any],
        state: str = "done",
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Write `metrics.parquet`, `summary.json` and the last status; drop `metrics.jsonl`.

        In this order, so that a kill in between leaves a run that resumes and finishes again. The
        status holds the digests of the other two.
        """
        import pyarrow.parquet

        lines, file = (Path(self.path) / name for name in ("metrics.jsonl", "metrics.parquet"))
        if lines.exists() or not file.exists():
            table = metrics_file.table_of_lines(lines)
            with files.replacing(file) as stream:
                pyarrow.parquet.write_table(
                    table, stream, compression="zstd", write_page_checksum=True
                )
        _replace(Path(self.path) / "summary.json", _to_json(summary))
        self.set_status(state, details, ("metrics.parquet", "summary.json"))
        lines.unlink(missing_ok=True)


def open_run(
    path: str | Path,
    config: Mapping[str, Any],
    overwrite: bool = False,
    command: Sequence[str] | None = None,
) -> RunFolder:
    """Make a run folder, or continue in the one that holds the same configuration.

    Args:
        path: the folder.
        config: plain data: mappings, sequences, strings, numbers, None. Written as YAML.
        overwrite: delete what an earlier run left here (only files a run makes) and start anew,
            in a folder whose `versions.json` says that a run made it.
        command: the command line to note; default, this process's.

    Returns:
        The folder, locked until it is closed or the process ends; `resumed` says which case it is.

    Raises:
        TypeError: `config` holds something that is not plain data.
        ValueError: the folder holds another configuration (the message has a line for each
            difference), is in use by another process, or is not a run's.
    """
    path = Path(path)
    config = run_config.plain(config)
    _check_is_run(path, overwrite)
    path.mkdir(parents=True, exist_ok=True)
    lock = files.take_lock(path, remedy=", or give another --run-dir")
    try:
        files.remove_drafts(path)
        resumed = _prepare(path, config, overwrite)
        _note_versions(path, resumed)
        _note_command(path, sys.argv if command is None else command, resumed)
        if not resumed:  # last: with the configuration there, the folder counts as a run's
            _replace(path / "config.yaml", run_config.to_text(config))
    except BaseException:
        lock.close()
        raise
    return RunFolder(path, resumed, lock)


def versions() -> dict[str, str]:
    """Versions of what a run's numbers depend on, and the device they are computed on."""
    import platform
    from importlib import metadata

    import jax

    found = {"python": platform.python_version()}
    for name in ("jaxrl", "jax", "jaxlib", "flax", "optax", "gymnax", "numpy", "orbax-checkpoint"):
        found[name] = "not installed"
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    devices = jax.devices()
    found["platform"] = f"{platform.system()} {platform.machine()}"
    found["device"] = f"{len(devices)} x {devices[0].platform} ({devices[0].device_kind})"
    return found


def _check_is_run(path: Path, overwrite: bool) -> None:
    """Raise `ValueError` when the folder holds anything that no run would have left."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file: give another --run-dir.")
    files.refuse_links(path)
    found = path.iterdir() if path.exists() else ()
    entries = {entry.name for entry in found if not entry.name.startswith(".")}
    # Without a configuration, what lies here is another's, but for the start of a killed run.
    strangers = ", ".join(sorted(entries - set(_KEPT))[:3])
    if strangers and "config.yaml" not in entries:
        raise ValueError(
            f"{path} is not a run's folder: it has no config.yaml, but {strangers}. Give another "
            "--run-dir."
        )
    for name in entries:
        good = (path / name).is_dir() if name in _FOLDERS else (path / name).is_file()
        if not good and (name in (*_FOLDERS, *_KEPT) or _OURS.fullmatch(name)):
            raise ValueError(f"{path / name} is not what a run writes of this name: take it out.")
    replaced = overwrite and "config.yaml" in entries
    if replaced and "jaxrl" not in files.read_json(path / "versions.json"):
        raise ValueError(
            f"{path} is not a run's folder: it has a config.yaml, but no versions.json that names "
            "jaxrl. Give another --run-dir."
        )


def _prepare(path: Path, config: Mapping[str, Any], overwrite: bool) -> bool:
    """Check or clear the locked folder; whether it already holds this configuration."""
    if overwrite or not (path / "config.yaml").exists():
        folders = [path / name for name in _FOLDERS]
        for target in [entry for folder in (path, *folders) for entry in folder.glob("*")]:
            if _OURS.fullmatch(target.relative_to(path).as_posix()):
                shutil.rmtree(target) if target.is_dir() else target.unlink()
        for folder in folders:
            with contextlib.suppress(OSError):  # not there, or something of another lies in it
                folder.rmdir()
        return False
    different = run_config.describe_difference(RunFolder(path).config(), config)
    if different:
        raise ValueError(
            f"{path} holds a run with another configuration:\n  "
            + "\n  ".join(different)
            + "\nUse --overwrite to replace that run, or give another --run-dir."
        )
    return True


def _note_command(path: Path, command: Sequence[str], resumed: bool) -> None:
    """One line for each time the run was started or continued."""
    import shlex

    file = path / "command.txt"
    before = files.read_text(file) if resumed and file.exists() else ""
    _replace(file, before + shlex.join(command) + "\n")


def _note_versions(path: Path, resumed: bool) -> None:
    """Write the versions, or say which changed since the run began."""
    now = versions()
    before = files.read_json(path / "versions.json") if resumed else {}
    if not before:
        _replace(path / "versions.json", _to_json(now))
        return
    changed = [f"{k}: {before.get(k)} -> {v}" for k, v in now.items() if before.get(k) != v]
    if changed:
        warnings.warn(
            f"{path} was begun on something else ({'; '.join(changed)}): the numbers may differ "
            "in the last digits from those of a run that never stopped.",
            stacklevel=3,
        )


def _replace(file: Path, text: str) -> None:
    with files.replacing(file) as stream:
        stream.write(text.encode())


def _file_digest(file: Path) -> str | None:
    return hashlib.sha256(files.read_bytes(file, math.inf)).hexdigest() if file.exists() else None


def _to_json(content: Mapping[str, Any]) -> str:
    return json.dumps(run_config.plain(content), indent=2) + "\n"
