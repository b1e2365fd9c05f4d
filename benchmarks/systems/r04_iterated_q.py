"""R-04, iterated Q-network: K Bellman iterations are fitted side by side.

    python benchmarks/systems/r04_iterated_q.py

A tabular problem at a discount of 0.98, a linear network and uniform actions, so that all arms see
the same data and differ in their targets alone. What is recorded is how far the networks are from
the optimal values, by a part of the learner that is written here. Every iterate is fitted for 50
gradient steps: at a stretch by DQN, in five places of 10 by a chain of five. Claims: at equal steps
of the environment the chain advances five times as fast; and no slower than DQN at equal gradient
work, which takes five times as many steps on the same data. A chain of one is DQN.
"""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np
from _row import row

import jaxrl
from jaxrl import agents, core, envs, networks, planning, replay

NUM_SEEDS, LENGTH, PERIOD, NUM_PERIODS, DISCOUNT = 16, 5, 50, 40, 0.98


@core.struct.dataclass
class Distance:
    """Records the mean distance from known values `[S, A]`, over networks."""

    known: jax.Array

    facts = core.PartFacts()

    def init(self, key, agent, env, params):
        """Nothing is known before the first step."""
        return jnp.zeros(())

    def update(self, state, step, target, lagged):
        """Of the network before the step."""
        values = step.state.model.apply(step.state.params, jnp.arange(self.known.shape[0]))
        return jnp.mean(jnp.abs(values - self.known))

    def metrics(self, state):
        """`distance` [return]."""
        return {"distance": state}


def learner(target: object, known: jax.Array, num_updates: int = 1) -> agents.QNetworkAgent:
    """A table of values that is stepped `num_updates` times after each rollout of 32 steps."""
    return agents.QNetworkAgent(
        network=networks.NetworkSettings(hidden_sizes=(), initialiser="lecun"),
        optimiser=agents.Optimiser(learning_rate=0.1, max_grad_norm=100.0),
        replay=replay.UniformReplay(capacity=8192),
        target=target,
        parts=(Distance(known),),
        discount=DISCOUNT,
        exploration=1.0,
        num_envs=32,
        rollout_length=1,
        num_updates=num_updates,
        batch_size=128,
        warmup=0,
    )


def main() -> None:
    started = time.process_time()
    mdp = envs.garnet(jax.random.key(1), 20, 3, discount=DISCOUNT)
    env = envs.TabularEnv(mdp, time_limit=100.0)
    known = planning.value_iteration(mdp, tolerance=1e-2).q_values
    usual = agents.TargetUpdate(period=PERIOD, step_size=1.0)
    short = agents.TargetUpdate(period=PERIOD // LENGTH, step_size=1.0)
    chain = agents.IteratedCopies(LENGTH, period=PERIOD // LENGTH, refresh=5)
    arms = {
        "DQN (control)": learner(usual, known),
        f"DQN, {LENGTH} times the gradient steps (control)": learner(usual, known, LENGTH),
        f"DQN, {PERIOD // LENGTH} steps for an iterate (control)": learner(short, known),
        f"chain of {LENGTH}": learner(chain, known),
        "chain of 1": learner(agents.IteratedCopies(1, PERIOD, 10), known),
    }
    keys, curves = jax.random.split(jax.random.key(0), NUM_SEEDS), {}
    for name, agent in arms.items():

        def run(key: jax.Array, agent: agents.QNetworkAgent = agent) -> jax.Array:
            steps = NUM_PERIODS * PERIOD * agent.num_envs
            result = jaxrl.train(key, agent, env, num_steps=steps, num_records=NUM_PERIODS)
            return result.metrics["distance"]

        curves[name] = found = np.asarray(jax.jit(jax.vmap(run))(keys))
        num_early = NUM_PERIODS // 4  # later the error is that of the fit
        rate = np.log(found[:, num_early] / found[:, 0]) / np.log(DISCOUNT)
        print(f"{name}, {NUM_SEEDS} seeds, mean [least, greatest]:")
        for word, value in {
            "distance at the end": found[:, -1],
            "area under the curve": found.mean(-1),
            f"Bellman iterations in {PERIOD} rollouts": rate / num_early,
        }.items():
            print(f"  {word}: {value.mean():.3f} [{value.min():.3f}, {value.max():.3f}]")
    plain, worked, hasty, long, single = curves.values()
    print(f"chain of 1 less DQN: at most {np.abs(single - plain).max():.1e} [return]")
    ahead = long.mean(-1) < plain.mean(-1)
    gap = (worked - long).mean(-1)
    width = 1.96 * gap.std(ddof=1) / NUM_SEEDS**0.5
    print(f"area, DQN of equal work less chain: {gap.mean():.3f} +- {width:.3f}")
    faster = long.mean(-1) < hasty.mean(-1)
    print(f"ahead of the shorter period alone: {'yes' if np.mean(faster) > 0.5 else 'no'}")
    same = np.abs(single - plain).max() < 1e-3
    row(
        started,
        bool(np.all(ahead) and gap.mean() + width >= 0 and same),
        measured=f"mean distance to the optimal values {long.mean():.2f}",
        control=f"{plain.mean():.2f} at equal steps, {worked.mean():.2f} at equal work",
        interval=f"{gap.mean():.2f} +- {width:.2f} nearer at equal work, {NUM_SEEDS} seeds",
    )


if __name__ == "__main__":
    main()
