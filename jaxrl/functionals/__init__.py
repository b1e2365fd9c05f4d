"""Scalars of a finite law `(probs[N], values[N]) -> []`: expectation, risk, ambiguity.

Every functional is called with `probs[N]`, non-negative and summing to one, and `values[N]`
[return]; it gives `[]` [return]. An atom of zero probability may hold anything, inf and NaN
included, unless `support="full"` lets nature use it. Settings out of their range raise ValueError
when they are concrete; a tracer passes. What holds whatever the settings, such as that a worst case
is coherent, every functional states as its `facts` (`core.protocols.FunctionalFacts`).

`duals` holds the forms for one sample at a time.
"""

from __future__ import annotations

import jax

from jaxrl.core.notation import register
from jaxrl.core.protocols import Functional
from jaxrl.core.types import Array
from jaxrl.functionals.ambiguity import (
    Contamination,
    Interval,
    TotalVariation,
    TotalVariationPenalty,
)
from jaxrl.functionals.burg import BurgBall
from jaxrl.functionals.chi_square import ChiSquareBall, ChiSquarePenalty
from jaxrl.functionals.deviation import MeanSemideviation, MeanStd
from jaxrl.functionals.distortion import CumulativeProspect, PowerDistortion, Spectral, Wang
from jaxrl.functionals.divergence import DivergenceBall
from jaxrl.functionals.ellipsoid import Ellipsoid, L2Ball
from jaxrl.functionals.expectation import Mean
from jaxrl.functionals.kl import EVaR, KLBall, KLPenalty
from jaxrl.functionals.per_pair import PerPair
from jaxrl.functionals.quantile import Expectile, VaR
from jaxrl.functionals.risk import CVaR, Entropic
from jaxrl.functionals.scenarios import Scenarios
from jaxrl.functionals.shared_budget import SharedL1
from jaxrl.functionals.shared_divergence import SharedKL
from jaxrl.functionals.transport import Wasserstein, WeightedL1
from jaxrl.functionals.utility import (
    ExponentialUtility,
    OptimisedCertaintyEquivalent,
    PiecewiseLinear,
    QuadraticUtility,
    Shortfall,
    UtilityFunction,
)

__all__ = [
    "BurgBall",
    "CVaR",
    "ChiSquareBall",
    "ChiSquarePenalty",
    "Contamination",
    "CumulativeProspect",
    "DivergenceBall",
    "EVaR",
    "Ellipsoid",
    "Entropic",
    "Expectile",
    "ExponentialUtility",
    "Interval",
    "KLBall",
    "KLPenalty",
    "L2Ball",
    "Mean",
    "MeanSemideviation",
    "MeanStd",
    "OptimisedCertaintyEquivalent",
    "PerPair",
    "PiecewiseLinear",
    "PowerDistortion",
    "QuadraticUtility",
    "Scenarios",
    "SharedKL",
    "SharedL1",
    "Shortfall",
    "Spectral",
    "TotalVariation",
    "TotalVariationPenalty",
    "UtilityFunction",
    "VaR",
    "Wang",
    "Wasserstein",
    "WeightedL1",
    "worst_case",
]

register(
    "functionals",
    *(
        part
        for name, part in globals().copy().items()
        if name in __all__ and name != "PerPair" and hasattr(part, "facts")
    ),
    kl="kl_ball",
    tv="total_variation",
    chi2="chi_square_ball",
    w1="wasserstein",
    l2="l2_ball",
    burg="burg_ball",
    f_divergence="divergence_ball",
    oce="optimised_certainty_equivalent",
    average_value_at_risk="cvar",
    value_at_risk="var",
    expectation="mean",
)


def worst_case(functional: Functional, probs: Array, values: Array) -> Array:
    """Nature's law: the gradient of a functional in `values`.

    w = dF(p, v)/dv. For a monotone, translation-equivariant functional w is a law; for a coherent
    one, F(p, v) = sum_i w_i v_i. For `Mean` it is `probs`.

    Args:
        functional: what to differentiate.
        probs: `[N]`, non-negative, summing to one.
        values: `[N]` [return].

    Returns:
        `[N]`, the weights; where several laws are worst, one of them.

    Example:
        >>> import jax.numpy as jnp
        >>> worst_case(CVaR(0.5), jnp.array([0.25, 0.75]), jnp.array([1.0, 3.0])).tolist()
        [0.5, 0.5]

    Sources:
        Shapiro, Dentcheva & Ruszczynski (2009), Lectures on Stochastic Programming, chapter 6
        (dual representation and subdifferential).
    """
    return jax.grad(functional, argnums=1)(probs, values)
