"""Worst cases over polyhedra and lists of laws: what nature takes from the best atoms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxrl.core.protocols import COHERENT, MONETARY, FunctionalFacts
from jaxrl.core.settings import CheckedStruct, setting
from jaxrl.core.types import Array, Number
from jaxrl.functionals import worst_law
from jaxrl.functionals.duals import SampleDual, TotalVariationDual, UtilityDual
from jaxrl.functionals.ordering import atoms_at, finite_part


class Contamination(CheckedStruct):
    """Worst case when an unknown law replaces the nominal one with probability `radius`.

    F(p, v) = (1 - radius) sum_i p_i v_i + radius min_i v_i
            = min { q.v : q = (1 - radius) p + radius u, u a law }

    `radius = 0` is the mean, 1 and beyond the least value. It is (s,a)-rectangular and nested.

    Attributes:
        radius: probability of the unknown law, in [0, 1]; more counts as 1.
        support: `"nominal"`: the unknown law keeps to atoms with p > 0; `"full"`: to any atom.

    Numerics:
        No search; rounding of one sum. First derivatives hold in `values`, `probs`, `radius`.

    Example:
        >>> import jax.numpy as jnp
        >>> float(Contamination(0.5)(jnp.array([0.5, 0.5]), jnp.array([0.0, 4.0])))
        1.0

    Sources:
        Huber (1964), Robust estimation of a location parameter, section 1 (the model);
        Wang & Zou (2021), Online robust reinforcement learning with model uncertainty, section 3.
    """

    radius: Number = setting(0.1, "probability of the unknown law", low=0.0)
    support: str = setting("nominal", "atoms that nature may use", choices=worst_law.SUPPORTS)

    facts = COHERENT

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        held = worst_law.hold(self.support, probs, values, self.radius)
        parameters, reachable, (probs, values, radius) = held
        kept = 1.0 - jnp.minimum(radius, 1.0)
        low = jnp.min(jnp.where(reachable, values, jnp.inf))
        moved = (1.0 - kept) * jnp.sum(probs)
        value = worst_law.expectation(kept * probs, values, reachable)
        value = value + jnp.where(moved > 0, moved * low, 0.0)
        law = kept * probs + worst_law.evenly(moved, atoms_at(low, values, reachable))
        finite, low = finite_part(values), finite_part(low)
        by_probs = jnp.where(reachable, kept * finite + (1.0 - kept) * low, 0.0)
        by_radius = jnp.where(radius <= 1.0, jnp.sum(probs) * low - jnp.sum(probs * finite), 0.0)
        return worst_law.envelope(value, parameters, (by_probs, law, by_radius))

    def dual(self, least: float) -> SampleDual:
        """Of one sampled value."""
        return UtilityDual(Partial(_kept, self.radius), is_bound=True)


def _kept(radius: Array, gain: Array) -> Array:
    return (1.0 - jnp.minimum(radius, 1.0)) * gain


class TotalVariation(CheckedStruct):
    """Worst case over laws within a total-variation distance of the nominal one.

    F(p, v) = min { q.v : 1/2 sum_i |q_i - p_i| <= radius, q a law }
            = max_x sum_i p_i min(v_i, x) - radius (x - min v)

    The radius is *half* the L1 distance: the mass that nature moves, from the greatest values to
    the least. `radius = 0` is the mean, 1 and beyond the least value. It is (s,a)-rectangular and
    nested.

    Attributes:
        radius: the mass moved, in [0, 1]; more counts as 1.
        support: `"nominal"`: nature moves it to an atom with p > 0; `"full"`: to any atom.

    Numerics:
        Exact up to the rounding of sums: N^2 comparisons up to 128 atoms, a sort beyond. First
        derivatives hold in `values`, `probs` and `radius` (from above, where they differ).

    Example:
        >>> import jax.numpy as jnp
        >>> float(TotalVariation(0.25)(jnp.array([0.5, 0.5]), jnp.array([0.0, 4.0])))
        1.0

    Sources:
        Iyengar (2005), Robust dynamic programming, section 4;
        Derman, Geist & Mannor (2021), Twice regularized MDPs, for its place among the norms.
    """

    radius: Number = setting(0.1, "probability mass moved: half the L1 distance", low=0.0)
    support: str = setting("nominal", "atoms that nature may use", choices=worst_law.SUPPORTS)

    facts = COHERENT

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        held = worst_law.hold(self.support, probs, values, self.radius)
        parameters, reachable, (probs, values, radius) = held
        low = jnp.min(jnp.where(reachable, values, jnp.inf))
        # Mass leaves the greatest values first; atoms without mass have none to give.
        descent = jnp.where((probs > 0) & ~jnp.isnan(values), -values, 0.0)
        marginal = -worst_law.marginal_value(radius, probs, descent)
        removed = worst_law.fill_lowest(radius, probs, descent, -marginal)
        moved = jnp.sum(removed)
        value = worst_law.expectation(probs - removed, values, reachable)
        value = value + jnp.where(moved > 0, moved * low, 0.0)
        law = probs - removed + worst_law.evenly(moved, atoms_at(low, values, reachable))
        # Once all mass has moved, the least value is at the margin.
        margin = jnp.where(radius >= jnp.sum(probs), low, marginal)
        by_probs = finite_part(jnp.where(reachable, jnp.minimum(values, margin), 0.0))
        return worst_law.envelope(value, parameters, (by_probs, law, finite_part(low - margin)))

    def dual(self, least: float) -> SampleDual:
        """Of one sampled value."""
        return TotalVariationDual(self.radius)


class TotalVariationPenalty(CheckedStruct):
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

    weight: Number = setting(
        1.0, "price of moving a unit of mass", unit="return", low=0.0, infinite=True
    )
    support: str = setting("nominal", "where nature may put mass", choices=worst_law.SUPPORTS)

    facts = MONETARY

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


class Interval(CheckedStruct):
    """Worst case over laws with given bounds on the probability of each atom (a bounded MDP).

    F(p, v) = min { q.v : lower_i <= q_i <= upper_i, sum_i q_i = 1 }

    The bounds are absolute probabilities, not distances from p: `lower = upper = p` is the mean,
    `lower = 0, upper = 1` the least value. The nominal law then matters only for its support. For
    bounds about p, pass `Interval(p - below, p + above)`; bounds are cut to [0, 1]. It is
    (s,a)-rectangular and nested.

    Attributes:
        lower: `[N]` least probability of each atom.
        upper: `[N]` greatest probability of each atom.
        support: `"nominal"`: atoms with p = 0 keep none, whatever their bounds; `"full"`: the
            bounds alone decide.

    Numerics:
        Exact up to the rounding of sums: N^2 comparisons up to 128 atoms, a sort beyond. NaN where
        no law fits the bounds (1e-5 of slack in the sums is allowed for, and rescaled away). First
        derivatives hold in `values`, `lower` and `upper`; in `probs` they are zero.

    Example:
        >>> import jax.numpy as jnp
        >>> functional = Interval(jnp.array([0.1, 0.2]), jnp.array([0.6, 0.9]))
        >>> f"{float(functional(jnp.array([0.5, 0.5]), jnp.array([0.0, 1.0]))):.1f}"
        '0.4'

    Sources:
        Givan, Leach & Dean (2000), Bounded-parameter Markov decision processes, section 5 (the
        order-maximising law).
    """

    lower: Array  # [N]
    upper: Array  # [N]
    support: str = setting("nominal", "atoms that nature may use", choices=worst_law.SUPPORTS)

    facts = FunctionalFacts(coherent=True, per_outcome="lower")

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]` (which atoms are possible), `values[N]` [return] -> `[]` [return]."""
        held = worst_law.hold(self.support, probs, values, self.lower, self.upper)
        parameters, possible, (probs, values, lower, upper) = held
        lower = jnp.where(possible, jnp.maximum(lower, 0.0), 0.0)
        upper = jnp.where(possible, jnp.minimum(upper, 1.0), 0.0)
        reachable = possible & (upper > 0)
        room = jnp.maximum(upper - lower, 0.0)
        amount = 1.0 - jnp.sum(lower)
        slack = 1e-5
        fits = (amount >= -slack) & (amount <= jnp.sum(room) + slack)
        fits &= jnp.all(lower <= upper + slack)
        amount = jnp.maximum(amount, 0.0)
        ranked = jnp.where(reachable & ~jnp.isnan(values), values, 0.0)
        marginal = worst_law.marginal_value(amount, room, ranked)
        law = lower + worst_law.fill_lowest(amount, room, ranked, marginal)
        law = law / jnp.sum(law)
        over = jnp.where(reachable & (room > 0), finite_part(ranked - marginal), 0.0)
        by_lower, by_upper = jnp.maximum(over, 0.0), jnp.minimum(over, 0.0)
        slopes = jnp.zeros_like(probs), by_lower, by_upper
        return jnp.where(fits, worst_law.value_of(law, reachable, parameters, *slopes), jnp.nan)


