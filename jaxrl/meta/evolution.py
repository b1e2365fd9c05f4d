"""Searches for a better rule without derivatives: evolution strategies, or any that are asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrl.agents.optimiser import GradientStep, Optimiser, as_optimiser
from jaxrl.core import Struct, struct
from jaxrl.core.protocols import Agent
from jaxrl.core.schedules import Schedule, value_at
from jaxrl.core.settings import check_settings, setting
from jaxrl.core.types import Array, Key, Progress, PyTree, select
from jaxrl.meta import lives, mirrored
from jaxrl.meta.lives import Life, OuterState, over_rows
from jaxrl.meta.mirrored import Rows, Shaping
from jaxrl.meta.numbers import Tuned
from jaxrl.meta.tasks import TaskDistribution, take


class Evolution(Struct):
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
        num_updates: of the longest life, each of `num_envs * rollout_length` steps; longer ones are
            cut there.
        shaping: from the fitness `[P, 2]` of centre + sigma e and of centre - sigma e to the weight
            of e `[P]`: one of `shapings`, which has them by name, or any such function.
        optimiser: of the centre; it counts generations.
        sigma: of the perturbations, in the units of the free numbers of `tuned`: log-odds of a
            number with two ends, logarithms of one with one.
        weight_decay: pulls free numbers towards 0, for weights of networks.
        num_generations: that the schedules of `sigma` and of the optimiser see.
        num_pairs: P.
        num_lives: of each candidate.
        common_tasks: all pairs of a generation in the same tasks.
        shape_each: shape every life's fitness apart and average the weights. With `common_tasks`
            and `shapings["z_score"]`, tasks of unlike scales count alike.
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
        >>> from jaxrl.meta import RandomBandits, tuned
        >>> rule = tuned(a2c(), ["discount", "entropy_weight"])
        >>> steps = a2c().num_envs * a2c().rollout_length  # of an update
        >>> outer = Evolution(rule, RandomBandits(10_240.0), num_updates=10_240 // steps)
        >>> state = outer.init(jax.random.key(0))  # then `outer.step`, jitted, or `meta.fit`
        >>> outer.num_updates, f"{float(outer.agent(state).discount):.2f}"
        (20, '0.99')
    """

    shapings: ClassVar[Mapping[str, Shaping]] = mirrored.SHAPINGS

    tuned: Tuned
    tasks: TaskDistribution
    num_updates: int = struct.field(pytree_node=False)
    shaping: Shaping = setting(mirrored.pair_sign, "from fitness to weights")
    optimiser: GradientStep = struct.field(
        default=Optimiser(learning_rate=0.02, max_grad_norm=None), converter=as_optimiser
    )
    sigma: float | Schedule = setting(0.1, "spread of the perturbations", low=0.0, low_open=True)
    weight_decay: float = setting(0.0, "pull of the free numbers towards 0", low=0.0)
    num_generations: float = setting(float("inf"), "generations that schedules see", low=1.0)
    num_pairs: int = setting(32, "mirrored pairs in a generation", low=1)
    num_lives: int = setting(1, "lives of each candidate", low=1)
    common_tasks: bool = setting(False, "all pairs in the same tasks")
    shape_each: bool = setting(False, "shape every life's fitness apart")
    fitness: str = setting("final_return", "what of a life counts", choices=lives.MEASURES)
    last_part: float = struct.field(pytree_node=False, default=0.1)
    num_centre_lives: int = setting(8, "lives that report the centre", low=1)
    chunk: int = setting(0, "pairs in one part of the batch; 0 for all", low=0)
    num_devices: int = setting(1, "devices that a chunk is spread over", low=1)

    @property
    def parts(self) -> tuple[int, int]:
        """The pairs, and how many are computed at once; 0 for all."""
        return self.num_pairs, self.chunk

    def init(self, key: Key) -> OuterState:
        """The centre where `tuned` starts.

        Raises:
            ValueError: a setting out of range.
        """
        check_settings(self)
        return OuterState.first(self, key)

    def agent(self, state: OuterState) -> Agent:
        """The agent at the centre."""
        return self.tuned.agent_of(state.rule_params)

    def step(self, state: OuterState) -> tuple[OuterState, dict[str, Array]]:
        """One generation -> state, metrics (of the centre before the step)."""
        key, centre = jax.random.fold_in(state.key, state.step), state.rule_params
        progress = Progress(state.step, jnp.asarray(self.num_generations, jnp.float32))
        sigma = value_at(self.sigma, progress)

        def of_row(row: Rows) -> dict[str, Array]:
            def spent(pair: Array, purpose: int) -> Key:
                own = jax.random.fold_in(jax.random.fold_in(key, pair), purpose)
                return jax.random.fold_in(own, row.number)

            shared = jnp.where(row.sign == 0, row.pair, jnp.uint32(mirrored.SHARED))
            task_key = spent(shared if self.common_tasks else row.pair, mirrored.TASK)
            rule_params = mirrored.candidate(key, row, centre, sigma)
            return self.measures_of(rule_params, task_key, spent(row.pair, mirrored.SEED))

        rows = mirrored.rows_of(self.num_pairs, self.num_lives, self.num_centre_lives)
        found = over_rows(of_row, (rows,), 2 * self.num_lives * self.chunk, self.num_devices)
        pairs, of_centre = mirrored.split_rows(found, self.num_pairs, 2, self.num_lives)
        fitness = pairs[self.fitness]
        if self.shape_each:
            weights = jnp.mean(jax.vmap(self.shaping, 2)(fitness), axis=0)
        else:
            weights = self.shaping(jnp.mean(fitness, axis=2))
        ascent = mirrored.estimate(key, centre, weights, sigma, self.chunk)
        state, report = climb(self, state, ascent, fitness, progress)
        return state, report | {f"centre_{name}": jnp.mean(row) for name, row in of_centre.items()}

    def measures_of(self, rule_params: PyTree, task_key: Key, life_key: Key) -> dict[str, Array]:
        """What one life of a candidate earns, by name, `[]` each.

        Batch it over candidates and keys to search with another strategy.
        """
        found = lives.live(
            life_key,
            self.tuned.agent_of(rule_params),
            self.tasks.sample(task_key),
            num_updates=self.num_updates,
            last_part=self.last_part,
        )
        lost = is_broken(found.life.train.agent)
        return {name: jnp.where(lost, jnp.nan, row) for name, row in found.measures.items()}


