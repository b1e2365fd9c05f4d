"""Files that are replaced in one move, and folders that one process writes at a time."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file that takes the place of `path` in one move, once the body is done.

    It stands beside `path` under a name that nobody can foresee, so that no link planted there is
    followed. When the body fails, `path` stays as it was.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.draft")
    try:
        with open(draft, "xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def remove_drafts(folder: Path) -> None:
    """Remove what killed processes left of `replacing`. For who holds the lock of the folder."""
    for draft in folder.glob(".*.draft"):
        draft.unlink(missing_ok=True)


def take_lock(folder: Path, name: str = ".lock", remedy: str = "") -> IO[str]:
    """An open file that no other process can lock while this one has it.

    Args:
        folder: what the lock is of.
        name: of its file there.
        remedy: what else to do where another process has it, as `, or give another --run-dir`.

    Returns:
        the file, which keeps the lock until it is closed or the process ends. On Windows nothing
        is locked: two writers are the user's own care.

    Raises:
        ValueError: another process has it.
    """
    try:
        import fcntl
    except ImportError:
        return io.StringIO()
    stream = open(folder / name, "a+")  # noqa: SIM115 - stays open as long as the lock is held
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.seek(0)
        owner = stream.read().strip() or "another process"
        stream.close()
        raise ValueError(
            f"{folder} is in use by {owner}: wait for it or stop it{remedy}."
        ) from None
    stream.truncate(0)
    stream.write(f"process {os.getpid()} on {socket.gethostname()}")
    stream.flush()
    return stream
