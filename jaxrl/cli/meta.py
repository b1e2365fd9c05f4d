"""`jaxrl meta`: learn an update rule by a named experiment, and say what it is worth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

from jaxrl.cli.arguments import Meta
from jaxrl.cli.errors import BadInput, check_seed, refusing
from jaxrl.cli.interrupt import catch_signals
from jaxrl.cli.screen import make_console, number, say
from jaxrl.core.files import read_text, refuse_links, remove_drafts, replacing, take_lock


def learn_rule(arguments: Meta) -> int:
    """Run `jaxrl meta`.

    Returns:
        0; 128 + signal when it was stopped.

    Raises:
        BadInput: no such experiment, a number below one, or a folder of another run.
    """
    import numpy as np

    from jaxrl.core.settings import near_names
    from jaxrl.meta import Card, save
    from jaxrl.meta.experiments import EXPERIMENTS, Run
    from jaxrl.training.checkpoint import Checkpoints

    name, seed, console = arguments.experiment, arguments.seed, make_console()
    if arguments.num_steps is not None and arguments.num_steps < 1:
        raise BadInput(f"--num-steps {arguments.num_steps} must be at least 1.")
    check_seed(seed, num_bits=32)
    folder = Path(arguments.run_dir or f"runs/meta-{name}-{seed}")
    with refusing(KeyError):
        if name not in EXPERIMENTS:
            near = near_names(name, list(EXPERIMENTS))
            raise KeyError(f"unknown experiment {name!r}; {near}")
        experiment = EXPERIMENTS[name]()
    with refusing(ValueError, OSError):
        lock = _locked(folder, {"experiment": name, "seed": seed})
    say(console, f"{name}: {experiment.about}")
    say(console, "compiling (half a minute; less when it was compiled before)")

    def report(part: str, step: int, metrics: Mapping[str, float]) -> None:
        shown = ", ".join(f"{key} {number(value)}" for key, value in metrics.items())
        say(console, f"{part} {step}: {shown}")

    with lock, refusing(ValueError, OSError), catch_signals(partial(say, console)) as interrupt:
        run = Run(
            seed=seed,
            num_steps=arguments.num_steps,
            checkpoints={
                part: Checkpoints(folder / "checkpoints" / part) for part in experiment.learned
            },
            report=report,
            stop=lambda: interrupt.requested,
        )
        try:
            result = experiment.run(run)
        except KeyboardInterrupt:
            again = f"jaxrl meta {name} --seed {seed} --run-dir {folder}"
            say(console, f"stopped; what was learned is saved. To continue: {again}")
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
                np.savez_compressed(stream, **result.curves)
            written.append("curves.npz")
    say(console, table)
    say(console, f"written to {folder}: {', '.join(written)}")
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
