"""The functionals of expectation, risk and distortion that every contract is run over."""

from __future__ import annotations

import numpy as np

from jaxrl.functionals import (
    CumulativeProspect,
    CVaR,
    Entropic,
    EVaR,
    Expectile,
    ExponentialUtility,
    Mean,
    MeanSemideviation,
    MeanStd,
    OptimisedCertaintyEquivalent,
    PiecewiseLinear,
    PowerDistortion,
    QuadraticUtility,
    Shortfall,
    Spectral,
    VaR,
    Wang,
)

LEVELS = np.array([0.05, 0.4, 1.0], np.float32)
WEIGHTS = np.array([0.2, 0.5, 0.3], np.float32)

# Name to instance; each is valid for laws of 7 atoms. Instances of one class with equal static
# fields share a compiled program.
FUNCTIONALS = {
    "mean": Mean(),
    "cvar_0.001": CVaR(0.001),
    "cvar_0.3": CVaR(0.3),
    "cvar_1": CVaR(1.0),
    "var_0.001": VaR(0.001),
    "var_0.4": VaR(0.4),
    "var_1": VaR(1.0),
    "entropic_0": Entropic(0.0),
    "entropic_1e-4": Entropic(1e-4),
    "entropic_2": Entropic(2.0),
    "entropic_1000": Entropic(1000.0),
    "entropic_-2": Entropic(-2.0),
    "evar_0.001": EVaR(0.001),
    "evar_0.3": EVaR(0.3),
    "evar_1": EVaR(1.0),
    "expectile_0.001": Expectile(0.001),
    "expectile_0.3": Expectile(0.3),
    "expectile_0.5": Expectile(0.5),
    "expectile_0.9": Expectile(0.9),
    "semideviation_0": MeanSemideviation(0.0),
    "semideviation_1": MeanSemideviation(1.0),
    "semideviation_0.5_order_2": MeanSemideviation(0.5, order=2),
    "mean_std_0.5": MeanStd(0.5),
    "mean_std_3": MeanStd(3.0),
    "oce_exponential": OptimisedCertaintyEquivalent(ExponentialUtility(2.0)),
    "oce_quadratic": OptimisedCertaintyEquivalent(QuadraticUtility(1.5)),
    "oce_piecewise": OptimisedCertaintyEquivalent(PiecewiseLinear(0.5, 2.0)),
    "oce_cvar": OptimisedCertaintyEquivalent(PiecewiseLinear(0.0, 5.0)),
    "shortfall_exponential": Shortfall(ExponentialUtility(2.0)),
    "shortfall_quadratic": Shortfall(QuadraticUtility(0.5)),
    "shortfall_piecewise": Shortfall(PiecewiseLinear(0.2, 0.8)),
    "spectral": Spectral(LEVELS, WEIGHTS),
    "wang_0.7": Wang(0.7),
    "wang_-0.7": Wang(-0.7),
    "power_3": PowerDistortion(3.0),
    "power_0.5": PowerDistortion(0.5),
    "prospect_0.6": CumulativeProspect(0.6),
    "prospect_1": CumulativeProspect(1.0),
}