class Scenarios(CheckedStruct):
    """Worst case over a finite list of laws, the nominal one among them unless told otherwise.

    F(p, v) = min_m sum_i kernels[m, i] v_i,  m over the list and, with `with_nominal`, p itself

    With no more than the nominal law it is the mean. Nature chooses anew in every state and action
    ((s,a)-rectangular) and at every step (nested): its value is at most that of the worst of M
    whole models, kept for good.

    Attributes:
        kernels: `[M, N]` laws over the same atoms; each row non-negative, summing to one.
        with_nominal: whether the nominal law is one of the list. Without it `probs` is ignored.

    Numerics:
        M sums of N. Atoms that a law gives no mass may hold anything. First derivatives hold in
        `values`, `kernels` and `probs`; where several laws are worst, the first of them.

    Example:
        >>> import jax.numpy as jnp
        >>> functional = Scenarios(jnp.array([[0.9, 0.1], [0.2, 0.8]]))
        >>> f"{float(functional(jnp.array([0.5, 0.5]), jnp.array([0.0, 1.0]))):.1f}"
        '0.1'

    Sources:
        Nilim & El Ghaoui (2005), Robust control of Markov decision processes with uncertain
        transition matrices, section 3 (the scenario model).
    """

    kernels: Array  # [M, N]
    with_nominal: bool = setting(True, "whether the nominal law is one of the list")

    facts = FunctionalFacts(coherent=True, per_outcome="kernels")

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]` (the nominal law), `values[N]` [return] -> `[]` [return]."""
        held = worst_law.hold("full", probs, values, self.kernels)
        parameters, _, (probs, values, kernels) = held
        laws = jnp.concatenate([kernels, probs[None]]) if self.with_nominal else kernels
        nowhere = jnp.zeros_like(values, bool)
        means = jax.vmap(worst_law.expectation, (0, None, None))(laws, values, nowhere)
        chosen = jnp.argmin(means)  # NaN wins
        is_chosen = jnp.arange(laws.shape[0]) == chosen
        by_laws = jnp.where(is_chosen[:, None], finite_part(values), 0.0)
        by_probs = by_laws[-1] if self.with_nominal else jnp.zeros_like(probs)
        slopes = (by_probs, laws[chosen], by_laws[: kernels.shape[0]])
        return worst_law.envelope(means[chosen], parameters, slopes)
