"""What learned update rules earn, beside hand-written ones at their own best settings.

    python benchmarks/meta_learning.py                      # all parts, hours; results/ is written
    python benchmarks/meta_learning.py lpg --seeds 0 1 2    # one part; the others' results stay
    python benchmarks/meta_learning.py --quick              # two outer steps each; prints only

A part is an experiment of `jaxrl meta`, run for several meta-seeds: a meta-seed draws the first
weights, the lives learned from, the lives that settings are chosen on, and the lives that the table
is about, which are new to all. In a row all agents live the same lives. `share` is the mean score
over the first agent's; `in s.e.` is the mean paired difference over its standard error.

The part `cost` measures what meta-gradients keep in memory, what makes outer loops compile again,
and what it is worth that both of a mirrored pair live the same lives.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from meta_costs import costs, costs_table
from meta_pictures import draw
from provenance import made_by, told

from jaxrl.core import Estimate
from jaxrl.meta import Comparison
from jaxrl.meta.experiments import EXPERIMENTS, Run

RESULTS = pathlib.Path(__file__).parent / "results"
NUM_SEEDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = [*EXPERIMENTS, "cost"]
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(parts)}; all by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(NUM_SEEDS)))
    parser.add_argument("--quick", action="store_true", help="two outer steps; prints only")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(parts):
        parser.error(f"unknown part {', '.join(unknown)}: give some of {', '.join(parts)}.")
    for part in arguments.parts or parts:
        if part == "cost":
            found = costs()
            print(costs_table(found), flush=True)
            if not arguments.quick:
                keep(part, "all", found)
            continue
        for number, seed in enumerate(arguments.seeds[: 1 if arguments.quick else None]):
            steps = 2 if arguments.quick else None
            started = time.process_time()
            result = EXPERIMENTS[part]().run(Run(seed=seed, num_steps=steps))
            kept = summary(result, time.process_time() - started)
            print(f"{part}, meta-seed {seed}\n{result.table()}\n", flush=True)
            if not arguments.quick:
                kept["picture"] = draw(RESULTS, part, result) if number == 0 else None
                keep(part, str(seed), kept)


def keep(part: str, name: str, run: Mapping[str, Any]) -> None:
    """Write one run beside those that are there already."""
    path = RESULTS / "meta_learning.json"
    report = json.loads(path.read_text()) if path.exists() else {"parts": {}}
    runs = report["parts"].setdefault(part, {}) | {name: {**run, "made": told(made_by())}}
    report["parts"][part] = dict(sorted(runs.items()))
    path.write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / "meta_learning.md").write_text(document(report))


def summary(result: Any, cpu_seconds: float) -> dict[str, Any]:
    """What is kept of a run."""
    return {
        "learning": {name: round(value, 1) for name, value in result.cpu_seconds.items()},
        "cpu_seconds": round(cpu_seconds, 1),
        "notes": result.notes,
        "lives": {name: rows(comparison) for name, comparison in result.comparisons.items()},
    }


def rows(comparison: Comparison) -> dict[str, Any]:
    """Each agent's score and its difference from the first's in the same lives."""
    first = next(iter(comparison.contenders))
    found = {}
    for name, one in comparison.contenders.items():
        row: dict[str, Any] = {
            "settings": one.settings,
            "at_end": list(one.at_end),
            "score": _numbers(comparison.score(name)),
        }
        if name != first:
            gaps = one.scores - comparison.contenders[first].scores
            error = float(np.std(gaps, ddof=1) / math.sqrt(len(gaps)))
            row |= {
                "more": _numbers(comparison.difference(name, first)),
                "in_errors": float(np.mean(gaps)) / error if error else None,
                "wins": comparison.wins(name, first),
            }
        found[name] = row
    lives = len(comparison.contenders[first].scores)
    return {"measure": comparison.measure, "num_lives": lives, "agents": found}


def document(report: Mapping[str, Any]) -> str:
    """Markdown."""
    lines = ["# Learned update rules", ""]
    lines += ["Written by `benchmarks/meta_learning.py`, which says what is measured."]
    for part in EXPERIMENTS:
        if part in report["parts"]:
            about = EXPERIMENTS[part]().about
            lines += ["", f"## {part}", "", about[0].upper() + about[1:] + "."]
            lines += experiment_lines(report["parts"][part])
    if "cost" in report["parts"]:
        found = report["parts"]["cost"]["all"]
        lines += ["", f"## cost ({found['made']})", "", costs_table(found)]
    return "\n".join(lines) + "\n"


def experiment_lines(runs: Mapping[str, Any]) -> list[str]:
    """One table for each group of held-out lives, a row for each meta-seed and agent."""
    lines: list[str] = []
    first_run = next(iter(runs.values()))
    for group, table in first_run["lives"].items():
        base = next(iter(table["agents"]))
        lines += [
            "",
            f"### {group}: {table['measure']}, {table['num_lives']} lives",
            "",
            f"| meta-seed | agent | settings | score (95 %) | more than {base} (95 %) | in s.e. "
            "| share | lives won |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for seed, run in runs.items():
            agents = run["lives"][group]["agents"]
            for name, row in agents.items():
                settings = ", ".join(
                    f"{key.split('.')[-1]} {value:g}"
                    + " (end of its list)" * (key in row["at_end"])
                    for key, value in row["settings"].items()
                )
                cells = [seed, name, settings or "as given", _text(row["score"])]
                if "more" in row:
                    errors = row["in_errors"]
                    share = row["score"][0] / agents[base]["score"][0]
                    cells += [
                        _text(row["more"]),
                        "" if errors is None else f"{errors:+.1f}",
                        f"{100 * share:.1f} %" if agents[base]["score"][0] > 0 else "",
                        f"{100 * row['wins']:.0f} %",
                    ]
                else:
                    cells += ["", "", "", ""]
                lines.append(f"| {' | '.join(cells)} |")
        lines += pooled_lines(runs, group, base)
    lines += [""]
    for seed, run in runs.items():
        spent = ", ".join(f"{name} {value:.0f} s" for name, value in run["learning"].items())
        lines += [
            f"Meta-seed {seed}: CPU time of learning {spent}; of all {run['cpu_seconds']:.0f} s "
            f"({run['made']}).",
            "",
        ]
        if run["notes"]:
            lines += [run["notes"], ""]
        if run.get("picture"):
            lines += [f"![meta-seed {seed}]({run['picture']})", ""]
    return lines[:-1]


def pooled_lines(runs: Mapping[str, Any], group: str, base: str) -> list[str]:
    """The mean paired difference over all meta-seeds: each has lives of its own."""
    parts = []
    for name in next(iter(runs.values()))["lives"][group]["agents"]:
        rows = [run["lives"][group]["agents"][name] for run in runs.values()]
        if len(rows) < 2 or any(not row.get("in_errors") for row in rows):
            continue
        mean = sum(row["more"][0] for row in rows) / len(rows)
        error = math.hypot(*(row["more"][0] / row["in_errors"] for row in rows)) / len(rows)
        parts.append(f"{name} {mean:+.4g} ({mean / error:+.1f} s.e.)")
    return ["", f"All meta-seeds, more than {base}: {'; '.join(parts)}."] if parts else []


def _numbers(estimate: Estimate) -> list[float]:
    return [estimate.value, estimate.low, estimate.high]


def _text(numbers: list[float]) -> str:
    value, low, high = numbers
    return f"{value:.4g} [{low:.4g}, {high:.4g}]"


if __name__ == "__main__":
    main()
