"""Train the presets at full size and record what they reach.

    python benchmarks/learning.py [ROW ...] [--checkpoints FOLDER]

Each row is one sweep of independent seeds. The score of a seed is its mean episode return over the
last tenth of the run, exploration included; a row passes when the interquartile mean over seeds
reaches its threshold. Records in which no episode ended are left out of a score, and counted; so
are seeds that diverged, which rank lowest. Rows are merged into `results/learning.json`, and
`results/learning.md` is written from it. With `--checkpoints` a row that was stopped goes on from
where it was when the same command comes again; its CPU time is then counted over all the parts.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time
from typing import Any

import jax
import numpy as np
from provenance import made_by

import jaxrl
from jaxrl import envs
from jaxrl.agents import Optimiser, preset
from jaxrl.core import Linear
from jaxrl.networks import NetworkSettings
from jaxrl.report import aggregate, final_scores
from jaxrl.training import Silent

RESULTS = pathlib.Path(__file__).parent / "results"


def minatar_pqn() -> Any:
    """The published settings of PQN on MinAtar (Gallici et al. 2025, appendix), Adam for RAdam."""
    return preset("pqn").replace(
        network=NetworkSettings(hidden_sizes=(128,), activation="relu", layer_norm=True),
        optimiser=Optimiser(learning_rate=Linear(5e-4, 1e-5), max_grad_norm=10.0, epsilon=1e-8),
        num_envs=128,
        rollout_length=32,
        num_epochs=2,
        num_minibatches=32,
        lambda_=0.65,
        exploration=Linear(1.0, 0.05, end=0.1),
    )


def minatar_dqn() -> Any:
    """A DQN for MinAtar: larger replay, one update for sixteen steps."""
    agent = preset("dqn")
    return agent.replace(
        network=NetworkSettings(hidden_sizes=(128,), activation="relu", layer_norm=True),
        optimiser=Optimiser(learning_rate=Linear(5e-4, 1e-5), max_grad_norm=10.0),
        replay=agent.replay.replace(capacity=100_000),
        target=agent.target.replace(period=200),
        rollout_length=4,
        num_updates=2,
        batch_size=64,
        warmup=5_000,
        exploration=Linear(1.0, 0.02, end=0.15),
    )


# name: (agent, environment, steps of each seed, seeds, threshold of the interquartile mean)
ROWS: dict[str, tuple[Any, str, int, int, float]] = {
    "ppo-cartpole": (preset("ppo"), "CartPole-v1", 500_000, 16, 475.0),
    "pqn-cartpole": (preset("pqn"), "CartPole-v1", 500_000, 16, 475.0),
    "dqn-cartpole": (preset("dqn"), "CartPole-v1", 500_000, 16, 450.0),
    "c51-cartpole": (preset("c51"), "CartPole-v1", 500_000, 16, 450.0),
    "qr_dqn-cartpole": (preset("qr_dqn"), "CartPole-v1", 500_000, 16, 450.0),
    "ppo-acrobot": (preset("ppo"), "Acrobot-v1", 500_000, 16, -100.0),
    "sac-pendulum": (preset("sac"), "Pendulum-v1", 50_000, 8, -200.0),
    "td3-pendulum": (preset("td3"), "Pendulum-v1", 50_000, 8, -200.0),
    "pqn-breakout": (minatar_pqn(), "Breakout-MinAtar", 5_000_000, 16, 20.0),
    "dqn-breakout": (minatar_dqn(), "Breakout-MinAtar", 500_000, 16, 8.0),
}


class CPUClock(Silent):
    """Keeps the CPU seconds of a row in a file, so that they survive with its checkpoints."""

    def __init__(self, file: pathlib.Path | None):
        self.file = file
        self.before = float(file.read_text()) if file and file.exists() else 0.0
        self.started = time.process_time()

    @property
    def seconds(self) -> float:
        """CPU seconds of the row so far, earlier parts included."""
        return self.before + time.process_time() - self.started

    def on_chunk(self, share: float) -> bool:
        """Write the seconds down; never stop."""
        if self.file:
            self.file.write_text(str(self.seconds))
        return False


def run(name: str, num_seeds: int | None, folder: pathlib.Path | None) -> dict[str, Any]:
    agent, env, num_steps, seeds, threshold = ROWS[name]
    seeds = num_seeds or seeds
    saved = folder / f"{name}-{seeds}-{num_steps}" if folder else None
    if saved:
        saved.mkdir(parents=True, exist_ok=True)
    clock = CPUClock(saved / "cpu_seconds" if saved else None)
    wall = time.perf_counter()
    result = jaxrl.sweep(
        jax.random.key(0),
        agent,
        envs.make(env),
        num_seeds=seeds,
        num_steps=num_steps,
        observer=clock,
        checkpoints=jaxrl.Checkpoints(saved / "checkpoints") if saved else None,
    )
    cpu, wall = clock.seconds, time.perf_counter() - wall
    returns = result.metrics["episode_return"][0]
    tail = returns[:, -max(1, returns.shape[1] // 10) :]
    scores = final_scores(result.metrics["episode_return"], result.diverged_at >= 0)[0]
    total = aggregate(scores)
    return {
        "agent": name.split("-")[0],
        "environment": env,
        "steps": int(result.steps[-1]),
        "seeds": len(scores),
        "threshold": threshold,
        "interquartile_mean": total.iqm.value,
        "interval": [total.iqm.low, total.iqm.high],
        "worst": total.worst,
        "scores": [round(float(s), 2) for s in scores],
        "cpu_seconds_per_seed": cpu / len(scores),
        "records_without_an_episode": int((~np.isfinite(tail)).sum()),
        "seeds_without_a_score": int(np.isnan(scores).sum()),
        "wall_seconds": wall,
        "compile_seconds": result.forecast.compile_seconds,
        **made_by(),
    }


def _left_out(row: dict[str, Any]) -> str:
    if "seeds_without_a_score" not in row:
        return "not kept"
    return f"{row['records_without_an_episode']} records, {row['seeds_without_a_score']} seeds"


def write_table(rows: dict[str, dict[str, Any]]) -> None:
    lines = [
        "# What the presets reach",
        "",
        "Written by `python benchmarks/learning.py`. Interquartile mean over seeds of the mean "
        "episode return in the last tenth of the run, exploration included, with its 95 % "
        "stratified bootstrap interval. Left out: records of that tenth in which no episode ended, "
        "and seeds that diverged, which rank lowest. Agents are presets, but for those on "
        "Breakout: learning.py has their settings. CPU seconds compare within a day at most: the "
        "machine is shared. Rows without a commit are of the program of their day.",
        "",
        "| agent | environment | steps | seeds | threshold | interquartile mean | worst seed | "
        "left out | CPU-s / seed | commit | day |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in ROWS:
        if name in rows:
            r = rows[name]
            low, high = r["interval"]
            lines.append(
                f"| {r['agent']} | {r['environment']} | {r['steps']:,} | {r['seeds']} | "
                f"{r['threshold']:g} | {r['interquartile_mean']:.1f} [{low:.1f}, {high:.1f}] | "
                f"{r['worst']:.1f} | {_left_out(r)} | {r['cpu_seconds_per_seed']:.1f} | "
                f"{r.get('commit', 'not kept')} | {r['date']} |"
            )
    (RESULTS / "learning.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []], help="all when none is named")
    parser.add_argument("--num-seeds", type=int, help="fewer or more seeds than the row asks for")
    parser.add_argument("--checkpoints", type=pathlib.Path, help="folder to save in and go on from")
    arguments = parser.parse_args()
    for name in arguments.rows or ROWS:
        row = run(name, arguments.num_seeds, arguments.checkpoints)
        print(name, {k: v for k, v in row.items() if k != "scores"}, flush=True)
        path = RESULTS / "learning.json"
        rows = json.loads(path.read_text()) if path.exists() else {}
        rows[name] = row
        path.write_text(json.dumps(rows, indent=2) + "\n")
        write_table(rows)


if __name__ == "__main__":
    main()
