"""Learned policy gradient by meta-gradients."""

from __future__ import annotations

import jax

from jaxrl.agents.optimiser import Optimiser
from jaxrl.core.schedules import LinearSteps
from jaxrl.meta.experiments.experiment import Experiment, table_agent
from jaxrl.meta.fit import HeldOut, OuterLoop
from jaxrl.meta.gradients import MetaGradient
from jaxrl.meta.objectives import PolicyReturn
from jaxrl.meta.tasks import RandomGrids
from jaxrl.meta.tuned import tuned
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
