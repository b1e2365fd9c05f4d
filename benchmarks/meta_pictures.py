"""What the experiments learned, as pictures."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np

from jaxrl.meta import probe
from jaxrl.report import draw_probe

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SWAP_STEPS = 4 * 100_000  # between swaps of the colours, in steps of all four environments
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def draw(folder: pathlib.Path, part: str, result: Any) -> str | None:
    """Draw what an experiment learned, and say the picture's name; None where there is no use."""
    path = folder / f"meta_{part}.png"
    if part == "timed":
        draw_probe(path, probe(result.fits["timed"].agent, total_steps=16_000.0))
    elif part == "lpg":
        draw_probe(path, probe(result.fits["lpg"].agent, total_steps=96_000.0))
    elif part == "lpo":
        draw_probe(path, probe(result.fits["lpo"].agent, total_steps=20_000.0))
    elif part == "bootstrapped":
        _traces(path, result.curves, ("entropy weight", "reward rate"), SWAP_STEPS)
    elif part == "self_tuning":
        numbers = ("optimiser.learning_rate", "discount", "rule.entropy_weight", "reward rate")
        _traces(path, result.curves, numbers)
    else:
        return None
    plt.close("all")
    return path.name


def _traces(
    path: pathlib.Path,
    curves: Mapping[str, np.ndarray],
    numbers: Sequence[str],
    swap_steps: int | None = None,
) -> None:
    """Medians over lives and their middle four fifths; of rewards, means and two s.e."""
    learners = [name.removesuffix("/steps") for name in curves if name.endswith("/steps")]
    figure, panels = plt.subplots(
        len(numbers), 1, figsize=(8, 2.3 * len(numbers)), sharex=True, layout="constrained"
    )
    for panel, number in zip(panels, numbers, strict=True):
        for name, colour in zip(learners, COLOURS, strict=False):
            rows = curves[f"{name}/{number}"]
            if number == "reward rate":
                error = 2 * rows.std(axis=0) / np.sqrt(len(rows))
                bands = (rows.mean(axis=0) - error, rows.mean(axis=0), rows.mean(axis=0) + error)
            else:
                bands = np.quantile(rows, (0.1, 0.5, 0.9), axis=0)
            _band(panel, curves[f"{name}/steps"], bands, name, colour)
        if number in ("optimiser.learning_rate", "rule.entropy_weight"):
            panel.set_yscale("log")
        panel.set_ylabel(number.split(".")[-1].replace("_", " "))
        panel.spines[["top", "right"]].set_visible(False)
        if swap_steps:
            last = curves[f"{learners[0]}/steps"][-1]
            for swap in range(swap_steps, int(last), swap_steps):
                panel.axvline(swap, color="0.6", linewidth=0.8, linestyle="--")
    panels[0].legend(frameon=False, fontsize=8, ncols=2)
    panels[-1].set_xlabel(
        "environment steps" + ", colours swap at the dashed lines" * bool(swap_steps)
    )
    figure.savefig(path, dpi=120)


def _band(panel: Any, steps: np.ndarray, bands: Sequence, name: str, colour: str) -> None:
    low, middle, high = bands
    panel.plot(steps, middle, color=colour, linewidth=1.4, label=name)
    panel.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
