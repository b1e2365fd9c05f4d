"""Named experiments: an update rule is learned, then compared with tuned ones on new lives."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax

from jaxrl.agents.actor_critic import ActorCriticAgent
from jaxrl.agents.optimiser import Optimiser
from jaxrl.core.protocols import Agent
from jaxrl.core.schedules import LinearSteps
from jaxrl.core.settings import near_names
from jaxrl.meta.compare import Comparison, Grid, compare
from jaxrl.meta.evolution import Evolution
from jaxrl.meta.fit import FitResult, HeldOut, OuterLoop, fit
from jaxrl.meta.gradients import MetaGradient
from jaxrl.meta.lifetimes import num_updates_of
from jaxrl.meta.objectives import PolicyReturn
from jaxrl.meta.tasks import Horizon, RandomGrids
from jaxrl.meta.tuned import timed, tuned
from jaxrl.networks import NetworkSettings
from jaxrl.rules import AdvantageActorCritic, lpg
from jaxrl.training.checkpoint import Checkpoints


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What is learned, by how many outer steps, and what it is compared with.

    Attributes:
        about: one line.
        learned: outer loops by the name of what they learn; each takes the number of a meta-seed.
        num_steps: outer steps of each.
        held_out: lives that nothing was learned on; the first are of the law of training.
        baselines: hand-written agents, by name.
        tune: settings tried for each baseline.
        num_tuning_lives: for each combination of them.
        measure: of a life.
    """

    about: str
    learned: Mapping[str, Callable[[int], OuterLoop]]
    num_steps: int
    held_out: Mapping[str, HeldOut]
    baselines: Mapping[str, Agent]
    tune: Grid
    num_tuning_lives: int = 128
    measure: str = "final_return"


@dataclasses.dataclass(frozen=True)
class ExperimentResult:
    """What a run of an experiment leaves."""

    fits: dict[str, FitResult]  # by name of what was learned
    comparisons: dict[str, Comparison]  # by name of the held-out lives
    cpu_seconds: dict[str, float]  # of learning each, compilation included [s]

    def table(self) -> str:
        """Markdown."""
        lines = []
        for name, comparison in self.comparisons.items():
            lines += [f"### {name}", "", comparison.table(), ""]
        spent = ", ".join(f"{name} {value:.0f} s" for name, value in self.cpu_seconds.items())
        return "\n".join([*lines, f"CPU time of learning: {spent}."])


def run_experiment(
    name: str,
    *,
    seed: int = 0,
    num_steps: int | None = None,
    checkpoints: Mapping[str, Checkpoints] | None = None,
    report: Callable[[str, int, Mapping[str, float]], None] | None = None,
) -> ExperimentResult:
    """Run a named experiment.

    Args:
        name: of `EXPERIMENTS`.
        seed: meta-seed: of the first weights, the lives learned from, and the held-out ones.
        num_steps: outer steps, instead of the experiment's own number.
        checkpoints: where each outer loop saves, by the name of what it learns.
        report: told what is learned, the outer steps done and their mean metrics.

    Raises:
        KeyError: no such experiment.
    """
    if name not in EXPERIMENTS:
        raise KeyError(f"unknown experiment {name!r}; {near_names(name, list(EXPERIMENTS))}")
    experiment = EXPERIMENTS[name]()
    fits, seconds = {}, {}
    for part, make in experiment.learned.items():
        started = time.process_time()
        fits[part] = fit(
            jax.random.fold_in(jax.random.key(1), seed),
            make(seed),
            num_steps=num_steps or experiment.num_steps,
            checkpoints=(checkpoints or {}).get(part),
            report=None if report is None else partial(report, part),
        )
        seconds[part] = time.process_time() - started
    agents = {**experiment.baselines, **{part: found.agent for part, found in fits.items()}}
    tune = {part: experiment.tune for part in experiment.baselines}
    comparisons = {
        part: compare(
            jax.random.fold_in(jax.random.key(2), seed),
            agents,
            held_out,
            tune=tune,
            num_tuning_lives=experiment.num_tuning_lives,
            measure=experiment.measure,
        )
        for part, held_out in experiment.held_out.items()
    }
    return ExperimentResult(fits, comparisons, seconds)


# ---- what they are ----------------------------------------------------------------------------


def table_agent(rule: Any = None, **changes: Any) -> ActorCriticAgent:
    """A tabular actor-critic: a linear network on the index of the observation."""
    agent = ActorCriticAgent(
        rule=rule or AdvantageActorCritic(),
        network=NetworkSettings(hidden_sizes=(), initialiser="lecun"),
        optimiser=Optimiser(learning_rate=0.1, max_grad_norm=None),
        num_envs=16,
        rollout_length=20,
        num_epochs=1,
        num_minibatches=1,
    )
    return agent.replace(**changes)


def _lpg() -> Experiment:
    updates = 300
    steps = float(table_agent().num_envs * table_agent().rollout_length * updates)

    def learn(seed: int) -> OuterLoop:
        rule = lpg(jax.random.key(seed), num_hidden=32, num_predictions=8)
        return MetaGradient(
            tuned(table_agent(rule, normalise_advantages=False)),
            RandomGrids(total_steps=steps),
            objective=PolicyReturn(entropy_weight=0.01),
            optimiser=Optimiser(learning_rate=LinearSteps(3e-3, 3e-4, 260.0), max_grad_norm=1.0),
            num_lives=32,
            num_updates=10,
        )

    larger = RandomGrids(total_steps=steps, height=8, width=8)
    return Experiment(
        about="learned policy gradient, by meta-gradients from random weights, on random grids",
        learned={"lpg": learn},
        num_steps=260,
        held_out={
            "grids of the law of training": HeldOut(RandomGrids(total_steps=steps), steps, 256),
            "larger grids": HeldOut(larger, steps, 64),
        },
        baselines={"a2c": table_agent()},
        tune={
            "optimiser.learning_rate": [0.06, 0.1, 0.15],
            "rule.entropy_weight": [0.001, 0.003, 0.01],
        },
        num_tuning_lives=64,
    )


def _timed() -> Experiment:
    longest, shortest = 200, 10
    agent = table_agent()
    per_update = agent.num_envs * agent.rollout_length
    tasks = RandomGrids(
        total_steps=Horizon(float(shortest * per_update), float(longest * per_update))
    )
    names = ["optimiser.learning_rate", "rule.entropy_weight"]

    def learn(build: Callable, seed: int) -> OuterLoop:
        return Evolution(
            build(agent, names),
            tasks,
            num_updates=num_updates_of(agent, longest * per_update),
            num_pairs=32,
            sigma=0.3,
        )

    return Experiment(
        about="rates that know their lifetime, by evolution over lives of many lengths",
        learned={"timed": partial(learn, timed), "constants": partial(learn, tuned)},
        num_steps=100,
        held_out={
            "grids and lives of the law of training": HeldOut(tasks, longest * per_update, 2048)
        },
        baselines={"swept constants": agent},
        tune={
            "optimiser.learning_rate": [0.06, 0.1, 0.15, 0.2, 0.3],
            "rule.entropy_weight": [0.001, 0.003, 0.01, 0.03],
        },
        num_tuning_lives=256,
    )


EXPERIMENTS: dict[str, Callable[[], Experiment]] = {"lpg": _lpg, "timed": _timed}
