"""Uniform replay: every complete window is equally likely."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.settings import check_settings, setting
from jaxrl.core.types import Array, Key, Transition
from jaxrl.replay.contract import Batch
from jaxrl.replay.storage import (
    ReplayState,
    check_sizes,
    create,
    num_bytes,
    row_of_age,
    write,
)
from jaxrl.replay.windows import reach, read_windows


@struct.dataclass
class UniformReplay:
    """A ring of the newest `capacity` transitions, drawn uniformly with replacement.

    The true successor of every row is stored beside it, so that every window counts, those that
    meet a truncation too. `store_next=False` halves the memory: the successor of a row is then the
    next row of the same environment, which a truncated row does not have. A window that meets one
    later bootstraps from that row's observation with the return up to it, which is exact; a window
    that *starts* at one gets weight 0 (one draw in the episode length; a redraw would cost more
    than it saves). Where every episode is one truncated step, nothing at all is left to learn from.
    Average losses as `sum(w l) / sum(w)`, or accept the slightly smaller step.

    Windows are drawn only once complete, so none reaches past the newest row into the oldest ones.
    All costs are per row written or drawn, none grows with `capacity`. Under `vmap` over seeds
    nothing special is asked of the caller except to donate the state, and to keep it out of
    `lax.cond` with a batched predicate (which would copy it): switch the *gradient step* instead.

    Example:
        >>> replay = UniformReplay(capacity=8, num_envs=2, num_step=3)
        >>> one, flag = jnp.ones(2), jnp.zeros(2, bool)
        >>> step = Transition(one, one, one, one, one, flag, flag, {})  # leaves [2]
        >>> state = replay.init(step)
        >>> trajectory = jax.tree.map(lambda leaf: jnp.stack([leaf] * 4), step)  # leaves [4, 2]
        >>> state = replay.add(state, trajectory)
        >>> replay.sample(jax.random.key(0), state, batch_size=3).transition.reward.tolist()
        [3.0, 3.0, 3.0]

    Sources:
        Lin (1992), experience replay; Sutton and Barto (2018), section 7.1, n-step returns;
        Pardo et al. (2018), section 3, bootstrapping at time limits.
    """

    capacity: int = setting(100_000, "transitions kept", unit="transitions", low=1)
    # Environments written side by side; agents set it, so that it is no setting of theirs.
    num_envs: int = struct.field(pytree_node=False, default=1)
    num_step: int = setting(1, "steps of each return before the bootstrap", unit="steps", low=1)
    store_next: bool = setting(True, "keep next observations too: twice the memory")

    @property
    def num_rows(self) -> int:
        """Rows of the ring, each one step of all environments."""
        return self.capacity // self.num_envs

    @property
    def reach(self) -> int:
        """Newest rows that cannot start a window yet."""
        return reach(self.num_step, self.store_next)

    def check(self, batch_size: int = 1) -> None:
        """Raise `ValueError` when the sizes do not fit together."""
        check_settings(self)
        check_sizes("replay", self.capacity, self.num_envs, self.reach, self.num_step, batch_size)

    def nbytes(self, example: Transition) -> int:
        """Bytes that one state takes, for transitions like `example[num_envs, ...]`."""
        return num_bytes(jax.eval_shape(self.init, example))

    def init(self, example: Transition) -> ReplayState:
        """An empty state; `example` is one step, arrays or shapes, `[num_envs, ...]`.

        Raises:
            ValueError: sizes that do not fit together, or an example of another batch size.
        """
        self.check()
        return create(example, self.num_rows, self.num_envs, self.store_next)

    def add(self, state: ReplayState, trajectory: Transition) -> ReplayState:
        """Append `trajectory[T, num_envs, ...]`, overwriting the oldest rows.

        Raises:
            ValueError: the trajectory is not built like the example.
        """
        return write(state, trajectory)

    def size(self, state: ReplayState) -> Array:
        """Transitions stored, `[]` int32."""
        return state.num_filled * self.num_envs

    def num_windows(self, state: ReplayState) -> Array:
        """Complete windows stored, `[]` int32, those that start at a truncated row included."""
        return jnp.maximum(state.num_filled - self.reach, 0) * self.num_envs

    def can_sample(self, state: ReplayState, batch_size: int) -> Array:
        """Whether at least `batch_size` windows are stored, `[]` bool."""
        return self.num_windows(state) >= max(batch_size, 1)

    def sample(
        self,
        key: Key,
        state: ReplayState,
        batch_size: int,
        beta: Array | float | None = None,
    ) -> Batch:
        """Draw `batch_size` windows; weights are 1, or 0 where a window is not valid.

        Args:
            key: spent.
            state: of this replay. From an empty one every weight is 0.
            batch_size: windows drawn, static.
            beta: ignored, a uniform draw needs no correction.
        """
        num_windows = self.num_windows(state)
        draw = jax.random.randint(key, (batch_size,), 0, jnp.maximum(num_windows, 1))
        env = draw % self.num_envs
        row = row_of_age(state, self.reach + draw // self.num_envs)
        transition, valid = read_windows(state, row, env, self.num_step)
        weights = (valid & (num_windows > 0)).astype(jnp.float32)
        return Batch(transition, weights, row * self.num_envs + env)

    def update_priorities(
        self,
        state: ReplayState,
        indices: Array,
        priorities: Array,
        when: Array | bool = True,
    ) -> ReplayState:
        """The state unchanged."""
        return state
