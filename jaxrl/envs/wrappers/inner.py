"""What a wrapper hands through as it is: `action_space = inner_actions` in its class."""

from __future__ import annotations

from typing import Any

from jaxrl.core import Key, PyTree, Space, struct


@struct.dataclass
class WrapperState:
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


def inner_reset(self: Any, key: Key) -> tuple[PyTree, PyTree]:
    """A new episode of the environment inside."""
    return self.env.reset(key)
