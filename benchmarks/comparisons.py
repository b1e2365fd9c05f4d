"""One change at a time: does a piece of the value family help, and by how much?

    python benchmarks/comparisons.py [GROUP ...] [--num-seeds N]

| group | arms | task |
|---|---|---|
| noise | squared error, HL-Gauss and C51, reward noise of 0 and 1 | Breakout-MinAtar |
| munchausen | DQN, Munchausen DQN | Breakout-MinAtar |
| annealed | TD3 and SAC, with and without annealed optimism | Pendulum-v1 |
| scales | SAC and DSAC-T, rewards times 0.1, 1 and 10 | Pendulum-v1 |
| dpo | PPO and DPO at five learning rates each | Breakout-MinAtar |

Only what is named differs between the arms of a group; settings were not tuned for any of them,
but for the learning rates of `dpo`, of which every one is shown.
The score of a seed is its mean episode return over the last tenth of the run, exploration included,
in the task's own reward: scales are undone, and noise averages out. The table gives the
interquartile mean over seeds with its 95 % stratified bootstrap interval, and the probability that
a run of the arm beats one of the group's first arm at the same noise or scale. What it shows is
recorded as it is.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
from learning import minatar_dqn
from provenance import made_by, told

import jaxrl
from jaxrl import envs
from jaxrl.agents import Optimiser, preset
from jaxrl.core import Linear
from jaxrl.envs.wrappers import RewardNoise, RewardScale
from jaxrl.networks import NetworkSettings
from jaxrl.operators import Categorical, HLGauss
from jaxrl.report import aggregate, final_scores, probability_of_improvement

RESULTS = pathlib.Path(__file__).parent / "results"
Arm = tuple[str, Any, Any, str]  # name, agent, environment, name of the arm to compare with
SUPPORT = {"low": -10.0, "high": 40.0, "num_atoms": 101}


def noise() -> list[Arm]:
    """Breakout pays 1 for a brick: the discounted returns met stay below 20."""
    arms = []
    for scale in (0.0, 1.0):
        env = envs.make("Breakout-MinAtar")
        env = RewardNoise(env, scale) if scale else env
        first = f"squared, noise {scale:g}"
        for name, head in (
            ("squared", None),
            ("HL-Gauss", HLGauss(**SUPPORT)),
            ("C51", Categorical(**SUPPORT)),
        ):
            agent = minatar_dqn()
            if head is not None:
                agent = agent.replace(operator=agent.operator.replace(head=head))
            arms.append((f"{name}, noise {scale:g}", agent, env, first))
    return arms


def munchausen() -> list[Arm]:
    """The published temperature, weight and clip."""
    env, agent = envs.make("Breakout-MinAtar"), minatar_dqn()
    soft = preset("munchausen_dqn")
    changed = agent.replace(operator=soft.operator, parts=soft.parts)
    return [("DQN", agent, env, "DQN"), ("Munchausen DQN", changed, env, "DQN")]


def annealed() -> list[Arm]:
    """From the greedy improvement to evaluation in the course of the run."""
    env = envs.make("Pendulum-v1")
    pairs = (("TD3", "td3", "TD3"), ("annealed TD3", "annealed_td3", "TD3"))
    pairs += (("SAC", "sac", "SAC"), ("annealed SAC", "annealed_sac", "SAC"))
    return [(name, preset(key), env, first) for name, key, first in pairs]


def scales() -> list[Arm]:
    """Learning sees the scaled rewards; episode returns are counted before."""
    arms = []
    for scale in (0.1, 1.0, 10.0):
        env = RewardScale(envs.make("Pendulum-v1"), scale)
        first = f"SAC, scale {scale:g}"
        arms += [(first, preset("sac"), env, first)]
        arms += [(f"DSAC-T, scale {scale:g}", preset("dsac_t"), env, first)]
    return arms


def dpo() -> list[Arm]:
    """On the flat image, with the other settings that the paper's JAX releases use on MinAtar."""
    env, arms = envs.make("Breakout-MinAtar"), []
    for rate in (3e-4, 1e-3, 3e-3, 1e-2, 3e-2):
        for name in ("ppo", "dpo"):
            agent = preset(name).replace(
                network=NetworkSettings(
                    hidden_sizes=(64, 64), activation="relu", flatten_images=True
                ),
                optimiser=Optimiser(learning_rate=Linear(rate, 0.0)),
                num_envs=64,
                rollout_length=128,
                num_epochs=4,
                num_minibatches=8,
            )
            arms.append((f"{name.upper()}, rate {rate:g}", agent, env, f"PPO, rate {rate:g}"))
    return arms


