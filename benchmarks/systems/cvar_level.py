"""A learned level of risk: gradients through its learner's updates raise it as far as needed.

    python benchmarks/systems/cvar_level.py

A gamble pays 1 with probability 0.6, else nothing; the sure thing pays 0.4. An actor-critic under
nested CVaR prefers the sure thing below a level that the planner gives, the gamble above it. Lives
begin at level 0.5, below it, and the outer loop is told of mean returns alone. Claim: it moves the
level beyond the planner's, and learners at the level found take the gamble. Control: the same
learners at level 0.5.

Lives are as long as the window of the outer gradient, so that each begins undecided: a learner that
has settled tells nothing of its level. With 32 environments in place of 256, and longer lives, the
noise of the outer gradient was greater than what it had to tell, and half of the seeds went down.
"""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np
from _row import row

import jaxrl
from jaxrl import agents, core, envs, functionals, meta, networks, operators, planning, rules

NUM_SEEDS, NUM_OUTER_STEPS, NUM_UPDATES, NUM_ENVS, FIRST = 4, 70, 20, 256, 0.5
LEVEL = "operator.successor_functional.level"


def world() -> core.TabularMDP:
    """One state, two actions, episodes of one step."""
    prob, reward = [[[0.4, 0.6], [0.5, 0.5]]], [[[0.0, 1.0], [0.4, 0.4]]]
    return core.outcome_mdp(
        prob, np.zeros((1, 2, 2), int), reward, 0.9, terminal=np.ones((1, 2, 2))
    )


def turning_point(mdp: core.TabularMDP) -> float:
    """The least level, of a grid of a thousandth, at which the planner takes the gamble."""
    levels = np.arange(1, 1001) / 1000

    def gambles(level: jax.Array) -> jax.Array:
        risky = operators.BellmanOperator(successor_functional=functionals.CVaR(level))
        return planning.value_iteration(mdp, risky).policy[0, 0] > 0.5

    return float(levels[np.argmax(jax.vmap(gambles)(jnp.asarray(levels)))])


def learner(level: float) -> agents.ActorCriticAgent:
    """A table of logits and a value, stepped after every rollout."""
    risky = operators.BellmanOperator(
        operators.Scalar(float("inf")), successor_functional=functionals.CVaR(level)
    )
    return agents.ActorCriticAgent(
        rule=rules.AdvantageActorCritic(entropy_weight=0.01),
        operator=risky,
        successors=agents.Generative(num_samples=64),
        network=networks.NetworkSettings(hidden_sizes=(), initialiser="lecun"),
        optimiser=agents.GradientDescent(learning_rate=1.0, max_grad_norm=None),
        discount=0.9,
        num_envs=NUM_ENVS,
        rollout_length=1,
        num_epochs=1,
        num_minibatches=1,
        normalise_advantages=False,
    )


def gambling(agent: agents.ActorCriticAgent, env: envs.TabularEnv) -> np.ndarray:
    """Probability of the gamble after a life, `[seeds]`."""

    def life(key: jax.Array) -> jax.Array:
        state = jaxrl.train(key, agent, env, num_steps=NUM_ENVS * 400).state.agent
        return jnp.exp(agent.policy(state, jnp.ones((1,))).log_probs())[0]

    return np.asarray(jax.jit(jax.vmap(life))(jax.random.split(jax.random.key(1), NUM_SEEDS)))


def main() -> None:
    started, mdp = time.process_time(), world()
    env = envs.TabularEnv(mdp, one_hot=True)
    planned = turning_point(mdp)
    print(f"the planner takes the gamble from level {planned:.3f} on; lives begin at {FIRST}")
    outer = meta.MetaGradient(
        meta.tuned(learner(FIRST), [LEVEL]),
        meta.Task(env, float(NUM_ENVS * NUM_UPDATES)),
        optimiser=agents.Optimiser(learning_rate=0.05),
        num_lives=16,
        num_updates=NUM_UPDATES,
    )
    levels = []
    for seed in range(NUM_SEEDS):
        found = meta.fit(jax.random.key(seed), outer, num_steps=NUM_OUTER_STEPS)
        levels.append(float(found.agent.operator.successor_functional.level))
    print(f"levels after {NUM_OUTER_STEPS} outer steps: {[round(level, 3) for level in levels]}")
    taken = {level: gambling(learner(level), env) for level in (FIRST, min(levels))}
    for level, probs in taken.items():
        print(
            f"level {level:.3f}: the gamble with probability {probs.min():.2f} to {probs.max():.2f}"
        )
    learned = np.all(np.array(levels) > planned) and taken[min(levels)].min() > 0.9
    holds = learned and taken[FIRST].max() < 0.1
    row(
        started,
        bool(holds),
        measured=f"level {np.mean(levels):.2f}, above {planned:.2f} in "
        f"{sum(level > planned for level in levels)} of {NUM_SEEDS}",
        control=f"{FIRST} at first, where the sure thing is taken",
        interval=f"[{min(levels):.2f}, {max(levels):.2f}], {NUM_SEEDS} seeds",
    )


if __name__ == "__main__":
    main()
