"""Train jaxrl and measure it; run by `throughput.py`, with the interface of `rejax_driver.py`.

The settings and the network are tabled in `throughput_settings.py`. One seed runs without `vmap`;
sixteen run four at a time through one program, as `jaxrl.sweep(..., lanes=4)` runs them.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from driver_loop import Program, drive, parse_arguments
from throughput_settings import SETTINGS, DQNSettings, PPOSettings, whole_iterations

import jaxrl
from jaxrl import envs
from jaxrl.agents import Optimiser, TargetUpdate
from jaxrl.core import Linear
from jaxrl.networks import NetworkSettings
from jaxrl.operators import BellmanOperator, Scalar
from jaxrl.replay import UniformReplay
from jaxrl.rules import ProximalPolicy

ACTIVATIONS = {"tanh": "tanh", "swish": "silu"}
LANES = 4  # seeds in one call when there are several; divides 16
SCORE_EPISODES = 8  # of each seed, as on the other side
SCORE_EPSILON = 0.005  # of the Q-network, as on the other side


def agent_of(settings: PPOSettings | DQNSettings) -> Any:
    """The agent with exactly these settings."""
    network = NetworkSettings(
        hidden_sizes=settings.hidden_sizes,
        activation=ACTIVATIONS[settings.activation],
        initialiser="lecun",
        flatten_images=True,
    )
    optimiser = Optimiser(learning_rate=settings.learning_rate, max_grad_norm=None, epsilon=1e-8)
    if isinstance(settings, PPOSettings):
        rule = ProximalPolicy(
            lambda_=settings.lambda_,
            clip_epsilon=settings.clip,
            value_clip=settings.clip,
            value_weight=settings.value_weight,
            entropy_weight=settings.entropy_weight,
        )
        return jaxrl.ActorCriticAgent(
            rule=rule,
            network=network,
            optimiser=optimiser,
            discount=settings.discount,
            num_envs=settings.num_envs,
            rollout_length=settings.rollout_length,
            num_epochs=settings.num_epochs,
            num_minibatches=settings.num_minibatches,
        )
    return jaxrl.QNetworkAgent(
        operator=BellmanOperator(Scalar(huber_threshold=float("inf"))),
        network=network,
        optimiser=optimiser,
        replay=UniformReplay(capacity=settings.replay_size),
        target=TargetUpdate(period=settings.num_updates, step_size=1.0 - settings.polyak),
        discount=settings.discount,
        exploration=Linear(
            settings.epsilon_start, settings.epsilon_end, end=settings.exploration_fraction
        ),
        num_envs=settings.num_envs,
        rollout_length=1,
        num_updates=settings.num_updates,
        batch_size=settings.batch_size,
        warmup=settings.fill_steps,
        double=True,
    )


def jaxrl_program(agent_name: str, env_name: str, num_seeds: int, num_steps: int) -> Program:
    """`num_seeds` runs as one program that trains them in turn."""
    settings = SETTINGS[agent_name, env_name]
    num_steps = whole_iterations(settings, num_steps)
    agent, env = agent_of(settings), envs.make(env_name)

    def train(key: jax.Array) -> Any:
        return jaxrl.train(key, agent, env, num_steps=num_steps, num_records=1).state.agent

    lanes = min(LANES, num_seeds)
    program = jax.vmap(train) if lanes > 1 else train
    compiled = {}

    def compile_program() -> None:
        keys = jax.random.split(jax.random.key(0), lanes)
        compiled["run"] = jax.jit(program).lower(keys if lanes > 1 else keys[0]).compile()

    def run(number: int) -> Any:
        keys = jax.random.split(jax.random.key(number), num_seeds)
        groups = keys.reshape(-1, lanes) if lanes > 1 else keys
        return [jax.block_until_ready(compiled["run"](group)) for group in groups]

    def score(states: list[Any]) -> float:
        player = agent.replace(exploration=SCORE_EPSILON) if agent_name == "dqn" else agent
        key = jax.random.key(1_000)
        if lanes > 1:
            states = [jax.tree.map(lambda x, n=n: x[n], s) for s in states for n in range(lanes)]
        returns = [
            jaxrl.evaluate(key, player, env, state, num_episodes=SCORE_EPISODES, explore=True).mean
            for state in states
        ]
        return float(jnp.mean(jnp.asarray(returns)))

    return Program(compile_program, run, score, env_steps=num_seeds * num_steps)


def main() -> None:
    arguments = parse_arguments(__doc__)
    job = (arguments.agent, arguments.env, arguments.num_seeds, arguments.num_steps)
    drive(jaxrl_program(*job), arguments)


if __name__ == "__main__":
    main()