# name: (its arms, steps of a run, seeds)
GROUPS: dict[str, tuple[Callable[[], list[Arm]], int, int]] = {
    "annealed": (annealed, 50_000, 8),
    "scales": (scales, 50_000, 8),
    "munchausen": (munchausen, 250_000, 4),
    "noise": (noise, 250_000, 4),
    "dpo": (dpo, 1_000_000, 8),
}


def run(agent: Any, env: Any, num_steps: int, num_seeds: int) -> dict[str, Any]:
    """The scores of one arm."""
    cpu = time.process_time()
    result = jaxrl.sweep(jax.random.key(0), agent, env, num_seeds=num_seeds, num_steps=num_steps)
    # A seed that diverged has NaN, which ranks lowest.
    scores = final_scores(result.metrics["episode_return"], result.diverged_at >= 0)[0]
    if isinstance(env, RewardScale):
        scores = scores / env.scale
    return {
        "scores": [round(float(s), 3) for s in scores],
        "steps": int(result.steps[-1]),
        "cpu_seconds_per_seed": (time.process_time() - cpu) / num_seeds,
    }


def table(report: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        "# One change at a time",
        "",
        "Written by `benchmarks/comparisons.py`, which says what is measured.",
    ]
    for group, arms in report["groups"].items():
        first = next(iter(arms.values()))
        seeds = len(first["scores"])
        lines += [
            "",
            f"## {group}: {first['steps']:,} steps, {seeds} seeds",
            "",
            "| arm | interquartile mean | worst seed | beats the first arm | CPU-s / seed |",
            "|---|---|---|---|---|",
        ]
        for name, arm in arms.items():
            total = aggregate(arm["scores"]).iqm
            better = ""
            if arm["against"] != name:
                chance = probability_of_improvement(arm["scores"], arms[arm["against"]]["scores"])
                better = f"{chance.value:.2f} [{chance.low:.2f}, {chance.high:.2f}]"
            lines.append(
                f"| {name} | {total.value:.1f} [{total.low:.1f}, {total.high:.1f}] | "
                f"{min(arm['scores']):.1f} | {better} | {arm['cpu_seconds_per_seed']:.1f} |"
            )
    lines += ["", report["about"]]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("groups", nargs="*", help=f"of {', '.join(GROUPS)}; all by default")
    parser.add_argument("--num-seeds", type=int, help="instead of the group's own number")
    arguments = parser.parse_args()
    if unknown := set(arguments.groups) - set(GROUPS):
        parser.error(f"unknown group {', '.join(unknown)}: give some of {', '.join(GROUPS)}.")
    path = RESULTS / "comparisons.json"
    report = json.loads(path.read_text()) if path.exists() else {"groups": {}}
    for group in arguments.groups or GROUPS:
        arms, num_steps, num_seeds = GROUPS[group]
        report["groups"][group] = {}
        for name, agent, env, against in arms():
            row = run(agent, env, num_steps, arguments.num_seeds or num_seeds)
            print(f"{group}: {name}: {row}", flush=True)
            report["groups"][group][name] = row | {"against": against}
            report["about"] = f"{told(made_by())}."
            path.write_text(json.dumps(report, indent=1) + "\n")
            (RESULTS / "comparisons.md").write_text(table(report))


if __name__ == "__main__":
    main()
