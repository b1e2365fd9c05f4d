"""The `jaxrl` command.

Exit codes: 0 done; 1 the run failed, every seed diverged, or a plan did not converge; 2 input that
cannot be used (one line on standard error says why); 128 + signal when stopped by Ctrl-C,
SIGTERM, SIGHUP or SIGUSR1; 124 when the time limit was reached.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from jaxrl.cli import arguments
from jaxrl.cli.cache import quiet_xla, switch_on_compilation_cache
from jaxrl.cli.errors import BadInput, message_of


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
    if not words or set(words) & {"-h", "--help"}:
        return _help([word for word in words if word not in ("-h", "--help")])
    command = arguments.parse(words)
    if isinstance(command, arguments.Train | arguments.Plan | arguments.Evaluate | arguments.Meta):
        switch_on_compilation_cache()
    if isinstance(command, arguments.List):
        from jaxrl.cli.listing import list_names

        return list_names(command)
    if isinstance(command, arguments.Train):
        from jaxrl.cli.train import train

        return train(command, words)
    if isinstance(command, arguments.Plan):
        from jaxrl.cli.plan import plan

        return plan(command, words)
    if isinstance(command, arguments.Evaluate):
        if command.over:
            from jaxrl.cli.evaluate_over import evaluate_run_over

            return evaluate_run_over(command)
        from jaxrl.cli.evaluate import evaluate_run

        return evaluate_run(command)
    if isinstance(command, arguments.Meta):
        from jaxrl.cli.meta import learn_rule

        return learn_rule(command)
    from jaxrl.cli.plot import plot_runs

    return plot_runs(command)


def _help(words: list[str]) -> int:
    """Help on the command that `words` begin with, or on all."""
    if not words:
        sys.stdout.write(arguments.help_on())
        return 0
    if words[0] not in arguments.COMMANDS:
        arguments.parse(words)  # which says so
    sys.stdout.write(arguments.help_on(words[0]))
    if words[0] == "train":
        from jaxrl.cli.listing import show_settings

        show_settings(arguments.agent_in(words[1:]))
    return 0


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