class PersistentEvolution(Struct):
    """Evolution strategies with a step after every `window` updates of lives that go on.

        f_{p,t}+- = reward of window t of the lives under centre +- sigma e_{p,t}, per step
        w = shaping(f),   g = mean_p w_p sum_{k <= t} e_{p,k} / sigma_k - weight_decay centre

    As `Evolution`, but the centre moves many times in a life. The sum over a life's past
    perturbations keeps what the windows before did to this one: without it, as in meta-gradients
    through K updates, what pays late is not seen. The price is variance, which grows with the
    number of windows of a life, and the lag of lives that began under an older centre. Only `plain`
    shaping keeps the estimate unbiased.

    The fitness is reward, not the return of episodes, which do not end where windows do. Lives are
    replaced by new ones in new tasks when their steps are spent; the first ones end early, spread
    over a lifetime, so that young and old are always seen. Long lives count in proportion to their
    length. A pair with a fitness that is not finite is counted and replaced; the one of the two
    that was finite wins.

    The metrics report the centre: C more lives go on under it, of all ages as the others are. Its
    final and lifetime returns are those of whole lives held out.

    Attributes:
        tuned: the agent, and which of its numbers are searched.
        tasks: where lives are lived.
        window: updates of each life in an outer step.
        shaping: `plain`, or another of `Evolution`'s, which gives up unbiasedness for robustness.
        optimiser: of the centre; it counts outer steps.
        sigma: of the perturbations, in the units of the free numbers of `tuned`.
        weight_decay: pulls free numbers towards 0, for weights of networks.
        num_steps: outer steps that the schedules of `sigma` and of the optimiser see.
        num_pairs: P; each pair lives one life, twice.
        last_part: share of a life, its end, whose reward counts; traced.
        num_centre_lives: C lives that go on under the centre, for its report.
        chunk: pairs in one part of the batch, to bound working memory; 0 for all at once.
        num_devices: that a part is spread over.

    Sources: Vicol, Metz & Sohl-Dickstein 2021, Unbiased gradient estimation in unrolled computation
    graphs with persistent evolution strategies.
    """

    tuned: Tuned
    tasks: TaskDistribution
    window: int = setting(20, "updates of each life in an outer step", low=1)
    shaping: Shaping = setting(mirrored.plain, "from fitness to weights")
    optimiser: GradientStep = struct.field(
        default=Optimiser(learning_rate=0.02, max_grad_norm=None), converter=as_optimiser
    )
    sigma: float | Schedule = setting(0.1, "spread of the perturbations", low=0.0, low_open=True)
    weight_decay: float = setting(0.0, "pull of the free numbers towards 0", low=0.0)
    num_steps: float = setting(float("inf"), "outer steps that schedules see", low=1.0)
    num_pairs: int = setting(32, "mirrored pairs", low=1)
    last_part: float = setting(1.0, "share of a life whose reward counts", low=0.0, high=1.0)
    num_centre_lives: int = setting(8, "lives that report the centre", low=1)
    chunk: int = setting(0, "pairs in one part of the batch; 0 for all", low=0)
    num_devices: int = setting(1, "devices that a chunk is spread over", low=1)

    @property
    def parts(self) -> tuple[int, int]:
        """The pairs, and how many are computed at once; 0 for all."""
        return self.num_pairs, self.chunk

    def init(self, key: Key) -> OuterState:
        """New lives, and the centre where `tuned` starts.

        Raises:
            ValueError: a setting out of range.
        """
        check_settings(self)
        _, life_key, end_key = jax.random.split(key, 3)
        state = OuterState.first(self, key)
        births = jnp.zeros(self.num_pairs + self.num_centre_lives, jnp.int32)
        begun = self._born(life_key, births)
        scores = jax.tree.map(
            lambda leaf: jnp.zeros((self.num_pairs, *jnp.shape(leaf)), jnp.result_type(leaf)),
            state.rule_params,
        )
        lived = take(begun, self._places)
        return state.begun(end_key, begun).replace(lives=lived, memory=scores)

    def agent(self, state: OuterState) -> Agent:
        """The agent at the centre."""
        return self.tuned.agent_of(state.rule_params)

    def step(self, state: OuterState) -> tuple[OuterState, dict[str, Array]]:
        """One window of every life -> state, metrics (of the centre before the step)."""
        noise_key, life_key, _ = jax.random.split(state.key, 3)
        key = jax.random.fold_in(noise_key, state.step)
        progress = Progress(state.step, jnp.asarray(self.num_steps, jnp.float32))
        sigma, centre = value_at(self.sigma, progress), state.rule_params

        def of_row(row: Rows, life: Life) -> tuple[Life, dict[str, Array]]:
            return self.unroll(mirrored.candidate(key, row, centre, sigma), life)

        rows = (mirrored.rows_of(self.num_pairs, 1, self.num_centre_lives), state.lives)
        lived, earned = over_rows(of_row, rows, 2 * self.chunk, self.num_devices)
        of_pairs, of_centre = mirrored.split_rows(earned, self.num_pairs, 2)
        pairs = jnp.arange(self.num_pairs, dtype=jnp.uint32)
        noise = jax.vmap(mirrored.pair_noise, (None, 0, None))(key, pairs, centre)
        scores = jax.tree.map(
            lambda s, e: s + e / jnp.asarray(sigma).astype(e.dtype), state.memory, noise
        )
        fitness, rates = of_pairs["rate"], of_centre["rate"]
        weights = self.shaping(fitness)
        ascent = jax.tree.map(lambda s: mirrored.weighted(weights, s) / self.num_pairs, scores)
        after, report = climb(self, state, ascent, fitness, progress)

        places = self._places
        one_each: Life = take(lived, np.unique(places, return_index=True)[1])
        finite = jnp.concatenate([jnp.all(jnp.isfinite(fitness), 1), jnp.isfinite(rates)])
        over = state.over(self.tuned.agent, one_each) | ~finite

        def renewed() -> tuple[Life, PyTree]:
            fresh = take(self._born(life_key, state.births), places)
            nothing = jax.tree.map(jnp.zeros_like, scores)
            begun = select(over[places], fresh, lived)
            return begun, select(over[: self.num_pairs], nothing, scores)

        lived, scores = jax.lax.cond(jnp.any(over), renewed, lambda: (lived, scores))
        totals = (jnp.sum(of_centre[name]) for name in ("episode_return", "num_episodes"))
        return after.renewed(over, lived, scores), report | {
            "centre_rate": jnp.mean(rates),
            "centre_episode_return": lives.ratio(*totals),
            "replaced_fraction": jnp.mean(over),
        }

    def _born(self, key: Key, births: Array) -> Life:
        """Life `births[p]` in every place p, `[P + C]`."""

        def one(own: Key) -> Life:
            task_key, life_key = jax.random.split(own)
            # What is searched does not change how a life starts.
            return Life.start(life_key, self.tuned.agent, self.tasks.sample(task_key))

        return jax.vmap(one)(lives.birth_keys(key, births))

    @property
    def _places(self) -> np.ndarray:
        """Of each row of lives its place, both of a pair alike, `[2 P + C]`."""
        pairs, places = self.num_pairs, np.arange(self.num_pairs + self.num_centre_lives)
        return np.repeat(places, np.where(places < pairs, 2, 1))

    def unroll(self, rule_params: PyTree, life: Life) -> tuple[Life, dict[str, Array]]:
        """`window` updates of one life under a candidate -> life, what it earned, `[]` each."""
        agent = self.tuned.agent_of(rule_params)
        per_update = agent.num_envs * agent.rollout_length
        late_from = jnp.where(self.last_part < 1.0, (1.0 - self.last_part) * life.total_steps, 0.0)

        def update(life: Life, _: None) -> tuple[Life, Array]:
            after, tally = life.step(agent)
            row = lives.earnings(life.train, after.train, tally)
            late = after.steps_done(agent) > late_from
            return after, row.at[2].set(jnp.where(late, row[2], 0.0))

        life, rows = jax.lax.scan(update, life, None, self.window)
        num_episodes, returns, earned = jnp.sum(rows, axis=0)
        rate = earned / (self.window * per_update)
        return life, {
            "rate": jnp.where(is_broken(life.train.agent), jnp.nan, rate),
            "episode_return": returns,
            "num_episodes": num_episodes,
        }


