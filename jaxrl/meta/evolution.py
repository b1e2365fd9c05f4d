"""Evolution: whole lives of perturbed rules show where a better rule lies."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxrl.agents.optimiser import Optimiser
from jaxrl.core import struct
from jaxrl.core.protocols import Agent
from jaxrl.core.schedules import Schedule, value_at
from jaxrl.core.settings import check_settings, setting
from jaxrl.core.types import Array, Key, Progress, PyTree
from jaxrl.meta.lives import MEASURES, OuterState, first_state, live
from jaxrl.meta.mirrored import (
    SEED,
    SHAPINGS,
    SHARED,
    TASK,
    Rows,
    candidate,
    estimate,
    rows_of,
    split_rows,
)
from jaxrl.meta.numbers import Tuned
from jaxrl.meta.rows import over_rows
from jaxrl.meta.tasks import TaskDistribution


@struct.dataclass
class Evolution:
    """Evolution strategies on whole lives, with mirrored pairs.

        e_p ~ N(0, I),    f_p+- = mean over lives of fitness(centre +- sigma e_p),    p = 1 .. P
        w = shaping(f),   g = 1 / (P sigma) sum_p w_p e_p - weight_decay centre
        centre <- optimiser step along g

    Both of a pair live the same lives: in the same tasks, as long, with the same seeds. Each pair
    has its own, unless `common_tasks`. Nothing of an agent is differentiated, and no life is cut
    short: what pays late counts in full, which truncated meta-gradients do not see. Directions are
    drawn again from their keys when the step is made; memory does not grow with P, only with
    `chunk`.

    The metrics report the centre, on lives of its own, never the best candidate. A fitness that is
    not finite loses and is counted, as does that of a learner with NaN among its numbers, whatever
    it earns. Where no episode ends in a life, returns are NaN: choose a rate.

    Lives are as long as their task says, up to `num_updates`, which every life is computed for: one
    that is over stands still, at full cost.

    Attributes:
        tuned: the agent, and which of its numbers are searched.
        tasks: where lives are lived.
        num_updates: of the longest life (`num_updates_of`); longer ones are cut there.
        shaping: from fitness to weights: `pair_sign`, `centred_ranks`, `z_score` or `plain`.
        optimiser: of the centre; it counts generations.
        sigma: of the perturbations, in the units of the free numbers of `tuned`: log-odds of a
            number with two ends, logarithms of one with one.
        weight_decay: pulls free numbers towards 0, for weights of networks.
        num_generations: that the schedules of `sigma` and of the optimiser see.
        num_pairs: P.
        num_lives: of each candidate.
        common_tasks: all pairs of a generation in the same tasks.
        shape_each: shape every life's fitness apart and average the weights. With `common_tasks`
            and `z_score`, tasks of unlike scales count alike.
        fitness: a measure of `Lifetime`.
        last_part: share of a life that counts as its end.
        num_centre_lives: of the centre in each generation, in tasks of their own.
        chunk: pairs in one part of the batch, to bound memory; 0 for all at once.
        num_devices: that a part is spread over.

    Sources: Salimans et al. 2017, Evolution strategies as a scalable alternative to reinforcement
    learning; Lu et al. 2022, Discovered policy optimisation; Jackson et al. 2024, Discovering
    temporally-aware reinforcement learning algorithms.

    Example:
        >>> from jaxrl import a2c
        >>> from jaxrl.meta import RandomBandits
        >>> from jaxrl.meta.lives import num_updates_of
        >>> from jaxrl.meta.numbers import tuned
        >>> rule = tuned(a2c(), ["discount", "entropy_weight"])
        >>> outer = Evolution(rule, RandomBandits(1e4), num_updates=num_updates_of(a2c(), 1e4))
        >>> state = outer.init(jax.random.key(0))  # then `outer.step`, jitted, or `meta.fit`
        >>> outer.num_updates, f"{float(outer.agent(state).discount):.2f}"
        (20, '0.99')
    """

    tuned: Tuned
    tasks: TaskDistribution
    num_updates: int = struct.field(pytree_node=False)
    shaping: str = setting("pair_sign", "from fitness to weights", choices=tuple(SHAPINGS))
    optimiser: Optimiser = Optimiser(learning_rate=0.02, max_grad_norm=None)
    sigma: float | Schedule = setting(0.1, "spread of the perturbations", low=0.0, low_open=True)
    weight_decay: float = setting(0.0, "pull of the free numbers towards 0", low=0.0)
    num_generations: float = setting(float("inf"), "generations that schedules see", low=1.0)
    num_pairs: int = setting(32, "mirrored pairs in a generation", low=1)
    num_lives: int = setting(1, "lives of each candidate", low=1)
    common_tasks: bool = setting(False, "all pairs in the same tasks")
    shape_each: bool = setting(False, "shape every life's fitness apart")
    fitness: str = setting("final_return", "what of a life counts", choices=MEASURES)
    last_part: float = struct.field(pytree_node=False, default=0.1)
    num_centre_lives: int = setting(8, "lives that report the centre", low=1)
    chunk: int = setting(0, "pairs in one part of the batch; 0 for all", low=0)
    num_devices: int = setting(1, "devices that a chunk is spread over", low=1)

    @property
    def num_parts(self) -> int:
        """The pairs, of which `chunk` are computed at once."""
        return self.num_pairs

    def init(self, key: Key) -> OuterState:
        """The centre where `tuned` starts.

        Raises:
            ValueError: a setting out of range.
        """
        check_settings(self)
        return first_state(self, key)

    def agent(self, state: OuterState) -> Agent:
        """The agent at the centre."""
        return self.tuned.agent_of(state.rule_params)

    def step(self, state: OuterState) -> tuple[OuterState, dict[str, Array]]:
        """One generation -> state, metrics (of the centre before the step)."""
        key = jax.random.fold_in(state.key, state.step)
        progress = Progress(state.step, jnp.asarray(self.num_generations, jnp.float32))
        sigma, centre = value_at(self.sigma, progress), state.rule_params

        def of_row(row: Rows) -> dict[str, Array]:
            def spent(pair: Array, purpose: int) -> Key:
                own = jax.random.fold_in(jax.random.fold_in(key, pair), purpose)
                return jax.random.fold_in(own, row.number)

            shared = jnp.where(row.sign == 0, row.pair, jnp.uint32(SHARED))
            task_key = spent(shared if self.common_tasks else row.pair, TASK)
            rule_params = candidate(key, row, centre, sigma)
            return self.measures_of(rule_params, task_key, spent(row.pair, SEED))

        rows = rows_of(self.num_pairs, self.num_lives, self.num_centre_lives)
        found = over_rows(of_row, (rows,), 2 * self.num_lives * self.chunk, self.num_devices)
        pairs, of_centre = split_rows(found, self.num_pairs, 2, self.num_lives)
        fitness, shape = pairs[self.fitness], SHAPINGS[self.shaping]
        if self.shape_each:
            weights = jnp.mean(jax.vmap(shape, 2)(fitness), axis=0)
        else:
            weights = shape(jnp.mean(fitness, axis=2))
        ascent = estimate(key, centre, weights, sigma, self.chunk)
        state, report = climb(self, state, ascent, fitness, progress)
        return state, report | {f"centre_{name}": jnp.mean(row) for name, row in of_centre.items()}

    def measures_of(self, rule_params: PyTree, task_key: Key, life_key: Key) -> dict[str, Array]:
        """What one life of a candidate earns, by name, `[]` each.

        Batch it over candidates and keys to search with another strategy.
        """
        found = live(
            life_key,
            self.tuned.agent_of(rule_params),
            self.tasks.sample(task_key),
            num_updates=self.num_updates,
            last_part=self.last_part,
        )
        lost = is_broken(found.life.train.agent)
        return {name: jnp.where(lost, jnp.nan, row) for name, row in found.measures.items()}


def is_broken(learner: PyTree) -> Array:
    """Whether there is NaN among a learner's numbers, `[]` bool; it acts on, and may still earn."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(learner)]
    floats = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.any(jnp.stack([jnp.any(jnp.isnan(leaf)) for leaf in floats]))


