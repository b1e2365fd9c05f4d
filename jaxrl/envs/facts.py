"""What is known of an environment by name before it is built: what `jaxrl list envs` shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxrl.core.protocols import Environment
from jaxrl.core.spaces import Discrete, Space

Builder = Callable[..., Environment]
Size = int | tuple[int, ...]  # values of a discrete space, or the shape of a box


@dataclasses.dataclass(frozen=True)
class EnvFacts:
    """Facts of an environment with its parameters as by default.

    A test builds every environment and compares. That an observation hides something is said where
    a memory belongs to the task, and not of a clock or of the timers that MinAtar hides.
    """

    about: str  # one line
    observation: Size
    action: Size
    is_partial: bool = False  # observations hide what an agent should remember
    is_tabular: bool = False  # a `TabularEnv`, whose whole model is known
    suite: str = "jaxrl"

    @property
    def is_continuous(self) -> bool:
        """Whether actions are numbers and not one of several."""
        return isinstance(self.action, tuple)


def size_of(space: Space) -> Size:
    """How `EnvFacts` say a space."""
    return space.num_values if isinstance(space, Discrete) else space.shape


def first_line(documented: Any) -> str:
    """What a function or class is, by its docstring."""
    return (documented.__doc__ or "").strip().partition("\n")[0]


class Registered(NamedTuple):
    """What stands behind a name."""

    build: Builder
    facts: EnvFacts | None = None  # None where it must be built to know
