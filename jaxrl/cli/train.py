"""`jaxrl train`: check, plan, train with checkpoints, and say what came of it."""

from __future__ import annotations

import contextlib
import warnings
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrl.cli.arguments import BadInput, refusing
from jaxrl.cli.evaluate import evaluate_agents, pooled
from jaxrl.cli.interrupt import Interrupt, catch_signals
from jaxrl.cli.job import Job, default_folder, job_from_config, make_job, read_config
from jaxrl.cli.notices import final_notices, notices
from jaxrl.cli.progress import Watch
from jaxrl.cli.screen import as_json, say
from jaxrl.cli.summary import SCORE, settings_summary, show_summary
from jaxrl.training.checkpoint import Checkpoints
from jaxrl.training.lanes import root_key
from jaxrl.training.loop import is_episode_mean
from jaxrl.training.memory import gigabytes
from jaxrl.training.run_config import describe_difference, to_text
from jaxrl.training.run_folder import RunFolder, open_run
from jaxrl.training.session import Forecast, SweepResult
from jaxrl.training.sweeps import Runs, forecast, sweep

# What may stand beside --resume: it changes no number of the run.
_FREE = {"--resume", "--dry-run", "--eval-episodes", "--checkpoint-seconds", "--time-limit"}


def run(arguments: Namespace, words: Sequence[str]) -> int:
    """Train, and show what came of it.

    Args:
        arguments: what was asked.
        words: the command line that said so, noted in the run's folder.

    Returns:
        0; 1 when every run diverged; 128 + signal when it was stopped, 124 when its time was up.

    Raises:
        BadInput: anything that cannot be, before a program is compiled.
    """
    job, path = _job_and_folder(arguments, words)
    if not arguments.overwrite:
        _check_can_go_on(RunFolder(path))
    # Traced and not compiled: states that do not fit in memory are refused here.
    with refusing(KeyError, ValueError, MemoryError, OverflowError):
        plan = forecast(job.agent, job.env, Runs(**job.program))
    say(f"{job.title}: {_plan_line(plan, job.config['num_steps'])}")
    if arguments.dry_run:
        _show_plan(job, plan, path, arguments.overwrite)
        return 0
    with refusing(ValueError, OSError):
        folder = open_run(path, job.config, arguments.overwrite, ["jaxrl", *words])
    with folder:
        with refusing(ValueError, OSError):
            summary = folder.summary() if folder.is_finished() else {}
        if "settings" in summary:
            say(f"{path} is finished already; --overwrite trains it anew")
        else:
            summary = _train_in(folder, job, arguments)
        if isinstance(summary, Interrupt):
            saved = Checkpoints(folder.checkpoints).steps()
            what = "everything is saved" if saved else "before anything was trained or saved"
            say(f"stopped; {what}. To continue: jaxrl train --resume {path}")
            return summary.exit_code
        show_summary(summary)
        say(f"learning curve: {path / 'plots' / 'curve.png'}")
    return int(all(len(row["diverged"]) == row["num_seeds"] for row in summary["settings"]))


