"""What a wrapper hands through as it is: `action_space = inner_actions` in its class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxrl.core import Array, Key, PyTree, Space, Struct


class WrapperState(Struct):
    """The inner state, and what the wrapper keeps beside it; its class says what."""

    inner: PyTree
    kept: PyTree


@property
def inner_observations(self: Any) -> Space:
    """That of the environment inside."""
    return self.env.observation_space


@property
def inner_actions(self: Any) -> Space:
    """That of the environment inside."""
    return self.env.action_space


@property
def inner_legal(self: Any) -> Callable[[WrapperState], Array]:
    """That of the environment inside, where it has one, for wrappers with a `WrapperState`."""
    legal = self.env.legal
    return lambda state: legal(state.inner)


@property
def same_legal(self: Any) -> Callable[[PyTree], Array]:
    """That of the environment inside, where it has one, for wrappers without a state."""
    return self.env.legal


def inner_reset(self: Any, key: Key) -> tuple[PyTree, PyTree]:
    """A new episode of the environment inside."""
    return self.env.reset(key)
