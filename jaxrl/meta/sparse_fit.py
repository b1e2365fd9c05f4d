"""Least squares with few terms, through a positive part. Plain numpy, in float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

_MOST_SWEEPS = 20
_COARSE, _FINE = 0.05, 1e-4  # last steps of the logarithm of a scale
_RIDGE = 1e-13  # of unit columns: two that are almost one share the weight

# (the term at a scale `[N]`, scales to begin with; none for a term without a scale)
Family = tuple[Callable[[float], np.ndarray], Sequence[float]]
Terms = tuple[tuple[str, float], ...]  # names, with their scales


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
        more = _best_entry(families, target, best)
        if len(more.terms) > 1:
            more = _exchange(families, target, more)
        more = refine(families, target, more.terms)
        if best.error - more.error <= least_gain:
            break
        best = more
    return best


def refine(
    families: Mapping[str, Family],
    target: np.ndarray,
    terms: Terms,
    last_step: float = _FINE,
    only: int | None = None,
) -> Fit:
    """Move the scales (or that of the term `only`), one at a time, while the error falls."""
    columns = [families[name][0](scale) for name, scale in terms]
    moving = [i for i, (name, _) in enumerate(terms) if families[name][1] and only in (None, i)]
    step = 0.2
    weights, error = fit_weights(columns, target)
    while moving and step > last_step:
        before = error
        for index in moving:
            name, start = terms[index]
            for factor in (np.exp(step), np.exp(-step)):
                scale = float(start * factor)
                moved = [*columns]
                moved[index] = families[name][0](scale)
                other, other_error = fit_weights(moved, target)
                if other_error < error:
                    columns, weights, error = moved, other, other_error
                    terms = (*terms[:index], (name, scale), *terms[index + 1 :])
                    break
        if error >= before * (1.0 - 1e-9):
            step /= 3.0
    return Fit(terms, weights, error)


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


def _best_entry(families: Mapping[str, Family], target: np.ndarray, fit: Fit) -> Fit:
    """`fit` with the best further term, its scale roughly refined."""
    found = []
    for name, (_, scales) in families.items():
        if name in fit.names:
            continue
        starts = [
            refine(families, target, (*fit.terms, (name, scale)), 1.0) for scale in scales or (1.0,)
        ]
        first = min(starts, key=lambda one: one.error)
        found.append(refine(families, target, first.terms, _COARSE, len(fit.terms)))
    return min(found, key=lambda one: one.error)


def _exchange(families: Mapping[str, Family], target: np.ndarray, fit: Fit) -> Fit:
    for _ in range(_MOST_SWEEPS):
        before = fit.error
        for name in fit.names:
            kept = tuple(term for term in fit.terms if term[0] != name)
            other = _best_entry(families, target, dataclasses.replace(fit, terms=kept))
            if other.error < fit.error * (1.0 - 1e-3):
                fit = other
        if fit.error >= before * (1.0 - 1e-3):
            return fit
    return fit
