"""The worst case over laws from which the nominal one is near: Burg's entropy, KL reversed."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jaxrl.core.protocols import COHERENT
from jaxrl.core.settings import checked_struct, setting
from jaxrl.core.types import Array
from jaxrl.functionals.tilting import Distance, Guess, small_steepness, steepness
from jaxrl.functionals.worst_law import SUPPORTS, Optimum, ScaledLaw, worst_value


@checked_struct
class BurgBall:
    """Worst case over the laws q with KL(p || q) at most `radius`.

    F(p, v) = min { sum_i q_i v_i : sum_i p_i log(p_i / q_i) <= radius }
            = max_{h > -min v} exp(E log(v + h) - radius) - h

    Nature's law is proportional to p_i / (v_i + h). It is the likelihood ball: with n successors
    seen, the laws under which they are at least exp(-n radius) times as likely as under the
    frequencies p. No possible atom ever loses all its mass, so that the least possible value is
    approached but never reached. radius = 0 is the mean.

    Attributes:
        radius: of the set, at least 0 [nats].
        support: "nominal": mass only where p_i > 0. "full": on every atom given; an atom of zero
            probability and of a value below all possible ones then takes mass, except one whose
            value is not finite, which is absent.

    Numerics:
        Third-order safeguarded iteration for h, in practice three to six passes with one logarithm
        per atom; the error of the value is of second order in that of h. First derivatives hold in
        `values`, `probs` and `radius`. With the nominal support the slope in the radius is minus
        infinity at 0; the finite slope at a radius of the order of the rounding is returned.

    Example:
        >>> import jax.numpy as jnp
        >>> half, values = jnp.array([0.5, 0.5]), jnp.array([0.0, 1.0])
        >>> f"{float(BurgBall(0.5)(half, values)):.4f}"  # q (1 - q) = exp(-1) / 4
        '0.1025'

    Sources:
        Nilim & El Ghaoui (2005), Robust control of Markov decision processes with uncertain
        transition matrices, section 4 (likelihood models); Ben-Tal et al. (2013), Robust solutions
        of optimization problems affected by uncertain probabilities, table 2.
    """

    radius: float = setting(0.1, "radius of the set of laws", unit="nats", low=0.0)
    support: str = setting("nominal", "where nature may put mass", choices=SUPPORTS)

    facts = COHERENT

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]`, `values[N]` [return] -> `[]` [return]."""
        if self.support == "nominal":
            return worst_value(_solve, probs, values, self.radius)
        held = jax.lax.stop_gradient(values)
        present = jnp.where((probs > 0) | jnp.isfinite(held), held, jnp.inf)
        solve = partial(_solve, lowest=jnp.argmin(present), floor=jnp.min(present))
        return worst_value(solve, probs, values, self.radius)


def _solve(
    law: ScaledLaw, radius: Array, lowest: Array | None = None, floor: Array | None = None
) -> Optimum:
    info = jnp.finfo(law.gaps.dtype)
    # In t = 1 / (h + low): the atom of least value, where it has no probability, bounds t.
    most = jnp.asarray(info.max**0.5, law.gaps.dtype)
    depth = jnp.zeros_like(most)
    if lowest is None or floor is None:
        receives = law.lowest / jnp.sum(law.lowest)
    else:
        receives = (jnp.arange(law.gaps.shape[0]) == lowest).astype(law.gaps.dtype)
        depth = jnp.maximum((law.low - floor) / law.spread, 0.0)
        most = jnp.where(depth * most > 1.0, 1.0 / jnp.where(depth > 0, depth, 1.0), most)
    t = _steepness(law, jnp.maximum(radius, info.eps**2), most)
    logs = jnp.log1p(t * law.gaps)
    exponent = jnp.sum(law.probs * logs) - radius
    is_constant = jnp.all(law.gaps == 0) & (depth == 0)
    share = jnp.where(is_constant, 0.0, 1.0 / t)
    scale = jnp.exp(exponent) * share  # the multiplier of the radius
    weights = law.probs * jnp.exp(exponent) / (1.0 + t * law.gaps)
    weights = weights / jnp.maximum(jnp.sum(weights), 1.0)
    return Optimum(
        inner=jnp.where(law.lost > 0, jnp.inf, jnp.expm1(exponent) * share),
        weights=weights + receives * (1.0 - jnp.sum(weights)),
        by_probs=scale * logs,
        by_setting=-scale,
    )


def _steepness(law: ScaledLaw, radius: Array, most: Array) -> Array:
    """The t in (0, most] at which q_i = p_i / (1 + t x_i), normalised, has KL(p || q) = `radius`.

    The divergence G(t) grows as t^2 at first and in proportion to log t at the end: in log t,
    log(exp(G) - 1) is almost a straight line.
    """
    probs, gaps = law.probs, law.gaps
    info = jnp.finfo(gaps.dtype)

    def distance(t: Array) -> Distance:
        kept = 1.0 / (1.0 + t * gaps)
        left = jnp.sum(probs * kept)
        mean_log, log_left = jnp.sum(probs * jnp.log1p(t * gaps)), jnp.log(left)
        shed = 1.0 - kept
        centred = shed - jnp.sum(probs * shed)
        share = probs * shed * kept
        slope = jnp.sum(probs * centred**2) / left
        return Distance(
            value=mean_log + log_left,
            slope=slope,
            bend=2.0 * jnp.sum(centred * share) / left + slope * jnp.sum(share) / left,
            noise=info.eps * (4.0 * (mean_log + jnp.abs(log_left) + radius) + 1.0),
        )

    def straight(divergence: Array) -> Array:
        return divergence + jnp.log(-jnp.expm1(-divergence))

    # Kantorovich: E(1 + t x) E(1 / (1 + t x)) <= (2 + t)^2 / (4 (1 + t)), hence t from below.
    risen = -jnp.expm1(-radius)
    low = 2.0 * jnp.exp(jnp.minimum(radius, 0.4 * jnp.log(info.max))) * (risen + jnp.sqrt(risen))
    guess = small_steepness(law, radius, by_skew=2 / 3, by_mean=1.0)
    is_constant = jnp.all(gaps == 0)
    guess = Guess(jnp.where(is_constant, most, guess.t), guess.is_known | is_constant)
    return steepness(distance, straight, radius, guess, low, most)
