"""Environment steps per CPU-second of whole training loops: jaxrl against rejax.

    python benchmarks/throughput.py                      # all eight cells, written to results/
    python benchmarks/throughput.py --agents ppo --num-seeds 1 --quick
    python benchmarks/throughput.py --sides rejax        # the baseline alone

For each (agent, environment, number of seeds) two processes are started, one for each library, on
the same cores. Both compile and make one unmeasured call; then they train in turn (A B A B ...),
the one that waits sleeps, and each pair of neighbouring calls gives one ratio. A ratio above 1
means that jaxrl makes more environment steps in a CPU-second. rejax runs in a virtual environment
that the benchmark makes in `--work-dir`. Settings: `throughput_settings.py`. Linux only (pinning).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from rejax_venv import default_work_dir, installed_versions, rejax_python
from throughput_settings import SETTINGS, DQNSettings, steps_per_iteration

HERE = Path(__file__).resolve().parent
SIDES = ("jaxrl", "rejax")
NUM_SEEDS = (1, 16)
# Environment steps of each seed in one call: 4 to 15 CPU-seconds of rejax on a 2.6 GHz core.
NUM_STEPS = {
    ("ppo", "CartPole-v1", 1): 500_000,
    ("ppo", "CartPole-v1", 16): 50_000,
    ("ppo", "Breakout-MinAtar", 1): 131_072,
    ("ppo", "Breakout-MinAtar", 16): 12_288,
    ("dqn", "CartPole-v1", 1): 30_000,
    ("dqn", "CartPole-v1", 16): 4_000,
    ("dqn", "Breakout-MinAtar", 1): 30_720,
    ("dqn", "Breakout-MinAtar", 16): 4_096,
}
TIME_LIMIT = 900  # seconds for a compilation or a call, after which the driver counts as hung


class Driver:
    """One library in a process of its own, measured call by call."""

    def __init__(self, side: str, python: Path, job: list[str], cores: list[int], log: Path):
        self.side, self.log = side, log
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
        environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(HERE.parent)}
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [str(python), str(HERE / f"{side}_driver.py"), "--serve", *job],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
                # Before jax counts the cores to size its thread pool.
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )

    def read(self) -> dict[str, Any]:
        """The next report. Raises `RuntimeError` with the driver's last words when it died."""
        watchdog = threading.Timer(TIME_LIMIT, self.process.kill)
        watchdog.start()
        try:
            line = self.process.stdout.readline()
        finally:
            watchdog.cancel()
        if not line:
            self.process.kill()
            words = "\n".join(self.log.read_text().splitlines()[-12:])
            raise RuntimeError(f"the {self.side} driver stopped; the end of {self.log}:\n{words}")
        return json.loads(line)

    def call(self) -> dict[str, Any]:
        """Train once -> `{"cpu_s", "wall_s", "env_steps"}`."""
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        return self.read()

    def close(self) -> dict[str, Any]:
        """End the process -> its summary, with the mean return of the last trained policies."""
        self.process.stdin.close()
        summary = self.read()
        self.process.wait()
        return summary


def measure_cell(
    cell: tuple[str, str, int],
    num_steps: int,
    num_pairs: int,
    pythons: dict[str, Path],
    cores: list[int],
    work_dir: Path,
) -> dict[str, Any]:
    """Alternate the libraries `num_pairs` times on one cell."""
    agent, env, num_seeds = cell
    job = ["--agent", agent, "--env", env]
    job += ["--num-seeds", str(num_seeds), "--num-steps", str(num_steps)]
    drivers: dict[str, Driver] = {}
    try:
        ready = {}
        for side, python in pythons.items():  # one after the other: compilations do not compete
            drivers[side] = Driver(side, python, job, cores, work_dir / f"{side}.log")
            ready[side] = drivers[side].read()
        calls: dict[str, list[dict[str, Any]]] = {side: [] for side in drivers}
        for _ in range(num_pairs):
            for side, driver in drivers.items():
                calls[side].append(driver.call())
        ends = {side: driver.close() for side, driver in drivers.items()}
    finally:
        for driver in drivers.values():
            driver.process.kill()

    row: dict[str, Any] = {"agent": agent, "env": env, "num_seeds": num_seeds}
    speeds = {}
    for side in drivers:
        speeds[side] = [call["env_steps"] / call["cpu_s"] for call in calls[side]]
        row[side] = {
            "env_steps": calls[side][0]["env_steps"],
            "steps_per_cpu_s": spread(speeds[side]),
            "steps_per_wall_s": spread(
                [call["env_steps"] / call["wall_s"] for call in calls[side]]
            ),
            "cpu_s": [call["cpu_s"] for call in calls[side]],
            "wall_s": [call["wall_s"] for call in calls[side]],
            "compile_s": ready[side]["compile_s"],
            "mean_return": ends[side]["mean_return"],
        }
    if len(speeds) == 2:
        steps = {row[side]["env_steps"] for side in SIDES}
        if len(steps) != 1:
            raise RuntimeError(f"{cell}: the libraries made different numbers of steps: {steps}")
        ratios = [a / b for a, b in zip(speeds["jaxrl"], speeds["rejax"], strict=True)]
        row["ratio"] = spread(ratios) | {"pairs": ratios}
    return row


