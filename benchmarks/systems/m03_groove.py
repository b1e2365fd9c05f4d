"""M-03, GROOVE: a rule learned on levels of high regret does better on levels it has not seen.

    python benchmarks/systems/m03_groove.py

From the record of `meta_learning.py`: a learned policy gradient (LPG) is meta-trained on mazes that
are replayed by the regret against a trained actor-critic, or drawn at random (control). Both are
then tried on the same new mazes, larger than those of training. Claims: curated levels beat uniform
ones there (the interval of the paired difference lies above 0), and the critics of the meta-learner
learn (their loss is below that of critics without training).

It does not hold: three meta-seeds show no difference, and neither rule is ahead of a tuned
actor-critic on these mazes. More outer steps were not tried.
"""

from __future__ import annotations

import re
import time

import numpy as np
from _row import pooled, recorded, row

EXACT = True


def main() -> None:
    started, record = time.process_time(), recorded("meta_learning")["parts"]["groove"]
    gains, scores, learned = [], {"curated levels": [], "uniform levels": []}, []
    number = r"(-?\d+\.\d+)"
    for seed, part in record.items():
        said = rf"larger mazes: curated levels less uniform levels, paired: {number} "
        found = re.search(said + rf"\[{number}, {number}\]", part["notes"])
        gains.append(tuple(float(x) for x in found.groups()))
        critics = re.findall(rf"{number} for critics without training, {number}", part["notes"])
        learned += [float(own) < float(fresh) for fresh, own in critics]
        for name, values in scores.items():
            values.append(part["lives"]["larger mazes"]["agents"][name]["score"][0])
        print(f"meta-seed {seed}: {part['made']}")
    gain, low, high = pooled(gains)
    print(f"critics that learned: {sum(learned)} of {len(learned)}")
    row(
        started,
        low > 0 and all(learned),
        measured=f"return {np.mean(scores['curated levels']):.3f} on larger mazes",
        control=f"{np.mean(scores['uniform levels']):.3f}, uniform levels",
        interval=f"{gain:+.3f} [{low:+.3f}, {high:+.3f}], {len(record)} meta-seeds",
    )


if __name__ == "__main__":
    main()
