"""X-01, reward shifting: a constant in the reward makes first values too high or too low.

    python benchmarks/systems/x01_shift.py

Random models that end: q shifted by K = c / (1 - discount) solves the Bellman equation of the
rewards that `RewardShift` gives, ends corrected, so that the best policy stays; with c added at
ends too (control) it changes. Then deep sea, where one way of 256 leads to the treasure: a linear
DQN that starts near 0 and acts greedily, with a negative shift, none (control), and a positive one.
Claims: the identity holds to rounding, the uncorrected policy is another on some models; the
negative shift finds the treasure on every seed, the controls on at most one of eight.

The last claim does not hold as it stands: five seeds of eight end with the treasure, and none of
the controls'. Unseen actions stay tempting until all others have fallen by K, which takes steps:
with half of the gradient steps at a third of the learning rate, on a sea of size 10, it was three.
"""

from __future__ import annotations

import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from _row import row
from scipy import stats

import jaxrl
from jaxrl import BellmanOperator, Lookahead, agents, core, envs, networks, planning

NUM_MODELS, DISCOUNT, NUM_SEEDS, SIZE, NUM_STEPS = 30, 0.9, 8, 8, 60_000
SHIFTS = (-0.1, 0.0, 0.1)


def identity(draw: np.random.Generator, shift: float) -> tuple[float, bool]:
    """How far q* + K is from its own backup, and whether the bare shift changes the policy."""
    shape = 6, 2, 2
    prob, ends = draw.dirichlet(np.ones(2), shape[:2]), draw.random(shape) < 0.3
    mdp = core.outcome_mdp(
        prob, draw.integers(0, 6, shape), draw.normal(size=shape), DISCOUNT, terminal=ends
    )
    best = planning.value_iteration(mdp, tolerance=1e-10)
    bare = planning.value_iteration(mdp.replace(reward=mdp.reward + shift), tolerance=1e-10)
    part, step = (
        agents.RewardShift(shift),
        SimpleNamespace(agent=SimpleNamespace(discount=DISCOUNT)),
    )
    held = best.q_values + part.offset(DISCOUNT)

    def backup(prob, following, reward, over):
        after = Lookahead(reward, DISCOUNT * (1.0 - over), prob, held[following], exact=True)
        shifted = part.reward(jax.random.key(0), (), step, after)
        return BellmanOperator().backup_params(shifted)

    rows = mdp.prob, mdp.next_state, mdp.outcome_rewards, jnp.asarray(ends, float)
    off = jnp.abs(jax.vmap(jax.vmap(backup))(*rows) - held).max()
    return float(off), bool(jnp.any(best.policy != bare.policy))


def treasures(shift: float) -> np.ndarray:
    """Whether the greedy policy of each seed ends with the treasure."""
    mdp = envs.deep_sea(SIZE, discount=DISCOUNT, key=jax.random.key(7))
    env = envs.TabularEnv(mdp, one_hot=True)
    agent = agents.QNetworkAgent(
        network=networks.NetworkSettings(hidden_sizes=(), initialiser="lecun"),
        optimiser=agents.Optimiser(learning_rate=3e-2),
        parts=(agents.RewardShift(shift),),
        discount=DISCOUNT,
        exploration=0.0,
        num_updates=4,
        warmup=200,
    )

    def run(key: jax.Array) -> jax.Array:
        state = jaxrl.train(key, agent, env, num_steps=NUM_STEPS, num_records=1).state.agent
        return jaxrl.evaluate(key, agent, env, state, num_episodes=1, max_steps=SIZE).mean

    found = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), NUM_SEEDS))
    return np.asarray(found) > 0.5


def main() -> None:
    started, draw = time.process_time(), np.random.default_rng(0)
    with jax.enable_x64(True):
        rows = [identity(draw, shift) for _ in range(NUM_MODELS // 2) for shift in (-1.0, 1.0)]
    off, changed = max(x for x, _ in rows), sum(x for _, x in rows)
    print(
        f"q + K by its backup: {off:.1e}; uncorrected, another policy on {changed} of {len(rows)}"
    )
    found = {shift: int(treasures(shift).sum()) for shift in SHIFTS}
    print(f"deep sea {SIZE}: seeds that found the treasure, by shift {found}")
    low, high = stats.binomtest(found[-0.1], NUM_SEEDS).proportion_ci()
    row(
        started,
        off < 1e-8
        and changed > 0
        and found[-0.1] == NUM_SEEDS
        and max(found[0.0], found[0.1]) <= 1,
        measured=f"treasure on {found[-0.1]} of {NUM_SEEDS} seeds at {SHIFTS[0]}",
        control=f"{found[0.0]} without shift, {found[0.1]} at {SHIFTS[2]}",
        interval=f"share [{low:.2f}, {high:.2f}], {NUM_SEEDS} seeds; identity "
        f"exact: {off:.0e}; uncorrected, another policy on "
        f"{changed} of {len(rows)} models",
    )


if __name__ == "__main__":
    main()
