"""Worst cases over polyhedra, norm balls, transport balls and lists of laws, for 7 atoms.

Those with parameters of their own for each atom let atom 1 go without mass, as the laws of the
contracts do.
"""

from __future__ import annotations

import numpy as np

from jaxrl.functionals import (
    Contamination,
    Ellipsoid,
    Interval,
    Scenarios,
    TotalVariation,
    Wasserstein,
    WeightedL1,
)

_RNG = np.random.default_rng(11)
_FACTOR = _RNG.normal(size=(7, 9))
_PLACES = _RNG.normal(size=(7, 2))
WEIGHTS = _RNG.uniform(0.3, 2.0, 7)
COVARIANCE = _FACTOR @ _FACTOR.T / 9
COST = np.linalg.norm(_PLACES[:, None] - _PLACES[None, :], axis=-1)
LOWER, UPPER = _RNG.uniform(0.0, 0.08, 7), _RNG.uniform(0.3, 0.6, 7)
_KERNELS = _RNG.dirichlet(np.ones(7), 3) * (np.arange(7) != 1)
KERNELS = _KERNELS / _KERNELS.sum(1, keepdims=True)

FUNCTIONALS = {
    "contamination_0": Contamination(0.0),
    "contamination_0.2": Contamination(0.2),
    "contamination_0.2_full": Contamination(0.2, support="full"),
    "contamination_1": Contamination(1.0),
    "total_variation_0": TotalVariation(0.0),
    "total_variation_0.3": TotalVariation(0.3),
    "total_variation_0.3_full": TotalVariation(0.3, support="full"),
    "total_variation_2": TotalVariation(2.0),
    "weighted_l1_0.4": WeightedL1(0.4, WEIGHTS),
    "weighted_l1_0.4_full": WeightedL1(0.4, WEIGHTS, support="full"),
    "weighted_l1_100": WeightedL1(100.0, WEIGHTS),
    "interval": Interval(LOWER, UPPER),
    "interval_full": Interval(LOWER, UPPER, support="full"),
    "l2_ball_0": Ellipsoid(0.0),
    "l2_ball_0.25": Ellipsoid(0.25),
    "l2_ball_0.25_full": Ellipsoid(0.25, support="full"),
    "l2_ball_2": Ellipsoid(2.0),
    "ellipsoid_0.3": Ellipsoid(0.3, COVARIANCE),
    "ellipsoid_0.3_full": Ellipsoid(0.3, COVARIANCE, support="full"),
    "wasserstein_0": Wasserstein(0.0, COST),
    "wasserstein_0.4": Wasserstein(0.4, COST),
    "wasserstein_0.4_full": Wasserstein(0.4, COST, support="full"),
    "scenarios": Scenarios(KERNELS),
}
