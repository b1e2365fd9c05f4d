"""Optimisers as values: Adam of every agent, plainer ones and a learned one, all numbers traced."""

# Bodies of protocols are their docstrings.
# pyright: reportReturnType=false

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax

from jaxrl.core import Struct, struct
from jaxrl.core.notation import register
from jaxrl.core.protocols import LEARNED
from jaxrl.core.schedules import Schedule, value_at
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Key, Progress, PyTree
from jaxrl.rules.contract import random_weights

_DECAYS = (0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)
_NUM_FEATURES = 7 + 2 * len(_DECAYS)
_TINY = 1e-13  # below the logarithms
_CLOSED = {"closed": "An optax transformation has no settings: give another, or an Optimiser."}


@runtime_checkable
class GradientStep(Protocol):
    """Any optimiser: how a gradient becomes new parameters. `as_optimiser` makes one of optax's."""

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


class Optimiser(Struct):
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


class GradientDescent(Struct):
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


class RMSProp(Struct):
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


class OptaxStep(Struct):
    """A transformation of optax in the place of an optimiser; `as_optimiser` makes it.

    Its numbers, learning rate and clipping included, are fixed inside it: they are no settings, so
    that no sweep and no outer loop reaches them, and a schedule of optax counts gradient steps.

    Attributes:
        transformation: of gradients to what is added to the parameters.

    Example:
        >>> descent = as_optimiser(optax.sgd(0.25))
        >>> params = jnp.array([1.0])
        >>> params, _ = descent.step(2.0 * params, descent.init(params), params, Progress.start())
        >>> float(params[0])
        0.5
    """

    transformation: optax.GradientTransformation = struct.field(pytree_node=False, metadata=_CLOSED)

    def init(self, params: PyTree) -> PyTree:
        """The transformation's state for `params`."""
        return self.transformation.init(params)

    def step(
        self, grads: PyTree, state: PyTree, params: PyTree, progress: Progress
    ) -> tuple[PyTree, PyTree]:
        """The parameters with the transformed gradient added, `state`.

        Raises:
            ValueError: it asks for more than gradients and parameters.
        """
        try:
            updates, state = self.transformation.update(grads, state, params)
        except TypeError as error:
            raise ValueError(
                f"optimiser: {error}. Agents give a transformation of optax gradients and "
                "parameters alone: use one that needs no values of the loss."
            ) from error
        return optax.apply_updates(params, updates), state


