"""S-02, CaT: constraints as terminations keep a limit at a small price in reward.

    python benchmarks/systems/s02_cat.py

PPO moves a point to a goal; the straight way leads through a hazard, whose depth is the cost of a
step. Three ways, on the same seeds and steps: none (control), a chance of an end for what violates
(CaT), and a penalty taken from the reward, the last two at several strengths. Both are tuned: of
the strengths that leave at most 2 % of PPO's cost, the one of greatest return. Claims: at
probability 0 it is PPO, number by number; the tuned one leaves hardly a violation and costs at most
3 % of the return; the tuned penalty's return is no better by more than 1 %.
"""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _row import row

import jaxrl
from jaxrl import core, envs, rules

NUM_SEEDS, NUM_STEPS = 4, 130_000
PPO = rules.ProximalPolicy(entropy_weight=0.003)
ENV = envs.make("PointMass")
TRIED = {"CaT": (0.0, 0.03, 0.1, 0.3), "penalty": (0.3, 1.0, 2.0, 4.0)}


@core.struct.dataclass
class Penalised:
    """The reward less `weight` times the cost."""

    env: Any
    weight: float = 1.0

    observation_space = property(lambda self: self.env.observation_space)
    action_space = property(lambda self: self.env.action_space)

    def reset(self, key: jax.Array) -> tuple:
        """As inside."""
        return self.env.reset(key)

    def step(self, key: jax.Array, state: Any, action: jax.Array) -> tuple:
        """With the penalty."""
        state, step = self.env.step(key, state, action)
        return state, step.replace(reward=step.reward - self.weight * step.cost[0])


def learned(key: jax.Array, rule: Any, env: Any) -> tuple[jax.Array, jax.Array]:
    """Mean return and mean cost of an episode after training."""
    agent = jaxrl.ppo(
        rule=rule,
        num_envs=32,
        rollout_length=60,
        num_epochs=8,
        discount=0.98,
        learning_rate=core.Linear(2e-3, 0.0),
    )
    result = jaxrl.train(key, agent, env, num_steps=NUM_STEPS, num_records=1)
    played = jaxrl.evaluate(key, agent, ENV, result.state.agent, num_episodes=64, max_steps=60)
    return played.mean, jnp.mean(played.costs)


def with_strength(kind: str, key: jax.Array, strength: jax.Array) -> tuple[jax.Array, jax.Array]:
    if kind == "penalty":
        return learned(key, PPO, Penalised(ENV, strength))
    return learned(key, rules.ConstraintTerminations(probability=strength, rule=PPO), ENV)


def told(name: str, returns: np.ndarray, costs: np.ndarray) -> None:
    cells = [f"{x.mean():.3f} [{x.min():.3f}, {x.max():.3f}]" for x in (returns, costs)]
    print(f"{name:14s} return {cells[0]}, cost {cells[1]}")


def main() -> None:
    started = time.process_time()
    keys = jax.random.split(jax.random.key(1), NUM_SEEDS)
    plain = jax.device_get(jax.jit(jax.vmap(lambda key: learned(key, PPO, ENV)))(keys))
    print(f"mean [least, greatest] of {NUM_SEEDS} seeds, {NUM_STEPS:,} steps each")
    told("PPO (control)", *plain)
    best = {}
    for kind, strengths in TRIED.items():
        run = jax.jit(jax.vmap(lambda key, x, kind=kind: with_strength(kind, key, x), (0, None)))
        found = {x: jax.device_get(run(keys, jnp.asarray(x))) for x in strengths}
        for strength, both in found.items():
            told(f"{kind} {strength:g}", *both)
        kept = [x for x in strengths if found[x][1].mean() <= 0.02 * plain[1].mean()]
        best[kind] = max(kept, key=lambda x: found[x][0].mean(), default=strengths[-1])
        best[kind] = best[kind], *found[best[kind]]
        if kind == "CaT":
            same = all(np.array_equal(a, b) for a, b in zip(plain, found[0.0], strict=True))
    (p, returns, costs), (weight, penalised, _) = best["CaT"], best["penalty"]
    left, price = costs.mean() / plain[1].mean(), 1 - returns.mean() / plain[0].mean()
    behind = 1 - returns.mean() / penalised.mean()
    print(f"probability 0 is PPO to the bit: {'yes' if same else 'no'}")
    print(f"tuned, {p:g}: {left:.1%} of PPO's cost is left, for {price:.1%} of its return;")
    print(f"the tuned penalty, {weight:g}, returns {behind:+.1%} against it")
    holds = same and left <= 0.02 and price <= 0.03 and behind <= 0.01
    row(
        started,
        bool(holds),
        measured=f"return {returns.mean():.2f}, cost {costs.mean():.3f}",
        control=f"PPO {plain[0].mean():.2f}, {plain[1].mean():.3f}; penalty {penalised.mean():.2f}",
        interval=f"return [{returns.min():.2f}, {returns.max():.2f}], cost at most "
        f"{costs.max():.3f}, {NUM_SEEDS} seeds",
    )


if __name__ == "__main__":
    main()
