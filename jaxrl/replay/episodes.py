"""Sequences of consecutive steps, with episode starts and a mask, for recurrent learners."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core import Struct, struct
from jaxrl.core.settings import check_settings, setting
from jaxrl.core.types import Array, Key, Transition
from jaxrl.replay.ring import UniformReplay
from jaxrl.replay.storage import STARTS, TERMINATED, TRUNCATED, ReplayState, read, row_of_age

_SHIFTS = slice(None, -1), slice(1, None)  # a step, and the one after it


class SequenceBatch(Struct):
    """A draw of sequences, time-major as a rollout's trajectory is."""

    transition: Transition  # leaves [length, batch, ...]
    mask: Array  # [length, batch] bool, the steps that may be learned from
    starts: Array  # [length, batch] bool, true where an episode begins: reset the memory there
    indices: Array  # [batch] int32, row and environment of the first step


class EpisodeReplay(Struct):
    """A ring drawn as sequences of `length` consecutive steps of one environment, uniformly.

    A sequence may begin anywhere, and runs on into the next episode unless `within_episode`, which
    masks the steps after the first end. `starts` is true at every step that begins an episode, the
    first included when it does; a sequence that begins mid-episode should take its initial memory
    from `transition.extras` (if the agent recorded it) or burn in.

    The mask is false where the true successor is not stored: at truncated rows, unless
    `store_next`. Their other fields are right, and `truncated` is true there, so that a return
    computed along the sequence is cut where it must be.

    Sources:
        Hausknecht and Stone (2015), section 5; Kapturowski et al. (2019), section 3.
    """

    capacity: int = setting(100_000, "transitions kept", unit="transitions", low=1)
    # Environments written side by side; agents set it, so that it is no setting of theirs.
    num_envs: int = struct.field(pytree_node=False, default=1)
    length: int = setting(16, "steps of each sequence", unit="steps", low=1)
    store_next: bool = setting(True, "keep next observations too: twice the memory")
    within_episode: bool = setting(False, "mask what follows the first end in a sequence")

    @property
    def uniform(self) -> UniformReplay:
        """The ring below, whose windows are the sequences."""
        return UniformReplay(self.capacity, self.num_envs, self.length, self.store_next)

    def check(self, batch_size: int = 1) -> None:
        """Raise `ValueError` when the sizes do not fit together."""
        check_settings(self)
        self.uniform.check(batch_size)

    def nbytes(self, example: Transition) -> int:
        """Bytes that one state takes, for transitions like `example[num_envs, ...]`."""
        return self.uniform.nbytes(example)

    def init(self, example: Transition) -> ReplayState:
        """An empty state; `example` is one step, arrays or shapes, `[num_envs, ...]`.

        Raises:
            ValueError: sizes that do not fit together, or an example of another batch size.
        """
        self.check()
        return self.uniform.init(example)

    def add(self, state: ReplayState, trajectory: Transition) -> ReplayState:
        """Append `trajectory[T, num_envs, ...]`, overwriting the oldest rows.

        Raises:
            ValueError: the trajectory is not built like the example.
        """
        return self.uniform.add(state, trajectory)

    def size(self, state: ReplayState) -> Array:
        """Transitions stored, `[]` int32."""
        return self.uniform.size(state)

    def num_sequences(self, state: ReplayState) -> Array:
        """Complete sequences stored, `[]` int32."""
        return self.uniform.num_windows(state)

    def can_sample(self, state: ReplayState, batch_size: int) -> Array:
        """Whether at least `batch_size` sequences are stored, `[]` bool."""
        return self.uniform.can_sample(state, batch_size)

    def sample(self, key: Key, state: ReplayState, batch_size: int) -> SequenceBatch:
        """Draw `batch_size` sequences; from an empty state every mask is false."""
        num_sequences = self.num_sequences(state)
        draw = jax.random.randint(key, (batch_size,), 0, jnp.maximum(num_sequences, 1))
        env = draw % self.num_envs
        row = row_of_age(state, self.uniform.reach + draw // self.num_envs)
        offsets = jnp.arange(self.length + 1, dtype=jnp.int32)[:, None]
        rows = (row + offsets) % self.uniform.num_rows  # [length + 1, batch]
        columns, memory = state.layout.tree(), state.memory
        if self.store_next:
            record = read(columns, memory, rows[:-1], env)
            observation, next_observation = record.observation, record.next_observation
            masks = record.mask, record.next_mask
        else:
            # One read serves both: the observations are the successors, shifted by a step.
            kept, stored = (memory.observation, memory.mask), (columns.observation, columns.mask)
            seen = read(stored, kept, rows, env)
            now, then = (jax.tree.map(lambda leaf, at=at: leaf[at], seen) for at in _SHIFTS)
            (observation, next_observation), masks = zip(now, then, strict=True)
            rest = (
                columns.replace(observation=(), mask=()),
                memory.replace(observation=(), mask=()),
            )
            record = read(*rest, rows[:-1], env)
        terminated = (record.flags & TERMINATED) > 0
        truncated = (record.flags & TRUNCATED) > 0
        mask = jnp.broadcast_to(num_sequences > 0, truncated.shape)
        if not self.store_next:
            mask = mask & ~truncated
        if self.within_episode:
            ends = jnp.cumsum(terminated | truncated, axis=0)
            mask = mask & (ends - (terminated | truncated) == 0)
        before = observation, record.action, record.reward, record.discount
        after = next_observation, terminated, truncated, record.extras, record.env_state
        after = (*after, record.cost, *masks)
        starts = (record.flags & STARTS) > 0
        return SequenceBatch(Transition(*before, *after), mask, starts, row * self.num_envs + env)
