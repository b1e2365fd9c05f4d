"""R-01, KL to the last policy: injected errors average out, and Munchausen is the same scheme.

    python benchmarks/systems/r01_leverage.py

Mirror-descent value iteration on random models, with independent normal errors added to every q.
References, written here in NumPy: the softmax of the sum of all q (dynamic policy programming), and
Munchausen value iteration, whose q is q_k + l log pi_k. Claims: both identities hold to rounding;
both weights 0 is value iteration; with errors, the last policy of the KL scheme loses at most half
of what that of value iteration does (control; the interval of the ratio lies below 1/2), and the
published bound on it holds.
"""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np
from _row import mean_interval, row
from scipy import special

from jaxrl import core, envs, planning

EXACT = True
NUM_ITERATIONS, NOISE, NUM_MODELS, DISCOUNT = 300, 0.3, 30, 0.9


def identities(mdp: core.TabularMDP) -> tuple[float, float, float]:
    """How far the scheme is from softmax of sums, from Munchausen, and from value iteration."""
    kernel, reward = (np.asarray(x) for x in mdp.dense())
    shape, rounds = reward.shape, 30

    def scheme(kl: float, entropy: float, count: int = rounds):
        return planning.mirror_descent_value_iteration(
            mdp, kl_weight=kl, entropy_weight=entropy, num_iterations=count
        )

    total = sum(np.asarray(scheme(1.0, 0.0, k).q_values) for k in range(1, rounds + 1))
    sums = np.abs(special.softmax(total, axis=1) - np.asarray(scheme(1.0, 0.0).policy)).max()
    kl, entropy = 0.7, 0.4
    q, plain, alpha, heat = np.zeros(shape), np.zeros(shape), kl / (kl + entropy), kl + entropy
    # From the uniform policy: Munchausen's q starts at l log pi_0.
    q += kl * np.log(1.0 / shape[1])
    for _ in range(rounds):
        log_policy = special.log_softmax(q / heat, axis=1)
        policy = np.exp(log_policy)
        values = np.sum(policy * (q - heat * log_policy), axis=1)
        q = reward + alpha * heat * log_policy + DISCOUNT * kernel @ values
        plain = reward + DISCOUNT * kernel @ plain.max(axis=1)
    policy = special.softmax(q / heat, axis=1)
    munchausen = np.abs(policy - np.asarray(scheme(kl, entropy).policy)).max()
    greedy = np.abs(plain - np.asarray(scheme(0.0, 0.0).q_values)).max()
    return float(sums), float(munchausen), float(greedy)


def main() -> None:
    started, rows, off = time.process_time(), [], []
    with jax.enable_x64(True):
        for seed in range(NUM_MODELS):
            mdp = envs.garnet(jax.random.key(seed), 20, 4, 3, discount=DISCOUNT)
            best = planning.value_iteration(mdp, tolerance=1e-8).values
            noise = jax.random.normal(jax.random.key(1000 + seed), (NUM_ITERATIONS, 20, 4)) * NOISE
            if seed < 3:
                off.append(identities(mdp))
            lost = []
            for weight in (0.0, 1.0):
                found = planning.mirror_descent_value_iteration(
                    mdp, kl_weight=weight, num_iterations=NUM_ITERATIONS, errors=noise
                )
                own = planning.policy_evaluation(mdp, found.policy, tolerance=1e-8).values
                lost.append(float(jnp.max(best - own)))
            most = (jnp.max(jnp.abs(mdp.reward)) + np.log(4)) / (1 - DISCOUNT)
            averaged = 2 / (1 - DISCOUNT) * jnp.max(jnp.abs(noise.mean(0)))
            rows.append((*lost, float(averaged + 4 * most / (1 - DISCOUNT) / NUM_ITERATIONS)))
    plain, ours, bound = np.array(rows).T
    ratio, low, high = mean_interval(ours / np.maximum(plain, 1e-12))
    sums, munchausen, greedy = np.max(off, axis=0)
    print(
        f"softmax of the sum {sums:.1e}, Munchausen {munchausen:.1e}, value iteration {greedy:.1e}"
    )
    row(
        started,
        max(sums, munchausen, greedy) < 1e-9 and high < 0.5 and bool(np.all(ours <= bound)),
        measured=f"last policy loses {ours.mean():.3f}",
        control=f"{plain.mean():.3f}, value iteration under the same errors",
        interval=f"ratio {ratio:.2f} [{low:.2f}, {high:.2f}], {NUM_MODELS} models; "
        f"identities exact: {max(sums, munchausen, greedy):.0e}",
    )


if __name__ == "__main__":
    main()
