"""A return stored as expectiles, and read as a law that has them."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.law import Law
from jaxrl.core.settings import check_settings, setting
from jaxrl.core.types import Array
from jaxrl.losses.formulas import expectile_loss, quantile_levels


@struct.dataclass
class Expectiles:
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

    stores_law: ClassVar[bool] = True
    mean_preserving: ClassVar[bool] = True

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
        """Law of `[N]` atoms, in any order -> its expectiles `[K]` [return], increasing."""
        return expectiles_of(law, self.levels(law.probs.dtype))

    def loss(self, params: Array, target: Law) -> Array:
        """Expectile loss `[]` [return^2] of `params[K]` against the target's own atoms."""
        return expectile_loss(params, self.levels(params.dtype), target)

    def mean(self, params: Array) -> Array:
        """`params[K]` -> `[]` [return], the middle one."""
        return params[self.num_atoms // 2]


def expectiles_of(law: Law, levels: Array) -> Array:
    """The expectiles of a law.

    Args:
        law: of `[N]` atoms [return], in any order; impossible ones may hold any value.
        levels: `[K]`, in (0, 1).

    Returns:
        `[K]` [return]. Gradients in the atoms and probabilities flow.
    """
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
    turn = jnp.where(possible, below / jnp.maximum(below + above, jnp.finfo(mass.dtype).tiny), 2.0)
    index = jnp.searchsorted(jax.lax.stop_gradient(turn), levels, side="right")
    index = jnp.clip(index, 1, jnp.maximum(jnp.sum(possible), 1)) - 1  # last atom at or below
    weighted = levels * (first[-1] - first[index]) + (1.0 - levels) * first[index]
    weight = levels * (mass[-1] - mass[index]) + (1.0 - levels) * mass[index]
    return centre + weighted / weight


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
