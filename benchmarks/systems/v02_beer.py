"""V-02, BEER: a bound of the Bellman equation keeps the rank of the features.

    python benchmarks/systems/v02_beer.py

TD3 on Pendulum-v1, with the penalty at the published weight and at greater ones, and without
(control), on the same keys. A part that is written here records the effective rank of the first
critic's features over each batch, the participation ratio tr(G)^2 / tr(G^2) of their covariance G,
and how much of the batch has a cosine above the bound. Claims: with the penalty fewer pairs
contradict the equation, the rank is higher at the end, and returns are not worse.
"""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np
from _row import mean_interval, row

import jaxrl
from jaxrl import agents, core, envs

NUM_SEEDS, NUM_STEPS = 5, 20_000
WEIGHTS = (0.0, 1e-3, 1.0, 100.0)


@core.struct.dataclass
class FeatureRank:
    """Records what the features of the first critic are like."""

    facts = core.PartFacts()

    def init(self, key, agent, env, params):
        """Nothing yet."""
        return jnp.zeros(2)

    def update(self, state, step, target, lagged):
        """`[2]`: the effective rank, and the share of pairs above their bound."""
        pair = step.pair(step.state.learner.params.critic)
        data, here = step.batch.transition, pair.features[0]
        centred = here - jnp.mean(here, axis=0)  # which leaves out the feature that is 1
        gram = centred.T @ centred
        rank = jnp.trace(gram) ** 2 / jnp.sum(gram**2)
        bounds = jax.vmap(agents.BellmanRank.cosine_and_bound, (0, 0, None, 0, 0))
        weights, following = pair.weights[0], pair.next_features[0]
        cosine, bound = bounds(here, following, weights, data.reward, data.discount)
        return jnp.stack([rank, jnp.mean(cosine > bound)])

    def metrics(self, state):
        """Both."""
        return {"rank": state[0], "above": state[1]}


@jax.jit
def learned(keys: jax.Array, agent: agents.CriticAgent) -> dict[str, jax.Array]:
    """The last tenth of a life, `[seed]` of each number."""
    env, names = envs.make("Pendulum-v1"), ("rank", "above", "episode_return")

    def run(key: jax.Array) -> dict[str, jax.Array]:
        result = jaxrl.train(key, agent, env, num_steps=NUM_STEPS, num_records=20)
        return {name: jnp.nanmean(result.metrics[name][-2:]) for name in names}

    return jax.vmap(run)(keys)


def main() -> None:
    started, found = time.process_time(), {}
    keys = jax.random.split(jax.random.key(0), NUM_SEEDS)
    for weight in WEIGHTS:
        agent = agents.td3(parts=(agents.BellmanRank(weight), FeatureRank()))
        found[weight] = jax.device_get(learned(keys, agent))
        print(f"weight {weight:g}{' (control)' * (weight == 0)}, {NUM_SEEDS} seeds, mean [range]:")
        for name, values in found[weight].items():
            low, high = values.min(), values.max()
            print(f"  {name}: {values.mean():.3f} [{low:.3f}, {high:.3f}]")
    control, gains = found[0.0], {}
    for weight in WEIGHTS[1:]:
        gain = found[weight]["rank"] - control["rank"]
        width = 1.96 * gain.std(ddof=1) / NUM_SEEDS**0.5
        word = "higher" if gain.mean() > width else "lower" if gain.mean() < -width else "the same"
        print(f"weight {weight:g}: rank {gain.mean():+.3f} +- {width:.3f} by control, {word}")
        fewer = np.mean(found[weight]["above"]) < np.mean(control["above"])
        lost = control["episode_return"] - found[weight]["episode_return"]
        no_worse = mean_interval(lost)[1] <= 0
        gains[weight] = gain.mean(), width, bool(fewer and no_worse and gain.mean() > width)
    best = max(gains, key=lambda weight: gains[weight][0])
    gain, width, _ = gains[best]
    row(
        started,
        any(good for _, _, good in gains.values()),
        measured=f"effective rank {found[best]['rank'].mean():.2f} at the best weight, {best:g}",
        control=f"{control['rank'].mean():.2f}, no penalty",
        interval=f"difference [{gain - width:+.2f}, {gain + width:+.2f}], {NUM_SEEDS} seeds",
    )


if __name__ == "__main__":
    main()
