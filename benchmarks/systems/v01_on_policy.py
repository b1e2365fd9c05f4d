"""V-01, HL-Gauss on fresh experience: values as classes (HL-Gauss) in PPO and PQN.

    python benchmarks/systems/v01_on_policy.py

The value learned as a histogram (HL-Gauss, cross-entropy) in place of a number (squared error:
control), in two learners without a replay on Breakout-MinAtar; nothing else differs. PPO takes the
best of the same three learning rates on each side. Farebrother et al. 2024 claim it for learners
with a replay, where it costs nothing and mostly helps; the claim here is that it is no worse on
fresh experience: the interval of the difference of interquartile means reaches 0 or lies above.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from _row import row

import jaxrl
from jaxrl import BellmanOperator, envs
from jaxrl.core import Linear
from jaxrl.operators import HLGauss
from jaxrl.report import final_scores, interquartile_mean

sys.path.insert(0, str(Path(__file__).parents[1]))
from learning import minatar_pqn

ENV = envs.make("Breakout-MinAtar")
HEAD = HLGauss(low=-2.0, high=18.0, num_atoms=51)
RATES = (1e-3, 3e-3, 1e-2)
SIZES = {"PPO": (8, 1_000_000), "PQN": (4, 750_000)}  # seeds, steps of each


def ppo(rate: float, operator: Any) -> Any:
    """The settings of `comparisons.py`, on the flat image."""
    return jaxrl.ppo(
        hidden_sizes=(64, 64),
        activation="relu",
        flatten_images=True,
        learning_rate=Linear(rate, 0.0),
        num_envs=64,
        rollout_length=128,
        operator=operator,
    )


def pqn(operator: Any) -> Any:
    """The settings of `learning.py`."""
    return minatar_pqn().replace(operator=operator or BellmanOperator())


def scores(name: str, agent: Any) -> np.ndarray:
    """Mean return over the last tenth of training, for each seed."""
    num_seeds, num_steps = SIZES[name]
    result = jaxrl.sweep(jax.random.key(0), agent, ENV, num_seeds=num_seeds, num_steps=num_steps)
    found = final_scores(result.metrics["episode_return"], result.diverged_at >= 0)[0]
    return np.asarray(found, float)


def difference(better: np.ndarray, control: np.ndarray) -> tuple[float, float, float]:
    """Of interquartile means, with its 95 % bootstrap interval over seeds."""
    draw = np.random.default_rng(0)
    iqm = lambda x: float(interquartile_mean(x))  # noqa: E731
    drawn = [
        iqm(draw.choice(better, better.size)) - iqm(draw.choice(control, control.size))
        for _ in range(2_000)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return iqm(better) - iqm(control), float(low), float(high)


def main() -> None:
    started = time.process_time()
    kinds = {"squared error": None, "HL-Gauss": BellmanOperator(HEAD)}
    holds, found = True, {}
    for name, (num_seeds, num_steps) in SIZES.items():
        print(f"{name}: interquartile mean of {num_seeds} seeds, {num_steps:,} steps each")
        best = {}
        for kind, operator in kinds.items():
            rates = RATES if name == "PPO" else (None,)
            tried = [scores(name, ppo(rate, operator) if rate else pqn(operator)) for rate in rates]
            for rate, values in zip(rates, tried, strict=True):
                at = f", rate {rate:g}" if rate else ""
                print(f"   {kind + at:28s} {float(interquartile_mean(values)):6.1f}")
            best[kind] = max(tried, key=lambda values: float(interquartile_mean(values)))
        gain, low, high = difference(best["HL-Gauss"], best["squared error"])
        holds &= high >= 0
        iqm = {kind: float(interquartile_mean(values)) for kind, values in best.items()}
        found[name] = iqm, (gain, low, high)
        print(f"   HL-Gauss less squared error: {gain:+.1f} [{low:+.1f}, {high:+.1f}]")
    row(
        started,
        bool(holds),
        measured=", ".join(f"{name} {best['HL-Gauss']:.1f}" for name, (best, _) in found.items()),
        control=", ".join(
            f"{name} {best['squared error']:.1f}" for name, (best, _) in found.items()
        ),
        interval=", ".join(
            f"{gain:+.1f} [{low:+.1f}, {high:+.1f}]" for _, (gain, low, high) in found.values()
        )
        + f"; {SIZES['PPO'][0]} and {SIZES['PQN'][0]} seeds",
    )


if __name__ == "__main__":
    main()
