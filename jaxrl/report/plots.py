"""Learning curves: the interquartile mean over seeds, how sure it is, and every seed behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxrl.core.files import replacing
from jaxrl.report.statistics import interquartile_mean, stratified_bootstrap

# Okabe and Ito's palette (2008), told apart with any colour vision; the yellow left out, as it is
# too pale for a line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_STYLES = ("-", "--", ":", "-.")  # once the colours are used up
_MOST_POINTS = 250  # of the mean and band: a picture is some 700 pixels wide
_MOST_SEEDS_DRAWN = 64


def learning_curves(
    path: str | Path,
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    diverged: Mapping[str, Sequence[int]] | None = None,
    x_label: str = "environment steps",
    y_label: str = "episode return",
    title: str = "",
    level: float = 0.95,
) -> Path:
    """Draw one line for each label: interquartile mean, bootstrap band, the seeds faint behind.

    A value that is missing before a seed's first (no episode has ended) is left out; a later gap
    holds the value before it. A diverged seed's line ends where it diverged, and from there on it
    ranks below all others (see `interquartile_mean`): the mean stops once the middle half of the
    seeds holds a diverged one. The number of seeds, and of those diverged, stands at the line.

    Args:
        path: the PNG to write; its folder is made.
        curves: `{label: (steps[R], values[num_seeds, R])}`, NaN where a value is missing.
        diverged: `{label: rows of values}` of the seeds that diverged. A seed that is not named
            here and has no value in the last tenth of the run is counted as "silent at the end".
        x_label: of the horizontal axis, with its unit.
        y_label: of the vertical axis, with its unit.
        title: above the picture.
        level: of the band.

    Returns:
        `path`.

    Raises:
        ValueError: there is no curve, or values and steps do not fit.

    Example:
        >>> import tempfile
        >>> file = tempfile.mkdtemp() + "/curve.png"
        >>> learning_curves(file, {"ppo": ([0, 100], [[9.0, 200.0], [11.0, 220.0]])}).exists()
        True
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    if not curves:
        raise ValueError("there is no curve to draw.")
    # A figure of its own, not pyplot's: no global state and no window system is touched.
    figure = Figure(figsize=(8.0, 4.5), layout="constrained")
    axes = figure.add_subplot()
    ends = []
    for index, (label, (steps, values)) in enumerate(curves.items()):
        steps, values = np.asarray(steps, np.float64), np.asarray(values, np.float64)
        if steps.ndim != 1 or values.ndim != 2 or values.shape[1] != len(steps) or not values.size:
            raise ValueError(
                f"curve {label!r} has steps {steps.shape} and values {values.shape}: expected [R] "
                "and [num_seeds, R], at least one seed and one step."
            )
        failed = np.isin(np.arange(len(values)), list((diverged or {}).get(label, ())))
        colour = COLOURS[index % len(COLOURS)]
        style = _STYLES[(index // len(COLOURS)) % len(_STYLES)]
        faintness = 0.25 if len(curves) == 1 else 0.12
        end = _draw(axes, steps, values, failed, faintness, level, color=colour, linestyle=style)
        ends.append((end, f"{label}\n{_count_text(values, failed)}", colour))
    furthest = max(float(np.max(steps)) for steps, _ in curves.values())
    if furthest > 0:  # from step 0, even when the first episode ended much later
        axes.set_xlim(0, furthest)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.set_title(title, loc="left", fontsize=11)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    _label_ends(axes, ends)
    return write_picture(path, figure, dpi=150)


def write_picture(path: str | Path, figure: Any, dpi: int) -> Path:
    """Write a figure in one move, through no link; the folder is made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as stream:
        figure.savefig(stream, dpi=dpi, format=path.suffix[1:] or "png")
    return path


def compare_runs(
    path: str | Path, runs: Sequence[str | Path], metric: str = "episode_return"
) -> Path:
    """Draw the learning curves of several run folders, finished or not, in one picture.

    Args:
        path: the PNG to write.
        runs: run folders; a line for each of their settings.
        metric: which metric to draw.

    Raises:
        FileNotFoundError: a folder has no metrics.
        KeyError: a run has no such metric.
        ValueError: a file of a run is damaged, or a link.
    """
    from jaxrl.training.metrics_file import curves_of, load_metrics

    curves = {}
    for run in runs:
        try:
            found = curves_of(load_metrics(run), metric)
        except KeyError as error:
            raise KeyError(f"{run}: {error.args[0]}") from error
        for setting, (steps, _, values) in found.items():
            label = " ".join(part for part in (_short_name(run, runs), setting) if part)
            curves[label] = (steps, values)
    return learning_curves(path, curves, y_label=metric.replace("_", " "))


def curve_band(
    values: ArrayLike, failed: ArrayLike | None = None, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The interquartile mean of each column and its bootstrap interval.

    Args:
        values: `[num_seeds, R]`; NaN before a seed's first value means "not known yet".
        failed: `[num_seeds]` bool, the seeds that diverged: after their last value they rank below
            all others.
        level: of the interval.

    Returns:
        `mean[R]`, `low[R]`, `high[R]`; NaN where nothing is known, the band also with one seed.
    """
    values = _hold(np.asarray(values, np.float64), failed)
    mean, low, high = (np.full(values.shape[1], np.nan) for _ in range(3))
    for column in range(values.shape[1]):
        known = values[~np.isnan(values[:, column]), column]
        if len(known):
            mean[column] = interquartile_mean(known)
        if len(known) > 1 and np.isfinite(mean[column]):
            # Always the same draws: the band has no noise of its own from column to column.
            resamples = int(np.clip(200_000 // len(known), 200, 1000))
            low[column], high[column] = stratified_bootstrap(
                known, num_resamples=resamples, level=level
            )
    return mean, low, high


def _hold(values: np.ndarray, failed: ArrayLike | None) -> np.ndarray:
    """Fill every gap with the value before it; the tail of a diverged seed with -inf."""
    values = np.where(np.isfinite(values), values, np.nan)
    column = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    last = np.maximum.accumulate(np.where(np.isnan(values), -1, column), axis=1)
    held = np.take_along_axis(values, np.maximum(last, 0), axis=1)
    if failed is None:
        return held
    over = (column > last[:, -1:]) & np.asarray(failed, bool)[:, None]
    return np.where(over, -np.inf, held)


def _draw(
    axes: Any,
    steps: np.ndarray,
    values: np.ndarray,
    failed: np.ndarray,
    faintness: float,
    level: float,
    **line: str,
) -> tuple[float, float]:
    """Draw one curve; where its mean line ends."""
    seen = np.unique(np.linspace(0, len(steps) - 1, _MOST_POINTS).round().astype(int))
    # Held first and thinned after, so that no value is lost between two points.
    held = _hold(values, failed)[:, seen]
    steps = steps[seen]
    mean, low, high = curve_band(np.where(np.isinf(held), np.nan, held), failed, level)
    drawn = np.where(np.isinf(held), np.nan, held)[:_MOST_SEEDS_DRAWN]
    colour, marker = line["color"], {"marker": "o", "markersize": 5} if len(steps) == 1 else {}
    axes.plot(steps, drawn.T, color=colour, alpha=faintness, linewidth=0.6, zorder=1, **marker)
    # Where diverged seeds leave no lower bound, a pale band says so, down to the worst value seen.
    unbounded, band = np.isneginf(low), {"color": colour, "linewidth": 0}
    floor = np.nanmin(drawn) if np.isfinite(drawn).any() else 0.0
    axes.fill_between(steps, floor, mean, where=unbounded, alpha=0.06, zorder=0, **band)
    low = np.where(unbounded, mean, low)
    axes.fill_between(steps, low, high, alpha=0.25, zorder=2, **band)
    axes.plot(steps, mean, linewidth=2.0, zorder=3, **line, **marker)
    known = np.flatnonzero(np.isfinite(mean))
    last = known[-1] if len(known) else len(steps) - 1
    return float(steps[last]), float(mean[last])


def _count_text(values: np.ndarray, failed: np.ndarray) -> str:
    tail = values[:, -max(1, values.shape[1] // 10) :]
    num_open = int((~np.isfinite(tail).any(axis=1) & ~failed).sum())
    text = f"{len(values)} seed{'s' * (len(values) != 1)}"
    text += f", {int(failed.sum())} diverged" * bool(failed.any())
    return text + f", {num_open} silent at the end" * bool(num_open)


def _short_name(run: str | Path, runs: Sequence[str | Path]) -> str:
    """The folder's own name, with as much of its parents as sets it apart from the others."""
    parts = Path(run).resolve().parts
    for depth in range(1, len(parts) + 1):
        ending = parts[-depth:]
        if sum(Path(other).resolve().parts[-depth:] == ending for other in runs) == 1:
            return "/".join(ending)
    return str(run)


def _label_ends(axes: Any, ends: list[tuple[tuple[float, float], str, str]]) -> None:
    """Write each label beside its line's end, moved apart where two would overlap."""
    bottom, top = axes.get_ylim()
    heights = [(y - bottom) / (top - bottom) if np.isfinite(y) else 0.0 for (_, y), _, _ in ends]
    order = np.argsort(heights, kind="stable")
    size = 9 if len(ends) <= 8 else 6
    gap = 0.0125 * size  # height of two lines of text, as a share of the axes
    placed = np.asarray(heights, float)[order]
    for _ in range(200):  # neighbours that overlap each give way by half
        for index in range(1, len(placed)):
            overlap = gap - (placed[index] - placed[index - 1])
            if overlap > 0:
                placed[index - 1 : index + 1] += (-overlap / 2, overlap / 2)
    for height, which in zip(placed, order, strict=True):
        _, text, colour = ends[which]
        axes.annotate(
            *(text, (1.0, height), (6, 0), "axes fraction", "offset points"),
            **{"color": colour, "fontsize": size, "va": "center", "annotation_clip": False},
        )
