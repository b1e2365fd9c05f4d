"""What an experiment is: an update rule is learned, then compared with tuned ones on new lives."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxrl.agents.actor_critic import ActorCriticAgent
from jaxrl.agents.optimiser import Optimiser
from jaxrl.core.protocols import Agent
from jaxrl.core.types import Array, Key
from jaxrl.meta.comparison import Comparison, Grid, compare
from jaxrl.meta.fitting import FitResult, OuterLoop, fit
from jaxrl.meta.lives import HeldOut
from jaxrl.meta.self_tuning import SelfTuning, TunedLife, Watch
from jaxrl.networks import NetworkSettings
from jaxrl.rules import AdvantageActorCritic
from jaxrl.training.checkpoint import Checkpoints

Report = Callable[[str, int, Mapping[str, float]], None]
_NUM_POINTS = 400  # of a curve, at most


@dataclasses.dataclass(frozen=True)
class Run:
    """How an experiment is run this time.

    Attributes:
        seed: meta-seed: of what is learned, the lives learned from, and the held-out ones.
        num_steps: outer steps, instead of the experiment's own number.
        checkpoints: where each outer loop saves, by the name of what it learns.
        report: told what is learned, the outer steps done and their mean metrics.
        stop: whether to stop, asked after every chunk and after every comparison.
    """

    seed: int = 0
    num_steps: int | None = None
    checkpoints: Mapping[str, Checkpoints] = dataclasses.field(default_factory=dict)
    report: Report | None = None
    stop: Callable[[], bool] = lambda: False

    @property
    def comparison_key(self) -> Key:
        """Of the lives that settings are chosen on, and of the held-out ones."""
        return jax.random.fold_in(jax.random.key(2), self.seed)

    def note(self, part: str, step: int, metrics: Mapping[str, float]) -> None:
        """Report, and see whether to stop: see `go_on`."""
        if self.report is not None:
            self.report(part, step, metrics)
        self.go_on()

    def go_on(self) -> None:
        """Raise `KeyboardInterrupt`, as Ctrl-C does, when it is time to stop."""
        if self.stop():
            raise KeyboardInterrupt


@dataclasses.dataclass(frozen=True)
class ExperimentResult:
    """What a run of an experiment leaves."""

    fits: dict[str, FitResult]  # by name of what was learned
    comparisons: dict[str, Comparison]  # by name of the held-out lives
    cpu_seconds: dict[str, float]  # of learning each, compilation included [s]
    notes: str = ""  # Markdown, under the tables
    curves: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)  # to draw

    def table(self) -> str:
        """Markdown."""
        lines = []
        for name, comparison in self.comparisons.items():
            lines += [f"### {name}", "", comparison.table(), ""]
        spent = ", ".join(f"{name} {value:.0f} s" for name, value in self.cpu_seconds.items())
        lines += [f"CPU time of learning: {spent}."]
        return "\n".join(lines + ["", self.notes] * bool(self.notes))


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What is learned, by how many outer steps, and what it is compared with.

    Attributes:
        about: one line.
        learned: outer loops by the name of what they learn, or learners that tune themselves; each
            takes the number of a meta-seed.
        num_steps: outer steps of each; updates of the longest life of those that tune themselves.
        held_out: lives that nothing was learned on; the first are of the law of training.
        baselines: hand-written agents, by name.
        tune: settings tried for each baseline.
        num_tuning_lives: for each combination of them.
        measures: of a life, one table for each.
        tune_learned: try the settings for what was learned too.
        afterwards: from the experiment, this run of it and its result, a result with more in it.
        watch: what the curves show of a learner that tunes itself; by default its tuned numbers.
    """

    about: str
    learned: Mapping[str, Callable[[int], OuterLoop | SelfTuning]]
    num_steps: int
    held_out: Mapping[str, HeldOut]
    baselines: Mapping[str, Agent]
    tune: Grid
    num_tuning_lives: int = 128
    measures: tuple[str, ...] = ("final_return",)
    tune_learned: bool = False
    afterwards: Callable[[Experiment, Run, ExperimentResult], ExperimentResult] | None = None
    watch: Watch | None = None

    def run(self, run: Run) -> ExperimentResult:
        """Fit every outer loop, tune every baseline, and compare all on the same new lives.

        What tunes itself is saved nowhere, and lives for `num_steps` updates. It has no fit, and
        curves by `"learner/number"` and `"learner/reward rate"`, `[lives, P]`, and
        `"learner/steps"`, environment steps at the end of each point's span, `[P]`. Its tables go
        by the measure.
        """
        key, num_steps = run.comparison_key, run.num_steps or self.num_steps
        found = ExperimentResult({}, {}, {})
        agents, tuners = dict(self.baselines), {}
        for part, make in self.learned.items():
            started, learner = time.process_time(), make(run.seed)
            if isinstance(learner, SelfTuning):
                tuners[part] = learner
                continue
            found.fits[part] = fit(
                jax.random.fold_in(jax.random.key(1), run.seed),
                learner,
                num_steps=num_steps,
                checkpoints=run.checkpoints.get(part),
                report=partial(run.note, part),  # where it raises, `fit` saves and returns
            )
            run.go_on()
            found.cpu_seconds[part] = time.process_time() - started
            agents[part] = found.fits[part].agent
        tune = dict.fromkeys(agents if self.tune_learned else self.baselines, self.tune)
        for name, held_out in self.held_out.items():
            lives = {}
            for part, learner in tuners.items():
                held_out = held_out.lasting(learner.tuned.agent, num_steps)
                started = time.process_time()
                one = learner.lives(jax.random.fold_in(key, 1), held_out, self.watch)
                lives[part] = jax.block_until_ready(one)
                found.cpu_seconds[part] = time.process_time() - started
                found.curves.update(_curves(part, learner, one, held_out.total_steps))
                scores = one.lifetime.measures
                run.note(part, num_steps, {m: float(np.mean(scores[m])) for m in self.measures})
            settings = {"tune": tune, "num_tuning_lives": self.num_tuning_lives}
            for measure in self.measures:
                one = compare(key, agents, held_out, measure=measure, **settings)
                for part, life in lives.items():
                    agent = tuners[part].tuned.agent
                    one = one.beside(part, agent, life.lifetime.measures[measure])
                found.comparisons[measure.replace("_", " ") if lives else name] = one
                run.go_on()
        return found if self.afterwards is None else self.afterwards(self, run, found)


def _curves(
    name: str, learner: SelfTuning, lives: TunedLife, total_steps: float
) -> dict[str, np.ndarray]:
    """Means over equal spans of outer steps, by name."""
    agent, num_steps = learner.tuned.agent, lives.rates.shape[1]
    span = math.ceil(num_steps / _NUM_POINTS)

    def thin(rows: Array) -> np.ndarray:
        whole = np.asarray(rows)[:, : num_steps // span * span]
        return whole.reshape(len(whole), -1, span, *whole.shape[2:]).mean(axis=2)

    watched = lives.watched if isinstance(lives.watched, Mapping) else {"watched": lives.watched}
    found = {f"{name}/{number}": thin(row) for number, row in watched.items()}
    rates = found[f"{name}/reward rate"] = thin(lives.rates)
    per_step = learner.updates_per_step * agent.num_envs * agent.rollout_length
    ends = np.arange(1, rates.shape[1] + 1) * span * per_step
    return {**found, f"{name}/steps": np.minimum(ends, total_steps)}


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
