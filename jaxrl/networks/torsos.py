"""Torsos: observation in, features out. They take any leading axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrl.core import Struct
from jaxrl.core.notation import register
from jaxrl.core.settings import setting
from jaxrl.core.spaces import Box, Space, is_leaf, leaves
from jaxrl.core.types import Array, PyTree
from jaxrl.networks.initialisers import INITIALISERS, Initialiser

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "gelu": jax.nn.gelu,
    "elu": jax.nn.elu,
}
HIDDEN_GAIN = 2**0.5  # keeps the variance through a rectifier (He et al. 2015)


class MLP(nn.Module):
    """Dense layers, each followed by the activation, after layer normalisation if asked."""

    hidden_sizes: tuple[int, ...]
    activation: str
    initialiser: str
    layer_norm: bool

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """`[..., D]` -> `[..., hidden_sizes[-1]]`."""
        kernel_init = INITIALISERS[self.initialiser](HIDDEN_GAIN)
        for width in self.hidden_sizes:
            features = nn.Dense(width, kernel_init=kernel_init)(features)
            if self.layer_norm:
                features = nn.LayerNorm()(features)
            features = ACTIVATIONS[self.activation](features)
        return features


class Convolution3x3(nn.Module):
    """A valid 3x3 convolution of stride 1 on `[..., H, W, C]`, parameters as `flax.linen.Conv`'s.

    On a CPU inside `scan` a convolution ran 2 to 8 times slower than the same arithmetic as nine
    shifted slices and one dense product, so that form is used there; accelerators get the
    convolution.
    """

    num_features: int
    kernel_init: Initialiser

    @nn.compact
    def __call__(self, image: Array) -> Array:
        """`[..., H, W, C]` -> `[..., H - 2, W - 2, num_features]`."""
        *lead, height, width, channels = image.shape
        kernel = self.param("kernel", self.kernel_init, (3, 3, channels, self.num_features))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.num_features,))
        if jax.default_backend() == "cpu":
            shifted = [
                image[..., row : row + height - 2, column : column + width - 2, :]
                for row in range(3)
                for column in range(3)
            ]
            patches = jnp.concatenate(shifted, axis=-1)
            return patches @ kernel.reshape(9 * channels, self.num_features) + bias
        flat = image.reshape(-1, height, width, channels)
        out = jax.lax.conv_general_dilated(
            flat, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return out.reshape(*lead, *out.shape[1:]) + bias


class MinAtarTorso(nn.Module):
    """One 3x3 convolution, then dense layers (Young & Tian 2019, MinAtar, section 4)."""

    settings: NetworkSettings

    @nn.compact
    def __call__(self, image: Array) -> Array:
        """`[..., H, W, C]` of any dtype -> `[..., hidden_sizes[-1]]`."""
        s = self.settings
        return s.dense_layers(s.hidden_sizes)(_convolved(s, image))


def _convolved(s: NetworkSettings, image: Array) -> Array:
    """`[..., H, W, C]` -> the outputs of one convolution, `[..., D]`, in the module that calls."""
    kernel_init = INITIALISERS[s.initialiser](HIDDEN_GAIN)
    image = Convolution3x3(s.num_features, kernel_init)(image.astype(jnp.float32))
    if s.layer_norm:
        image = nn.LayerNorm()(image)
    image = ACTIVATIONS[s.activation](image)
    return image.reshape(*image.shape[:-3], -1)


class NatureTorso(nn.Module):
    """Three convolutions (32 of 8x8 by 4, 64 of 4x4 by 2, 64 of 3x3) and a dense layer, rectified.

    Images `[H, W, C]` with sides of at least 36; bytes are divided by 255. Weights are drawn with a
    variance of 2 over the inputs of a unit (He et al. 2015).

    Source: Mnih et al. 2015, Human-level control through deep reinforcement learning, methods.

    Example:
        >>> image = jnp.zeros((1, 84, 84, 4), jnp.uint8)
        >>> jax.eval_shape(NatureTorso().init_with_output, jax.random.key(0), image)[0].shape
        (1, 512)
    """

    hidden_size: int = 512

    @nn.compact
    def __call__(self, image: Array) -> Array:
        """`[..., H, W, C]` -> `[..., hidden_size]`."""
        _check_sides(image, 36)
        init, features = INITIALISERS["lecun"](HIDDEN_GAIN), _unit_image(image)
        for width, side, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
            layer = nn.Conv(width, (side, side), (stride, stride), "VALID", kernel_init=init)
            features = nn.relu(layer(features))
        features = features.reshape(*features.shape[:-3], -1)
        return nn.relu(nn.Dense(self.hidden_size, kernel_init=init)(features))


class ResNetTorso(nn.Module):
    """For each of `widths`: a 3x3 convolution, a 3x3 maximum by 2 and two residual blocks.

    A block adds conv(relu(conv(relu(x)))) to x. A rectifier and a dense layer, rectified too, end
    it. Images `[H, W, C]` whose sides can be halved for each of the widths, so of at least 8 by
    default; bytes are divided by 255. Weights as those of `NatureTorso`.

    Source: Espeholt et al. 2018, IMPALA, figure 3 (the large architecture, without its LSTM).

    Example:
        >>> image = jnp.zeros((1, 84, 84, 4), jnp.uint8)
        >>> jax.eval_shape(ResNetTorso().init_with_output, jax.random.key(0), image)[0].shape
        (1, 256)
    """

    widths: tuple[int, ...] = (16, 32, 32)
    hidden_size: int = 256

    @nn.compact
    def __call__(self, image: Array) -> Array:
        """`[..., H, W, C]` -> `[..., hidden_size]`."""
        _check_sides(image, 2 ** len(self.widths))
        init, features = INITIALISERS["lecun"](HIDDEN_GAIN), _unit_image(image)
        for width in self.widths:
            features = nn.Conv(width, (3, 3), kernel_init=init)(features)
            features = nn.max_pool(features, (3, 3), (2, 2), "SAME")
            for _ in range(2):
                block = features
                for _ in range(2):
                    block = nn.Conv(width, (3, 3), kernel_init=init)(nn.relu(block))
                features = features + block
        features = nn.relu(features).reshape(*features.shape[:-3], -1)
        return nn.relu(nn.Dense(self.hidden_size, kernel_init=init)(features))


def _unit_image(image: Array) -> Array:
    return image.astype(jnp.float32) / (255.0 if image.dtype == jnp.uint8 else 1.0)


def _check_sides(image: Array, least: int) -> None:
    if image.ndim < 3 or min(image.shape[-3:-1]) < least:
        raise ValueError(f"it takes images with sides of at least {least}: use NetworkSettings().")


@runtime_checkable
class Network(Protocol):
    """What stands between observations and the outputs of an agent: the field `network`.

    `NetworkSettings` is one, and `networks/given.py` makes one of any module. Methods that apply
    layers are called within a compact method, whose parameters these become.
    """

    @property
    def initialiser(self) -> str:
        """Of the agent's own output layers, a key of `INITIALISERS`."""

    @property
    def recurrent_size(self) -> int:
        """Width of a GRU behind the torso; 0 for none."""

    def torso(self, space: Space) -> Torso:
        """For observations of `space`; `ValueError` where they do not fit."""

    def features(self, torso: Torso, observation: PyTree, action: Array | None) -> Array:
        """What `torso` makes of `[..., *observation]`, and of `action[..., A]`: `[..., D]`."""

    def before_last(self) -> Network:
        """Without the last hidden layer, which `last` gives: in between an agent may multiply."""

    def last(self, width: int) -> nn.Module:
        """The last hidden layer, on `width` features."""


