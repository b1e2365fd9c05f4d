"""Train in one environment, play in others: what robustness gains at worst, and costs where all
is as expected.

    python benchmarks/robust.py                      # both tasks, all agents, written to results/
    python benchmarks/robust.py cartpole --agents nominal robust
    python benchmarks/robust.py --num-seeds 2 --quick    # few steps; prints only

The task's parameters are uncertain within a box (`TASKS`). Every agent but PPO is the same
Q-network:

| agent | sees in training |
|---|---|
| nominal | the default environment |
| randomised | every episode another environment, log-uniform in the box |
| robust | as randomised; and every backup takes the worst of M settings of a grid |
| iwocs | the worst settings found so far: up to four Q-networks, the least of which counts |
| iwocs_long | the same, each of the four trained for as long as the other agents are |
| ppo, ppo_randomised, ppo_robust | as the first three, with PPO in the place of the Q-network |

All train for equally many steps, but for `iwocs_long`: the four runs of `iwocs` are a quarter as
long. (An update of the robust agent asks the simulator for a step in every setting of its grid
besides.) Each agent is played greedily in the midpoints of eight equal parts of each parameter's
range, which lie a sixteenth of the range or more from every setting that was picked in training.
A seed's *worst* is the least mean return there, its *default* the mean return in the default
environment; both are means over seeds with 95 % bootstrap intervals, and gains are paired by seed.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time
from typing import Any

import jax
import matplotlib
import numpy as np
from provenance import made_by, told

import jaxrl
from jaxrl.agents import Optimiser
from jaxrl.core import Linear
from jaxrl.envs.control import CartPole, Pendulum
from jaxrl.envs.wrappers import DiscreteActions, LogUniform, domain_randomisation
from jaxrl.functionals import CVaR
from jaxrl.operators import BellmanOperator, Scalar
from jaxrl.report import aggregate
from jaxrl.training import train_iwocs

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import NullLocator

RESULTS = pathlib.Path(__file__).parent / "results"
AGENTS = ("nominal", "randomised", "robust", "iwocs", "iwocs_long")
AGENTS += ("ppo", "ppo_randomised", "ppo_robust")
MOST_RUNS = 4  # of IWOCS
EPISODES, MAX_STEPS = 50, 500


class Task:
    """An environment, the box of its uncertain parameters, and how long to learn."""

    def __init__(self, env: Any, box: dict[str, tuple[float, float]], per_axis: int, steps: int):
        self.env, self.box, self.per_axis, self.num_steps = env, box, per_axis, steps

    @property
    def num_models(self) -> int:
        """Settings in a backup of the robust agent: a grid with both ends of every range."""
        return self.per_axis ** len(self.box)

    def held_out(self, parts: int = 8) -> dict[str, list[float]]:
        """The midpoints of equal parts of the ranges, on a logarithmic scale."""
        shares = (np.arange(parts) + 0.5) / parts
        return {
            name: (low * (high / low) ** shares).tolist() for name, (low, high) in self.box.items()
        }

    def agent(self) -> Any:
        """The agent, but for what makes it robust."""
        optimiser = Optimiser(learning_rate=Linear(5e-4, 5e-5), max_grad_norm=10.0)
        return jaxrl.dqn().replace(optimiser=optimiser)


TASKS = {
    "cartpole": Task(
        CartPole(), {"pole_half_length": (0.25, 2.0), "pole_mass": (0.05, 0.8)}, 3, 200_000
    ),
    "pendulum": Task(
        DiscreteActions(Pendulum(), 5), {"mass": (0.7, 1.4), "length": (0.7, 1.4)}, 3, 200_000
    ),
}


def train(task: Task, name: str, num_seeds: int, num_steps: int) -> tuple[Any, Any, float]:
    """A policy, its states for all seeds, and the steps that a seed took, on average."""
    agent, env, key = task.agent(), task.env, jax.random.key(0)
    if name.startswith("ppo"):
        agent, name = jaxrl.ppo(), name.removeprefix("ppo").removeprefix("_")
    if name.startswith("iwocs"):
        length = num_steps if name == "iwocs_long" else num_steps // MOST_RUNS
        grid = {
            key: np.geomspace(*bounds, task.per_axis).tolist() for key, bounds in task.box.items()
        }
        found = train_iwocs(
            key,
            agent,
            env,
            num_steps=length,
            over=grid,
            num_seeds=num_seeds,
            max_models=MOST_RUNS,
            num_episodes=EPISODES,
            max_steps=MAX_STEPS,
        )
        return found.policy, found.states, length * float(np.mean(found.num_models))
    if name in ("randomised", "robust"):
        ranges = {key: LogUniform(*bounds) for key, bounds in task.box.items()}
        env = domain_randomisation(env, ranges)
    if name == "robust":
        spread = tuple((key, *bounds) for key, bounds in task.box.items())
        worst = CVaR(1.0 / task.num_models)
        agent = agent.replace(
            operator=agent.operator or BellmanOperator(Scalar(float("inf"))),
            successors=jaxrl.Generative(1, task.num_models, spread, over_models=worst),
        )
    result = jaxrl.sweep(key, agent, env, num_seeds=num_seeds, num_steps=num_steps)
    return agent, jax.tree.map(lambda leaf: leaf[0], result.agent_states), num_steps


def play(task: Task, policy: Any, states: Any, over: dict[str, list[float]]) -> np.ndarray:
    """Mean returns `[seeds, settings]`."""

    def one(state: Any) -> jax.Array:
        return jaxrl.evaluate(
            jax.random.key(7),
            policy,
            task.env,
            state,
            num_episodes=EPISODES,
            max_steps=MAX_STEPS,
            over=over,
        ).setting_means

    return np.asarray(jax.lax.map(one, states))


def measure(name: str, agent: str, num_seeds: int, num_steps: int) -> dict[str, Any]:
    """What one agent reaches in one task."""
    task = TASKS[name]
    cpu, wall = time.process_time(), time.perf_counter()
    policy, states, taken = train(task, agent, num_seeds, num_steps)
    jax.block_until_ready(states)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    default = {key: float(getattr(parameters_of(task.env), key)) for key in task.box}
    curves = {}
    for key, (low, high) in task.box.items():
        points = np.geomspace(low / 1.5, high * 1.5, 13).tolist()  # beyond the box as well
        curves[key] = {"points": points, "returns": play(task, policy, states, {key: points})}
    return {
        "task": name,
        "agent": agent,
        "steps": taken,
        "seeds": num_seeds,
        "box": task.box,
        "default": default,
        "nominal": play(task, policy, states, {key: [x] for key, x in default.items()})[:, 0],
        "grid": play(task, policy, states, task.held_out()),
        "curves": curves,
        "train_cpu_seconds": cpu,
        "train_wall_seconds": wall,
        **made_by(),
    }


def parameters_of(env: Any) -> Any:
    """The environment that has the physical parameters."""
    return env.env if isinstance(env, DiscreteActions) else env


def interval(values: Any) -> tuple[float, float, float]:
    """Mean over seeds and its 95 % bootstrap interval."""
    mean = aggregate(values).mean
    return mean.value, mean.low, mean.high


def shown(values: Any) -> str:
    return "{:.1f} [{:.1f}, {:.1f}]".format(*interval(values))


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown: per task and agent, what is lost and gained against the nominal agent."""
    lines = [
        "# Robust training",
        "",
        "Written by `benchmarks/robust.py`, which says what is measured. Mean over seeds with its "
        "95 % bootstrap interval; the gain at worst is over the nominal agent, or the plain PPO, "
        "of the same seed.",
    ]
    for name, task in TASKS.items():
        mine = {a: rows[f"{name}/{a}"] for a in AGENTS if f"{name}/{a}" in rows}
        if not mine:
            continue
        first = next(iter(mine.values()))
        box = ", ".join(f"{key} in [{low}, {high}]" for key, (low, high) in task.box.items())
        lines += [
            "",
            f"## {name}: {box}",
            "",
            f"{first['seeds']} seeds, {len(first['grid'][0])} held-out settings, {EPISODES} "
            "episodes in each.",
            "",
            "| agent | steps / seed | default setting | mean over the grid | worst of the grid "
            "| gain at worst | CPU-s / seed | commit |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for agent, row in mine.items():
            grid = np.asarray(row["grid"])
            gain, plain = "", "ppo" if agent.startswith("ppo") else "nominal"
            if agent != plain and plain in mine:
                base = np.asarray(mine[plain]["grid"])
                gain = shown(grid.min(axis=1) - base.min(axis=1))
            cells = [agent, f"{row['steps']:,.0f}", shown(row["nominal"]), shown(grid.mean(axis=1))]
            cells += [shown(grid.min(axis=1)), gain]
            cells.append(f"{row['train_cpu_seconds'] / row['seeds']:.1f}")
            cells.append(row.get("commit", "not kept"))
            lines.append(f"| {' | '.join(cells)} |")
    for about in dict.fromkeys(map(told, rows.values())):
        lines += ["", f"{about}."]
    return "\n".join(lines) + "\n"


def draw(name: str, rows: dict[str, dict[str, Any]], file: pathlib.Path) -> None:
    """Return against each parameter, the others at their defaults."""
    task = TASKS[name]
    figure, axes = plt.subplots(1, len(task.box), figsize=(10, 4), sharey=True, squeeze=False)
    for axis, (key, (low, high)) in zip(axes[0], task.box.items(), strict=True):
        axis.axvspan(low, high, color="0.93", label="trained for")
        for number, agent in enumerate(AGENTS):
            if f"{name}/{agent}" not in rows:
                continue
            row = rows[f"{name}/{agent}"]
            curve = row["curves"][key]
            found = np.array([interval(column) for column in np.asarray(curve["returns"]).T])
            axis.plot(curve["points"], found[:, 0], color=f"C{number}", label=agent)
            axis.fill_between(
                curve["points"], found[:, 1], found[:, 2], color=f"C{number}", alpha=0.2
            )
            axis.axvline(row["default"][key], color="0.6", linestyle=":")
        axis.set(xscale="log", xlabel=key.replace("_", " "))
        ticks = sorted(
            {low, high, *(row["default"][key] for row in rows.values() if row["task"] == name)}
        )
        axis.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axis.xaxis.set_minor_locator(NullLocator())
    axes[0][0].set_ylabel("mean return of an episode")
    axes[0][-1].legend(loc="best", fontsize=8)
    figure.suptitle(f"{name}: mean over seeds, 95 % bootstrap interval")
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="*", help=f"of {', '.join(TASKS)}; all when none is named")
    parser.add_argument("--agents", nargs="+", choices=AGENTS, default=AGENTS)
    parser.add_argument("--num-seeds", type=int, default=16)
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps; prints only")
    arguments = parser.parse_args()
    if unknown := set(arguments.tasks) - set(TASKS):
        parser.error(f"unknown task {', '.join(unknown)}: give {' or '.join(TASKS)}.")
    path = RESULTS / "robust.json"
    kept = {} if arguments.quick or not path.exists() else json.loads(path.read_text())
    for name in arguments.tasks or TASKS:
        steps = TASKS[name].num_steps // (10 if arguments.quick else 1)
        for agent in arguments.agents:
            row = measure(name, agent, arguments.num_seeds, steps)
            kept[f"{name}/{agent}"] = json.loads(json.dumps(row, default=rounded))
            print(table(kept).split("\n## ")[-1], flush=True)
            if not arguments.quick:
                path.write_text(json.dumps(kept) + "\n")
                (RESULTS / "robust.md").write_text(table(kept))
                draw(name, kept, RESULTS / f"robust_{name}.png")


def rounded(array: np.ndarray) -> list:
    return np.round(array, 3).tolist()


if __name__ == "__main__":
    main()
