"""`jaxrl meta`: learn an update rule by a named experiment, and say what it is worth."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from jaxrl.cli.arguments import refusing
from jaxrl.cli.interrupt import catch_signals
from jaxrl.cli.screen import number, say
from jaxrl.core.files import read_text, refuse_links, remove_drafts, replacing, take_lock
from jaxrl.core.settings import near_names
from jaxrl.meta import Card, save
from jaxrl.meta.experiments import EXPERIMENTS, Run
from jaxrl.training.checkpoint import Checkpoints


def run(arguments: Namespace, words: Sequence[str]) -> int:
    """Learn, compare and write.

    Returns:
        0; 128 + signal when it was stopped.

    Raises:
        BadInput: no such experiment, or a folder of another run.
    """
    name, seed = arguments.experiment, arguments.seed
    folder = Path(arguments.run_dir or f"runs/meta-{name}-{seed}")
    with refusing(KeyError):
        if name not in EXPERIMENTS:
            near = near_names(name, list(EXPERIMENTS))
            raise KeyError(f"unknown experiment {name!r}; {near}")
        experiment = EXPERIMENTS[name]()
    with refusing(ValueError, OSError):
        lock = _locked(folder, {"experiment": name, "seed": seed})
    say(f"{name}: {experiment.about}")
    say("compiling (half a minute; less when it was compiled before)")

    def report(part: str, step: int, metrics: Mapping[str, float]) -> None:
        shown = ", ".join(f"{key} {number(value)}" for key, value in metrics.items())
        say(f"{part} {step}: {shown}")

    with lock, refusing(ValueError, OSError), catch_signals(say) as interrupt:
        parts = [*experiment.learned]
        asked = Run(
            seed=seed,
            num_steps=arguments.num_steps,
            checkpoints={part: Checkpoints(folder / "checkpoints" / part) for part in parts},
            report=report,
            stop=lambda: interrupt.requested,
        )
        try:
            result = experiment.run(asked)
        except KeyboardInterrupt:
            again = f"jaxrl meta {name} --seed {seed} --run-dir {folder}"
            say(f"stopped; what was learned is saved. To continue: {again}")
            return interrupt.exit_code if interrupt.requested else 130
        for part, found in result.fits.items():
            card = Card(
                f"{part}, learned by the experiment {name}",
                learned_by=f"jaxrl meta {name} --seed {seed}",
                metrics={
                    f"{measured}: {part}": comparison.score(part).value
                    for measured, comparison in result.comparisons.items()
                },
            )
            save(found.agent, folder / f"{part}.rule", card=card, overwrite=True)
        table, written = result.table(), ["result.md", *(f"{part}.rule" for part in result.fits)]
        with replacing(folder / "result.md") as stream:
            stream.write(f"{table}\n".encode())
        if result.curves:
            with replacing(folder / "curves.npz") as stream:
                np.savez_compressed(stream, **cast(Any, result.curves))
            written.append("curves.npz")
    say(table)
    say(f"written to {folder}: {', '.join(written)}")
    return 0


def _locked(folder: Path, config: Mapping[str, Any]) -> IO[str]:
    """The lock of the folder of this run: made, or found as an earlier process left it.

    Raises:
        ValueError: it is another run's, or in use, or something in it is a link.
    """
    refuse_links(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock, note = take_lock(folder, remedy=", or choose a folder"), folder / "experiment.json"
    strangers = [entry.name for entry in folder.glob("[!.]*")]
    others = ", ".join(sorted(strangers)[:3]) or json.dumps(config)
    found = read_text(note).strip() if note.exists() else others
    if found != json.dumps(config):
        lock.close()
        raise ValueError(f"{folder} holds another run ({found[:200]}): choose a folder.")
    remove_drafts(folder)
    with replacing(note) as stream:
        stream.write(f"{json.dumps(config)}\n".encode())
    return lock
