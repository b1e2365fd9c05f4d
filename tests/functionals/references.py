"""What every functional in the tables is, by NumPy and SciPy alone: sums, bisection, programs.

Each reference takes the functional (for its numbers), laws `probs[L, N]` and `values[L, N]` in
extended precision, and gives `[L]`.
"""

from __future__ import annotations

import itertools

import numpy as np
from hard_laws import least
from scipy.stats import norm

from jaxrl import functionals as F
from jaxrl.functionals import ExponentialUtility, PiecewiseLinear, QuadraticUtility

Wide = np.longdouble
NUM_PROGRAMS = 6  # laws that a solver is called for; the others are NaN


def turn(is_below, low, high, num_trips=64):
    """Where a truth turns false, for each law, by bisection."""
    low, high = (np.asarray(end, Wide) for end in (low, high))
    for _ in range(num_trips):
        middle = (low + high) / 2
        below = is_below(middle)
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return low


def mean(p, v):
    return np.sum(p * v, -1)


def from_the_least(p, v):
    """The least possible value, and the gaps above it; zero where impossible."""
    low = np.min(np.where(p > 0, v, np.inf), -1)
    return low, np.where(p > 0, v - low[:, None], 0.0)


# ---- risk and distortion -----------------------------------------------------------------------


def cvar(level, p, v):
    """The greatest, over the atoms x, of x - E[(x - v)^+] / level."""
    losses = np.maximum(v[:, :, None] - v[:, None, :], 0)
    offers = v - np.einsum("lxn,ln->lx", losses, p) / level
    return np.max(np.where(p > 0, offers, -np.inf), -1)


def var(level, p, v):
    """The least value reached with probability `level`, but for rounding."""
    reached = np.einsum("lxn,ln->lx", v[:, None, :] <= v[:, :, None], p)
    enough = (reached >= level * (1 - 1e-12)) & (p > 0)
    return np.min(np.where(enough, v, np.inf), -1)


def entropic(aversion, p, v):
    if aversion == 0:
        return mean(p, v)
    if aversion < 0:
        return -entropic(-aversion, p, -v)
    low, gaps = from_the_least(p, v)
    return low - np.log1p(np.sum(p * np.expm1(-aversion * gaps), -1)) / aversion


def tilted_worst(law_of, distance, radius, p, v):
    """The value of the law at multiplier 1 / t whose distance from p is the radius."""
    low, gaps = from_the_least(p, v)
    spread = np.where(np.max(gaps, -1) > 0, np.max(gaps, -1), 1)
    gaps = gaps / spread[:, None]

    def law(log_t):
        weights = law_of(p, np.exp(log_t)[:, None] * gaps)
        return weights / np.sum(weights, -1, keepdims=True)

    def near(log_t):
        q = law(log_t)
        ratio = np.where(p > 0, q, 1) / np.where(p > 0, p, 1)
        return np.sum(p * distance(ratio), -1) < radius

    log_t = turn(near, np.full(len(p), -60), np.full(len(p), 300))
    return low + spread * np.sum(law(log_t) * gaps, -1)


def log_plus(ratio):
    return np.log(np.where(ratio > 0, ratio, 1))


def kl_worst(radius, p, v):
    def distance(ratio):
        return ratio * log_plus(ratio) - ratio + 1

    return tilted_worst(lambda p, x: p * np.exp(-x), distance, radius, p, v)


def chi_square_worst(radius, p, v):
    return tilted_worst(
        lambda p, x: p * np.maximum(1 - x, 0), lambda ratio: (ratio - 1) ** 2, radius, p, v
    )


def burg_worst(radius, p, v):
    return tilted_worst(
        lambda p, x: p / (1 + x), lambda ratio: ratio - 1 - log_plus(ratio), radius, p, v
    )


def hellinger_worst(radius, p, v):
    """In s = sqrt q: the least of s V s with |s| = 1 and s.sqrt(p) >= 1 - radius / 2."""
    low, gaps = from_the_least(p, v)
    root = np.sqrt(p)

    def best(log_shift):
        s = root / (gaps + np.exp(log_shift)[:, None])
        return s / np.linalg.norm(s, axis=-1).astype(Wide)[:, None]

    def far(log_shift):
        return np.sum(best(log_shift) * root, -1) < 1 - radius / 2

    log_shift = turn(far, np.full(len(p), -60), np.full(len(p), 60))
    return low + np.sum(best(log_shift) ** 2 * gaps, -1)