def spread(numbers: list[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(numbers), "min": min(numbers), "max": max(numbers)}


def cpu_name() -> str:
    """Model name of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def describe(pythons: dict[str, Path], cores: list[int]) -> dict[str, Any]:
    """What the numbers depend on besides the code."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": cpu_name(),
        "cores": len(cores),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {side: installed_versions(python) for side, python in pythons.items()},
    }


def markdown(report: dict[str, Any]) -> str:
    """The table of a report."""

    def number(side: dict[str, Any] | None) -> str:
        return f"{side['steps_per_cpu_s']['median']:,.0f}" if side else ""

    def outcome(side: dict[str, Any] | None) -> str:
        return f"{side['mean_return']:.1f}" if side else ""

    lines = [
        "# Training throughput: environment steps per CPU-second",
        "",
        "Written by `benchmarks/throughput.py`. Ratio: jaxrl over rejax, pair by pair; above 1 is "
        "faster.",
        "Return: mean over the seeds after the few steps of the last call.",
        "Sixteen seeds: rejax vmaps them all, jaxrl runs them four lanes at a time (`lanes=4`).",
        "",
        "| agent | environment | seeds | steps | jaxrl | rejax | ratio: median (min to max) "
        "| return: jaxrl, rejax |",
        "|---|---|---:|---:|---:|---:|---|---|",
    ]
    for row in report["cells"]:
        ours, theirs = row.get("jaxrl"), row.get("rejax")
        ratio = row.get("ratio")
        ratio = (
            f"**{ratio['median']:.2f}** ({ratio['min']:.2f} to {ratio['max']:.2f})" if ratio else ""
        )
        steps = (ours or theirs)["env_steps"]
        lines.append(
            f"| {row['agent']} | {row['env']} | {row['num_seeds']} | {steps:,} | {number(ours)} "
            f"| {number(theirs)} | {ratio} | {outcome(ours)}, {outcome(theirs)} |"
        )
    about = report["about"]
    lines += ["", f"{about['date']}; {about['device']}, {about['cores']} cores; "]
    lines[-1] += f"Python {about['python']}; load average before: {about['load_before']:.1f}."
    for side, versions in about["versions"].items():
        lines += ["", f"{side}: " + ", ".join(f"{k} {v}" for k, v in versions.items()) + "."]
    return "\n".join(lines) + "\n"


def quick_steps(cell: tuple[str, str, int]) -> int:
    """A fifth of the steps, yet never so few that DQN only fills its replay."""
    settings = SETTINGS[cell[:2]]
    least = 2 * steps_per_iteration(settings)
    if isinstance(settings, DQNSettings):
        least = 3 * settings.fill_steps
    return max(NUM_STEPS[cell] // 5, least)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    agents = sorted({agent for agent, _ in SETTINGS}, reverse=True)
    envs = sorted({env for _, env in SETTINGS}, reverse=True)
    parser.add_argument("--agents", nargs="+", choices=agents, default=agents)
    parser.add_argument("--envs", nargs="+", choices=envs, default=envs)
    parser.add_argument("--num-seeds", nargs="+", type=int, choices=NUM_SEEDS, default=NUM_SEEDS)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--pairs", type=int, default=5, help="calls of each library in each cell")
    parser.add_argument("--quick", action="store_true", help="a fifth of the steps, two pairs")
    parser.add_argument("--cores", type=int, default=None, help="how many cores; default: all")
    parser.add_argument("--work-dir", type=Path, default=default_work_dir())
    parser.add_argument(
        "--output",
        type=Path,
        help="folder of throughput.json and throughput.md; "
        "default: benchmarks/results for the whole table, none for a part of it",
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    cores = sorted(os.sched_getaffinity(0))[: arguments.cores]
    pythons = {side: Path(sys.executable) for side in SIDES if side in arguments.sides}
    if "rejax" in pythons:
        pythons["rejax"] = rejax_python(arguments.work_dir)
    report: dict[str, Any] = {"about": describe(pythons, cores), "cells": []}
    chosen = [
        cell
        for cell in NUM_STEPS
        if cell[0] in arguments.agents
        and cell[1] in arguments.envs
        and cell[2] in arguments.num_seeds
    ]
    whole = len(chosen) == len(NUM_STEPS) and len(pythons) == 2 and not arguments.quick
    output = arguments.output or (HERE / "results" if whole else None)
    for cell in chosen:
        num_steps = quick_steps(cell) if arguments.quick else NUM_STEPS[cell]
        num_pairs = 2 if arguments.quick else arguments.pairs
        print(f"{cell[0]} on {cell[1]}, {cell[2]} seeds ...", flush=True)
        row = measure_cell(cell, num_steps, num_pairs, pythons, cores, arguments.work_dir)
        report["cells"].append(row)
        for side in pythons:
            print(f"  {side}: {row[side]['steps_per_cpu_s']['median']:,.0f} steps per CPU-second")
        if "ratio" in row:
            print(f"  ratio: {row['ratio']['median']:.2f}", flush=True)
        if output:  # after each cell: an interrupted run leaves what it measured
            output.mkdir(parents=True, exist_ok=True)
            (output / "throughput.json").write_text(json.dumps(report, indent=1) + "\n")
            (output / "throughput.md").write_text(markdown(report))
    print("\n" + markdown(report))


if __name__ == "__main__":
    main()
