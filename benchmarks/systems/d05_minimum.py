"""D-05, min-form returns (PURE): the expected worst reward needs the law of what follows.

    python benchmarks/systems/d05_minimum.py

Random chains of 4 states and 2 outcomes that end after 4 steps, with rewards on a grid: the return
is the worst reward on the way. Reference, written here: every path. `MinForm` backs up laws
(categorical, on the grid of the rewards); the control backs up means, min(r, E V'), which the
toolkit refuses and which is written here. Also, softmin weights of the paper over the rewards of
paths: at temperature 0.01 their sum is the minimum. Claims: laws give E min to rounding, means do
not, and are never below it.
"""

from __future__ import annotations

import itertools
import time

import jax
import numpy as np
from _row import row
from scipy import special

import jaxrl
from jaxrl import core, operators, planning

EXACT = True
WIDTH, LENGTH, NUM_MODELS = 3, 4, 50


def chain(draw: np.random.Generator) -> tuple[core.TabularMDP, float, float, float]:
    """A layered chain; E min by paths, by backups of means, and by softmin weights."""
    size = WIDTH * LENGTH
    prob = draw.dirichlet(np.ones(2), size)
    following = np.array([draw.integers(0, WIDTH, 2) + min(i // WIDTH + 1, LENGTH - 1) * WIDTH
                          for i in range(size)])  # fmt: skip
    reward = draw.integers(-5, 6, (size, 2)).astype(float)
    ends = np.repeat(np.arange(size)[:, None] // WIDTH == LENGTH - 1, 2, axis=1)
    mdp = core.outcome_mdp(
        prob[:, None], following[:, None], reward[:, None], 1.0, terminal=ends[:, None]
    )
    exact = soft = 0.0
    for choice in itertools.product(range(2), repeat=LENGTH):
        state, p, seen = 0, 1.0, []
        for k in choice:
            p *= prob[state, k]
            seen.append(reward[state, k])
            state = following[state, k]
        exact += p * min(seen)
        soft += p * (special.softmax(-np.array(seen) / 0.01) @ np.array(seen))
    values = np.zeros(size)
    for i in reversed(range(size)):
        after = np.where(ends[i], np.inf, values[following[i]])
        values[i] = prob[i] @ np.minimum(reward[i], after)
    return mdp, exact, values[0], soft


def refuses_means() -> bool:
    """Whether min-form backups of a head that stores a mean are refused."""
    try:
        jaxrl.BellmanOperator(composition=operators.MinForm()).require_successors(2, exact=True)
    except ValueError:
        return True
    return False


def main() -> None:
    started, draw, rows = time.process_time(), np.random.default_rng(0), []
    head = operators.Categorical(-5.0, 5.0, num_atoms=11)
    operator = jaxrl.BellmanOperator(head=head, composition=operators.MinForm())
    with jax.enable_x64(True):
        for _ in range(NUM_MODELS):
            mdp, exact, means, soft = chain(draw)
            found = planning.distributional_policy_evaluation(
                mdp, np.ones((WIDTH * LENGTH, 1)), operator, tolerance=1e-9
            )
            rows.append((float(found.values[0]), exact, means, soft))
    laws, exact, means, soft = np.array(rows).T
    off, gap, softly = np.abs(laws - exact).max(), means - exact, np.abs(soft - exact).max()
    print(f"laws by E min {off:.1e}; softmin weights {softly:.1e}")
    print(f"means above E min by {gap.mean():.3f}, at most {gap.max():.3f}, least {gap.min():.1e}")
    row(
        started,
        off < 1e-6 and softly < 1e-6 and gap.min() > -1e-9 and gap.max() > 0.1 and refuses_means(),
        measured=f"E min {laws.mean():.3f}",
        control=f"{means.mean():.3f} by backups of means (refused), {exact.mean():.3f} by paths",
        interval=f"exact: {off:.0e}, {NUM_MODELS} chains",
    )


if __name__ == "__main__":
    main()
