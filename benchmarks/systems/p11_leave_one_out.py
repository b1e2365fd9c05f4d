"""P-11, leave-one-out: episodes compared with others from their start need no critic.

    python benchmarks/systems/p11_leave_one_out.py

A point is pushed to a goal for 60 steps, from starts that spread; its reward is paid at every step
(dense), or all of it with the last one (terminal-only): the same task, of the same returns.
Leave-one-out learns from the returns of groups of lanes that share a start; the control is PPO with
a critic and lambda-returns, at equal steps. Both see the time left, and each is tuned on other
seeds, PPO over its step and lambda, the other over its step. Both are looked at early and late,
where they come near to what can be had. Claims: not behind on the reward at the end (the interval
of the difference reaches above -2 % of PPO's return), behind on the dense one (the interval is
below 0).
"""

from __future__ import annotations

import itertools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _row import row

import jaxrl
from jaxrl import core, envs, rules, training

LENGTH, NUM_ENVS, LOOKS = 60, 32, (20, 50)  # updates
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
    """(seeds `[N]`, step, lambda) -> mean returns `[N, 2]` of an episode, early and late."""
    env = Timed(envs.make("PointMass", initial_spread=0.5, time_limit=1e6), late)

    def one(seed: jax.Array, step_size: jax.Array, lambda_: jax.Array) -> jax.Array:
        key, agent = jax.random.key(seed), agent_of(name, step_size, lambda_)
        state = training.start_training(key, agent, env, LOOKS[-1] * NUM_ENVS * LENGTH)

        def update(_: int, state: Any) -> Any:
            return training.train_iteration(agent, env, state)[0]

        def look(state: Any, num_updates: int) -> tuple[Any, jax.Array]:
            state = jax.lax.fori_loop(0, num_updates, update, state)
            played = jaxrl.evaluate(key, agent, env, state.agent, num_episodes=64, max_steps=LENGTH)
            return state, played.mean

        state, early = look(state, LOOKS[0])
        return jnp.stack([early, look(state, LOOKS[1] - LOOKS[0])[1]])

    return jax.jit(jax.vmap(one, (0, None, None)))


def main() -> None:
    started, holds, shown = time.process_time(), {True: [], False: []}, {}
    print(f"{len(COMPARED_ON)} seeds, mean return +- 95 %")
    for late_reward in (True, False):
        kind, found, told = "terminal-only" if late_reward else "dense", {}, {}
        for name in ("PPO", "leave-one-out"):
            run = returns_of(name, late_reward)
            grid = list(itertools.product(STEPS, LAMBDAS if name == "PPO" else (1.0,)))
            tried = np.array([np.mean(run(np.array(TUNED_ON), *x), axis=0) for x in grid])
            best = [grid[row] for row in np.argmax(tried, axis=0)]  # for each look
            runs = {x: np.asarray(run(np.array(COMPARED_ON), *x)) for x in set(best)}
            found[name] = [runs[x][:, look] for look, x in enumerate(best)]
            told[name] = [
                f"step {x[0]:g}" + (f", lambda {x[1]:g}" if name == "PPO" else "") for x in best
            ]
        for look, num_updates in enumerate(LOOKS):
            print(f"{kind}, {num_updates * NUM_ENVS * LENGTH:,} steps")
            for name, of_looks in found.items():
                mean, spread = interval(of_looks[look])
                print(f"  {name:13s} {mean:6.2f} +- {spread:.2f}  ({told[name][look]})")
            control = found["PPO"][look].mean()
            mean, spread = interval(found["leave-one-out"][look] - found["PPO"][look])
            print(f"  difference    {mean:+6.2f} +- {spread:.2f}, {mean / control:+.1%} of PPO's")
            ours = found["leave-one-out"][look].mean()
            shown[kind] = ours, control, f"{kind} {mean:+.2f} +- {spread:.2f}"  # the last look
            behind = mean + spread < 0.0
            fine = mean + spread > -0.02 * control if late_reward else behind
            holds[late_reward].append(fine)
    words = {kind: ", ".join("yes" if x else "no" for x in row) for kind, row in holds.items()}
    print(
        f"early, late: not behind on terminal-only: {words[True]}; behind on dense: {words[False]}"
    )
    row(
        started,
        all(map(all, holds.values())),
        measured=", ".join(f"{kind} {ours:.2f}" for kind, (ours, _, _) in shown.items()),
        control=", ".join(f"PPO {control:.2f}" for _, control, _ in shown.values()),
        interval=", ".join(gap for _, _, gap in shown.values()) + f", {len(COMPARED_ON)} seeds",
    )


def interval(numbers: np.ndarray) -> tuple[float, float]:
    """Mean, and half the 95 % interval."""
    return numbers.mean(), 1.96 * numbers.std(ddof=1) / len(numbers) ** 0.5


if __name__ == "__main__":
    main()