# What a torso must know of a leaf: its axes, and of how many values each number of a discrete one
# is (of several numbers, each their own; 0 in a box).
LeafFacts = tuple[int, int | tuple[int, ...]]


def space_facts(space: Space) -> tuple[Any, ...]:
    """What `Torso` must know of the observations of `space`; `ValueError` where it is none."""
    found = [
        (len(one.shape), 0 if isinstance(one, Box) else one.num_values) for one in leaves(space)
    ]
    return found[0] if is_leaf(space) else (0, 0, tuple(found))


class Torso(nn.Module):
    """The torso that fits an observation space: one-hot, image or flat observations, or a tree."""

    settings: Network
    num_axes: int  # of one observation
    num_values: int | tuple[int, ...] = 0  # of a discrete space, else 0
    leaves: tuple[LeafFacts, ...] = ()  # of a tree of spaces, instead of the two above

    @property
    def facts(self) -> tuple[Any, ...]:
        """What it knows of the observations: `Torso(settings, *facts)` is a torso for the same."""
        return self.num_axes, self.num_values, self.leaves

    @nn.compact
    def __call__(self, observation: PyTree, action: Array | None = None) -> Array:
        """One observation or a batch `[..., *observation]` -> features `[..., D]`, of a critic
        with `action[..., A]`."""
        return self.settings.features(self, observation, action)

    def flat(self, observation: PyTree) -> Array:
        """`[..., *observation]` -> `[..., D]`: one-hot where discrete, leaves side by side."""
        found = self.encoded(observation, _flat)
        return jnp.concatenate(found, axis=-1) if self.leaves else found[0]

    def encoded(
        self, observation: PyTree, encode: Callable[[Array, LeafFacts], Array]
    ) -> list[Array]:
        """What `encode` makes of each leaf and its facts."""
        facts = self.leaves or ((self.num_axes, self.num_values),)
        return list(map(encode, jax.tree.leaves(observation), facts))


