"""Torsos: observation in, features out. They take any leading axes."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrl.core import struct
from jaxrl.core.notation import register
from jaxrl.core.settings import setting
from jaxrl.core.spaces import Box, Leaf, Space, is_leaf, leaves
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


# What an encoder must know of a leaf: its axes, and of how many values each number of a discrete
# one is (of several numbers, each their own).
LeafFacts = tuple[int, int | tuple[int, ...]]


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


class Torso(nn.Module):
    """The torso that fits an observation space: one-hot, image or flat observations.

    Of a tree of spaces, each leaf has an encoder of its own: images a convolution, of which there
    are as many as images, the others one-hot or as they are. What they give stands side by side
    before the dense layers.
    """

    settings: NetworkSettings
    num_axes: int  # of one observation
    num_values: int | tuple[int, ...] = 0  # of a discrete space, else 0; several of several numbers
    leaves: tuple[
        LeafFacts, ...
    ] = ()  # of a tree of spaces: what the two above are of a single one

    @property
    def facts(self) -> tuple[int, int | tuple[int, ...], tuple[LeafFacts, ...]]:
        """What it knows of the observation: `Torso(settings, *facts)` is the same torso."""
        return self.num_axes, self.num_values, self.leaves

    @nn.compact
    def __call__(self, observation: PyTree) -> Array:
        """One observation or a batch `[..., *observation]` -> features `[..., D]`."""
        s = self.settings
        if self.leaves:
            return s.dense_layers(s.hidden_sizes)(self._side_by_side(observation, s.flatten_images))
        if self.num_axes == 3 and not s.flatten_images:
            return MinAtarTorso(s)(observation)
        return s.dense_layers(s.hidden_sizes)(self.flat(observation))

    def flat(self, observation: PyTree) -> Array:
        """`[..., *observation]` -> `[..., D]`: one-hot where it is discrete, images as numbers."""
        if self.leaves:
            return self._side_by_side(observation, flatten_images=True)
        return _flat(observation, (self.num_axes, self.num_values))

    def _side_by_side(self, observation: PyTree, flatten_images: bool) -> Array:
        """What the encoders of the leaves give, `[..., D]`."""
        encoded = [
            _flat(leaf, facts)
            if flatten_images or facts[0] != 3
            else _convolved(self.settings, leaf)
            for leaf, facts in zip(jax.tree.leaves(observation), self.leaves, strict=True)
        ]
        return jnp.concatenate(encoded, axis=-1)


@struct.dataclass
class NetworkSettings:
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
        flattened. Of a tree of spaces so is each leaf, see `Torso`.

        Raises:
            ValueError: an image with sides under 3, or a space that no torso takes.
        """
        found = tuple(self._facts(leaf) for leaf in leaves(space))
        return Torso(self, *found[0]) if is_leaf(space) else Torso(self, 0, leaves=found)

    def _facts(self, space: Leaf) -> LeafFacts:
        if not isinstance(space, Box):
            return len(space.shape), space.num_values
        if len(space.shape) == 3 and min(space.shape[:2]) < 3 and not self.flatten_images:
            raise ValueError(
                f"An image of shape {space.shape} is smaller than the 3x3 convolution: "
                "set flatten_images=true."
            )
        return len(space.shape), 0


register("networks", NetworkSettings, field_types=[NetworkSettings], mlp="network_settings")
