"""P-05, stochastic stateful policies: memory as part of the action needs no unrolling.

    python benchmarks/systems/p05_stateful_policy.py

`CarriedMemory` hands what an action says beside itself to the next observation, so that PPO without
a recurrent network has a memory. Claims: (1) the score of (action, memory) as drawn gives the exact
gradient in a problem of two steps, where it is known by quadrature and differences in float64;
controls leave out the memory's score, or score the memory as it was clipped. (2) It solves bsuite's
memory chain, which PPO without it (control) cannot. (3) At equal steps the time of an update does
not grow with the length of the sequences, as that of recurrent PPO (control) does.
"""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _row import row

import jaxrl
from jaxrl import core, envs, rules, training

NUM_EPISODES, NUM_SEEDS, NUM_STEPS = 400_000, 10, 400_000
LENGTHS, STEPS_OF_AN_UPDATE, NUM_TIMES = (8, 32, 128, 512), 4096, 11


@core.struct.dataclass
class Cue:
    """A cue is seen in the first of two steps; 1 for naming it in the second, 1/2 for action 0."""

    observation_space = core.Box(-1.0, 1.0, (1,))
    action_space = core.Discrete(2)

    def reset(self, key: jax.Array) -> tuple:
        """The cue, -1 or 1, and the time."""
        cue = jnp.where(jax.random.bernoulli(key), 1.0, -1.0)
        return (cue, jnp.zeros((), bool)), cue[None]

    def step(self, key: jax.Array, state: tuple, action: jax.Array) -> tuple:
        """The first step shows nothing more."""
        (cue, is_last), never = state, jnp.zeros((), bool)
        named = jnp.float32((action == 1) == (cue > 0))
        reward = jnp.where(is_last, named, 0.5 * (action == 0))
        return (cue, ~never), core.TimeStep(jnp.zeros(1), reward, is_last, never)


def exact_return(numbers: np.ndarray) -> float:
    """J of the policy with these parameters, by NumPy: the noise of the memory is integrated.

    They are bias and kernel of the action's two logits, then the logarithm of the memory's scale
    and bias and kernel of its mean, in the order of the agent's tree.
    """
    bias, kernel, log_scale, mean_bias, mean = np.split(numbers, [2, 6, 7, 8])
    slope, offset = np.diff(kernel.reshape(2, 2))[:, 0], np.diff(bias)
    noise, width = np.linspace(-9.0, 9.0, 40_001, retstep=True)
    weight, total = np.exp(-(noise**2) / 2) / np.sqrt(2 * np.pi) * width, 0.0

    def chance(cue: float | np.ndarray, memory: float | np.ndarray) -> np.ndarray:  # of action 1
        return 1 / (1 + np.exp(-(cue * slope[0] + memory * slope[1] + offset)))

    for cue in (-1.0, 1.0):
        memory = cue * mean[0] + mean_bias + np.exp(log_scale) * noise
        later = chance(0.0, np.clip(memory, -1.0, 1.0))
        total += 0.5 * (1 - chance(cue, 0.0)[0]) + weight @ (later if cue > 0 else 1 - later)
    return total / 2


def gradient(key: jax.Array) -> tuple[bool, dict[str, str]]:
    """Whether the gradient of the score is the exact one, and is not where the score is cut."""
    agent = jaxrl.a2c(hidden_sizes=(), num_envs=NUM_EPISODES, rollout_length=2)
    env = envs.wrappers.CarriedMemory(Cue(), size=1)
    start = training.start_training(key, agent, env, 1.0)
    params = jax.tree.map(lambda x: 0.5 * jax.random.normal(key, x.shape), start.agent.params)
    state = start.agent.replace(params=params)
    seen = jax.jit(training.rollout, static_argnums=1)(key, agent, env, state, start.rollout)[1]

    def score(params: Any, episode: core.Transition, trace: tuple, weight: jax.Array) -> jax.Array:
        law = agent.policy(state.replace(params=params), episode.observation)
        logs = [part.log_prob(drawn) for part, drawn in zip(law.parts, trace, strict=True)]
        return jnp.sum((logs[0] + weight * logs[1]) * jnp.cumsum(episode.reward[::-1])[::-1])

    slope, head = jax.jit(jax.vmap(jax.grad(score), (None, 1, 1, None))), "policy_head"
    numbers = np.concatenate([np.ravel(x) for x in jax.tree.leaves(params["params"][head])])
    bumps = 1e-5 * np.eye(numbers.size)
    exact = [(exact_return(numbers + x) - exact_return(numbers - x)) / 2e-5 for x in bumps]
    arms = {"as drawn": (seen.trace, 1.0), "memory as clipped (control)": (seen.action, 1.0)}
    held, told = [], {}
    for name, (trace, weight) in (arms | {"action alone (control)": (seen.trace, 0.0)}).items():
        leaves = jax.tree.leaves(slope(params, seen, trace, weight)["params"][head])
        rows = np.concatenate([np.asarray(x, float).reshape(NUM_EPISODES, -1) for x in leaves], 1)
        off, error = rows.mean(0) - np.array(exact), rows.std(0) / NUM_EPISODES**0.5
        shares = [np.linalg.norm(x) / np.linalg.norm(exact) for x in (off, error)]
        print(f"gradient, {name}: off by {shares[0]:.2%}, standard error {shares[1]:.2%}")
        held.append(shares[0] < 3 * shares[1])
        told[name] = f"{shares[0]:.1%}"
    return held == [True, False, False], told


