"""BEER: features of successive pairs as far apart as the Bellman equation lets them be."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.agents import chain
from jaxrl.agents.chain import Step
from jaxrl.core import Struct
from jaxrl.core.notation import register
from jaxrl.core.protocols import PartFacts
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, PyTree


class BellmanRank(Struct):
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

    weight: float = setting(1e-3, "weight of the penalty", unit="return^2", low=0.0)

    facts = PartFacts(owns=(chain.ORIGIN, chain.BONUS), linear=True, sums=True)

    @staticmethod
    def cosine_and_bound(
        features: Array,
        next_features: Array,
        weights: Array,
        reward: Array,
        discount: Array | float,
    ) -> tuple[Array, Array]:
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

    def penalty(self, state: tuple, step: Step, params: PyTree) -> Array:
        """`[]`: the mean over the batch, and over critics."""
        pair, data, counts = step.pair(params), step.batch.transition, step.batch.weights
        constant = jax.lax.stop_gradient

        def excess(here: Array, there: Array, weights: Array) -> Array:
            each = jax.vmap(self.cosine_and_bound, (0, 0, None, 0, 0))
            cosine, bound = each(here, there, weights, data.reward, data.discount)
            above = jnp.maximum(cosine - constant(bound), 0.0)
            return jnp.sum(counts * above) / jnp.maximum(jnp.sum(counts > 0), 1)

        if pair.weights.ndim > 1:
            excess = jax.vmap(excess)
        found = excess(pair.features, constant(pair.next_features), constant(pair.weights))
        return self.weight * jnp.mean(found)


register("parts", BellmanRank)
