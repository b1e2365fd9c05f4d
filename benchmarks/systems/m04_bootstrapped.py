"""M-04, bootstrapped meta-gradients: matching one's own future beats differentiating the present.

    python benchmarks/systems/m04_bootstrapped.py

From the record of `meta_learning.py`: on the two-colour grid, whose rewards swap now and then, an
entropy weight is tuned within one life, by matching a target some updates ahead (bootstrapped) or
by a plain meta-gradient (control); a second control is the best fixed weight, which is swept. The
score is the reward rate of the whole life, on the same lives. Claim: bootstrapped is better than
the meta-gradient (interval of the difference, taken as of independent lives, above 0), and not
behind the best fixed weight.
"""

from __future__ import annotations

import time

import numpy as np
from _row import pooled, recorded, row

EXACT = True


def main() -> None:
    started, record = time.process_time(), recorded("meta_learning")["parts"]["bootstrapped"]
    names = ("fixed weight", "bootstrapped", "meta-gradient")
    scores, more = {name: [] for name in names}, {name: [] for name in names[1:]}
    for seed, part in record.items():
        (lives,) = part["lives"].values()
        for name in names:
            scores[name].append(lives["agents"][name]["score"][0])
        for name in names[1:]:
            more[name].append(lives["agents"][name]["more"])
        print(f"meta-seed {seed}: {part['made']}")
    ahead, behind = pooled(more["bootstrapped"]), pooled(more["meta-gradient"])
    gain = ahead[0] - behind[0]
    width = float(np.hypot(ahead[2] - ahead[0], behind[2] - behind[0]))
    print(
        f"bootstrapped by the best fixed weight: {ahead[0]:+.4f} [{ahead[1]:+.4f}, {ahead[2]:+.4f}]"
    )
    row(
        started,
        gain > width and ahead[2] >= 0,
        measured=f"reward rate {np.mean(scores['bootstrapped']):.4f}",
        control=f"{np.mean(scores['meta-gradient']):.4f} meta-gradient, "
        f"{np.mean(scores['fixed weight']):.4f} best fixed weight",
        interval=f"{gain:+.4f} [{gain - width:+.4f}, {gain + width:+.4f}] by the meta-gradient, "
        f"{len(record)} meta-seeds",
    )


if __name__ == "__main__":
    main()
