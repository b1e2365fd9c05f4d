"""Returns stored as equally likely atoms."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxrl.core.law import Law
from jaxrl.core.notation import register
from jaxrl.core.protocols import HeadFacts
from jaxrl.core.settings import CheckedStruct, setting
from jaxrl.core.types import Array, Number
from jaxrl.losses.formulas import energy_loss, quantile_huber_loss, quantile_levels

_MANY = 1 << 16  # comparisons, above which a binary search is cheaper


@property
def _shape(head: Any) -> tuple[int, ...]:
    """`(num_atoms,)`."""
    return (head.num_atoms,)


def _law(head: Any, params: Array) -> Law:
    """`params[K]` [return], in any order -> the law of K equal atoms."""
    return Law(jnp.full(params.shape, 1.0 / head.num_atoms, params.dtype), params)


def _encode(head: Any, law: Law) -> Array:
    """Law of `[N]` atoms, in any order -> its quantiles `[K]` [return], increasing.

    They are atoms of the law, at the mid-points of equal shares of probability. Impossible atoms
    may hold any value; a NaN stands among the greatest.
    """
    possible = law.probs > 0
    # Impossible atoms last, behind possible ones of +inf or NaN as well.
    most = jnp.finfo(law.atoms.dtype).max
    keys = jnp.where(law.atoms < most, law.atoms, most)
    order = jnp.argsort(jnp.where(possible, keys, jnp.inf))
    reached = jnp.cumsum(law.probs[order])
    levels = quantile_levels(head.num_atoms, reached.dtype) * reached[-1]
    method = "compare_all" if head.num_atoms * reached.shape[0] <= _MANY else "scan"
    index = jnp.searchsorted(reached, levels, method=method)
    return law.atoms[order[jnp.minimum(index, jnp.sum(possible) - 1)]]


def _mean(head: Any, params: Array) -> Array:
    """`params[K]` -> `[]` [return]."""
    return jnp.mean(params)


class Quantile(CheckedStruct):
    """`num_atoms` returns of probability 1/K each: estimates of the mid-level quantiles.

    Encoding takes the quantiles at levels (2 i + 1) / (2 K): the nearest K equal atoms in
    1-Wasserstein distance. It does not keep the mean of a law that it cannot store.

    Attributes:
        num_atoms: K, at least 1.
        huber_threshold: where the loss turns linear, >= 0 [return]; 0 is the plain quantile loss.

    Example:
        >>> import jax.numpy as jnp
        >>> law = Law(jnp.array([0.5, 0.25, 0.25]), jnp.array([3.0, 9.0, 1.0]))
        >>> Quantile(num_atoms=2).encode(law).tolist()  # levels 1/4 and 3/4
        [1.0, 3.0]

    Sources:
        Dabney et al. (2018), Distributional reinforcement learning with quantile regression,
        lemma 2 and algorithm 1.
    """

    num_atoms: int = setting(200, "equally likely atoms", low=1)
    huber_threshold: Number = setting(
        1.0, "error at which the loss turns linear", unit="return", low=0.0
    )

    facts = HeadFacts(mean_preserving=False)
    shape = _shape
    law = _law
    encode = _encode
    mean = _mean

    def loss(self, params: Array, target: Law) -> Array:
        """Quantile Huber loss `[]` [return] of `params[K]` against the target's own atoms."""
        return quantile_huber_loss(params, target, self.huber_threshold)


