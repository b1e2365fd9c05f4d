"""The gradient through the end of training, without the way there: implicit differentiation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxrl.core import struct
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, PyTree


class LinearSolver(Protocol):
    """Solves A v = target for a linear map of pytrees, given by its products alone."""

    def solve(self, product: Callable[[PyTree], PyTree], target: PyTree) -> PyTree:
        """-> `v`, near to the solution; the caller measures how near."""
        ...


@struct.dataclass
class NeumannSeries:
    """The first K terms of a power series.

        v = step_size sum_{k=0}^{K-1} (I - step_size (A + damping I))^k target

    With A the Jacobian of a training gradient, this is what K further steps of plain gradient
    descent would pass back. Along an eigenvector of A + damping I with eigenvalue m the error is
    (1 - step_size m)^K of the whole: it shrinks where 0 < step_size m < 2 and grows elsewhere.

    Damping d adds the curvature of a penalty d |params|^2 / 2 that training did not have: it
    bounds the answer where A is singular, and moves it everywhere.

    Source: Lorraine, Vicol & Duvenaud 2020, Optimizing millions of hyperparameters by implicit
    differentiation, algorithm 3, and its theorem that steps of descent from an optimum pass back
    this series.

    Example:
        >>> series = NeumannSeries(num_terms=3, step_size=0.5)
        >>> float(series.solve(lambda v: v, jnp.ones(())))  # 1 - 0.5^3
        0.875
    """

    num_terms: int = setting(50, "terms of the series", low=1)
    step_size: float = setting(0.1, "of the series", low=0.0, low_open=True)
    damping: float = setting(0.0, "added to the diagonal", low=0.0)

    def solve(self, product: Callable[[PyTree], PyTree], target: PyTree) -> PyTree:
        """`num_terms - 1` products."""

        def add(_: int, found: PyTree) -> PyTree:
            return jax.tree.map(
                lambda v, b, av: v + self.step_size * (b - av - self.damping * v),
                found,
                target,
                product(found),
            )

        first = jax.tree.map(lambda b: self.step_size * b, target)
        return jax.lax.fori_loop(0, self.num_terms - 1, add, first)


@struct.dataclass
class MinimalResidual:
    """The v of least residual among all sums of (A + damping I)^k target, k < K (GMRES).

    It needs no step size and is never further from solving the system than a Neumann series of as
    many terms. It holds K vectors. It inverts what curvature there is: negative curvature of
    training that has not ended, and the noise of small eigenvalues in sampled Jacobians, against
    which `damping` helps.

    Source: Saad & Schultz 1986, GMRES.

    Example:
        >>> solver = MinimalResidual(num_terms=2)
        >>> found = solver.solve(lambda v: jnp.array([2.0, 4.0]) * v, jnp.ones(2))
        >>> [round(float(x), 3) for x in found]
        [0.5, 0.25]
    """

    num_terms: int = setting(20, "products of the linear map", low=1)
    damping: float = setting(0.0, "added to the diagonal", low=0.0)

    def solve(self, product: Callable[[PyTree], PyTree], target: PyTree) -> PyTree:
        """`num_terms` products and an orthogonal basis of what they span."""
        flat, unravel = ravel_pytree(target)
        size = jnp.linalg.norm(flat)
        first = flat / jnp.where(size > 0, size, 1.0)
        basis = jnp.zeros((self.num_terms + 1, flat.size), flat.dtype).at[0].set(first)
        small = 10.0 * jnp.finfo(flat.dtype).eps

        def grow(k: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            basis, shape = carry
            image = ravel_pytree(product(unravel(basis[k])))[0] + self.damping * basis[k]
            along, rest = jnp.zeros(basis.shape[0], flat.dtype), image
            for _ in range(2):  # once more for what rounding left
                part = basis @ rest
                along, rest = along + part, rest - part @ basis
            norm = jnp.linalg.norm(rest)
            grows = norm > small * jnp.linalg.norm(image)  # else the span is complete
            unit = jnp.where(grows, rest / jnp.where(grows, norm, 1.0), 0.0)
            along = along.at[k + 1].set(jnp.where(grows, norm, 0.0))
            return basis.at[k + 1].set(unit), shape.at[:, k].set(along)

        shape = jnp.zeros((self.num_terms + 1, self.num_terms), flat.dtype)
        basis, shape = jax.lax.fori_loop(0, self.num_terms, grow, (basis, shape))
        wanted = jnp.zeros(self.num_terms + 1, flat.dtype).at[0].set(size)
        weights = jnp.linalg.lstsq(shape, wanted)[0]
        return unravel(weights @ basis[:-1])


@struct.dataclass
class Hypergradient:
    """The gradient of an outer loss through the end of training, and how far to trust it."""

    gradient: PyTree  # d outer / d rule_params
    loss: Array  # [] outer loss
    residual: Array  # [] |A' v - d outer / d params| / |d outer / d params|; 0 is exact
    inner_norm: Array  # [] norm of the training gradient; 0 where training has ended


def hypergradient(
    inner_gradient: Callable[[PyTree, PyTree], PyTree],
    outer_loss: Callable[[PyTree, PyTree], Array],
    params: PyTree,
    rule_params: PyTree,
    *,
    solver: LinearSolver | None = None,
) -> Hypergradient:
    """How an outer loss at the end of training changes with the rule that trained.

    Training ends where its gradient is zero, g(params*, rule) = 0, which makes `params*` a function
    of the rule; by the implicit function theorem

        d outer / d rule = direct - (d g / d rule)' v,    (d g / d params)' v = d outer / d params

    with the outer loss's own derivatives on the right. Products with the Jacobian come from one
    reverse pass each: neither it nor a Hessian is formed, and `g` need not be the gradient of
    anything (an actor and its critic). What `residual` and `inner_norm` say holds for the system
    without the solver's damping: a short series, a singular Jacobian with an outer gradient out of
    its range, and training that has not ended are all seen there.

    Args:
        inner_gradient: `(params, rule_params)` -> the training gradient, as `params`.
        outer_loss: `(params, rule_params)` -> `[]`.
        params: where training ended, or near.
        rule_params: what it trained with.
        solver: of the linear system; `NeumannSeries()` by default.

    Sources: Gupta et al. 2023, Behavior alignment via reward function optimization (the series, for
    learned rewards and discounts). Chakraborty et al. 2024, PARL (that training data move with
    `params`: put that into `inner_gradient`, as `training_gradient` does).

    Example:
        >>> found = hypergradient(  # params* = rule, outer = params*^2 / 2
        ...     lambda params, rule: params - rule,
        ...     lambda params, rule: 0.5 * params**2,
        ...     jnp.array(3.0),
        ...     jnp.array(3.0),
        ...     solver=NeumannSeries(num_terms=40, step_size=0.5),
        ... )
        >>> f"{float(found.gradient):.4f}"
        '3.0000'
    """
    solver = NeumannSeries() if solver is None else solver
    loss, (target, direct) = jax.value_and_grad(outer_loss, argnums=(0, 1))(params, rule_params)
    field, pull = jax.vjp(inner_gradient, params, rule_params)

    def product(v: PyTree) -> PyTree:
        return pull(v)[0]

    found = solver.solve(product, target)
    back, through = pull(found)
    size = _norm(target)
    gap = _norm(jax.tree.map(jnp.subtract, back, target))
    return Hypergradient(
        gradient=jax.tree.map(jnp.subtract, direct, through),
        loss=loss,
        residual=jnp.where(size > 0, gap / jnp.where(size > 0, size, 1.0), gap),
        inner_norm=_norm(field),
    )


def _norm(tree: PyTree) -> Array:
    return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))
