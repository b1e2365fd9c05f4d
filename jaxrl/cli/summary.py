"""What a finished sweep amounts to: a score for every seed, and a row for every setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxrl.cli.screen import as_json, interval, number, say, show
from jaxrl.training.loop import is_episode_mean
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
    signals = {  # of seeds that diverged, what they had last
        name.removeprefix("episode_"): final_scores(values, np.zeros_like(diverged))
        for name, values in result.metrics.items()
        if is_episode_mean(name) and name[-1].isdecimal()  # a cost or a channel
    }
    rows = []
    for index, label in enumerate(labels):
        found = aggregate(scores[index], seeds=result.seeds)
        seeds = [*zip(result.seeds, scores[index], result.diverged_at[index], strict=True)]
        rows.append(
            {
                "setting": label,
                "values": result.settings[index],
                "iqm": found.iqm.value,
                "iqm_low": found.iqm.low,
                "iqm_high": found.iqm.high,
                "median": found.median.value,
                "mean": found.mean.value,
                "worst": found.worst,
                "worst_seed": found.worst_seed,
                "num_seeds": found.num_seeds,
                "diverged": [{"seed": n, "step": int(step)} for n, _, step in seeds if step >= 0],
                "without_episodes": [n for n, score, step in seeds if np.isnan(score) and step < 0],
                "scores": {str(n): float(score) for n, score, _ in seeds},
                "signals": {
                    name: float(np.mean(values[index])) for name, values in signals.items()
                },
            }
        )
    return as_json(rows)


def show_summary(summary: Mapping[str, Any]) -> None:
    """Print the table of a run's `summary.json`, best setting first, and its diverged seeds."""
    settings = summary["settings"]
    swept, evaluated = len(settings) > 1 or settings[0]["setting"], "evaluation" in settings[0]
    columns = ["interquartile mean", "95 % interval", "median", "worst seed", "seeds", "diverged"]
    signals = [*settings[0].get("signals", {})]
    columns += [f"mean {name.replace('_', ' ')}" for name in signals]
    columns += ["greedy mean", "greedy CVaR 10 %"] * evaluated
    columns += [f"greedy {name.replace('_', ' ')}" for name in signals] * evaluated
    rows = []
    for row in sorted(settings, key=lambda row: (row["iqm"] is None, -(row["iqm"] or 0.0))):
        cells = [row["setting"]] * bool(swept) + [number(row["iqm"])]
        cells += [interval(row["iqm_low"], row["iqm_high"]), number(row["median"])]
        cells += [f"{number(row['worst'])} (seed {row['worst_seed']})"]
        cells += [str(row["num_seeds"]), str(len(row["diverged"]))]
        cells += [number(row["signals"][name]) for name in signals]
        if evaluated:
            cells += [number(row["evaluation"][name]) for name in ("mean", "cvar_0.1", *signals)]
        rows.append(cells)
    labels = ["setting"] * bool(swept)
    show(labels + columns, rows, numeric=columns, title=summary["title"], caption=summary["score"])
    for row in settings:
        where = f" ({row['setting']})" if row["setting"] else ""
        for one in row["diverged"]:
            say(f"seed {one['seed']}{where} diverged at step {one['step']:,}")
        for seed in row["without_episodes"]:
            say(f"seed {seed}{where} finished no episode: it has no score")
