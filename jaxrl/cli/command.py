"""The `jaxrl` command.

Exit codes: 0 done; 1 the run failed, every seed diverged, or a plan did not converge; 2 input that
cannot be used (one line on standard error says why); 128 + signal when stopped by Ctrl-C,
SIGTERM, SIGHUP or SIGUSR1; 124 when the time limit was reached.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxrl.cli.arguments import COMMANDS, BadInput, agent_in, help_on, message_of, parse


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        argv: the words after `jaxrl`; by default those of this process.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            return _run(list(sys.argv[1:] if argv is None else argv))
    except BadInput as error:
        return _complain(str(error), 2)
    except BrokenPipeError:  # the reader had enough, as in `jaxrl list envs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a full disk, a folder that went away
        return _complain(message_of(error), 1)
    except KeyboardInterrupt:
        return _complain("interrupted.", 130)


def _run(words: list[str]) -> int:
    if words in (["--version"], ["-V"]):
        sys.stdout.write(f"jaxrl {importlib.metadata.version('jaxrl')}\n")
        return 0
    # Loading a program that this machine compiled itself, XLA reports features that no machine has
    # ("+prefer-no-gather") as errors, a page for each program. Must come before jax is imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if not words or set(words) & {"-h", "--help"}:
        return _help([word for word in words if word not in ("-h", "--help")])
    command = parse(words)
    if words[0] not in ("list", "plot"):
        _switch_on_compilation_cache()
    home = words[0] if words[0] != "list" else "listing"
    return importlib.import_module(f"jaxrl.cli.{home}").run(command, words)


def _help(words: list[str]) -> int:
    """Help on the command that `words` begin with, or on all."""
    if words and words[0] not in COMMANDS:
        parse(words)  # which says so
    sys.stdout.write(help_on(*words[:1]))
    if words[:1] == ["train"]:
        from jaxrl.cli.listing import show_settings

        show_settings(agent_in(words[1:]))
    return 0


def _switch_on_compilation_cache() -> None:
    """Keep compiled programs in the user's cache folder, unless the environment names another.

    A folder that cannot be written leaves the cache off: a run must not fail for want of it.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxrl"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if os.access(folder, os.W_OK):
        import jax

        jax.config.update("jax_compilation_cache_dir", str(folder))


def _complain(message: str, exit_code: int) -> int:
    sys.stderr.write(f"jaxrl: error: {message}\n")
    return exit_code


def _warn(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """Show a warning as one line, without the place in the code."""
    sys.stderr.write(f"jaxrl: warning: {' '.join(str(message).split())}\n")