def expectile(level, p, v):
    low, gaps = from_the_least(p, v)

    def falls_short(x):
        up, down = (np.maximum(s * (gaps - x[:, None]), 0) for s in (1, -1))
        return level * mean(p, up) > (1 - level) * mean(p, down)

    return low + turn(falls_short, np.zeros(len(p)), np.max(gaps, -1))


def semideviation(weight, order, p, v):
    m = mean(p, v)
    below = np.maximum(m[:, None] - v, 0)
    return m - weight * mean(p, below**order) ** (Wide(1) / order)


def mean_std(weight, p, v):
    m = mean(p, v)
    return m - weight * np.sqrt(mean(p, (v - m[:, None]) ** 2))


def quadratic(curvature, gains):
    gains = np.minimum(gains, 1 / curvature)
    return gains - curvature * gains**2 / 2


def oce_quadratic(curvature, p, v):
    low, gaps = from_the_least(p, v)

    def steep(x):
        return mean(p, np.maximum(1 - curvature * (gaps - x[:, None]), 0)) < 1

    x = turn(steep, np.zeros(len(p)), np.max(gaps, -1))
    return low + x + mean(p, quadratic(curvature, gaps - x[:, None]))


def oce_piecewise(gain, loss, p, v):
    """Linear between the atoms, so that one of them is best."""
    rest = v[:, None, :] - v[:, :, None]
    utility = np.where(rest >= 0, gain * rest, loss * rest)
    return np.max(np.where(p > 0, v + np.einsum("lxn,ln->lx", utility, p), -np.inf), -1)


def shortfall(utility):
    """The greatest x at which E u(v - x) is enough; within 9 of the values for small thresholds."""

    def reference(f, p, v):
        low, gaps = from_the_least(p, v)

        def enough(x):
            return mean(p, utility(f.utility, gaps - x[:, None])) >= f.threshold

        return low + turn(enough, np.full(len(p), -9), np.max(gaps, -1) + 9)

    return reference


def spectral(levels, weights, p, v):
    parts = [weight * cvar(level, p, v) for level, weight in zip(levels, weights, strict=True)]
    return sum(parts) / np.sum(weights)


def distorted(distortion):
    """From the values in order: the distorted probability of reaching each, less that before."""

    def reference(number, p, v):
        order = np.argsort(v, -1)
        p, v = (np.take_along_axis(x, order, -1) for x in (p, v))
        none = np.zeros((len(p), 1), Wide)
        lower = np.concatenate([none, np.cumsum(p, -1)], -1)
        upper = np.concatenate([np.cumsum(p[:, ::-1], -1)[:, ::-1], none], -1)
        return mean(np.diff(distortion(number, lower, upper), axis=-1), v)

    return reference


def wang_distortion(shift, lower, upper):
    low, high = (np.clip(x.astype(float), 0, 1) for x in (lower, upper))
    return norm.cdf(np.where(low < 0.5, norm.ppf(low), norm.isf(high)) + float(shift))


wang = distorted(wang_distortion)
power = distorted(lambda exponent, lower, upper: 1 - upper**exponent)
prospect = distorted(
    lambda exponent, lower, upper: (
        lower**exponent / (lower**exponent + upper**exponent) ** (1 / exponent)
    )
)

OCE = {
    ExponentialUtility: lambda u, p, v: entropic(u.risk_aversion, p, v),
    QuadraticUtility: lambda u, p, v: oce_quadratic(u.curvature, p, v),
    PiecewiseLinear: lambda u, p, v: oce_piecewise(u.gain_slope, u.loss_slope, p, v),
}
SHORTFALL = {
    ExponentialUtility: shortfall(lambda u, t: -np.expm1(-u.risk_aversion * t) / u.risk_aversion),
    QuadraticUtility: shortfall(lambda u, t: quadratic(u.curvature, t)),
    PiecewiseLinear: shortfall(lambda u, t: np.where(t >= 0, u.gain_slope, u.loss_slope) * t),
}

# ---- worst cases over sets, and at a price -----------------------------------------------------


def reachable(functional, p):
    return (p > 0) | (functional.support == "full")


def lowest(functional, p, v):
    return np.min(np.where(reachable(functional, p), v, np.inf), -1)


def contamination(f, p, v):
    return (1 - f.radius) * mean(p, v) + f.radius * lowest(f, p, v)


