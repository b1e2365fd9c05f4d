"""What a recorded row was made by: the command, the commit, the libraries, the machine, the day."""

from __future__ import annotations

import datetime
import importlib.metadata
import pathlib
import platform
import shlex
import subprocess
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent


def made_by() -> dict[str, Any]:
    """To stand in a row: `commit` ends in `+` where files of jaxrl/ differ from it.

    Whole paths of the machine become FOLDER.
    """
    import jax

    words = ["FOLDER" if pathlib.Path(word).is_absolute() else word for word in sys.argv[1:]]
    command = [f"benchmarks/{pathlib.Path(sys.argv[0]).name}", *words]
    return {
        "command": f"python {shlex.join(command)}",
        "commit": _git("rev-parse", "--short", "HEAD")
        + "+" * bool(_git("status", "--porcelain", "jaxrl")),
        "jax": importlib.metadata.version("jax"),
        "device": f"{jax.devices()[0].device_kind} ({platform.machine()})",
        "date": datetime.date.today().isoformat(),
    }


def told(made: dict[str, Any]) -> str:
    """The same in words; of rows that were made before commits were kept, what there is."""
    by = f"`{made['command']}`, commit {made['commit']}; " if "commit" in made else ""
    return f"{by}{made['device']}, jax {made['jax']}, {made['date']}"


def _git(*words: str) -> str:
    """What git says; nothing outside a checkout."""
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
