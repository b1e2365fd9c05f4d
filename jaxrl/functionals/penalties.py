"""Worst cases in which leaving the nominal law has a price instead of a limit.

F(p, v) = inf_q { sum_i q_i v_i + weight D(q, p) } is concave, monotone and translation equivariant,
but not positively homogeneous: the weight is in the unit of the return.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.protocols import MONETARY, FunctionalFacts
from jaxrl.core.settings import check_settings, setting
from jaxrl.core.types import Array
from jaxrl.functionals.chi_square import clipped_tilt
from jaxrl.functionals.kl import tilt
from jaxrl.functionals.scaled_law import Optimum, ScaledLaw, worst_value
from jaxrl.functionals.worst_law import SUPPORTS


@struct.dataclass
class KLPenalty:
    """Worst case at a price of `weight` per nat of relative entropy.

    F(p, v) = min_q { sum_i q_i v_i + weight KL(q || p) } = -weight log E exp(-v / weight)

    It is `Entropic(1 / weight)`. weight -> inf is the mean, weight = 0 the least value of positive
    probability. Nature's law is p_i exp(-v_i / weight), normalised.

    Attributes:
        weight: price of a nat, at least 0; infinite for the mean [return].

    Numerics:
        Nothing cancels at great weights, nothing overflows at small ones. First derivatives hold
        in `values`, `probs` and `weight`.

    Example:
        >>> import jax.numpy as jnp
        >>> half = jnp.array([0.5, 0.5])
        >>> f"{float(KLPenalty(1.0)(half, jnp.array([0.0, jnp.inf]))):.4f}"  # -log 0.5
        '0.6931'

    Sources:
        Hansen & Sargent (2001), Robust control and model uncertainty; Tang, Liu & Xu (2024),
        Robust offline reinforcement learning with linearly structured f-divergence regularization.
    """

    weight: float = setting(
        1.0, "price of a nat of divergence", unit="return", low=0.0, infinite=True
    )

    facts = FunctionalFacts(time_consistent=True)

    __post_init__ = check_settings

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        return worst_value(_solve_kl, probs, values, self.weight)


@struct.dataclass
class TotalVariationPenalty:
    """Worst case at a price of `weight` per unit of mass moved.

    F(p, v) = min_q { sum_i q_i v_i + weight / 2 sum_i |q_i - p_i| } = E min(v, min v + weight)

    Nature moves all mass that lies more than `weight` above the least value onto that value.
    weight = 0 is the least value; once it exceeds the spread of the values, the mean.

    Attributes:
        weight: price of moving a unit of mass, at least 0; infinite for the mean [return].
        support: "nominal": the least value is over p_i > 0. "full": over every atom given, except
            one of zero probability whose value is not finite, which is absent.

    Numerics:
        A closed form. First derivatives hold in `values`, `probs` and `weight`; at a tie the mass
        stays.

    Example:
        >>> import jax.numpy as jnp
        >>> half = jnp.array([0.5, 0.5])
        >>> float(TotalVariationPenalty(3.0)(half, jnp.array([0.0, 8.0])))
        1.5

    Sources:
        Tang, Liu & Xu (2024), Robust offline reinforcement learning with linearly structured
        f-divergence regularization.
    """

    weight: float = setting(
        1.0, "price of moving a unit of mass", unit="return", low=0.0, infinite=True
    )
    support: str = setting("nominal", "where nature may put mass", choices=SUPPORTS)

    facts = MONETARY

    __post_init__ = check_settings

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        possible = probs > 0
        usable = possible if self.support == "nominal" else possible | jnp.isfinite(values)
        index = jnp.argmin(jnp.where(usable, values, jnp.inf))  # NaN, where usable, comes first
        least = values[index]
        is_finite = jnp.isfinite(least)
        bottom = jax.lax.stop_gradient(jnp.where(is_finite, least, 0.0))
        # Relative to the least value, so that an offset is not summed; `least` carries its share.
        gaps = jnp.where(possible & is_finite, values - bottom, 0.0)
        stays = gaps <= self.weight
        total = jnp.sum(probs)
        moved = jnp.sum(jnp.where(stays, 0.0, probs)) / total
        kept = jnp.sum(probs * jnp.where(stays, gaps, 0.0)) / total
        price = jnp.where(moved > 0, self.weight, 0.0)
        rise = kept + moved * (price + jnp.where(is_finite, least - bottom, 0.0))
        return jnp.where(is_finite, bottom + rise, least)


@struct.dataclass
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

    __post_init__ = check_settings

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        return worst_value(_solve_chi_square, probs, values, self.weight)


def _relative(law: ScaledLaw, weight: Array) -> Array:
    """The weight in units of the spread, away from zero and infinity."""
    info = jnp.finfo(law.gaps.dtype)
    return jnp.clip(weight / law.spread, info.tiny**0.5, info.max**0.5)


def _solve_kl(law: ScaledLaw, weight: Array) -> Optimum:
    price = _relative(law, weight)
    log_moment, ratio, excess = tilt(law, 1.0 / price)
    # Atoms of +inf are shed at the price of -log(1 - lost).
    shed = -jnp.log1p(-law.lost)
    weights = law.probs * ratio
    divergence = shed - jnp.sum(weights * law.gaps) / price - log_moment
    return Optimum(
        inner=price * (shed - log_moment),
        weights=weights,
        by_probs=-price * excess,
        by_setting=jnp.maximum(divergence, 0.0) / law.spread,
    )


def _solve_chi_square(law: ScaledLaw, weight: Array) -> Optimum:
    price = _relative(law, weight)
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
