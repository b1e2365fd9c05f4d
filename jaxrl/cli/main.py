"""The `jaxrl` command.

Exit codes: 0 done; 1 the run failed, every seed diverged, or a plan did not converge; 2 input that
cannot be used (one line on standard error says why); 128 + signal when stopped by Ctrl-C,
SIGTERM, SIGHUP or SIGUSR1; 124 when the time limit was reached.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from jaxrl.cli.cache import quiet_xla, switch_on_compilation_cache
from jaxrl.cli.errors import BadInput, message_of

_COMMANDS = ("train", "plan", "evaluate", "plot", "meta", "list")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        argv: the words after `jaxrl`; by default those of this process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        with _plain_warnings():
            return _run(words)
    except BadInput as error:
        _complain(str(error))
        return 2
    except BrokenPipeError:  # the reader had enough, as in `jaxrl list envs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a full disk, a folder that went away
        _complain(message_of(error))
        return 1
    except KeyboardInterrupt:
        _complain("interrupted.")
        return 130


def _run(words: list[str]) -> int:
    if words in (["--version"], ["-V"]):
        sys.stdout.write(f"jaxrl {importlib.metadata.version('jaxrl')}\n")
        return 0
    quiet_xla()
    command = _parse(words)
    if command is None:
        return 0
    from jaxrl.cli.arguments import Evaluate, List, Meta, Plan, Train

    if isinstance(command, List):
        from jaxrl.cli.listing import list_names

        return list_names(command)
    if isinstance(command, Train):
        switch_on_compilation_cache()
        from jaxrl.cli.train import train

        return train(command, words)
    if isinstance(command, Plan):
        switch_on_compilation_cache()
        from jaxrl.cli.plan import plan

        return plan(command, words)
    if isinstance(command, Evaluate):
        switch_on_compilation_cache()
        if command.over:
            from jaxrl.cli.evaluate_over import evaluate_run_over

            return evaluate_run_over(command)
        from jaxrl.cli.evaluate import evaluate_run

        return evaluate_run(command)
    if isinstance(command, Meta):
        switch_on_compilation_cache()
        from jaxrl.cli.meta import learn_rule

        return learn_rule(command)
    from jaxrl.cli.plot import plot_runs

    return plot_runs(command)


def _parse(words: list[str]) -> Any:
    """The command, or None when help was asked for and given."""
    from jaxrl.cli.arguments import parse

    asked = not words or "-h" in words or "--help" in words
    if asked and words[:1] and words[0] not in (*_COMMANDS, "-h", "--help"):
        words, asked = words[:1], False  # help on what does not exist: say that
    if asked:
        with contextlib.suppress(SystemExit):
            parse([word for word in words[:1] if not word.startswith("-")] + ["--help"])
        if words[:1] == ["train"]:
            from jaxrl.cli.listing import show_settings

            show_settings(_agent_in(words))
        return None
    raw = io.BytesIO()
    said = io.TextIOWrapper(raw, encoding="utf-8", write_through=True)
    columns = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "2000"  # so that tyro breaks no line of its message
    try:
        # Standard output too: by its encoding and kind, tyro chooses how to draw the box.
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return parse(words)
    except SystemExit as error:
        raise BadInput(_one_line(raw.getvalue().decode())) from error
    finally:
        if columns is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = columns


def _one_line(box: str) -> str:
    """What tyro says in a box, as one line."""
    lines = [line.strip("│╭╮╰╯ \n") for line in box.splitlines()]
    lines = [re.sub(r"^─.*", "", line) for line in lines]
    said = [line for line in lines if line]
    message = said[0] if said else "this command line cannot be read"
    near = [line.split()[0] for line in said[1:] if re.match(r"^(--|-\w)\S+ ?", line)]
    hint = f" Perhaps you meant {' or '.join(near)}." if near and "nrecognized" in message else ""
    choices = [line for line in said[1:] if line.startswith("Available subcommands")]
    return message.rstrip(".") + "." + hint + "".join(f" {line}." for line in choices)


def _agent_in(words: list[str]) -> str:
    """The agent named in a command line that also asks for help."""
    for index, word in enumerate(words):
        if word == "--agent" and index + 1 < len(words):
            return words[index + 1]
        if word.startswith("--agent="):
            return word.partition("=")[2]
    return "ppo"


def _complain(message: str) -> None:
    sys.stderr.write(f"jaxrl: error: {message}\n")


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show a warning as one line, without the place in the code."""

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        sys.stderr.write(f"jaxrl: warning: {' '.join(str(message).split())}\n")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


if __name__ == "__main__":
    sys.exit(main())
