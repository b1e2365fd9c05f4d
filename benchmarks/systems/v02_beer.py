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
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _row import mean_interval, row

import jaxrl
from jaxrl import agents, core, envs

NUM_SEEDS, NUM_STEPS = 5, 20_000
WEIGHTS = (0.0, 1e-3, 1.0, 100.0)


class BellmanRank(core.Struct):
    """Adds to the loss what the cosine of successive features is above a bound of the equation.

    With a value w . phi and the equation r = w . (phi - d phi'), by Cauchy and Schwarz

        cos(phi, phi') <= (|phi|^2 + d^2 |phi'|^2 - r^2 / |w|^2) / (2 d |phi| |phi'|)

    with equality where phi - d phi' lies along w. Features closer than that contradict the reward;
    the penalty is weight (cos - bound)_+, and no more: below the bound nothing pulls. It keeps the
    rank of the features from collapsing.

    r and d are the transition's own, of any number of steps; where d = 0 there is no successor and
    no penalty. The bias counts as a weight of a feature that is 1. phi' is the lagged copy's
    throughout, at the sampled successor and the action chosen there; the gradient reaches phi in
    the cosine alone. (The release takes phi' of both networks in one bound.) In a network with
    outputs for all actions, phi is the features in the block of the action, so that pairs of two
    actions have cosine 0: that form is ours, the published one has networks of (state, action).
    An actor's entropies are no part of r: soft actor-critic's equation is not quite this one.

    Attributes:
        weight: of the penalty [return^2].

    Example:
        >>> here, there, w = jnp.array([1.0, 0.0]), jnp.array([1.0, 1.0]), jnp.array([1.0, 0.0])
        >>> cosine, bound = BellmanRank.cosine_and_bound(here, there, w, jnp.array(0.5), 0.5)
        >>> f"{float(cosine):.4f} {float(bound):.4f}"  # r = w . (here - there / 2) = 1/2
        '0.7071 0.8839'

    Sources:
        He, Zhou, Zhang, Fang & Chen (2024), Adaptive regularization of representation rank as an
        implicit constraint of Bellman equation, theorem 1 and equation 6; its weight is 1e-3.
    """

    weight: float = core.setting(1e-3, "weight of the penalty", unit="return^2", low=0.0)

    owned = ("where values have their zero", "a bonus of the policy")
    facts = core.PartFacts(owns=owned, linear=True, sums=True)

    @staticmethod
    def cosine_and_bound(
        features: jax.Array,
        next_features: jax.Array,
        weights: jax.Array,
        reward: jax.Array,
        discount: jax.Array | float,
    ) -> tuple[jax.Array, jax.Array]:
        """Of one pair: the cosine of `features[D]` and `next_features[D]`, and its bound.

        Args:
            features: phi.
            next_features: phi'.
            weights: w, `[D]`.
            reward: r [return].
            discount: d; the bound is infinite at 0.
        """
        tiny = 1e-12  # of squares, in features that are all zero
        square, next_square = jnp.sum(features**2), jnp.sum(next_features**2)
        lengths = jnp.sqrt((square + tiny) * (next_square + tiny))
        least = reward**2 / (jnp.sum(weights**2) + tiny)
        rate = jnp.where(discount > 0, discount, 1.0)
        bound = (square + rate**2 * next_square - least) / (2.0 * rate * lengths)
        cosine = jnp.sum(features * next_features) / lengths
        return cosine, jnp.where(discount > 0, bound, jnp.inf)

    def penalty(self, state: tuple, step: Any, params: Any) -> jax.Array:
        """`[]`: the mean over the batch, and over critics."""
        pair, data, counts = step.pair(params), step.batch.transition, step.batch.weights
        constant = jax.lax.stop_gradient

        def excess(here: jax.Array, there: jax.Array, weights: jax.Array) -> jax.Array:
            each = jax.vmap(self.cosine_and_bound, (0, 0, None, 0, 0))
            cosine, bound = each(here, there, weights, data.reward, data.discount)
            above = jnp.maximum(cosine - constant(bound), 0.0)
            return jnp.sum(counts * above) / jnp.maximum(jnp.sum(counts > 0), 1)

        if pair.weights.ndim > 1:
            excess = jax.vmap(excess)
        found = excess(pair.features, constant(pair.next_features), constant(pair.weights))
        return self.weight * jnp.mean(found)


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
        bounds = jax.vmap(BellmanRank.cosine_and_bound, (0, 0, None, 0, 0))
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
        agent = agents.td3(parts=(BellmanRank(weight), FeatureRank()))
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
