"""What an experiment is: an update rule is learned, then compared with tuned ones on new lives."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import jax
import numpy as np

from jaxrl.agents.actor_critic import ActorCriticAgent
from jaxrl.agents.optimiser import Optimiser
from jaxrl.core.protocols import Agent
from jaxrl.core.types import Key
from jaxrl.meta.compare import Comparison, Grid, compare
from jaxrl.meta.fit import FitResult, HeldOut, OuterLoop, fit
from jaxrl.networks import NetworkSettings
from jaxrl.rules import AdvantageActorCritic
from jaxrl.training.checkpoint import Checkpoints

Report = Callable[[str, int, Mapping[str, float]], None]


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

    def fitted(self, part: str, outer: OuterLoop, num_steps: int) -> tuple[FitResult, float]:
        """What an outer loop learns, and the CPU seconds that it took.

        Raises:
            KeyboardInterrupt: `stop` said so; what was learned is saved.
        """
        started = time.process_time()
        found = fit(
            jax.random.fold_in(jax.random.key(1), self.seed),
            outer,
            num_steps=self.num_steps or num_steps,
            checkpoints=self.checkpoints.get(part),
            report=partial(self.note, part),  # where it raises, `fit` saves and returns
        )
        self.go_on()
        return found, time.process_time() - started


class Runnable(Protocol):
    """A named experiment."""

    about: str  # one line
    learned: Any  # names of what is learned
    num_steps: int  # outer steps of each

    def run(self, run: Run) -> ExperimentResult:
        """Learn, then compare."""
        ...


@dataclasses.dataclass(frozen=True)
class ExperimentResult:
    """What a run of an experiment leaves."""

    fits: dict[str, FitResult]  # by name of what was learned
    comparisons: dict[str, Comparison]  # by name of the held-out lives
    cpu_seconds: dict[str, float]  # of learning each, compilation included [s]
    notes: str = ""  # Markdown, under the tables
    curves: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)  # to draw

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
        learned: outer loops by the name of what they learn; each takes the number of a meta-seed.
        num_steps: outer steps of each.
        held_out: lives that nothing was learned on; the first are of the law of training.
        baselines: hand-written agents, by name.
        tune: settings tried for each baseline.
        num_tuning_lives: for each combination of them.
        measure: of a life.
        tune_learned: try the settings for what was learned too.
        afterwards: from the experiment, this run of it and its result, a result with more in it.
    """

    about: str
    learned: Mapping[str, Callable[[int], OuterLoop]]
    num_steps: int
    held_out: Mapping[str, HeldOut]
    baselines: Mapping[str, Agent]
    tune: Grid
    num_tuning_lives: int = 128
    measure: str = "final_return"
    tune_learned: bool = False
    afterwards: Callable[[Experiment, Run, ExperimentResult], ExperimentResult] | None = None

    def run(self, run: Run) -> ExperimentResult:
        """Fit every outer loop, tune every baseline, and compare all on the same new lives."""
        fits, seconds = {}, {}
        for part, make in self.learned.items():
            fits[part], seconds[part] = run.fitted(part, make(run.seed), self.num_steps)
        agents = {**self.baselines, **{part: found.agent for part, found in fits.items()}}
        tune = dict.fromkeys(agents if self.tune_learned else self.baselines, self.tune)
        comparisons = {}
        for part, held_out in self.held_out.items():
            comparisons[part] = compare(
                run.comparison_key,
                agents,
                held_out,
                tune=tune,
                num_tuning_lives=self.num_tuning_lives,
                measure=self.measure,
            )
            run.go_on()
        found = ExperimentResult(fits, comparisons, seconds)
        return found if self.afterwards is None else self.afterwards(self, run, found)


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
