"""S-03, feasibility values (FISOR): their sign tells from where a constraint can be kept for ever.

    python benchmarks/systems/s03_feasible.py

Random deterministic models of 60 states, in a quarter of which a constraint is violated. The
feasible operator (1 - d) h + d max(h, min_a V), of the violation h, is `Avoidance` of -h.
Reference, written here: the greatest set of states without violation from each of which some action
stays in it. Claims: the operator contracts by the discount; the states of positive value are the
reference set as the discount tends to 1. Control: the same at a discount of 0.9. (The weighted
cloning of the paper is not built.)
"""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np
from _row import row

from jaxrl import BellmanOperator, core, operators, planning

EXACT = True
NUM_STATES, NUM_ACTIONS, NUM_MODELS = 60, 2, 30
DISCOUNTS = (0.9, 0.99, 0.999, 0.9999)


def kept(following: np.ndarray, violated: np.ndarray) -> np.ndarray:
    """States from which the constraint can be kept for ever, `[S]`."""
    inside = ~violated
    while True:
        smaller = inside & inside[following].any(axis=1)
        if np.array_equal(smaller, inside):
            return inside
        inside = smaller


def main() -> None:
    started, draw = time.process_time(), np.random.default_rng(0)
    operator = BellmanOperator(composition=operators.Avoidance())
    wrong, shrinks = np.zeros((NUM_MODELS, len(DISCOUNTS)), int), []
    with jax.enable_x64(True):
        for model in range(NUM_MODELS):
            following = draw.integers(0, NUM_STATES, (NUM_STATES, NUM_ACTIONS))
            violated = draw.random(NUM_STATES) < 0.25
            margin = np.repeat(np.where(violated, -1.0, 1.0)[:, None], NUM_ACTIONS, 1)
            sure = np.ones((NUM_STATES, NUM_ACTIONS, 1))
            mdp = core.outcome_mdp(sure, following[..., None], margin, 0.9)
            inside = kept(following, violated)
            for i, discount in enumerate(DISCOUNTS):
                here = mdp.replace(discount=jnp.asarray(discount))
                found = planning.value_iteration(here, operator, tolerance=1e-7)
                wrong[model, i] = np.sum((np.asarray(found.values) > 0) != inside)
            ends = jnp.asarray(draw.normal(size=(2, NUM_STATES)))
            once = [
                planning.finite_horizon(mdp, operator, horizon=1, terminal_values=end).values[0]
                for end in ends
            ]
            moved = jnp.max(jnp.abs(once[0] - once[1])) / jnp.max(jnp.abs(ends[0] - ends[1]))
            shrinks.append(float(moved))
    for discount, count in zip(DISCOUNTS, wrong.sum(axis=0), strict=True):
        print(f"discount {discount}: {count} of {NUM_MODELS * NUM_STATES} states told wrongly")
    print(f"greatest contraction at 0.9: {max(shrinks):.3f}")
    row(
        started,
        wrong[:, -1].sum() == 0 and max(shrinks) <= 0.9 + 1e-9,
        measured=f"{wrong[:, -1].sum()} of {NUM_MODELS * NUM_STATES} states told wrongly at "
        f"{DISCOUNTS[-1]}",
        control=f"{wrong[:, 0].sum()} at {DISCOUNTS[0]}",
        interval=f"exact, {NUM_MODELS} models; contracts by {max(shrinks):.3f} at 0.9",
    )


if __name__ == "__main__":
    main()
