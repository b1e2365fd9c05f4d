"""`jaxrl evaluate --over`: every agent of a run in a grid of environments."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.cli.arguments import Evaluate
from jaxrl.cli.errors import BadInput, refusing
from jaxrl.cli.evaluate import (
    agents_of_run,
    asked,
    check_numbers,
    episodes_key,
    evaluating,
    write_report,
)
from jaxrl.cli.job import Job, assignments, job_from_config, read_config
from jaxrl.cli.screen import add_row, make_console, make_table, number, say
from jaxrl.core import notation
from jaxrl.core.estimates import Estimate
from jaxrl.core.protocols import Environment
from jaxrl.core.types import PyTree
from jaxrl.training.evaluation import RobustEvaluation, evaluate_each
from jaxrl.training.lanes import strong_floats, with_settings

_FILE = "evaluation_over.json"
_TAIL = 0.1
_SUMMARY = {
    "mean": "mean of settings",
    "worst": "worst setting",
    "cvar_settings": "CVaR 10 % of settings",
    "cvar_episodes": "CVaR 10 % of episodes",
}


def evaluate_run_over(arguments: Evaluate) -> int:
    """Run `jaxrl evaluate --over`: print a table and write `evaluation_over.json` in the run.

    Raises:
        BadInput: no run, no checkpoint, a parameter that the environment does not have, or one
            that changes shapes.
    """
    console = make_console()
    check_numbers(arguments)
    path = Path(arguments.run)
    job = job_from_config(read_config(path))
    settings = _settings(arguments)
    envs = _environments(job, settings)
    with evaluating(path):
        step, states = agents_of_run(job, path)
        say(
            console,
            f"{job.title}: {arguments.num_episodes:,} episodes of each agent in each of "
            f"{len(envs)} environments, after {step:,} steps",
        )
        with refusing(ValueError, about="--over: "):
            played = [
                _play(job, states, index, envs, arguments) for index in range(len(job.combinations))
            ]
        labels = [", ".join(f"{name}={to}" for name, to in one.items()) for one in settings]
        report = {
            **asked(arguments, step),
            "num_seeds": job.num_seeds,
            "over": settings,
            "settings": [
                {"setting": label, **_report(one, labels)}
                for label, one in zip(job.labels, played, strict=True)
            ],
        }
        write_report(path / _FILE, report)
    for one in report["settings"]:
        console.print(_table(one, arguments.explore))
    say(console, f"written: {path / _FILE}")
    return 0


def _settings(arguments: Evaluate) -> list[dict[str, Any]]:
    """Every combination of the values, in the order of a nested loop."""
    columns = {}
    for name, text in assignments(arguments.over, "--over").items():
        texts = [part.strip() for part in text.split(",") if part.strip()]
        if not texts:
            raise BadInput(f"--over {name} has no values: give at least one.")
        if len(set(texts)) < len(texts):
            raise BadInput(f"--over {name} has a value twice: {', '.join(texts)}.")
        columns[name] = [notation.parse_literal(text) for text in texts]
    rows = itertools.product(*columns.values())
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _environments(job: Job, settings: list[dict[str, Any]]) -> list[Environment]:
    """The environment of the run at each setting."""
    with refusing(ValueError, TypeError, KeyError, OverflowError, about="--over: "):
        return [strong_floats(job.env_at(one)) for one in settings]


def _play(
    job: Job, states: PyTree, index: int, envs: list[Environment], arguments: Evaluate
) -> RobustEvaluation:
    """The episodes of all seeds of agent setting `index`, side by side, `[M, N * E]`."""
    agent = strong_floats(with_settings(job.agent, job.combinations[index]))
    key = episodes_key(arguments.seed)
    played = [
        evaluate_each(
            jax.random.fold_in(key, seed),
            agent,
            envs,
            jax.tree.map(lambda leaf, n=seed: leaf[index, n], states),
            num_episodes=arguments.num_episodes,
            max_steps=arguments.max_steps,
            explore=arguments.explore,
        )
        for seed in range(job.num_seeds)
    ]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *played)


def _report(played: RobustEvaluation, labels: list[str]) -> dict[str, Any]:
    tails, means = played.setting_cvars(_TAIL), played.setting_summary()
    return {
        "by_setting": [
            {
                "over": label,
                "mean": _plain(means[index]),
                "cvar_0.1": _finite(float(tails[index])),
                "mean_length": float(jnp.mean(played.lengths[index])),
                "num_unfinished": int(jnp.sum(~played.finished[index])),
            }
            for index, label in enumerate(labels)
        ],
        "worst_setting": labels[int(played.worst_setting)],
        **{name: _plain(estimate) for name, estimate in played.summary(_TAIL).items()},
    }


def _plain(estimate: Estimate) -> dict[str, float | None]:
    return {name: _finite(value) for name, value in dataclasses.asdict(estimate).items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _table(one: dict[str, Any], explore: bool) -> Any:
    numeric = ["mean return", "95 %", "CVaR 10 %", "mean length", "unfinished"]
    how = "as in training" if explore else "greedy"
    caption = (
        f"{how}; all seeds together; intervals: bootstrap of the episodes, the agents held fixed; "
        "CVaR 10 %: mean of the worst tenth"
    )
    table = make_table(["environment", *numeric], numeric=numeric, caption=caption)
    table.title = one["setting"] or None
    for row in one["by_setting"]:
        cells = [number(row[name]) for name in ("cvar_0.1", "mean_length", "num_unfinished")]
        add_row(table, row["over"], number(row["mean"]["value"]), _interval(row["mean"]), *cells)
    table.add_section()
    for name, title in _SUMMARY.items():
        title = f"{title}: {one['worst_setting']}" if name == "worst" else title
        add_row(table, title, number(one[name]["value"]), _interval(one[name]), "", "", "")
    return table


def _interval(estimate: dict[str, float | None]) -> str:
    return f"[{number(estimate['low'])}, {number(estimate['high'])}]"
