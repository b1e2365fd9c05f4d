"""Worst cases in chi-square divergence: a clipped affine tilt, found exactly."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.protocols import COHERENT, MONETARY
from jaxrl.core.settings import checked_struct, setting
from jaxrl.core.types import Array
from jaxrl.functionals.duals import ChiSquareDual, Dual, UtilityDual
from jaxrl.functionals.utility import QuadraticUtility
from jaxrl.functionals.worst_law import Optimum, ScaledLaw, relative_price, worst_value


@checked_struct
class ChiSquareBall:
    """Worst case over the laws within `radius` of the nominal one in chi-square divergence.

    F(p, v) = min { sum_i q_i v_i : sum_i (q_i - p_i)^2 / p_i <= radius, q >= 0 }
            = max_a E[min(V, a)] - sqrt(radius Var[min(V, a)])

    While no atom loses all its mass this is mean - sqrt(radius) standard deviations. radius = 0 is
    the mean; from 1 / P(V = min V) - 1 on, the least value of positive probability. Only atoms of
    positive probability count (any other would be infinitely far).

    Attributes:
        radius: of the set, at least 0.

    Numerics:
        Exact: atoms that would get negative mass are dropped until none would, at most N - 1
        times and mostly two or three. First derivatives hold in `values`, `probs` and `radius`. At
        radius 0 the slope in the radius is minus infinity; the finite slope at a radius of the
        order of the rounding is returned.

    Example:
        >>> import jax.numpy as jnp
        >>> half = jnp.array([0.5, 0.5])
        >>> f"{float(ChiSquareBall(0.16)(half, jnp.array([0.0, 1.0]))):.4f}"  # 0.5 - 0.4 * 0.5
        '0.3000'

    Sources:
        Iyengar (2005), Robust dynamic programming, section 4; Shi, Li, Wei, Chen, Geist & Chi
        (2023), The curious price of distributional robustness, lemma 2 (the maximum over a).
    """

    radius: float = setting(0.1, "radius of the set of laws", low=0.0)

    facts = COHERENT

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        return worst_value(_solve, probs, values, self.radius)

    def dual(self, least: float) -> Dual:
        """Of one sampled value."""
        return ChiSquareDual(self.radius, least)


@checked_struct
class ChiSquarePenalty:
    """Worst case at a price of `weight` per unit of chi-square divergence.

    F(p, v) = min_q { sum_i q_i v_i + weight sum_i (q_i - p_i)^2 / p_i }
            = max_a E[min(V, a)] - Var[min(V, a)] / (4 weight)

    While no atom loses all its mass this is mean - variance / (4 weight). weight -> inf is the
    mean, weight = 0 the least value of positive probability.

    Attributes:
        weight: price of a unit of divergence, at least 0; infinite for the mean [return].

    Numerics:
        Exact: atoms that would get negative mass are dropped until none would. First derivatives
        hold in `values`, `probs` and `weight`.

    Example:
        >>> import jax.numpy as jnp
        >>> half = jnp.array([0.5, 0.5])
        >>> float(ChiSquarePenalty(1.0)(half, jnp.array([0.0, 1.0])))  # 1/2 - 1/16
        0.4375

    Sources:
        Tang, Liu & Xu (2024), Robust offline reinforcement learning with linearly structured
        f-divergence regularization.
    """

    weight: float = setting(
        1.0, "price of a unit of divergence", unit="return", low=0.0, infinite=True
    )

    facts = MONETARY

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        return worst_value(_solve_penalty, probs, values, self.weight)

    def dual(self, least: float) -> Dual:
        """Of one sampled value."""
        return UtilityDual(QuadraticUtility(0.5 / self.weight))


@struct.dataclass
class Kept:
    """The law conditioned on the atoms that keep some mass."""

    atoms: Array  # [N] bool
    mass: Array  # []
    mean: Array  # [], of the gaps
    variance: Array  # []
    tilt: Array  # [], by how much q_i / p_i falls per unit of gap, relative to its mean
    centred: Array  # [N], the gaps above their mean


def clipped_tilt(law: ScaledLaw, steepness: Callable[[Array, Array, Array], Array]) -> Kept:
    """The law q_i = p_i / P (1 - t (x_i - mean)) on the atoms where that is positive.

    Mean and P are those of the kept atoms themselves; `steepness(kept mass, dropped mass,
    variance)` gives t. Starting from all atoms, none that belongs to the optimum is ever dropped
    (its ratio only grows when others go), so that dropping until nothing changes is exact.
    """

    def condition(atoms: Array) -> Kept:
        probs = jnp.where(atoms, law.probs, 0.0)
        mass = jnp.sum(probs)
        mean = jnp.sum(probs * law.gaps) / mass
        # The rounding of the mean, which a steep tilt would magnify, is taken out again.
        centred = law.gaps - mean
        centred = centred - jnp.sum(probs * centred) / mass
        variance = jnp.sum(probs * centred**2) / mass
        tilt = steepness(mass, jnp.sum(law.probs - probs), variance)
        return Kept(atoms, mass, mean, variance, tilt, centred)

    def drop(state: tuple) -> tuple:
        trips, atoms, _ = state
        kept = condition(atoms)
        fewer = atoms & (kept.tilt * kept.centred < 1.0)
        return trips + 1, fewer, jnp.all(fewer == atoms)

    start = (0, law.probs > 0, jnp.asarray(False))
    size = law.gaps.shape[0]
    return condition(jax.lax.while_loop(lambda s: (s[0] < size) & ~s[-1], drop, start)[1])


def _solve(law: ScaledLaw, radius: Array) -> Optimum:
    # Shedding a share s of the mass leaves (1 + radius) (1 - s) - 1 for the rest.
    limit = radius - (1.0 + radius) * law.lost

    def radius_left(mass: Array, dropped: Array) -> Array:
        few, many = limit - (1.0 + limit) * dropped, (1.0 + limit) * mass - 1.0
        return jnp.maximum(jnp.where(dropped < 0.5, few, many), 0.0)

    def steepness(mass: Array, dropped: Array, variance: Array) -> Array:
        varies = variance > 0
        ratio = radius_left(mass, dropped) / jnp.where(varies, variance, 1.0)
        return jnp.where(varies, jnp.sqrt(ratio), 0.0)

    kept = clipped_tilt(law, steepness)
    excess = -kept.tilt * kept.centred
    left = radius_left(kept.mass, jnp.sum(jnp.where(kept.atoms, 0.0, law.probs)))
    deviation = jnp.sqrt(kept.variance)
    # The multiplier of the radius is `price` times the mass kept.
    price = 0.5 * deviation / jnp.sqrt(jnp.maximum(left, jnp.finfo(left.dtype).eps ** 2))
    # - price (q / p)^2 for each p, above its value at q = p: nothing cancels at small radii.
    by_kept = 0.5 * kept.centred * (2.0 + excess)
    inner = jnp.maximum(kept.mean - deviation * jnp.sqrt(left), 0.0)
    return Optimum(
        inner=jnp.where(limit < 0, jnp.inf, inner),
        weights=jnp.where(kept.atoms, law.probs / kept.mass * (1.0 + excess), 0.0),
        by_probs=jnp.where(kept.atoms, by_kept, price) / kept.mass,
        by_setting=-price * kept.mass * (1.0 - law.lost),
    )


def _solve_penalty(law: ScaledLaw, weight: Array) -> Optimum:
    price = relative_price(law, weight)
    remaining = 1.0 - law.lost  # of the whole law, in which atoms of +inf may have a share

    def steepness(mass: Array, dropped: Array, variance: Array) -> Array:
        return jnp.where(variance > 0, 0.5 * remaining * mass / price, 0.0)

    kept = clipped_tilt(law, steepness)
    excess = -kept.tilt * kept.centred
    mass = remaining * kept.mass
    dropped = law.lost + remaining * jnp.sum(jnp.where(kept.atoms, 0.0, law.probs))
    divergence = (dropped + kept.tilt**2 * kept.variance) / mass
    by_kept = 0.5 * kept.centred * (2.0 + excess)
    return Optimum(
        inner=kept.mean - kept.tilt * kept.variance + price * divergence,
        weights=jnp.where(kept.atoms, law.probs / kept.mass * (1.0 + excess), 0.0),
        by_probs=jnp.where(kept.atoms, by_kept, price / mass) / kept.mass,
        by_setting=divergence / law.spread,
    )