def climb(
    outer: Any, state: OuterState, ascent: PyTree, fitness: Array, progress: Progress
) -> tuple[OuterState, dict[str, Array]]:
    """A step of the centre along an estimated gradient -> state, metrics of the generation.

    Args:
        outer: `Evolution` or `PersistentEvolution`: its optimiser, weight decay and sigma.
        state: with the centre, `rule_params`, and the optimiser's state.
        ascent: the gradient.
        fitness: that it was estimated from, `[P, 2, ...]`.
        progress: of the outer loop.
    """
    centre = state.rule_params
    descent = jax.tree.map(lambda g, c: outer.weight_decay * c - g, ascent, centre)
    centre, optimiser = outer.optimiser.step(descent, state.optimiser, centre, progress)
    return state.replace(rule_params=centre, optimiser=optimiser, step=state.step + 1), {
        **fitness_metrics(fitness),
        "meta_gradient_norm": optax.global_norm(ascent),
        "sigma": jnp.asarray(value_at(outer.sigma, progress), fitness.dtype),
    }


def fitness_metrics(fitness: Array) -> dict[str, Array]:
    """Mean of what is finite, NaN where all are lost, and the share of what is not."""
    finite = jnp.isfinite(fitness)
    return {
        "population_fitness": jnp.sum(jnp.where(finite, fitness, 0.0)) / jnp.sum(finite),
        "nonfinite_fraction": 1.0 - jnp.mean(finite),
    }
