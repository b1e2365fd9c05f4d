"""Learners that tune themselves in the one life they have; and that short horizons lie."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.agents.actor_critic import ActorCriticAgent
from jaxrl.agents.optimiser import Optimiser, RMSProp
from jaxrl.core.protocols import Agent
from jaxrl.core.types import Array, PyTree
from jaxrl.envs import TwoColours
from jaxrl.meta.compare import Grid, compare
from jaxrl.meta.experiments.experiment import ExperimentResult, Run, table_agent
from jaxrl.meta.fit import HeldOut
from jaxrl.meta.objectives import Bootstrap, OuterCritic, PolicyReturn
from jaxrl.meta.tasks import Fixed, RandomMazes
from jaxrl.meta.tuned import tuned
from jaxrl.meta.tuned_lives import SelfTuning, TunedLife, Watch, beside, tuned_lives
from jaxrl.networks import NetworkSettings
from jaxrl.rules import AdvantageActorCritic
from jaxrl.rules.reactive import reactive_entropy


@dataclasses.dataclass(frozen=True)
class LifelongExperiment:
    """Learners that tune themselves, in the same lives as agents that do not.

    Attributes:
        about: one line.
        learners: by name, from a meta-seed.
        baselines: agents, by name; the first is what the tables compare with.
        tune: settings tried for each baseline, by its name.
        held_out: the lives, given the updates of the longest.
        num_steps: updates of the longest life.
        measures: of a life, one table for each.
        num_tuning_lives: for each combination of settings tried.
        watch: what the curves show of a learner; by default its tuned numbers.
        num_points: of each curve, at most.
    """

    about: str
    learners: Callable[[int], Mapping[str, SelfTuning]]
    baselines: Mapping[str, Agent]
    tune: Mapping[str, Grid]
    held_out: Callable[[int], HeldOut]
    num_steps: int
    measures: tuple[str, ...]
    num_tuning_lives: int = 32
    watch: Watch | None = None
    num_points: int = 400

    @property
    def learned(self) -> tuple[str, ...]:
        """Names of the learners."""
        return tuple(self.learners(0))

    def run(self, run: Run) -> ExperimentResult:
        """Tune every baseline, live all lives, and compare.

        Here `run.num_steps` counts updates of the longest life; lives are saved nowhere.

        Returns:
            no fits; curves by `"learner/number"` and `"learner/reward rate"`, `[lives, P]`, and
            `"learner/steps"`, environment steps at the end of each point's span, `[P]`.
        """
        num_updates = run.num_steps or self.num_steps
        key, held_out = run.comparison_key, self.held_out(num_updates)
        learners, lives = self.learners(run.seed), {}
        curves: dict[str, np.ndarray] = {}
        seconds: dict[str, float] = {}
        for name, learner in learners.items():
            started = time.process_time()
            found = tuned_lives(jax.random.fold_in(key, 1), learner, held_out, self.watch)
            lives[name] = jax.block_until_ready(found)
            seconds[name] = time.process_time() - started
            curves |= _curves(name, learner, found, held_out.total_steps, self.num_points)
            scores = {m: float(np.mean(getattr(found.lifetime, m))) for m in self.measures}
            run.note(name, num_updates, scores)
        comparisons = {
            measure.replace("_", " "): beside(
                compare(
                    key,
                    self.baselines,
                    held_out,
                    tune=self.tune,
                    num_tuning_lives=self.num_tuning_lives,
                    measure=measure,
                ),
                learners,
                lives,
            )
            for measure in self.measures
        }
        return ExperimentResult({}, comparisons, seconds, curves=curves)


def short_horizons() -> LifelongExperiment:
    """Four numbers of an actor-critic, tuned as it learns a maze, with short and long sight.

    Every learner starts from the untuned agent's numbers. With short sight it takes five times as
    many outer steps as with long sight; the slow one moves its numbers a fifth as far in each.
    """
    agent = table_agent(num_envs=4).replace(
        optimiser=Optimiser(learning_rate=0.04, max_grad_norm=None)
    )
    names = ["discount", "rule.lambda_", "rule.entropy_weight", "optimiser.learning_rate"]

    def rate(value: float) -> Optimiser:
        return Optimiser(learning_rate=value, max_grad_norm=None)

    def learners(seed: int) -> Mapping[str, SelfTuning]:
        short = SelfTuning(tuned(agent, names), optimiser=rate(0.4), num_updates=5)
        return {
            "5 updates": short,
            "25 updates": short.replace(num_updates=25),
            "5 updates, target of 20": short.replace(objective=Bootstrap(agent, num_further=19)),
            "5 updates, slow": short.replace(optimiser=rate(0.08)),
        }

    def held_out(num_updates: int) -> HeldOut:
        steps = float(num_updates * agent.num_envs * agent.rollout_length)
        return HeldOut(RandomMazes(steps), steps, num_lives=384)

    return LifelongExperiment(
        about="an actor-critic that tunes four of its own numbers, with short and with long sight",
        learners=learners,
        baselines={"untuned": agent},
        tune={},
        held_out=held_out,
        num_steps=150,
        measures=("lifetime_rate", "final_rate", "lifetime_return", "final_return"),
    )


def _curves(
    name: str, learner: SelfTuning, lives: TunedLife, total_steps: float, num_points: int
) -> dict[str, np.ndarray]:
    """Means over equal spans of outer steps, by name."""
    agent, num_steps = learner.tuned.agent, lives.rates.shape[1]
    span = -(-num_steps // num_points)

    def thin(rows: Array) -> np.ndarray:
        whole = np.asarray(rows)[:, : num_steps // span * span]
        return whole.reshape(len(whole), -1, span, *whole.shape[2:]).mean(axis=2)

    per_step = learner.updates_per_step * agent.num_envs * agent.rollout_length
    watched: PyTree = lives.watched
    rows: dict[str, Any] = watched if isinstance(watched, Mapping) else {"watched": watched}
    found = {f"{name}/{number}": thin(row) for number, row in rows.items()}
    found[f"{name}/reward rate"] = rates = thin(lives.rates)
    ends = np.arange(1, rates.shape[1] + 1) * span * per_step
    found[f"{name}/steps"] = np.minimum(ends, total_steps)
    return found


def bootstrapped_entropy(num_swaps: int = 8, swap_period: float = 100_000.0) -> LifelongExperiment:
    """An entropy weight that answers to the rewards of late, learned in the agent's one life.

    The learner's optimiser has no momentum. With it, the plain update at the end of the target
    goes on in the direction of the updates before it, by which the target agrees with whatever the
    entropy weight has been doing, and the weight runs away. The weight has the range that fixed
    ones are tried in: without a lower end its answers grow until too little is left on the plateau
    to learn anew after the next swap.

    Args:
        num_swaps: periods of a life, each with the other colour good.
        swap_period: of each [steps of one environment].
    """
    network = NetworkSettings(hidden_sizes=(32,), activation="tanh")
    plain = ActorCriticAgent(
        rule=AdvantageActorCritic(entropy_weight=0.0, lambda_=0.95),
        network=network,
        optimiser=RMSProp(learning_rate=1e-2, max_grad_norm=None),
        discount=0.95,
        num_envs=4,
        rollout_length=16,
        num_epochs=1,
        num_minibatches=1,
        normalise_advantages=False,
    )
    per_update = plain.num_envs * plain.rollout_length

    def learners(seed: int) -> Mapping[str, SelfTuning]:
        rule = reactive_entropy(jax.random.key(seed), plain.rule, highest=0.3, lowest=0.1)
        # It starts from a constant that a fixed agent does well with, 0.17, and has its range.
        rule = rule.replace(weights={**rule.weights, "shift": jnp.asarray(-0.62)})
        bootstrapped = SelfTuning(
            tuned(plain.replace(rule=rule)),
            objective=Bootstrap(plain, num_further=4),
            critic=OuterCritic(
                network=network,
                discount=0.95,
                optimiser=Optimiser(learning_rate=1e-2, max_grad_norm=None),
            ),
            optimiser=Optimiser(learning_rate=1e-3, max_grad_norm=None, epsilon=1e-3),
            num_updates=5,
        )
        by_return = bootstrapped.replace(objective=PolicyReturn(last_only=True))
        return {"bootstrapped": bootstrapped, "meta-gradient": by_return}

    def held_out(num_updates: int) -> HeldOut:
        steps = float(num_updates * per_update)
        return HeldOut(Fixed(TwoColours(swap_period), steps), steps, num_lives=10)

    return LifelongExperiment(
        about="an entropy weight learned in one life by bootstrapping, on the two-colour grid",
        learners=learners,
        baselines={"fixed weight": plain},
        tune={"fixed weight": {"rule.entropy_weight": [0.1, 0.125, 0.15, 0.175, 0.2, 0.25, 0.3]}},
        held_out=held_out,
        num_steps=round(num_swaps * swap_period) // plain.rollout_length,
        measures=("lifetime_rate",),
        num_tuning_lives=4,
        watch=_entropy_weight,
    )


def _entropy_weight(agent: Any, state: PyTree) -> dict[str, Array]:
    """Under the rewards of the last rollouts."""
    return {"entropy weight": agent.rule.weight(state.rule_state)}
