"""Robust PPO: a critic that backs up the worst of several models raises the worst case.

    python benchmarks/systems/robust_ppo.py

From the record of `robust.py`: cart-poles whose pole is up to four times as long or short and eight
times as heavy or light. PPO with its plain critic in the default setting (control), in random
settings (second control), and in random settings with a critic whose backup takes the worst of a
grid of them. Each is played in 64 settings that none has seen; a seed's worst is its least mean
return there. Claims: the worst is better than that of plain PPO, and no worse than that of PPO in
random settings (the interval of the paired difference lies above 0; reaches 0).
"""

from __future__ import annotations

import time

import numpy as np
from _row import mean_interval, recorded, row

EXACT = True


def main() -> None:
    started, record = time.process_time(), recorded("robust")
    worst = {}
    for name in ("ppo", "ppo_randomised", "ppo_robust"):
        entry = record[f"cartpole/{name}"]
        worst[name] = np.min(entry["grid"], axis=1)
        mean, low, high = mean_interval(worst[name])
        print(f"{name}: worst {mean:.0f} [{low:.0f}, {high:.0f}], commit {entry['commit']}")
    plain, randomised, robust = worst.values()
    gain, low, high = mean_interval(robust - plain)
    beyond = mean_interval(robust - randomised)
    print(f"more than ppo_randomised: {beyond[0]:+.0f} [{beyond[1]:+.0f}, {beyond[2]:+.0f}]")
    row(
        started,
        low > 0 and beyond[2] >= 0,
        measured=f"worst return {robust.mean():.0f} of 500",
        control=f"PPO {plain.mean():.0f}, in random settings {randomised.mean():.0f}",
        interval=f"gain {gain:.0f} [{low:.0f}, {high:.0f}] over PPO, {beyond[0]:+.0f} "
        f"[{beyond[1]:+.0f}, {beyond[2]:+.0f}] over random settings, {robust.size} seeds",
    )


if __name__ == "__main__":
    main()
