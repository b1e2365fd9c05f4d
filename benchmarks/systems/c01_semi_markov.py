"""C-01, semi-Markov decisions: what follows an action of tau steps is worth discount^tau.

    python benchmarks/systems/c01_semi_markov.py

Random models of 8 states whose outcomes last 1 to 5 unit steps and pay at each of them. Reference,
written here in NumPy: value iteration on the model unrolled to unit steps, in which one waits.
Claims: the semi-Markov plan has the values of the unrolled model, to rounding. Control: a planner
that is blind to durations (one discount for each decision, the same rewards) picks other actions,
and loses; so it does where a slow large reward competes with a fast small one.
"""

from __future__ import annotations

import time

import jax
import numpy as np
from _row import mean_interval, row

from jaxrl import core, envs, planning

EXACT = True
NUM_STATES, NUM_ACTIONS, NUM_OUTCOMES, NUM_MODELS, DISCOUNT = 8, 3, 2, 40, 0.9


def unrolled(
    prob: np.ndarray, following: np.ndarray, pay: np.ndarray, tau: np.ndarray
) -> np.ndarray:
    """Values `[S]` by unit steps: waiting[..., j] is worth what is left of an outcome after j."""
    values, waiting = np.zeros(len(prob)), np.zeros((*tau.shape, tau.max() + 1))
    steps = np.arange(tau.max() + 1)
    while True:
        # After j steps of an outcome the next pays pay[j], unless all tau are over.
        after = np.concatenate([waiting[..., 1:], np.zeros((*tau.shape, 1))], axis=-1)
        padded = np.concatenate([pay, np.zeros((*tau.shape, 1))], axis=-1)
        over = steps >= tau[..., None]
        new_waiting = np.where(over, values[following][..., None], padded + DISCOUNT * after)
        new = np.max(np.sum(prob * new_waiting[..., 0], axis=-1), axis=-1)
        if max(np.abs(new - values).max(), np.abs(new_waiting - waiting).max()) < 1e-13:
            return new
        values, waiting = new, new_waiting


def main() -> None:
    started, draw, rows = time.process_time(), np.random.default_rng(0), []
    shape = NUM_STATES, NUM_ACTIONS, NUM_OUTCOMES
    with jax.enable_x64(True):
        for _ in range(NUM_MODELS):
            prob = draw.dirichlet(np.ones(NUM_OUTCOMES), shape[:2])
            following, tau = draw.integers(0, NUM_STATES, shape), draw.integers(1, 6, shape)
            steps = np.arange(5)
            pay = np.where(steps < tau[..., None], draw.normal(size=(*shape, 5)), 0.0)
            whole = np.sum(pay * DISCOUNT**steps, axis=-1)
            mdp = envs.semi_markov_mdp(prob, following, whole, tau, discount=DISCOUNT)
            plan = planning.value_iteration(mdp, tolerance=1e-10)
            blind = core.outcome_mdp(prob, following, whole, DISCOUNT)
            policy = planning.value_iteration(blind, tolerance=1e-10).policy
            own = planning.policy_evaluation(mdp, policy, tolerance=1e-10).values
            off = np.abs(np.asarray(plan.values) - unrolled(prob, following, pay, tau)).max()
            rows.append((off, float(plan.values.mean()), float(own.mean())))
        choice = [[[1.0], [1.0]]], [[[0], [0]]], [[[4.0], [1.0]]]  # 4 for 8 steps, or 1 for one
        slow = envs.semi_markov_mdp(*choice, [[[8.0], [1.0]]], discount=DISCOUNT)
        aware = int(planning.value_iteration(slow).policy[0].argmax())
        unaware = planning.value_iteration(core.outcome_mdp(*choice, discount=DISCOUNT))
        right = aware == 1 and int(unaware.policy[0].argmax()) == 0
    off, ours, control = np.array(rows).T
    gain, low, high = mean_interval(ours - control)
    print(
        f"slow large or fast small, 4 of 8 steps or 1 of one: told apart {'yes' if right else 'no'}"
    )
    row(
        started,
        off.max() < 1e-8 and low > 0 and right,
        measured=f"value {ours.mean():.3f}",
        control=f"{control.mean():.3f}, blind to durations",
        interval=f"{gain:.3f} [{low:.3f}, {high:.3f}] more, {NUM_MODELS} models; exact: "
        f"{off.max():.0e} from unit steps",
    )


if __name__ == "__main__":
    main()
