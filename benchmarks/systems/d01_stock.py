"""D-01, stock-augmented distributional planning: the best CVaR over all policies that remember.

    python benchmarks/systems/d01_stock.py

Random models of 2 states, 2 actions and 2 outcomes, 4 steps, discount 1/2 and whole rewards. The
planner sees state, time and stock and searches over initial stocks. Reference, written here in
NumPy: every deterministic policy that remembers all that happened (32,768 for each model), and the
CVaR of its return by the formula. Controls: the best policy of state and time (all enumerated), the
planner of nested CVaR, the planner of means. Claims: what the planner predicts is the exhaustive
optimum and what its policy attains, to rounding; it is never below a control, and above the best
Markov one on some models.
"""

from __future__ import annotations

import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
from _row import row

from jaxrl import core, planning

EXACT = True
LEVEL, HORIZON, DISCOUNT, NUM_MODELS = 0.3, 4, 0.5, 20
NUM_STATES, NUM_ACTIONS, NUM_OUTCOMES = 2, 2, 2


def cvar(probs: np.ndarray, atoms: np.ndarray) -> np.ndarray:
    """Lower CVaR of each law of `probs[..., N]` and `atoms[..., N]`: max_b b - E (b - G)^+ / level,
    which some atom attains."""
    short = np.maximum(atoms[..., :, None] - atoms[..., None, :], 0.0)
    return np.max(atoms - np.sum(probs[..., None, :] * short, axis=-1) / LEVEL, axis=-1)


def laws(model: tuple) -> tuple[np.ndarray, np.ndarray]:
    """The return's law from state 0 under every policy that remembers: `probs[P, N]`, `atoms`."""
    prob, following, reward = model
    after = {state: (np.ones((1, 1)), np.zeros((1, 1))) for state in range(NUM_STATES)}
    for _ in range(HORIZON):
        rows = {}
        for state in range(NUM_STATES):
            found = []
            for action in range(NUM_ACTIONS):
                (p, q), (r, u) = prob[state, action], reward[state, action]
                (probs, atoms), (more_probs, more_atoms) = (
                    after[s] for s in following[state, action]
                )
                # Each way to go on after one outcome, with each after the other.
                i, j = (x.reshape(-1) for x in np.indices((len(probs), len(more_probs))))
                joined = np.hstack([p * probs[i], q * more_probs[j]])
                found.append(
                    (joined, np.hstack([r + DISCOUNT * atoms[i], u + DISCOUNT * more_atoms[j]]))
                )
            rows[state] = tuple(np.concatenate(x) for x in zip(*found, strict=True))
        after = rows
    return after[0]


def markov(model: tuple) -> float:
    """The best CVaR of policies of state and time, all of which are tried."""
    prob, following, reward = model
    best = -np.inf
    for later in itertools.product(range(NUM_ACTIONS), repeat=NUM_STATES * (HORIZON - 1)):
        table = np.array(later).reshape(HORIZON - 1, NUM_STATES)
        ends = {s: (np.ones(1), np.zeros(1)) for s in range(NUM_STATES)}
        for actions in (*table[::-1], None):  # backwards; at time 0 both actions of state 0
            pairs = [(0, a) for a in range(NUM_ACTIONS)] if actions is None else enumerate(actions)
            rows = []
            for s, a in pairs:
                parts = [ends[after] for after in following[s, a]]
                probs = [p * x[0] for p, x in zip(prob[s, a], parts, strict=True)]
                atoms = [r + DISCOUNT * x[1] for r, x in zip(reward[s, a], parts, strict=True)]
                rows.append((np.concatenate(probs), np.concatenate(atoms)))
            ends = dict(enumerate(rows))
        best = max(best, *(float(cvar(*ends[i])) for i in range(NUM_ACTIONS)))
    return best


def attained(mdp: core.TabularMDP, policy: jax.Array) -> float:
    """CVaR of the return under a policy of state and time, `[H, S, A]`."""
    law = planning.return_law(mdp, policy, horizon=HORIZON, num_atoms=64).law
    return float(cvar(np.asarray(law.probs), np.asarray(law.atoms)))


def main() -> None:
    started, draw, rows = time.process_time(), np.random.default_rng(0), []
    with jax.enable_x64(True):
        for _ in range(NUM_MODELS):
            shape = NUM_STATES, NUM_ACTIONS, NUM_OUTCOMES
            prob = draw.dirichlet(np.ones(NUM_OUTCOMES), shape[:2])
            model = prob, draw.integers(0, NUM_STATES, shape), draw.integers(-4, 5, shape)
            mdp = core.outcome_mdp(*model, discount=DISCOUNT)
            plan = planning.stock_augmented(
                mdp,
                lambda x: jnp.minimum(x, 0.0),
                horizon=HORIZON,
                initial_stock=-jnp.arange(-8.0, 8.0, 0.125),
                outer=lambda stock, utility: utility / LEVEL - stock,
            )
            own = plan.return_law(mdp, num_atoms=64).law
            nested = planning.nested_cvar(mdp, level=LEVEL, horizon=HORIZON).policy
            means = planning.finite_horizon(mdp, horizon=HORIZON).policy
            rows.append(
                (
                    float(plan.value),
                    float(cvar(np.asarray(own.probs), np.asarray(own.atoms))),
                    float(cvar(*laws(model)).max()),
                    markov(model),
                    attained(mdp, nested),
                    attained(mdp, means),
                )
            )
    planned, own, best, *controls = np.array(rows).T
    off = max(np.abs(planned - best).max(), np.abs(own - best).max())
    above = [int(np.sum(planned > control + 1e-9)) for control in controls]
    names = ("Markov", "nested", "mean")
    print(f"planned and attained by the best of all policies: {off:.1e}")
    for name, control, count in zip(names, controls, above, strict=True):
        print(f"{name}: CVaR {control.mean():.3f}, below on {count} of {NUM_MODELS} models")
    row(
        started,
        off < 1e-9 and all(np.all(planned >= x - 1e-9) for x in controls) and above[0] > 0,
        measured=f"CVaR {planned.mean():.3f}",
        control=", ".join(f"{n} {x.mean():.3f}" for n, x in zip(names, controls, strict=True)),
        interval=f"exact: {off:.0e} from the best of 32,768 policies, {NUM_MODELS} models; above "
        f"every Markov policy on {above[0]}",
    )


if __name__ == "__main__":
    main()
