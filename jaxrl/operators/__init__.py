"""Bellman operators and their parts."""

from __future__ import annotations

from jaxrl.functionals import CVaR, Entropic, Mean
from jaxrl.operators.bellman import BellmanOperator, Lookahead
from jaxrl.operators.heads import Categorical, Quantile, Scalar
from jaxrl.operators.improvement import EpsilonGreedy, Greedy, Softmax

__all__ = [
    "BellmanOperator",
    "Categorical",
    "EpsilonGreedy",
    "Greedy",
    "Lookahead",
    "Quantile",
    "Scalar",
    "Softmax",
    "names",
]


def names() -> dict[str, dict[str, type]]:
    """What an operator may be built from: for each slot, name -> class.

    Example:
        >>> sorted(names())
        ['functionals', 'heads', 'improvements']
        >>> names()["heads"]["quantile"](num_atoms=8).shape
        (8,)
    """
    return {
        "functionals": {"mean": Mean, "cvar": CVaR, "entropic": Entropic},
        "improvements": {"greedy": Greedy, "epsilon_greedy": EpsilonGreedy, "softmax": Softmax},
        "heads": {"scalar": Scalar, "categorical": Categorical, "quantile": Quantile},
    }
