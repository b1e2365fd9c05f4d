"""`jaxrl evaluate`: whole episodes of every agent in a run's last checkpoint, in the environment
of the run or, with --over, in a grid of them."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.cli.arguments import BadInput, refusing
from jaxrl.cli.job import Job, assignments, job_from_config, read_config, values_of
from jaxrl.cli.screen import as_json, interval, say, show
from jaxrl.core import notation
from jaxrl.core.files import take_lock, write_json
from jaxrl.core.protocols import Agent
from jaxrl.core.types import Key, PyTree
from jaxrl.training.checkpoint import Checkpoints
from jaxrl.training.evaluation import (
    Evaluation,
    RobustEvaluation,
    by_name,
    evaluate,
    evaluate_each,
)
from jaxrl.training.lanes import root_key, strong_floats, with_settings
from jaxrl.training.sweeps import Runs, restore_agents

_STREAM = 0x5E7A1  # apart from the keys of training


def run(arguments: Namespace, words: Sequence[str]) -> int:
    """Print tables and write `evaluation.json`, or `evaluation_over.json`, in the run's folder.

    Raises:
        BadInput: no run, no checkpoint, a parameter that the environment does not have, or one
            that changes shapes.
    """
    path = Path(arguments.run)
    job = job_from_config(read_config(path))
    grid = _grid(arguments)
    with refusing(ValueError, TypeError, KeyError, OverflowError, about="--over: "):
        envs = [strong_floats(job.env_at(one)) for one in grid]
    options = {name: getattr(arguments, name) for name in ("num_episodes", "max_steps", "explore")}
    where = f" in each of {len(envs)} environments" if envs else ""
    with refusing(ValueError, OSError):
        lock = take_lock(path, ".evaluation.lock")
    with lock:
        step, states = agents_of_run(job, path)
        report = {"step": step, **options, "seed": arguments.seed}
        played = f"{arguments.num_episodes:,} episodes of each agent{where}"
        say(f"{job.title}: {played}, after {step:,} steps")
        summary, display = _summary, _show
        if envs:
            labels = [", ".join(f"{name}={to}" for name, to in one.items()) for one in grid]
            report |= {"num_seeds": job.config["num_seeds"], "over": grid}
            summary, display = partial(_summary_over, labels=labels), _show_over
        with refusing(ValueError, about="--over: " * bool(envs)):
            played = evaluate_agents(job, states, arguments.seed, options, envs)
        rows = [
            {"setting": label} | summary(seeds)
            for label, seeds in zip(job.labels, played, strict=True)
        ]
        report = as_json(report | {"settings": rows})
        file = path / ("evaluation_over.json" if envs else "evaluation.json")
        write_json(file, report)
    display(report["settings"], "as in training" if arguments.explore else "greedy")
    say(f"written: {file}")
    return 0


def _grid(arguments: Namespace) -> list[dict[str, Any]]:
    """Every combination of the values of --over, in the order of a nested loop."""
    given = assignments(arguments.over, "--over")
    columns = {
        name: values_of("--over", name, text, notation.parse_literal)
        for name, text in given.items()
    }
    rows = itertools.product(*columns.values())
    return [dict(zip(columns, row, strict=True)) for row in rows if row]


def agents_of_run(job: Job, path: Path) -> tuple[int, PyTree]:
    """The agent states `[S, N, ...]` of the newest good checkpoint, and the step it was saved at.

    Raises:
        BadInput: the folder holds no checkpoint of this run.
    """
    with refusing(ValueError, OSError):
        checkpoints = Checkpoints(path / "checkpoints")
        found = restore_agents(checkpoints, job.agent, job.env, Runs(**job.program))
    if found is None:
        raise BadInput(f"{path} has no checkpoint yet: let it train on, or start it again.")
    return found


def evaluate_agents(
    job: Job, states: PyTree, seed: int, options: Mapping[str, Any], envs: Sequence[Any] = ()
) -> list[list[Any]]:
    """Evaluate every agent of `states[S, N, ...]`; a seed meets the same episodes in all settings.

    Args:
        job: the run that they are of.
        states: of the agents.
        seed: root of the episodes' randomness.
        options: of `jaxrl.evaluate`, such as `{"num_episodes": 10}`.
        envs: to play in each of; without any, in the run's own.

    Returns:
        For each setting, for each seed, an `Evaluation`, or a `RobustEvaluation` over `envs`.
    """
    key, own = episodes_key(seed), strong_floats(job.env)
    seeds = range(job.config["num_seeds"])

    def play(agent: Agent, index: int, number: int) -> Evaluation | RobustEvaluation:
        state = jax.tree.map(lambda leaf: leaf[index, number], states)
        episodes = jax.random.fold_in(key, number)
        if envs:
            return evaluate_each(episodes, agent, envs, state, **options)
        return evaluate(episodes, agent, own, state, **options)

    # One program serves all settings.
    agents = [strong_floats(with_settings(job.agent, values)) for values in job.combinations]
    return [[play(agent, i, number) for number in seeds] for i, agent in enumerate(agents)]


def episodes_key(seed: int) -> Key:
    """What the episodes of seed 0, 1, ... are drawn from, by `fold_in`."""
    return jax.random.fold_in(root_key(seed), _STREAM)


def pooled(seeds: Sequence[Any]) -> Any:
    """The episodes of all seeds together."""
    axis = seeds[0].returns.ndim - 1  # of the episodes; parameters are of settings

    def joined(*leaves: jax.Array) -> jax.Array:
        return jnp.concatenate(leaves, axis) if leaves[0].ndim > axis else leaves[0]

    return jax.tree.map(joined, *seeds)


def _summary(seeds: Sequence[Evaluation]) -> dict[str, Any]:
    by_seed = [one.summary() for one in seeds]
    means = [one["mean"] if math.isfinite(one["mean"]) else -math.inf for one in by_seed]
    return {
        "all_seeds": pooled(seeds).summary(),
        "worst_seed": means.index(min(means)),
        "seeds": {str(n): numbers for n, numbers in enumerate(by_seed)},
    }


def _summary_over(seeds: Sequence[RobustEvaluation], labels: Sequence[str]) -> dict[str, Any]:
    played = pooled(seeds)
    tails, means = played.setting_cvars(), played.setting_summary()
    by_setting = [
        {
            "over": label,
            "mean": dataclasses.asdict(means[index]),
            "cvar_0.1": float(tails[index]),
            "mean_length": float(jnp.mean(played.lengths[index])),
            "num_unfinished": int(jnp.sum(~played.finished[index])),
            **{name: float(jnp.mean(row[index])) for name, row in by_name(played).items()},
        }
        for index, label in enumerate(labels)
    ]
    together = {name: dataclasses.asdict(one) for name, one in played.summary().items()}
    worst = labels[int(played.worst_setting)]
    return {"by_setting": by_setting, "worst_setting": worst, **together}


def _signals(numbers: Mapping[str, Any]) -> list[str]:
    """Those of an evaluation's numbers that are of a cost or of a channel of the reward."""
    return [name for name in numbers if re.fullmatch(r"(cost|return)_\d+", name)]


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _show(settings: Sequence[dict[str, Any]], how: str) -> None:
    swept = any(one["setting"] for one in settings)
    columns = ["mean return", "CVaR 10 %", "worst decile", "worst", "mean length", "unfinished"]
    keys = ["mean", "cvar_0.1", "worst_decile", "worst", "mean_length", "num_unfinished"]
    signals = _signals(settings[0]["all_seeds"])
    columns, keys, rows = columns + [f"mean {_plain(x)}" for x in signals], keys + signals, []
    for one in settings:
        worst = one["worst_seed"]
        found = {f"all {len(one['seeds'])}": one["all_seeds"]}
        found[f"worst: {worst}"] = one["seeds"][str(worst)]
        label = [one["setting"]] * swept
        rows += [[*label, name, *map(numbers.get, keys)] for name, numbers in found.items()]
    caption = f"{how}; CVaR 10 %: mean of the worst tenth of whole returns"
    show(["setting"] * swept + ["seeds", *columns], rows, numeric=columns, caption=caption)


