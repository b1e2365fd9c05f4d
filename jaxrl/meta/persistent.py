"""Persistent evolution: a step after every window of updates, unbiased over whole lives."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.agents.optimiser import Optimiser
from jaxrl.core import struct
from jaxrl.core.protocols import Agent
from jaxrl.core.schedules import Schedule, value_at
from jaxrl.core.settings import check_settings, setting
from jaxrl.core.types import Array, Key, Progress, PyTree, select
from jaxrl.meta.evolution import climb, is_broken
from jaxrl.meta.lives import Life, birth_keys, earnings, ratio, restart, start_life, step_life
from jaxrl.meta.mirrored import Particles, persistent_estimate, unroll_pairs
from jaxrl.meta.shaping import Plain, Shaping
from jaxrl.meta.tasks import TaskDistribution, take
from jaxrl.meta.tuned import Tuned


@struct.dataclass
class PersistentState:
    """Everything that the next window needs."""

    rule_params: dict[str, PyTree]  # the centre
    optimiser: PyTree
    particles: Particles  # states are `Life`
    ends: Array  # [P + C] environment steps after which lives are replaced
    births: Array  # [P + C] int32, lives begun in each place
    key: Key
    step: Array  # [] int32, outer steps done


@struct.dataclass
class PersistentEvolution:
    """Evolution strategies with a step after every `window` updates of lives that go on.

        f_{p,t}+- = reward of window t of the lives under centre +- sigma e_{p,t}, per step
        w = shaping(f),   g = mean_p w_p sum_{k <= t} e_{p,k} / sigma_k - weight_decay centre

    As `Evolution`, but the centre moves many times in a life. The sum over a life's past
    perturbations keeps what the windows before did to this one: without it, as in meta-gradients
    through K updates, what pays late is not seen. The price is variance, which grows with the
    number of windows of a life, and the lag of lives that began under an older centre. Only `Plain`
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
        shaping: `Plain`, or one that gives up unbiasedness for robustness.
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
    shaping: Shaping = struct.field(default_factory=Plain)
    optimiser: Optimiser = struct.field(
        default_factory=lambda: Optimiser(learning_rate=0.02, max_grad_norm=None)
    )
    sigma: float | Schedule = setting(
        0.1, "standard deviation of the perturbations", low=0.0, low_open=True
    )
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

    def init(self, key: Key) -> PersistentState:
        """New lives, and the centre where `tuned` starts.

        Raises:
            ValueError: a setting out of range.
        """
        check_settings(self)
        _, life_key, end_key = jax.random.split(key, 3)
        rule_params = self.tuned.init()
        births = jnp.zeros(self.num_pairs + self.num_centre_lives, jnp.int32)
        lives = self._born(life_key, births)
        scores = jax.tree.map(
            lambda leaf: jnp.zeros((self.num_pairs, *jnp.shape(leaf)), jnp.result_type(leaf)),
            rule_params,
        )
        share = jax.random.uniform(end_key, births.shape)
        return PersistentState(
            rule_params=rule_params,
            optimiser=self.optimiser.init(rule_params),
            particles=Particles(take(lives, self._places), scores),
            ends=lives.total_steps * share,
            births=births + 1,
            key=key,
            step=jnp.zeros((), jnp.int32),
        )

    def agent(self, state: PersistentState) -> Agent:
        """The agent at the centre."""
        return self.tuned.agent_of(state.rule_params)

    def step(self, state: PersistentState) -> tuple[PersistentState, dict[str, Array]]:
        """One window of every life, and a step of the centre -> state, metrics."""
        noise_key, life_key, _ = jax.random.split(state.key, 3)
        progress = Progress(state.step, jnp.asarray(self.num_steps, jnp.float32))
        sigma, centre = value_at(self.sigma, progress), state.rule_params
        particles, of_pairs, of_centre = unroll_pairs(
            self._window,
            jax.random.fold_in(noise_key, state.step),
            centre,
            sigma,
            state.particles,
            chunk=self.chunk,
            num_devices=self.num_devices,
        )
        fitness, rates = of_pairs["rate"], of_centre["rate"]
        ascent = persistent_estimate(particles, self.shaping.weights(fitness))
        after, report = climb(self, state, ascent, fitness, progress)

        one_each: Life = take(particles.states, self._speakers)
        finite = jnp.concatenate([jnp.all(jnp.isfinite(fitness), 1), jnp.isfinite(rates)])
        steps = one_each.steps_done(self.tuned.agent)
        over = (steps >= jnp.minimum(state.ends, one_each.total_steps)) | ~finite
        after = after.replace(
            particles=jax.lax.cond(
                jnp.any(over),
                lambda: self._replaced(over, particles, self._born(life_key, state.births)),
                lambda: particles,
            ),
            ends=jnp.where(over, jnp.inf, state.ends),
            births=state.births + over,
            step=state.step + 1,
        )
        totals = (jnp.sum(of_centre[name]) for name in ("episode_return", "num_episodes"))
        return after, report | {
            "centre_rate": jnp.mean(rates),
            "centre_episode_return": ratio(*totals),
            "replaced_fraction": jnp.mean(over),
        }

    # ---- parts -----------------------------------------------------------------------------

    def _born(self, key: Key, births: Array) -> Life:
        """Life `births[p]` in every place p, `[P + C]`."""

        def one(own: Key) -> Life:
            task_key, life_key = jax.random.split(own)
            # What is searched does not change how a life starts.
            return start_life(life_key, self.tuned.agent, self.tasks.sample(task_key))

        return jax.vmap(one)(birth_keys(key, births))

    @property
    def _places(self) -> Array:
        """Of each row of the particles, both of a pair alike, `[2 P + C]`."""
        rows = jnp.arange(2 * self.num_pairs + self.num_centre_lives)
        return jnp.where(rows < 2 * self.num_pairs, rows // 2, rows - self.num_pairs)

    @property
    def _speakers(self) -> Array:
        """The row that stands for each place, the first of a pair, `[P + C]`."""
        places = jnp.arange(self.num_pairs + self.num_centre_lives)
        return places + jnp.minimum(places, self.num_pairs)

    def _replaced(self, over: Array, particles: Particles, fresh: Life) -> Particles:
        nothing = jax.tree.map(jnp.zeros_like, particles.scores)
        return Particles(
            restart(over[self._places], particles.states, take(fresh, self._places)),
            select(over[: self.num_pairs], nothing, particles.scores),
        )

    def _window(self, rule_params: PyTree, life: Life) -> tuple[Life, dict[str, Array]]:
        """`window` updates of one life -> life, what it earned."""
        agent = self.tuned.agent_of(rule_params)
        per_update = agent.num_envs * agent.rollout_length
        late_from = jnp.where(self.last_part < 1.0, (1.0 - self.last_part) * life.total_steps, 0.0)

        def update(life: Life, _: None) -> tuple[Life, Array]:
            after, tally = step_life(agent, life)
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
