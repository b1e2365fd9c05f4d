"""Learnt policy optimisation: a drift by evolution on two small tasks, against PPO's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxrl.agents.actor_critic import ActorCriticAgent
from jaxrl.agents.optimiser import Optimiser
from jaxrl.core.protocols import Environment
from jaxrl.core.types import Key
from jaxrl.envs.control import Acrobot, CartPole
from jaxrl.meta.compare import Comparison, compare
from jaxrl.meta.evolution import Evolution
from jaxrl.meta.experiments.experiment import ExperimentResult, Run
from jaxrl.meta.fit import HeldOut
from jaxrl.meta.lifetimes import num_updates_of
from jaxrl.meta.shaping import ZScore
from jaxrl.meta.tasks import Fixed, Listed
from jaxrl.meta.tuned import tuned
from jaxrl.networks import NetworkSettings
from jaxrl.rules import drift

RATE = "optimiser.learning_rate"
OLD, OWN, SHARED = "ppo", "lpo", "lpo at ppo's rate"


@dataclasses.dataclass(frozen=True)
class DriftExperiment:
    """A drift is evolved from PPO's, then compared with PPO twice: each at the learning rate that
    is best for itself, and both at the one that is best for PPO.

    Attributes:
        about: one line.
        trained_on: tasks that fitness is measured in.
        held_out: tasks that nothing was learned on.
        learned: names of what is learned.
        num_steps: generations.
        num_updates: of every life, in training and after.
        rates: learning rates tried for either side in every task; [per update].
        num_tuning_lives: for each rate.
        num_lives: of the comparison in every task.
    """

    about: str
    trained_on: Mapping[str, Environment]
    held_out: Mapping[str, Environment]
    learned: tuple[str, ...] = (OWN,)
    num_steps: int = 50
    num_updates: int = 40
    rates: tuple[float, ...] = (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16)
    num_tuning_lives: int = 32
    num_lives: int = 128

    # Episodes of 500 steps must end within the part of a life that counts as its end.
    last_part: float = 0.5

    def run(self, run: Run) -> ExperimentResult:
        """Evolve, then compare in every task."""
        found, seconds = run.fitted(OWN, self.outer(run.seed), self.num_steps)
        comparisons = {
            name: self.compared(run.comparison_key, found.agent, env)
            for name, env in {**self.held_out, **self.trained_on}.items()
        }
        notes = f"Held out: {', '.join(self.held_out)}."
        return ExperimentResult({OWN: found}, comparisons, {OWN: seconds}, notes)

    def outer(self, seed: int) -> Evolution:
        """The evolution of a meta-seed, from PPO's drift and random weights near zero."""
        agent = small_agent().replace(rule=drift(jax.random.key(seed), num_hidden=16))
        tasks = [
            Fixed(env, self._total_steps).sample(jax.random.key(0))  # nothing of it is random
            for env in self.trained_on.values()
        ]
        return Evolution(
            tuned(agent),
            Listed(jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks)),
            num_updates=num_updates_of(agent, self._total_steps),
            shaping=ZScore(),
            optimiser=Optimiser(learning_rate=0.03, max_grad_norm=None),
            num_pairs=24,
            num_lives=2,
            common_tasks=True,
            shape_each=True,
            last_part=self.last_part,
        )

    def compared(self, key: Key, learned: ActorCriticAgent, env: Environment) -> Comparison:
        """PPO, the learned drift, and the learned drift at PPO's rate, in the same lives."""
        held_out = HeldOut(
            Fixed(env, self._total_steps), self._total_steps, self.num_lives, self.last_part
        )
        agents = {OLD: small_agent(), OWN: learned}
        swept = compare(
            key,
            agents,
            held_out,
            tune={RATE: self.rates},
            num_tuning_lives=self.num_tuning_lives,
        )
        rate = swept.contenders[OLD].settings[RATE]
        # One value is no choice: no lives are spent on tuning.
        shared = compare(key, {SHARED: learned}, held_out, tune={RATE: [rate]})
        return dataclasses.replace(swept, contenders={**swept.contenders, **shared.contenders})

    @property
    def _total_steps(self) -> float:
        agent = small_agent()
        return float(self.num_updates * agent.num_envs * agent.rollout_length)


def small_agent() -> ActorCriticAgent:
    """PPO with a small network, and enough steps on each rollout that a drift matters."""
    return ActorCriticAgent(
        network=NetworkSettings(hidden_sizes=(32,)),
        optimiser=Optimiser(learning_rate=0.03),  # PPO's best in the tasks of training
        num_envs=16,
        rollout_length=32,
        num_epochs=4,
        num_minibatches=4,
    )


def learnt_policy_optimisation() -> DriftExperiment:
    """LPO: two cart-poles to learn on, a third and an acrobot held out."""
    return DriftExperiment(
        about="a drift network, by evolution from PPO's drift, on two cart-poles",
        trained_on={
            "cart-pole": CartPole(),
            "cart-pole, long pole": CartPole(pole_half_length=1.5, pole_mass=0.5),
        },
        held_out={
            "cart-pole, heavy": CartPole(cart_mass=2.0, pole_mass=1.0),
            "acrobot": Acrobot(),
        },
    )