def agent_of(kind: str, **sizes: Any) -> Any:
    """PPO with or without a recurrent network."""
    network = {"hidden_sizes": (32, 32), "recurrent_size": 32 if kind == "recurrent" else 0}
    rule = rules.ProximalPolicy(lambda_=1.0, entropy_weight=0.0)
    return jaxrl.ppo(rule=rule, learning_rate=core.Linear(3e-3, 0.0), **network, **sizes)


def env_of(kind: str) -> Any:
    """The memory chain, with a memory in the action or without."""
    env = envs.make("MemoryChain-bsuite")
    return envs.wrappers.CarriedMemory(env, size=2) if kind == "carried" else env


def chain(key: jax.Array) -> tuple[bool, dict[str, str]]:
    """Whether the chain is solved with a memory alone."""
    means, told = {}, {}
    for kind in ("carried", "none (control)"):
        agent, env = agent_of(kind, num_envs=32, rollout_length=60), env_of(kind)

        def run(key: jax.Array, agent: Any = agent, env: Any = env) -> jax.Array:
            state = jaxrl.train(key, agent, env, num_steps=NUM_STEPS, num_records=1).state.agent
            return jaxrl.evaluate(key, agent, env, state, num_episodes=400).mean

        found = np.asarray(jax.jit(jax.vmap(run))(jax.random.split(key, NUM_SEEDS)))
        width = 2.262 * found.std(ddof=1) / NUM_SEEDS**0.5  # Student's, of 10 seeds
        means[kind] = found.mean() - width, found.mean() + width
        told[kind] = f"{found.mean():.2f} +- {width:.2f}"
        shown = f"{found.mean():.2f} +- {width:.2f}, at least 0.9 in {np.sum(found > 0.9)}"
        print(f"chain of 5, memory {kind}: return {shown} of {NUM_SEEDS} seeds")
    return means["carried"][0] > means["none (control)"][1], told


def timing(key: jax.Array) -> tuple[bool, dict[str, str]]:
    """Whether the time of an update does not grow with the sequences."""
    ratios = {}
    updates: dict[tuple, Any] = {}
    for kind in ("carried", "recurrent"):
        for length in LENGTHS:
            sizes = {"num_envs": STEPS_OF_AN_UPDATE // length, "rollout_length": length}
            agent, env = agent_of(kind, **sizes, num_minibatches=4), env_of(kind)
            start = training.start_training(key, agent, env, 1e6)
            play, learn = jax.jit(training.rollout, static_argnums=1), jax.jit(agent.update)
            data = play(key, agent, env, start.agent, start.rollout)[1]
            updates[kind, length] = (learn, start.agent, data, [])
    for turn in range(NUM_TIMES + 1):  # interleaved; the first compiles
        for learn, state, data, times in updates.values():
            began = time.process_time()
            jax.block_until_ready(learn(key, state, data))
            times.extend([time.process_time() - began] * (turn > 0))
    for kind in ("carried", "recurrent"):
        times = [np.array(updates[kind, length][-1]) for length in LENGTHS]
        shown = ", ".join(f"{1e3 * np.median(x):.0f}" for x in times)
        ratios[kind] = np.quantile(times[-1] / times[0], [0.25, 0.5, 0.75])
        print(f"update, {kind}: {shown} CPU-ms at lengths {LENGTHS}")
        low, middle, high = ratios[kind]
        print(f"  longest by shortest: {middle:.2f}, quartiles [{low:.2f}, {high:.2f}]")
    told = {kind: f"{middle:.1f}" for kind, (_, middle, _) in ratios.items()}
    return ratios["carried"][1] < 1.25 and ratios["recurrent"][1] > 2.0, told


def main() -> None:
    started = time.process_time()
    keys = jax.random.split(jax.random.key(0), 3)
    held = gradient(keys[0]), chain(keys[1]), timing(keys[2])
    for claim, holds in zip(("exact gradient", "solved", "no growth"), held, strict=True):
        print(f"{claim}: {'yes' if holds[0] else 'no'}")
    (_, slope), (_, solved), (_, longer) = held
    row(
        started,
        all(bool(holds) for holds, _ in held),
        measured=f"gradient off by {slope['as drawn']}; chain {solved['carried']}; update of the "
        f"longest by the shortest {longer['carried']}",
        control=f"{slope['memory as clipped (control)']}, {slope['action alone (control)']}; "
        f"{solved['none (control)']} without; recurrent {longer['recurrent']}",
        interval=f"{NUM_EPISODES:,} episodes; 95 %, {NUM_SEEDS} seeds; median of {NUM_TIMES}",
    )


if __name__ == "__main__":
    main()
