"""D-03, iterated CVaR: risk anew at every step lies between two risks of the whole return.

    python benchmarks/systems/d03_nested.py

Random policies on random models of 4 states and 3 outcomes, 3 random steps. The nested CVaR of each
is `planning.nested_cvar` of the chain that the policy makes; the reference, written here in NumPy,
follows every path, and takes CVaR of its law for the whole return. Claims: at level 1 it is the
mean; it rises with the level; CVaR at level^3 <= nested at level <= mean; with one random step it
is the CVaR; at the same level there is no order. Control: one sampled successor, of which CVaR is
the mean, is refused. (The optimistic learner of the paper is not built here.)
"""

from __future__ import annotations

import itertools
import time

import jax
import numpy as np
from _row import row

import jaxrl
from jaxrl import core, functionals, planning

EXACT = True
NUM_STATES, NUM_OUTCOMES, HORIZON, NUM_MODELS = 4, 3, 3, 100
LEVELS = (0.1, 0.3, 0.6, 1.0)


def cvar(probs: np.ndarray, atoms: np.ndarray, level: float) -> float:
    """max_b b - E (b - G)^+ / level, which some atom attains."""
    short = np.maximum(atoms[:, None] - atoms[None], 0.0)
    return float(np.max(atoms - short @ probs / level))


def paths(prob: np.ndarray, following: np.ndarray, reward: np.ndarray, steps: int) -> tuple:
    """Law of the return from state 0: `probs[K^steps]`, `atoms[K^steps]`."""
    probs, atoms = [], []
    for choice in itertools.product(range(NUM_OUTCOMES), repeat=steps):
        state, p, g = 0, 1.0, 0.0
        for k in choice:
            p, g, state = p * prob[state, k], g + reward[state, k], following[state, k]
        probs.append(p)
        atoms.append(g)
    return np.array(probs), np.array(atoms)


def refuses_one_sample() -> bool:
    """Whether an operator with CVaR refuses to be fed one sampled successor."""
    try:
        jaxrl.BellmanOperator(successor_functional=functionals.CVaR(0.1)).require_successors(1)
    except ValueError:
        return True
    return False


def main() -> None:
    started, draw = time.process_time(), np.random.default_rng(0)
    nested, whole, floor, means, single = [], [], [], [], []
    with jax.enable_x64(True):
        for _ in range(NUM_MODELS):
            shape = NUM_STATES, NUM_OUTCOMES
            prob = draw.dirichlet(np.ones(NUM_OUTCOMES), NUM_STATES)
            following, reward = draw.integers(0, NUM_STATES, shape), draw.normal(size=shape)
            rows = prob[:, None], following[:, None], reward[:, None]
            chain = core.outcome_mdp(*rows, discount=1.0)
            law, once = (paths(prob, following, reward, steps) for steps in (HORIZON, 1))
            nested.append(
                [float(planning.nested_cvar(chain, level=a, horizon=HORIZON).value) for a in LEVELS]
            )
            whole.append([cvar(*law, a) for a in LEVELS])
            floor.append([cvar(*law, a**HORIZON) for a in LEVELS])
            means.append(float(law[0] @ law[1]))
            single += [
                float(planning.nested_cvar(chain, level=a, horizon=1).value) - cvar(*once, a)
                for a in LEVELS
            ]
    nested, whole, floor, means = map(np.array, (nested, whole, floor, means))
    at_one, one_step = np.abs(nested[:, -1] - means).max(), np.abs(single).max()
    slack = min((nested - floor).min(), (means[:, None] - nested).min(), np.diff(nested).min())
    gap = (nested - whole)[:, :-1]
    refused = refuses_one_sample()
    print(f"level 1 by the mean {at_one:.1e}; one step by the CVaR {one_step:.1e}")
    print(f"least slack of the three inequalities {slack:.1e}")
    print(f"nested less CVaR at one level: from {gap.min():.2f} to {gap.max():.2f}")
    print(f"one sampled successor is refused: {'yes' if refused else 'no'}")
    row(
        started,
        max(at_one, one_step, -slack) < 1e-9 and gap.min() < -1e-3 and gap.max() > 1e-3 and refused,
        measured=f"nested CVaR at 0.3: {nested[:, 1].mean():.2f}",
        control=f"CVaR at 0.3^3 {floor[:, 1].mean():.2f}, at 0.3 {whole[:, 1].mean():.2f}, "
        f"mean {means.mean():.2f}",
        interval=f"exact: {max(at_one, one_step):.0e}; bounds hold on {NUM_MODELS} models, "
        f"of either sign against CVaR",
    )


if __name__ == "__main__":
    main()
