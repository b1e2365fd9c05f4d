"""Uniform replay, every complete window equally likely, and how windows are read."""

from __future__ import annotations

import functools
import operator

import jax
import jax.numpy as jnp

from jaxrl.core import Struct, struct
from jaxrl.core.settings import check_settings, setting
from jaxrl.core.types import Array, Key, Transition
from jaxrl.replay import storage
from jaxrl.replay.contract import Batch
from jaxrl.replay.storage import TERMINATED, TRUNCATED, ReplayState, read


class UniformReplay(Struct):
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
        """Newest rows that start no window yet: it needs `num_step` rows and a successor more."""
        return self.num_step - 1 if self.store_next else self.num_step

    def check(self, batch_size: int = 1) -> None:
        """Raise `ValueError` when the sizes do not fit together."""
        check_settings(self)
        sizes = self.capacity, self.num_envs, self.reach, self.num_step, batch_size
        storage.check_sizes(*sizes)

    def nbytes(self, example: Transition) -> int:
        """Bytes that one state takes, for transitions like `example[num_envs, ...]`."""
        return storage.num_bytes(jax.eval_shape(self.init, example))

    def init(self, example: Transition) -> ReplayState:
        """An empty state; `example` is one step, arrays or shapes, `[num_envs, ...]`.

        Raises:
            ValueError: sizes that do not fit together, or an example of another batch size.
        """
        self.check()
        return storage.create(example, self.num_rows, self.num_envs, self.store_next)

    def add(self, state: ReplayState, trajectory: Transition) -> ReplayState:
        """Append `trajectory[T, num_envs, ...]`, overwriting the oldest rows.

        Raises:
            ValueError: the trajectory is not built like the example.
        """
        return storage.write(state, trajectory)

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
        self, key: Key, state: ReplayState, batch_size: int, beta: Array | float | None = None
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
        row = storage.row_of_age(state, self.reach + draw // self.num_envs)
        transition, valid = read_windows(state, row, env, self.num_step)
        weights = (valid & (num_windows > 0)).astype(jnp.float32)
        return Batch(transition, weights, row * self.num_envs + env)

    def update_priorities(
        self, state: ReplayState, indices: Array, priorities: Array, when: Array | bool = True
    ) -> ReplayState:
        """The state unchanged."""
        return state


def is_valid_start(flags: Array, store_next: bool) -> Array:
    """Whether a complete window may start at a row with these flags, `[...]` bool."""
    return (flags & TRUNCATED == 0) | store_next


def _added(used: Array, discount: Array, total: Array, values: Array) -> Array:
    """A sum `[batch]`, or `[batch, C]` of channels or costs, with the values of a row that is used;
    `used` and `discount` are per window."""
    lanes = (..., *(None,) * (total.ndim - 1))
    return jnp.where(used[lanes], total + discount[lanes] * values, total)


def read_windows(
    state: ReplayState, row: Array, env: Array, num_step: int
) -> tuple[Transition, Array]:
    """n-step transitions that start at `row[batch]`, `env[batch]`.

    With m steps used, the target `reward + discount * value(next_observation)` is

        sum_{k<m} (prod_{i<k} discount_{t+i}) reward_{t+k} + (prod_{i<m} discount_{t+i}) V(s_{t+m})

    where m is `num_step`, or less when the window meets the end of an episode:

    * a terminated row is used and is the last; its discount is 0, so no successor is needed;
    * a truncated row at t+j lost its successor (row t+j+1 is the next episode's first), so without
      stored successors it is *not* used and the window bootstraps from its observation, which is
      the exact (j)-step return. A window that starts at such a row has nothing to use: not valid;
    * with stored successors a truncated row is used, is the last, and bootstraps from its own.

    Costs that are kept are summed as rewards are.

    Returns:
        The transitions, leaves `[batch, ...]`, and whether each is valid, `[batch]` bool.
    """
    layout = state.layout
    columns, memory = layout.tree(), state.memory
    offsets = jnp.arange(num_step, dtype=jnp.int32)[:, None]
    rows = (row + offsets) % layout.num_rows  # [num_step, batch]
    steps = ((memory.reward, memory.cost), memory.discount, memory.flags)
    paid, discounts, flags = read(
        ((columns.reward, columns.cost), columns.discount, columns.flags), steps, rows, env
    )
    terminated, truncated = (flags & TERMINATED) > 0, (flags & TRUNCATED) > 0
    alive = jnp.ones(row.shape, jnp.bool_)
    num_used = jnp.zeros(row.shape, jnp.int32)
    total = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), paid)  # of reward and cost
    discount = jnp.ones_like(discounts[0])
    met_end, met_cut = jnp.zeros_like(alive), jnp.zeros_like(alive)
    for k in range(num_step):
        met_cut = met_cut | (alive & truncated[k])
        used = alive if layout.store_next else alive & ~truncated[k]
        row_paid = jax.tree.map(operator.itemgetter(k), paid)
        total = jax.tree.map(functools.partial(_added, used, discount), total, row_paid)
        discount = jnp.where(used, discount * discounts[k], discount)
        num_used = num_used + used
        met_end = met_end | (used & terminated[k])
        alive = used & ~terminated[k] & ~truncated[k]

    first = read(
        (columns.observation, columns.action, columns.extras, columns.env_state, columns.mask),
        (memory.observation, memory.action, memory.extras, memory.env_state, memory.mask),
        row,
        env,
    )
    if layout.store_next:
        last = (row + num_used - 1) % layout.num_rows
        kept = (memory.next_observation, memory.next_mask)
        stored = (columns.next_observation, columns.next_mask)
    else:
        last = (row + num_used) % layout.num_rows
        kept, stored = (memory.observation, memory.mask), (columns.observation, columns.mask)
    successor, next_mask = read(stored, kept, last, env)
    observation, action, extras, env_state, mask = first
    before = observation, action, total[0], discount
    after = successor, met_end, met_cut, extras, env_state, total[1], mask, next_mask
    return Transition(*before, *after), is_valid_start(flags[0], layout.store_next)
