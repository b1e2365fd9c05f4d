"""Bellman operators and their parts."""

from __future__ import annotations

from jaxrl.core.notation import KINDS, register
from jaxrl.functionals import CVaR, Entropic, Mean
from jaxrl.operators.bellman import BellmanOperator, Lookahead
from jaxrl.operators.composition import (
    Avoidance,
    DiscountedSum,
    Mapped,
    MaxForm,
    MinForm,
    Reachability,
)
from jaxrl.operators.heads import (
    Categorical,
    Expectiles,
    Gaussian,
    HLGauss,
    ImplicitQuantile,
    Particles,
    Quantile,
    Scalar,
    TwoHot,
)
from jaxrl.operators.improvement import (
    Boltzmann,
    EpsilonGreedy,
    ExpectileMax,
    FixedPolicy,
    Greedy,
)
from jaxrl.operators.per_state import PerState
from jaxrl.operators.regularised import KLSoftmax, Mellowmax, MirrorDescent, Softmax
from jaxrl.operators.reward_channels import RewardChannels
from jaxrl.operators.tsallis import Tsallis
from jaxrl.operators.value_mapping import (
    HTransform,
    Identity,
    LogMapping,
    SignedHyperbolic,
)

register("improvements", Greedy, EpsilonGreedy, Softmax, KLSoftmax, MirrorDescent, Mellowmax)
register("improvements", Tsallis, ExpectileMax, FixedPolicy, Boltzmann)
register("heads", Scalar, Categorical, Quantile, ImplicitQuantile, Expectiles, Gaussian, TwoHot)
register("heads", HLGauss, Particles, c51="categorical", iqn="implicit_quantile")
register("compositions", DiscountedSum, MinForm, MaxForm, Reachability, Avoidance, Mapped)

__all__ = [
    "Avoidance",
    "BellmanOperator",
    "Boltzmann",
    "CVaR",
    "Categorical",
    "DiscountedSum",
    "Entropic",
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
    "Lookahead",
    "Mapped",
    "MaxForm",
    "Mean",
    "Mellowmax",
    "MinForm",
    "MirrorDescent",
    "Particles",
    "PerState",
    "Quantile",
    "Reachability",
    "RewardChannels",
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
