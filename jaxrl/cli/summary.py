"""What a finished sweep amounts to: a score for every seed, and a row for every setting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console

from jaxrl.cli.screen import add_row, make_table, number, say
from jaxrl.training.session import SweepResult

SCORE = (
    "score of a seed: mean episode return over the records of the last 10 % of the run "
    "(or its last record with an episode)"
)


def settings_summary(result: SweepResult, labels: Sequence[str]) -> list[dict[str, Any]]:
    """One plain mapping for each setting: aggregates with intervals, scores, diverged seeds."""
    from jaxrl.report import aggregate, final_scores

    diverged = result.diverged_at >= 0
    scores = final_scores(result.metrics["episode_return"], diverged)
    rows = []
    for index, label in enumerate(labels):
        found = aggregate(scores[index], seeds=result.seeds)
        silent = [
            seed
            for seed, score, bad in zip(result.seeds, scores[index], diverged[index], strict=True)
            if np.isnan(score) and not bad
        ]
        rows.append(
            {
                "setting": label,
                "values": result.settings[index],
                "iqm": _finite(found.iqm.value),
                "iqm_low": _finite(found.iqm.low),
                "iqm_high": _finite(found.iqm.high),
                "median": _finite(found.median.value),
                "mean": _finite(found.mean.value),
                "worst": _finite(found.worst),
                "worst_seed": found.worst_seed,
                "num_seeds": found.num_seeds,
                "diverged": [
                    {"seed": seed, "step": int(step)}
                    for seed, step in zip(result.seeds, result.diverged_at[index], strict=True)
                    if step >= 0
                ],
                "without_episodes": silent,
                "scores": {
                    str(seed): _finite(score)
                    for seed, score in zip(result.seeds, scores[index], strict=True)
                },
            }
        )
    return rows


def show_summary(console: Console, summary: Mapping[str, Any]) -> None:
    """Print the table of a run's `summary.json`, best setting first, and its diverged seeds."""
    rows = summary["settings"]
    swept = len(rows) > 1 or rows[0]["setting"]
    evaluated = "evaluation" in rows[0]
    columns = ["setting"] * bool(swept) + ["interquartile mean", "95 % interval", "median"]
    columns += ["worst seed", "seeds", "diverged"] + ["greedy mean", "greedy CVaR 10 %"] * evaluated
    table = make_table(columns, numeric=columns[bool(swept) :], caption=summary["score"])
    table.title = summary["title"]
    for row in sorted(rows, key=lambda row: math.inf if row["iqm"] is None else -row["iqm"]):
        cells = [row["setting"]] if swept else []
        cells += [number(row["iqm"]), _interval(row), number(row["median"])]
        cells += [f"{number(row['worst'])} (seed {row['worst_seed']})"]
        cells += [str(row["num_seeds"]), str(len(row["diverged"]))]
        if evaluated:
            cells += [number(row["evaluation"][name]) for name in ("mean", "cvar_0.1")]
        add_row(table, *cells)
    console.print(table)
    for row in rows:
        where = f" ({row['setting']})" if row["setting"] else ""
        for one in row["diverged"]:
            say(console, f"seed {one['seed']}{where} diverged at step {one['step']:,}")
        for seed in row["without_episodes"]:
            say(console, f"seed {seed}{where} finished no episode: it has no score")


def num_diverged(summary: Mapping[str, Any]) -> int:
    """Runs that diverged, over all settings."""
    return sum(len(row["diverged"]) for row in summary["settings"])


def num_runs(summary: Mapping[str, Any]) -> int:
    """Runs of all settings."""
    return sum(row["num_seeds"] for row in summary["settings"])


def _interval(row: Mapping[str, Any]) -> str:
    """`[low, high]`; an open end where no bound is known."""
    if row["iqm_low"] is None and row["iqm_high"] is None:
        return "-"
    low = "-inf" if row["iqm_low"] is None else number(row["iqm_low"])
    high = "inf" if row["iqm_high"] is None else number(row["iqm_high"])
    return f"[{low}, {high}]"


def _finite(value: float) -> float | None:
    """JSON has no NaN and no infinity: None stands for both."""
    return float(value) if np.isfinite(value) else None
