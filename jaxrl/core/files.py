"""Files that are replaced in one move or read with care, folders that one process writes."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import secrets
import socket
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

_MOST_BYTES = 2**28  # of a file that is read whole, but for tables: none that is written comes near


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


def read_bytes(file: Path, most: float = _MOST_BYTES) -> bytes:
    """All of a plain file of at most `most` bytes.

    Raises:
        ValueError: it is larger; the message names it, here and below.
        OSError: it cannot be read, or is a pipe, which might never end, a folder, a device.
    """
    facts = os.stat(file)
    if not stat.S_ISREG(facts.st_mode):
        raise OSError(errno.EINVAL, "not a plain file: take it away", str(file))
    if facts.st_size > most:
        raise ValueError(f"{file} has {facts.st_size:,} bytes, more than any that is written.")
    with open(file, "rb") as stream:
        return stream.read()


def read_text(file: Path, most: float = _MOST_BYTES) -> str:
    """Likewise as text, in UTF-8."""
    try:
        return read_bytes(file, most).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is damaged: it is not text in UTF-8.") from error


def read_json(file: Path) -> dict[str, Any]:
    """Likewise as a JSON object; `{}` where there is no file."""
    return parse_json(read_bytes(file), str(file)) if file.exists() else {}


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Replace `file` in one move, so that no reader finds half of it."""
    with replacing(file) as stream:
        stream.write((json.dumps(content, indent=2) + "\n").encode())


def parse_json(text: str | bytes, name: str) -> dict[str, Any]:
    """The JSON object in `text`; a `ValueError` that says `name` where there is none."""
    try:
        content = json.loads(text)
        if isinstance(content, dict):
            return content
    except (ValueError, RecursionError) as error:
        why = " ".join(str(error).split())[:200]
        raise ValueError(f"{name} is damaged: it is not JSON ({why}).") from error
    raise ValueError(f"{name} is damaged: it is JSON, but not of names and values.")


def refuse_links(path: Path) -> None:
    """Raise `ValueError` when anything in a folder is a link, which might lead out of it.

    The folder itself may be one.
    """
    for entry in path.rglob("*"):
        if entry.is_symlink():
            raise ValueError(
                f"{entry} is a link: a run's folder holds files of its own. Take it out, or give "
                "another --run-dir."
            )


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
