"""Box actions as learners see them: flat vectors between -1 and 1."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core import Struct, struct
from jaxrl.core.protocols import Environment
from jaxrl.core.spaces import Box, is_leaf, leaves
from jaxrl.core.types import Array, Key, PyTree, is_traced

UNBOUNDED = 1e30  # a bound of this magnitude counts as infinite, as in `Box.sample`


class ActionBox(Struct):
    """The affine map between unit actions `[D]` in [-1, 1] and an environment's `Box`.

    Policies and critics work on unit actions, so that noise, entropies and network inputs mean the
    same whatever the bounds are, and whatever shape the environment gives its actions. A coordinate
    that is not bounded on both sides is its own unit.

    Example:
        >>> box = ActionBox.of(Box(jnp.array(0.0), jnp.array(10.0), (1,)))
        >>> float(box.from_unit(jnp.array([0.5]))[0])
        7.5
    """

    low: Array  # [D]
    high: Array  # [D]
    shape: tuple[int, ...] = struct.field(pytree_node=False)  # of one action; D is its product
    dtype: jnp.dtype = struct.field(pytree_node=False)

    @classmethod
    def of(cls, space: Box) -> ActionBox:
        """The map for `space`, whose bounds may be traced."""
        low, high = (
            jnp.broadcast_to(jnp.asarray(bound, jnp.float32), space.shape).reshape(-1)
            for bound in (space.low, space.high)
        )
        return cls(low, high, tuple(space.shape), space.dtype)

    @property
    def size(self) -> int:
        """D, the numbers in one action."""
        return math.prod(self.shape)

    @property
    def _low_and_width(self) -> tuple[Array, Array, Array]:
        """Lower bounds and widths `[D]`, -1 and 2 where `bounded[D]` is false."""
        bounded = (jnp.abs(self.low) < UNBOUNDED) & (jnp.abs(self.high) < UNBOUNDED)
        low, high = jnp.where(bounded, self.low, -1.0), jnp.where(bounded, self.high, 1.0)
        return low, high - low, bounded

    def stretched(self, unit: Array) -> Array:
        """`unit[..., D]` in units of the actions, `[..., D]`, and beyond the bounds if it is."""
        low, width, bounded = self._low_and_width
        return jnp.where(bounded, low + 0.5 * width * (unit + 1.0), unit)

    def from_unit(self, unit: Array) -> Array:
        """`unit[..., D]` -> actions `[..., *shape]`; beyond [-1, 1] they stay at the bounds."""
        action = jnp.clip(self.stretched(unit), self.low, self.high)
        return action.reshape(*unit.shape[:-1], *self.shape).astype(self.dtype)

    def to_unit(self, action: Array) -> Array:
        """Actions `[..., *shape]` -> `[..., D]`; a coordinate without width becomes 0."""
        lead = action.shape[: action.ndim - len(self.shape)]
        low, width, bounded = self._low_and_width
        has_width = width > 0
        flat = action.reshape(*lead, self.size).astype(jnp.float32)
        unit = 2.0 * (flat - low) / jnp.where(has_width, width, 1.0) - 1.0
        return jnp.where(bounded, jnp.where(has_width, unit, 0.0), flat)

    def uniform(self, key: Key, num_actions: int) -> Array:
        """Uniform unit actions `[num_actions, D]`."""
        return jax.random.uniform(key, (num_actions, self.size), minval=-1.0, maxval=1.0)


def from_units(boxes: PyTree, units: PyTree) -> PyTree:
    """Actions in units of their boxes -> those of the environment.

    Args:
        boxes: an `ActionBox`, or `()` of a discrete action, which is left as it is; or, of a tree
            of actions, such a tree.
        units: as `PolicyLaw.action` gives them.
    """
    return jax.tree.map(lambda unit, box: box.from_unit(unit) if box else unit, units, boxes)


def check_action_box(env: Environment, bounded: bool = True) -> None:
    """Raise `ValueError` unless every box of actions is one of real numbers, and, if `bounded`,
    actions are of one box with finite bounds.

    Bounds that are traced, as under `vmap` over environments, are taken on trust.
    """
    with jax.ensure_compile_time_eval():
        space = env.action_space
    if bounded and not isinstance(space, Box):
        raise ValueError(
            "this agent chooses real-valued actions of a Box, and this environment's are "
            f"{'discrete: use dqn, pqn or ppo' if is_leaf(space) else f'{space}: use ppo or a2c'}."
        )
    for leaf in leaves(space):
        if isinstance(leaf, Box):
            _check_box(leaf, bounded)


def _check_box(space: Box, bounded: bool) -> None:
    if not jnp.issubdtype(space.dtype, jnp.floating) or math.prod(space.shape) == 0:
        raise ValueError(
            "actions must be real numbers; this environment's are "
            f"{space.dtype}{list(space.shape)}: give it a Box of float32, and round inside it."
        )
    if is_traced(space.low, space.high):
        return
    low, high = np.asarray(space.low), np.asarray(space.high)
    finite = np.all(np.abs(low) < UNBOUNDED) and np.all(np.abs(high) < UNBOUNDED)
    if bounded and not finite:
        raise ValueError(
            f"actions need finite bounds to explore within; this environment's are {low} to "
            f"{high}: clip its actions in a wrapper, or use ppo."
        )
    if np.any(low > high):
        raise ValueError(f"the lower action bounds {low} exceed the upper ones {high}.")
