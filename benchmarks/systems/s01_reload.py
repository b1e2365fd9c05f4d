"""S-01, ReLOAD: optimism makes the last iterate of a constrained learner settle.

    python benchmarks/systems/s01_reload.py

In HazardGrid the best policy under the limit is random, and `planning.constrained` gives it. A
mirror-descent actor-critic learns the price of the cost, plain (control) and optimistic; both see
the same keys, have the same falling steps, and differ in one number. After the last update the
policy is weighed exactly, by its occupancy. Claim: the optimistic one is at the optimum then
(return and cost within 5 %), while the plain one circles it and agrees on average only.
"""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np
from _row import row

import jaxrl
from jaxrl import agents, core, envs, networks, planning, rules

NUM_SEEDS, NUM_UPDATES = 5, 500
NUM_ENVS, ROLLOUT_LENGTH = 512, 32


def learner(optimism: float, limit: float, discount: float) -> agents.ActorCriticAgent:
    """A table of logits and values; one step of mirror descent for each rollout."""
    inner = rules.MirrorDescentPolicy(step_size=core.Linear(1.0, 0.2), value_clip=float("inf"))
    prices = {"budgets": limit, "multiplier_step": core.Linear(0.3, 0.06), "optimism": optimism}
    return agents.ActorCriticAgent(
        rule=rules.Lagrangian(rule=inner, **prices, per_episode=False),
        network=networks.NetworkSettings(hidden_sizes=(), initialiser="lecun"),
        optimiser=agents.GradientDescent(learning_rate=2.0, max_grad_norm=float("inf")),
        discount=discount,
        num_envs=NUM_ENVS,
        rollout_length=ROLLOUT_LENGTH,
        num_epochs=10,
        num_minibatches=1,
        normalise_advantages=False,
    )


def learned(optimism: float) -> dict[str, np.ndarray]:
    """Of every seed: the last policy's exact return and cost, and the estimates on the way."""
    env = envs.make("HazardGrid")
    agent = learner(optimism, float(env.limits[0]), float(env.mdp.discount))
    num_steps = NUM_UPDATES * NUM_ENVS * ROLLOUT_LENGTH

    def run(key: jax.Array) -> dict[str, jax.Array]:
        result = jaxrl.train(key, agent, env, num_steps=num_steps, num_records=NUM_UPDATES)
        logits = agent.policy(result.state.agent, jnp.eye(env.mdp.num_states)).logits
        visits = planning.occupancy(env.mdp, jax.nn.softmax(logits))
        last = {
            "return": jnp.sum(visits * env.mdp.dense()[1]),
            "cost": jnp.sum(visits * env.costs[0]),
        }
        return {**last, **{name: result.metrics[name] for name in ("cost_0", "multiplier_0")}}

    keys = jax.random.split(jax.random.key(0), NUM_SEEDS)
    return jax.device_get(jax.jit(jax.vmap(run))(keys))


def interval(values: np.ndarray) -> str:
    """Mean and range of the seeds."""
    return f"{np.mean(values):.3f} [{np.min(values):.3f}, {np.max(values):.3f}]"


def main() -> None:
    started = time.process_time()
    env = envs.make("HazardGrid")
    best = planning.constrained(env.mdp, env.costs, env.limits)
    optimum, limit, price = float(best.value), float(env.limits[0]), float(best.multipliers[0])
    print(f"optimum: return {optimum:.3f}, cost {limit:.3f}, multiplier {price:.3f}")
    settled = {}
    for name, optimism in (("optimistic", 1.0), ("plain (control)", 0.0)):
        found = learned(optimism)
        late = found["cost_0"][:, -NUM_UPDATES // 4 :]
        swing = late.max(-1) - late.min(-1)
        off = np.maximum(np.abs(found["return"] / optimum - 1), np.abs(found["cost"] / limit - 1))
        settled[name] = off, swing
        print(f"{name}, {NUM_SEEDS} seeds, mean [least, greatest]:")
        print(f"  last policy: return {interval(found['return'])}, cost {interval(found['cost'])}")
        print(f"  last policy: further of the two from the optimum {interval(off)}")
        print(
            f"  last quarter: swing of the cost {interval(swing)}, mean {interval(late.mean(-1))}"
        )
        prices = found["multiplier_0"][:, -NUM_UPDATES // 4 :].mean(-1)
        print(f"  last quarter: mean multiplier {interval(prices)}")
    (off, swing), (plain_off, plain_swing) = settled.values()
    holds = np.all(off < 0.05) and np.median(plain_off) > 0.05 and np.all(3 * swing < plain_swing)
    row(
        started,
        bool(holds),
        measured=f"last iterate {off.mean():.1%} from the optimum",
        control=f"{plain_off.mean():.1%}, plain ascent and descent",
        interval=f"[{off.min():.1%}, {off.max():.1%}], control [{plain_off.min():.1%}, "
        f"{plain_off.max():.1%}], {NUM_SEEDS} seeds",
    )


if __name__ == "__main__":
    main()