def as_optimiser(given: Any) -> GradientStep:
    """What is given as `optimiser`, as agents read it: any of ours, or a transformation of optax.

    Make a transformation once and use it again: two of the same numbers are not equal to JAX, which
    compiles for each.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(given, GradientStep) and not isinstance(given, type):
        return given
    if not isinstance(given, optax.GradientTransformation):
        raise ValueError(
            f"optimiser={given!r} makes no steps: give Optimiser(...), GradientDescent(...), "
            "RMSProp(...) or a transformation of optax, such as optax.adamw(1e-3)."
        )
    return OptaxStep(given)


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


class LearnedOptimiserState(Struct):
    """What the optimiser remembers of P parameters."""

    momenta: Array  # [P, 6], running means of the gradient
    memory: Array  # [P, H] of the recurrent network
    key: Key  # of the noise
    num_steps: Array  # [] int32


class LearnedOptimiser(Struct):
    """A GRU and a two-layer network give each parameter its step, and noise (the OPEN form).

        x = (p, sign and log of each momentum, sign and log of the gradient), each divided by its
            root mean square over the tensor, then (share of the life, depth of the layer,
            place in the pass over the rollout, activity of the unit)
        memory <- GRU(memory, x),   (a, b, c) = network(memory)
        update = step_size (a exp(scale_size b) + c noise),   params <- params - (update - mean)

    Momenta are running means of the gradient over 6 time scales. The mean is over all parameters.
    Noise, standard normal, goes to the actor's parameters alone: to those whose path holds none of
    the names `quiet`. Its key comes from the bits of the first parameters, so that lives differ
    and each can be repeated.

    In the published form the activity is a unit's share of its layer's activations (dormancy). An
    optimiser sees gradients only: here it is the unit's share of the layer's absolute gradient,
    also 1 on average, and also 0 for a dead unit of a relu layer.

    Attributes:
        weights: of the GRU `inputs[19, 3H]`, `memory[H, 3H]`, `bias[2, 3H]` (gates reset, update,
            fresh), of the network `hidden_i`, `hidden_bias_i`, `scale_i`, `shift_i` for i = 0, 1,
            `outputs[W, 3]` and `outputs_bias[3]`.
        step_size: of the update [per update].
        scale_size: how much b may change it [1].
        num_steps: gradient steps between two rollouts: num_epochs x num_minibatches.
        quiet: parts of a parameter's path that keep noise away.

    Numerics: finite for every finite gradient, zero included. Costs about 1100 multiplications for
    each parameter and step at the default sizes.

    Sources: Goldie, Lu, Jackson, Whiteson & Foerster 2024, Can learned optimization make
    reinforcement learning less difficult?; inputs, sizes and scales are those of their release.
    Signs and logarithms: Lan et al. 2023, Learning to optimize for reinforcement learning.

    Example:
        >>> optimiser = learned_optimiser(jax.random.key(0))
        >>> params = {"actor": jnp.ones(3)}
        >>> state = jax.jit(optimiser.init)(params)
        >>> moved, state = jax.jit(optimiser.step)(params, state, params, Progress.start())
        >>> bool(jnp.all(jnp.isfinite(moved["actor"]))), int(state.num_steps)
        (True, 1)
    """

    weights: dict[str, Array]
    step_size: float | Schedule = setting(
        1e-3, "size of the update", unit="per update", low=0.0, low_open=True
    )
    scale_size: float = setting(1e-3, "size of the exponent that scales it", low=0.0)
    num_steps: int = setting(1, "gradient steps between two rollouts", low=1)
    quiet: tuple[str, ...] = setting(("critic", "value"), "parts of paths without noise")

    facts = LEARNED

    def init(self, params: PyTree) -> LearnedOptimiserState:
        """Empty memories, and a key from the bits of `params`."""
        vector, _ = jax.flatten_util.ravel_pytree(params)
        bits = jax.lax.bitcast_convert_type(vector.astype(jnp.float32), jnp.uint32)
        places = jnp.arange(1, bits.size + 1, dtype=jnp.uint32)
        return LearnedOptimiserState(
            momenta=jnp.zeros((vector.size, len(_DECAYS)), vector.dtype),
            memory=jnp.zeros((vector.size, self.weights["memory"].shape[0]), vector.dtype),
            key=jax.random.key(jnp.sum(bits * places, dtype=jnp.uint32)),
            num_steps=jnp.zeros((), jnp.int32),
        )

    def step(
        self, grads: PyTree, state: LearnedOptimiserState, params: PyTree, progress: Progress
    ) -> tuple[PyTree, LearnedOptimiserState]:
        """One step -> `params`, `state`."""
        vector, unravel = jax.flatten_util.ravel_pytree(params)
        slopes, _ = jax.flatten_util.ravel_pytree(grads)
        decays = jnp.asarray(_DECAYS, vector.dtype)
        momenta = decays * state.momenta + (1.0 - decays) * slopes[:, None]
        place = (state.num_steps % self.num_steps) / self.num_steps
        sizes, depth, noisy = _layout(params, self.quiet)
        moving = jnp.concatenate(
            [vector[:, None], _sign_and_log(momenta), _sign_and_log(slopes[:, None])], axis=-1
        )
        rest = (progress.fraction, place, depth, _activity(grads))
        rest = [jnp.broadcast_to(one, vector.shape).astype(vector.dtype)[:, None] for one in rest]
        features = jnp.concatenate([_normalised(moving, sizes), *rest], axis=-1)
        memory = self._remember(state.memory, features)
        said = self._network(memory)
        noise_key = jax.random.fold_in(state.key, state.num_steps)
        noise = jax.random.normal(noise_key, vector.shape, vector.dtype)
        noise = jnp.where(jnp.asarray(noisy), said[:, 2] * noise, 0.0)
        update = said[:, 0] * jnp.exp(self.scale_size * said[:, 1]) + noise
        update = value_at(self.step_size, progress) * (update - jnp.mean(update))
        state = LearnedOptimiserState(momenta, memory, state.key, state.num_steps + 1)
        return unravel((vector - update).astype(vector.dtype)), state

    def _remember(self, memory: Array, features: Array) -> Array:
        pushed = features @ self.weights["inputs"] + self.weights["bias"][0]
        kept = memory @ self.weights["memory"] + self.weights["bias"][1]
        (reset, update, fresh), (r, u, f) = jnp.split(pushed, 3, -1), jnp.split(kept, 3, -1)
        share = jax.nn.sigmoid(update + u)
        proposed = jnp.tanh(fresh + jax.nn.sigmoid(reset + r) * f)
        return (1.0 - share) * proposed + share * memory

    def _network(self, units: Array) -> Array:
        weights = self.weights
        for index in range(2):
            units = units @ weights[f"hidden_{index}"] + weights[f"hidden_bias_{index}"]
            units = units - jnp.mean(units, -1, keepdims=True)
            units = units * jax.lax.rsqrt(jnp.mean(units**2, -1, keepdims=True) + 1e-6)
            units = jax.nn.relu(units * weights[f"scale_{index}"] + weights[f"shift_{index}"])
        return units @ weights["outputs"] + weights["outputs_bias"]


def learned_optimiser(
    key: Key, num_memory: int = 8, num_hidden: int = 16, num_steps: int = 1
) -> LearnedOptimiser:
    """A learned optimiser with random weights, which do not descend before an outer loop.

    Args:
        key: of the weights.
        num_memory: numbers that each parameter remembers.
        num_hidden: width of the two layers.
        num_steps: gradient steps between two rollouts: num_epochs x num_minibatches of the agent.

    Raises:
        ValueError: a size below 1.

    Example:
        >>> learned_optimiser(jax.random.key(0)).weights["inputs"].shape
        (19, 24)
    """
    if min(num_memory, num_hidden, num_steps) < 1:
        raise ValueError(
            f"num_memory={num_memory}, num_hidden={num_hidden} and num_steps={num_steps} must all "
            "be at least 1."
        )
    weights = random_weights(
        key,
        inputs=(_NUM_FEATURES, 3 * num_memory),
        memory=(num_memory, 3 * num_memory),
        hidden_0=(num_memory, num_hidden),
        hidden_1=(num_hidden, num_hidden),
        outputs=(num_hidden, 3),
    )
    weights |= {"bias": jnp.zeros((2, 3 * num_memory)), "outputs_bias": jnp.zeros(3)}
    for index in range(2):
        weights[f"hidden_bias_{index}"] = jnp.zeros(num_hidden)
        weights[f"scale_{index}"] = jnp.ones(num_hidden)
        weights[f"shift_{index}"] = jnp.zeros(num_hidden)
    return LearnedOptimiser(weights, num_steps=num_steps)


def _layout(params: PyTree, quiet: tuple[str, ...]) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Where the P parameters belong, known when the program is traced: sizes of the tensors, depths
    `[P]` of the layers within actor or critic in [0, 1], and whether noise comes to them `[P]`.

    Layers are the tensors with the same parent, counted in the tree's order.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    sizes = [int(np.size(leaf)) for _, leaf in leaves]
    parents = [jax.tree_util.keystr(path[:-1]) for path, _ in leaves]
    quiets = [any(name in jax.tree_util.keystr(path) for name in quiet) for path, _ in leaves]
    orders: dict[bool, list[str]] = {True: [], False: []}
    for parent, is_quiet in dict.fromkeys(zip(parents, quiets, strict=True)):
        orders[is_quiet].append(parent)
    depths = [
        orders[is_quiet].index(parent) / max(len(orders[is_quiet]) - 1, 1)
        for parent, is_quiet in zip(parents, quiets, strict=True)
    ]
    return sizes, np.repeat(depths, sizes), np.repeat(np.logical_not(quiets), sizes)


def _sign_and_log(numbers: Array) -> Array:
    """`[P, N]` -> `[P, 2N]`: no scale is too small or too large to be told."""
    return jnp.concatenate([jnp.sign(numbers), jnp.log(jnp.abs(numbers) + _TINY)], axis=-1)


def _normalised(features: Array, sizes: list[int]) -> Array:
    """Each column divided by its root mean square over each tensor."""
    parts = jnp.split(features, np.cumsum(sizes)[:-1])
    scales = [jax.lax.rsqrt(1e-5 + jnp.mean(one**2, axis=0, keepdims=True)) for one in parts]
    return jnp.concatenate([one * scale for one, scale in zip(parts, scales, strict=True)])


def _activity(grads: PyTree) -> Array:
    """`[P]`: mean absolute gradient of a parameter's unit over its layer's, 1 on average."""

    def of_tensor(slopes: Array) -> Array:
        sizes = jnp.abs(slopes)
        most = jax.lax.stop_gradient(jnp.max(sizes))  # no sum overflows; the ratio ignores it
        sizes = sizes / jnp.where(most > 0, most, 1.0)
        units = jnp.mean(sizes.reshape(-1, sizes.shape[-1] if sizes.ndim else 1), axis=0)
        mean = jnp.mean(units)
        share = jnp.where(mean > 0, units / jnp.where(mean > 0, mean, 1.0), 1.0)
        return jnp.broadcast_to(share.reshape(sizes.shape[-1:]), sizes.shape).ravel()

    return jnp.concatenate([of_tensor(leaf) for leaf in jax.tree.leaves(grads)])
