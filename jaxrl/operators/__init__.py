"""Bellman operators and their parts."""

from __future__ import annotations

from jaxrl.core.notation import KINDS, register
from jaxrl.operators.bellman import (
    BellmanOperator,
    Lookahead as Lookahead,  # whose door is `jaxrl` itself
)
from jaxrl.operators.composition import (
    Avoidance,
    DiscountedSum,
    HTransform,
    Identity,
    LogMapping,
    Mapped,
    MaxForm,
    MinForm,
    Reachability,
    SignedHyperbolic,
)
from jaxrl.operators.grid_heads import Categorical, HLGauss, TwoHot
from jaxrl.operators.improvement import (
    Boltzmann,
    EpsilonGreedy,
    ExpectileMax,
    FixedPolicy,
    Greedy,
    KLSoftmax,
    Mellowmax,
    MirrorDescent,
    PerState,
    Softmax,
)
from jaxrl.operators.quantile_heads import EnergyAtoms, ImplicitQuantile, Quantile
from jaxrl.operators.statistic_heads import Expectiles, Gaussian, Scalar
from jaxrl.operators.tsallis import Tsallis

register("improvements", Greedy, EpsilonGreedy, Softmax, KLSoftmax, MirrorDescent, Mellowmax)
register("improvements", Tsallis, ExpectileMax, FixedPolicy, Boltzmann)
register("heads", Scalar, Categorical, Quantile, ImplicitQuantile, Expectiles, Gaussian, TwoHot)
register("heads", HLGauss, EnergyAtoms)
register("heads", c51="categorical", iqn="implicit_quantile", particles="energy_atoms")
register("compositions", DiscountedSum, MinForm, MaxForm, Reachability, Avoidance, Mapped)

__all__ = [
    "Avoidance",
    "BellmanOperator",
    "Boltzmann",
    "Categorical",
    "DiscountedSum",
    "EnergyAtoms",
    "EpsilonGreedy",
    "ExpectileMax",
    "Expectiles",
    "FixedPolicy",
    "Gaussian",
    "Greedy",
    "HLGauss",
    "HTransform",
    "Identity",
    "ImplicitQuantile",
    "KLSoftmax",
    "LogMapping",
    "Mapped",
    "MaxForm",
    "Mellowmax",
    "MinForm",
    "MirrorDescent",
    "PerState",
    "Quantile",
    "Reachability",
    "Scalar",
    "SignedHyperbolic",
    "Softmax",
    "Tsallis",
    "TwoHot",
    "names",
]


def names() -> dict[str, dict[str, type]]:
    """What an operator may be built from: for each slot, name -> class.

    Example:
        >>> sorted(names())
        ['compositions', 'functionals', 'heads', 'improvements']
        >>> names()["heads"]["quantile"](num_atoms=8).shape
        (8,)
    """
    slots = ("functionals", "improvements", "heads", "compositions")
    return {slot: dict(KINDS[slot].builders) for slot in slots}  # pyright: ignore