def total_variation(f, p, v):
    """Mass is taken from the greatest values, one after the other, to the least."""
    order = np.argsort(-v, -1)
    mass, dear = (np.take_along_axis(x, order, -1) for x in (p, v))
    moved = np.clip(f.radius - (np.cumsum(mass, -1) - mass), 0, mass)
    return mean(p, v) - np.sum(moved * (dear - lowest(f, p, v)[:, None]), -1)


def projected(point, open_to):
    """The nearest laws to points, over the atoms open to them."""
    size = np.arange(1, point.shape[-1] + 1)
    ordered = -np.sort(-np.where(open_to, point, -1e30), -1)
    cuts = (np.cumsum(ordered, -1) - 1) / size
    last = np.sum(ordered > cuts, -1, keepdims=True) - 1
    cut = np.take_along_axis(cuts, last, -1)
    return np.where(open_to, np.maximum(point - cut, 0), 0)


def l2_ball(f, p, v):
    """Along the path of least sums q.v + |q - p|^2 / (2 t)."""

    def law(log_t):
        return projected(p - np.exp(log_t)[:, None] * v, reachable(f, p))

    def near(log_t):
        return np.sum((law(log_t) - p) ** 2, -1) < f.radius**2

    return np.sum(law(turn(near, np.full(len(p), -40), np.full(len(p), 22))) * v, -1)


def by_programs(program, num_programs=NUM_PROGRAMS):
    """One law at a time, for the first few."""

    def reference(f, p, v):
        found = np.full(len(p), np.nan)
        for i in range(num_programs):
            found[i] = program(f, p[i].astype(float), v[i].astype(float), reachable(f, p[i]))
        return found

    return reference


def weighted_l1_program(f, p, v, open_to):
    """q = p + up - down, weights.(up + down) <= radius."""
    size, radius, weights = p.size, float(f.radius), np.asarray(f.weights, float)
    eye, none = np.eye(size), np.zeros(size)
    bounds = np.zeros((3 * size, 2))
    bounds[:, 1] = np.concatenate([np.full(size, np.inf), np.where(open_to, np.inf, 0.0), p])
    return least(
        v,
        A_eq=np.block([[eye, -eye, eye], [np.ones(size), none, none]]),
        b_eq=np.append(p, 1.0),
        A_ub=np.concatenate([none, weights, weights])[None] / radius,
        b_ub=[1.0],
        bounds=bounds,
    )


def interval_program(f, p, v, open_to):
    lower, upper = (np.asarray(x, float) for x in (f.lower, f.upper))
    bounds = np.stack([np.where(open_to, lower, 0.0), np.where(open_to, upper, 0.0)], 1)
    return least(v, A_eq=np.ones((1, p.size)), b_eq=[1.0], bounds=bounds)


def transport_program(f, p, v, open_to):
    """Over plans p_i t_ij: rows sum to p, total cost within the radius."""
    size, cost, radius = p.size, np.asarray(f.cost, float), float(f.radius)
    tops = np.append(np.full(size, np.inf), np.tile(np.where(open_to, np.inf, 0.0), size))
    rows = np.kron(np.eye(size), np.ones((1, size)))
    law = np.kron(np.ones((1, size)), np.eye(size))
    return least(
        v,
        A_eq=np.block([[np.zeros((size, size)), rows], [-np.eye(size), law]]),
        b_eq=np.append(p, np.zeros(size)),
        A_ub=np.append(np.zeros(size), cost.ravel())[None],
        b_ub=[radius],
        bounds=np.stack([np.zeros(tops.size), tops], 1),
    )


def ellipsoid_program(f, p, v, open_to):
    """For every set of atoms that may stay, the least over the ellipsoid's cut is in closed form;
    the best of those that are laws is the optimum."""
    size, radius, covariance = p.size, float(f.radius), np.asarray(f.covariance, float)
    best = np.inf
    for kept in map(np.array, itertools.product((False, True), repeat=size)):
        if not np.any(kept) or np.any(kept & ~open_to):
            continue
        rows = np.concatenate([np.eye(size)[~kept], np.ones((1, size))])
        ends = np.append(-p[~kept], 0.0)
        shared = covariance @ rows.T
        solve = np.linalg.inv(rows @ shared)
        room, inner = radius**2 - ends @ solve @ ends, covariance - shared @ solve @ shared.T
        if room < 0:
            continue
        length = np.sqrt(max(v @ inner @ v, 0.0))
        step = inner @ v / length if length > 1e-9 else np.zeros(size)
        law = p + shared @ solve @ ends - np.sqrt(room) * step
        if np.min(law) > -1e-12:
            best = min(best, law @ v)
    return best


