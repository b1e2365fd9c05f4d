"""Worst case over a finite list of laws."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core.protocols import FunctionalFacts
from jaxrl.core.settings import checked_struct, setting
from jaxrl.core.types import Array
from jaxrl.functionals.ordering import finite_part
from jaxrl.functionals.worst_law import as_floats, envelope, expectation


@checked_struct
class Scenarios:
    """Worst case over a finite list of laws, the nominal one among them unless told otherwise.

    F(p, v) = min_m sum_i kernels[m, i] v_i,  m over the list and, with `with_nominal`, p itself

    With no more than the nominal law it is the mean. Nature chooses anew in every state and action
    ((s,a)-rectangular) and at every step (nested): its value is at most that of the worst of M
    whole models, kept for good.

    Attributes:
        kernels: `[M, N]` laws over the same atoms; each row non-negative, summing to one.
        with_nominal: whether the nominal law is one of the list. Without it `probs` is ignored.

    Numerics:
        M sums of N. Atoms that a law gives no mass may hold anything. First derivatives hold in
        `values`, `kernels` and `probs`; where several laws are worst, the first of them.

    Example:
        >>> import jax.numpy as jnp
        >>> functional = Scenarios(jnp.array([[0.9, 0.1], [0.2, 0.8]]))
        >>> f"{float(functional(jnp.array([0.5, 0.5]), jnp.array([0.0, 1.0]))):.1f}"
        '0.1'

    Sources:
        Nilim & El Ghaoui (2005), Robust control of Markov decision processes with uncertain
        transition matrices, section 3 (the scenario model).
    """

    kernels: Array  # [M, N]
    with_nominal: bool = setting(True, "whether the nominal law is one of the list")

    facts = FunctionalFacts(coherent=True, per_outcome="kernels")

    def __call__(self, probs: Array, values: Array) -> Array:
        """`probs[N]` (the nominal law), `values[N]` [return] -> `[]` [return]."""
        parameters = as_floats(probs, values, self.kernels)
        probs, values, kernels = jax.lax.stop_gradient(parameters)
        laws = jnp.concatenate([kernels, probs[None]]) if self.with_nominal else kernels
        means = jax.vmap(expectation, (0, None, None))(laws, values, jnp.zeros_like(values, bool))
        chosen = jnp.argmin(means)  # NaN wins
        is_chosen = jnp.arange(laws.shape[0]) == chosen
        by_laws = jnp.where(is_chosen[:, None], finite_part(values), 0.0)
        by_probs = by_laws[-1] if self.with_nominal else jnp.zeros_like(probs)
        slopes = (by_probs, laws[chosen], by_laws[: kernels.shape[0]])
        return envelope(means[chosen], parameters, slopes)
