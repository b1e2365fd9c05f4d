"""`jaxrl train`: check, plan, train with checkpoints, and say what came of it."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from jaxrl.cli.arguments import Train, given_options
from jaxrl.cli.errors import BadInput, refusing
from jaxrl.cli.evaluate import evaluate_agents, pooled_summary
from jaxrl.cli.forecast import forecast, plan_line
from jaxrl.cli.interrupt import Interrupt, catch_signals
from jaxrl.cli.job import Job, job_from_arguments, job_from_config, read_config
from jaxrl.cli.notices import final_notices, notices
from jaxrl.cli.progress import Stopped, Watch
from jaxrl.cli.screen import make_console, say
from jaxrl.cli.summary import SCORE, num_diverged, num_runs, settings_summary, show_summary
from jaxrl.training.checkpoint import Checkpoints
from jaxrl.training.lanes import root_key
from jaxrl.training.run_config import describe_difference, to_text
from jaxrl.training.run_folder import RunFolder, open_run
from jaxrl.training.session import Forecast, SweepResult
from jaxrl.training.sweeps import sweep

# What may stand beside --resume: it changes no number of the run.
_BESIDE_RESUME = {"resume", "dry_run", "eval_episodes", "checkpoint_seconds", "time_limit"}


def train(arguments: Train, words: Sequence[str]) -> int:
    """Run `jaxrl train`.

    Args:
        arguments: what was asked.
        words: the command line that said so, noted in the run's folder.

    Returns:
        0; 1 when every run diverged; 128 + signal when it was stopped, 124 when its time was up.

    Raises:
        BadInput: anything that cannot be, before a program is compiled.
    """
    console = make_console()
    if arguments.eval_episodes < 0 or not arguments.checkpoint_seconds >= 0:
        raise BadInput("--eval-episodes and --checkpoint-seconds must not be negative.")
    if not arguments.time_limit > 0:
        raise BadInput("--time-limit must be more than 0 seconds.")
    job, path = _job_and_folder(arguments, words)
    if not arguments.overwrite:
        _check_can_go_on(RunFolder(path))
    plan = forecast(job)
    say(console, f"{job.title}: {plan_line(plan, job.num_steps)}")
    if arguments.dry_run:
        _show_plan(console, job, plan, path, arguments.overwrite)
        return 0
    with refusing(ValueError, OSError):
        run = open_run(path, job.config(), arguments.overwrite, ["jaxrl", *words])
    with run:
        with refusing(ValueError, OSError):
            summary = run.summary() if run.is_finished() else {}
        if "settings" in summary:
            say(console, f"{path} is finished already; --overwrite trains it anew")
        else:
            summary = _train_in(run, job, arguments, console)
        if isinstance(summary, Interrupt):
            saved = Checkpoints(run.checkpoints).steps()
            what = "everything is saved" if saved else "before anything was trained or saved"
            say(console, f"stopped; {what}. To continue: jaxrl train --resume {path}")
            return summary.exit_code
        show_summary(console, summary)
        say(console, f"learning curve: {path / 'plots' / 'curve.png'}")
    return 1 if num_diverged(summary) == num_runs(summary) else 0


def _job_and_folder(arguments: Train, words: Sequence[str]) -> tuple[Job, Path]:
    """The run asked for, and where it lives."""
    if arguments.resume is None:
        job = job_from_arguments(arguments)
        return job, Path(arguments.run_dir) if arguments.run_dir else job.default_folder()
    others = sorted(given_options(list(words)) - _BESIDE_RESUME)
    if others:
        option = "--" + others[0].replace("_", "-")
        raise BadInput(f"--resume takes the run as it was configured: leave out {option}.")
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


def _show_plan(console: Console, job: Job, plan: Forecast, path: Path, overwrite: bool) -> None:
    """What a run would do, for `--dry-run`."""
    _warn(job)
    if (path / "config.yaml").is_file():
        different = describe_difference(read_config(path), job.config())
        if different and not overwrite:
            lines = "\n  ".join(different)
            raise BadInput(f"{path} holds a run with another configuration:\n  {lines}")
        say(console, f"folder: {path} ({'would be replaced' if overwrite else 'would continue'})")
    else:
        say(console, f"folder: {path} (new)")
    Checkpoints(path / "checkpoints").foresee(plan.memory.per_group * plan.num_groups)
    for label in filter(None, job.labels):
        say(console, f"setting: {label}")
    say(console, to_text(job.config()).rstrip())


def _warn(job: Job) -> None:
    for text in notices(job):
        warnings.warn(text, stacklevel=2)


def _train_in(
    run: RunFolder, job: Job, arguments: Train, console: Console
) -> dict[str, Any] | Interrupt:
    """Train in an open folder: the summary, or what stopped it."""
    _warn(job)
    say(console, f"folder: {run.path}")
    _note(run, "running")
    try:
        with catch_signals(lambda text: say(console, text), arguments.time_limit) as interrupt:
            result, watch = _sweep(run, job, arguments, console, interrupt)
        if result is None or result.interrupted:
            run.set_status("interrupted", {"signal": interrupt.number, "share": watch.share})
            return interrupt
        return _finish(run, job, arguments, result, watch)
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


def _sweep(
    run: RunFolder, job: Job, arguments: Train, console: Console, interrupt: Interrupt
) -> tuple[SweepResult | None, Watch]:
    say(console, "compiling (about 10 s, cached next time)")
    with Watch(console, run, job.labels, interrupt) as watch:
        try:
            result = sweep(
                root_key(job.seed),
                job.agent,
                job.env,
                num_seeds=job.num_seeds,
                num_steps=job.num_steps,
                over=job.over,
                num_records=job.num_records,
                lanes=job.lanes,
                observer=watch,
                checkpoints=Checkpoints(run.checkpoints),
                checkpoint_seconds=arguments.checkpoint_seconds,
            )
        except Stopped:
            return None, watch
    return result, watch


def _finish(
    run: RunFolder, job: Job, arguments: Train, result: SweepResult, watch: Watch
) -> dict[str, Any]:
    """Write everything a finished run leaves, and return its summary."""
    from jaxrl.report.plots import learning_curves

    for text in final_notices(job, result):
        warnings.warn(text, stacklevel=2)
    rows = settings_summary(result, job.labels)
    if arguments.eval_episodes:
        _add_evaluations(rows, job, arguments.eval_episodes, result)
    device = jax.devices()[0]
    summary = {
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
    returns = result.metrics["episode_return"]
    learning_curves(
        run.plots / "curve.png",
        {
            label or job.agent_name: (result.steps, returns[index])
            for index, label in enumerate(job.labels)
        },
        diverged={
            label or job.agent_name: np.flatnonzero(result.diverged_at[index] >= 0).tolist()
            for index, label in enumerate(job.labels)
        },
        title=job.title,
    )
    summary = json.loads(json.dumps(summary))  # as it is read back later
    bad = [one for row in rows for one in row["diverged"]]
    run.finish(summary, "diverged" if bad else "done", {"num_diverged": len(bad)})
    return summary


def _add_evaluations(
    rows: list[dict[str, Any]], job: Job, num_episodes: int, result: SweepResult
) -> None:
    """Greedy episodes of every final agent, pooled over the seeds of each setting."""
    for row, seeds in zip(
        rows, evaluate_agents(job, result.agent_states, 0, num_episodes), strict=True
    ):
        row["evaluation"] = pooled_summary(seeds)
