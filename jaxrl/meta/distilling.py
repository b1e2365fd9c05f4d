"""A drift read off another: a few terms that a person can read, and still a drift."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.agents.actor_critic import ActorCriticAgent
from jaxrl.core import Struct, struct
from jaxrl.core.protocols import LEARNED
from jaxrl.core.schedules import values_at
from jaxrl.core.types import Array, Progress
from jaxrl.rules import DriftPolicy
from jaxrl.rules.learned_reward import WithReward

_MOST_LOG_RATIO = 3.0  # of the points: no policy moves further within one rollout
_NUM_POINTS = 4096
_MOST_SWEEPS = 20
_COARSE, _FINE = 0.05, 1e-4  # last steps of the logarithm of a scale
_RIDGE = 1e-13  # of unit columns: two that are almost one share the weight

# (the term at a scale `[N]`, scales to begin with; none for a term without a scale)
Family = tuple[Callable[[float], np.ndarray], Sequence[float]]
Terms = tuple[tuple[str, float], ...]  # names, with their scales


@dataclasses.dataclass(frozen=True)
class Term:
    """A function of ratio and advantage, zero with zero slope at ratio 1."""

    function: Callable[..., Any]  # of numpy or jax.numpy, r - 1, log r, A, scale
    scales: tuple[float, ...] = ()  # to begin with; () for a term without a scale


def _bent(xp: Any, change: Any, scale: Any) -> Any:
    return change - scale * xp.tanh(change / scale)


def _outside(xp: Any, change: Any, scale: Any) -> Any:
    """What of `change` lies outside of [-scale, scale]."""
    return change - xp.clip(change, -scale, scale)


_RETURNS = (0.3, 0.6, 1.0, 2.0, 4.0)
_RATIOS = (0.05, 0.1, 0.2, 0.4)
_PLAIN_TERMS = {
    "(r-1)^2": Term(lambda xp, x, l, a, s: x**2),
    "log(r)^2": Term(lambda xp, x, l, a, s: l**2),
    "r-1-log(r)": Term(lambda xp, x, l, a, s: x - l),
    "((r-1)A)^2": Term(lambda xp, x, l, a, s: (x * a) ** 2),
    "(log(r)A)^2": Term(lambda xp, x, l, a, s: (l * a) ** 2),
    "(r-1)^2 A": Term(lambda xp, x, l, a, s: x**2 * a),
    "log(r)^2 A": Term(lambda xp, x, l, a, s: l**2 * a),
    "(r-1-log(r))A": Term(lambda xp, x, l, a, s: (x - l) * a),
    "((r-1)A - s tanh((r-1)A/s))": Term(lambda xp, x, l, a, s: _bent(xp, x * a, s), _RETURNS),
    "(log(r)A - s tanh(log(r)A/s))": Term(lambda xp, x, l, a, s: _bent(xp, l * a, s), _RETURNS),
    "(r-1 outside +-s)A": Term(lambda xp, x, l, a, s: _outside(xp, x, s) * a, _RATIOS),
    "(log(r) outside +-s)A": Term(lambda xp, x, l, a, s: _outside(xp, l, s) * a, _RATIOS),
}
_SIDES: dict[str, Callable[[Any], Any]] = {
    "": lambda a: a == a,
    "[A>=0] ": lambda a: a >= 0,
    "[A<0] ": lambda a: a < 0,
}
TERMS = {s + n: (term, holds) for s, holds in _SIDES.items() for n, term in _PLAIN_TERMS.items()}


class SparseDrift(Struct):
    """The positive part of a weighted sum of a few named terms.

        drift = relu(sum_k weights_k term_k(r, A, scales_k)),   r the ratio

    Every term vanishes with zero slope at ratio 1, so that this is a drift whatever the numbers.
    `[A>=0]` and `[A<0]` before a term restrict it to good or bad actions; a term without A jumps
    between the two.

    Attributes:
        weights: `[K]`.
        scales: `[K]`, the `s` of each term, > 0; unused where it has none.
        terms: names in `jaxrl.meta.distil.TERMS`.

    Example:
        >>> term = "(r-1 outside +-s)A"  # PPO's clip
        >>> drift = SparseDrift(jnp.ones(1), jnp.full(1, 0.2), (term,))
        >>> f"{float(drift(jnp.log(2.0), 1.0, Progress.start())):.1f}"
        '0.8'
        >>> drift.formula
        'relu(1 (r-1 outside +-0.2)A)'
    """

    weights: Array
    scales: Array
    terms: tuple[str, ...] = struct.field(pytree_node=False)

    facts = LEARNED

    def __call__(self, log_ratio: Array, advantage: Array, progress: Progress) -> Array:
        """-> `[...]` [return]."""
        total = jnp.zeros_like(log_ratio * advantage)
        change = jnp.expm1(log_ratio)
        for name, weight, scale in zip(self.terms, self.weights, self.scales, strict=True):
            term, holds = TERMS[name]
            found = term.function(jnp, change, log_ratio, advantage, scale)
            total = total + weight * jnp.where(holds(advantage), found, 0.0)
        return jax.nn.relu(total)

    @property
    def formula(self) -> str:
        """The drift as text."""
        parts = []
        for name, weight, scale in zip(self.terms, self.weights, self.scales, strict=True):
            parts.append(f"{weight:.3g} " + re.sub(r"\bs\b", f"{scale:.3g}", name))
        return f"relu({' + '.join(parts)})" if parts else "0"


@dataclasses.dataclass(frozen=True)
class Distilled:
    """A closed form of a drift, and how close it comes."""

    drift: SparseDrift
    r_squared: float  # on points that were not fitted, at most 1
    worst_error: float  # the largest absolute error on them [return]

    @property
    def rule(self) -> DriftPolicy:
        """Policy optimisation under the closed form."""
        return DriftPolicy(self.drift)

    def __str__(self) -> str:
        return f"{self.drift.formula}   (R^2 = {self.r_squared:.4f})"


def distil(
    rule: Any,
    *,
    num_terms: int = 2,
    least_gain: float = 1e-3,
    log_ratio_spread: float = 0.5,
    advantage_spread: float = 1.0,
    progress: Progress | None = None,
    seed: int = 0,
) -> Distilled:
    """A sparse closed form of a drift, by orthogonal least squares over `TERMS`.

        minimise  sum_i (f(r_i, A_i) - relu(sum_k w_k term_k(r_i, A_i)))^2,
        log r ~ N(0, log_ratio_spread^2) cut at +-3,    A ~ N(0, advantage_spread^2)

    Good and bad actions are fitted apart: terms enter one by one, that first which lowers the error
    most, and are exchanged while that helps; the scales in them are refined. A term that serves
    both signs equally well is written once. Where the sum is negative the error does not depend on
    it, and weights minimise a convex bound on it (`fit_weights`).

    Args:
        rule: a drift, or a rule or agent that has one.
        num_terms: for each sign of the advantage, at most.
        least_gain: no term is used that raises R^2 by less.
        log_ratio_spread: of the points [nats].
        advantage_spread: of the points [return]; agents standardise advantages.
        progress: the point of the life at which a timed drift is read; its start by default.
        seed: of the points.

    Raises:
        TypeError: `rule` has no drift.
        ValueError: no term is allowed, or a spread is not positive.

    Numerics: greedy, so not always the best set of terms. R^2 and the worst error are taken on as
        many fresh points; beyond the points nothing is promised but that the result is a drift.

    Sources: Chen, Billings & Luo 1989, Orthogonal least squares methods and their application to
        non-linear system identification (forward selection). Lu et al. 2022, Discovered policy
        optimisation, read the form off by eye.

    Example:
        >>> from jaxrl.rules import DiscoveredDrift
        >>> found = distil(DiscoveredDrift(alpha=2.0, beta=0.6))
        >>> for term in sorted(found.drift.terms):
        ...     print(term)
        [A<0] (log(r)A - s tanh(log(r)A/s))
        [A>=0] ((r-1)A - s tanh((r-1)A/s))
        >>> f"{found.r_squared:.3f}"
        '1.000'
    """
    if num_terms < 1 or log_ratio_spread <= 0.0 or advantage_spread <= 0.0:
        raise ValueError(
            f"num_terms={num_terms} must be at least 1, and log_ratio_spread={log_ratio_spread} "
            f"and advantage_spread={advantage_spread} positive."
        )
    points = np.random.default_rng(seed).normal(size=(2, 2, _NUM_POINTS))
    log_ratio = np.clip(log_ratio_spread * points[0], -_MOST_LOG_RATIO, _MOST_LOG_RATIO)
    advantage = advantage_spread * points[1]
    drift = drift_at(rule, Progress.start() if progress is None else progress)
    target = np.asarray(drift(jnp.asarray(log_ratio), jnp.asarray(advantage)), np.float64)

    spread = float(np.sum((target[0] - target[0].mean()) ** 2))
    fit = _fit(log_ratio[0], advantage[0], target[0], num_terms, least_gain * spread)
    found = SparseDrift(
        weights=jnp.asarray(fit.weights, jnp.float32),
        scales=jnp.asarray([scale for _, scale in fit.terms], jnp.float32),
        terms=fit.names,
    )
    said = found(jnp.asarray(log_ratio[1]), jnp.asarray(advantage[1]), Progress.start())
    error = np.asarray(said, np.float64) - target[1]
    spread = float(np.sum((target[1] - target[1].mean()) ** 2))
    return Distilled(
        drift=found,
        r_squared=1.0 - float(error @ error) / spread if spread > 0 else 1.0,
        worst_error=float(np.max(np.abs(error))),
    )


def drift_at(rule: Any, progress: Progress) -> Callable[[Array, Array], Array]:
    """The drift `(log_ratio, advantage) -> []` of a rule or agent at a point of its life.

    Raises:
        TypeError: it has none.
    """
    drift = rule
    while isinstance(drift, (ActorCriticAgent, WithReward)):
        drift = drift.rule
    if isinstance(drift, DriftPolicy):
        drift = drift.drift
    if not callable(drift):
        raise TypeError(
            f"{type(drift).__name__} has no drift: give a drift, a DriftPolicy or its agent."
        )
    now: Any = values_at(drift, progress)
    return lambda log_ratio, advantage: now(log_ratio, advantage, progress)


def _fit(
    log_ratio: np.ndarray, advantage: np.ndarray, target: np.ndarray, num_terms: int, least: float
) -> Fit:
    """Each sign of the advantage on its own; what both say alike is then said once."""
    signs = ("[A>=0] ", "[A<0] ")

    def families(side: str, rows: np.ndarray | slice = slice(None)) -> dict[str, Family]:
        l, a = log_ratio[rows], advantage[rows]
        x, holds = np.expm1(l), _SIDES[side](a)

        def family(term: Term) -> Family:
            return lambda s: np.where(holds, term.function(np, x, l, a, s), 0.0), term.scales

        return {side + name: family(term) for name, term in _PLAIN_TERMS.items()}

    both, terms = families(""), ()
    for side in signs:
        rows = _SIDES[side](advantage)
        terms += select_terms(families(side, rows), target[rows], num_terms, least).terms
        both |= families(side)
    if not terms:
        return Fit((), np.zeros(0), float(target @ target))
    fit = refine(both, target, terms)
    for name in _PLAIN_TERMS:
        first, second = (side + name for side in signs)
        if {first, second} <= set(fit.names):
            kept = [(one, scale) for one, scale in fit.terms if one != second]
            merged = tuple((name if one == first else one, scale) for one, scale in kept)
            one = refine(both, target, merged)
            fit = one if one.error - fit.error <= least else fit
    return fit


# ---- least squares with few terms, through a positive part: plain numpy, in float64 --------------


@dataclasses.dataclass(frozen=True)
class Fit:
    """A few terms, their scales and their weights."""

    terms: Terms
    weights: np.ndarray  # [K]
    error: float  # sum of squares

    @property
    def names(self) -> tuple[str, ...]:
        """Of the terms."""
        return tuple(name for name, _ in self.terms)


def select_terms(
    families: Mapping[str, Family], target: np.ndarray, num_terms: int, least_gain: float
) -> Fit:
    """The terms that explain `target[N]` >= 0 best, as a greedy search finds them.

        minimise  sum_i (target_i - relu(sum_k w_k term_k(scale_k)_i))^2

    Terms enter by the fall of the error with all weights fitted anew and the entrant's scale
    refined; then each is exchanged for a better one until none is, and all scales are refined.

    Args:
        families: terms by name.
        target: `[N]`.
        num_terms: K at most.
        least_gain: no term enters that lowers the error by less.

    Example:
        >>> x = np.linspace(0.0, 2.0, 50)
        >>> families = {"x": (lambda s: x, ()), "power": (lambda s: x**s, (0.5, 2.0))}
        >>> fit = select_terms(families, 3.0 * x**1.5, 2, 1e-3)
        >>> fit.names, f"{fit.terms[0][1]:.2f}", f"{fit.weights[0]:.2f}"
        (('power',), '1.50', '3.00')
    """
    best = Fit((), np.zeros(0), float(target @ target))
    for _ in range(num_terms):
        more = _entered(families, target, best.terms)
        for _ in range(_MOST_SWEEPS if len(more.terms) > 1 else 0):
            before = more.error
            for name in more.names:
                kept = tuple(term for term in more.terms if term[0] != name)
                other = _entered(families, target, kept)
                more = other if other.error < more.error * (1.0 - 1e-3) else more
            if more.error >= before * (1.0 - 1e-3):
                break
        more = refine(families, target, more.terms)
        if best.error - more.error <= least_gain:
            break
        best = more
    return best


def _entered(families: Mapping[str, Family], target: np.ndarray, terms: Terms) -> Fit:
    """With the best further term, its scale roughly refined."""
    found = []
    for name, (_, scales) in families.items():
        if name not in dict(terms):
            starts = [
                fitted(families, target, (*terms, (name, scale))) for scale in scales or (1.0,)
            ]
            first = min(starts, key=lambda one: one.error)
            found.append(refine(families, target, first.terms, _COARSE, len(terms)))
    return min(found, key=lambda one: one.error)


def refine(
    families: Mapping[str, Family],
    target: np.ndarray,
    terms: Terms,
    last_step: float = _FINE,
    only: int | None = None,
) -> Fit:
    """Move the scales (or that of the term `only`), one at a time, while the error falls."""
    fit, step = fitted(families, target, terms), 0.2
    moving = [i for i, (name, _) in enumerate(terms) if families[name][1] and only in (None, i)]
    while moving and step > last_step:
        before = fit.error
        for i, factor in itertools.product(moving, (np.exp(step), np.exp(-step))):
            name, scale = fit.terms[i]
            moved = (*fit.terms[:i], (name, float(scale * factor)), *fit.terms[i + 1 :])
            fit = min(fit, fitted(families, target, moved), key=lambda one: one.error)
        if fit.error >= before * (1.0 - 1e-9):
            step /= 3.0
    return fit


def fitted(families: Mapping[str, Family], target: np.ndarray, terms: Terms) -> Fit:
    """Terms at their scales, with the best weights."""
    columns = [families[name][0](scale) for name, scale in terms]
    return Fit(terms, *fit_weights(columns, target))


def fit_weights(columns: Sequence[np.ndarray], target: np.ndarray) -> tuple[np.ndarray, float]:
    """The weights `[K]` of columns `[N]`, and the error that they leave.

        minimise  sum_{target_i > 0} (target_i - total_i)^2 + sum_{target_i = 0} relu(total_i)^2

    This is convex and not below the error, with which it agrees where no total is negative at a
    positive target. Solved by least squares on the points that count, found anew until they stay.
    """
    table = np.stack(columns, axis=1)
    norms = np.sqrt(np.sum(table**2, axis=0))
    norms = np.where(norms > 0, norms, 1.0)
    table = table / norms
    weights, active, seen = np.zeros(len(columns)), target > 0, set()
    while (key := active.tobytes()) not in seen and len(seen) < _MOST_SWEEPS:
        seen.add(key)
        rows = table[active]
        gram = rows.T @ rows + _RIDGE * np.eye(len(columns))
        weights = np.linalg.solve(gram, rows.T @ target[active])
        active = (target > 0) | (table @ weights > 0)
    error = float(np.sum((target - np.maximum(table @ weights, 0.0)) ** 2))
    return weights / norms, error