def _show_over(settings: Sequence[dict[str, Any]], how: str) -> None:
    numeric = ["mean return", "95 %", "CVaR 10 %", "mean length", "unfinished"]
    signals = _signals(settings[0]["by_setting"][0])
    numeric += [f"mean {_plain(name)}" for name in signals]
    keys = ("cvar_0.1", "mean_length", "num_unfinished", *signals)
    caption = (
        f"{how}; all seeds together; intervals: bootstrap of the episodes, the agents held fixed; "
        "CVaR 10 %: mean of the worst tenth"
    )

    def cells(name: str, mean: dict[str, float | None], *more: Any) -> list[Any]:
        return [name, mean["value"], interval(mean["low"], mean["high"]), *more]

    for one in settings:
        rows = [cells(row["over"], row["mean"], *map(row.get, keys)) for row in one["by_setting"]]
        together = {
            "mean of settings": one["mean"],
            f"worst setting: {one['worst_setting']}": one["worst"],
            "CVaR 10 % of settings": one["cvar_settings"],
            "CVaR 10 % of episodes": one["cvar_episodes"],
        }
        rows += [cells(title, mean, *[""] * len(keys)) for title, mean in together.items()]
        for name in filter(lambda name: name.startswith("cost"), signals):
            rows.append(cells(f"{_plain(name)}, mean of settings", one[name], *[""] * len(keys)))
            worst = one[f"worst_{name}"]
            rows.append(cells(f"{_plain(name)}, worst setting", worst, *[""] * len(keys)))
        about = {"title": one["setting"], "caption": caption, "section": len(one["by_setting"])}
        show(["environment", *numeric], rows, numeric=numeric, **about)
