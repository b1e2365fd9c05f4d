"""`jaxrl evaluate`: whole episodes of every agent in a run's last checkpoint."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.cli.arguments import Evaluate
from jaxrl.cli.errors import BadInput, check_seed, refusing
from jaxrl.cli.job import Job, job_from_config, read_config
from jaxrl.cli.screen import add_row, make_console, make_table, number, say
from jaxrl.core.files import replacing, take_lock
from jaxrl.core.types import Key, PyTree
from jaxrl.training.checkpoint import Checkpoints
from jaxrl.training.evaluation import Evaluation, evaluate
from jaxrl.training.lanes import root_key, strong_floats, with_settings
from jaxrl.training.sweeps import Runs, restore_agents

_FILE = "evaluation.json"
_STREAM = 0x5E7A1  # apart from the keys of training


def evaluate_run(arguments: Evaluate) -> int:
    """Run `jaxrl evaluate`: print a table and write `evaluation.json` in the run's folder.

    Raises:
        BadInput: no run, no checkpoint, or a number out of range.
    """
    console = make_console()
    check_numbers(arguments)
    path = Path(arguments.run)
    job = job_from_config(read_config(path))
    with evaluating(path):
        step, states = agents_of_run(job, path)
        say(
            console,
            f"{job.title}: {arguments.num_episodes:,} episodes of each agent, after {step:,} steps",
        )
        played = evaluate_agents(
            job,
            states,
            arguments.seed,
            arguments.num_episodes,
            arguments.max_steps,
            arguments.explore,
        )
        report = {
            **asked(arguments, step),
            "settings": [
                _report(label, seeds) for label, seeds in zip(job.labels, played, strict=True)
            ],
        }
        write_report(path / _FILE, report)
    _show(console, report)
    say(console, f"written: {path / _FILE}")
    return 0


def asked(arguments: Evaluate, step: int) -> dict[str, Any]:
    """What a report begins with: how agents of `step` environment steps were played."""
    names = ("num_episodes", "max_steps", "explore", "seed")
    return {"step": step, **{name: getattr(arguments, name) for name in names}}


@contextlib.contextmanager
def evaluating(path: Path) -> Iterator[None]:
    """No other process may evaluate the run in `path` meanwhile; it may train on."""
    with refusing(ValueError, OSError):
        lock = take_lock(path, ".evaluation.lock")
    with lock:
        yield


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Write `report` in one step, so that no reader finds half of it."""
    with replacing(path) as stream:
        stream.write((json.dumps(report, indent=2) + "\n").encode())


def check_numbers(arguments: Evaluate) -> None:
    """Raise `BadInput` on a number out of range."""
    if arguments.num_episodes < 1 or arguments.max_steps < 1:
        raise BadInput("--num-episodes and --max-steps must be at least 1.")
    check_seed(arguments.seed)


def agents_of_run(job: Job, path: Path) -> tuple[int, PyTree]:
    """The agent states `[S, N, ...]` of the newest good checkpoint, and the step it was saved at.

    Raises:
        BadInput: the folder holds no checkpoint of this run.
    """
    with refusing(ValueError, OSError):
        runs = Runs(job.num_seeds, job.num_steps, job.over, job.num_records, job.lanes)
        found = restore_agents(Checkpoints(path / "checkpoints"), job.agent, job.env, runs)
    if found is None:
        raise BadInput(f"{path} has no checkpoint yet: let it train on, or start it again.")
    return found


def evaluate_agents(
    job: Job,
    states: PyTree,
    seed: int,
    num_episodes: int,
    max_steps: int = 10_000,
    explore: bool = False,
) -> list[list[Evaluation]]:
    """Evaluate every agent of `states[S, N, ...]`; a seed meets the same episodes in all settings.

    Returns:
        For each setting, for each seed, `num_episodes` episodes.
    """
    key = episodes_key(seed)
    env = strong_floats(job.env)
    played = []
    for index, values in enumerate(job.combinations):
        agent = strong_floats(with_settings(job.agent, values))  # one program serves all settings
        played.append(
            [
                evaluate(
                    jax.random.fold_in(key, number_of_seed),
                    agent,
                    env,
                    jax.tree.map(lambda leaf, i=index, n=number_of_seed: leaf[i, n], states),
                    num_episodes=num_episodes,
                    max_steps=max_steps,
                    explore=explore,
                )
                for number_of_seed in range(job.num_seeds)
            ]
        )
    return played


def episodes_key(seed: int) -> Key:
    """What the episodes of seed 0, 1, ... are drawn from, by `fold_in`."""
    return jax.random.fold_in(root_key(seed), _STREAM)


def pooled_summary(seeds: list[Evaluation]) -> dict[str, float | int | None]:
    """Plain numbers of the episodes of all seeds together."""
    pooled = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *seeds)
    return _plain(pooled)


def _plain(evaluation: Evaluation) -> dict[str, float | int | None]:
    numbers = evaluation.summary()
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def _report(label: str, seeds: list[Evaluation]) -> dict[str, Any]:
    by_seed = [_plain(one) for one in seeds]
    means = [-math.inf if one["mean"] is None else one["mean"] for one in by_seed]
    worst = means.index(min(means))
    return {
        "setting": label,
        "all_seeds": pooled_summary(seeds),
        "worst_seed": worst,
        "seeds": {str(n): numbers for n, numbers in enumerate(by_seed)},
    }


def _show(console: Any, report: dict[str, Any]) -> None:
    swept = any(one["setting"] for one in report["settings"])
    numeric = ["mean return", "CVaR 10 %", "worst decile", "worst", "mean length", "unfinished"]
    columns = ["setting"] * swept + ["seeds", *numeric]
    how = "as in training" if report["explore"] else "greedy"
    caption = f"{how}; CVaR 10 %: mean of the worst tenth of whole returns"
    table = make_table(columns, numeric=numeric, caption=caption)
    for one in report["settings"]:
        worst = one["worst_seed"]
        rows = {
            f"all {len(one['seeds'])}": one["all_seeds"],
            f"worst: {worst}": one["seeds"][str(worst)],
        }
        for name, numbers in rows.items():
            cells = [numbers[key] for key in ("mean", "cvar_0.1", "worst_decile", "worst")]
            cells += [numbers["mean_length"], numbers["num_unfinished"]]
            add_row(table, *([one["setting"]] * swept), name, *map(number, cells))
    console.print(table)
