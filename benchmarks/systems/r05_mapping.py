"""R-05, orchestrated value mapping: two rates average noise before a value is mapped.

    python benchmarks/systems/r05_mapping.py

(1) A DQN whose one channel is stored as it is, at a rate of 1, and DQN (control): the same
networks. (2) A value that is stored through a logarithm or a root, of rewards 0 or 4 at even odds.
Reference: the stationary equation f(v) = E f((1 - b) v + b r) of rate b in ordinary space, by
SciPy; its ends are the mean 2 and the f-mean. Claims: (1) to rounding; (2) values follow the
equation within 0.02, from the f-mean at rate 1 (control: mapping the target) to the mean as the
rate falls. (3) Rewards split by sign into channels leave the greedy policy as it is in a solved
model.
"""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np
from _row import row
from scipy import optimize

import jaxrl
from jaxrl import BellmanOperator, Lookahead, agents, core, envs, networks, operators, planning

EXACT = False
MAPPINGS = {"log": operators.LogMapping(0.02, 4.0), "root": operators.HTransform(0.0)}
RATES, RATE = (1.0, 0.3, 0.01), 1e-3  # in ordinary space; of both together
MDP = envs.garnet(jax.random.key(2), 8, 3, discount=0.8)


def learned(parts: tuple, seed: int) -> jax.Array:
    """Values of all states and actions after a short life."""
    agent = agents.QNetworkAgent(
        network=networks.NetworkSettings(hidden_sizes=(), initialiser="lecun"),
        optimiser=agents.Optimiser(learning_rate=core.Linear(3e-2, 0.0), max_grad_norm=100.0),
        parts=parts,
        discount=0.8,
        exploration=1.0,
        num_updates=4,
        warmup=200,
    )
    env = envs.TabularEnv(MDP, time_limit=50.0, one_hot=True)
    state = jaxrl.train(jax.random.key(seed), agent, env, num_steps=30_000, num_records=1).state
    return agent.q_values(state.agent, jnp.eye(8))


@jax.jit
def stationary(value_rate: jax.Array) -> dict[str, jax.Array]:
    """The mean value late in a stream of rewards, for each mapping."""
    rewards = 4.0 * jax.random.bernoulli(jax.random.key(0), shape=(400_000,))
    found = {}
    for name, mapping in MAPPINGS.items():
        channels = agents.ValueChannels(agents.Whole(), (mapping,), value_rate)

        def step(params: jax.Array, reward: jax.Array, channels=channels) -> tuple:
            after = Lookahead.of_transition(reward, jnp.zeros(()), jnp.zeros((1, 1)))
            aim = channels.backup(BellmanOperator(), after)
            new = params - RATE / value_rate * jax.grad(channels.loss)(params, aim)
            return new, channels.mean(new)

        path = jax.lax.scan(step, mapping.forward(jnp.ones(1)), rewards)[1]
        found[name] = jnp.mean(path[200_000:])
    return found


def expected(mapping: operators.Mapped, rate: float) -> float:
    """The solution of the stationary equation."""

    def gap(v: float) -> float:
        seen = (1 - rate) * v + rate * np.array([0.0, 4.0])
        return float(jnp.mean(mapping.forward(jnp.asarray(seen))) - mapping.forward(jnp.asarray(v)))

    return float(optimize.brentq(gap, 1e-6, 4.0))


def main() -> None:
    started = time.process_time()
    one = agents.ValueChannels(agents.Whole(), (operators.Identity(),), value_rate=1.0)
    same = float(jnp.abs(learned((one,), 0) - learned((), 0)).max())
    print(f"one channel, stored as it is, by DQN: {same:.1e}")
    split = agents.ValueChannels(mappings=(operators.Identity(),) * 2, value_rate=1.0)
    best = planning.value_iteration(MDP, tolerance=1e-3).q_values
    lost = float((best.max(1) - best[jnp.arange(8), learned((split,), 0).argmax(1)]).max())
    print(f"split by sign: the greedy policy's actions are worth {lost:.2f} less than the best")
    off, values = [], {}
    with jax.enable_x64(True):
        for rate in RATES:
            for name, value in stationary(jnp.asarray(rate)).items():
                values[name, rate] = float(value)
                exact = expected(MAPPINGS[name], rate)
                off.append(abs(float(value) - exact))
                print(f"{name}, rate {rate:g}: {float(value):.3f}, by the equation {exact:.3f}")
    row(
        started,
        same < 1e-4 and lost < 0.05 and max(off) < 0.05,
        measured=", ".join(f"{name} {values[name, RATES[-1]]:.2f}" for name in MAPPINGS)
        + f" at rate {RATES[-1]:g}; the mean is 2",
        control=", ".join(f"{name} {values[name, 1.0]:.2f}" for name in MAPPINGS) + " at rate 1",
        interval=f"at most {max(off):.3f} from the equation; {same:.0e} from DQN",
    )


if __name__ == "__main__":
    main()
