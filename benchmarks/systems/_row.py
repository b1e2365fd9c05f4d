"""What the row of a system in the table says: the four lines that its script prints last."""

from __future__ import annotations

import json
import pathlib
import time

import numpy as np
from scipy import stats


def row(started: float, holds: bool, *, measured: str, control: str, interval: str) -> None:
    """Print the row; `python -m benchmarks.systems` reads it.

    Args:
        started: `time.process_time()` at the beginning.
        holds: whether the measurement bears the claim out, computed from it.
        measured: the system's number, with its unit, in a few words.
        control: the same of what it is compared with.
        interval: of what was measured or of the difference, and over how many seeds; of an
            identity "exact", and how far it is off.
    """
    for name, text in {"measured": measured, "control": control, "interval": interval}.items():
        print(f"{name}: {text}")
    print(f"holds: {'yes' if holds else 'no'}; {time.process_time() - started:.0f} CPU-seconds")


def mean_interval(values: np.ndarray) -> tuple[float, float, float]:
    """The mean of `values[N]` and the ends of its 95 % interval, by Student's t."""
    values = np.asarray(values, float)
    width = stats.t.ppf(0.975, values.size - 1) * values.std(ddof=1) / values.size**0.5
    return float(values.mean()), float(values.mean() - width), float(values.mean() + width)


def recorded(name: str) -> dict:
    """What another benchmark has recorded in `results/NAME.json`."""
    return json.loads((pathlib.Path(__file__).parents[1] / "results" / f"{name}.json").read_text())


def pooled(estimates: list[tuple[float, float, float]]) -> tuple[float, float, float]:
    """Mean of independent estimates, each with its interval, and the ends of its own interval."""
    mean = float(np.mean([mean for mean, _, _ in estimates]))
    width = float(np.hypot.reduce([(high - low) / 2 for _, low, high in estimates]))
    return mean, mean - width / len(estimates), mean + width / len(estimates)
