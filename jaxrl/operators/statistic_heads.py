"""Returns stored as statistics of their law: the mean, the scale, expectiles."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri

from jaxrl.core import Struct
from jaxrl.core.law import Law
from jaxrl.core.notation import register
from jaxrl.core.protocols import HeadFacts
from jaxrl.core.settings import CheckedStruct, check_settings, setting
from jaxrl.core.types import Array, Number
from jaxrl.losses.formulas import (
    expectile_loss,
    gaussian_cross_entropy,
    huber_loss,
    quantile_levels,
)


class Scalar(CheckedStruct):
    """One number for each action: the expected return.

    Its law is a single atom, so that risk measures of the return law see only the mean.

    Attributes:
        huber_threshold: where the loss turns linear, > 0 [return]; infinite for the squared error.

    Example:
        >>> import jax.numpy as jnp
        >>> float(Scalar().encode(Law.of_samples(jnp.array([1.0, 5.0]))))
        3.0

    Sources:
        Watkins & Dayan (1992), Q-learning; Mnih et al. (2015) for the clipped error.
    """

    huber_threshold: Number = setting(
        1.0,
        "error at which the loss turns linear",
        unit="return",
        low=0.0,
        low_open=True,
        infinite=True,
    )

    facts = HeadFacts(stores_law=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """`()`: one parameter for each action."""
        return ()

    def law(self, params: Array) -> Law:
        """`params[]` [return] -> the law of one atom, `[1]`."""
        return Law.of_samples(jnp.asarray(params)[None])

    def encode(self, law: Law) -> Array:
        """Law of `[N]` atoms -> its mean `[]` [return]."""
        return law.mean()

    def loss(self, params: Array, target: Law) -> Array:
        """Huber loss `[]` [return^2] of `params[]` against the mean of the target."""
        return huber_loss(params, target.mean(), self.huber_threshold)

    def mean(self, params: Array) -> Array:
        """`params[]` -> `[]` [return]."""
        return jnp.asarray(params)


class Gaussian(CheckedStruct):
    """A mean and a standard deviation: `params = (mean, raw)`, scale = min_scale + softplus(raw).

    Encoding takes the two moments. The law has `num_atoms` equal atoms at the normal quantiles of
    the mid-levels, stretched so that mean and variance are exactly the stored ones; a backup of
    moments is therefore exact, while tails beyond the outermost atoms are not seen.

    Attributes:
        num_atoms: of the law, at least 2.
        min_scale: least standard deviation, >= 0 [return]; it bounds the likelihood of nearly
            certain returns. 0 for tables that store the variance of deterministic returns.

    Example:
        >>> import jax.numpy as jnp
        >>> head = Gaussian(num_atoms=4, min_scale=0.0)
        >>> law = head.law(head.encode(Law.of_samples(jnp.array([0.0, 6.0]))))
        >>> f"{float(law.mean()):.4f} {float(jnp.std(law.atoms)):.4f}"
        '3.0000 3.0000'

    Sources:
        Duan et al. (2021), Distributional soft actor-critic (the head, there on samples); Sobel
        (1982), The variance of discounted Markov decision processes (the recursion of moments).
    """

    num_atoms: int = setting(8, "atoms of the law", low=2)
    min_scale: Number = setting(1e-3, "least standard deviation", unit="return", low=0.0)

    facts = HeadFacts()

    @property
    def shape(self) -> tuple[int, ...]:
        """`(2,)`."""
        return (2,)

    def scale(self, params: Array) -> Array:
        """`params[2]` -> the standard deviation `[]` [return]."""
        return self.min_scale + jax.nn.softplus(params[1])

    def law(self, params: Array) -> Law:
        """`params[2]` -> the law of `[num_atoms]` equal atoms with these two moments."""
        quantiles = ndtri(quantile_levels(self.num_atoms, params.dtype))
        quantiles = 0.5 * (quantiles - quantiles[::-1])  # exactly symmetric
        units = quantiles / jnp.sqrt(jnp.mean(jnp.square(quantiles)))
        probs = jnp.full(units.shape, 1.0 / self.num_atoms, params.dtype)
        return Law(probs, params[0] + self.scale(params) * units)

    def encode(self, law: Law) -> Array:
        """Law of `[N]` atoms -> its mean and raw spread `[2]`, finite where it has none."""
        mean = law.mean()
        centred = jnp.where(law.probs > 0, law.atoms - mean, 0.0)
        variance = jnp.sum(law.probs * jnp.square(centred))
        tiny = jnp.finfo(variance.dtype).tiny
        is_spread = variance > tiny
        scale = jnp.where(is_spread, jnp.sqrt(jnp.where(is_spread, variance, 1.0)), 0.0)
        excess = jnp.maximum(scale - self.min_scale, tiny)
        raw = excess + jnp.log(-jnp.expm1(-excess))  # the inverse of softplus
        return jnp.stack([mean, raw])

    def loss(self, params: Array, target: Law) -> Array:
        """Cross-entropy `[]` [nats] of the Gaussian density against the target law."""
        return gaussian_cross_entropy(params[0], self.scale(params), target)

    def mean(self, params: Array) -> Array:
        """`params[2]` -> `[]` [return]."""
        return params[0]


class Expectiles(Struct):
    """`num_atoms` expectiles of the return, at levels tau_i = (2 i + 1) / (2 K).

    e_i solves tau_i E (Z - e_i)^+ = (1 - tau_i) E (e_i - Z)^+

    K is odd: the middle expectile, of level 1/2, is the mean, so that means are kept whatever law
    is stored. Expectiles are statistics, not atoms: taken for atoms, the law would shrink at every
    backup. `law` *imputes*: it gives a law whose expectiles are the parameters.

    Attributes:
        num_atoms: K, odd, at least 1.

    Numerics:
        Encoding is exact by one sort, the imputation by K^2 differences: no iteration. It has K - 1
        atoms of unequal probability (one for K = 1) and meets the expectiles of any law to
        rounding. Parameters that no law has, such as those of a network, are first moved to some:
        each side of the mean is put in order and the rest convexified; the mean is kept.

    Example:
        >>> import jax.numpy as jnp
        >>> head = Expectiles(num_atoms=3)
        >>> [f"{e:.3f}" for e in head.encode(Law.of_samples(jnp.array([0.0, 3.0]))).tolist()]
        ['0.500', '1.500', '2.500']

    Sources:
        Rowland et al. (2019), Statistics and samples in distributional reinforcement learning,
        sections 3.3 and 4 (there the imputation is by numerical optimisation over equal atoms);
        Newey & Powell (1987), Asymmetric least squares estimation and testing.
    """

    num_atoms: int = setting(11, "expectiles, an odd number", low=1)

    facts = HeadFacts()

    def __post_init__(self) -> None:
        """Refuse concrete settings out of their range, and an even number of expectiles."""
        check_settings(self)
        if self.num_atoms % 2 == 0:
            raise ValueError(
                f"num_atoms={self.num_atoms} is even: give an odd number, so that the middle "
                "expectile is the mean."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """`(num_atoms,)`."""
        return (self.num_atoms,)

    def levels(self, dtype: jnp.dtype = jnp.float32) -> Array:
        """The levels `[K]`, increasing."""
        return quantile_levels(self.num_atoms, dtype)

    def law(self, params: Array) -> Law:
        """`params[K]` [return] -> a law of `[K - 1]` atoms, increasing, with these expectiles."""
        if self.num_atoms == 1:
            return Law(jnp.ones_like(params), params)
        return _impute(params)

    def encode(self, law: Law) -> Array:
        """Law of `[N]` atoms, in any order -> its expectiles `[K]` [return], increasing.

        Impossible atoms may hold any value. Gradients in the atoms and probabilities flow.
        """
        levels = self.levels(law.probs.dtype)
        possible = law.probs > 0
        centre = jax.lax.stop_gradient(law.mean())  # sums of what is left lose fewer digits
        order = jnp.argsort(jnp.where(possible, law.atoms, jnp.inf))
        probs, possible = law.probs[order], possible[order]
        atoms = jnp.where(possible, law.atoms[order] - centre, 0.0)
        mass, first = jnp.cumsum(probs), jnp.cumsum(probs * atoms)
        # At each atom: what lies below and above it in the mean. It is the expectile of its level
        # `turn`, which grows from 0 to 1 along the atoms.
        below = atoms * mass - first
        above = first[-1] - first - atoms * (mass[-1] - mass)
        turn = jnp.where(
            possible, below / jnp.maximum(below + above, jnp.finfo(mass.dtype).tiny), 2.0
        )
        index = jnp.searchsorted(jax.lax.stop_gradient(turn), levels, side="right")
        index = jnp.clip(index, 1, jnp.maximum(jnp.sum(possible), 1)) - 1  # last atom at or below
        weighted = levels * (first[-1] - first[index]) + (1.0 - levels) * first[index]
        weight = levels * (mass[-1] - mass[index]) + (1.0 - levels) * mass[index]
        return centre + weighted / weight

    def loss(self, params: Array, target: Law) -> Array:
        """Expectile loss `[]` [return^2] of `params[K]` against the target's own atoms."""
        return expectile_loss(params, self.levels(params.dtype), target)

    def mean(self, params: Array) -> Array:
        """`params[K]` -> `[]` [return], the middle one."""
        return params[self.num_atoms // 2]


def _impute(expectiles: Array) -> Law:
    """`expectiles[K]`, K >= 3 odd -> a law of K - 1 atoms that has them.

    With m the mean and s(x) = E (Z - x)^+, the expectile of level t is the place where
    s(e) = (1 - t) (e - m) / (2 t - 1). Any convex s through these points that falls with slope -1
    far left and 0 far right is that of a law: here the straight lines between the points, the
    outermost of them prolonged. Its kinks are the atoms, its changes of slope their probabilities.
    """
    dtype = expectiles.dtype
    num_atoms = expectiles.shape[0]
    middle = num_atoms // 2
    mean = expectiles[middle]
    # Distances from the mean, increasing: each side in order, and nowhere closer than rounding.
    spacing = 4.0 * jnp.finfo(dtype).eps * jnp.max(jnp.abs(expectiles)) + jnp.finfo(dtype).tiny
    rank = jnp.arange(1, middle + 1, dtype=dtype) * spacing
    right = jax.lax.cummax(jnp.sort(expectiles[middle + 1 :] - mean) - rank)
    left = jax.lax.cummax(jnp.sort(mean - expectiles[:middle]) - rank)
    right, left = jnp.maximum(right, 0.0) + rank, jnp.maximum(left, 0.0) + rank
    points = jnp.concatenate([-left[::-1], right])  # [K - 1]
    levels = quantile_levels(num_atoms, dtype)
    levels = jnp.concatenate([levels[:middle], levels[middle + 1 :]])
    heights = (1.0 - levels) / (2.0 * levels - 1.0) * points
    # Slopes of the greatest convex function below the points: all chords, [K - 2, K - 2] from the
    # first point of one to the last of another. Where a law has these expectiles they are just
    # the slopes between neighbours.
    is_chord = jnp.tri(num_atoms - 2, dtype=bool).T
    runs = jnp.where(is_chord, points[None, 1:] - points[:-1, None], 1.0)
    falls = heights[None, 1:] - heights[:-1, None]
    chords = jnp.where(is_chord, falls / runs, jnp.inf)
    least = jax.lax.cummin(chords, axis=1, reverse=True)
    slopes = jnp.max(jnp.where(is_chord, least, -jnp.inf), axis=0)
    slopes = jnp.clip(slopes, -1.0, 0.0)
    ends = jnp.array([-1.0, 0.0], dtype)
    probs = jnp.diff(jnp.concatenate([ends[:1], slopes, ends[1:]]))  # [K - 1]
    floor = 64.0 * jnp.finfo(dtype).eps
    first = points[0] - (heights[0] + points[0]) / jnp.maximum(probs[0], floor)
    last = points[-1] + heights[-1] / jnp.maximum(probs[-1], floor)
    atoms = jnp.concatenate([first[None], points[1:-1], last[None]])
    atoms = atoms - jnp.sum(probs * atoms)  # the mean holds even where the others cannot
    return Law(probs, mean + atoms)


register("heads", Scalar, Gaussian, Expectiles)