class ImplicitQuantile(CheckedStruct):
    """Returns at `num_atoms` levels that travel with them: rows (value, level) of a function.

    The network of an agent is a function of observation and level, see `ImplicitQNetwork`. Asked
    for no levels it gives the mid-levels (2 i + 1) / (2 K), and what it stores is then read as
    `Quantile` reads its parameters: K atoms of probability 1/K. So laws, means, scores and targets
    need no random numbers, and every return functional (a distortion risk measure among them) sees
    the same law. Regression is at fresh random levels, one drawn from each of K equal shares of [0,
    1], and so fits the whole function; a table, which cannot be asked, keeps the mid-levels.

    Levels are given and not learned: the loss has no slope in them, and is least over the values.

    Differs from the published agent in that targets and scores are at the mid-levels instead of at
    levels drawn (the mean over draws, up to the step between levels), and that the levels of the
    regression are stratified (the same expectation, less noise).

    Attributes:
        num_atoms: K, at least 1.
        num_cosines: cosines of the level that the network embeds.
        huber_threshold: where the loss turns linear, >= 0 [return]; 0 is the plain quantile loss.

    Example:
        >>> import jax.numpy as jnp
        >>> law = Law(jnp.array([0.5, 0.25, 0.25]), jnp.array([3.0, 9.0, 1.0]))
        >>> ImplicitQuantile(num_atoms=2).encode(law).tolist()  # (value, level) of each
        [[1.0, 0.25], [3.0, 0.75]]

    Sources:
        Dabney, Ostrovski, Silver & Munos (2018), Implicit quantile networks for distributional
        reinforcement learning, section 3 and equation 4, whose cosines count from 0 (those of
        google/dopamine count from 1).
    """

    num_atoms: int = setting(32, "levels at which returns are read and fitted", low=1)
    num_cosines: int = setting(64, "cosines of the level that the network embeds", low=1)
    huber_threshold: Number = setting(
        1.0, "error at which the loss turns linear", unit="return", low=0.0
    )

    facts = HeadFacts(mean_preserving=False, at_levels=True)

    @property
    def shape(self) -> tuple[int, ...]:
        """`(num_atoms, 2)`."""
        return (self.num_atoms, 2)

    def law(self, params: Array) -> Law:
        """`params[K, 2]`, at the mid-levels or at levels drawn -> the law of K equal atoms."""
        return Law(jnp.full(params.shape[:-1], 1.0 / self.num_atoms, params.dtype), params[..., 0])

    def encode(self, law: Law) -> Array:
        """Law of `[N]` atoms, in any order -> its quantiles at the mid-levels, `[K, 2]`."""
        values = _encode(self, law)
        return jnp.stack([values, quantile_levels(self.num_atoms, values.dtype)], axis=-1)

    def loss(self, params: Array, target: Law) -> Array:
        """Quantile Huber loss `[]` [return] of `params[K, 2]`, each value at its own level."""
        return quantile_huber_loss(params[..., 0], target, self.huber_threshold, params[..., 1])

    def mean(self, params: Array) -> Array:
        """`params[K, 2]` -> `[]` [return]."""
        return jnp.mean(params[..., 0])


class EnergyAtoms(CheckedStruct):
    """`num_atoms` returns of probability 1/K each, fitted together by the energy distance.

    Unlike those of `Quantile`, no particle is tied to a level: the loss is a distance of laws, and
    any order of the parameters has the same. The nearest K particles to a law, in energy distance
    as in 1-Wasserstein distance, are its mid-level quantiles, so that both heads encode alike.

    Attributes:
        num_atoms: K, at least 1.

    Example:
        >>> import jax.numpy as jnp
        >>> law = Law(jnp.array([0.5, 0.25, 0.25]), jnp.array([3.0, 9.0, 1.0]))
        >>> EnergyAtoms(num_atoms=2).encode(law).tolist()
        [1.0, 3.0]

    Sources:
        Nguyen-Tang, Gupta & Venkatesh (2021), Distributional reinforcement learning via moment
        matching; Bellemare et al. (2017), The Cramér distance as a solution to biased Wasserstein
        gradients.
    """

    num_atoms: int = setting(64, "equally likely atoms", low=1)

    facts = HeadFacts(mean_preserving=False)
    shape = _shape
    law = _law
    encode = _encode
    mean = _mean

    def loss(self, params: Array, target: Law) -> Array:
        """Energy loss `[]` [return] of `params[K]`; see `jaxrl.losses.energy_loss`."""
        return energy_loss(params, target)


register("heads", Quantile, ImplicitQuantile, EnergyAtoms)
register("heads", iqn="implicit_quantile", particles="energy_atoms")
