"""Channels of the reward that share a mapping: what a short text says of them."""

from __future__ import annotations

from jaxrl.agents.channels import BySign, Split, ValueChannels, Whole
from jaxrl.core import struct
from jaxrl.core.notation import register
from jaxrl.core.settings import setting
from jaxrl.operators import HTransform, Identity, LogMapping, SignedHyperbolic
from jaxrl.operators.composition import ValueMapping

_SPLITS: dict[str, type[Split]] = {"by_sign": BySign, "whole": Whole}


@struct.dataclass
class SharedMapping:
    """`ValueChannels` whose mappings are all the same; several ones need Python."""

    mapping: ValueMapping
    split: str = setting("by_sign", "the reward's channels", choices=tuple(_SPLITS))
    value_rate: float = setting(
        0.1, "step towards the target in ordinary space", low=0.0, high=1.0, low_open=True
    )

    def channels(self) -> ValueChannels:
        """The part of an agent that it stands for."""
        split = _SPLITS[self.split]()
        return ValueChannels(split, (self.mapping,) * len(split.weights), self.value_rate)


def log() -> SharedMapping:
    """Logarithms below a threshold, straight lines above it (van Seijen et al. 2019)."""
    return SharedMapping(LogMapping())


def h_transform() -> SharedMapping:
    """Square roots of great values (Pohlen et al. 2018)."""
    return SharedMapping(HTransform())


def signed_hyperbolic() -> SharedMapping:
    """Logarithms of great values, straight lines near zero."""
    return SharedMapping(SignedHyperbolic())


def identity() -> SharedMapping:
    """Values as they are."""
    return SharedMapping(Identity())


register("channels", log, h_transform, signed_hyperbolic, identity)
