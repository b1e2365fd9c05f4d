"""Rules learned in many lives, on levels drawn or chosen, and rates by evolution."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxrl.agents.optimiser import Optimiser
from jaxrl.core.schedules import LinearSteps
from jaxrl.envs.grid_levels import DugWalls
from jaxrl.envs.wrappers import LogUniform
from jaxrl.meta.evolution import Evolution
from jaxrl.meta.experiments.experiment import Experiment, ExperimentResult, Run, table_agent
from jaxrl.meta.fitting import OuterLoop
from jaxrl.meta.gradients import MetaGradient
from jaxrl.meta.levels import Curated, LevelReplay
from jaxrl.meta.lives import HeldOut, num_updates_of
from jaxrl.meta.numbers import tuned
from jaxrl.meta.objectives import PolicyReturn
from jaxrl.meta.tasks import RandomGrids, RandomMazes
from jaxrl.rules import AdvantageActorCritic, lpg

CURATED, UNIFORM = "curated levels", "uniform levels"
_NUM_STEPS, _NUM_UPDATES, _TIME_LIMIT = 160, 100, 50


def learned_policy_gradient() -> Experiment:
    """From random weights, on random grids; larger grids show how far it carries.

    Source: Oh et al. 2020, Discovering reinforcement learning algorithms.
    """
    grids = RandomGrids(steps := _steps(150))

    def learn(seed: int) -> OuterLoop:
        outer = _by_gradients(seed, 16, grids, LinearSteps(5e-3, 5e-4, 280.0))
        return outer.replace(num_lives=16, num_updates=8)

    return Experiment(
        about="learned policy gradient, by meta-gradients from random weights, on random grids",
        learned={"lpg": learn},
        num_steps=280,
        held_out={
            "grids of the law of training": HeldOut(grids, steps, 256),
            "larger grids": HeldOut(grids.replace(height=8, width=8), steps, 64),
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
    tasks = RandomMazes(LogUniform(shortest, longest), time_limit=60.0)
    names = ["optimiser.learning_rate", "rule.entropy_weight"]
    num_steps = 160
    decay = LinearSteps(0.15, 0.015, float(num_steps))

    def learn(timed: bool, seed: int) -> OuterLoop:
        return Evolution(
            tuned(agent, names, timed),
            tasks,
            num_updates=num_updates_of(agent, longest),
            shaping=Evolution.shapings["z_score"],
            optimiser=Optimiser(learning_rate=decay, max_grad_norm=None),
            sigma=0.3,
            fitness="final_rate",
        )

    return Experiment(
        about="rates that know their lifetime, by evolution on mazes, in lives of many lengths",
        learned={"timed": partial(learn, True), "constants": partial(learn, False)},
        num_steps=num_steps,
        held_out={"mazes and lives of the law of training": HeldOut(tasks, longest, 2048)},
        baselines={"swept constants": agent},
        tune={
            "optimiser.learning_rate": [0.06, 0.1, 0.15, 0.2, 0.3],
            "rule.entropy_weight": [0.0003, 0.001, 0.003, 0.01, 0.03],
        },
        num_tuning_lives=1024,
        measures=("final_rate",),
    )


def _noted(experiment: Experiment, run: Run, found: ExperimentResult) -> ExperimentResult:
    """With notes: what curation was worth, and whether critics learned."""
    notes = []
    for name, comparison in found.comparisons.items():
        gain = comparison.difference(CURATED, UNIFORM)
        worth = f"{gain.value:.3f} [{gain.low:.3f}, {gain.high:.3f}]"
        notes.append(f"* {name}: {CURATED} less {UNIFORM}, paired: {worth}.")
    outer = _uniform(run.seed)
    step = jax.jit(outer.step)  # one program for both arms
    for name, one in found.fits.items():
        if not one.metrics:  # gone on with where all steps were done already
            continue
        loss = one.metrics["outer_critic_loss"]
        part = max(len(loss) // 10, 1)
        state = one.state.outer if name == CURATED else one.state
        keys = jax.random.split(state.key, outer.num_lives)
        fresh = state.replace(memory=jax.vmap(outer.critic.init)(keys, state.lives.env))
        errors = [float(step(start)[1]["outer_critic_loss"]) for start in (fresh, state)]
        notes.append(
            f"* {name}: outer critics' loss {np.mean(loss[:part]):.4f} in the first {part} "
            f"outer steps, {np.mean(loss[-part:]):.4f} in the last {part}; on the data after "
            f"the last one {errors[0]:.4f} for critics without training, {errors[1]:.4f} for "
            "the lives' own."
        )
        if "regret" in one.metrics:
            regret = np.nanmean(one.metrics["regret"])
            notes.append(f"* Mean regret of the levels that were scored: {regret:.3f}.")
    return dataclasses.replace(found, notes="\n".join(notes))


def _by_gradients(seed: int, num_hidden: int, tasks: Any, decay: LinearSteps) -> MetaGradient:
    """Meta-gradients of a learned policy gradient from random weights."""
    rule = lpg(jax.random.key(seed), num_hidden=num_hidden, num_predictions=8)
    return MetaGradient(
        tuned(table_agent(rule, normalise_advantages=False)),
        tasks,
        objective=PolicyReturn(entropy_weight=0.01),
        optimiser=Optimiser(learning_rate=decay, max_grad_norm=1.0),
    )


def _uniform(seed: int) -> MetaGradient:
    outer = _by_gradients(seed, 32, _mazes(7), LinearSteps(3e-3, 3e-4, float(_NUM_STEPS)))
    return outer.replace(num_lives=24, num_updates=10)


def _curated(seed: int) -> Curated:
    antagonist = table_agent(
        AdvantageActorCritic(entropy_weight=0.003),
        optimiser=Optimiser(learning_rate=0.06, max_grad_norm=None),
    )
    return Curated(
        _uniform(seed),
        antagonist,
        LevelReplay(temperature=1.0, num_levels=64),
        max_steps=_TIME_LIMIT,
    )


def _mazes(size: int) -> RandomMazes:
    levels = DugWalls(loop_prob=0.3, height=size, width=size)
    return RandomMazes(_steps(_NUM_UPDATES), levels, float(_TIME_LIMIT))


def _steps(num_updates: int) -> float:
    return float(table_agent().num_envs * table_agent().rollout_length * num_updates)


def curated_levels() -> Experiment:
    """GROOVE: one rule learned twice, alike but for where levels come from, by regret or at random.

    Both arms live on mazes of one size; larger ones are held out too.
    """
    steps = _steps(_NUM_UPDATES)
    held_out = {"mazes of the law of training": _mazes(7), "larger mazes": _mazes(9)}
    return Experiment(
        about="learned policy gradient on mazes: levels replayed by regret, or drawn at random",
        learned={CURATED: _curated, UNIFORM: _uniform},
        num_steps=_NUM_STEPS,
        held_out={name: HeldOut(mazes, steps, 256) for name, mazes in held_out.items()},
        baselines={"a2c": table_agent()},
        tune={
            "optimiser.learning_rate": [0.02, 0.04, 0.06, 0.1, 0.2],
            "rule.entropy_weight": [0.0, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1],
        },
        num_tuning_lives=32,
        afterwards=_noted,
    )
