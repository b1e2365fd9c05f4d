"""`jaxrl plot`: the learning curves of several runs in one picture."""

from __future__ import annotations

from pathlib import Path

from jaxrl.cli.arguments import Plot
from jaxrl.cli.errors import BadInput, refusing
from jaxrl.cli.screen import make_console, say


def plot_runs(arguments: Plot) -> int:
    """Run `jaxrl plot`.

    Raises:
        BadInput: no run given, a folder without metrics, no such metric, or a file that cannot be
            written.
    """
    from jaxrl.report.plots import compare_runs

    if not arguments.runs:
        raise BadInput("give at least one run's folder: jaxrl plot RUN ...")
    folders = [Path(run) for run in arguments.runs]
    for folder in folders:
        if not folder.is_dir():
            raise BadInput(f"{folder} is not a folder.")
    out = Path(arguments.out) if arguments.out else folders[0] / "plots" / f"{arguments.metric}.png"
    if out.suffix.lower() != ".png":
        raise BadInput(f"--out {out} does not end in .png.")
    with refusing(FileNotFoundError, KeyError, ValueError, OSError):
        compare_runs(out, list(dict.fromkeys(folders)), arguments.metric)
    say(make_console(), f"written: {out}")
    return 0
