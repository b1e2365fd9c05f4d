"""Rules learned in many lives: by meta-gradients from random weights, and rates by evolution."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax

from jaxrl.agents.optimiser import Optimiser
from jaxrl.core.schedules import LinearSteps
from jaxrl.meta.evolution import Evolution
from jaxrl.meta.experiments.experiment import Experiment, table_agent
from jaxrl.meta.fit import HeldOut, OuterLoop
from jaxrl.meta.gradients import MetaGradient
from jaxrl.meta.lives import num_updates_of
from jaxrl.meta.objectives import PolicyReturn
from jaxrl.meta.shaping import ZScore
from jaxrl.meta.tasks import Horizon, RandomGrids, RandomMazes
from jaxrl.meta.tuned import timed, tuned
from jaxrl.rules import lpg


def learned_policy_gradient() -> Experiment:
    """From random weights, on random grids; larger grids show how far it carries.

    Source: Oh et al. 2020, Discovering reinforcement learning algorithms.
    """
    updates = 150
    steps = float(table_agent().num_envs * table_agent().rollout_length * updates)

    def learn(seed: int) -> OuterLoop:
        rule = lpg(jax.random.key(seed), num_hidden=16, num_predictions=8)
        return MetaGradient(
            tuned(table_agent(rule, normalise_advantages=False)),
            RandomGrids(total_steps=steps),
            objective=PolicyReturn(entropy_weight=0.01),
            optimiser=Optimiser(learning_rate=LinearSteps(5e-3, 5e-4, 280.0), max_grad_norm=1.0),
            num_lives=16,
            num_updates=8,
        )

    larger = RandomGrids(total_steps=steps, height=8, width=8)
    return Experiment(
        about="learned policy gradient, by meta-gradients from random weights, on random grids",
        learned={"lpg": learn},
        num_steps=280,
        held_out={
            "grids of the law of training": HeldOut(RandomGrids(total_steps=steps), steps, 256),
            "larger grids": HeldOut(larger, steps, 64),
        },
        baselines={"a2c": table_agent()},
        tune={
            "optimiser.learning_rate": [0.03, 0.06, 0.1, 0.15, 0.25],
            "rule.entropy_weight": [0.0, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1],
        },
        num_tuning_lives=64,
    )


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
