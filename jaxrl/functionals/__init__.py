"""Scalars of a finite law `(probs[N], values[N]) -> []`: expectation, risk, ambiguity.

Every functional states static facts as class attributes:

* `monotone`: v <= w implies F(p, v) <= F(p, w);
* `translation_equivariant`: F(p, v + c) = F(p, v) + c; with monotone, the backup contracts;
* `coherent`: moreover concave and positively homogeneous, hence a worst case over laws;
* `time_consistent`: F(X) = F(F(X | Y)), so that undiscounted nested and static use agree;
* `needs_successors`: on a law of one atom it says nothing beyond the mean.
"""

from __future__ import annotations

import jax

from jaxrl.core.protocols import Functional
from jaxrl.core.types import Array
from jaxrl.functionals.expectation import Mean
from jaxrl.functionals.risk import CVaR, Entropic

__all__ = ["CVaR", "Entropic", "Mean", "worst_case"]


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
