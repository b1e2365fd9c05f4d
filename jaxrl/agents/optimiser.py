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

    def step(
        self, grads: PyTree, state: PyTree, params: PyTree, progress: Progress
    ) -> tuple[PyTree, PyTree]:
        """One step downhill -> `params`, `state`."""


def _learning_rate(default: float, help: str = "step size") -> Any:
    return setting(default, help, unit="per update", low=0.0, low_open=True)


def _max_grad_norm() -> Any:
    told = "global norm above which gradients are scaled down; None for no clipping"
    return setting(0.5, told, low=0.0, low_open=True, infinite=True, optional=True)


def _eps_root(where: str) -> Any:
    return setting(1e-16, f"added under {where} root, so that it has a derivative at 0", low=0.0)


def _zeros(optimiser: Any, params: PyTree) -> PyTree:
    """A number for each parameter, 0 at first."""
    return jax.tree.map(jnp.zeros_like, params)


def _step(
    optimiser: Any, grads: PyTree, state: PyTree, params: PyTree, progress: Progress
) -> tuple[PyTree, PyTree]:
    """One step down the direction of the clipped gradient -> `params`, `state`."""
    updates, state = optimiser.direction(clipped_by_norm(grads, optimiser.max_grad_norm), state)
    rate = value_at(optimiser.learning_rate, progress)
    return jax.tree.map(lambda p, u: p - rate * u, params, updates), state


@struct.dataclass
class Optimiser:
    """Adam (Kingma & Ba 2015) after clipping by the global norm (Pascanu et al. 2013)."""

    learning_rate: float | Schedule = _learning_rate(3e-4, "step size of Adam")
    max_grad_norm: float | None = _max_grad_norm()
    epsilon: float = setting(1e-5, "added to Adam's denominator", low=0.0, low_open=True)
    eps_root: float = _eps_root("Adam's")

    def init(self, params: PyTree) -> PyTree:
        """The optimiser's state for `params`."""
        return optax.scale_by_adam().init(params)

    def direction(self, grads: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        """The mean gradient over its root mean square, both of moments without bias."""
        return optax.scale_by_adam(eps=self.epsilon, eps_root=self.eps_root).update(grads, state)

    step = _step


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

    def direction(self, grads: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        """The velocity, which is the state."""
        state = jax.tree.map(lambda velocity, g: self.momentum * velocity + g, state, grads)
        return state, state

    init, step = _zeros, _step


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
    eps_root: float = _eps_root("the")

    def direction(self, grads: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        """The scaled gradient, and the mean squares. `optax.scale_by_rms` adds one of the two
        small numbers only, so that it has no derivative at 0 or another size there."""
        decay = self.decay
        state = jax.tree.map(lambda old, g: decay * old + (1.0 - decay) * g**2, state, grads)
        scale = jax.tree.map(lambda s: jnp.sqrt(s + self.eps_root) + self.epsilon, state)
        return jax.tree.map(jnp.divide, grads, scale), state

    init, step = _zeros, _step


def clipped_by_norm(grads: PyTree, max_norm: float | Array | None) -> PyTree:
    """Gradients scaled down to a global norm of at most `max_norm`; as they are for None.

    Its own derivatives are finite where the gradients are all zero, which those of
    `optax.clip_by_global_norm` are not. A gradient that is not finite, or too large to square
    (1e19), is left out whole: zeros.
    """
    if max_norm is None:
        return grads
    squared = sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(grads))
    known = jnp.isfinite(squared)
    usable = known & (squared > 0)
    norm = jnp.sqrt(jnp.where(usable, squared, 1.0))
    scale = jnp.where(usable & (norm > max_norm), max_norm / norm, 1.0)
    return jax.tree.map(lambda leaf: jnp.where(known, leaf * scale.astype(leaf.dtype), 0), grads)


register("optimisers", Optimiser, GradientDescent, RMSProp, field_types=[GradientStep, Optimiser])
register("optimisers", adam="optimiser", sgd="gradient_descent")
