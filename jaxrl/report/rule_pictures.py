"""Pictures of an update rule: its drift, what it makes of a reward, its schedules."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrl.report.plots import COLOURS, write_picture

if TYPE_CHECKING:
    from jaxrl.meta.probing import DriftMap, Probe

_MOST_CURVES = 6  # of settings, drawn one below the other


def draw_probe(path: str | Path, probe: Probe, title: str = "") -> Path:
    """Draw all there is of a probe: one row for each part, one column for each point of the life.

    A drift is drawn twice: itself, and what is left of the push on the ratio, whose zero line is
    where the rule stops moving the policy.

    Args:
        path: the PNG to write; its folder is made.
        probe: from `jaxrl.meta.probe`.
        title: above the picture.

    Returns:
        `path`.

    Raises:
        ValueError: the probe is empty: neither a drift, nor a response, nor a schedule.

    Example:
        >>> import tempfile
        >>> from jaxrl.core import Linear
        >>> from jaxrl.meta import probe
        >>> draw_probe(tempfile.mkdtemp() + "/rule.png", probe(Linear(1.0, 0.1))).exists()
        True
    """
    from matplotlib.figure import Figure

    names = list(probe.curves)[:_MOST_CURVES]
    points = np.asarray(probe.drift.shares) if probe.drift is not None else [0.0]
    # (share of the height in inches, columns, who draws)
    rows: list[tuple[float, int, Any]] = []
    if probe.drift is not None:
        rows += [(3.4, len(points), _draw_drift), (3.4, len(points), _draw_push)]
    if probe.response is not None:
        rows.append((2.8, 1, _draw_response))
    rows += [(2.0, 1, partial(_draw_curve, name)) for name in names]
    if not rows:
        raise ValueError("there is nothing to draw: the probe has no drift, response or schedule.")
    heights = [height for height, _, _ in rows]
    size = (max(6.0, 4.2 * len(points)), sum(heights) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    parts = figure.subfigures(len(rows), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, (_, columns, draw) in zip(parts, rows, strict=True):
        draw(part, list(np.atleast_1d(part.subplots(1, columns))), probe)
    left_out = len(probe.curves) - len(names)
    more = f" ({left_out} more schedules not shown)" if left_out > 0 else ""
    figure.suptitle(title + more, fontsize=11)
    return write_picture(path, figure, dpi=130)


def _draw_drift(figure: Any, panels: list[Any], probe: Probe) -> None:
    found: Any = probe.drift
    drift = np.asarray(found.drift)
    # The corners of the grid are rarely seen: they do not set the scale.
    most = float(np.nanpercentile(drift, 98)) or float(np.nanmax(drift)) or 1.0
    for axes, numbers, share in zip(panels, drift, np.asarray(found.shares), strict=True):
        image = _map(axes, found, numbers, cmap="viridis", vmin=0.0, vmax=most)
        axes.set_title("drift" + _when(found.shares, share), fontsize=10)
    figure.colorbar(image, ax=panels, label="drift [return]", extend="max")


def _draw_push(figure: Any, panels: list[Any], probe: Probe) -> None:
    found: Any = probe.drift
    push = np.asarray(found.push)
    most = float(np.max(np.abs(found.advantage)))
    for axes, numbers, share in zip(panels, push, np.asarray(found.shares), strict=True):
        image = _map(axes, found, numbers, cmap="RdBu_r", vmin=-most, vmax=most)
        if numbers.min() < 0.0 < numbers.max():
            x, y = np.asarray(found.ratio), np.asarray(found.advantage)
            axes.contour(x, y, numbers, levels=[0.0], colors="black", linewidths=1.0)
        axes.set_title("slope of what is climbed" + _when(found.shares, share), fontsize=10)
    figure.colorbar(image, ax=panels, label="slope in the ratio [return]", extend="both")


def _map(axes: Any, found: DriftMap, numbers: np.ndarray, **look: Any) -> Any:
    x, y = np.asarray(found.ratio), np.asarray(found.advantage)
    image = axes.pcolormesh(x, y, numbers, shading="nearest", rasterized=True, **look)
    axes.set_xscale("log")
    ends = [x[0], 1.0, x[-1]]
    axes.set_xticks(ends, [f"{tick:.3g}" for tick in ends], minor=False)
    axes.set_xticks([], minor=True)
    axes.axvline(1.0, color="0.5", linewidth=0.6)
    axes.set(xlabel="ratio", ylabel="advantage [return]")
    return image


def _draw_response(figure: Any, panels: list[Any], probe: Probe) -> None:
    found: Any = probe.response
    (axes,), lags, pulses = panels, np.asarray(found.lags), np.asarray(found.pulses)
    advantage, decay = np.asarray(found.advantage), np.asarray(found.decay)
    for p, share in enumerate(np.asarray(found.shares)):
        for s, pulse in enumerate(pulses):
            axes.plot(
                lags,
                advantage[p, s] / pulse,
                color=COLOURS[p % (len(COLOURS) - 1)],
                linestyle=("-", "--", ":")[s % 3],
                label=f"reward {pulse:+g}{_when(found.shares, share)}: decay {decay[p, s]:.3f}",
            )
    powers = advantage[0, 0, 0] / pulses[0] * np.float64(found.discount) ** lags
    axes.plot(lags, powers, color="0.5", linewidth=0.8, label=f"discount {found.discount:g}")
    axes.axhline(0.0, color="0.8", linewidth=0.6, zorder=0)
    axes.set(xlabel="steps before the reward", ylabel="advantage / reward")
    axes.set_title("response to one reward", fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_curve(name: str, figure: Any, panels: list[Any], probe: Probe) -> None:
    (axes,), curve = panels, np.asarray(probe.curves[name])
    steps = np.linspace(0.0, probe.total_steps, len(curve))
    axes.plot(steps, curve, color=COLOURS[0], linewidth=2.0)
    axes.set_title(name or "schedule", fontsize=10, loc="left")
    axes.set_xlabel("environment steps")
    axes.spines[["top", "right"]].set_visible(False)


def _when(shares: Any, share: float) -> str:
    return f", {100 * float(share):.0f} % of the life over" if len(np.asarray(shares)) > 1 else ""
