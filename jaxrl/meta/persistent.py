"""Persistent evolution: a step after every window of updates, unbiased over whole lives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.agents.optimiser import Optimiser
from jaxrl.core import struct
from jaxrl.core.protocols import Agent
from jaxrl.core.schedules import Schedule, value_at
from jaxrl.core.settings import check_settings, setting
from jaxrl.core.types import Array, Key, Progress, PyTree, select
from jaxrl.meta.evolution import climb, is_broken
from jaxrl.meta.lives import (
    Life,
    OuterState,
    birth_keys,
    earnings,
    first_lives,
    first_state,
    ratio,
)
from jaxrl.meta.mirrored import SHAPINGS, Rows, candidate, pair_noise, rows_of, split_rows, weighted
from jaxrl.meta.numbers import Tuned
from jaxrl.meta.rows import over_rows
from jaxrl.meta.tasks import TaskDistribution, take


@struct.dataclass
class PersistentEvolution:
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
        shaping: `plain`, or one of `Evolution`'s that gives up unbiasedness for robustness.
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
    shaping: str = setting("plain", "from fitness to weights", choices=tuple(SHAPINGS))
    optimiser: Optimiser = Optimiser(learning_rate=0.02, max_grad_norm=None)
    sigma: float | Schedule = setting(0.1, "spread of the perturbations", low=0.0, low_open=True)
    weight_decay: float = setting(0.0, "pull of the free numbers towards 0", low=0.0)
    num_steps: float = setting(float("inf"), "outer steps that schedules see", low=1.0)
    num_pairs: int = setting(32, "mirrored pairs", low=1)
    last_part: float = setting(1.0, "share of a life whose reward counts", low=0.0, high=1.0)
    num_centre_lives: int = setting(8, "lives that report the centre", low=1)
    chunk: int = setting(0, "pairs in one part of the batch; 0 for all", low=0)
    num_devices: int = setting(1, "devices that a chunk is spread over", low=1)

    @property
    def num_parts(self) -> int:
        """The pairs, of which `chunk` are computed at once."""
        return self.num_pairs

    def init(self, key: Key) -> OuterState:
        """New lives, and the centre where `tuned` starts.

        Raises:
            ValueError: a setting out of range.
        """
        check_settings(self)
        _, life_key, end_key = jax.random.split(key, 3)
        state = first_state(self, key)
        births = jnp.zeros(self.num_pairs + self.num_centre_lives, jnp.int32)
        lives = self._born(life_key, births)
        scores = jax.tree.map(
            lambda leaf: jnp.zeros((self.num_pairs, *jnp.shape(leaf)), jnp.result_type(leaf)),
            state.rule_params,
        )
        state = first_lives(end_key, state, lives)
        return state.replace(lives=take(lives, self._places), memory=scores)

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
            return self.unroll(candidate(key, row, centre, sigma), life)

        rows = (rows_of(self.num_pairs, 1, self.num_centre_lives), state.lives)
        lives, earned = over_rows(of_row, rows, 2 * self.chunk, self.num_devices)
        of_pairs, of_centre = split_rows(earned, self.num_pairs, 2)
        pairs = jnp.arange(self.num_pairs, dtype=jnp.uint32)
        noise = jax.vmap(pair_noise, (None, 0, None))(key, pairs, centre)
        scores = jax.tree.map(
            lambda s, e: s + e / jnp.asarray(sigma).astype(e.dtype), state.memory, noise
        )
        fitness, rates = of_pairs["rate"], of_centre["rate"]
        weights = SHAPINGS[self.shaping](fitness)
        ascent = jax.tree.map(lambda s: weighted(weights, s) / self.num_pairs, scores)
        after, report = climb(self, state, ascent, fitness, progress)

        places = self._places
        one_each: Life = take(lives, np.unique(places, return_index=True)[1])
        finite = jnp.concatenate([jnp.all(jnp.isfinite(fitness), 1), jnp.isfinite(rates)])
        over = state.over(self.tuned.agent, one_each) | ~finite

        def renewed() -> tuple[Life, PyTree]:
            fresh, nothing = (
                self._born(life_key, state.births),
                jax.tree.map(jnp.zeros_like, scores),
            )
            return (
                select(over[places], take(fresh, places), lives),
                select(over[: self.num_pairs], nothing, scores),
            )

        lives, scores = jax.lax.cond(jnp.any(over), renewed, lambda: (lives, scores))
        totals = (jnp.sum(of_centre[name]) for name in ("episode_return", "num_episodes"))
        return after.renewed(over, lives, scores), report | {
            "centre_rate": jnp.mean(rates),
            "centre_episode_return": ratio(*totals),
            "replaced_fraction": jnp.mean(over),
        }

    def _born(self, key: Key, births: Array) -> Life:
        """Life `births[p]` in every place p, `[P + C]`."""

        def one(own: Key) -> Life:
            task_key, life_key = jax.random.split(own)
            # What is searched does not change how a life starts.
            return Life.start(life_key, self.tuned.agent, self.tasks.sample(task_key))

        return jax.vmap(one)(birth_keys(key, births))

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
            row = earnings(life.train, after.train, tally)
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
