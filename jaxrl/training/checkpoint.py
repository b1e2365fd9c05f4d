"""Checkpoints of a run: saved so that kill -9 cannot hurt, passed over when damaged.

`checkpoint_format` says what one checkpoint holds; this module says which exist. A checkpoint is
made under a temporary name and renamed when it is whole, so `STEP/` is never half a checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import logging
import os
import shutil
import socket
import sys
import types
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxrl.core.arguments import check_path, check_whole
from jaxrl.core.types import PyTree
from jaxrl.training import checkpoint_format
from jaxrl.training.checkpoint_format import DamagedError
from jaxrl.training.identity import check_identity
from jaxrl.training.memory import gigabytes

_TEMPORARY = ".tmp-"


class CheckpointWarning(UserWarning):
    """A damaged checkpoint was passed over, or the next one may not fit on the disk."""


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run: `folder/STEP/`, of which the newest `keep` stay.

    Saving is synchronous: when `save` returns, the checkpoint is whole and on disk. One process
    writes (the run folder's lock sees to that); others may read meanwhile.

    Args:
        folder: where the checkpoints lie; made by the first `save`.
        keep: how many of the newest to keep, at least 1. With 2, a damaged checkpoint costs one
            interval and not the run.

    Example:
        >>> import tempfile, numpy as np
        >>> checkpoints = Checkpoints(tempfile.mkdtemp())
        >>> checkpoints.save(10, {"weights": np.ones(3, np.float32)}, {"num_records": 4})
        >>> step, tree, extra = checkpoints.restore({"weights": np.zeros(3, np.float32)})
        >>> step, tree["weights"].tolist(), extra
        (10, [1.0, 1.0, 1.0], {'num_records': 4})
    """

    folder: str | Path
    keep: int = 2

    def __post_init__(self) -> None:
        """Refuse what is no folder or no number of checkpoints."""
        check_path("folder", self.folder)
        object.__setattr__(self, "keep", check_whole("keep", self.keep))

    def steps(self) -> list[int]:
        """The steps on disk, oldest first, damaged ones included; `[]` when there are none."""
        folder = Path(self.folder)
        # Not `glob`, to which a folder that cannot be read is an empty one.
        folders = [one for one in folder.iterdir() if one.is_dir()] if folder.is_dir() else []
        names = [one.name for one in folders if one.name.isascii()]
        return sorted(int(name) for name in names if name.isdecimal())

    def save(
        self,
        step: int,
        tree: PyTree,
        extra: dict[str, Any] | None = None,
        run: Mapping[str, str] | None = None,
    ) -> None:
        """Write `tree` and `extra` as the checkpoint of `step`, then drop the oldest.

        A kill at any moment leaves either this checkpoint whole or the earlier ones untouched.

        Args:
            step: counter of the run, at least 0, not below the newest good step on disk. The same
                step again replaces it; damaged checkpoints of later steps go to `damaged/`.
            tree: pytree of jax or numpy arrays, typed PRNG keys and Python numbers.
            extra: JSON data, small: counters, positions in files. Tuples come back as lists.
            run: the `identity` of the run, which `restore` compares.

        Raises:
            TypeError: a leaf or `extra` is of a kind that cannot be stored.
            ValueError: a later good checkpoint lies in the folder, or `step` is negative.
            OSError: the disk is full or refuses. The earlier checkpoints are untouched.
        """
        step = check_whole("step", step, low=0)
        try:
            extra = json.loads(json.dumps(extra or {}))
        except TypeError as error:
            raise TypeError(f"extra of checkpoint {step} is not JSON data: {error}.") from error
        leaves, arrays = checkpoint_format.encode(tree)
        outdated = self._outdated(step)
        folder = Path(self.folder).absolute()
        temporary = folder / _temporary_name(step)
        told, logs = sys.unraisablehook, [logging.getLogger(name) for name in ("asyncio", "absl")]
        sys.unraisablehook = functools.partial(_tell_others, told)
        for log in logs:
            log.addFilter(_is_of_others)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._tidy(everything=True)
            temporary.mkdir()
            about = {"extra": extra, "run": None if run is None else dict(run)}
            checkpoint_format.write(temporary, step, leaves, arrays, about)
            for old in outdated:
                self._put_aside(old, damaged=old > step)
            os.rename(temporary, folder / str(step))
            checkpoint_format.flush(folder)
            for old in self.steps()[: -self.keep]:
                self._put_aside(old)
            self._tidy(everything=True)
            sys.unraisablehook = told
            for log in logs:
                log.removeFilter(_is_of_others)
        except Exception as error:  # orbax reports a full disk in several types
            shutil.rmtree(temporary, ignore_errors=True)
            raise OSError(
                f"checkpoint {step} could not be written to {self.folder} "
                f"({checkpoint_format.one_line(error)}). Free some space or check permissions; "
                "the earlier checkpoints are untouched."
            ) from error

    def restore(
        self,
        template: PyTree | Callable[[dict[str, Any]], PyTree],
        run: Mapping[str, str] | None = None,
    ) -> tuple[int, PyTree, dict[str, Any]] | None:
        """The newest checkpoint whose digests hold, or None when the folder has none at all.

        A damaged checkpoint is passed over with a `CheckpointWarning` that names its step.

        Args:
            template: pytree with the structure, shapes and dtypes to expect; its values are not
                read, so `jax.eval_shape` makes one. A jax leaf comes back with the template's
                sharding, a numpy leaf as numpy, a Python number as a Python number. Or a function
                that makes one from the checkpoint's `extra`.
            run: the `identity` of the run that asks.

        Returns:
            `(step, tree, extra)`, bit for bit as saved; or None.

        Raises:
            ValueError: the newest good checkpoint is of another run, or holds another tree than
                `template`; the message names what differs. Or every checkpoint is damaged.
            OSError: a file cannot be read, which says nothing of what it holds. Nothing is changed.
        """
        self._tidy(everything=False)
        for step in reversed(self.steps()):
            path = Path(self.folder).absolute() / str(step)
            try:
                manifest = checkpoint_format.verify(path, step)
                about = manifest["extra"]
                if "run" not in about:  # saved before checkpoints said whose they are
                    about = {"extra": about, "run": None}
                check_identity(f"checkpoint {path}", about["run"], run or {})
                made = isinstance(template, types.FunctionType)
                wanted = template(about["extra"]) if made else template
                return step, checkpoint_format.read(path, manifest, wanted), about["extra"]
            except OSError as error:
                raise OSError(
                    f"checkpoint {step} in {self.folder} cannot be read "
                    f"({checkpoint_format.one_line(error)}): nothing was changed. Try again when "
                    "it can be."
                ) from error
            except DamagedError as damage:
                warnings.warn(
                    f"checkpoint {step} in {self.folder} is damaged ({damage}): skipped, trying "
                    "the one before.",
                    CheckpointWarning,
                    stacklevel=2,
                )
        if self.steps() or (Path(self.folder) / "damaged").exists():
            raise ValueError(
                f"every checkpoint in {self.folder} is damaged: nothing was changed. To begin "
                "anew, use another folder, or overwrite this one (--overwrite)."
            )
        return None

    def foresee(self, num_bytes: int) -> None:
        """Warn where the disk may not hold the checkpoints of a tree of `num_bytes`.

        While one is written, `keep` earlier ones are there. What repeats itself, such as the empty
        part of a replay, takes less on disk.
        """
        folder = Path(self.folder).absolute()
        while not folder.exists():
            folder = folder.parent
        needed = num_bytes * (self.keep + 1 - min(len(self.steps()), self.keep))
        free = shutil.disk_usage(folder).free
        if needed > free:
            warnings.warn(
                f"checkpoints in {self.folder} may take up to {gigabytes(needed)} more and "
                f"{gigabytes(free)} are free on that disk: free some space, or train fewer runs "
                "at once.",
                CheckpointWarning,
                stacklevel=2,
            )

    def _outdated(self, step: int) -> list[int]:
        """The steps on disk that a checkpoint of `step` replaces: itself, and later damaged ones.

        Raises `ValueError` when a later one is good: saving would rewrite a run's history.
        """
        outdated = [other for other in self.steps() if other >= step]
        for other in (other for other in outdated if other > step):
            with contextlib.suppress(DamagedError):
                checkpoint_format.verify(Path(self.folder) / str(other), other)
                raise ValueError(
                    f"cannot save checkpoint {step}: {self.folder} already holds the later "
                    f"checkpoint {other}. Restore it first, or use an empty folder."
                )
        return outdated

    def _put_aside(self, step: int, damaged: bool = False) -> None:
        """Take a checkpoint away in one move, so that a kill never leaves half of it: as rubbish,
        or into `damaged/`, where it stays."""
        folder = Path(self.folder).absolute()
        if not damaged:
            os.rename(folder / str(step), folder / (_temporary_name(step) + "-old"))
            return
        (folder / "damaged").mkdir(exist_ok=True)
        names = (f"{step}{'' if count == 0 else f'-{count}'}" for count in itertools.count())
        free = next(name for name in names if not (folder / "damaged" / name).exists())
        os.rename(folder / str(step), folder / "damaged" / free)

    def _tidy(self, everything: bool) -> None:
        """Remove temporary folders: all when we are the writer, else those of dead processes."""
        for path in Path(self.folder).glob(_TEMPORARY + "*"):
            if everything or _is_orphan(path.name):
                shutil.rmtree(path, ignore_errors=True)


def _tell_others(told: Callable[[Any], object], found: Any) -> None:
    """Tell what no one raised, but for threads of a write that failed: they find its loop closed,
    some of them after it."""
    if not (isinstance(found.exc_value, RuntimeError) and "loop is closed" in str(found.exc_value)):
        told(found)


def _is_of_others(record: logging.LogRecord) -> bool:
    """Likewise of its tasks and threads, the first of whose errors is raised as well."""
    message = record.getMessage()
    return "never retrieved" not in message and "_SignalingThread.run() raised" not in message


def _temporary_name(step: int) -> str:
    return f"{_TEMPORARY}{step}-{os.getpid()}@{socket.gethostname()}"


def _is_orphan(name: str) -> bool:
    """Whether the process that made this temporary folder ran on this host and is gone."""
    owner, _, host = name.removesuffix("-old").partition("@")
    pid = owner.rsplit("-", 1)[-1]
    if host != socket.gethostname() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # alive, and another user's
    return False
