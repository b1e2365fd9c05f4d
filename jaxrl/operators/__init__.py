"""Bellman operators and their parts."""

from __future__ import annotations

import re
from collections.abc import Iterable

import jaxrl.functionals as functionals
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

_IMPROVEMENTS = (Greedy, EpsilonGreedy, Softmax, KLSoftmax, MirrorDescent, Mellowmax, Tsallis)
_IMPROVEMENTS += (ExpectileMax, FixedPolicy, Boltzmann)
_HEADS = (Scalar, Categorical, Quantile, ImplicitQuantile, Expectiles, Gaussian, TwoHot, HLGauss)
_HEADS += (Particles,)
_COMPOSITIONS = (DiscountedSum, MinForm, MaxForm, Reachability, Avoidance, Mapped)

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
    return {
        "functionals": _named(
            kind
            for kind in map(functionals.__dict__.get, functionals.__all__)
            if hasattr(kind, "facts") and kind is not functionals.PerPair
        ),
        "improvements": _named(_IMPROVEMENTS),
        "heads": _named(_HEADS),
        "compositions": _named(_COMPOSITIONS),
    }


def _named(kinds: Iterable[type]) -> dict[str, type]:
    return {_snake_case(kind.__name__): kind for kind in kinds}


def _snake_case(name: str) -> str:
    """`EpsilonGreedy` -> `epsilon_greedy`, `KLBall` -> `kl_ball`, `CVaR` -> `cvar`."""
    if name in ("CVaR", "EVaR", "VaR"):
        return name.lower()
    words = re.findall(r"[A-Z][A-Z0-9]*(?![a-z])|[A-Z][a-z0-9]*", name)
    return "_".join(word.lower() for word in words)