def _flat(leaf: Array, facts: LeafFacts) -> Array:
    """`[..., *shape]` -> `[..., D]`: one-hot where it is discrete."""
    num_axes, num_values = facts
    if isinstance(num_values, tuple):
        ones = [jax.nn.one_hot(leaf[..., i], count) for i, count in enumerate(num_values)]
        return jnp.concatenate(ones, axis=-1)
    if num_values:
        return jax.nn.one_hot(leaf, num_values)
    lead = leaf.shape[: leaf.ndim - num_axes]
    return leaf.reshape(*lead, -1).astype(jnp.float32)


class NetworkSettings(Struct):
    """What a torso is made of; the observation space decides between image and flat."""

    hidden_sizes: tuple[int, ...] = setting(
        (64, 64), "widths of the dense layers", unit="units", low=1
    )
    activation: str = setting("tanh", "non-linearity", choices=tuple(ACTIVATIONS))
    initialiser: str = setting("orthogonal", "weight initialisation", choices=tuple(INITIALISERS))
    layer_norm: bool = setting(False, "normalise every layer before its non-linearity")
    num_features: int = setting(16, "filters of the image convolution", unit="filters", low=1)
    flatten_images: bool = setting(False, "feed images to the dense layers, no convolution")
    recurrent_size: int = setting(0, "width of a GRU after the torso; 0 for none", low=0)

    def dense_layers(self, hidden_sizes: tuple[int, ...]) -> MLP:
        """Layers of these widths."""
        return MLP(hidden_sizes, self.activation, self.initialiser, self.layer_norm)

    def torso(self, space: Space) -> Torso:
        """The torso for observations of `space`.

        Three axes are an image `[H, W, C]`; a discrete observation is one-hot; everything else is
        flattened. In a tree of spaces so is each leaf, see `features`.

        Raises:
            ValueError: an image with sides under 3, or what is no space.
        """
        for shape in (leaf.shape for leaf in leaves(space)):
            if len(shape) == 3 and min(shape[:2]) < 3 and not self.flatten_images:
                raise ValueError(
                    f"An image of shape {shape} is smaller than the 3x3 convolution: "
                    "set flatten_images=true."
                )
        return Torso(self, *space_facts(space))

    def features(self, torso: Torso, observation: PyTree, action: Array | None) -> Array:
        """A convolution and dense layers on images, dense layers on everything else, which images
        beside actions are too: flat, side by side. Of a tree each image has a convolution of its
        own, and what they and the other leaves give stands side by side before the dense layers."""
        if action is not None:
            inputs = jnp.concatenate([torso.flat(observation), action], axis=-1)
            return self.dense_layers(self.hidden_sizes)(inputs)
        if torso.num_axes == 3 and not self.flatten_images:
            return MinAtarTorso(self)(observation)
        if not torso.leaves:
            return self.dense_layers(self.hidden_sizes)(torso.flat(observation))

        def encode(leaf: Array, facts: LeafFacts) -> Array:
            is_image = facts[0] == 3 and not self.flatten_images
            return _convolved(self, leaf) if is_image else _flat(leaf, facts)

        inputs = jnp.concatenate(torso.encoded(observation, encode), axis=-1)
        return self.dense_layers(self.hidden_sizes)(inputs)

    def before_last(self) -> NetworkSettings:
        """With one hidden layer less."""
        return self.replace(hidden_sizes=self.hidden_sizes[:-1])

    def last(self, width: int) -> MLP:
        """The last hidden layer, if there is one."""
        return self.dense_layers(self.hidden_sizes[-1:])


register(
    "networks", NetworkSettings, NatureTorso, ResNetTorso, field_types=[NetworkSettings, Network]
)
register("networks", mlp="network_settings", nature="nature_torso", resnet="res_net_torso")
