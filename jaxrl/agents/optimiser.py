"""Optimisers as values: Adam of every agent, and plainer ones, with all their numbers traced."""

from __future__ import annotations

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from jaxrl.core import struct
from jaxrl.core.notation import register
from jaxrl.core.schedules import Schedule, value_at
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Progress, PyTree


class GradientStep(Protocol):
    """Any optimiser: how a gradient becomes new parameters."""

    def init(self, params: PyTree) -> PyTree:
        """-> `state` for `params`."""
        ...

    def step(
        self, grads: PyTree, state: PyTree, params: PyTree, progress: Progress
    ) -> tuple[PyTree, PyTree]:
        """One step downhill -> `params`, `state`."""
        ...


def _learning_rate(default: float, help: str = "step size") -> Any:
    return setting(default, help, unit="per update", low=0.0, low_open=True)


def _max_grad_norm() -> Any:
    return setting(
        0.5,
        "global norm above which gradients are scaled down; None for no clipping",
        low=0.0,
        low_open=True,
        infinite=True,
        optional=True,
    )


@struct.dataclass
class Optimiser:
    """Adam (Kingma & Ba 2015) after clipping by the global norm (Pascanu et al. 2013)."""

    learning_rate: float | Schedule = _learning_rate(3e-4, "step size of Adam")
    max_grad_norm: float | None = _max_grad_norm()
    epsilon: float = setting(1e-5, "added to Adam's denominator", low=0.0, low_open=True)
    eps_root: float = setting(
        1e-16, "added under Adam's root, so that it has a derivative at 0", low=0.0
    )

    def _transform(self) -> optax.GradientTransformation:
        return optax.scale_by_adam(eps=self.epsilon, eps_root=self.eps_root)

    def init(self, params: PyTree) -> PyTree:
        """The optimiser's state for `params`."""
        return self._transform().init(params)

    def step(
        self, grads: PyTree, state: PyTree, params: PyTree, progress: Progress
    ) -> tuple[PyTree, PyTree]:
        """One step downhill -> `params`, `state`."""
        grads = clipped_by_norm(grads, self.max_grad_norm)
        updates, state = self._transform().update(grads, state, params)
        return _descend(params, updates, self.learning_rate, progress), state


@struct.dataclass
class GradientDescent:
    """Gradient descent, with momentum if asked, after clipping by the global norm.

    velocity <- momentum velocity + gradient,   params <- params - learning_rate velocity

    Source: Polyak 1964 (the heavy ball).

    Example:
        >>> descent = GradientDescent(learning_rate=0.1, max_grad_norm=None)
        >>> params = jnp.array([1.0])
        >>> params, _ = descent.step(2.0 * params, descent.init(params), params, Progress.start())
        >>> f"{float(params[0]):.1f}"
        '0.8'
    """

    learning_rate: float | Schedule = _learning_rate(1e-2)
    momentum: float = setting(0.0, "share of the last step that is kept", low=0.0, high=1.0)
    max_grad_norm: float | None = _max_grad_norm()

    def init(self, params: PyTree) -> PyTree:
        """No velocity."""
        return jax.tree.map(jnp.zeros_like, params)

    def step(
        self, grads: PyTree, state: PyTree, params: PyTree, progress: Progress
    ) -> tuple[PyTree, PyTree]:
        """One step downhill -> `params`, `state`."""
        grads = clipped_by_norm(grads, self.max_grad_norm)
        state = jax.tree.map(lambda velocity, g: self.momentum * velocity + g, state, grads)
        return _descend(params, state, self.learning_rate, progress), state


@struct.dataclass
class RMSProp:
    """Steps of a gradient over its running root mean square, after clipping by the global norm.

    square <- decay square + (1 - decay) gradient^2
    params <- params - learning_rate gradient / (sqrt(square + eps_root) + epsilon)

    Source: Tieleman & Hinton 2012, lecture 6.5.

    Example:
        >>> descent = RMSProp(learning_rate=0.1, decay=0.75, max_grad_norm=None)
        >>> params = jnp.array([1.0])
        >>> params, _ = descent.step(3.0 * params, descent.init(params), params, Progress.start())
        >>> f"{float(params[0]):.1f}"  # 0.1 * 3 / sqrt(9 / 4)
        '0.8'
    """

    learning_rate: float | Schedule = _learning_rate(3e-4)
    decay: float = setting(0.99, "share of the mean square that is kept", low=0.0, high=1.0)
    max_grad_norm: float | None = _max_grad_norm()
    epsilon: float = setting(1e-5, "added to the denominator", low=0.0, low_open=True)
    eps_root: float = setting(
        1e-16, "added under the root, so that it has a derivative at 0", low=0.0
    )

    def init(self, params: PyTree) -> PyTree:
        """Mean squares of zero."""
        return jax.tree.map(jnp.zeros_like, params)

    def step(
        self, grads: PyTree, state: PyTree, params: PyTree, progress: Progress
    ) -> tuple[PyTree, PyTree]:
        """One step downhill -> `params`, `state`."""
        grads = clipped_by_norm(grads, self.max_grad_norm)
        decay = self.decay
        state = jax.tree.map(lambda old, g: decay * old + (1.0 - decay) * g**2, state, grads)
        updates = jax.tree.map(
            lambda g, square: g / (jnp.sqrt(square + self.eps_root) + self.epsilon), grads, state
        )
        return _descend(params, updates, self.learning_rate, progress), state


def clipped_by_norm(grads: PyTree, max_norm: float | Array | None) -> PyTree:
    """Gradients scaled down to a global norm of at most `max_norm`; as they are for None.

    Its own derivatives are finite where the gradients are all zero. A gradient that is not finite,
    or too large to square (1e19), is left out whole: zeros.
    """
    if max_norm is None:
        return grads
    squared = sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(grads))
    known = jnp.isfinite(squared)
    usable = known & (squared > 0)
    norm = jnp.sqrt(jnp.where(usable, squared, 1.0))
    scale = jnp.where(usable & (norm > max_norm), max_norm / norm, 1.0)
    return jax.tree.map(lambda leaf: jnp.where(known, leaf * scale.astype(leaf.dtype), 0), grads)


def _descend(
    params: PyTree, updates: PyTree, learning_rate: float | Array | Schedule, progress: Progress
) -> PyTree:
    rate = value_at(learning_rate, progress)
    return jax.tree.map(lambda p, u: p - rate * u, params, updates)


register(
    "optimisers",
    Optimiser,
    GradientDescent,
    RMSProp,
    field_types=[GradientStep, Optimiser],
    adam="optimiser",
    sgd="gradient_descent",
)