def _job_and_folder(arguments: Namespace, words: Sequence[str]) -> tuple[Job, Path]:
    """The run asked for, and where it lives."""
    if arguments.resume is None:
        job = make_job(arguments)
        folder = default_folder(f"{arguments.env}-{arguments.agent}", job.config)
        return job, Path(arguments.run_dir or folder)
    given = {word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")}
    if others := sorted(given - _FREE):
        raise BadInput(f"--resume takes the run as it was configured: leave out {others[0]}.")
    path = Path(arguments.resume)
    return job_from_config(read_config(path)), path


def _check_can_go_on(run: RunFolder) -> None:
    """Raise `BadInput` where a run would begin anew over its own records."""
    with refusing(ValueError, OSError):
        saved = run.is_finished() or Checkpoints(run.checkpoints).steps()
        if saved or not run.has_begun():
            return
    raise BadInput(
        f"{run.path} has records, but no good checkpoint to go on from: nothing was changed. To "
        "begin anew, give another --run-dir, or replace this run (--overwrite)."
    )


def _plan_line(plan: Forecast, num_steps: int) -> str:
    """The plan in a line; `num_steps` is the budget that was asked for."""
    total, num_runs = plan.budget.total_steps, len(plan.settings) * len(plan.seeds)
    rounded = "" if total == num_steps else f" ({num_steps:,} rounded up to whole records)"
    groups, width = plan.num_groups, plan.lanes * jax.device_count()
    return (
        f"{num_runs:,} run{'s' * (num_runs != 1)}: {groups:,} group{'s' * (groups != 1)} of "
        f"{width}, {gigabytes(plan.memory.per_group)} each; {total:,} steps each{rounded}, "
        f"{plan.budget.num_records} records"
    )


def _show_plan(job: Job, plan: Forecast, path: Path, overwrite: bool) -> None:
    """What a run would do, for `--dry-run`."""
    _warn(notices(job))
    found = "(new)"
    if (path / "config.yaml").is_file():
        different = describe_difference(read_config(path), job.config)
        if different and not overwrite:
            lines = "\n  ".join(different)
            raise BadInput(f"{path} holds a run with another configuration:\n  {lines}")
        found = "(would be replaced)" if overwrite else "(would continue)"
    say(f"folder: {path} {found}")
    Checkpoints(path / "checkpoints").foresee(plan.memory.per_group * plan.num_groups)
    for label in filter(None, job.labels):
        say(f"setting: {label}")
    say(to_text(job.config).rstrip())


def _warn(texts: Sequence[str]) -> None:
    for text in texts:
        warnings.warn(text, stacklevel=2)


def _train_in(run: RunFolder, job: Job, arguments: Namespace) -> dict[str, Any] | Interrupt:
    """Train in an open folder: the summary, or what stopped it."""
    _warn(notices(job))
    say(f"folder: {run.path}")
    _note(run, "running")
    try:
        with catch_signals(say, arguments.time_limit) as interrupt:
            say("compiling (about 10 s, cached next time)")
            result = None
            with Watch(run, job.labels, interrupt) as watch:
                result = sweep(
                    root_key(job.config["seed"]),
                    job.agent,
                    job.env,
                    **job.program,
                    observer=watch,
                    checkpoints=Checkpoints(run.checkpoints),
                    checkpoint_seconds=arguments.checkpoint_seconds,
                )
        if result is not None and not result.interrupted:
            return _finish(run, job, arguments, result, watch)
        run.set_status("interrupted", {"signal": interrupt.number, "share": watch.share})
        return interrupt
    except (MemoryError, ValueError, OSError) as error:
        # Too large, checkpoints that cannot be gone on from, a full disk.
        with contextlib.suppress(OSError):
            _note(run, "failed", reason=str(error)[:2000])
        raise BadInput(str(error)) from error
    except BaseException as error:
        _note(run, "failed", reason=f"{type(error).__name__}: {error}"[:2000])
        raise


def _note(run: RunFolder, state: str, **details: str) -> None:
    """The status, and whether a checkpoint was saved: without one, a run may begin anew."""
    saved = bool(Checkpoints(run.checkpoints).steps())
    run.set_status(state, {**details, "checkpoint": saved})


def _finish(
    run: RunFolder, job: Job, arguments: Namespace, result: SweepResult, watch: Watch
) -> dict[str, Any]:
    """Write everything a finished run leaves, and return its summary."""
    from jaxrl.report import learning_curves

    _warn(final_notices(job, result))
    rows = settings_summary(result, job.labels)
    if count := arguments.eval_episodes:
        played = evaluate_agents(job, result.agent_states, 0, {"num_episodes": count})
        for row, seeds in zip(rows, played, strict=True):  # pooled over the seeds of each setting
            row["evaluation"] = pooled(seeds).summary()
    device = jax.devices()[0]
    summary = as_json(
        {
            "title": job.title,
            "score": SCORE,
            "num_steps": int(result.steps[-1]),
            "num_records": len(result.steps),
            "device": f"{jax.device_count()} x {device.platform} ({device.device_kind})",
            "compile_seconds": round(result.forecast.compile_seconds, 3),
            "run_seconds": round(result.run_seconds, 3),  # of this process, when it was continued
            "steps_per_second": round(
                (1 - watch.first_share) * result.forecast.total_steps / result.run_seconds
            ),
            "settings": rows,
        }
    )
    signals = {
        name: values
        for name, values in result.metrics.items()
        if is_episode_mean(name) and name != "episode_length"
    }
    diverged = [np.flatnonzero(steps >= 0) for steps in result.diverged_at]
    names = [label or job.config["agent"] for label in job.labels]
    for signal, values in signals.items():  # returns, and costs where there are any
        learning_curves(
            run.plots / ("curve.png" if signal == "episode_return" else f"{signal}.png"),
            {name: (result.steps, one) for name, one in zip(names, values, strict=True)},
            diverged={name: rows.tolist() for name, rows in zip(names, diverged, strict=True)},
            title=job.title,
            y_label=signal.replace("_", " "),
        )
    bad = sum(len(row["diverged"]) for row in rows)
    run.finish(summary, "diverged" if bad else "done", {"num_diverged": bad})
    return summary
