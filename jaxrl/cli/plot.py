"""`jaxrl plot`: the learning curves of several runs in one picture."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from jaxrl.cli.arguments import BadInput, refusing
from jaxrl.cli.screen import say


def run(arguments: Namespace, words: Sequence[str]) -> int:
    """Draw, and say where.

    Raises:
        BadInput: no run given, a folder without metrics, no such metric, or a file that cannot be
            written.
    """
    from jaxrl.report.plots import compare_runs

    folders = [Path(run) for run in dict.fromkeys(arguments.runs)]
    if not folders:
        raise BadInput("give at least one run's folder: jaxrl plot RUN ...")
    for folder in folders:
        if not folder.is_dir():
            raise BadInput(f"{folder} is not a folder.")
    out = Path(arguments.out) if arguments.out else folders[0] / "plots" / f"{arguments.metric}.png"
    if out.suffix.lower() != ".png":
        raise BadInput(f"--out {out} does not end in .png.")
    with refusing(FileNotFoundError, KeyError, ValueError, OSError):
        compare_runs(out, folders, arguments.metric)
    say(f"written: {out}")
    return 0