class StrategySearch(Struct):
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
    def parts(self) -> tuple[int, int]:
        """The candidates, and how many are computed at once; 0 for all."""
        return self.strategy.population_size, self.evolution.chunk

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
        state, first = self.strategy.init(key, start, self._params), jnp.zeros((), jnp.int32)
        return OuterState(self.strategy.get_mean(state), state, key, first)

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

        lives_key = jax.random.fold_in(key, lives.CANDIDATES)
        fitness = over_rows(
            lambda one: earned(one, lives_key, outer.num_lives)[outer.fitness],
            (population,),
            outer.chunk,
            outer.num_devices,
        )
        least = jnp.min(jnp.where(jnp.isfinite(fitness), fitness, jnp.inf))
        lost = jnp.where(jnp.isfinite(least), least, 0.0)
        told = jnp.where(jnp.isfinite(fitness), fitness, lost)
        after, _ = self.strategy.tell(tell_key, population, -told, asked, self._params)
        centre_key = jax.random.fold_in(key, lives.MEAN)
        centre = earned(state.rule_params, centre_key, outer.num_centre_lives)
        report = {f"centre_{name}": row for name, row in centre.items()}
        after = OuterState(self.strategy.get_mean(after), after, state.key, state.step + 1)
        return after, report | fitness_metrics(fitness)

    @property
    def _params(self) -> PyTree:
        return self.strategy.default_params if self.params is None else self.params


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
        "meta_gradient_norm": optax.tree.norm(ascent),
        "sigma": jnp.asarray(value_at(outer.sigma, progress), fitness.dtype),
    }


def fitness_metrics(fitness: Array) -> dict[str, Array]:
    """Mean of what is finite, NaN where all are lost, and the share of what is not."""
    finite = jnp.isfinite(fitness)
    return {
        "population_fitness": jnp.sum(jnp.where(finite, fitness, 0.0)) / jnp.sum(finite),
        "nonfinite_fraction": 1.0 - jnp.mean(finite),
    }
