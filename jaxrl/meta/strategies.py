"""Search for a rule by any strategy that is asked for candidates and told what they earned."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.protocols import Agent
from jaxrl.core.types import Array, Key, PyTree
from jaxrl.meta.evolution import Evolution, fitness_metrics
from jaxrl.meta.lives import OuterState
from jaxrl.meta.rows import over_rows

_LIVES, _CENTRE = 0x11FE, 0xCE27E


@struct.dataclass
class StrategySearch:
    """Whole lives of the candidates of a search strategy, such as those of evosax.

    All candidates of a generation live the same lives, in the same tasks with the same seeds. The
    strategy is told minus their mean fitness, as evosax minimises; a candidate whose fitness is not
    finite is told the least of the generation. Metrics report the strategy's mean, on lives of its
    own, never the best candidate.

    Attributes:
        evolution: what is searched, in which lives, by which fitness, in what parts (`chunk`
            counts candidates). Its pairs, sigma, shaping and optimiser are not used.
        strategy: with `population_size`, `default_params`, `init(key, mean, params)`,
            `ask(key, state, params)`, `tell(key, population, fitness, state, params)` and
            `get_mean(state)`: a distribution-based one of evosax, made for
            `solution=evolution.tuned.init()`.
        params: of the strategy, traced; None for its `default_params`.

    Source: the interface is that of evosax (Lange 2022, evosax: JAX-based evolution strategies).
    """

    evolution: Evolution
    strategy: Any = struct.field(pytree_node=False)
    params: PyTree = None

    @property
    def num_parts(self) -> int:
        """The candidates, of which `evolution.chunk` are computed at once."""
        return self.strategy.population_size

    @property
    def chunk(self) -> int:
        """Candidates in one part of a generation; 0 for all."""
        return self.evolution.chunk

    def init(self, key: Key) -> OuterState:
        """The strategy's mean where `tuned` starts.

        Raises:
            ValueError: a setting out of range, or a strategy without a mean.
        """
        if not hasattr(self.strategy, "get_mean"):
            raise ValueError(
                f"{type(self.strategy).__name__} has no get_mean(state), whose agent is what is "
                "learned: use a distribution-based strategy."
            )
        start = self.evolution.init(key).rule_params
        state = self.strategy.init(key, start, self._params)
        mean = self.strategy.get_mean(state)
        return OuterState(mean, state, key, jnp.zeros((), jnp.int32))

    def agent(self, state: OuterState) -> Agent:
        """The agent at the strategy's mean."""
        return self.evolution.tuned.agent_of(state.rule_params)

    def step(self, state: OuterState) -> tuple[OuterState, dict[str, Array]]:
        """One generation -> state, metrics (of the mean before the step)."""
        outer = self.evolution
        key = jax.random.fold_in(state.key, state.step)
        ask_key, tell_key = jax.random.split(key)
        population, asked = self.strategy.ask(ask_key, state.optimiser, self._params)

        def earned(candidate: PyTree, lives_key: Key, num_lives: int) -> dict[str, Array]:
            def one(number: Array) -> dict[str, Array]:
                task_key, life_key = jax.random.split(jax.random.fold_in(lives_key, number))
                return outer.measures_of(candidate, task_key, life_key)

            measures = jax.vmap(one)(jnp.arange(num_lives))
            return {name: jnp.mean(row) for name, row in measures.items()}

        lives_key = jax.random.fold_in(key, _LIVES)
        fitness = over_rows(
            lambda one: earned(one, lives_key, outer.num_lives)[outer.fitness],
            (population,),
            outer.chunk,
            outer.num_devices,
        )
        finite = jnp.isfinite(fitness)
        least = jnp.min(jnp.where(finite, fitness, jnp.inf))
        told = jnp.where(finite, fitness, jnp.where(jnp.isfinite(least), least, 0.0))
        after, _ = self.strategy.tell(tell_key, population, -told, asked, self._params)
        centre_key = jax.random.fold_in(key, _CENTRE)
        centre = earned(state.rule_params, centre_key, outer.num_centre_lives)
        report = {f"centre_{name}": row for name, row in centre.items()}
        mean = self.strategy.get_mean(after)
        after = OuterState(mean, after, state.key, state.step + 1)
        return after, report | fitness_metrics(fitness)

    @property
    def _params(self) -> PyTree:
        return self.strategy.default_params if self.params is None else self.params
