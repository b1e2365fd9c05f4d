"""Collect the objects of a grid: the toy family on which update rules are learned."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core import Array, Discrete, Key, Space, Struct, TabularMDP, TimeStep
from jaxrl.core.settings import check_settings, setting
from jaxrl.envs.clock import clock, clocked
from jaxrl.envs.grid_moves import cell_index, reached_cells


class CollectingState(Struct):
    """Where the agent is, which objects are there to be collected, and the clock."""

    cell: Array  # [] int32
    present: Array  # [num_objects] bool
    time: Array  # [] int32 [steps]


class CollectingGrid(Struct):
    """Walk on a grid and collect objects, which pay, may end the episode, and may come back.

    The agent moves, then takes what is present in the cell it stands in: it earns the sum of the
    rewards of what it takes, and each object taken ends the episode with its `end_probs`. An object
    that was absent before the step comes back with its `respawn_probs`, to the place it always has;
    what comes back under the agent is taken in the next step if the agent is still there. All
    objects are present at the start.

    Every number is a leaf, so that grids of one size are a batch under `vmap` and a new grid
    recompiles nothing. The observation is one of height width 2^num_objects indices, cell and
    presence together: a linear network on it is a table. Build one with `make("CollectingGrid")`,
    which checks, or draw them with `jaxrl.meta.RandomGrids`.

    Numerics: one 32-bit draw serves two objects, forwards and with its halves exchanged. Each
    probability holds to 2^-24, that of two events in one step to 2^-15.

    Sources: Oh et al. (2020), "Discovering reinforcement learning algorithms", appendix A (tabular
    grid worlds), as two public re-implementations have them: objects with a reward, a probability
    of ending and one of coming back per step, taken without an action of its own. The order of
    collecting and coming back is that of EmptyJackson/groove, environments/gridworld/gridworld.py;
    in epignatelli/discovering-reinforcement-learning-algorithms what was taken may come back within
    the same step.

    Example:
        >>> env = collecting_grid(2, 2, positions=[(0, 1)], rewards=[3.0], end_probs=[1.0],
        ...                       respawn_probs=[0.0], start=(0, 0))
        >>> state, observation = env.reset(jax.random.key(0))
        >>> _, step = env.step(jax.random.key(0), state, jnp.array(1))  # right
        >>> int(observation), float(step.reward), bool(step.terminated)
        (4, 3.0, True)
    """

    positions: Array  # [num_objects] int32, cells
    rewards: Array  # [num_objects] [return]
    end_probs: Array  # [num_objects] in [0, 1] [per collection]
    respawn_probs: Array  # [num_objects] in [0, 1] [per step]
    start: Array  # [] int32, the first cell
    time_limit: float | Array = clock(100.0)
    height: int = setting(5, "rows")
    width: int = setting(5, "columns")
    num_moves: int = setting(4, "moves: 4, 5 with staying, 9 with diagonals", choices=(4, 5, 9))

    @property
    def num_objects(self) -> int:
        """How many objects there are."""
        return self.positions.shape[-1]

    @property
    def observation_space(self) -> Space:
        """`Discrete(height width 2^num_objects)`: cell + height width sum_i present_i 2^i."""
        return Discrete(self.height * self.width * 2**self.num_objects)

    @property
    def action_space(self) -> Space:
        """`Discrete(num_moves)`: up, right, down, left; stay; the diagonals."""
        return Discrete(self.num_moves)

    def reset(self, key: Key) -> tuple[CollectingState, Array]:
        """The agent at `start`, every object present; the key is not used."""
        cell, time = jnp.asarray(self.start, jnp.int32), jnp.zeros((), jnp.int32)
        state = CollectingState(cell, jnp.ones(self.num_objects, bool), time)
        return state, self._observe(state)

    def step(
        self, key: Key, state: CollectingState, action: Array
    ) -> tuple[CollectingState, TimeStep]:
        """Move, collect, and let absent objects come back."""
        reached = jnp.asarray(reached_cells(self.height, self.width, self.num_moves))
        cell = reached[state.cell, action]
        taken = state.present & (self.positions == cell)
        # An object is either there to be taken or absent: one number decides for both.
        draw = _uniforms(key, self.num_objects)
        terminated = jnp.any(taken & (draw < self.end_probs))
        back = ~state.present & (draw < self.respawn_probs)
        state = CollectingState(cell, (state.present & ~taken) | back, state.time + 1)
        reward = jnp.sum(jnp.where(taken, self.rewards, 0.0))
        return state, clocked(self._observe(state), reward, terminated, state.time, self.time_limit)

    def _observe(self, state: CollectingState) -> Array:
        bits = jnp.asarray(2 ** np.arange(self.num_objects), jnp.int32)
        mask = jnp.sum(jnp.where(state.present, bits, 0), dtype=jnp.int32)
        return state.cell + self.height * self.width * mask

    def as_mdp(self, discount: float | Array = 0.99) -> TabularMDP:
        """The model of this grid without its clock, whose states are the observations.

        Outcome k of a pair draws for object i the i-th bit of k, so that K is 2^num_objects. It
        runs inside `jit`, and under `vmap` over grids.

        Args:
            discount: gamma in [0, 1] [per step].

        Example:
            >>> from jaxrl import planning
            >>> env = collecting_grid()
            >>> solution = planning.value_iteration(env.as_mdp(0.9))
            >>> solution.values.shape
            (100,)
        """
        number, num_cells = jnp.result_type(float), self.height * self.width
        num_masks = 2**self.num_objects
        bits = np.arange(num_masks)[:, None] >> np.arange(self.num_objects) & 1 == 1
        present = jnp.asarray(bits)[:, None, None, :]  # [M, 1, 1, N]
        reached = reached_cells(self.height, self.width, self.num_moves)  # [C, A]
        taken = present & (jnp.asarray(reached)[..., None] == self.positions)  # [M, C, A, N]
        happens = jnp.where(taken, self.end_probs, jnp.where(present, 0.0, self.respawn_probs))
        happens = happens.astype(number)[..., None, :]  # [M, C, A, 1, N]
        drawn, taken, present = jnp.asarray(bits), taken[..., None, :], present[..., None, :]
        prob = jnp.prod(jnp.where(drawn, happens, 1.0 - happens), axis=-1)  # [M, C, A, K]
        after = (present & ~taken) | (~present & drawn)
        mask = jnp.sum(jnp.where(after, 2 ** np.arange(self.num_objects), 0), axis=-1)
        reward = jnp.sum(jnp.where(taken, self.rewards, 0.0), axis=-1)
        shape = (num_masks * num_cells, self.num_moves, num_masks)
        states = np.arange(shape[0])
        return TabularMDP(
            prob=prob.reshape(shape),
            next_state=(mask * num_cells + reached[..., None]).reshape(shape).astype(jnp.int32),
            reward=reward.reshape((*shape[:2], 1)).astype(number),
            terminal=jnp.broadcast_to(jnp.any(taken & drawn, axis=-1), prob.shape).reshape(shape),
            initial=(states == self.start + num_cells * (num_masks - 1)).astype(number),
            legal=jnp.ones(shape[:2], bool),
            discount=jnp.asarray(discount, number),
        )


def collecting_grid(
    height: int = 5,
    width: int = 5,
    positions: Sequence[tuple[int, int]] = ((0, 4), (4, 0)),
    rewards: Sequence[float] = (1.0, -1.0),
    end_probs: Sequence[float] = (0.0, 0.5),
    respawn_probs: Sequence[float] = (0.05, 0.1),
    start: tuple[int, int] = (2, 2),
    time_limit: float = 100.0,
    num_moves: int = 4,
) -> CollectingGrid:
    """A `CollectingGrid` from plain numbers.

    Args:
        height: rows, at least 1.
        width: columns, at least 1.
        positions: (row, column) of each object, at least one object and at most 12.
        rewards: of each object, once per collection [return].
        end_probs: probability of each to end the episode when taken, in [0, 1].
        respawn_probs: probability of each to come back, in [0, 1] [per step].
        start: (row, column) of the first cell.
        time_limit: truncates after so many steps, at least 1 [steps].
        num_moves: 4, 5 with staying, 9 with diagonals.

    Raises:
        ValueError: a size, a place, a number of objects or a probability is not allowed.

    Example:
        >>> collecting_grid().observation_space.num_values  # 25 cells, 4 sets of objects
        100
    """
    reached_cells(height, width, num_moves)  # checks the sizes
    num_objects = len(positions)
    if not 1 <= num_objects <= 12:
        raise ValueError(f"a collecting grid needs 1 to 12 objects; got {num_objects} positions.")
    lists = {"rewards": rewards, "end_probs": end_probs, "respawn_probs": respawn_probs}
    for name, numbers in lists.items():
        if len(numbers) != num_objects:
            raise ValueError(f"{name} has {len(numbers)} numbers for {num_objects} positions.")
        if name != "rewards" and not all(0.0 <= number <= 1.0 for number in numbers):
            raise ValueError(f"{name}={tuple(numbers)} is out of range: give values in [0, 1].")
    cells = [cell_index("position", place, height, width) for place in positions]
    first = cell_index("start", start, height, width)
    env = CollectingGrid(
        jnp.asarray(cells, jnp.int32),
        **{name: jnp.asarray(each, float) for name, each in lists.items()},
        start=jnp.asarray(first, jnp.int32),
        time_limit=time_limit,
        height=height,
        width=width,
        num_moves=num_moves,
    )
    check_settings(env)
    return env


def _uniforms(key: Key, num_draws: int) -> Array:
    """Numbers in [0, 1), `[num_draws]` float32, two from each 32 random bits.

    The second of a pair reads the bits with their halves exchanged, so that both have all 24 bits
    that a float32 holds, and share none of the first 16. Hashing is what a step costs.
    """
    word = jax.random.bits(key, ((num_draws + 1) // 2,), jnp.uint32)
    exchanged = (word << 16) | (word >> 16)
    words = jnp.stack([word, exchanged], axis=-1).reshape(-1)[:num_draws]
    return (words >> 8).astype(jnp.float32) * jnp.float32(2.0**-24)