def ellipsoid(f, p, v):
    known = l2_ball if f.covariance is None else by_programs(ellipsoid_program, 3)
    return known(f, p, v)


def scenarios(f, p, v):
    means = [np.sum(kernel * v, -1) for kernel in np.asarray(f.kernels, Wide)]
    return np.min([*means, mean(p, v)], 0)


def kl_penalty(f, p, v):
    return from_the_least(p, v)[0] if f.weight == 0 else entropic(1 / Wide(f.weight), p, v)


def total_variation_penalty(f, p, v):
    """Mass goes to the least value where that saves more than the price."""
    return mean(p, np.minimum(v, lowest(f, p, v)[:, None] + f.weight))


def chi_square_penalty(f, p, v):
    """q = p (1 - (v - level) / (2 weight))^+ with the level that makes it a law."""
    low, gaps = from_the_least(p, v)

    def law(level):
        return p * np.maximum(1 - (gaps - level[:, None]) / (2 * f.weight), 0)

    ends = np.full(len(p), -2 * f.weight), np.max(gaps, -1) / np.min(p[p > 0]) + 2 * f.weight
    q = law(turn(lambda level: np.sum(law(level), -1) < 1, *ends))
    price = np.sum(np.where(p > 0, (q - p) ** 2 / np.where(p > 0, p, 1), 0), -1)
    return low + np.sum(q * gaps, -1) + f.weight * price


DIVERGENCES = {"expm1": kl_worst, "chi_square_conjugate": chi_square_worst}
DIVERGENCES["hellinger_conjugate"] = hellinger_worst

OF_CLASS = {
    F.Mean: lambda f, p, v: mean(p, v),
    F.CVaR: lambda f, p, v: cvar(f.level, p, v),
    F.VaR: lambda f, p, v: var(f.level, p, v),
    F.Entropic: lambda f, p, v: entropic(f.risk_aversion, p, v),
    F.EVaR: lambda f, p, v: kl_worst(-np.log(Wide(f.level)), p, v),
    F.Expectile: lambda f, p, v: expectile(f.level, p, v),
    F.MeanSemideviation: lambda f, p, v: semideviation(f.weight, f.order, p, v),
    F.MeanStd: lambda f, p, v: mean_std(f.weight, p, v),
    F.OptimisedCertaintyEquivalent: lambda f, p, v: OCE[type(f.utility)](f.utility, p, v),
    F.Shortfall: lambda f, p, v: SHORTFALL[type(f.utility)](f, p, v),
    F.Spectral: lambda f, p, v: spectral(f.levels, f.weights, p, v),
    F.Wang: lambda f, p, v: wang(f.shift, p, v),
    F.PowerDistortion: lambda f, p, v: power(f.exponent, p, v),
    F.CumulativeProspect: lambda f, p, v: prospect(f.exponent, p, v),
    F.KLBall: lambda f, p, v: kl_worst(f.radius, p, v),
    F.BurgBall: lambda f, p, v: burg_worst(f.radius, p, v),
    F.ChiSquareBall: lambda f, p, v: chi_square_worst(f.radius, p, v),
    F.DivergenceBall: lambda f, p, v: DIVERGENCES[f.conjugate.__name__](f.radius, p, v),
    F.KLPenalty: kl_penalty,
    F.TotalVariationPenalty: total_variation_penalty,
    F.ChiSquarePenalty: chi_square_penalty,
    F.Contamination: contamination,
    F.TotalVariation: total_variation,
    F.WeightedL1: by_programs(weighted_l1_program),
    F.Interval: by_programs(interval_program),
    F.Ellipsoid: ellipsoid,
    F.Wasserstein: by_programs(transport_program),
    F.Scenarios: scenarios,
}


def reference(functional, probs, values):
    """`[L]`; NaN for laws that no program was solved for."""
    probs = np.asarray(probs, Wide)
    probs = probs / np.sum(probs, -1, keepdims=True)
    with np.errstate(over="ignore", invalid="ignore"):
        return OF_CLASS[type(functional)](functional, probs, np.asarray(values, Wide))
