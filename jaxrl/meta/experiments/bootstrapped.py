"""Bootstrapped meta-learning on the two-colour grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.agents.actor_critic import ActorCriticAgent
from jaxrl.agents.optimiser import Optimiser, RMSProp
from jaxrl.core.types import Array, PyTree
from jaxrl.envs import two_colours
from jaxrl.meta.experiments.self_tuning import LifelongExperiment
from jaxrl.meta.fit import HeldOut
from jaxrl.meta.objectives import Bootstrap, PolicyReturn
from jaxrl.meta.outer_critic import OuterCritic
from jaxrl.meta.tasks import Fixed
from jaxrl.meta.tuned import tuned
from jaxrl.meta.tuned_lives import SelfTuning
from jaxrl.networks import NetworkSettings
from jaxrl.rules import AdvantageActorCritic
from jaxrl.rules.reactive_entropy import reactive_entropy


def bootstrapped_entropy(num_swaps: int = 8, swap_period: float = 100_000.0) -> LifelongExperiment:
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
    per_update = plain.num_envs * plain.rollout_length

    def learners(seed: int) -> Mapping[str, SelfTuning]:
        rule = reactive_entropy(jax.random.key(seed), plain.rule, highest=0.3, lowest=0.1)
        # It starts from a constant that a fixed agent does well with, 0.17, and has its range.
        rule = rule.replace(weights={**rule.weights, "shift": jnp.asarray(-0.62)})
        bootstrapped = SelfTuning(
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
        by_return = bootstrapped.replace(objective=PolicyReturn(last_only=True))
        return {"bootstrapped": bootstrapped, "meta-gradient": by_return}

    def held_out(num_updates: int) -> HeldOut:
        steps = float(num_updates * per_update)
        return HeldOut(Fixed(two_colours(swap_period), steps), steps, num_lives=10)

    return LifelongExperiment(
        about="an entropy weight learned in one life by bootstrapping, on the two-colour grid",
        learners=learners,
        baselines={"fixed weight": plain},
        tune={"fixed weight": {"rule.entropy_weight": [0.1, 0.125, 0.15, 0.175, 0.2, 0.25, 0.3]}},
        held_out=held_out,
        num_steps=round(num_swaps * swap_period) // plain.rollout_length,
        measures=("lifetime_rate",),
        num_tuning_lives=4,
        watch=_entropy_weight,
    )


def _entropy_weight(agent: Any, state: PyTree) -> dict[str, Array]:
    """Under the rewards of the last rollouts."""
    return {"entropy weight": agent.rule.weight(state.rule_state)}
