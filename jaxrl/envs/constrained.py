"""A known constrained MDP as an environment, and a grid whose short way is dangerous."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxrl.core import Array, Key, Space, Struct, TabularMDP, TimeStep, outcome_mdp, struct
from jaxrl.core.arguments import check_number
from jaxrl.envs.grid_moves import landings
from jaxrl.envs.gridworlds import ends_of_row, slipping
from jaxrl.envs.tabular import TabularEnv, TabularState


class ConstrainedTabularEnv(Struct):
    """Steps a `TabularMDP` whose actions cost something: a `TabularEnv` with `TimeStep.cost`.

    It carries what the planner takes: `planning.constrained(env.mdp, env.costs, env.limits)` is the
    exact optimum, of expected discounted return under limits on expected discounted costs. A step
    tells the cost of its state and action; limits are for planners and rules, not used in a step.

    Attributes:
        mdp: the model.
        costs: `[C, S, A]`, or `[S, A]` for one, of each step [cost].
        limits: `[C]`, or one number: greatest expected discounted sum of each cost [cost].
        time_limit: truncates after so many steps [steps].
        one_hot: observe `[S]` instead of `[]`.

    Example:
        >>> import jax
        >>> env = hazard_grid(num_columns=3, slip_prob=0.0)
        >>> state, _ = env.reset(jax.random.key(0))
        >>> _, step = env.step(jax.random.key(1), state, jnp.array(1))  # right, into the hazard
        >>> step.cost.tolist()
        [1.0]
    """

    mdp: TabularMDP
    costs: Array
    limits: Array | float
    time_limit: float = float("inf")
    one_hot: bool = struct.field(pytree_node=False, default=False)

    @property
    def table(self) -> TabularEnv:
        """The same without costs."""
        return TabularEnv(self.mdp, self.time_limit, self.one_hot)

    @property
    def observation_space(self) -> Space:
        """`Discrete(S)`, or `Box[S]` of one-hot float32 rows."""
        return self.table.observation_space

    @property
    def action_space(self) -> Space:
        """`Discrete(A)`."""
        return self.table.action_space

    def reset(self, key: Key) -> tuple[TabularState, Array]:
        """Draw the first state from `mdp.initial`."""
        return self.table.reset(key)

    def step(self, key: Key, state: TabularState, action: Array) -> tuple[TabularState, TimeStep]:
        """As `TabularEnv` does, with `cost` `[C]` float32.

        Raises:
            ValueError: costs of another MDP's shape.
        """
        shape = (self.mdp.num_states, self.mdp.num_actions)
        if jnp.shape(self.costs)[-2:] != shape:
            raise ValueError(
                f"costs have shape {list(jnp.shape(self.costs))}: give [C, S, A] with S, A = "
                f"{list(shape)}, as planning.constrained takes them."
            )
        after, step = self.table.step(key, state, action)
        costs = jnp.reshape(self.costs, (-1, *shape))[:, state.index, action]
        return after, step.replace(cost=costs.astype(jnp.float32))


def hazard_grid(
    num_rows: int = 3,
    num_columns: int = 4,
    slip_prob: float = 0.1,
    goal_reward: float = 10.0,
    limit: float = 0.5,
    discount: float = 0.9,
    time_limit: float = 50.0,
    one_hot: bool = True,
) -> ConstrainedTabularEnv:
    """A short way through a hazard, a long way round, and a limit on how much of it to take.

    From the bottom left to the bottom right, which pays `goal_reward` and ends. The cells between
    them are the hazard: a step that lands there costs 1, and the walk goes on. Actions are up 0,
    right 1, down 2, left 3; the move slips to each side with `slip_prob / 2`. The expected
    discounted cost may be `limit` at most: the best policy is in general random, and takes the
    short way now and then.

    Args:
        num_rows: height with the hazard row, at least 2.
        num_columns: width, at least 3.
        slip_prob: probability of moving at right angles to the action, in [0, 1] [per step].
        goal_reward: reward of the goal [return].
        limit: of the expected discounted cost from the start [cost].
        discount: gamma in [0, 1] [per step].
        time_limit: truncates after so many steps [steps].
        one_hot: observe `[S]` instead of `[]`.

    Raises:
        ValueError: a size or a number is out of range.

    Sources: the map is that of Sutton and Barto (2018), example 6.6; costs and numbers are ours.

    Example:
        >>> from jaxrl import planning
        >>> env = hazard_grid(slip_prob=0.0)
        >>> best = planning.constrained(env.mdp, env.costs, env.limits)
        >>> [round(float(p), 3) for p in best.policy[8, :2]]  # at the start: up, right
        [0.737, 0.263]
    """
    start, goal = ends_of_row("hazard_grid", num_rows, num_columns)
    check_number("limit", limit)
    prob, landing = slipping(landings((num_rows, num_columns)), slip_prob)
    states = np.arange(goal + 1)
    is_hazard = (states > start) & (states < goal)
    mdp = outcome_mdp(
        prob,
        landing,
        goal_reward * (landing == goal),
        discount,
        initial=states == start,
        terminal=states == goal,
    )
    costs = np.sum(prob * is_hazard[landing], axis=-1)[None]
    costs = np.where(states[:, None] == goal, 0.0, costs)
    limits = jnp.asarray([limit], float)
    return ConstrainedTabularEnv(mdp, jnp.asarray(costs, float), limits, time_limit, one_hot)
