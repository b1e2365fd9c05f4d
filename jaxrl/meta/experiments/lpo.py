"""Learnt policy optimisation: a drift by evolution on two small tasks, against PPO's."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxrl.agents.actor_critic import ActorCriticAgent
from jaxrl.agents.optimiser import Optimiser
from jaxrl.envs.control import Acrobot, CartPole
from jaxrl.meta.comparison import compare
from jaxrl.meta.evolution import Evolution
from jaxrl.meta.experiments.experiment import Experiment, ExperimentResult, Run
from jaxrl.meta.lives import HeldOut
from jaxrl.meta.numbers import tuned
from jaxrl.meta.tasks import Task
from jaxrl.networks import NetworkSettings
from jaxrl.rules import drift

RATE = "optimiser.learning_rate"
OLD, OWN, SHARED = "ppo", "lpo", "lpo at ppo's rate"
_NUM_UPDATES = 40  # of every life, in training and after
_LAST_PART = 0.5  # episodes of 500 steps must end within the part of a life that counts as its end


_TRAINED_ON = {
    "cart-pole": CartPole(),
    "cart-pole, long pole": CartPole(pole_half_length=1.5, pole_mass=0.5),
}
_HELD_OUT = {"cart-pole, heavy": CartPole(cart_mass=2.0, pole_mass=1.0), "acrobot": Acrobot()}
_AGENT = ActorCriticAgent(  # PPO with enough steps on each rollout that a drift matters
    network=NetworkSettings(hidden_sizes=(32,)),
    optimiser=Optimiser(learning_rate=0.03),  # PPO's best in the tasks of training
    num_envs=16,
    rollout_length=32,
    num_epochs=4,
    num_minibatches=4,
)
_STEPS = float(_NUM_UPDATES * _AGENT.num_envs * _AGENT.rollout_length)


def _evolution(seed: int) -> Evolution:
    """From PPO's drift and random weights near zero."""
    fixed = (Task(env, _STEPS) for env in _TRAINED_ON.values())
    tasks = [one.sample(jax.random.key(0)) for one in fixed]  # of strong types; none is random
    return Evolution(
        tuned(_AGENT.replace(rule=drift(jax.random.key(seed), num_hidden=16))),
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks),
        num_updates=_NUM_UPDATES,
        shaping=Evolution.shapings["z_score"],
        optimiser=Optimiser(learning_rate=0.03, max_grad_norm=None),
        num_pairs=24,
        num_lives=2,
        common_tasks=True,
        shape_each=True,
        last_part=_LAST_PART,
    )


def _at_shared_rate(experiment: Experiment, run: Run, found: ExperimentResult) -> ExperimentResult:
    """With the learned drift at PPO's rate, in the same lives."""
    learned, comparisons = found.fits[OWN].agent, {}
    for name, swept in found.comparisons.items():
        # One value is no choice: no lives are spent on tuning.
        tune = {RATE: [swept.contenders[OLD].settings[RATE]]}
        key, held_out = run.comparison_key, experiment.held_out[name]
        shared = compare(key, {SHARED: learned}, held_out, tune=tune)
        both = {**swept.contenders, **shared.contenders}
        comparisons[name] = dataclasses.replace(swept, contenders=both)
    notes = f"Held out: {', '.join(_HELD_OUT)}."
    return dataclasses.replace(found, comparisons=comparisons, notes=notes)


def learnt_policy_optimisation() -> Experiment:
    """LPO: two cart-poles to learn on, a third and an acrobot held out.

    The drift is evolved from PPO's, then compared with PPO twice: each at the learning rate that is
    best for itself, and both at the one that is best for PPO.
    """
    return Experiment(
        about="a drift network, by evolution from PPO's drift, on two cart-poles",
        learned={OWN: _evolution},
        num_steps=50,
        held_out={
            name: HeldOut(Task(env, _STEPS), _STEPS, 128, _LAST_PART)
            for name, env in (_HELD_OUT | _TRAINED_ON).items()
        },
        baselines={OLD: _AGENT},
        tune={RATE: (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16)},  # [per update]
        num_tuning_lives=32,
        tune_learned=True,
        afterwards=_at_shared_rate,
    )
