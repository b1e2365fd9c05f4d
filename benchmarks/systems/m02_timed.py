"""M-02, temporally aware rules: rates that know their lifetime beat constants.

    python benchmarks/systems/m02_timed.py

From the record of `meta_learning.py`: evolution, with antithetic pairs on the same maze and life,
learns an actor-critic's rates as functions of the share and the length of the life; lives differ in
length. Controls, on the same new lives: the best constants of a sweep, and constants learned by the
same evolution. The score is the reward rate at the end of a life. Claim: rates that see the
lifetime are better than the swept constants (interval above 0), while learned constants are not:
seeing the lifetime is what helps. (That truncated meta-gradients find no schedule is not measured.)
"""

from __future__ import annotations

import time

import numpy as np
from _row import pooled, recorded, row

EXACT = True


def main() -> None:
    started, record = time.process_time(), recorded("meta_learning")["parts"]["timed"]
    gains: dict[str, list] = {"timed": [], "constants": []}
    scores: dict[str, list] = {"swept constants": [], "timed": [], "constants": []}
    for seed, part in record.items():
        (lives,) = part["lives"].values()
        for name, found in scores.items():
            found.append(lives["agents"][name]["score"][0])
        for name, found in gains.items():
            found.append(lives["agents"][name]["more"])
        print(f"meta-seed {seed}: {part['made']}")
    timed, constants = pooled(gains["timed"]), pooled(gains["constants"])
    print(
        f"learned constants by swept ones: {constants[0]:+.4f} +- {constants[2] - constants[0]:.4f}"
    )
    row(
        started,
        timed[1] > 0 and constants[1] <= 0 <= constants[2],
        measured=f"final reward rate {np.mean(scores['timed']):.4f}",
        control=f"{np.mean(scores['swept constants']):.4f} swept, "
        f"{np.mean(scores['constants']):.4f} learned constants",
        interval=f"{timed[0]:+.4f} [{timed[1]:+.4f}, {timed[2]:+.4f}] by swept, "
        f"{len(record)} meta-seeds",
    )


if __name__ == "__main__":
    main()
