"""Learners that tune themselves in the one life they have; and that short horizons lie."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.agents.actor_critic import ActorCriticAgent
from jaxrl.agents.optimiser import Optimiser, RMSProp
from jaxrl.core.types import Array, PyTree
from jaxrl.envs import TwoColours
from jaxrl.meta.experiments.experiment import Experiment, table_agent
from jaxrl.meta.lives import HeldOut
from jaxrl.meta.numbers import tuned
from jaxrl.meta.objectives import Bootstrap, OuterCritic, PolicyReturn
from jaxrl.meta.self_tuning import SelfTuning
from jaxrl.meta.tasks import RandomMazes, Task
from jaxrl.networks import NetworkSettings
from jaxrl.rules import AdvantageActorCritic
from jaxrl.rules.reactive import reactive_entropy


def short_horizons() -> Experiment:
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

    short = SelfTuning(tuned(agent, names), optimiser=rate(0.4), num_updates=5)
    learners = {
        "5 updates": short,
        "25 updates": short.replace(num_updates=25),
        "5 updates, target of 20": short.replace(objective=Bootstrap(agent, num_further=19)),
        "5 updates, slow": short.replace(optimiser=rate(0.08)),
    }
    num_updates = 150
    steps = float(num_updates * agent.num_envs * agent.rollout_length)
    return Experiment(
        about="an actor-critic that tunes four of its own numbers, with short and with long sight",
        learned={name: lambda seed, one=one: one for name, one in learners.items()},
        num_steps=num_updates,
        held_out={"mazes": HeldOut(RandomMazes(steps), steps, num_lives=384)},
        baselines={"untuned": agent},
        tune={},
        num_tuning_lives=32,
        measures=("lifetime_rate", "final_rate", "lifetime_return", "final_return"),
    )


def bootstrapped_entropy(num_swaps: int = 8, swap_period: float = 100_000.0) -> Experiment:
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

    def bootstrapped(seed: int) -> SelfTuning:
        rule = reactive_entropy(jax.random.key(seed), plain.rule, highest=0.3, lowest=0.1)
        # It starts from a constant that a fixed agent does well with, 0.17, and has its range.
        rule = rule.replace(weights={**rule.weights, "shift": jnp.asarray(-0.62)})
        return SelfTuning(
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

    def by_return(seed: int) -> SelfTuning:
        return bootstrapped(seed).replace(objective=PolicyReturn(last_only=True))

    num_updates = round(num_swaps * swap_period) // plain.rollout_length
    steps = float(num_updates * plain.num_envs * plain.rollout_length)
    tasks = Task(TwoColours(swap_period), steps)
    return Experiment(
        about="an entropy weight learned in one life by bootstrapping, on the two-colour grid",
        learned={"bootstrapped": bootstrapped, "meta-gradient": by_return},
        num_steps=num_updates,
        held_out={"two colours": HeldOut(tasks, steps, num_lives=10)},
        baselines={"fixed weight": plain},
        tune={"rule.entropy_weight": [0.1, 0.125, 0.15, 0.175, 0.2, 0.25, 0.3]},
        num_tuning_lives=4,
        measures=("lifetime_rate",),
        watch=_entropy_weight,
    )


def _entropy_weight(agent: Any, state: PyTree) -> dict[str, Array]:
    """Under the rewards of the last rollouts."""
    return {"entropy weight": agent.rule.weight(state.rule_state)}
