"""Rates that know how long they have, by evolution."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from jaxrl.agents.optimiser import Optimiser
from jaxrl.core.schedules import LinearSteps
from jaxrl.meta.evolution import Evolution
from jaxrl.meta.experiments.experiment import Experiment, table_agent
from jaxrl.meta.fit import HeldOut, OuterLoop
from jaxrl.meta.lifetimes import num_updates_of
from jaxrl.meta.shaping import ZScore
from jaxrl.meta.tasks import Horizon, RandomMazes
from jaxrl.meta.tuned import timed, tuned


def timed_rates() -> Experiment:
    """Lives of many lengths; the control searches constants in the same way.

    Source: Jackson et al. 2024, Discovering temporally-aware reinforcement learning algorithms.
    """
    agent = table_agent(num_envs=8)
    per_update = agent.num_envs * agent.rollout_length
    shortest, longest = 4.0 * per_update, 100.0 * per_update
    # The best constant rate of lives of 20 updates is three times that of lives of 100.
    tasks = RandomMazes(Horizon(shortest, longest), time_limit=60.0)
    names = ["optimiser.learning_rate", "rule.entropy_weight"]
    num_steps = 160

    def learn(build: Callable, seed: int) -> OuterLoop:
        return Evolution(
            build(agent, names),
            tasks,
            num_updates=num_updates_of(agent, longest),
            shaping=ZScore(),
            optimiser=Optimiser(
                learning_rate=LinearSteps(0.15, 0.015, float(num_steps)), max_grad_norm=None
            ),
            sigma=0.3,
            fitness="final_rate",
        )

    return Experiment(
        about="rates that know their lifetime, by evolution on mazes, in lives of many lengths",
        learned={"timed": partial(learn, timed), "constants": partial(learn, tuned)},
        num_steps=num_steps,
        held_out={"mazes and lives of the law of training": HeldOut(tasks, longest, 2048)},
        baselines={"swept constants": agent},
        tune={
            "optimiser.learning_rate": [0.06, 0.1, 0.15, 0.2, 0.3],
            "rule.entropy_weight": [0.0003, 0.001, 0.003, 0.01, 0.03],
        },
        num_tuning_lives=1024,
        measure="final_rate",
    )
