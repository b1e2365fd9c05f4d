"""The two-colour grid: two objects whose worth is exchanged again and again, without episodes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core import Array, Box, Discrete, Key, Space, Struct, TabularMDP, TimeStep
from jaxrl.core.settings import check_settings, setting
from jaxrl.envs.clock import clocked
from jaxrl.envs.grid_moves import reached_cells


class TwoColoursState(Struct):
    """Three cells that differ, and how the objects pay."""

    cell: Array  # [] int32, the agent
    objects: Array  # [2] int32, cells of the first and the second object
    since_swap: Array  # [] int32 [steps]
    swapped: Array  # [] bool, whether the second object is the good one


class TwoColours(Struct):
    """Collect one of two objects; every `swap_period` steps the good one turns bad, and back.

    The agent moves up, right, down or left; a move off the grid stays put. Entering the cell of the
    good object pays `good_reward`, that of the bad one `bad_reward`, any other cell `step_reward`.
    The object entered moves to a cell drawn uniformly from those that are neither the agent's nor
    the other object's. Nothing ever ends and nothing is reset: the observation does not tell which
    object is good, so that an agent without memory has to learn anew after each swap, and to
    explore more for it.

    With n steps taken so far the first object is good while floor(n / swap_period) is even.

    Sources: Flennerhag et al. (2022), "Bootstrapped meta-learning", ICLR, section 5.1 and appendix
    on the two-colour grid. Grid, rewards 1, -1 and -0.04, period, moves, the new place of what was
    entered, and the observation are as two public re-implementations have them (`Swap` of early
    instadeepai/jumanji, and MagiFeeney/Bootstrapped-Meta-Learning): the agent stays where it is, so
    that an object does not come back where it was. Luketina et al. (2022), "Meta-gradients in
    non-stationary environments", section 4, tell it otherwise: agent and objects are placed anew.

    Raises:
        ValueError: fewer than 3 cells, or a number out of range.

    Example:
        >>> env = TwoColours()
        >>> state, observation = env.reset(jax.random.key(0))
        >>> observation.shape, int(observation.sum())
        ((30,), 6)
        >>> TwoColours(swap_period=0.0)
        Traceback (most recent call last):
        ValueError: swap_period=0.0 is out of range: give a value in [1, inf].
    """

    swap_period: float = setting(
        100_000.0, "steps between two swaps", unit="steps", low=1.0, infinite=True
    )
    good_reward: float = setting(1.0, "pay of the good object", unit="return")
    bad_reward: float = setting(-1.0, "pay of the bad object", unit="return")
    step_reward: float = setting(-0.04, "pay of every other step", unit="return")
    height: int = setting(5, "rows")
    width: int = setting(5, "columns")

    def __post_init__(self) -> None:
        check_settings(self)
        reached_cells(self.height, self.width)  # checks the sizes
        if self.height * self.width < 3:
            raise ValueError(f"it needs at least 3 cells; got {self.height} x {self.width}.")

    action_space = Discrete(4)  # up, right, down, left

    @property
    def observation_space(self) -> Space:
        """`Box[3 (height + width)]`: one-hot row and column of the agent and of each object."""
        return Box(jnp.zeros(()), jnp.ones(()), (3 * (self.height + self.width),))

    def reset(self, key: Key) -> tuple[TwoColoursState, Array]:
        """Three different cells, uniformly; the first object is good."""
        draw = jax.random.uniform(key, (3,))
        num_cells = self.height * self.width
        cell = _pick(draw[0], num_cells)
        first = _skip(_pick(draw[1], num_cells - 1), cell, cell, 1)
        second = _skip(_pick(draw[2], num_cells - 2), cell, first, 2)
        objects = jnp.stack([first, second])
        state = TwoColoursState(cell, objects, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.bool_))
        return state, self._observe(state)

    def step(
        self, key: Key, state: TwoColoursState, action: Array
    ) -> tuple[TwoColoursState, TimeStep]:
        """Move; be paid; what was entered moves on; exchange the worths when it is time."""
        draw = _pick(jax.random.uniform(key), self.height * self.width - 2)
        cell, objects, pay = self._entered(state.cell, state.objects, state.swapped, action, draw)
        since_swap = state.since_swap + 1
        swaps = since_swap >= self.swap_period
        left, swapped = jnp.where(swaps, 0, since_swap), state.swapped ^ swaps
        state = TwoColoursState(cell, objects, left, swapped)
        return state, clocked(self._observe(state), pay, False, since_swap, jnp.inf)

    def _entered(
        self, cell: Array, objects: Array, swapped: Array | bool, action: Array, draw: Array
    ) -> tuple[Array, Array, Array]:
        """Agent, objects and pay after a move; what was entered goes to the `draw`-th free cell."""
        cell = jnp.asarray(reached_cells(self.height, self.width))[cell, action]
        entered = objects == cell  # at most one
        is_good = jnp.arange(2) == jnp.asarray(swapped, jnp.int32)
        met = jnp.where(jnp.any(entered & is_good), self.good_reward, self.bad_reward)
        pay = jnp.where(jnp.any(entered), met, self.step_reward)
        new = jnp.stack([_skip(draw, cell, other, 2) for other in objects[::-1]])
        return cell, jnp.where(entered, new, objects), pay

    def _observe(self, state: TwoColoursState) -> Array:
        row, column = np.divmod(np.arange(self.height * self.width), self.width)
        places = np.concatenate([np.eye(self.height)[row], np.eye(self.width)[column]], axis=1)
        cells = jnp.concatenate([state.cell[None], state.objects])
        return jnp.asarray(places, jnp.float32)[cells].reshape(-1)

    def as_mdp(self, discount: float | Array = 0.99, swapped: bool = False) -> TabularMDP:
        """The problem between two swaps, for ever: what an agent could earn that knew the colours.

        State (agent, first, second) has the index (agent C + first) C + second with C cells; those
        where two of them agree are never met, and stay put for nothing. Outcome k is the k-th free
        cell for the object entered, so that K is C - 2.

        Args:
            discount: gamma in [0, 1] [per step].
            swapped: whether the second object is the good one.

        Example:
            >>> TwoColours(height=3, width=3).as_mdp().prob.shape
            (729, 4, 7)
        """
        number, num_cells = jnp.result_type(float), self.height * self.width
        cells = np.indices((num_cells,) * 3).reshape(3, -1).T  # [S, 3]: agent, first, second
        differ = np.all(cells != np.roll(cells, 1, axis=1), axis=1)

        def outcome(place: Array, action: Array, draw: Array) -> tuple[Array, Array]:
            cell, (first, second), pay = self._entered(place[0], place[1:], swapped, action, draw)
            return (cell * num_cells + first) * num_cells + second, pay

        for axes in ((None, None, 0), (None, 0, None), (0, None, None)):
            outcome = jax.vmap(outcome, axes)
        places = jnp.asarray(cells, jnp.int32)
        after, pay = outcome(places, jnp.arange(4), jnp.arange(num_cells - 2, dtype=jnp.int32))
        met = jnp.asarray(differ)[:, None, None]
        return TabularMDP(
            prob=jnp.full(after.shape, 1.0 / (num_cells - 2), number),
            next_state=jnp.where(met, after, np.arange(len(cells))[:, None, None]).astype(
                jnp.int32
            ),
            reward=jnp.where(met, pay[..., :1], 0.0).astype(number),
            terminal=jnp.zeros(after.shape, bool),
            initial=jnp.asarray(differ / differ.sum(), number),
            legal=jnp.ones(after.shape[:2], bool),
            discount=jnp.asarray(discount, number),
            is_endless=True,
        )


def _pick(draw: Array, num_values: int) -> Array:
    """An integer below `num_values` from a uniform number, `[]` int32.

    One draw where `randint` takes two; uniform to 2^-23.
    """
    return jnp.minimum((draw * num_values).astype(jnp.int32), num_values - 1)


def _skip(index: Array, one: Array, other: Array, num_taken: int) -> Array:
    """The `index`-th of the cells other than `one` and, with `num_taken` 2, `other`."""
    index = index + (index >= jnp.minimum(one, other))
    return index + (index >= jnp.maximum(one, other)) if num_taken == 2 else index
