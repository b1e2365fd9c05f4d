"""B-01, IWOCS: a robust problem as a few static ones, each of the worst model found so far.

    python benchmarks/systems/b01_iwocs.py

Random models of 12 states under total variation of 0.2 for each state and action, and under a ball
of relative entropy. Reference, written here: robust value iteration whose worst law is a linear
program of SciPy (total variation). Claims: IWOCS meets the reference within 1e-4; its minimum over
the models found never rises and never lies below the robust value; it needs few models (at most 8).
Control: the best policy of the nominal model, at its own worst case.
"""

from __future__ import annotations

import time

import jax
import numpy as np
from _row import row
from scipy import optimize

from jaxrl import BellmanOperator, core, envs, functionals, planning

EXACT = True
RADIUS, NUM_MODELS, NUM_STATES, NUM_ACTIONS = 0.2, 4, 12, 3


def worst(prob: np.ndarray, values: np.ndarray) -> float:
    """min q.v with q a law on the successors and half the L1 distance to `prob` at most RADIUS."""
    size = prob.size  # q, then the excess of q over prob
    eye = np.eye(size)
    above = np.vstack([np.hstack([eye, -eye]), np.r_[np.zeros(size), np.ones(size)][None]])
    found = optimize.linprog(
        np.r_[values, np.zeros(size)],
        A_ub=above,
        b_ub=np.r_[prob, RADIUS],
        A_eq=np.r_[np.ones(size), np.zeros(size)][None],
        b_eq=[1.0],
    )
    return float(found.fun)


def reference(mdp: core.TabularMDP) -> np.ndarray:
    """Robust values by value iteration with linear programs, to about 1e-5."""
    prob, following = np.asarray(mdp.prob), np.asarray(mdp.next_state)
    reward, discount = np.asarray(mdp.reward)[..., 0], float(mdp.discount)
    values = np.zeros(NUM_STATES)
    while True:
        worth = [
            [reward[s, a] + discount * worst(prob[s, a], values[following[s, a]])
             for a in range(NUM_ACTIONS)] for s in range(NUM_STATES)
        ]  # fmt: skip
        new = np.max(worth, axis=1)
        if np.abs(new - values).max() < 1e-5 * (1 - discount):
            return new
        values = new


def main() -> None:
    started, rows = time.process_time(), []
    kinds = {
        "total variation": functionals.TotalVariation(RADIUS),
        "relative entropy": functionals.KLBall(0.1),
    }
    falls = above = True
    with jax.enable_x64(True):
        for seed in range(NUM_MODELS):
            mdp = envs.garnet(jax.random.key(seed), NUM_STATES, NUM_ACTIONS, 4, discount=0.7)
            plain = planning.value_iteration(mdp, tolerance=1e-8)
            for name, functional in kinds.items():
                operator = BellmanOperator(successor_functional=functional)
                found = planning.iwocs(mdp, operator, tolerance=1e-6)
                robust = planning.value_iteration(mdp, operator, tolerance=1e-8).values
                exact = reference(mdp) if name == "total variation" else robust
                own = planning.policy_evaluation(mdp, plain.policy, operator, tolerance=1e-8)
                upper = np.asarray(found.upper_values)[: int(found.num_models)]
                falls &= bool(np.all(np.diff(upper, axis=0) <= 1e-6))
                above &= bool(np.all(upper >= np.asarray(robust) - 1e-6))
                off = float(np.abs(np.asarray(found.values) - exact).max())
                worths = float(found.policy_values @ mdp.initial), float(own.values @ mdp.initial)
                rows.append((off, int(found.num_models), *worths))
    off, count, ours, control = np.array(rows).T
    print(f"by robust value iteration: at most {off.max():.1e}; static problems {count}")
    print(f"bound never rises: {'yes' if falls else 'no'}; never below: {'yes' if above else 'no'}")
    row(
        started,
        off.max() < 1e-4
        and falls
        and above
        and count.max() <= 8
        and bool(np.all(ours >= control - 1e-6)),
        measured=f"worst case {ours.mean():.3f}, {count.mean():.1f} static problems",
        control=f"{control.mean():.3f}, best policy of the nominal model",
        interval=f"exact: {off.max():.0e} from linear programs, {len(rows)} problems",
    )


if __name__ == "__main__":
    main()
