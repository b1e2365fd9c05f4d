"""Prioritised replay: windows are drawn in proportion to a power of how surprising they were."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core import Struct, struct
from jaxrl.core.settings import check_settings, setting
from jaxrl.core.types import Array, Key, Transition
from jaxrl.replay.contract import Batch
from jaxrl.replay.ring import UniformReplay, is_valid_start, read_windows
from jaxrl.replay.storage import ReplayState, num_bytes, row_of_age
from jaxrl.replay.sum_tree import SumTree, sum_tree

SMALLEST = 1e-30  # weight floor: a window that may be drawn never looks like one that may not


class PrioritisedState(Struct):
    """Rows, and a weight for each of them that may start a window."""

    rows: ReplayState
    tree: SumTree  # (priority / scale)^alpha of each row; 0 where no window may start
    scale: Array  # [] float32, the largest priority of the first update; 0 before
    largest: Array  # [2] float32, the largest priority told in this pass of the ring, and before it

    @property
    def max_priority(self) -> Array:
        """What a new window gets, `[]` float32: the largest priority told in the last one to two
        passes of the ring; 1 before any."""
        return jnp.where(self.scale > 0, jnp.max(self.largest), 1.0)


class PrioritisedReplay(Struct):
    """A ring whose windows are drawn with probability P(i) = p_i^alpha / sum_j p_j^alpha.

    Each draw carries the importance weight (N P(i))^-beta divided by the largest of the batch.
    `alpha = 0` is the uniform replay. The draw is stratified: the i-th of `batch_size` comes from
    the i-th share of the total, so every window keeps its P on average, with less noise.

    A window enters with the largest priority of late, at the moment it is complete; a row that
    cannot start a window (see `UniformReplay`) has weight exactly 0 in the tree and is never
    drawn, also across the seam of the ring. Priorities are taken in units of the largest of the
    first update, and windows from before it weigh as much as that one: rewards in other units give
    the same draws.

    Sources:
        Schaul et al. (2016), equation 1 and section 3.4, proportional variant, algorithm 1.
    """

    capacity: int = setting(100_000, "transitions kept", unit="transitions", low=1)
    # Environments written side by side; agents set it, so that it is no setting of theirs.
    num_envs: int = struct.field(pytree_node=False, default=1)
    num_step: int = setting(1, "steps of each return before the bootstrap", unit="steps", low=1)
    store_next: bool = setting(True, "keep next observations too: twice the memory")
    alpha: float = setting(0.6, "power of the priority, 0 is uniform", low=0.0)
    # Importance correction in [0, 1], 1 is full; agents schedule their own and pass it to `sample`.
    beta: float = struct.field(default=0.4, metadata={"setting": False})
    epsilon: float = setting(1e-6, "added to every priority", unit="return", low=0.0)

    @property
    def uniform(self) -> UniformReplay:
        """The ring below, without priorities."""
        return UniformReplay(self.capacity, self.num_envs, self.num_step, self.store_next)

    def check(self, batch_size: int = 1) -> None:
        """Raise `ValueError` when the sizes do not fit together or a setting is out of range."""
        check_settings(self)
        self.uniform.check(batch_size)

    def nbytes(self, example: Transition) -> int:
        """Bytes that one state takes, for transitions like `example[num_envs, ...]`."""
        return num_bytes(jax.eval_shape(self.init, example))

    def init(self, example: Transition) -> PrioritisedState:
        """An empty state; `example` is one step, arrays or shapes, `[num_envs, ...]`.

        Raises:
            ValueError: sizes that do not fit together, or an example of another batch size.
        """
        rows = self.uniform.init(example)
        scale, largest = jnp.zeros((), jnp.float32), jnp.zeros(2, jnp.float32)
        return PrioritisedState(rows, sum_tree(self.capacity), scale, largest)

    def add(self, state: PrioritisedState, trajectory: Transition) -> PrioritisedState:
        """Append `trajectory[T, num_envs, ...]`; O(T log capacity).

        Raises:
            ValueError: the trajectory is not built like the example.
        """
        uniform = self.uniform
        rows = uniform.add(state.rows, trajectory)
        # T new rows complete the windows of T rows, `reach` rows behind the newest; the rows in
        # between start no complete window yet and lose what the overwritten ones weighed.
        num_touched = min(trajectory.reward.shape[0] + uniform.reach, uniform.num_rows)
        age = jnp.arange(num_touched, dtype=jnp.int32)[:, None]
        row = row_of_age(rows, age)
        env = jnp.arange(self.num_envs, dtype=jnp.int32)
        indices = row * self.num_envs + env
        may_start = self._may_start(rows, indices)
        weight = self._weigh(state.max_priority, state.scale)
        weights = jnp.where(may_start, weight, 0.0)
        tree = state.tree.update(indices.reshape(-1), weights.reshape(-1))
        begins = (rows.position <= state.rows.position) & (state.largest[0] > 0)
        passed = jnp.stack([jnp.zeros_like(state.scale), state.largest[0]])
        largest = jnp.where(begins, passed, state.largest)
        return state.replace(rows=rows, tree=tree, largest=largest)

    def size(self, state: PrioritisedState) -> Array:
        """Transitions stored, `[]` int32."""
        return self.uniform.size(state.rows)

    def can_sample(self, state: PrioritisedState, batch_size: int) -> Array:
        """Whether at least `batch_size` windows are stored and one may be drawn, `[]` bool."""
        return self.uniform.can_sample(state.rows, batch_size) & (state.tree.total > 0)

    def probs_at(self, state: PrioritisedState, indices: Array) -> Array:
        """Probability `[...]` of drawing `indices[...]`."""
        total = state.tree.total
        weights = state.tree.weights_at(indices)
        return jnp.where(total > 0, weights / jnp.where(total > 0, total, 1.0), 0.0)

    def sample(
        self, key: Key, state: PrioritisedState, batch_size: int, beta: Array | float | None = None
    ) -> Batch:
        """Draw `batch_size` windows with their importance weights.

        Args:
            key: spent.
            state: of this replay. From an empty one every weight is 0.
            batch_size: windows drawn, static.
            beta: strength of the correction in [0, 1], usually raised to 1 over the run; the
                field `beta` when not given.
        """
        beta = self.beta if beta is None else beta
        noise = jax.random.uniform(key, (batch_size,))
        strata = (jnp.arange(batch_size) + noise) / batch_size
        indices, drawn = state.tree.find(strata)
        row, env = indices // self.num_envs, indices % self.num_envs
        transition, valid = read_windows(state.rows, row, env, self.num_step)
        valid = valid & (drawn > 0)
        # (N P)^-beta over its maximum is (P / P_min)^-beta: N and the total cancel.
        logs = jnp.log(jnp.where(valid, drawn, 1.0))
        least = jnp.min(jnp.where(valid, logs, jnp.inf))
        weights = jnp.where(valid, jnp.exp(beta * (jnp.where(valid, least, 0.0) - logs)), 0.0)
        return Batch(transition, weights, indices)

    def update_priorities(
        self, state: PrioritisedState, indices: Array, priorities: Array, when: Array | bool = True
    ) -> PrioritisedState:
        """Set `priorities[batch]` of the windows at `indices[batch]`; O(batch log capacity).

        The largest wins where an index stands twice. Rows overwritten since the draw that cannot
        start a window now stay at weight 0; call this before the next `add` all the same, or a new
        window may get an old one's priority.

        Args:
            state: of this replay.
            indices: from a `Batch`.
            priorities: magnitudes, such as |td_error| [return]; the sign is ignored, and so is one
                that is not finite: its window keeps what it had.
            when: `[]` bool; false leaves the state as it is.
        """
        priorities = jnp.abs(priorities) + self.epsilon
        told = jnp.isfinite(priorities) & when
        # Whether a window may start is asked of the rows, and an update that is not wanted goes to
        # a spare leaf: a tree that is read here and then written would be copied whole.
        counts = self._may_start(state.rows, indices) & told
        priorities = jnp.where(counts, priorities, 0.0)
        largest = jnp.max(priorities)
        scale = jnp.where(state.scale > 0, state.scale, largest)
        weights = jnp.where(counts, self._weigh(priorities, scale), 0.0)
        return state.replace(
            tree=state.tree.update(jnp.where(told, indices, state.tree.num_leaves), weights),
            scale=scale,
            largest=state.largest.at[0].max(largest),
        )

    def _may_start(self, rows: ReplayState, indices: Array) -> Array:
        row, env = indices // self.num_envs, indices % self.num_envs
        age = (rows.position - 1 - row) % rows.layout.num_rows
        complete = (age >= self.uniform.reach) & (age < rows.num_filled)
        flags = rows.memory.flags.at[row, env].get(mode="promise_in_bounds")
        return complete & is_valid_start(flags, self.store_next)

    def _weigh(self, priorities: Array, scale: Array) -> Array:
        shares = priorities / jnp.where(scale > 0, scale, 1.0)
        return jnp.maximum(shares**self.alpha, SMALLEST)
