"""R-02, deep variance weighting: errors count by how little their targets vary.

    python benchmarks/systems/r02_dvw.py

A linear problem with uneven noise: observations x are uniform in a square, rewards are w_a . x plus
noise that is 30 times as large on the right as on the left, and the optimal values are linear. All
arms see uniform actions and the same keys: no weights (control), weights of a learned variance, and
weights of the exact one, a part that is written here. Claims: weights halve the squared error at
equal samples; with even noise they change nothing. (That their mean is 1 is held by a test.)
"""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np
from _row import row

import jaxrl
from jaxrl import agents, core, networks, replay

NUM_SEEDS, NUM_STEPS, DISCOUNT = 16, 12_000, 0.9
SLOPES = jnp.array([[1.0, 0.5], [-0.5, 1.0]])  # [A, 2]


@core.struct.dataclass
class Noisy:
    """A reward of each action that is linear in where one is, and noise."""

    left: float = core.setting(0.1, "standard deviation of the noise where x_0 < 0")
    right: float = core.setting(3.0, "standard deviation of the noise elsewhere")

    observation_space = core.Box(-1.0, 1.0, (2,))
    action_space = core.Discrete(2)

    def reset(self, key: core.Key) -> tuple[core.Array, core.Array]:
        """-> the place, seen as it is."""
        place = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
        return place, place

    def step(self, key: core.Key, state: core.Array, action: core.Array) -> tuple:
        """The next place is drawn anew."""
        place_key, noise_key = jax.random.split(key)
        place, _ = self.reset(place_key)
        noise = self.scale(state) * jax.random.normal(noise_key)
        never = jnp.zeros((), bool)
        return place, core.TimeStep(place, SLOPES[action] @ state + noise, never, never)

    def scale(self, place: core.Array) -> core.Array:
        """Standard deviation of the noise, `[...]` of `place[..., 2]`."""
        return jnp.where(place[..., 0] < 0, self.left, self.right)


@core.struct.dataclass
class ExactWeights:
    """One over the exact variance of the targets, on average by one."""

    env: Noisy
    spread: float  # standard deviation of the values that follow

    facts = core.PartFacts()

    def weigh(self, state, step, td_error):
        """`[B]`."""
        variance = self.env.scale(step.batch.transition.observation) ** 2 + self.spread**2
        return (1 / variance) / jnp.mean(1 / variance)


def error(env: Noisy, parts: tuple) -> np.ndarray:
    """Mean squared error of the slopes of the values of each seed, and the mean scale."""
    agent = agents.QNetworkAgent(
        network=networks.NetworkSettings(hidden_sizes=(), initialiser="lecun"),
        optimiser=agents.Optimiser(learning_rate=core.Linear(2e-2, 0.0), max_grad_norm=100.0),
        replay=replay.UniformReplay(capacity=2000),
        parts=parts,
        discount=DISCOUNT,
        exploration=1.0,
        num_updates=8,
        warmup=500,
    )
    sides = jnp.linspace(-1.0, 1.0, 9)
    grid = jnp.stack(jnp.meshgrid(sides, sides), axis=-1).reshape(-1, 2)

    def run(key: jax.Array) -> jax.Array:
        state = jaxrl.train(key, agent, env, num_steps=NUM_STEPS, num_records=4).state.agent
        off = agent.q_values(state, grid) - grid @ SLOPES.T
        return jnp.mean((off - jnp.mean(off)) ** 2)  # the constant is another sum of noises

    return np.asarray(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), NUM_SEEDS)))


def main() -> None:
    started, found = time.process_time(), {}
    uneven, even = Noisy(), Noisy(left=1.0, right=1.0)
    arms = {
        "uneven, no weights (control)": (uneven, ()),
        "uneven, learned variances": (uneven, (agents.VarianceWeights(),)),
        "uneven, exact variances": (uneven, (ExactWeights(uneven, 0.4),)),
        "even, no weights (control)": (even, ()),
        "even, learned variances": (even, (agents.VarianceWeights(),)),
    }
    for name, (env, parts) in arms.items():
        found[name] = values = error(env, parts)
        print(f"{name}: {values.mean():.4f} [{values.min():.4f}, {values.max():.4f}]")
    plain, learned, exact, flat, weighted = found.values()
    factors = []
    for name, gain in {
        "uneven: learned by control": np.log(learned / plain),
        "uneven: exact by control": np.log(exact / plain),
        "even: learned by control": np.log(weighted / flat),
    }.items():
        width = 1.96 * gain.std(ddof=1) / NUM_SEEDS**0.5
        low, mean, high = np.exp([gain.mean() - width, gain.mean(), gain.mean() + width])
        print(f"{name}: factor {mean:.2f} [{low:.2f}, {high:.2f}]")
        factors.append((low, mean, high))
    (low, mean, high), (_, exact_mean, _), (least, even_mean, most) = factors
    row(
        started,
        bool(high <= 0.5 and exact_mean <= 0.5 and least > 0.9 and most < 1.1),
        measured=f"{mean:.2f} of the squared error; {even_mean:.2f} where noise is even",
        control="1, no weights",
        interval=f"[{low:.2f}, {high:.2f}]; even [{least:.2f}, {most:.2f}], {NUM_SEEDS} seeds",
    )


if __name__ == "__main__":
    main()
