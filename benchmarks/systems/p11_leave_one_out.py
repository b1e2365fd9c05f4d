"""P-11, leave-one-out: episodes compared with others from their start need no critic.

    python benchmarks/systems/p11_leave_one_out.py

A point is pushed to a goal for 60 steps, from starts that spread; its reward is paid at every step
(dense), or all of it with the last one (terminal-only): the same task, of the same returns.
Leave-one-out learns from the returns of groups of lanes that share a start; the control is PPO with
a critic and lambda-returns, at equal steps. Both see the time left, and each is tuned on other
seeds, PPO over its step and lambda, the other over its step. Claims: not behind on the reward at
the end (the interval of the difference reaches above -2 % of PPO's return), behind on the dense one
(the whole interval is below 0).
"""

from __future__ import annotations

import itertools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxrl
from jaxrl import core, envs, rules

LENGTH, NUM_ENVS, NUM_UPDATES = 60, 32, 20
TUNED_ON, COMPARED_ON = range(100, 104), range(16)
STEPS, LAMBDAS = (3e-3, 1e-2, 3e-2), (0.95, 1.0)


@core.struct.dataclass
class Timed:
    """A point-mass that ends after `LENGTH` steps, which it tells; all is paid there if `late`."""

    env: Any
    late: bool = core.struct.field(pytree_node=False)
    time_limit: float = float(LENGTH)

    observation_space = core.Box(-jnp.inf, jnp.inf, (5,))
    action_space = property(lambda self: self.env.action_space)

    def reset(self, key: jax.Array) -> tuple:
        """Nothing paid yet."""
        state, seen = self.env.reset(key)
        return (state, jnp.zeros(()), jnp.zeros((), jnp.int32)), jnp.append(seen, 1.0)

    def step(self, key: jax.Array, state: Any, action: jax.Array) -> tuple:
        """What is owed is paid at the end."""
        inner, owed, count = state
        inner, step = self.env.step(key, inner, action)
        count = count + 1
        over, owed = count >= self.time_limit, owed + step.reward
        reward = jnp.where(over, owed, 0.0) if self.late else step.reward
        seen = jnp.append(step.observation, 1.0 - count / self.time_limit)
        never = jnp.zeros((), bool)
        step = core.TimeStep(seen, reward, terminated=over, truncated=never)
        return (inner, owed, count), step


def agent_of(name: str, step_size: jax.Array, lambda_: jax.Array) -> Any:
    rule = rules.ProximalPolicy(lambda_=lambda_, entropy_weight=0.0, value_clip=jnp.inf)
    if name != "PPO":
        rule = rules.LeaveOneOut(group_size=8, entropy_weight=0.0)
    return jaxrl.ppo(
        rule=rule,
        num_envs=NUM_ENVS,
        rollout_length=LENGTH,
        num_epochs=8,
        num_minibatches=4,
        normalise_advantages=name == "PPO",
        discount=1.0,
        learning_rate=step_size,
    )


def returns_of(name: str, late: bool) -> Any:
    """(seeds `[N]`, step, lambda) -> mean return `[N]` of an episode after training."""
    env = Timed(envs.make("PointMass", initial_spread=0.5, time_limit=1e6), late)

    def one(seed: jax.Array, step_size: jax.Array, lambda_: jax.Array) -> jax.Array:
        key, agent = jax.random.key(seed), agent_of(name, step_size, lambda_)
        num_steps = NUM_UPDATES * NUM_ENVS * LENGTH
        result = jaxrl.train(key, agent, env, num_steps=num_steps, num_records=1)
        played = jaxrl.evaluate(key, agent, env, result.state.agent, num_episodes=64, max_steps=60)
        return played.mean

    return jax.jit(jax.vmap(one, (0, None, None)))


def main() -> None:
    started, holds = time.process_time(), []
    print(f"{len(COMPARED_ON)} seeds, {NUM_UPDATES * NUM_ENVS * LENGTH:,} steps each")
    for late in (True, False):
        found = {}
        for name in ("PPO", "leave-one-out"):
            run = returns_of(name, late)
            grid = list(itertools.product(STEPS, LAMBDAS if name == "PPO" else (1.0,)))
            tried = {x: float(np.mean(run(np.array(TUNED_ON), *x))) for x in grid}
            best = max(tried, key=lambda x: tried[x])
            found[name] = np.asarray(run(np.array(COMPARED_ON), *best))
            told = f"step {best[0]:g}" + (f", lambda {best[1]:g}" if name == "PPO" else "")
            spread = 1.96 * found[name].std(ddof=1) / len(COMPARED_ON) ** 0.5
            kind = "terminal-only" if late else "dense"
            print(f"{kind:13s} {name:13s} {found[name].mean():6.2f} +- {spread:.2f}  ({told})")
        gap = found["leave-one-out"] - found["PPO"]
        mean, spread = gap.mean(), 1.96 * gap.std(ddof=1) / len(gap) ** 0.5
        share = mean / found["PPO"].mean()
        print(f"  difference {mean:+.2f} +- {spread:.2f}, {share:+.1%} of PPO's")
        edge = 0.02 * found["PPO"].mean()
        holds.append(mean + spread > -edge if late else mean + spread < 0)
    words = [("yes" if x else "no") for x in holds]
    print(f"not behind on terminal-only: {words[0]}; behind on dense: {words[1]}")
    print(
        f"holds: {'yes' if all(holds) else 'no'}; {time.process_time() - started:.0f} CPU-seconds"
    )


if __name__ == "__main__":
    main()
