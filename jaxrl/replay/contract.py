"""The contract of replays that serve single transitions, and what a draw returns."""

# Bodies of protocols are their docstrings.
# pyright: reportReturnType=false

from __future__ import annotations

from typing import Protocol

from jaxrl.core import Struct
from jaxrl.core.types import Array, Key, PyTree, Transition


class Batch(Struct):
    """A draw of n-step transitions.

    In `transition`, all leaves `[batch, ...]`: `observation`, `action`, `extras`, `env_state` and
    `mask` are those of the first step, `next_observation` and `next_mask` those after the last;
    `reward` is the discounted sum over the steps used; `discount` is the product of their
    discounts, so that `reward + discount * value(next_observation)` is the target whatever the
    number of steps; `terminated` and `truncated` (bool) say whether the window stopped at such a
    row.
    """

    transition: Transition
    weights: Array  # [batch] float32, importance weights; 0 where the entry must not count
    indices: Array  # [batch] int32, for `update_priorities`


class Replay(Protocol):
    """A memory of transitions; `state` is a pytree that lives in the agent's state."""

    @property
    def capacity(self) -> int:
        """Transitions kept."""

    @property
    def num_envs(self) -> int:
        """Environments written side by side."""

    def check(self, batch_size: int = 1) -> None:
        """Raise `ValueError` when the sizes do not fit together."""

    def nbytes(self, example: Transition) -> int:
        """Bytes that one state takes, for transitions like `example[num_envs, ...]`."""

    def init(self, example: Transition) -> PyTree:
        """An empty `state`; `example` is one step, arrays or shapes, `[num_envs, ...]`."""

    def add(self, state: PyTree, trajectory: Transition) -> PyTree:
        """Append `trajectory[T, num_envs, ...]`."""

    def size(self, state: PyTree) -> Array:
        """Transitions stored, `[]` int32."""

    def can_sample(self, state: PyTree, batch_size: int) -> Array:
        """Whether at least `batch_size` windows are stored, `[]` bool."""

    def sample(
        self, key: Key, state: PyTree, batch_size: int, beta: Array | float | None = None
    ) -> Batch:
        """Draw `batch_size` windows, with replacement. `beta` tempers the importance weights."""

    def update_priorities(
        self, state: PyTree, indices: Array, priorities: Array, when: Array | bool = True
    ) -> PyTree:
        """Tell how surprising the drawn entries were, `[batch]`, unless `when` is false; uniform
        replay ignores it."""
